"""What a person writes at a run: tags to find it by, and a note. In `notes.json` of the run's folder; nothing that trains reads it."""

from dataclasses import dataclass
from typing import Any

from .. import platform_calls
from .errors import RunError
from .folder import RunDir
from .json_files import dump, read_json

FILE = "notes.json"
MOST_TAGS, LONGEST_TAG, LONGEST_NOTE = 12, 32, 10_000


@dataclass(frozen=True)
class Notes:
    """`tags`: at most 12, each of 1 to 32 characters without a comma; `note`: at most 10,000 characters."""

    tags: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.tags) > MOST_TAGS:
            raise RunError(f"{len(self.tags)} tags: a run has at most {MOST_TAGS}; take some away.")
        for tag in self.tags:
            if not tag or len(tag) > LONGEST_TAG or "," in tag or not tag.isprintable():
                raise RunError(f"The tag {tag[:60]!r} has to have 1 to {LONGEST_TAG} characters in one line, without a comma. Write it anew.")  # fmt: skip
        if len(self.note) > LONGEST_NOTE:
            raise RunError(f"The note has {len(self.note)} characters; at most {LONGEST_NOTE} are kept.")


def tags_of(words: str) -> tuple[str, ...]:
    """The tags in a line such as `portrait, try 3`: each once, in order."""
    return tuple(dict.fromkeys(tag for each in words.split(",") if (tag := each.strip())))


def read_notes(run: RunDir) -> Notes:
    """The notes of a run; empty ones where it has none. Raises RunError where the file is damaged."""
    data: Any = read_json(run.path / FILE)
    if data is None:
        return Notes()
    tags, note = (data.get("tags"), data.get("note")) if isinstance(data, dict) else (None, None)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags) or not isinstance(note, str):
        raise RunError(f"{run.path / FILE} holds no notes: it must be an object with tags, a list of texts, and note, a text. Remove it to start anew.")  # fmt: skip
    return Notes(tuple(tags), note)


def write_notes(run: RunDir, notes: Notes) -> None:
    """Keep the notes of a run, alive or not."""
    data = {"tags": list(notes.tags), "note": notes.note}
    platform_calls.write_atomically(run.path / FILE, (dump(data, indent=2) + "\n").encode())
