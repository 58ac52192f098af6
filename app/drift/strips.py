"""The filmstrips that runs have stored, as HTML: a run's base above its tuned model, or several runs one under the other. Every difference in
them has the same colours (`core/look/pictures/style.py`), so that any two can be compared by eye.

No script: the same stands on the page and in the report that is shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.look.pictures.strips import levels, strips_with_base
from ...core.runs.rows import RunSummary
from ..parts.words import text
from .rows import axis, group, heat_key, key_of, most_apart

StripAddress = Callable[[Path, Path], str | None]
"""(a picture, the folder that it must lie in) -> its address for the browser; None where it cannot be shown."""

HOW_TO_READ = (
    "Top: what the model would draw from the true noisy picture at each noise level. Below: what it draws after its own rollout to that level. The heat "
    "map shows where the two differ: dark is the same, bright is drift."
)

NAMES = {"base": "Base model, before training", "tuned": "After training"}


@dataclass(frozen=True)
class Shown:
    """A stored filmstrip with what stands above it. `title`: HTML; `inside`: the folder that its pictures must lie in."""

    title: str
    strip: Mapping[str, Any]
    inside: Path


def measured_strips(folder: Path, inside: Path, step: int | None = None) -> list[Shown]:
    """The filmstrips of a drift folder, the base's first; none where the folder has none (reports before 0.3). `step`: of the tuned model."""
    found = []
    for strip in strips_with_base(folder):
        base = strip["weights"] == "base"
        name = NAMES.get(strip["weights"], "") if strip["label"] == strip["weights"] else strip["label"]
        when = f", step {step}" if not base and isinstance(step, int) else ""
        found.append(Shown(key_of(strip["weights"]) + text(name + when), strip, inside))
    return found  # fmt: skip


def rows_of(shown: Sequence[Shown], address: StripAddress, rows: Sequence[str] = ("clean", "rolled", "heat")) -> str:
    """Filmstrips one under the other. Where their noise levels differ, each has an axis of its own; "" for none.

    Args:
        rows: which rows of each are drawn.
    """
    if not shown:
        return ""
    same = all(levels(each.strip) == levels(shown[0].strip) for each in shown)
    columns = max(len(each.strip["frames"]) for each in shown)
    most = most_apart([each.strip for each in shown])
    blocks = []
    for number, each in enumerate(shown):

        def place(file: str, inside: Path = each.inside) -> str | None:
            return address(Path(file), inside)

        head = axis(each.strip["frames"]) if number == 0 or not same else ""
        blocks.append(head + group(number, each.strip, place, rows=rows, title=each.title, most=most))
    return (
        f'<div class="rs-look rs-still" style="--n:{columns}"><div class="rs-scroll rs-film" tabindex="0" role="region" '
        f'aria-label="Filmstrip: noise goes away from left to right"><div class="rs-reel">{"".join(blocks)}</div></div></div>'
    )


def strips_side_by_side(sides: Sequence[tuple[str, RunSummary, Mapping[str, Any]]], address: StripAddress) -> str:
    """The drift of several runs as filmstrips one under the other, on one colour scale: the base's rollout, then that of each run.

    Args:
        sides: (what stands above it as HTML, the run, its `drift` event of the step to show: `log.drifts[step]`) of each run.
        address: `watch.previews.address`.
    Returns: the card; "" where no run has single pictures of its strip (it was measured before 0.3, or has measured nothing).
    """
    found: list[Shown] = []
    without: list[str] = []
    for title, run, event in sides:
        folder = (run.path / str(event.get("path", ""))).resolve().parent
        strips = measured_strips(folder, run.path) if folder.is_relative_to(run.path.resolve()) else []
        tuned = [each for each in strips if each.strip["weights"] != "base"]
        base = [each for each in strips if each.strip["weights"] == "base"]
        # one base for all runs whose base shows the same
        known = [each for each in found if each.strip["weights"] == "base"]
        found += [each for each in base if not any(_same_base(each, other) for other in known)]
        found += [Shown(f"{title} · step {text(event.get('step', 0))}", each.strip, each.inside) for each in tuned]
        if not strips:
            without.append(run.name)
    if not found:
        return ""
    missing = (
        f'<p class="rs-quiet">Measured by an earlier version, without single pictures: {text(", ".join(without))}.</p>'
        if without
        else ""
    )
    return (
        f'<div class="rs-card"><h3>Drift side by side</h3><p class="rs-quiet">Each run\'s own rollout, and where that differs from what it should see. '
        f"{heat_key()} The same colours in all of them.</p>{rows_of(found, address, ('rolled', 'heat'))}{missing}</div>"
    )


def _same_base(one: Shown, other: Shown) -> bool:
    """Whether two runs measured the same base on the same picture: then it is drawn once."""
    a, b = one.strip, other.strip
    numbers = [[round(frame["difference"], 4) for frame in strip["frames"]] for strip in (a, b)]
    return a["caption"] == b["caption"] and levels(a) == levels(b) and numbers[0] == numbers[1]
