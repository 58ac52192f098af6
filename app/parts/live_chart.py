"""A chart that a person works with, in the browser: which curves, how smooth, a logarithmic axis, a part of the axis in large.

`charts.py` draws the same look on the server, for what is only looked at. Here the server sends points, at most `MOST` a curve; the script
`js/live_chart.js` draws them, so that what was chosen (and zoomed) stays while a run goes on.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.texts import translated
from .charts import Line
from .translation import translated_markup, with_words

MOST = 1024
_SCRIPT = (Path(__file__).parents[1] / "js" / "live_chart.js").read_text(encoding="utf-8")
_WORDS = ("At the end", "Arrow keys read the values, plus and minus zoom, 0 shows all.")
_TEMPLATE = """<div class="rs-live rs-chart" hidden>
<div class="rs-chart-head"><b data-part="title"></b><span class="rs-legend" data-part="legend"></span></div>
<div class="rs-plot" style="height:230px"><div class="rs-y" data-part="y"></div>
<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="application" tabindex="0" data-part="plot" aria-label="Chart"></svg></div>
<div class="rs-x" data-part="x"></div><div class="rs-x-name" data-part="x-name"></div>
<div class="rs-live-row"><label><input type="checkbox" data-part="log"> <span>Log scale</span></label>
<label><span>Smoothing</span> <input type="range" min="0" max="0.99" step="0.01" data-part="smooth"></label>
<span class="rs-live-zoom"><button type="button" class="rs-small" data-part="closer" aria-label="Zoom in">+</button>
<button type="button" class="rs-small" data-part="wider" aria-label="Zoom out">−</button>
<button type="button" class="rs-small" data-part="whole">All steps</button></span>
<output data-part="reading"></output></div>
<p class="rs-quiet">Drag across the curves to zoom; press a name above to hide its curve.</p></div>"""


def live_chart(elem_id: str) -> gr.HTML:
    """The chart in the current layout; nothing is seen of it until it has been sent its value."""
    return gr.HTML(html_template=translated_markup(_TEMPLATE), js_on_load=with_words(_SCRIPT, _WORDS), apply_default_css=False, elem_id=elem_id, container=False)  # fmt: skip


def chart_data(
    who: str, lines: Sequence[Line], *, title: str, x_label: str, end: float | None = None, raw: Sequence[str] = ()
) -> dict[str, Any]:
    """What `live_chart` draws, as its value.

    Args:
        who: what the curves are of; when it changes, the chart shows all steps again.
        lines: not smoothed; the reader chooses. A line without a finite value is left out.
        end: how far the horizontal axis goes at least.
        raw: names of the lines that are drawn as they are, too, behind their smoothed selves.
    """
    drawn = [
        {**_points(line), "key": line.name, "name": translated(line.name), "color": line.color, "dashed": line.dashed, "raw": line.name in raw}
        for line in lines if any(map(math.isfinite, line.ys))
    ]  # fmt: skip
    return {"id": who, "title": translated(title), "x": translated(x_label), "end": 0 if end is None else end, "lines": drawn}  # fmt: skip


def _points(line: Line) -> Mapping[str, list[float | None]]:
    """At most `MOST` points: means of neighbours, as everywhere in a long run's series. Values with five digits; None is a gap."""
    group = math.ceil(len(line.xs) / MOST)
    xs: list[float | None] = []
    ys: list[float | None] = []
    for start in range(0, len(line.xs), group or 1):
        members = [y for y in line.ys[start : start + group] if math.isfinite(y)]
        x = line.xs[min(start + group, len(line.xs)) - 1]
        if math.isfinite(x):
            xs.append(round(x, 3))
            ys.append(float(f"{sum(members) / len(members):.5g}") if members else None)
    return {"xs": xs, "ys": ys}
