"""The Train tab: numbered from top to bottom, from a preset to Start; what will be trained is always in view beside it.

Its steps are panels (`panel.py`) over one form; this module lays them out and lets all of them follow every change.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import gradio as gr

from ...core.before.estimate import estimate
from ...core.config import OPTIONS, SECTIONS, RunConfig, differences, load_preset, preset_name, preset_names
from ...core.config.options import ConfigError, Fault
from ...core.errors import Trouble
from ...core.findings import Finding, has_errors
from ...core.platform_calls import device_name
from ...core.runs.errors import RunError
from ...core.runs.folder import check_name
from ...core.texts import translated
from ..parts import notices
from ..parts.cards import findings_card, problems
from ..parts.forms import Form, label, page_sections
from ..parts.panel import QUICK, SLOW, UNSEEN, Panel
from ..parts.unchanged import without_unchanged
from ..parts.watch import Watch
from .draft import Draft
from .estimate_card import takes_card, takes_line
from .find_option import FindOption
from .idle_marks import idle_sheet
from .keep_panel import KeepPanel
from .model_panel import ModelPanel, preset_cards, start_note
from .pictures.panel import PicturesPanel
from .rollout_panel import RolloutPanel
from .steps import MODEL, PICTURES, ROLLOUT, SETTINGS, START, Steps
from .summary import side_panel

FIRST = "demo"
_CAPTION = "instance_prompt"
_NAME, _NAME_RULE = "run name", "Letters, digits, dots, hyphens and underscores; up to 64."

_SHOW_FINDINGS = "() => document.querySelector('#findings').scrollIntoView({block: 'center'})"
# After Start: to what stands in the way, where there is something; else to the top of the run's page.
_SHOW_WHAT_STOPS = """() => {
  const bad = document.querySelector('#findings .rs-bad');
  if (bad && bad.offsetParent) bad.scrollIntoView({block: 'center'}); else window.scrollTo(0, 0);
}"""

HERO = """
<div class="rs-hero">
<h2>Teach a picture model one new thing</h2>
<p>A few pictures are enough. While it learns it can also practise on its own output (<em>rollout</em>); before and after, you see how far it <em>drifts</em>.</p>
</div>
"""


class TrainTab:
    """Builds the tab in the current layout; `wire` connects it once the tabs around it exist. It is the panels' `FormPage`."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.marked = gr.State([])
        self.draft = Draft()
        first = FIRST if FIRST in preset_names() else preset_names()[0]
        config = load_preset(first)
        self.form = form = Form(config)

        gr.HTML(HERO)
        with gr.Row(elem_classes="rs-two"):
            with gr.Column(scale=7, min_width=320):
                self.find = FindOption()
                preset = preset_cards(first)
                self.keep = KeepPanel(form, watch, preset)
                self.steps = Steps(form, config)
                self._build_steps(config, preset)
            with gr.Column(scale=4, min_width=300, elem_classes="rs-side"):
                with gr.Column(elem_classes="rs-go"):
                    self.start_hero = gr.Button(
                        _start_words(config, first), variant="primary", size="lg", elem_id="start-hero"
                    )
                    self.note = gr.HTML(start_note(config, first), elem_id="start-note")
                self.side = gr.HTML(self._side(config, first), elem_id="side")
                self.reset = gr.Button("Back to the preset", size="sm", elem_id="reset")
                self.idle = gr.HTML(idle_sheet(config), visible="hidden", elem_id="idle-marks")

        self.panels: list[Panel] = [self.model, self.pictures, self.rollout, self.keep]
        self.checked = [self.findings, self.takes]
        fields = form.components
        self.inputs = {
            *form.inputs(),
            self.name,
            self.marked,
            *(each for panel in self.panels for each in panel.inputs),
        }
        # Whatever a handler changes, it also says at the fields what is wrong there now.
        self.outputs = [*fields.values(), *form.sliders.values(), self.draft.state, self.name, self.marked, self.side, self.idle, *self.steps.outputs, self.start_hero, self.start, self.note, self.findings, self.takes,
                        *(each for panel in self.panels for each in panel.outputs)]  # fmt: skip

    def _build_steps(self, config: RunConfig, preset: gr.Radio) -> None:
        form, step = self.form, self.steps.step
        with step(MODEL):
            self.model = ModelPanel(form, preset, self.watch)
        with step(PICTURES):
            self.pictures = PicturesPanel(form, config, self.watch, self.model.preset)
        with step(SETTINGS):
            with gr.Row():
                form.place("max_train_steps", "learning_rate", "lora_rank")
            with gr.Row():
                form.place("resolution", "train_batch_size", "seed")
            form.place("validation_prompts")
            with gr.Accordion("All settings", open=False, elem_id="all-settings"), gr.Tabs():
                for section in (each for each in page_sections() if each != ROLLOUT):  # a step of its own
                    title = SECTIONS[section].title
                    with (
                        gr.Tab(title, id=f"settings-{section}"),
                        form.inside("#all-settings", f"tab:{translated(title)}"),
                    ):
                        self._section(section)
        with step(ROLLOUT):
            self.rollout = RolloutPanel(form, config)
        form.check_complete()
        self.find.fill(form)
        with step(START):
            self.name = gr.Textbox(label="Name of the run", placeholder="made from the preset and the time", max_lines=1, elem_id="run-name",
                                   info=_NAME_RULE)  # fmt: skip
            with gr.Row():
                self.check = gr.Button("Check first", elem_id="check")
                self.probe = gr.Button("Measure the memory", elem_id="probe")
                self.start = gr.Button(_start_words(config, preset.value), variant="primary", elem_id="start")
            self.takes = gr.HTML(elem_id="takes", elem_classes="rs-maybe")
        # Below the steps: both Start buttons answer here, also while the last step is closed.
        self.findings = gr.HTML(elem_id="findings", elem_classes="rs-maybe")

    def _section(self, section: str) -> None:
        simple, advanced = (self.form.missing(section, level) for level in ("simple", "advanced"))
        elsewhere = [OPTIONS[name] for name in self.form.components if OPTIONS[name].section == section]
        if elsewhere:
            gr.Markdown(f"Above: {', '.join(label(option) for option in elsewhere)}.", elem_classes="rs-quiet")
        for names, title in ((simple, None), (advanced, "Advanced")):
            if not names:
                continue
            # Where simple options stand above, the advanced ones are folded; alone they are the tab.
            folded, fold = title is not None and bool(simple), f"advanced-{section}"
            with (
                gr.Accordion(title, open=False, elem_id=fold) if folded else nullcontext(),
                self.form.inside(f"#{fold}") if folded else nullcontext(),
            ):
                for pair in range(0, len(names), 2):
                    with gr.Row():
                        self.form.place(*names[pair : pair + 2], full=True)

    # -- events ---------------------------------------------------------------------------------------------------------

    def wire(self, tabs: gr.Tabs, picker: gr.components.Component) -> None:
        """Connect everything. `tabs` and `picker` are where a started run is shown."""
        edits = [each.input for each in self.form.components.values()]
        # A text field reports typing, but not of what is pasted or cut: that is taken when the field is left.
        # The folder with pictures is for `PicturesPanel.on_folder` then, because the words in other fields may change with it.
        folder = self.form.components["instance_data_dir"]
        edits += [
            each.blur for each in self.form.components.values() if isinstance(each, gr.Textbox) and each is not folder
        ]
        gr.on([*edits, self.name.input], self.on_edit, self.inputs, self.outputs, trigger_mode="always_last", **QUICK)
        for name, slider in self.form.sliders.items():
            field, same = self.form.components[name], {"fn": None, "js": "value => value", **QUICK}
            slider.input(inputs=slider, outputs=field, **same).then(
                self.on_edit, self.inputs, self.outputs, trigger_mode="always_last", **QUICK
            )
            field.change(inputs=field, outputs=slider, **same)
        for panel in self.panels:
            panel.wire(self)
        self.steps.wire()
        # What a custom component is sent before it was ever in view is lost (Gradio 6.31): the pictures come when their step opens.
        pictures = self.pictures
        self.steps.folds[PICTURES].expand(
            pictures.on_change,
            self.inputs,
            [pictures.editor, pictures.checks, pictures.classes],
            **SLOW,
            **UNSEEN,
        )
        self.reset.click(self.on_reset, self.inputs, self.outputs, **QUICK)
        slow = {"show_progress_on": [self.findings], **SLOW}
        self.check.click(self.on_check, self.inputs, self.outputs, **slow).then(None, js=_SHOW_FINDINGS)
        self.probe.click(self.on_probe, self.inputs, self.outputs, **slow).then(None, js=_SHOW_FINDINGS)
        for button in (self.start_hero, self.start):
            button.click(self.on_start, self.inputs, [*self.outputs, tabs, picker], **slow).then(
                None, js=_SHOW_WHAT_STOPS
            )

    def marks(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Every fault at its field, the run's name among them."""
        updates, wrong = self.form.marks(given, [name for name in given[self.marked] if name != _NAME])
        problem = _name_problem(given[self.name])
        if problem is not None or _NAME in given[self.marked]:
            updates[self.name] = gr.update(
                info=_NAME_RULE if problem is None else f"⚠ {problem}",
                elem_classes=[] if problem is None else ["rs-wrong"],
            )
        return {**updates, self.marked: [*wrong, *([] if problem is None else [_NAME])]}

    def on_edit(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        changed = self.model.changed(given)
        if changed:  # the last check was of another model
            changed |= dict.fromkeys(self.checked, "")
        try:
            config = self.form.read(given)
        except ConfigError as error:
            return {**self.refused(given, error), **changed}
        preset = given[self.model.preset]
        # A level or a tier that is clicked while this answer travels stays clicked.
        drawn = without_unchanged(_together(self._drawn(config, preset), self.marks(given)), given)
        return {**drawn, **changed, **self.draft.kept(config, preset, given[self.name])}

    def refused(self, given: Mapping[Any, Any], error: ConfigError) -> dict[Any, Any]:
        """See `FormPage`."""
        return {self.side: problems(error.faults), **self._told_of_model(given), **self.marks(given)}

    def _told_of_model(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """The texts about the model follow it, though something else in the form may be wrong."""
        try:
            return self.model.cards(given[self.model.preset], self.model.named(given))
        except ConfigError:  # the chosen preset is gone; that is what is shown
            return {}

    def filled(
        self, given: Mapping[Any, Any], config: RunConfig, only: Iterable[str] | None = None, preset: str | None = None
    ) -> dict[Any, Any]:
        """See `FormPage`. `preset`: what the differences are counted from; None = the chosen one."""
        only = None if only is None else list(only)
        shown_values = self.form.show(config, only)
        marks = self.form.valued(self.marks({**given, **shown_values}), shown_values)
        pictures = only is None or any(OPTIONS[name].section == "data" for name in only)
        model = only is None or any(OPTIONS[name].section == "model" for name in only)
        preset = given[self.model.preset] if preset is None else preset
        updates = _together(self._drawn(config, preset, scan_pictures=pictures), marks, self.form.slid(config, only))
        updates |= self.draft.kept(config, preset, given[self.name])
        if pictures:
            for panel in self.panels:
                updates |= panel.reread(config)
        if model:
            updates |= self.model.put(config)
        if pictures or model:
            updates |= dict.fromkeys(self.checked, "")
        return updates

    def take_run(self, given: Mapping[Any, Any], name: str) -> dict[Any, Any]:
        """The form with the settings of a run, to be changed and started under another name."""
        wanted = self.watch.store.free_name(name)
        return {**self.keep.take_run(self, {**given, self.name: wanted}, name), self.name: wanted}

    def _drawn(self, config: RunConfig, preset: str, scan_pictures: bool = False) -> dict[Any, Any]:
        try:
            load_preset(preset)
        except ConfigError as error:  # one of the person's own that was deleted or broken meanwhile
            return {self.side: problems(error.faults, "Please choose a preset again")}
        words = _start_words(config, preset)
        updates = {
            self.side: self._side(config, preset, scan_pictures),
            self.idle: idle_sheet(config),
            self.start_hero: words,
            self.start: words,
            self.note: start_note(config, preset),
            **self.steps.drawn(config),
        }
        return _together(updates, self.form.reaches(config), *(panel.drawn(config, preset) for panel in self.panels))

    def _side(self, config: RunConfig, preset: str, scan_pictures: bool = True) -> str:
        """`scan_pictures`: read pictures that were not read yet, too slow for every keystroke."""
        return side_panel(config, preset, takes_line(estimate(config, self.watch.store.root, scan_pictures)))

    def on_reset(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Every setting as the chosen preset has it."""
        try:
            return self.filled(given, load_preset(given[self.model.preset]))
        except ConfigError as error:  # one of the person's own that was deleted or broken meanwhile
            return {self.side: problems(error.faults, "Please choose a preset again")}

    def restored(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """A fresh or reloaded page: the form as this browser last left it; a newcomer's stays as it is."""
        kept = self.draft.read(given[self.draft.state])
        if kept is None:
            return self.keep.lists(given[self.model.preset], self.model.named(given))
        config, preset, name = kept
        try:
            load_preset(preset)
        except ConfigError:
            preset = FIRST  # one of the person's own is gone: its settings are still here, compared with the first one
        model = config.model.pretrained_model_name_or_path
        return {
            **self.filled({**given, self.name: name}, config, preset=preset),
            **self.keep.lists(preset, model),
            **self.keep.chosen(preset, model),
            # A value for a field in a closed step lands some time after the step opens (Gradio 6.31), over what was typed until then.
            **({} if name == _text(given[self.name]) else {self.name: name}),
        }

    def on_check(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        return self._checked(given)[0]

    def _checked(self, given: Mapping[Any, Any]) -> tuple[dict[Any, Any], RunConfig | None]:
        """(the updates that show what the check found, the config where its preflight found no error)."""
        try:
            config = self.form.read(given)
        except ConfigError as error:
            return {self.findings: problems(error.faults), **self.marks(given)}, None
        before = self._preflight(config)
        found = [*self.pictures.unsaved(given), *before]
        takes = takes_card(estimate(config, self.watch.store.root), config)
        updates = {
            self.findings: findings_card(found, "Nothing stands in the way. Press Start."),
            self.takes: takes,
            **self._at_captions(given, found),
        }
        return updates, None if has_errors(before) else config

    def on_probe(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Check, then take a few steps in a process of their own; the estimate is then what they took."""
        from ...core.before.probes import run_probe

        (checked, config), store = self._checked(given), self.watch.store
        if config is None:
            return checked
        busy = [
            run.name
            for run in self.watch.runs(fresh=True)
            if run.alive and run.device == device_name(config.model.device)
        ]
        if busy:
            words = f"{', '.join(busy)} is training on this device: the measurement would disturb it, and be disturbed."
            return {**checked, self.findings: problems([Fault(words)], "Not measured")}
        try:
            run_probe(config, store.root)
        except (Trouble, OSError) as error:
            return {**checked, self.findings: problems([Fault(str(error))], "The steps could not be taken")}
        return {
            **checked,
            self.takes: takes_card(estimate(config, store.root), config),
            self.side: self._side(config, given[self.model.preset]),
        }

    def on_start(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Validate again, check, create the run, start it or queue it behind the one that is training."""
        try:
            config = self.form.read(given)
            problem = _name_problem(given[self.name])
            if problem is not None:
                raise RunError(problem)
        except (ConfigError, RunError) as error:
            notices.warn("Some settings cannot be used; see below Start.")
            faults = error.faults if isinstance(error, ConfigError) else [Fault(str(error))]
            return {self.findings: problems(faults), **self.marks(given)}
        found = [*self.pictures.unsaved(given), *self._preflight(config)]
        if has_errors(found):
            notices.warn("This cannot start yet; see below Start.")
            return {self.findings: findings_card(found), **self._at_captions(given, found)}
        store = self.watch.store
        try:
            name = given[self.name].strip() if given[self.name] else None
            run = store.create(config, name if name else None, preset=preset_name(given[self.model.preset]))
            store.enqueue(run.name)
        except (RunError, OSError) as error:
            notices.warn(f"The run could not be made: {error}")
            return {self.findings: problems([Fault(str(error))])}
        runs = self.watch.runs(fresh=True)
        mine = next(summary for summary in runs if summary.name == run.name)
        if mine.state == "queued":
            ahead = [other.name for other in runs if other.alive and other.device == mine.device]
            notices.inform(f"Queued: it starts by itself after {', '.join(ahead) if ahead else 'the others'}.")
        elif mine.state == "failed":
            notices.warn(f"The run could not start: {mine.message}")
        return {
            self.findings: findings_card([f for f in found if f.level == "warning"]) if found else "",
            **self.shown_run(run.name),
        }

    def _at_captions(self, given: Mapping[Any, Any], found: Iterable[Finding]) -> dict[Any, Any]:
        """Pictures without any caption, marked also at the field with the caption for all of them; until the form is edited again."""
        count = sum(finding.code == "caption-missing" for finding in found)
        if not count:
            return {}
        updates = self.marks(given)
        who = "1 picture has" if count == 1 else f"{count} pictures have"
        updates |= self.form.mark(
            _CAPTION,
            f"{who} no caption of {'its' if count == 1 else 'their'} own: write one here, or below the pictures.",
        )
        return {**updates, self.marked: [*updates[self.marked], _CAPTION]}

    def shown_run(self, name: str) -> dict[Any, Any]:
        """Updates that lead to a run's page; set by the page, which knows the other tabs."""
        raise NotImplementedError

    def _preflight(self, config: RunConfig) -> list[Finding]:
        from ...core.before.preflight import preflight

        return preflight(config, runs_dir=self.watch.store.root)


def _together(*parts: Mapping[Any, Any]) -> dict[Any, Any]:
    """Updates of several sides in one: where two change the same component, what each changes of it; the later side wins."""
    whole: dict[Any, Any] = {}
    for part in parts:
        for component, change in part.items():
            both = isinstance(change, dict) and isinstance(whole.get(component), dict)
            whole[component] = {**whole[component], **change} if both else change
    return whole


def _text(value: str | None) -> str:
    return "" if value is None else value


def _name_problem(name: str | None) -> str | None:
    if name is None or not name.strip():
        return None
    try:
        check_name(name.strip())
    except RunError as error:
        return str(error)
    return None


def _start_words(config: RunConfig, preset: str) -> str:
    demo = preset == FIRST and not differences(config, load_preset(FIRST))
    return "Start the demo" if demo else "Start training"
