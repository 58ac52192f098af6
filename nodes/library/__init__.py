"""All nodes, by group. Importing this fills `declaration.NODES`, in the order of the menu; no torch."""

from . import setup, data, rollout, training, study, looking, notes  # noqa: I001 - the order is the menu's

__all__ = ["data", "looking", "notes", "rollout", "setup", "study", "training"]
