"""A small browser of folders (and of models in one file) on this computer, for a model or for pictures. Only names are sent to the page; nothing is opened or served."""

import os
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from ...core.data.listing import count_pictures
from ...core.families.index_files import index_file
from ...core.names import is_model_file
from ...core.platform_calls import WINDOWS
from . import notices
from .panel import QUICK
from .translation import with_words
from .words import is_text

Want = Literal["model", "pictures"]

_MOST_SHOWN = 400
_MOST_MARKED = 400
_MOST_COUNTED = 999
_SCRIPT = (Path(__file__).parents[1] / "js" / "folders.js").read_text(encoding="utf-8")


def listing(folder: Path, want: Want, places: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """What the page shows of a folder: its sub-folders by name, each with a mark where it holds what is wanted; for a model also files.

    Returns:
        path, parent (None at the top), folders [{name, path, mark, fits, file}] (`file`: it is one itself), fits and mark of the folder itself, note, places.

    Never raises: a folder that cannot be read is named in `note`, with the way up still open.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    out: dict[str, Any] = {
        "want": want, "path": str(folder), "parent": None if folder.parent == folder else str(folder.parent), "folders": [], "note": "",
        "places": [{"name": name, "path": path} for name, path in (places if places is not None else [])] + _drives(),
    }  # fmt: skip
    out["mark"], out["fits"] = mark(folder, want)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        return {**out, "note": f"This folder cannot be read ({error.strerror}). Go up, or choose another place."}
    names = [name for name, is_dir in found if is_dir]
    tellable = sorted((name for name in names if is_text(name)), key=lambda name: (name.casefold(), name))
    for name in tellable[:_MOST_SHOWN]:
        marked, fits = mark(folder / name, want) if len(out["folders"]) < _MOST_MARKED else ("", False)
        out["folders"].append({"name": name, "path": str(folder / name), "mark": marked, "fits": fits, "file": False})
    files = sorted(name for name, is_dir in found if not is_dir and is_model_file(name) and is_text(name))
    for name in files[:_MOST_SHOWN] if want == "model" and not out["fits"] else ():
        out["folders"].append({"name": name, "path": str(folder / name), "mark": "a file", "fits": True, "file": True})
    notes = []
    if len(tellable) > _MOST_SHOWN:
        notes.append(f"{len(tellable) - _MOST_SHOWN} more folders are not listed: type the path into the field above.")
    if len(names) > len(tellable):
        notes.append(f"{len(names) - len(tellable)} with unreadable names are left out.")
    if not out["folders"] and not out["fits"]:
        notes.append("There are no folders in here.")
    return {**out, "note": " ".join(notes)}


def mark(folder: Path, want: Want) -> tuple[str, bool]:
    """(what a folder holds, in a few words, or ""; whether it can be chosen)."""
    if want == "pictures":
        count = count_pictures(folder, _MOST_COUNTED)
        return (
            f"{count}{'+' if count == _MOST_COUNTED else ''} picture{'' if count == 1 else 's'}" if count else ""
        ), count > 0
    try:
        if index_file(folder).is_file():
            return "model", True
        with os.scandir(folder) as entries:
            files = [entry.name for entry in entries if is_model_file(entry.name)]
    except OSError:
        return "", False  # it is only marked; opening it says why
    if not files:
        return "", False
    one = f"a file ({files[0] if is_text(files[0]) else '.safetensors'})"
    return (one if len(files) == 1 else f"{len(files)} files") + ": open the folder to choose one", False


def _drives() -> list[dict[str, str]]:
    if not WINDOWS:
        return []
    return [
        {"name": f"{letter}:", "path": f"{letter}:\\"}
        for letter in string.ascii_uppercase
        if Path(f"{letter}:\\").exists()
    ]


class FolderBrowser:
    """A "Browse" button and the list that it opens, in the current layout.

    Args:
        want: what is looked for; it decides the marks.
        elem_id: of the list; the button gets `<elem_id>-open`.
        places: shortcuts beside the home folder, (name, path), asked for whenever the list is drawn.
    """

    def __init__(self, want: Want, elem_id: str, places: Callable[[], list[tuple[str, str]]] = list) -> None:
        self.want, self.elem_id, self.places = want, elem_id, places
        self.button = gr.Button("Browse folders", size="sm", elem_id=f"{elem_id}-open", elem_classes="rs-browse")
        self.box: gr.HTML | None = None

    def place(self) -> None:
        """Put the list here, in the current layout; it shows when the button is pressed."""
        self.box = gr.HTML(
            value="", html_template='<div class="rs-folders"></div>', js_on_load=with_words(_SCRIPT), apply_default_css=False, listing=None,
            elem_id=self.elem_id, elem_classes="rs-folders-box",
        )  # fmt: skip

    def _shown(self, folder: Path) -> Any:
        return gr.HTML(listing=listing(folder, self.want, [("Home", str(Path.home())), *self.places()]))

    def wire(
        self, field: Any, inputs: Any, outputs: list[Any], chosen: Callable[[Mapping[Any, Any], str], dict[Any, Any]]
    ) -> None:
        """Open at what `field` holds (else at home); `chosen(given, path)` answers a choice with updates of `outputs`."""

        def start(given: Mapping[Any, Any]) -> Any:
            asked = Path(given[field]).expanduser() if isinstance(given[field], str) and given[field].strip() else None
            if asked is not None and asked.is_file():
                asked = asked.parent
            if asked is None or not asked.is_absolute() or not asked.is_dir():
                asked = Path.home()
            return self._shown(asked)

        def go(event: gr.EventData) -> Any:
            path = _path_of(event)
            return gr.skip() if path is None else self._shown(path)

        def use(given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            path = _path_of(event)
            if path is None or not (
                path.is_dir() or (path.is_file() and self.want == "model" and is_model_file(path.name))
            ):
                notices.warn("That folder or file is not there any more.")
                return {self.box: gr.skip()}
            return {**chosen(given, str(path)), self.box: gr.HTML(listing=None)}

        self.button.click(start, inputs, self.box, **QUICK)
        self.box.select(go, None, self.box, **QUICK)
        self.box.submit(use, inputs, [*outputs, self.box], **QUICK)
        self.box.clear(lambda: gr.HTML(listing=None), None, self.box, **QUICK)


def _path_of(event: gr.EventData) -> Path | None:
    """The path that an event names: absolute, or None."""
    sent = event._data.get("folder") if isinstance(event._data, dict) else None
    if not isinstance(sent, str) or "\0" in sent or not Path(sent).is_absolute():
        return None
    return Path(sent)
