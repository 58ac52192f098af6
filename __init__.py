"""Rollout Studio: configure a DreamBooth fine-tune, see its drift, train on the model's own output."""

__version__ = "0.1.0"
