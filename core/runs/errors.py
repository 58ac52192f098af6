"""What is raised when something cannot be done with a run."""

from ..errors import Trouble


class RunError(Trouble):
    """A run cannot be created, started, commanded or deleted; the text says why and what to do."""


class StorageError(RunError):
    """The runs folder cannot be made, read or written; the message says why and what to do. Runs can often still be listed."""
