"""A rolled row at a glance: the noise levels as a line from picture to noise, and enlarged, where the row starts and the steps back.

Own SVG, drawn at two widths (a phone gets the narrow one), in the page's colours by CSS variables, so that dark mode comes free.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.before.effects import Example, Offset
from ...core.before.run_schedule import RunSchedule
from ...core.maths.grid import Level
from ..parts.words import quantity, text

_WIDE, _NARROW = 760, 350
_EACH_UP_TO = 12
"""So many offsets get a bar, an arrow and a number each; of more, only some do."""


def grid_picture(example: Example, solver: str, control: bool = False) -> str:
    """The drawing as HTML.

    Args:
        solver: the solver, for people ("unipc of order 2").
        control: chosen rows stay at their start (`source_noise`): no arrows.
    """
    description = described(example, solver, control)
    wide, narrow = (_drawn(example, control, width, description) for width in (_WIDE, _NARROW))
    return f'<div class="rs-grid-picture"><div class="rs-grid-picture-wide">{wide}</div><div class="rs-grid-picture-narrow">{narrow}</div></div>'


def step_picture(schedule: RunSchedule, start: Level) -> str:
    """The drawing for ReflexFlow's `paper` mode: a row starts at the level that it drew, `start`, and one step lands anywhere below."""
    description = (
        f"A line of noise levels from picture to noise. A chosen row starts at the level that it drew, for example at noise level "
        f"{quantity(start.sigma)}, learns there, and takes one step that ends anywhere between there and the picture, evenly; there it "
        "learns a second time."
    )
    # Everything between picture and start is where the step may end.
    example = Example(schedule, schedule.path.at(0), None, (Offset(1, 1.0, 1, start),))
    drawn = []
    for width in (_WIDE, _NARROW):
        line, (left, right) = _line(example, width, start)
        words = _label(
            (left + right) / 2,
            96,
            "one step ends anywhere here: learns its direction" if width == _WIDE else "the step ends here",
        ) + _label(
            right, 112 if width != _WIDE else 96, "starts and learns here", "start" if width == _WIDE else "middle"
        )
        drawn.append(
            f'<svg viewBox="0 0 {width} 122" width="{width}" height="122" role="img" aria-label="{text(description)}">{line}{words}</svg>'
        )
    return f'<div class="rs-grid-picture"><div class="rs-grid-picture-wide">{drawn[0]}</div><div class="rs-grid-picture-narrow">{drawn[1]}</div></div>'


def described(example: Example, solver: str, control: bool = False) -> str:
    """The drawing in words, for screen readers."""
    far, name = example.farthest, _coordinate(example)
    chances = "; ".join(f"{offset.k} steps: {_percent(offset.chance)}" for offset in _chosen(example.offsets, 6))
    first = (
        f"A line of noise levels from picture to noise with {example.schedule.grid.steps} grid steps. The example's target lies at {name} "
        f"{quantity(example.target.sigma)}; a chosen row starts up to {far.k} grid steps noisier"
    )
    cut = f", here cut to {far.actual} because beyond it only noise is left" if far.actual < far.k else ""
    goes = (
        "and is trained right there, as a plain row" if control
        else f"and is denoised step by step, {solver}"
    )  # fmt: skip
    return f"{first}{cut}, at {name} {quantity(far.start.sigma)}, {goes}. The chance of each offset: {chances}." + (
        ""
        if example.floor is None
        else f" Rows whose target has less noise than {quantity(example.floor.sigma)} are not rolled out."
    )


def _coordinate(example: Example) -> str:
    return "noise level" if example.schedule.path.is_flow else "noise (sigma)"


def _percent(share: float) -> str:
    return f"{quantity(100 * share, 2)} %"


def _chosen(offsets: Sequence[Offset], most: int) -> list[Offset]:
    """At most about `most` of them, evenly, the first and the last among them."""
    if len(offsets) <= most:
        return list(offsets)
    places = sorted({round(i * (len(offsets) - 1) / (most - 1)) for i in range(most)})
    return [offsets[place] for place in places]


# The drawing -----------------------------------------------------------------------------------------------------------------


