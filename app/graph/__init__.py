"""The Graph tab."""
