"""A picture that was drawn here, dropped on Try it: its settings come back. It is read on this machine; only its texts are used."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.errors import Trouble
from ....core.look.picture_settings import Part, PictureSettings, read_settings
from ....core.runs.rows import RunSummary
from ...parts.watch import Watch
from ...parts.words import text
from .companions import OTHER
from .weights import LIVE, lora_files, weights_choices


@dataclass(frozen=True)
class Restored:
    """What a picture says, as the panel's fields take it. `weights` None: the choice stays. `others`: (value, strength) of each row.
    `run`: whose weights drew it, None where it does not say, or that run is not here. `missing`: what could not be found, in words."""

    settings: PictureSettings
    run: str | None
    weights: str | None
    strength: float
    others: tuple[tuple[str, float], ...]
    missing: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Field of `Drawing` -> the value of its component."""
        drawing = self.settings.drawing
        return {
            "seed": drawing.seed,
            "steps": drawing.steps,
            "guidance": "" if drawing.guidance is None else f"{drawing.guidance:.6g}",
            "negative_prompt": drawing.negative_prompt,
            "width": "" if drawing.width is None else str(drawing.width),
            "height": "" if drawing.height is None else str(drawing.height),
        }


def restored(path: Path, watch: Watch) -> Restored:
    """The settings of a picture, with its weights as they are named here. Raises Trouble where it has none."""
    settings = read_settings(path)
    with contextlib.suppress(OSError):  # it is a copy of this page's own; what is left goes with the page
        path.unlink()
    own, *others = settings.parts or (None,)
    missing: list[str] = []
    if own is None or own.kind == "base":
        return Restored(settings, None, None, 1.0, (), ())
    run = watch.run(own.run)
    weights = None if run is None else _value(own, run)
    if run is None:
        missing.append(f"the run {own.run}")
    elif weights is None:
        missing.append(_named(own))
    rows = []
    for part in others:
        other = watch.run(part.run)
        if other is None or not lora_files(other):
            missing.append(_named(part))
        else:
            rows.append((OTHER + other.name, part.strength))
    return Restored(settings, None if run is None else run.name, weights, own.strength, tuple(rows), tuple(missing))


def _value(part: Part, run: RunSummary) -> str | None:
    """A value of `weights_choices`; None for what is not there any more."""
    wanted = {"lora": "lora", "live": LIVE}.get(part.kind, f"step:{part.step}")
    return wanted if wanted in [value for _, value in weights_choices(run)] else None


def _named(part: Part) -> str:
    where = "" if part.run is None else f" of {part.run}"
    if part.kind == "live":
        return f"the weights that trained then{where}"
    return f"the LoRA {part.file}{where}" if part.kind == "lora" else f"the checkpoint of step {part.step}{where}"


def restored_card(found: Restored, name: str) -> str:
    """What came back, and what did not."""
    maker = found.settings.maker
    by = "" if maker == "Rollout Studio" else f" It was made by {maker}: what it was drawn with is not known here."
    gone = (
        f"<p>Not here (any more): {text(', '.join(found.missing))}. Choose what to draw with.</p>"
        if found.missing
        else ""
    )
    mood = "rs-mild" if found.missing else "rs-quiet"
    return f'<div class="rs-card {mood}" role="status">The settings of {text(name)} are in the fields.{text(by)}{gone}</div>'


def refused_card(error: Trouble) -> str:
    """Why a picture gave nothing."""
    return f'<div class="rs-card rs-bad" role="alert"><h3>No settings were found</h3><p>{text(error.message)} {text(error.remedy)}</p></div>'
