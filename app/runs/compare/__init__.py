"""Runs side by side on the same axes, by training steps or by seconds, and the controls without which a comparison says little."""
