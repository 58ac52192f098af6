"""The captions of a folder's pictures: from text files beside them, their names or a prompt, by `caption_strategy`."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..findings import Finding
from ..sizes import size
from . import captions
from .listing import Listing


class Captioning:
    """Which caption each picture of a folder gets, and what is wrong with the caption files."""

    def __init__(
        self, listing: Listing, strategy: str, prompt: str | None, prompt_option: str, trigger_word: str | None
    ):
        self.strategy, self.prompt_option, self.trigger_word = strategy, prompt_option, trigger_word
        self.prompt = captions.clean(prompt) if prompt is not None else ""
        self.texts = {path.stem: path for path in listing.texts}
        self.folded = {path.stem.casefold(): path for path in listing.texts}
        self.pictures = {path.name.casefold() for path in listing.pictures + listing.other_pictures}
        self.used: dict[Path, list[str]] = defaultdict(list)
        self.problems: list[Finding] = []
        self.with_prompt: list[str] = []
        self.triggered = 0
        self.given = 0

    def _file(self, path: Path) -> Path | None:
        return self.texts.get(path.stem, self.folded.get(path.stem.casefold()))

    def skip(self, path: Path) -> None:
        """The picture is left out; its caption file is then no orphan."""
        file = self._file(path)
        if file is not None:
            self.used[file].append(path.name)

    def of(self, path: Path) -> str | None:
        """The picture's caption; None where it has none, which is then among the findings."""
        caption, lacking = "", "no caption is given"
        if self.strategy == "filename":
            caption, lacking = captions.from_name(path), "its name gives no caption"
        elif self.strategy == "textfile":
            caption, lacking = self._read(path)
        if not caption:
            caption = self.prompt
            if caption and self.strategy != "instanceprompt":
                self.with_prompt.append(path.name)
        if not caption:
            self.problems.append(
                Finding(
                    "error",
                    str(path),
                    f"{lacking}, and {self.prompt_option} is not set.",
                    f"Write {path.stem}.txt beside it, or set {self.prompt_option} for all pictures without one.",
                    "caption-missing",
                )
            )
            return None
        self.given += 1
        if self.trigger_word is not None and captions.clean(self.trigger_word):
            full = captions.with_trigger(caption, self.trigger_word)
            self.triggered += full != caption
            caption = full
        return caption

    def _read(self, path: Path) -> tuple[str, str]:
        """(caption or "", why there is none)."""
        file = self._file(path)
        if file is None:
            return "", f"it has no caption file {path.stem}.txt"
        self.used[file].append(path.name)
        try:
            with file.open("rb") as stream:
                data = stream.read(captions.MAX_BYTES + 1)
            if len(data) > captions.MAX_BYTES:  # give the true size without reading it all
                raise captions.BadCaption(
                    f"it has {size(file.stat().st_size)}; a caption has at most {size(captions.MAX_BYTES)}"
                )
            caption, remark = captions.decode(data)
        except OSError as error:
            return "", self._bad(file, f"it cannot be read ({error.strerror})")
        except captions.BadCaption as bad:
            return "", self._bad(file, str(bad))
        if remark:
            self.problems.append(Finding("warning", str(file), f"{remark}.", "Save it as UTF-8.", "caption-encoding"))
        if not caption:
            self.problems.append(
                Finding(
                    "warning",
                    str(file),
                    "the caption file is empty.",
                    "Write the caption into it, or delete it.",
                    "caption-empty",
                )
            )
            return "", f"its caption file {file.name} is empty"
        return caption, ""

    def _bad(self, file: Path, reason: str) -> str:
        self.problems.append(
            Finding("warning", str(file), f"not used as a caption: {reason}.", "Save it as UTF-8 text.", "caption-bad")
        )
        return f"its caption file {file.name} cannot be used"

    def findings(self) -> list[Finding]:
        found = list(self.problems)
        if self.strategy == "textfile":
            found += self._orphans()
            for file, names in self.used.items():
                if len(names) > 1:
                    found.append(
                        Finding(
                            "warning",
                            str(file),
                            f"is the caption of {len(names)} pictures: {', '.join(names)}.",
                            "Rename the pictures so that each has its own caption, or remove the copies.",
                            "duplicate-stem",
                        )
                    )
        if self.with_prompt:
            count = len(self.with_prompt)
            found.append(
                Finding(
                    "note",
                    self.prompt_option,
                    f"{count} picture{'s' if count > 1 else ''} without a caption of {'their' if count > 1 else 'its'} own use "
                    f'"{self.prompt}".',
                    "",
                    "caption-default",
                )
            )
        if self.triggered:
            found.append(
                Finding(
                    "note",
                    "trigger_word",
                    f'"{captions.clean(self.trigger_word)}" was put in front of {self.triggered} of {self.given} captions that lack it.',
                    "",
                    "trigger-inserted",
                )
            )
        return found

    def _orphans(self) -> Iterable[Finding]:
        for file in self.texts.values():
            if file in self.used:
                continue
            if file.stem.casefold() in self.pictures:  # photo.jpg.txt
                message = f"is the caption of no picture: captions are named {Path(file.stem).stem}.txt, without the picture's ending."
                yield Finding(
                    "warning", str(file), message, f"Rename it to {Path(file.stem).stem}.txt.", "caption-orphan"
                )
            else:
                yield Finding(
                    "warning",
                    str(file),
                    "a caption without a picture.",
                    f"Add the picture {file.stem}.png (or .jpg ...), or delete the caption.",
                    "caption-orphan",
                )
