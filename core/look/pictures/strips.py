"""A filmstrip as single pictures with a record of them, so that a page can draw it at any size. Reading needs neither torch nor matplotlib.

The record of one strip: `label`, `weights`, `caption`, `sampler`, `scale` (`style.HEAT_FULL`), `truth` (a file), and `frames`: `step`, `t`, `sigma`,
`difference` (mean, 0..1) and the files `clean`, `rolled`, `heat` of each column. Previews give the same (`preview/show.py`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .filmstrip import Frame, Strip, heat
from .style import HEAT_FULL

STRIPS_FILE = "strips.json"
ROWS = ("clean", "rolled", "heat")
SIDE = 384  # longest side of a stored picture: readable, and 27 of them take less than a megabyte
_LOSSLESS = 128  # pictures up to this side are kept exactly
Save = Callable[[np.ndarray, str], str]
"""(pixels (H, W, 3) uint8, name without ending) -> the file's name in the record."""


def strip_record(strip: Strip, label: str, stem: str, save: Save) -> dict[str, Any]:
    """The record of a strip, its pictures put away by `save` under names that begin with `stem`."""
    return {
        "label": label, "weights": strip.weights, "caption": strip.caption, "sampler": strip.settings["sampler"], "scale": HEAT_FULL,
        "truth": save(strip.truth, f"{stem}-truth"), "frames": [frame_record(frame, f"{stem}-{place:02d}", save) for place, frame in enumerate(strip.frames)],
    }  # fmt: skip


def frame_record(frame: Frame, stem: str, save: Save) -> dict[str, Any]:
    """The record of one column."""
    shown = {"clean": frame.clean, "rolled": frame.rolled, "heat": heat(frame.difference)}
    files = {row: save(pixels, f"{stem}-{row}") for row, pixels in shown.items()}
    return {
        "step": frame.step,
        "t": frame.t,
        "sigma": frame.sigma,
        "difference": float(frame.difference.mean()),
        **files,
    }


def write_strips(strips: Sequence[Strip], folder: Path) -> list[str]:
    """Write the strips of a report as small pictures and `strips.json` into `folder`; returns the files' names, the record first."""
    names: list[str] = []

    def save(pixels: np.ndarray, stem: str) -> str:
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        names.append(f"strips/{stem}.webp")
        picture.save(folder / names[-1], quality=90, lossless=max(picture.size) <= _LOSSLESS)
        return names[-1]

    (folder / "strips").mkdir(exist_ok=True)
    records = [strip_record(strip, strip.weights, str(number), save) for number, strip in enumerate(strips)]
    (folder / STRIPS_FILE).write_text(json.dumps({"version": 1, "strips": records}, allow_nan=False), encoding="utf-8")
    return [STRIPS_FILE, *names]


def read_strips(folder: Path) -> list[dict[str, Any]]:
    """The strips of a drift folder, with the paths of their files; none where there are none that can be read (reports before 0.3).

    The folder of a run may come from a stranger: what leads outside of it, or is no record, is not taken.
    """
    home = folder.resolve()
    try:
        given = json.loads((home / STRIPS_FILE).read_text(encoding="utf-8"))
        return [_placed(strip, home) for strip in given["strips"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def strips_with_base(folder: Path) -> list[dict[str, Any]]:
    """The strips of a run's drift folder, the base's first: that of step 0 where this report has none of its own, and it shows the same."""
    strips = read_strips(folder)
    if strips and not any(strip["weights"] == "base" for strip in strips):
        of_base = read_strips(folder.parent / "step-000000")
        strips = [each for each in of_base if each["weights"] == "base" and _same(each, strips[0])] + strips
    return sorted(strips, key=lambda strip: strip["weights"] != "base")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two strips show one picture at the same noise levels."""
    return one["caption"] == other["caption"] and levels(one) == levels(other)


def levels(strip: Mapping[str, Any]) -> list[float]:
    """The noise levels of a strip's columns."""
    return [round(frame["sigma"], 4) for frame in strip["frames"]]


def _placed(strip: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """The strip with absolute paths and only what it must hold. Raises ValueError, KeyError, TypeError for anything else."""

    def place(name: Any) -> str:
        path = (home / str(name)).resolve()
        if not path.is_relative_to(home):
            raise ValueError(f"{name} leads outside")
        return str(path)

    frames = [
        {"step": int(frame["step"]), "sigma": float(frame["sigma"]), "difference": float(frame["difference"]), **{row: place(frame[row]) for row in ROWS}}
        for frame in strip["frames"]
    ]  # fmt: skip
    words = {name: str(strip[name]) for name in ("label", "weights", "caption", "sampler")}
    if not frames:
        raise ValueError("a strip without a column")
    return {**words, "scale": float(strip["scale"]), "truth": place(strip["truth"]), "frames": frames}
