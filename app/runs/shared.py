"""What several parts of the Runs tab share: drawing only what changed, a run's pictures, and its drift over the training beside the clean loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...core.look.drift.comparison import Change
from ...core.look.drift.over_training import Reading, over_training, training_words
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog
from ..parts.charts import Line, chart
from ..parts.watch import Watch
from ..parts.words import quantity, text


class Peek(dict):
    """A copy of what a viewer saw, only to ask whether anything changed: nothing is drawn, because drawing may remember what it sent."""


class Changes:
    """Collects the updates of one viewer: a part is drawn only where its mark differs from the one that this viewer saw last.

    `seen`: part -> mark of what was last sent; changed in place. `updates`: component -> its update.
    """

    def __init__(self, seen: dict[str, str]) -> None:
        self.seen, self.updates = seen, {}

    def draw(self, part: str, component: Any, mark: str, make: Callable[[], Any]) -> None:
        """Draw one component."""
        self.draw_many(part, mark, lambda: {component: make()})

    def draw_many(self, part: str, mark: str, make: Callable[[], Mapping[Any, Any]]) -> None:
        """Draw a part of several components: `make` gives all their updates."""
        if self.seen.get(part) != mark:
            self.updates |= {part: None} if isinstance(self.seen, Peek) else make()
            self.seen[part] = mark


def kept_or_first(chosen: str | None, names: Sequence[str]) -> str | None:
    """What a list shows as chosen: what was, while it is there; else the first; None in an empty list."""
    return chosen if chosen in names else names[0] if names else None


def picture(run: RunSummary, image: Mapping[str, Any], step: int, watch: Watch) -> str:
    """One sample as an `<img>` that opens in full; the path comes from the run's events and must lie inside the run."""
    address = watch.previews.address(run.path / str(image.get("path", "")), run.path)
    if address is None:
        return '<div class="rs-gone">gone</div>'
    return (
        f'<a href="{text(address)}" target="_blank" rel="noopener" data-step="{step}"><img loading="lazy" src="{text(address)}" '
        f'alt="{text(image.get("prompt", ""))}, step {step}"></a>'
    )


def percent(change: Change | None) -> str:
    """A change in a table: "-3.1 % ± 0.9", "–" when unknown."""
    if change is None:
        return "–"
    if change.low is None or change.high is None:
        return f"{change.percent:+.1f} %"
    return f"{change.percent:+.1f} % ± {(change.high - change.low) / 2:.1f}"


def drift_over_training(run: RunSummary, log: RunLog) -> str:
    """Drift over the training beside the clean loss, both against the model before training, and what both mean together."""
    readings = over_training({step: event.get("summary") for step, event in log.drifts.items()})
    if not any(reading.drift is not None for reading in readings):
        return ""
    sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in training_words(readings))
    later = [reading for reading in readings if reading.drift_change is not None and reading.loss_change is not None]
    drawn = table = ""
    if len(later) > 1:
        drawn = chart(
            [change_line("drift", later, "drift_change", "rolled"), change_line("clean loss", later, "loss_change", "clean")],
            title="Drift and clean loss, against the model before training", x_label="training step", y_label="change in %",
            x_range=(0, run.total_steps or later[-1].step), height=200,
        )  # fmt: skip
        table = f"<details><summary>The numbers</summary>{_readings_table(readings)}</details>"
    seen = "held-out pictures" if readings[-1].role == "held-out" else "pictures it trains on"
    blur = ' <span class="rs-chip rs-is-failed">blur</span>' if readings[-1].kind == "blur" else ""
    return (
        f'<div class="rs-card"><h3>Drift over the training{blur}</h3><p class="rs-quiet">Measured on {seen}. <b>Drift</b>: how far the model\'s own '
        "state strays from the true one. <b>Clean loss</b>: how badly it denoises true noisy pictures. Shaded: where the truth lies in 95 of 100 "
        f'cases. Below 0 is less than before training.</p>{drawn}<ul class="rs-remarks">{sentences}</ul>{table}</div>'
    )


def change_line(
    name: str,
    readings: Sequence[Reading],
    which: str,
    color: str,
    xs: Sequence[float] | None = None,
    dashed: bool = False,
) -> Line:
    """`drift_change` or `loss_change` of some readings as a line with its uncertainty. `xs`: None = the steps."""
    changes = [getattr(reading, which) for reading in readings]
    edge = [
        (math.nan, math.nan) if change.low is None or change.high is None else (change.low, change.high)
        for change in changes
    ]
    return Line(name, [reading.step for reading in readings] if xs is None else xs, [change.percent for change in changes], color, dashed=dashed,
                low=[low for low, _ in edge], high=[high for _, high in edge], dots=True)  # fmt: skip


def _readings_table(readings: Sequence[Reading]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{'before' if reading.step == 0 else reading.step}</th><td>{quantity(reading.drift)}</td>"
        f"<td>{percent(reading.drift_change) if reading.step else '–'}</td><td>{quantity(reading.clean_loss)}</td>"
        f"<td>{percent(reading.loss_change) if reading.step else '–'}</td><td>{text(reading.kind or '')}</td></tr>"
        for reading in readings
    )
    return (
        '<div class="rs-scroll" tabindex="0" aria-label="Drift and clean loss by step"><table class="rs-table rs-numbers"><thead><tr><th scope="col">step</th>'
        '<th scope="col">drift</th><th scope="col">change</th><th scope="col">clean loss</th><th scope="col">change</th>'
        f'<th scope="col">together</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
