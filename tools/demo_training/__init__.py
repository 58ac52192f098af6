"""Training of the demo's models; `tools/train_demo.py` is its command line."""
