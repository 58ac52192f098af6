"""Settings of other tools, brought in."""
