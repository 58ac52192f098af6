"""Drift: measured, told and drawn."""
