"""The face inside ComfyUI."""
