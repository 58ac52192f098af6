"""Scheduled sampling on the Train tab: its levels, every option of it with its help, and drawn beside them what they do.

The ramp, the grid with a row's way on it, the cost, the blur and what is without effect are redrawn from the config at every edit.
"""

import re
from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.before.cost import plain_step_in_forwards, remedy_sentence, rollout_cost, waiting_sentence
from ...core.before.effects import (
    CAUTION,
    EXAMPLE_SIGMA,
    Blur,
    blur_table,
    example_row,
    idle_settings,
    least_noise_is_below_the_path,
    longest_rollout,
)  # fmt: skip
from ...core.before.loss_share import bands
from ...core.before.remarks import rollout_remarks
from ...core.config import (
    OPTIONS,
    ROLLOUT_LEVELS,
    RunConfig,
    probability_at,
    rollout_level,
    rollout_level_of,
    with_changes,
)
from ...core.config.options import ConfigError
from ...core.config.rules import PREFIX, ROLLOUT_OPTIONS, highest_chance, in_paper_mode, reflexflow_on
from ..parts.charts import Line, chart
from ..parts.forms import Form, label
from ..parts.panel import QUICK, FormPage
from ..parts.words import quantity, text
from .grid_picture import grid_picture, step_picture

OWN = "own numbers"
_LEVEL_CHOICES = [("Off", "off"), ("Gentle", "gentle"), ("Strong", "strong"), ("Own numbers", OWN)]

GROUPS = (
    ("a", "How far and how often", "which rows are rolled out, and from where",
     (("max_step_offset",), ("probability",), ("prob_start", "prob_end"), ("ramp_steps", "start_step"), ("ramp_shape", "strategy"), ("exact_share", "shared_offsets"))),
    ("b", "Grid and solver", "what one step is, and which solver takes it",
     (("grid", "grid_steps"), ("sampler", "order"), ("max_evaluations",), ("guidance", "control"))),
    ("c", "What it learns", "from the state at the end of the rollout",
     (("target",), ("min_sigma", "snr_gamma"), ("reflexflow",), ("reflexflow_mode", "reflexflow_step_gradient"), ("reflexflow_alpha", "reflexflow_norm"), ("reflexflow_beta1", "reflexflow_beta2"))),
)  # fmt: skip
"""Letter, title, what it is about, rows of options. An option of the section that is named nowhere here comes last."""

_BESIDE_THE_RAMP = 2  # rows of the first group

EITHER_OR = ("probability", "prob_start", "prob_end", "ramp_shape", "grid_steps", "order")
"""Options that another one puts out of use: their controls are switched off while it does. (A switched-off rollout leaves all controls
usable, so that it can be prepared.)"""


class RolloutPanel:
    """Builds the panel in the current layout."""

    def __init__(self, form: Form, config: RunConfig) -> None:
        self.form = form
        self.level = gr.Radio(
            choices=_LEVEL_CHOICES, value=level_of(config), label="Rollout: practise on its own output", elem_id="level",
            info="Some rows of a batch start farther out in the noise; the model denoises them itself, step by step, and learns "
            "from the state that it reaches. Gentle and strong are starting points; every number behind them is below. In our studies of the demo "
            "neither beat plain training, so it is off; a study of yours (Runs tab) tells whether it helps you.",
        )  # fmt: skip
        self.picture = gr.HTML(picture(config), elem_id="rollout-picture")
        self.see = gr.Button(
            "See this rollout on the Drift tab", size="sm", elem_id="see-rollout", visible=config.rollout.is_active
        )
        with (
            gr.Accordion("Scheduled sampling: every number", open=False, elem_id="rollout-numbers") as self.numbers,
            form.inside("#rollout-numbers"),
        ):
            for letter, title, about, rows in GROUPS:
                gr.HTML(
                    f'<div class="rs-part"><span>4{letter}</span>{text(title)}<small>{text(about)}</small></div>',
                    padding=False,
                )
                if letter == "a":
                    with gr.Row():
                        with gr.Column(scale=5, min_width=280):
                            self._place(rows[:_BESIDE_THE_RAMP])
                        with gr.Column(scale=4, min_width=260):
                            self.ramp = gr.HTML(ramp_panel(config), elem_id="ramp")
                    self._place(rows[_BESIDE_THE_RAMP:])
                else:
                    self._place(rows)
            self._place([(name.removeprefix(PREFIX),) for name in form.missing("rollout")])
            self.learns = gr.HTML(learning(config), elem_id="rollout-learns")

    def _place(self, rows: Any) -> None:
        for names in rows:
            with gr.Row():
                self.form.place(*(PREFIX + name for name in names), full=True)

    @property
    def inputs(self) -> list[Any]:
        return [self.level]

    @property
    def outputs(self) -> list[Any]:
        return [self.level, self.picture, self.see, self.numbers, self.ramp, self.learns]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        idle, controls = idle_settings(config), self.form.components
        switched = {
            control: gr.update(interactive=not config.rollout.is_active or PREFIX + name not in idle)
            for name in EITHER_OR for control in (controls[PREFIX + name], self.form.sliders.get(PREFIX + name)) if control is not None
        }  # fmt: skip
        return {
            **switched,
            self.level: level_of(config),
            self.picture: picture(config),
            self.see: gr.update(visible=config.rollout.is_active),
            self.ramp: ramp_panel(config),
            self.learns: learning(config),
        }

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        return {}

    def wire(self, page: FormPage) -> None:
        def on_level(given: Mapping[Any, Any]) -> dict[Any, Any]:
            """A level writes its numbers into the form; "own numbers" leaves them as they are."""
            level = given[self.level]
            try:
                config = page.form.read(given)
                changes = rollout_level(level, config.training.max_train_steps) if level in ROLLOUT_LEVELS else {}
                changed = with_changes(config, changes)
            except ConfigError as error:
                return page.refused(given, error)
            return {
                **page.filled(given, changed, changes),
                self.level: level,
                **({self.numbers: gr.update(open=True)} if level == OWN else {}),
            }

        self.level.input(on_level, page.inputs, page.outputs, **QUICK)


