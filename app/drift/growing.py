"""The filmstrip while it is computed: the pictures that are there, and a frame where one is still to come."""

from collections.abc import Mapping
from typing import Any

from ..parts.words import quantity, text
from .rows import ROWS, Address, step_name

_ORDER = "First what it should see at every noise level, then what it sees on its own, step by step."


def growing_film(growing: Mapping[str, Any], address: Address, request: Mapping[str, Any]) -> str:
    """What is there of an answer (`core.look.preview.growing`), in the places that it will have."""
    strips = growing["strips"]
    columns = max(strip["columns"] for strip in strips)
    shared = len(request.get("checkpoints", ())) == 1  # one model, several solvers: one row of what it should see
    several = len(strips) > 1 or "samplers" in request or not shared
    blocks = []
    for number, strip in enumerate(strips):
        title = f'<div class="rs-variant">{text(strip["label"])}</div>' if several else ""
        rows = ("rolled",) if shared and number else ("clean", "rolled")
        blocks.append(
            f'<div class="rs-group">{title}{"".join(_row(row, strip, columns, address) for row in rows)}</div>'
        )
    marks = "".join(
        f"<span><b>{quantity(frame['sigma'], 2)}</b><i>{step_name(frame['step'])}</i></span>"
        for frame in strips[0]["frames"]
    )
    return (
        f'<div class="rs-look rs-growing" style="--n:{columns}"><div class="rs-fact"><div><h3>Measuring</h3><p>{_ORDER}</p></div></div>'
        f'<div class="rs-scroll rs-film" role="region" aria-label="Filmstrip, as far as it is computed"><div class="rs-reel">'
        f'<div class="rs-row-head rs-axis-head"><b>Noise level</b> <span>the rollout goes from left to right</span></div>'
        f'<div class="rs-row rs-axis">{marks}</div>{"".join(blocks)}</div></div></div>'
    )


def pictures_in(growing: Mapping[str, Any] | None) -> int:
    """How many pictures are there so far."""
    if growing is None:
        return 0
    return sum(row in frame for strip in growing["strips"] for frame in strip["frames"] for row in ("clean", "rolled"))


def _row(row: str, strip: Mapping[str, Any], columns: int, address: Address) -> str:
    name, help_ = ROWS[row]
    cells = []
    for at in range(columns):
        frame = strip["frames"][at] if at < len(strip["frames"]) else {}
        # decoded before it is drawn, so that what stands there does not blink when the next one comes
        drawn = (
            f'<img decoding="sync" src="{text(address(frame[row]))}" alt="{text(name)}">'
            if row in frame
            else '<div class="rs-yet"></div>'
        )
        cells.append(f'<div class="rs-cell" data-row="{row}" data-col="{at}">{drawn}</div>')
    return f'<div class="rs-row-head rs-is-{row}"><b>{name}</b> <span>{help_}</span></div><div class="rs-row">{"".join(cells)}</div>'
