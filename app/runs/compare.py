"""Runs side by side on the same axes, by training steps or by seconds, and the controls without which a comparison says little.

What is compared is told in words with its uncertainty; nothing is ranked. The controls themselves are `core/before/controls.py`.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from ...core.before.controls import KINDS, MEANING, TITLES, Kind, control, controls_of, measured, queue_control, why_not
from ...core.config import OPTIONS, ConfigError, config_from_flat
from ...core.config.options import shown
from ...core.look.drift.comparison import Verdict, against
from ...core.look.drift.files import read_report
from ...core.look.drift.over_training import Reading, over_training
from ...core.look.drift.report import ReportError
from ...core.look.drift.words import AGAINST
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, Series
from ..parts.charts import Line, chart, smoothed
from ..parts.forms import label
from ..parts.watch import Watch, signature
from ..parts.words import duration, quantity, text
from .parts import change_line, percent, picture

Axis = Literal["steps", "seconds"]
MOST = 4
_TICK_S = 3.0
_QUICK = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
_NEAR = 0.1  # by seconds, what lies within this share of the shorter run counts as the same moment
_MOST_PROMPTS, _MOST_MOMENTS = 6, 5
_STATES = {
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "crashed": "crashed",
    "queued": "waiting",
    "created": "not started",
}
_ONE_MORE = (
    '<div class="rs-card rs-mild"><h4>Choose one more run</h4><p>Comparing needs at least two. A run with rollout is best compared with its '
    "three controls above: one click each.</p></div>"
)
_LOSS_NOTE = (
    "The training loss is no fair comparison: a rolled row is trained at another state than a plain one, and the anti-drift part comes on top. "
    "Compare the clean loss."
)
_SEEDS_NOTE = (
    "The uncertainties are 95 % intervals over the pictures and noises measured. How much luck is in a training they do not say: for that, "
    "train both again with another seed."
)


@dataclass(frozen=True)
class Side:
    """One run of a comparison, as it is now."""

    run: RunSummary
    log: RunLog
    series: Series
    readings: list[Reading]
    color: str
    dashed: bool

    @property
    def name(self) -> str:
        return self.run.name

    def moment(self, step: int, axis: Axis) -> float:
        """Where a training step lies on the axis; NaN where its seconds are not known."""
        return float(step) if axis == "steps" else self.series.clock_at(step)

    def end(self, axis: Axis) -> float:
        """Where the run has got to on the axis."""
        return self.moment(self.series.steps[-1], axis) if len(self.series) else 0.0


def sides(runs: Iterable[RunSummary], log_of: Callable[[RunSummary], RunLog]) -> list[Side]:
    """The runs of a comparison in their order; the first one is what the others are set against."""
    found = []
    for number, run in enumerate(runs):
        log = log_of(run)
        readings = over_training({step: event.get("summary") for step, event in log.drifts.items()})
        found.append(Side(run, log, log.series.frozen(), readings, f"run-{number + 1}", number % 2 == 1))
    return found


def default_choice(run: RunSummary, runs: Sequence[RunSummary]) -> list[str]:
    """What to compare when nobody has chosen: a run with its controls, the run first; for a control, the run that it controls."""
    subject = subject_of(run, runs)
    return [subject.name, *(each.name for each in controls_of(subject, runs).values())][:MOST]


def subject_of(run: RunSummary, runs: Iterable[RunSummary]) -> RunSummary:
    """The run itself, or the one that it is a control of, where that still exists."""
    return next(
        (
            each
            for each in runs
            if run.control is not None and each.name == run.control_of and each.created <= run.created
        ),
        run,
    )


# -- moments -------------------------------------------------------------------------------------------------------------


def shared_moment(
    one: Side, other: Side, steps_of: Callable[[Side], Sequence[int]], axis: Axis
) -> tuple[int, int] | None:
    """The latest steps of two runs that are the same moment on the axis; None when there is none after step 0.

    By steps: the same step. By seconds: the two nearest, at most a tenth of the shorter run's time apart.
    """
    mine, theirs = ([step for step in steps_of(side) if step > 0] for side in (one, other))
    if axis == "steps":
        common = set(mine) & set(theirs)
        return (max(common), max(common)) if common else None
    near = _NEAR * min(one.end(axis), other.end(axis))
    pairs = [(a, b, one.moment(a, axis), other.moment(b, axis)) for a in mine for b in theirs]
    good = [
        (min(x, y) - abs(x - y), a, b) for a, b, x, y in pairs if abs(x - y) <= near
    ]  # late, and close together; NaN is not near
    return max(good)[1:] if good else None


def moments(all_sides: Sequence[Side], axis: Axis) -> list[list[int | None]]:
    """Columns of the sample table: for each moment, the step of each run that has samples there (None = it has none near).

    The moments are those of the first run that has samples, thinned, and never later than the shortest run.
    """
    lead = next((side for side in all_sides if side.log.samples), None)
    if lead is None:
        return []
    shortest = min(
        (max(side.moment(step, axis) for step in side.log.samples) for side in all_sides if side.log.samples),
        default=0.0,
    )
    found = []
    for step in sorted(lead.log.samples):
        where = lead.moment(step, axis)
        row = [_nearest(side, where, axis) for side in all_sides]
        if where <= shortest * (1 + (_NEAR if axis == "seconds" else 0)) and (
            step == 0 or sum(each is not None for each in row) > 1
        ):
            found.append(row)
    if len(found) > _MOST_MOMENTS:
        found = [found[round(place * (len(found) - 1) / (_MOST_MOMENTS - 1))] for place in range(_MOST_MOMENTS)]
    return found


def _nearest(side: Side, where: float, axis: Axis) -> int | None:
    steps = [step for step in side.log.samples if math.isfinite(side.moment(step, axis))]
    best = min(steps, key=lambda step: abs(side.moment(step, axis) - where), default=None)
    if best is None:
        return None
    apart, room = abs(side.moment(best, axis) - where), 0.0 if axis == "steps" else _NEAR * side.end(axis)
    return best if apart <= room and (best == 0) == (where == 0) else None


# -- what is shown -------------------------------------------------------------------------------------------------------


_File = tuple[Path, int, int]  # a report, and by what it is known not to have changed


@functools.lru_cache(maxsize=64)
def _against(mine: _File, other: _File) -> Verdict | str:
    """`against` of two report files. It draws thousands of samples, so that it is worth to be remembered."""
    return against(read_report(mine[0]), read_report(other[0]))


def _file(side: Side, step: int) -> _File:
    path = (side.run.path / str(side.log.drifts[step].get("path", ""))).resolve()
    if not path.is_relative_to(side.run.path.resolve()):
        raise ReportError(f"the report of {side.name} lies outside its run")
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size


def set_against(mine: Side, other: Side, axis: Axis) -> tuple[str, Verdict | None]:
    """What the drift reports of two runs say about each other at the same moment, in a sentence; and the finding itself."""
    at = shared_moment(mine, other, lambda side: sorted(side.log.drifts), axis)
    names = f"{mine.name} against {other.name}"
    if at is None:
        remedy = (
            "look by seconds, or let both measure every so many steps (drift_step_interval)"
            if axis == "steps" else "look by steps, queue the control of equal time, or let both measure every so many steps (drift_step_interval)"
        )  # fmt: skip
        return (
            f"{names}: no drift reports at the same {'step' if axis == 'steps' else 'time'} after training began; {remedy}.",
            None,
        )
    try:
        found = _against(*(_file(side, step) for side, step in zip((mine, other), at, strict=True)))
    except (OSError, ReportError, UnicodeDecodeError) as error:
        return f"{names}: a report cannot be read ({error}).", None
    if axis == "steps":
        when = f"both at step {at[0]}"
    else:
        times = [duration(side.moment(step, axis)) for side, step in zip((mine, other), at, strict=True)]
        when = f"at step {at[0]} after {times[0]} and step {at[1]} after {times[1]} of training"
    if isinstance(found, str):
        return f"{names}, {when}: {found}.", None
    seen = "held-out pictures" if found.role == "held-out" else "training pictures"
    return (
        f"{names}, {when}, on {seen}: drift {_than(found.drift)}, clean loss {_than(found.loss)}. {AGAINST[found.kind]}",
        found,
    )


def _than(change) -> str:
    if change.sign == 0:
        unknown = change.low is None or change.high is None
        return (
            f"{change.percent:+.1f} % (one sample: no uncertainty known)"
            if unknown
            else f"no measurable difference ({percent(change)})"
        )
    return f"{'lower' if change.sign < 0 else 'higher'} by {abs(change.percent):.1f} % ± {(change.high - change.low) / 2:.1f}"


def comparison(all_sides: Sequence[Side], axis: Axis) -> str:
    """The findings in words, and the table of results."""
    first, others = all_sides[0], all_sides[1:]
    said = [
        f"<li>{text(sentence)}</li>"
        for other in others
        for sentence in (set_against(first, other, axis)[0], *_missed_time(first, other))
    ]
    return (
        f'<div class="rs-card"><h4>What the comparison says</h4><ul class="rs-remarks">{"".join(said)}</ul><p class="rs-quiet">{text(_SEEDS_NOTE)}</p>'
        f"{results_table(all_sides)}</div>"
    )


def _missed_time(first: Side, other: Side) -> list[str]:
    """A warning when a control of equal time has not taken the time that it was meant to take."""
    mine, theirs = first.end("seconds"), other.end("seconds")
    meant = other.run.control == "plain-time" and other.run.control_of == first.name and other.run.state == "done"
    if not meant or not mine > 0 or abs(theirs / mine - 1) <= _NEAR:
        return []
    said = (
        f"{other.name} was to train as long as {first.name}, {duration(mine)}, but took {duration(theirs)}: the machine was "
        f"{'busier' if theirs > mine else 'less busy'} than before, or a plain step had only been estimated. Go by its steps, not by its clock."
    )
    return [said]


def results_table(all_sides: Sequence[Side]) -> str:
    """Where each run ended: steps, seconds, drift and clean loss with their change against the model before training."""
    rows = []
    for side in all_sides:
        steps = side.series.steps[-1] if len(side.series) else 0
        last = next((reading for reading in reversed(side.readings) if reading.step > 0), None)
        known = last is not None
        at = f' <span class="rs-quiet">step {last.step}</span>' if known and last.step != steps else ""
        kind = (
            f'<span class="rs-chip{" rs-is-failed" if last.kind == "blur" else ""}">{text(last.kind)}</span>'
            if known and last.kind
            else "–"
        )
        rows.append(
            f"<tr><th scope='row'>{_key(side)}{text(side.name)}<span class='rs-quiet'>{text(_role(side.run))}</span></th>"
            f"<td>{steps}</td><td>{duration(side.end('seconds'))}</td><td>{_speed(side.log)}</td>"
            f"<td>{quantity(last.drift) if known else '–'}{at}</td><td>{percent(last.drift_change) if known else '–'}</td>"
            f"<td>{quantity(last.clean_loss) if known else '–'}</td><td>{percent(last.loss_change) if known else '–'}</td><td>{kind}</td></tr>"
        )
    return (
        '<div class="rs-scroll" tabindex="0" aria-label="Results of the runs"><table class="rs-table rs-numbers"><thead><tr><th scope="col">run</th>'
        '<th scope="col">steps</th><th scope="col">training time</th><th scope="col">a step</th><th scope="col">drift</th>'
        '<th scope="col">against before</th><th scope="col">clean loss</th><th scope="col">against before</th><th scope="col">together</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="rs-quiet">Each at its own last drift report; “before” is the model before training. Training time is that of the training '
        "steps: loading, samples, drift reports and saving are left out.</p>"
    )


def _speed(log: RunLog) -> str:
    return "–" if math.isnan(log.step_s) else f"{quantity(log.step_s)} s"


def _role(run: RunSummary) -> str:
    words = _STATES.get(run.state, "training")
    return f"{TITLES[run.control]} · {words}" if run.control in TITLES else words


def _key(side: Side) -> str:
    return f'<i class="rs-key{" rs-key-dashed" if side.dashed else ""}" style="--k:var(--rs-{side.color})"></i>'


def curves(all_sides: Sequence[Side], axis: Axis) -> str:
    """Drift, clean loss and training loss of all runs on one axis."""
    x_label = "training step" if axis == "steps" else "seconds of training"
    end = max((side.end(axis) for side in all_sides), default=0.0)
    x_range = (0.0, end) if end > 0 else None
    out = []
    for which, title, empty in (
        ("loss_change", "Held-out clean loss", "No drift report has told the clean loss yet."),
        ("drift_change", "Drift", "No drift report yet."),
    ):
        lines = []
        for side in all_sides:
            told = [
                each
                for each in side.readings
                if getattr(each, which) is not None and math.isfinite(side.moment(each.step, axis))
            ]
            xs = [side.moment(each.step, axis) for each in told]
            lines.append(change_line(side.name, told, which, side.color, xs, side.dashed))
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
    lines = []
    for side in all_sides:
        xs = side.series.steps if axis == "steps" else side.series.clock()
        loss = side.series.column("loss")
        lines.append(
            Line(side.name, xs, smoothed(loss, 0.9 if len(loss) >= 20 else 0.0), side.color, dashed=side.dashed)
        )
    loss = chart(lines, title="Training loss, smoothed", x_label=x_label, x_range=x_range, height=150, legend=False)
    keys = "".join(f"<span>{_key(side)}{text(side.name)}</span>" for side in all_sides)
    return f'<div class="rs-charts"><div class="rs-legend">{keys}</div><div class="rs-pair">{"".join(out)}</div>{loss}<p class="rs-quiet">{text(_LOSS_NOTE)}</p></div>'


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
    prompts = dict.fromkeys(prompt for told in pictures for images in told.values() for prompt in images)
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
            rows.append(f"<tr><th scope='row'>{_key(side)}{text(side.name)}</th>{''.join(cells)}</tr>")
        blocks.append(
            f'<h5>{text(prompt[0])}</h5><div class="rs-scroll" tabindex="0" aria-label="Samples of one prompt by run"><table class="rs-samples">'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    more = (
        f'<p class="rs-quiet">{len(prompts) - _MOST_PROMPTS} more prompts are on the runs themselves.</p>'
        if len(prompts) > _MOST_PROMPTS
        else ""
    )
    same = "the same training step" if axis == "steps" else "about the same training time"
    return (
        f'<div class="rs-card"><h4>Samples side by side</h4><p class="rs-quiet">One prompt with one starting noise in each block; pictures above one '
        f"another were drawn after {same}{'; the last column is the end of each run' if ended else ''}.</p>{''.join(blocks)}{more}</div>"
    )


def settings_table(configs: Sequence[tuple[Side, Mapping[str, Any]]]) -> str:
    """The settings in which the runs differ."""
    differing = [
        name for name in OPTIONS if len({shown(flat.get(name, OPTIONS[name].default)) for _, flat in configs}) > 1
    ]
    if not differing:
        return '<div class="rs-card"><h4>Settings</h4><p>All settings are the same.</p></div>'
    heads = "".join(f'<th scope="col">{_key(side)}{text(side.name)}</th>' for side, _ in configs)
    rows = "".join(
        f"<tr><th scope='row'>{text(label(OPTIONS[name]))}</th>"
        + "".join(f"<td>{text(shown(flat.get(name, OPTIONS[name].default)))}</td>" for _, flat in configs) + "</tr>"
        for name in differing
    )  # fmt: skip
    return (
        f'<div class="rs-card"><h4>Settings that differ</h4><div class="rs-scroll" tabindex="0" aria-label="Settings that differ"><table class="rs-table">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div><p class='rs-quiet'>All others are the same.</p></div>"
    )


def control_card(kind: Kind, subject: RunSummary, runs: Sequence[RunSummary]) -> tuple[str, str, bool]:
    """(what stands on the card, words of its button or "" for none, whether it may be pressed)."""
    there = controls_of(subject, runs).get(kind)
    head = f"<b>{text(TITLES[kind])}</b><p>{text(MEANING[kind])}</p>"
    if there is not None and there.state not in ("failed", "crashed"):
        steps = f", step {there.step} of {there.total_steps}" if there.alive else ""
        words = _STATES.get(there.state, "training")
        return f'{head}<p class="rs-quiet">{text(there.name)}: {text(words + steps)}.</p>', "", False
    try:
        config = config_from_flat(RunDir(subject.path).read_config())
        plain = measured(subject) if kind == "plain-time" else None
        problem = why_not(kind, config, plain)
        how = control(kind, config, plain).how if problem is None else problem
    except (RunError, ConfigError) as error:
        problem = how = str(error)
    again = f" {there.name} {there.state}." if there is not None else ""
    return (
        f'{head}<p class="rs-quiet">{text(how + again)}</p>',
        "Queue this control" if there is None else "Queue it again",
        problem is None,
    )


# -- the panel -----------------------------------------------------------------------------------------------------------


class ComparePanel:
    """Builds the comparison in the current layout. It is drawn only while it is looked at, by a timer of its own."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.subject = gr.HTML(elem_id="compare-subject", elem_classes="rs-maybe")
        self.cards: dict[Kind, gr.HTML] = {}
        self.buttons: dict[Kind, gr.Button] = {}
        with gr.Row(elem_classes="rs-controls", equal_height=True):
            for kind in KINDS:
                with gr.Column(min_width=220):
                    self.cards[kind] = gr.HTML(elem_id=f"control-{kind}", elem_classes="rs-control")
                    self.buttons[kind] = gr.Button(
                        "Queue this control", size="sm", interactive=False, elem_id=f"queue-{kind}"
                    )
        with gr.Row():
            self.runs = gr.Dropdown(choices=[], value=[], multiselect=True, max_choices=MOST, label="Runs to compare (2 to 4)", scale=3, min_width=300,
                                    info="The others are set against the first.", elem_id="compare-runs")  # fmt: skip
            self.axis = gr.Radio([("training steps", "steps"), ("seconds of training", "seconds")], value="steps", label="At equal", scale=2, min_width=300,
                                 info="Rollout makes a step longer: look at both.", elem_id="compare-axis")  # fmt: skip
        self.said = gr.HTML(elem_id="compare-said", elem_classes="rs-maybe")
        self.charts = gr.HTML(elem_id="compare-charts", elem_classes="rs-maybe")
        self.samples = gr.HTML(elem_id="compare-samples", elem_classes="rs-maybe")
        self.settings = gr.HTML(elem_id="compare-settings", elem_classes="rs-maybe")
        self.seen = gr.State({})
        self.timer = gr.Timer(_TICK_S, active=False)

    @property
    def outputs(self) -> list[Any]:
        return [
            self.subject,
            *self.cards.values(),
            *self.buttons.values(),
            self.runs,
            self.said,
            self.charts,
            self.samples,
            self.settings,
            self.seen,
        ]

    def view(
        self, chosen: str | None, picked: Sequence[str] | None, axis: Axis, seen: Mapping[str, str]
    ) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `chosen`, compares `picked` (None = nothing chosen yet) and was shown `seen`."""
        last, out = dict(seen), {}
        runs = self.watch.runs()
        names = [run.name for run in runs]
        run = next((each for each in runs if each.name == chosen), self.watch.current())

        def draw(part: str, component: Any, mark: str, make: Callable[[], Any]) -> None:
            if last.get(part) != mark:
                out[component] = make()
                last[part] = mark

        picked = [name for name in (picked if picked is not None else []) if name in names]
        if run is not None:
            self._draw_controls(subject_of(run, runs), runs, last, out)
            default = default_choice(run, runs)
            if last.get("default") != signature(default):  # another run, or a new control of it
                last["default"], picked = signature(default), default
        if last.get("choices") != signature(names) or last.get("picked") != signature(picked):
            out[self.runs] = gr.update(choices=names, value=picked)
            last["choices"], last["picked"] = signature(names), signature(picked)
        axis = axis if axis in ("steps", "seconds") else "steps"
        chosen_runs = [next(each for each in runs if each.name == name) for name in picked[:MOST]]
        if len(chosen_runs) < 2:
            draw("said", self.said, signature("one", bool(runs)), lambda: _ONE_MORE if runs else "")
            for part in ("charts", "samples", "settings"):
                draw(part, getattr(self, part), "", lambda: "")
        else:
            all_sides = sides(chosen_runs, self.watch.log)
            who = [(side.name, side.run.created, side.run.state) for side in all_sides], axis
            looked = [(side.log.drifts, side.log.samples) for side in all_sides]
            # A training run tells several steps a second: the curves and times need not follow each of them.
            passed = [side.series.steps[-1] // 10 if len(side.series) else 0 for side in all_sides]
            draw("said", self.said, signature(who, looked, passed), lambda: comparison(all_sides, axis))
            draw("charts", self.charts, signature(who, looked, passed), lambda: curves(all_sides, axis))
            draw("samples", self.samples, signature(who, looked), lambda: samples(all_sides, axis, self.watch))
            draw("settings", self.settings, signature([each[0] for each in who[0]]), lambda: self._settings(all_sides))
        return {**out, self.seen: last} if out else gr.skip()

    def _draw_controls(
        self, subject: RunSummary, runs: Sequence[RunSummary], last: dict[str, str], out: dict[Any, Any]
    ) -> None:
        there = controls_of(subject, runs)
        who = (subject.name, subject.created, subject.state)
        if last.get("subject") != signature(subject.name):
            last["subject"] = signature(subject.name)
            out[self.subject] = (
                '<div class="rs-quiet">What a rollout gains may come from its extra time, or from noisier training. Three controls of '
                f"<b>{text(subject.name)}</b> tell these apart; they wait in the queue, and differ from it in nothing else.</div>"
            )
        for kind in KINDS:
            mine, plain = there.get(kind), there.get("plain-steps") if kind == "plain-time" else None
            mark = signature(who, mine and (mine.name, mine.state, mine.step), plain and (plain.name, plain.state))
            if last.get(f"control-{kind}") != mark:
                last[f"control-{kind}"] = mark
                out[self.cards[kind]], words, may = control_card(kind, subject, runs)
                out[self.buttons[kind]] = gr.Button(words, interactive=may, visible=words != "")

    @staticmethod
    def _settings(all_sides: Sequence[Side]) -> str:
        try:
            return settings_table([(side, RunDir(side.run.path).read_config()) for side in all_sides])
        except RunError as error:
            return f'<div class="rs-card rs-bad">{text(error)}</div>'

    def wire(self, mine: gr.Tab, others: Sequence[gr.Tab], picker: gr.components.Component) -> None:
        """Connect everything. `mine`: the tab that holds the panel; `picker`: which run the page shows."""
        inputs = [picker, self.runs, self.axis, self.seen]

        def shown(*given: Any) -> dict[Any, Any]:
            drawn = self.view(*given)
            return {
                **(drawn if isinstance(drawn, dict) and self.seen in drawn else {}),
                self.timer: gr.Timer(active=True),
            }

        mine.select(shown, inputs, [*self.outputs, self.timer], **_QUICK)
        for other in others:
            other.select(lambda: gr.Timer(active=False), None, self.timer, **_QUICK)
        gr.on(
            [self.timer.tick, self.axis.input, self.runs.input, picker.input], self.view, inputs, self.outputs, **_QUICK
        )
        for kind, button in self.buttons.items():
            button.click(functools.partial(self._queue, kind), inputs, self.outputs, **_QUICK)

    def _queue(self, kind: Kind, chosen: str | None, *rest: Any) -> Any:
        runs = self.watch.runs()
        run = next((each for each in runs if each.name == chosen), self.watch.current())
        if run is not None:
            try:
                made, planned = queue_control(self.watch.store, subject_of(run, runs).name, kind)
            except (RunError, ConfigError, OSError) as error:
                gr.Warning(str(error))
            else:
                gr.Info(f"{made.name} waits in the queue. {planned.how}")
        self.watch.runs(fresh=True)
        return self.view(chosen, *rest)