def level_of(config: RunConfig) -> str:
    """The named level of a config, or `OWN`."""
    level = rollout_level_of(config)
    return OWN if level is None else level


# What the settings do, drawn -------------------------------------------------------------------------------------------------


def picture(config: RunConfig) -> str:
    """A rolled row at a glance, the cost, and what is without effect. With rollout off only a sentence."""
    if not config.rollout.is_active:
        return f'<div class="rs-roll"><p>{text(cost_sentence(config))}</p>{_without_effect(config)}</div>'
    example, control = example_row(config), config.rollout.control == "source_noise"
    if in_paper_mode(config):
        path = example.schedule.path
        drawn = step_picture(example.schedule, path.at(path.time_of_sigma(EXAMPLE_SIGMA)))
    else:
        drawn = grid_picture(example, solver_words(config), control)
    floor = (
        ""
        if in_paper_mode(config)
        else f" Grey on the left: targets below sigma {quantity(example.floor.sigma)}, where nothing is rolled out."
        if example.floor is not None
        else ""
    )
    source = f'<p class="rs-quiet">{text(example.schedule.text + floor)}</p>'
    return f'<div class="rs-roll"><h3>What happens to a rolled row</h3>{_story(config)}{drawn}{source}{_cost(config)}{_without_effect(config)}</div>'


def solver_words(config: RunConfig) -> str:
    """The solver in words: "unipc of order 2, which uses one previous step"."""
    rollout, longest = config.rollout, longest_rollout(config)
    if in_paper_mode(config):
        return "one Euler step of any length (the paper's mode)"
    words = rollout.sampler
    if rollout.sampler in ("unipc", "dpm"):
        history = (
            "which uses no previous step"
            if rollout.order == 1
            else "which uses one previous step"
            if rollout.order == 2
            else "which uses two previous steps"
        )
        words = f"{rollout.sampler} of order {rollout.order}, {history}"
    elif rollout.sampler == "rk4":
        words = "rk4, four evaluations of the network a step"
    if rollout.max_step_offset == 1 and rollout.sampler != "rk4":
        words += " (over one step euler, dpm and unipc are the same)"
    if longest.forwards == 2:
        words += f", with guidance {quantity(rollout.guidance)}, which doubles each evaluation"
    return words


