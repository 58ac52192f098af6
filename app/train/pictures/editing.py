"""What a person does with a set of pictures: save captions, add, remove, bring back. The rules of reading and writing are in `captions.py`."""

from dataclasses import dataclass, field
from pathlib import Path

from ....core.config import ConfigError, DataConfig, config_from_flat
from ....core.data import scan_thing
from ....core.data.scanning import located
from ....core.findings import printable
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.store import RunStore
from .captions import DroppedSets, Edits, Kind, Refused, is_picture_name, save_captions
from .many import ManyEdit, Proposal, proposed
from .set_view import count_of, folder_of, known_caption_names, known_captions, picture_paths, trigger_of
from .tool import Marks, save_marks


@dataclass
class Answer:
    """The result of an edit. `folder`: the one to show from now on, None = the same; `copied`: it is a copy of the old one."""

    folder: Path | None = None
    copied: bool = False
    infos: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: dict[str, dict[str, str]] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)


class SetEditor:
    """Edits the set of pictures that the data section names. All methods raise Refused for what may not be done, and OSError."""

    def __init__(self, sets: DroppedSets, store: RunStore) -> None:
        self.sets, self.store = sets, store

    def save(self, data: DataConfig, edits: Edits) -> Answer:
        """Write the unsaved captions of the chosen folder."""
        folder, kind = self._editable(data, edits)
        if not edits.drafts:
            return Answer(infos=["No caption was changed."])
        target, copied = self._for_edit(folder)
        written = save_captions(target, edits.drafts, "no file" if kind == "dropped" else "empty file")
        answer = Answer(folder=target if copied else None, copied=copied, changed=written.changed)
        answer.saved = {name: {"sent": edits.drafts[name].text, "now": now} for name, now in written.saved.items()}
        if written.saved:
            answer.infos.append(
                f"{count_of(len(written.saved), 'caption')} saved beside the pictures in {printable(str(target))}.{self._copied(copied, folder)}"
            )
            runs = self._runs_with(target) if kind == "own" else []
            if runs:
                answer.infos.append(
                    f"{_and(runs)} was made with the old captions and cannot be resumed with the new ones."
                )
        if written.failed:
            some = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(written.failed.items())[:3])
            more = f"; and {len(written.failed) - 3} more" if len(written.failed) > 3 else ""
            answer.warnings.append(
                f"{count_of(len(written.failed), 'caption')} not saved, and kept here as typed. {some}{more}."
            )
        return answer

    def add(self, data: DataConfig, paths: list[Path]) -> Answer:
        """Copy dropped files into the chosen set, or into a new one where the chosen folder is not ours."""
        folder = folder_of(data)
        ours = folder is not None and self.sets.kind(folder) == "dropped" and folder.is_dir()
        copied, into = False, None
        if ours:
            into, copied = self._for_edit(folder)
        added = self.sets.add(paths, into)
        answer = Answer(folder=added.folder if not ours or copied else None, copied=copied)
        if added.refused:
            answer.warnings.append(
                f"Left out: {', '.join(map(printable, added.refused[:5]))}{' and more' if len(added.refused) > 5 else ''}."
            )
        if added.twice:
            answer.infos.append(
                f"Already there: {', '.join(map(printable, added.twice[:5]))}{' and more' if len(added.twice) > 5 else ''}."
            )
        if ours:
            masks = f" and {count_of(added.masks, 'mask')}" if added.masks else ""
            answer.infos.append(f"{count_of(added.pictures, 'picture')}{masks} added.{self._copied(copied, folder)}")
        elif added.folder is not None and folder is not None and self.sets.kind(folder) == "own":
            answer.infos.append(
                f"The dropped pictures are a set of their own now; your folder {printable(str(folder))} is as it was."
            )
        return answer

    def remove(self, data: DataConfig, name: str) -> Answer:
        """Take a picture out of a dropped set; from any other folder nothing is ever removed."""
        folder = folder_of(data)
        if folder is None or self.sets.kind(folder) != "dropped":
            raise Refused("Only pictures that were dropped here are removed here. Remove it in its own folder.")
        target, copied = self._for_edit(folder)
        self.sets.remove(target, name)
        return Answer(
            folder=target if copied else None,
            copied=copied,
            infos=[self._copied(True, folder).strip()] if copied else [],
        )

    def bring_back(self, data: DataConfig) -> Answer:
        """Undo the last removal."""
        folder = folder_of(data)
        if folder is None:
            raise Refused("No picture was removed from this set.")
        return Answer(infos=[f"{printable(self.sets.bring_back(folder))} is back."])

    def many(self, data: DataConfig, edits: Edits, edit: ManyEdit) -> Proposal:
        """What an edit makes of the captions of all pages, saved or typed. Raises Refused where none may be edited."""
        folder, _ = self._editable(data, edits)
        return proposed(
            edit,
            known_captions(data, edits, picture_paths(scan_thing(data), folder), known_caption_names(folder)),
            trigger_of(data),
        )

    def mark(self, data: DataConfig, marks: Marks) -> Answer:
        """Save the crop and the mask of a picture."""
        folder = folder_of(data)
        if folder is None or marks.folder != str(folder):
            raise Refused("Another folder was chosen meanwhile. Choose it again, then open the picture once more.")
        if self.sets.kind(folder) == "built-in":
            raise Refused("These pictures are built in and cannot be edited. Drop your own to edit.")
        if not is_picture_name(marks.name) or not (folder / marks.name).is_file():
            raise Refused(f"There is no picture {printable(marks.name)} in this folder any more.")
        target, copied = self._for_edit(folder)
        save_marks(target, marks)
        answer = Answer(folder=target if copied else None, copied=copied)
        answer.infos.append(
            f"Saved beside {printable(marks.name)}; the picture is as it was.{self._copied(copied, folder)}"
        )
        runs = self._runs_with(target) if self.sets.kind(folder) == "own" else []
        if runs:
            answer.infos.append(f"{_and(runs)} was made without it and cannot be resumed with it.")
        return answer

    def for_captions(self, data: DataConfig, edits: Edits) -> tuple[Path, bool, str]:
        """(the folder whose captions a model may write, whether it is a new copy, what to say about that). Raises Refused."""
        folder, kind = self._editable(data, edits)
        target, copied = self._for_edit(folder)
        runs = self._runs_with(target) if kind == "own" else []
        words = f"{_and(runs)} was made with these captions and cannot be resumed once they change." if runs else ""
        return target, copied, self._copied(True, folder).strip() if copied else words

    def _editable(self, data: DataConfig, edits: Edits) -> tuple[Path, Kind]:
        """The chosen folder, where its captions may be written. Raises Refused."""
        folder = folder_of(data)
        if folder is None or edits.folder != str(folder):
            raise Refused(
                "Another folder was chosen meanwhile. Open its pictures, then save again; what you typed is kept with its folder."
            )
        kind = self.sets.kind(folder)
        if kind == "built-in":
            raise Refused("These pictures are built in and cannot be edited. Drop your own to edit.")
        if data.caption_strategy != "textfile":
            raise Refused(
                "Captions do not come from text files now: set the caption strategy to textfile first (All settings, Pictures)."
            )
        return folder, kind

    def _for_edit(self, folder: Path) -> tuple[Path, bool]:
        """(the folder to change, whether it is a new copy): a set that a run was made with stays as it is."""
        if self.sets.kind(folder) == "dropped" and folder.is_dir() and self._runs_with(folder):
            return self.sets.copy(folder), True
        return folder, False

    def _copied(self, copied: bool, folder: Path) -> str:
        return (
            f" It is a copy of the set, because {_and(self._runs_with(folder))} was made with the old one."
            if copied
            else ""
        )

    def _runs_with(self, folder: Path) -> list[str]:
        """Names of the runs, those in the trash too, that were made with the pictures of `folder`: of a thing or of its class."""
        found = []
        for run in (*self.store.list(), *self.store.trash()):
            try:
                things = config_from_flat(RunDir(run.path).read_config()).data.things
            except (RunError, ConfigError, OSError):
                continue  # the Runs tab shows what is wrong with it
            used = [
                each for thing in things for each in (thing.instance_data_dir, thing.class_data_dir) if each is not None
            ]
            if any(located(each).resolve() == folder.resolve() for each in used):
                found.append(run.name)
        return found


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
