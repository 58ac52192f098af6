"""A graph carried out: order, cache, runs that are followed."""