def _story(config: RunConfig) -> str:
    rollout = config.rollout
    far = rollout.max_step_offset
    choice = _choice(config)
    chosen = f"{choice} Its picture gets extra noise: up to {far} grid step{'' if far == 1 else 's'} too much."
    if rollout.control == "source_noise":
        return (
            f"<ol><li><b>Start.</b> {text(chosen)}</li><li><b>Control.</b> No rollout: the row is trained right there as a plain row, to measure what "
            "of a rollout's effect is only its noisier training.</li></ol>"
        )
    if in_paper_mode(config):
        return (
            f"<ol><li><b>Start.</b> {text(choice)} At the noise level that it drew it "
            'learns as a plain row does.</li><li><b>Rollout.</b> The answer that it learns on also takes one step towards the picture, of any length. '
            'Its mistake stays in.</li><li class="rs-at"><b>Learn again.</b> Where it arrives, a second pass is taught the direction away from the true '
            "picture. All other rows are plain.</li></ol>"
        )  # fmt: skip
    return (
        f"<ol><li><b>Start.</b> {text(chosen)}</li><li><b>Rollout.</b> The model takes the noise away by itself: {text(solver_words(config))}. Its mistakes stay in.</li>"
        '<li class="rs-at"><b>Learn.</b> Where it arrives, with those mistakes, it is taught '
        f"{'the way from there to the true picture' if rollout.target == 'consistent' else 'as if it had not drifted'}. All other rows are plain.</li></ol>"
    )


def _choice(config: RunConfig) -> str:
    share, shared = quantity(100 * highest_chance(config), 3), config.rollout.shared_offsets
    draws = ""
    if shared and not in_paper_mode(config):
        draws = f"A step draws {shared} time{'' if shared == 1 else 's'}, each for its part of the rows. "
    if config.rollout.exact_share:
        return f"{draws}Up to {share} % of the rows of a step are chosen, equally many in every step. Take one of them."
    return f"{draws}With a chance of up to {share} % a row is chosen."


def cost_sentence(config: RunConfig) -> str:
    """What the rollout costs, in one sentence; an honest one when it is off."""
    other = remedy_sentence(config)
    if other is not None:
        return f"No rollout. {other}"
    if not config.rollout.is_active:
        return "No rollout: nothing is practised on the model's own output, and a step costs what a plain step costs."
    if not config.rollout.rolls_out:
        return "No extra forwards: this is a control without rollouts, and a step costs what a plain step costs."
    cost, kind = rollout_cost(config), _plain_step(config)
    return (
        f"+{quantity(cost.peak_forwards, 2)} extra forwards per row on average at the highest chance, up to {cost.most_forwards} for one row: about "
        f"{quantity(cost.peak_ratio, 3)}x {kind} there. Yours, over the whole run: {quantity(cost.mean_ratio, 3)}x."
    )


def _plain_step(config: RunConfig) -> str:
    training = config.training
    kind = "a plain LoRA step" if training.model_type == "lora" else "a plain full fine-tuning step"
    return kind + (" with gradient checkpointing" if training.gradient_checkpointing else "")


def _cost(config: RunConfig) -> str:
    if not config.rollout.rolls_out:
        return f'<p class="rs-quiet">{text(cost_sentence(config))}</p>'
    cost, longest = rollout_cost(config), longest_rollout(config)
    steps = f"{longest.steps} step{'' if longest.steps == 1 else 's'}"
    parts = f"{steps} × {longest.evaluations * longest.forwards} forward{'' if longest.evaluations * longest.forwards == 1 else 's'}"
    if in_paper_mode(config):
        parts = f"a second gradient pass, {quantity(longest.second_pass)} forwards"
    parts += " + 1 forward on the clean state (ReflexFlow)" if longest.clean else ""
    c = plain_step_in_forwards(config.training.model_type, config.training.gradient_checkpointing)
    unknown = (
        " ReflexFlow is counted; it drops out if the model is not a flow model."
        if reflexflow_on(config) is None
        else ""
    )
    facts = (
        (f"+{quantity(cost.peak_forwards, 2)} forwards", "per row on average, at the highest chance"),
        (f"up to {quantity(cost.most_forwards)}", f"for the longest rollout: {parts}"),
        (f"{quantity(cost.peak_ratio, 3)}x", f"{_plain_step(config)}, at the highest chance"),
        (f"yours: {quantity(cost.mean_ratio, 3)}x", "on average over the whole run"),
    )
    cells = "".join(f"<div><b>{text(value)}</b><span>{text(words)}</span></div>" for value, words in facts)
    note = (
        f"A forward is one pass of the network without learning; {_plain_step(config)} costs about {quantity(c)} of them (forward and backward)."
        f"{'' if in_paper_mode(config) else ' Counted before offsets are cut at the noisy end, so an upper estimate.'}{unknown} Rollout is experimental: compare with a plain run."
    )
    if wait := waiting_sentence(config):
        note += f" {wait}"
    return f'<div class="rs-cost">{cells}</div><p class="rs-quiet">{text(note)}</p>'


