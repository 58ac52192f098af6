"""The rows of a filmstrip as HTML: the axis of noise, what the model should see, what it sees on its own, where the two differ; and in words, what to
look at in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...core.look.pictures.style import HEAT_FULL, HEAT_SCALE, HEAT_TICKS
from ..parts.words import quantity, text

Address = Callable[[str], str | None]
"""The address of a result's file for the browser; None where the file is gone."""

ROWS = {
    "clean": ("What it should see", "in the true picture with the noise of each level"),
    "rolled": ("What it sees after its own rollout", "in the noisy picture that it has made itself, step by step"),
    "heat": ("Where they differ", "dark is the same, bright is drift"),
}
_SAME = 0.005
"""Pictures that differ by less than this share of full brightness look the same."""


def percent(share: Any) -> str:
    """A share as "12.3 %"; "–" for what is no number."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        return "–"
    return f"{100 * share:.1f} %"


def step_name(step: Any) -> str:
    """What stands under a column's noise level."""
    return "start" if step == 0 else f"step {text(step)}"


def axis(frames: Sequence[Mapping[str, Any]], start: int | None = None) -> str:
    """The noise level above each column. `start`: the column that a scrubber below begins at; None = no scrubber."""
    still = start is None

    marks = "".join(
        f'<span data-col="{at}" data-step="{text(frame["step"])}" data-noise="{quantity(frame["sigma"], 2)}"{" class=rs-on" if at == start else ""}>'
        f'<b>{quantity(frame["sigma"], 2)}</b><i>{step_name(frame["step"])}</i></span>'
        for at, frame in enumerate(frames)
    )  # fmt: skip
    help_ = (
        "the rollout goes from left to right" + ("" if still else "; move the slider, or click, to enlarge a step")
    )  # fmt: skip
    head = f'<div class="rs-row-head rs-axis-head"><b>Noise level</b> <span>{help_}</span></div><div class="rs-row rs-axis">{marks}</div>'
    if still:
        return head
    return head + (
        f'<div class="rs-scrub-box"><input type="range" class="rs-scrub" min="0" max="{len(frames) - 1}" step="1" value="{start}" data-start="{start}" '
        f'aria-label="Step that is shown large" aria-valuetext="step {text(frames[start]["step"])}"></div>'
    )


def heat_key() -> str:
    """The fixed colour scale of every difference."""
    ticks = "".join(
        f'<b style="left:{100 * math.sqrt(tick / HEAT_FULL):.0f}%">{100 * tick:g}</b>' for tick in HEAT_TICKS
    )
    return f'<span class="rs-heat-key" role="img" aria-label="{text(HEAT_SCALE)}" title="{text(HEAT_SCALE)}"><i></i><span>{ticks}</span> % of full brightness</span>'


def key_of(weights: str) -> str:
    """The colour of the base or of tuned weights, before their name."""
    return f'<i class="rs-key rs-of-{"base" if weights == "base" else "tuned"}"></i>'


def most_apart(strips: Sequence[Mapping[str, Any]]) -> float:
    """The largest mean difference of a column of any of the strips; 0 where none is known."""
    return max((_share(frame["difference"]) for strip in strips for frame in strip["frames"]), default=0.0)


def group(
    number: int,
    strip: Mapping[str, Any],
    address: Address,
    *,
    rows: Sequence[str] = tuple(ROWS),
    title: str = "",
    start: int | None = None,
    most: float,
) -> str:
    """The rows of one strip.

    Args:
        title: HTML above the first of them.
        start: the column that is marked.
        most: the mean difference that fills the bar below a column, one for all strips that are shown together (`most_apart`).
    """
    frames, label = strip["frames"], strip["label"]
    drawn = [f'<div class="rs-variant">{title}</div>' if title else ""]
    for row in rows:
        name, help_ = ROWS[row]
        key = _key(strip.get("scale")) if row == "heat" else ""
        cells = "".join(
            f'<div class="rs-cell{" rs-on" if at == start else ""}" data-v="{number}" data-row="{row}" data-col="{at}">'
            f"{_image(address(frame[row]), name, frame, label)}"
            f"{_bar(frame['difference'], most) if row == 'heat' else ''}</div>"
            for at, frame in enumerate(frames)
        )
        drawn.append(
            f'<div class="rs-row-head rs-is-{row}"><b>{name}</b> <span>{help_}</span>{key}</div><div class="rs-row">{cells}</div>'
        )
    return f'<div class="rs-group">{"".join(drawn)}</div>'