def _label(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{text(words)}</text>'


def _mixed(x: float, y: float, side: float, alpha: float, sigma: float) -> str:
    """A small picture (a candy on a table), as far as this noise level leaves it."""
    share = sigma / (alpha + sigma)
    unit = side / 40
    candy = (
        f'<g transform="translate({x:.1f} {y:.1f}) scale({unit:.4g})"><rect width="40" height="40" class="rs-w-sky"/>'
        '<rect y="27" width="40" height="13" class="rs-w-table"/><path d="M6 14l8 6-8 6zM34 14l-8 6 8 6z" class="rs-w-wrap"/>'
        '<circle cx="20" cy="20" r="8.5" class="rs-w-candy"/><path d="M15 13.5q5 6.500 0 13M21 11.600q5 8.400 0 16.800" class="rs-w-stripe"/>'
    )
    noise = (
        "".join(f'<path d="{path}" class="rs-w-noise{which}"/>' for which, path in enumerate(_NOISE))
        if share > 0
        else ""
    )
    return f'{candy}<g opacity="{share:.3f}"><rect width="40" height="40" class="rs-w-grey"/>{noise}</g><rect width="40" height="40" class="rs-w-frame"/></g>'


def _noise_paths() -> tuple[str, str]:
    """Dark and light cells of 4 on a grey square of 40, always the same."""
    draws, cells = random.Random(7), ([], [])
    for row in range(10):
        for column in range(10):
            shade = draws.random()
            if shade < 0.42 or shade > 0.62:
                cells[0 if shade < 0.42 else 1].append(f"M{4 * column} {4 * row}h4v4h-4z")
    return "".join(cells[0]), "".join(cells[1])


_NOISE = _noise_paths()


def _arrow(x: float, y: float, size: float = 5) -> str:
    """A head that points left, its tip at (x, y)."""
    return f'<path d="M{x:.1f} {y:.1f}l{size:g} {-size * 0.8:g}v{size * 1.6:g}z" class="rs-w-head"/>'


def _drawn(example: Example, control: bool, width: int, description: str) -> str:
    line, (left, right) = _line(example, width)
    lens, height = _lens(example, control, width, left, right)
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{text(description)}">{line}{lens}</svg>'


def _line(example: Example, width: int, marked: Level | None = None) -> tuple[str, tuple[float, float]]:
    """The whole line from picture to noise; and where on it target and farthest start lie. `marked`: the level with the dot, where it is
    not the target."""
    path, grid, side, y = example.schedule.path, example.schedule.grid, 44 if width == _WIDE else 34, 44
    begin, end = side + 14, width - side - 14

    def x(place: float) -> float:
        return begin + (end - begin) * place

    nodes = path.share_of_noise(path.at(grid.nodes)).tolist()
    every = math.ceil(len(nodes) / (120 if width == _WIDE else 60))
    ticks = "".join(f"M{x(place):.1f} {y - 6}v12" for place in nodes[::every])
    here, far = x(path.share_of_noise(example.target)), x(path.share_of_noise(example.farthest.start))
    floor = begin if example.floor is None else x(path.share_of_noise(example.floor))
    parts = [
        _mixed(0, y - side / 2, side, 1, 0), _mixed(width - side, y - side / 2, side, 0, 1),
        f'<rect x="{begin}" y="{y - 9}" width="{max(floor - begin, 0):.1f}" height="18" class="rs-w-floor"/>',
        f'<rect x="{here:.1f}" y="{y - 9}" width="{max(far - here, 2):.1f}" height="18" class="rs-w-range"/>',
        f'<path d="M{begin} {y}H{end}" class="rs-w-axis"/><path d="{ticks}" class="rs-w-ticks"/>',
        f'<path d="M{floor:.1f} {y - 12}v24" class="rs-w-edge"/>' if example.floor is not None else "",
        f'<circle cx="{here if marked is None else x(path.share_of_noise(marked)):.1f}" cy="{y}" r="5.5" class="rs-w-target"/>',
        _label(begin, y - 26, "picture", "start", "rs-w-quiet"), _label(end, y - 26, "noise", "end", "rs-w-quiet"),
        _label((begin + end) / 2, y - 26, f"{grid.steps} grid steps" + (f", every {every}th drawn" if every > 1 else ""), "middle", "rs-w-quiet"),
    ]  # fmt: skip
    for sigma in (0, 0.25, 0.5, 0.75, 1):
        place = x(path.share_of_noise(path.at(path.time_of_sigma(sigma))))
        parts.append(_label(place, y + 26, quantity(sigma), "middle", "rs-w-quiet"))
    return "".join(parts), (here, max(far, here + 2))


@dataclass(frozen=True)
class _Lens:
    """The geometry of the enlarged range of the example row, in px: a place for each offset, evenly along the width."""

    offsets: Sequence[Offset]
    width: int
    control: bool
    top: int = 92

    @property
    def wide(self) -> bool:
        return self.width == _WIDE

    @property
    def side(self) -> int:
        """Of the small pictures of start and target."""
        return 44 if self.wide else 34

    @property
    def few(self) -> bool:
        """Whether each offset gets a bar, an arrow and a number."""
        return len(self.offsets) - 1 <= (_EACH_UP_TO if self.wide else 6)

    @property
    def gap(self) -> float:
        room = self.width - 2 * (self.side + 60)
        return min(110 if self.wide else 60, room / max(len(self.offsets) - 1, 1))

    @property
    def base(self) -> int:
        """Where the bars stand."""
        return self.top + 92

    @property
    def line(self) -> int:
        """Where the line of levels runs."""
        return self.top + 128

    @property
    def bottom(self) -> int:
        return self.top + (206 if not self.control else 190)

    @property
    def last(self) -> int:
        return len(self.offsets) - 1

    def x(self, k: float) -> float:
        """The place of the offset `k`."""
        return (self.width - self.gap * self.last) / 2 + self.gap * k


def _lens(example: Example, control: bool, width: int, left: float, right: float) -> tuple[str, int]:
    """The range of the example row, enlarged: the chance of each offset above, the rollout below; and the height of it all."""
    lens = _Lens(example.offsets, width, control)
    box_left, box_right, top, bottom = 0.5, width - 0.5, lens.top, lens.bottom
    title = "Chance of each offset, once a row is chosen" if lens.wide else "Chance of each offset"
    parts = [
        f'<path d="M{left:.1f} 54L{box_left} {top}H{box_right}L{right:.1f} 54z" class="rs-w-beam"/>',
        f'<rect x="{box_left}" y="{top}" width="{box_right - box_left}" height="{bottom - top}" rx="8" class="rs-w-box"/>',
        _label(14, top + 20, title, "start", "rs-w-quiet"),
        *_chances(lens),
        *_levels(lens),
        *_ends(example, lens),
    ]
    return "".join(parts), round(bottom) + 1


def _chances(lens: _Lens) -> list[str]:
    """A bar for each offset, or an outline where there are too many."""
    offsets, base, x = lens.offsets, lens.base, lens.x
    tallest = max(offset.chance for offset in offsets)
    if not lens.few:
        outline = "".join(f"L{x(o.k):.1f} {base - 46 * o.chance / tallest:.1f}" for o in _chosen(offsets, 200))
        return [
            f'<path d="M{x(0):.1f} {base}{outline}L{x(lens.last):.1f} {base}z" class="rs-w-bar"/>',
            _label(x(0) - 8, base - 4, f"{_percent(tallest)} at most", "end" if lens.wide else "start"),
        ]
    parts, bar = [], min(30.0, 0.6 * lens.gap)
    for offset in offsets:
        height = max(46 * offset.chance / tallest, 1.5)
        kind = "rs-w-bar0" if offset.k == 0 else "rs-w-barcut" if offset.actual < offset.k else "rs-w-bar"
        parts.append(
            f'<rect x="{x(offset.k) - bar / 2:.1f}" y="{base - height:.1f}" width="{bar:.1f}" height="{height:.1f}" class="{kind}"/>'
        )
        if lens.gap >= 34:
            parts.append(_label(x(offset.k), base - height - 4, _percent(offset.chance)))
    return parts


def _levels(lens: _Lens) -> list[str]:
    """The line with its levels, and the steps of the rollout along it."""
    far, x, line = lens.offsets[-1], lens.x, lens.line
    shown = list(lens.offsets) if lens.few else _chosen(lens.offsets, 8 if lens.wide else 5)
    parts = [f'<path d="M{x(0) - 26:.1f} {line}H{x(lens.last) + 26:.1f}" class="rs-w-axis"/>']
    for offset in shown:
        kind = "rs-w-target" if offset.k == 0 else "rs-w-cut" if offset.actual < offset.k else "rs-w-node"
        name = "plain" if offset.k == 0 and lens.gap >= 48 else f"+{offset.k}" if offset.k else "0"
        parts.append(f'<circle cx="{x(offset.k):.1f}" cy="{line}" r="5.5" class="{kind}"/>')
        parts.append(_label(x(offset.k), lens.base + 16, name, kind="rs-w-quiet"))
        if offset.actual == offset.k and (lens.gap >= 40 or offset.k in (0, far.actual) or not lens.few):
            parts.append(_label(x(offset.k), line + 52, quantity(offset.start.sigma, 3), kind="rs-w-quiet"))
    if not lens.control and far.actual:
        parts.append(_arcs(x, far.actual, line, lens.few))
    return parts


def _ends(example: Example, lens: _Lens) -> list[str]:
    """Small pictures of where the row starts and where it learns."""
    far, x, line, side = lens.offsets[-1], lens.x, lens.line, lens.side
    target_x, start_x = max(x(0) - side - 44, 10), min(x(lens.last) + 44, lens.width - side - 10)
    target_words, start_words = ("its own level", "learns here") if lens.control else ("learns here", "starts here")
    parts = [
        _mixed(target_x, line - side / 2, side, example.target.alpha, example.target.sigma),
        _label(target_x, line + side / 2 + 15, target_words, "start"),
        _mixed(start_x, line - side / 2, side, far.start.alpha, far.start.sigma),
        _label(start_x + side, line + side / 2 + 15, start_words, "end"),
    ]
    if far.actual < far.k:
        words = "only noise is left" if (far.k - far.actual) * lens.gap > 60 else "noise"
        parts.append(_label(x(far.actual) + 10, line + 18, words, "start", "rs-w-quiet"))
    return parts


def _arcs(x, steps: int, line: float, each: bool) -> str:
    """The rollout from the farthest start to the target: an arc for each step, or a single one where there are too many."""
    hops = [(k, k - 1) for k in range(steps, 0, -1)] if each else [(steps, 0)]
    dip = 20 if each else 26
    arcs = "".join(
        f'<path d="M{x(a):.1f} {line + 7}Q{(x(a) + x(b)) / 2:.1f} {line + 7 + dip} {x(b) + 5:.1f} {line + 10}" class="rs-w-arc"/>'
        + _arrow(x(b) + 3, line + 9)
        for a, b in hops
    )
    return arcs if each else arcs + _label((x(0) + x(steps)) / 2, line + 34, f"{steps} steps")