def ramp_panel(config: RunConfig) -> str:
    """The chance of a rollout over the run, drawn, and its cost."""
    cost = f'<p class="rs-quiet">{text(cost_sentence(config))}</p>'
    if not config.rollout.is_active:
        return cost
    steps, rollout = config.training.max_train_steps, config.rollout
    # A jump is drawn as one: the step before it is a point too.
    marks = {0, steps, rollout.start_step - 1, rollout.start_step, rollout.start_step + rollout.ramp_steps}
    xs = sorted({round(index * steps / 100) for index in range(101)} | {mark for mark in marks if 0 <= mark <= steps})
    line = Line("chance that a row is rolled out", xs, [probability_at(rollout, x) for x in xs], "rolled")
    top = max(0.1, 1.15 * max(line.ys))
    return (
        chart(
            [line],
            title="The ramp",
            x_label="training step",
            y_range=(0, min(1.0, top)),
            x_range=(0, steps),
            height=150,
        )
        + cost
    )


# What a rolled row learns -----------------------------------------------------------------------------------------------------


def learning(config: RunConfig) -> str:
    """What a rolled row is taught, and how much contrast a rollout leaves even to a perfect model."""
    if not config.rollout.is_active:
        return ""
    return f'<div class="rs-roll">{_loss(config)}{_blur(config)}{_carriers(config)}</div>'


def _loss(config: RunConfig) -> str:
    rollout = config.rollout
    if not rollout.rolls_out:
        return "<p>The chosen rows have the plain loss at the noise level of their start.</p>"
    if in_paper_mode(config):
        plain = (
            "<p><b>A chosen row is taught</b> the plain target at the noise level that it drew, and where one step from there arrives, the direction "
            "away from the true picture.</p>"
        )
    else:
        aim = (
            "the output that leads from where it really arrived to the true picture" if rollout.target == "consistent"
            else "the output of the pair it started from, as if it had not drifted"
        )  # fmt: skip
        least = text(quantity(rollout.min_sigma))
        below = least_noise_is_below_the_path(config)
        floor = (
            f"no row has less noise than sigma {least}"
            if below
            else f"rows whose target has less noise than sigma {least} are left plain"
        )
        plain = f"<p><b>A rolled row is taught</b> {aim}; {floor}.</p>"
    on = reflexflow_on(config)
    if on is False:
        return plain + "<p>Its loss is the ordinary one (ReflexFlow is off here).</p>"
    weight = (
        f"weighted by the frequencies that the drift damages (strength {quantity(rollout.reflexflow_alpha)}, divided by their {rollout.reflexflow_norm})"
        if rollout.reflexflow_alpha > 0 else "not weighted by frequency"
    )  # fmt: skip
    where = "where it started" if rollout.reflexflow_mode == "paper" else "where it arrived"
    also = (
        " The second pass also teaches the answer that made the step."
        if in_paper_mode(config) and rollout.reflexflow_step_gradient
        else ""
    )
    if_flow = " (if the model is a flow model: its files cannot be asked here)" if on is None else ""
    return plain + (
        f"<p><b>Its loss with ReflexFlow</b>{if_flow} = {text(quantity(rollout.reflexflow_beta2))} × the ordinary error {where}, {text(weight)} + "
        f"{text(quantity(rollout.reflexflow_beta1))} × how far its direction is off{' there' if rollout.reflexflow_mode != 'paper' else ' where the step arrives'}.{also}</p>"
    )


def _blur(config: RunConfig) -> str:
    rollout = config.rollout
    table = blur_table(config)
    if table is None or not table:
        if not rollout.rolls_out:
            why = "No row is rolled out, so nothing is blurred by it."
        elif in_paper_mode(config):
            why = (
                "In the paper's mode the ordinary error is taken where the row starts, so the rollout does not blur it."
            )
        elif table is None:
            why = 'How much the target "original" blurs is known for flow models only; for this one it is not.'
        else:
            why = "Rows with so little noise are not rolled out."
        return f'<p class="rs-quiet">{text(why)}</p>'
    offsets = list(table[0].factors)
    head = "".join(f'<th scope="col">{text(k)} step{"" if k == 1 else "s"}</th>' for k in offsets)
    rows = "".join(
        f'<tr><th scope="row">sigma {text(quantity(row.sigma))}</th>{"".join(_cell(row, k) for k in offsets)}</tr>'
        for row in table
    )
    assumed = (
        " The grid is assumed (see above), and so are these numbers." if example_row(config).schedule.assumed else ""
    )
    return (
        f'<div class="rs-scroll"><table class="rs-blur"><caption>Contrast that is left after a rollout to a noise level</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div><p>{text(_blur_sentence(table))}</p>"
        f'<p class="rs-quiet">{text("Computed for random data (unit Gaussian), where it is known exactly; real pictures differ in size, not in kind. Short offsets, a chance below 1 and plain rows keep it small." + assumed)}</p>'
    )


