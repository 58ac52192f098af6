"""The Drift tab."""
