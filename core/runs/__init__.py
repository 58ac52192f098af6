"""A run on disk: its files, the store of all runs, commands, journal, log, checkpoints."""