def _cell(row: Blur, k: int) -> str:
    actual, factor = row.factors[k]
    share = f"{quantity(100 * factor, 2)} %"
    cut = f" <small>(cut to {actual})</small>" if actual < k else ""
    return f'<td style="--f:{factor:.3f}">{text(share)}{cut}</td>'


def _blur_sentence(table: list[Blur]) -> str:
    """The farthest rollout to the level at which most rows train."""
    row = next((each for each in table if each.sigma == 0.75), table[-1])
    k, (actual, factor) = list(row.factors.items())[-1]
    cut = f" (cut to {actual} here)" if actual < k else ""
    return (
        f"Even a perfect model can show only {quantity(100 * factor, 2)} % of the contrast after a rollout of {k} step{'' if k == 1 else 's'}{cut} to "
        f"noise level {quantity(row.sigma)}: on its way it learns nothing new about the picture, so it knows only what its noisier start showed."
    )


def _carriers(config: RunConfig) -> str:
    """The loss of the rolled rows by noise level, without and with its bound; empty where there is nothing to bound."""
    found = bands(config)
    if found is None:
        return ""
    held = config.rollout.snr_gamma > 0
    columns = ("rows", "loss without a bound", *(("loss with the bound", "an error counts") if held else ()))
    head = "".join(f'<th scope="col">{text(each)}</th>' for each in columns)
    body = ""
    for band in found:
        shares = (band.rows, band.unbounded, *((band.bounded,) if held else ()))
        cells = "".join(f'<td style="--f:{share:.3f}">{text(quantity(100 * share, 2))} %</td>' for share in shares)
        cells += f"<td>× {text(quantity(band.weight, 2))}</td>" if held else ""
        body += f'<tr><th scope="row">up to sigma {text(quantity(band.sigma, 2))}</th>{cells}</tr>'
    clean = found[0]
    rows, free, kept = (f"{quantity(100 * share, 2)} %" for share in (clean.rows, clean.unbounded, clean.bounded))
    summary = (
        f"The cleanest {rows} of the rows would carry {free} of the loss of all rolled rows; bounded at a signal-to-noise ratio of "
        f"{quantity(config.rollout.snr_gamma)} they carry {kept}. Plain rows keep their weight."
        if held else f"The cleanest {rows} of the rows carry {free} of the loss of all rolled rows: nothing bounds it."
    )  # fmt: skip
    return (
        f'<div class="rs-scroll"><table class="rs-blur rs-carriers"><caption>The loss of the rolled rows, by noise level</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div><p>{text(summary)}</p>"
    )


# What does nothing ------------------------------------------------------------------------------------------------------------


def _without_effect(config: RunConfig) -> str:
    """The remarks about the rollout, with the names that the controls have."""
    remarks = [remark for remark in rollout_remarks(config) if not remark.startswith(CAUTION)]
    if not remarks:
        return ""
    return f'<div class="rs-idle-list" role="status">{"".join(f"<p>{_named(remark)}</p>" for remark in remarks)}</div>'


_NAMES = re.compile("|".join(sorted(map(re.escape, ROLLOUT_OPTIONS), key=len, reverse=True)))
_BARE = re.compile(
    r"\b(?:"
    + "|".join(
        sorted(
            (re.escape(name.removeprefix(PREFIX)) for name in ROLLOUT_OPTIONS if "_" in name.removeprefix(PREFIX)),
            key=len,
            reverse=True,
        )
    )
    + r")\b"
)


def _named(remark: str) -> str:
    """A remark as markup, its option names replaced by the labels of the controls."""
    marked = text(remark)
    marked = _NAMES.sub(lambda found: f"\0{found[0].removeprefix(PREFIX)}\0", marked)
    marked = _BARE.sub(
        lambda found: found[0] if marked[found.start() - 1 : found.start()] == "\0" else f"\0{found[0]}\0", marked
    )
    return re.sub(
        "\0(.*?)\0",
        lambda found: f'<b title="{PREFIX}{found[1]}">{text(label(OPTIONS[PREFIX + found[1]]))}</b>',
        marked,
    )