def _image(address: str | None, name: str, frame: Mapping[str, Any], label: str) -> str:
    if address is None:
        return '<div class="rs-gone">gone</div>'
    return f'<img src="{text(address)}" alt="{text(name)} at noise level {quantity(frame["sigma"], 2)}, {text(label)}">'


def _key(scale: Any) -> str:
    """The scale of a strip's differences: the fixed one; of an answer of an earlier version, its own."""
    if scale == HEAT_FULL:
        return heat_key()
    return f'<span class="rs-heat-key"><i></i> 0 to {percent(scale)}, in this picture alone</span>'


def _bar(difference: Any, most: float) -> str:
    share = difference / most if isinstance(difference, int | float) and most > 0 else 0
    return f'<div class="rs-meter"><i style="width:{100 * share:.0f}%"></i></div><div class="rs-diff">{percent(difference)}</div>'


def farthest_apart(strips: Sequence[Mapping[str, Any]]) -> int:
    """The column at which what it should see and what it sees differ most, over all strips; the later one of equals, the last where that is unknown."""
    frames = list(zip(*(strip["frames"] for strip in strips), strict=False))
    most = [
        max((frame["difference"] for frame in column if isinstance(frame["difference"], int | float)), default=-1.0)
        for column in frames
    ]
    return max(range(len(most)), key=lambda at: (most[at], at))


def what_to_look_at(strips: Sequence[Mapping[str, Any]]) -> str:
    """Where in the filmstrip, and where in its pictures, the drift is to be seen, in words."""
    most = farthest_apart(strips)
    columns = [max(_share(strip["frames"][at]["difference"]) for strip in strips) for at in range(most + 1)]
    if columns[most] < _SAME:
        return "The two rows are nearly the same at every step: there is hardly any drift to see. Let it take more steps alone, or start nearer to noise."
    begins = next(at for at, share in enumerate(columns) if share >= columns[most] / 4)
    frame = strips[0]["frames"][most]
    last = f"step {frame['step']}"
    first = "the start" if begins == 0 else f"step {strips[0]['frames'][begins]['step']}"
    found = _place(
        max(strips, key=lambda strip: _share(strip["frames"][most]["difference"]))["frames"][most].get("where")
    )
    where = f", {found}" if found else ""
    if len(strips) == 1:
        return (
            f"Compare the two rows of pictures from {first} on. They differ most at {last}{where}: does the lower one keep what the upper one finds "
            "there, or lose it, blur it, make something else of it?"
        )
    shares = " and ".join(f"{percent(strip['frames'][most]['difference'])} ({strip['label']})" for strip in strips)
    return (
        f"Compare the rows of what each sees after its own rollout, at {last}{where}: there they are {shares} away from what they should see. The "
        "darker its difference, the less it drifts."
    )


def _share(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _place(where: Any) -> str:
    """Where in a picture, in words; "" where that is not known."""
    if not isinstance(where, list | tuple) or len(where) != 2:
        return ""
    across, down = (0 if _share(each) < 0.4 else 2 if _share(each) > 0.6 else 1 for each in where)
    names = (("the upper left", "the upper half", "the upper right"), ("the left half", "the middle", "the right half"),
             ("the lower left", "the lower half", "the lower right"))  # fmt: skip
    return f"in {names[down][across]} of the picture"
