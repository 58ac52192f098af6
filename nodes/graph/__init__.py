"""A graph as data: declarations, values, JSON, validation, and from a run's settings to a graph and back."""
