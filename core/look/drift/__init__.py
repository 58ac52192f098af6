"""Drift: measured, described and drawn."""
