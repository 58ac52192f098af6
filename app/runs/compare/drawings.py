"""Runs side by side as curves, as samples of the same prompts, and as the settings in which they differ."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ....core.config import OPTIONS
from ....core.config.options import shown
from ...drift.strips import strips_side_by_side
from ...parts.charts import Line, chart
from ...parts.forms import label
from ...parts.live_chart import chart_data
from ...parts.watch import Watch
from ...parts.words import duration, text
from ..shared import change_line, picture
from .sides import Axis, Side, moments

_MOST_PROMPTS = 6
_LOSS_NOTE = (
    "The training loss is no fair comparison: a rolled row is trained at another state than a plain one, and the anti-drift part comes on top. "
    "Compare the clean loss."
)


def key(side: Side) -> str:
    """The line of a run as it is drawn in the curves, for legends and tables."""
    return f'<i class="rs-key{" rs-key-dashed" if side.dashed else ""}" style="--k:var(--rs-{side.color})"></i>'


def curves(all_sides: Sequence[Side], axis: Axis) -> str:
    """Drift and clean loss of all runs on one axis."""
    x_label = "training step" if axis == "steps" else "seconds of training"
    end = max((side.end(axis) for side in all_sides), default=0.0)
    x_range = (0.0, end) if end > 0 else None
    out = []
    for which, title, empty in (
        ("loss_change", "Held-out clean loss", "No drift report with a clean loss yet."),
        ("drift_change", "Drift", "No drift report yet."),
    ):
        lines = []
        for side in all_sides:
            measured = [
                each
                for each in side.readings
                if getattr(each, which) is not None and math.isfinite(side.moment(each.step, axis))
            ]
            xs = [side.moment(each.step, axis) for each in measured]
            lines.append(change_line(side.name, measured, which, side.color, xs, side.dashed))
        out.append(
            chart(
                lines,
                title=title,
                x_label=x_label,
                y_label="change in % against before training",
                x_range=x_range,
                legend=False,
                empty=empty,
            )
        )
    keys = "".join(f"<span>{key(side)}{text(side.name)}</span>" for side in all_sides)
    return f'<div class="rs-charts"><div class="rs-legend">{keys}</div><div class="rs-pair">{"".join(out)}</div><p class="rs-quiet">{text(_LOSS_NOTE)}</p></div>'


def live_loss(all_sides: Sequence[Side], axis: Axis) -> dict[str, Any]:
    """The training losses on one axis, for a `live_chart`."""
    lines = [
        Line(side.name, side.series.steps if axis == "steps" else side.series.clock(), side.series.column("loss"), side.color, dashed=side.dashed)
        for side in all_sides if len(side.series)
    ]  # fmt: skip
    x_label = "training step" if axis == "steps" else "seconds of training"
    return chart_data(f"{[side.name for side in all_sides]} {axis}", lines, title="Training loss", x_label=x_label)


def samples(all_sides: Sequence[Side], axis: Axis, watch: Watch) -> str:
    """The same prompts with the same starting noise, run under run, at the same moments."""
    columns = moments(all_sides, axis)
    if not columns:
        return ""
    ends = [max(side.log.samples, default=None) for side in all_sides]
    ended = any(ends) and ends != columns[-1]
    if ended:
        columns.append(ends)
    pictures: list[dict[int, dict[tuple[str, Any], Mapping[str, Any]]]] = [
        {
            step: {(str(image.get("prompt", "")), image.get("seed")): image for image in images}
            for step, images in side.log.samples.items()
        }
        for side in all_sides
    ]
    prompts = dict.fromkeys(prompt for of_side in pictures for images in of_side.values() for prompt in images)
    blocks = []
    for prompt in list(prompts)[:_MOST_PROMPTS]:
        rows = []
        for place, side in enumerate(all_sides):
            cells = []
            for column in columns:
                step = column[place]
                image = pictures[place].get(step, {}).get(prompt) if step is not None else None
                if image is None:
                    cells.append('<td><div class="rs-gone">none here</div></td>')
                else:
                    when = "before" if step == 0 else f"step {step}<br>{duration(side.moment(step, 'seconds'))}"
                    cells.append(
                        f'<td>{picture(side.run, image, step, watch)}<span class="rs-quiet">{when}</span></td>'
                    )
            rows.append(f"<tr><th scope='row'>{key(side)}{text(side.name)}</th>{''.join(cells)}</tr>")
        blocks.append(
            f'<h4>{text(prompt[0])}</h4><div class="rs-scroll" tabindex="0" aria-label="Samples of one prompt by run"><table class="rs-samples">'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    more = (
        f'<p class="rs-quiet">{len(prompts) - _MOST_PROMPTS} more prompts are on the runs themselves.</p>'
        if len(prompts) > _MOST_PROMPTS
        else ""
    )
    same = "the same training step" if axis == "steps" else "about the same training time"
    return (
        f'<div class="rs-card"><h3>Samples side by side</h3><p class="rs-quiet">One prompt with one starting noise in each block; pictures above one '
        f"another were drawn after {same}{'; the last column is the end of each run' if ended else ''}.</p>{''.join(blocks)}{more}</div>"
    )


def strips(all_sides: Sequence[Side], axis: Axis, watch: Watch) -> str:
    """The drift of all runs as filmstrips one under the other: at the latest step that all of them measured, else each at its own last one."""
    measured = [side for side in all_sides if any(step > 0 for step in side.log.drifts)]
    if not measured:
        return ""
    common = set.intersection(*(set(side.log.drifts) for side in measured)) - {0} if axis == "steps" else set()
    shown = [(side, max(common) if common else max(side.log.drifts)) for side in measured]
    return strips_side_by_side(
        [(key(side) + text(side.name), side.run, side.log.drifts[step]) for side, step in shown],
        watch.previews.address,
    )


def settings_table(configs: Sequence[tuple[Side, Mapping[str, Any]]]) -> str:
    """The settings in which the runs differ."""
    differing = [
        name for name in OPTIONS if len({shown(flat.get(name, OPTIONS[name].default)) for _, flat in configs}) > 1
    ]
    if not differing:
        return '<div class="rs-card"><h3>Settings</h3><p>All settings are the same.</p></div>'
    heads = "".join(f'<th scope="col">{key(side)}{text(side.name)}</th>' for side, _ in configs)
    rows = "".join(
        f"<tr><th scope='row'>{text(label(OPTIONS[name]))}</th>"
        + "".join(f"<td>{text(shown(flat.get(name, OPTIONS[name].default)))}</td>" for _, flat in configs) + "</tr>"
        for name in differing
    )  # fmt: skip
    return (
        f'<div class="rs-card"><h3>Settings that differ</h3><div class="rs-scroll" tabindex="0" aria-label="Settings that differ"><table class="rs-table">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div><p class='rs-quiet'>All others are the same.</p></div>"
    )
