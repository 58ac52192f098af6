"""What is raised when something cannot be done with a run."""

from ..errors import Trouble


class RunError(Trouble):
    """A run cannot be created, started, commanded or deleted; the message gives the reason and the remedy."""


class StorageError(RunError):
    """The runs folder cannot be made, read or written; the message gives the reason and the remedy. Runs can often still be listed."""
