"""Studies on the page: one or two options with several values each, over several seeds, begun with a press; below them how far each study is."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.config import OPTIONS
from ...core.config.options import ConfigError, did_you_mean, shown
from ...core.config.own_presets import find_preset
from ...core.config.presets import ROLLOUT_LEVELS, preset_names
from ...core.errors import Trouble
from ...core.runs.errors import RunError
from ...core.runs.rows import RunSummary
from ...core.study.begun import BegunStudy, begin, begun_studies, go_on, stop
from ...core.study.expected import StudyTime, study_time
from ...core.study.plan import Study, StudyError, study_of
from ...core.study.table import FOLDER
from ..parts import notices
from ..parts.forms import label
from ..parts.panel import QUICK, SLOW, UNSEEN
from ..parts.watch import Watch, signature
from ..parts.words import duration, text
from .shared import Changes, kept_or_first

LEVEL, NONE = "level", ""
_RUN, _PRESET = "run: ", "preset: "
_JUDGE = {"pictures": 32, "old_pictures": 40, "steps": 20}
_NOT_VARIED = ("seed", "concepts")


def variable_options() -> list[tuple[str, str]]:
    """What a study may vary, as (label, key): the level of rollout, then every option that has one value, in the order of the reference."""
    single = [
        option for name, option in OPTIONS.items() if not option.type.startswith("list") and name not in _NOT_VARIED
    ]
    return [("Level of rollout", LEVEL), *((f"{label(option)} ({option.name})", option.name) for option in single)]


def values_of(key: str, typed: str) -> list[Any]:
    """The values in a text field, checked one by one. Raises StudyError or ConfigError for none, or a wrong one."""
    parts = [part.strip() for part in typed.split(",") if part.strip()]
    if not parts:
        raise StudyError("There is no value for an option that was chosen.", "Write its values with commas between.")
    if key != LEVEL:
        return [OPTIONS[key].read(part, text=True) for part in parts]
    for part in parts:
        if part not in ROLLOUT_LEVELS:
            raise StudyError(
                f"{part} is no level of rollout.{did_you_mean(part, ROLLOUT_LEVELS)}",
                f"Levels: {', '.join(ROLLOUT_LEVELS)}.",
            )
    return list(parts)


class StudyPanel:
    """The form and the list, in the current layout."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        choices = variable_options()
        with gr.Accordion(
            "Study: train with other settings, and compare with intervals", open=False, elem_id="study"
        ) as self.fold:
            with gr.Row():
                self.name = gr.Textbox(
                    label="Name of the study", value="study-1", max_lines=1, max_length=20, elem_id="study-name"
                )
                self.base = gr.Dropdown(label="Everything else as in", choices=[], elem_id="study-base")
            with gr.Row():
                self.first = gr.Dropdown(label="Vary", choices=choices, value="learning_rate", elem_id="study-first")
                self.first_values = gr.Textbox(
                    label="Its values", value="", placeholder="0.0005, 0.001", max_lines=1, elem_id="study-first-values"
                )
            with gr.Row():
                self.second = gr.Dropdown(
                    label="And vary", choices=[("nothing else", NONE), *choices], value=NONE, elem_id="study-second"
                )
                self.second_values = gr.Textbox(
                    label="Its values, too", value="", placeholder="8, 16", max_lines=1, elem_id="study-second-values"
                )
            with gr.Row():
                self.seeds = gr.Slider(1, 10, value=3, step=1, label="Seeds", info="Below three nothing is said of significance.",
                                       elem_id="study-seeds")  # fmt: skip
                self.controls = gr.Checkbox(
                    value=True, label="Fair controls for every remedy", elem_id="study-controls"
                )
                self.judge = gr.Checkbox(
                    value=False, label="Let the demo's judge look (demo only)", elem_id="study-judge"
                )
            self.plan = gr.HTML(elem_id="study-plan", elem_classes="rs-maybe")
            self.begin = gr.Button("Queue the study", variant="primary", elem_id="study-begin")
            self.list = gr.HTML(elem_id="study-list", elem_classes="rs-maybe")
            with gr.Row(visible=False) as self.commands:
                self.which = gr.Dropdown(label="Study", choices=[], elem_id="study-which")
                self.go_on = gr.Button("Go on", size="sm", elem_id="study-go-on")
                self.stop = gr.Button("Stop", size="sm", elem_id="study-stop")

    @property
    def outputs(self) -> list[Any]:
        return [self.list, self.commands, self.which]

    @property
    def _fields(self) -> list[Any]:
        return [
            self.name,
            self.base,
            self.first,
            self.first_values,
            self.second,
            self.second_values,
            self.seeds,
            self.controls,
            self.judge,
        ]

    def written(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        """The study that the form describes, as its file would. Raises StudyError, ConfigError or RunError."""
        keys = [given[self.first], *([given[self.second]] if given[self.second] != NONE else [])]
        if len(set(keys)) < len(keys):
            raise StudyError(f"{keys[0]} is chosen twice.", "Vary another option, or nothing else.")
        texts = (given[self.first_values], given[self.second_values])
        grid = {key: values_of(key, str(typed)) for key, typed in zip(keys, texts, strict=False)}
        study: dict[str, Any] = {"study": str(given[self.name]).strip(), "grid": grid, "seeds": list(range(1, int(given[self.seeds]) + 1)),
                                 "controls": bool(given[self.controls])}  # fmt: skip
        if given[self.judge]:
            study["judge"] = dict(_JUDGE)
        return study | self._base(given)

    def _base(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        """What the study's runs have in common, as its file says it: a preset, or the settings of a run. Raises RunError for one that is gone."""
        kind, _, name = str(given[self.base] or f"{_PRESET}demo").partition(": ")
        return {"preset": name} if f"{kind}: " == _PRESET else {"config": self.watch.store.get(name).read_config()}

    def wire(self) -> None:
        def opened() -> Any:
            bases = [
                *(f"{_RUN}{run.name}" for run in self.watch.runs()[:50]),
                *(f"{_PRESET}{name}" for name in preset_names()),
            ]
            return {self.base: gr.Dropdown(choices=bases, value=f"{_PRESET}demo"), self.name: self._free_name()}

        def planned(given: Mapping[Any, Any]) -> Any:
            if not str(given[self.first_values]).strip():
                return {self.plan: f'<div class="rs-quiet">{text(self._now(given))}</div>'}
            try:
                study = study_of(self.written(given), "study", self.watch.store.root, self.watch.store.root)
                words = plan_words(study, study_time(study, self.watch.store.root))
            except (Trouble, ConfigError, RunError) as error:
                return {self.plan: f'<div class="rs-card rs-bad">{text(str(error))}</div>'}
            return {self.plan: f'<div class="rs-card">{text(words)}</div>'}

        def begun(given: Mapping[Any, Any]) -> Any:
            try:
                study = begin(self.written(given), self.watch.store)
            except (Trouble, ConfigError, RunError, OSError) as error:
                return {self.plan: f'<div class="rs-card rs-bad">{text(str(error))}</div>'}
            words = f"The study {study.name} has begun: {len(study.cells())} runs. They stand in the queue one after the other; this page need not stay open."
            return {self.plan: f'<div class="rs-card rs-good">{text(words)}</div>', self.name: self._free_name()}

        fields = self._fields
        self.fold.expand(opened, None, [self.base, self.name], **QUICK).then(planned, {*fields}, [self.plan], **QUICK)
        edits = [each.change for each in fields if each is not self.name]
        gr.on([*edits, self.name.blur], planned, {*fields}, [self.plan], trigger_mode="always_last", **QUICK)
        self.begin.click(begun, {*fields}, [self.plan, self.name], show_progress_on=[self.plan], **SLOW)
        for button, act in ((self.go_on, go_on), (self.stop, stop)):
            button.click(lambda name, act=act: self._commanded(act, name), self.which, None, **UNSEEN, **SLOW)

    def _now(self, given: Mapping[Any, Any]) -> str:
        """What the base has for the option that is varied."""
        key = given[self.first]
        if key == LEVEL:
            return f"Write its values with commas between, for example {', '.join(ROLLOUT_LEVELS)}."
        try:
            base = self._base(given)
            flat = base["config"] if "config" in base else find_preset(base["preset"], self.watch.store.root).changes
        except (Trouble, ConfigError, RunError):
            flat = {}
        value = flat.get(key, OPTIONS[key].default)
        return f"Write the values of {label(OPTIONS[key])} with commas between; there it is {shown(value)}."

    def _commanded(self, act: Any, name: str | None) -> None:
        try:
            if name is not None:
                act(name, self.watch.store)
        except (Trouble, RunError, OSError) as error:
            notices.warn(str(error))

    def _free_name(self) -> str:
        number, folder = 1, self.watch.store.root / FOLDER
        while (folder / f"study-{number}").exists():
            number += 1
        return f"study-{number}"

    def draw(self, runs: list[RunSummary], changes: Changes, chosen: str | None = None) -> None:
        """How far every study is, where the page has begun one. `chosen`: the one that the browser has chosen, which stays so."""
        studies = begun_studies(self.watch.store, runs)
        marks = [(each.name, each.alive, each.ended, each.last, _stamp(each)) for each in studies]
        changes.draw_many("studies", signature(marks), lambda: self._updates(studies, chosen))

    def _updates(self, studies: list[BegunStudy], chosen: str | None) -> dict[Any, Any]:
        names = [each.name for each in studies]
        return {
            self.list: "".join(self._card(each) for each in studies),
            self.commands: gr.Row(visible=bool(studies)),
            self.which: gr.Dropdown(choices=names, value=kept_or_first(chosen, names)),
        }

    def _card(self, study: BegunStudy) -> str:
        total = "" if study.total is None else f" of {study.total}"
        done = study.report is not None and not study.alive
        state = "finished" if done else "running" if study.alive else "not running"
        words = f"{study.ended}{total} runs have ended"
        report = ""
        if study.report is not None:
            name = f"{study.name}-report.html"
            address = self.watch.previews.named(study.report, name)
            report = f'<p><a class="rs-file" download="{text(name)}" href="{text(address)}"><b>{text(name)}</b></a></p>'
        last = "" if done or not study.last else f'<p class="rs-quiet">{text(study.last)}</p>'
        return f'<div class="rs-card" data-study="{text(study.name)}"><h3>{text(study.name)}: {state}</h3><p>{text(words)}.</p>{last}{report}</div>'


def _stamp(study: BegunStudy) -> int | None:
    return None if study.report is None else study.report.stat().st_mtime_ns


def plan_words(study: Study, expected: StudyTime) -> str:
    """Runs and time of a study, in two sentences."""
    own = sum(each.control is None for each in study.variants)
    more = len(study.variants) - own
    controls = f" and {more} control{'' if more == 1 else 's'}" if more else ""
    seeds = len(study.seeds)
    known = (
        f"Their steps take about {duration(expected.seconds)}"
        if expected.unknown < len(expected.variants)
        else "How long they take is not known before one like them has run here"
    )
    part = (
        f" without {expected.unknown} variants whose time is not known yet"
        if 0 < expected.unknown < len(expected.variants)
        else ""
    )
    return (
        f"{expected.runs} runs: {own} variants{controls}, {seeds} seed{'' if seeds == 1 else 's'}. {known}{part}; opening the model, samples and "
        f"measuring come on top. Compared with: {study.reference}."
    )
