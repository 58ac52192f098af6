"""The Train tab: numbered from top to bottom, from a preset to Start; what will be trained is always in view beside it."""

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from ..core import platform_calls
from ..core.config import (
    OPTIONS,
    ROLLOUT_LEVELS,
    SECTIONS,
    RunConfig,
    config_to_flat,
    differences,
    load_preset,
    preset_names,
    probability_at,
    read_preset,
    remarks,
    rollout_level,
    rollout_level_of,
    with_changes,
)
from ..core.cost import rollout_cost
from ..core.dataset import scan
from ..core.findings import Finding, by_severity, has_errors
from ..core.options import ConfigError, Fault, shown
from ..core.runs import RunError, check_name
from .charts import Line, chart
from .forms import SECTION_TITLES, Form, label
from .watch import Watch
from .words import quantity, text

FIRST = "demo"
_PICTURES_SHOWN = 24
_OWN = "own numbers"
_LEVEL_CHOICES = [("Off", "off"), ("Gentle", "gentle"), ("Strong", "strong"), ("Own numbers", _OWN)]
_UPLOADS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".txt"}
_LARGEST_UPLOAD_NAME = 80
_NAME, _NAME_RULE = "run name", "Letters, digits, dots, hyphens and underscores; up to 64."

_SHOW_FINDINGS = "() => document.querySelector('#findings').scrollIntoView({block: 'center'})"
# After Start: to what stands in the way, where there is something; else to the top of the run's page.
_SHOW_WHAT_STOPS = """() => {
  const bad = document.querySelector('#findings .rs-bad');
  if (bad && bad.offsetParent) bad.scrollIntoView({block: 'center'}); else window.scrollTo(0, 0);
}"""

HERO = """
<div class="rs-hero">
<h2>Teach a picture model one new thing, and see how it copes with its own mistakes.</h2>
<p>Give it a few pictures and it learns what they show. While it learns it can also practise on its own output, which is called
<em>rollout</em>. Before and after, you see how far the model <em>drifts</em> from the picture it was meant to draw.</p>
</div>
"""


class TrainTab:
    """Builds the tab in the current layout; `wire` connects it once the tabs around it exist."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.marked = gr.State([])
        self.names = preset_names()
        first = FIRST if FIRST in self.names else self.names[0]
        config = load_preset(first)
        self.form = form = Form(config)

        with gr.Row(elem_classes="rs-hero-row", equal_height=True):
            with gr.Column(scale=7, min_width=320):
                gr.HTML(HERO)
            with gr.Column(scale=4, min_width=280, elem_classes="rs-hero-start"):
                self.start_hero = gr.Button(_start_words(config, first), variant="primary", size="lg", elem_id="start-hero")
                self.note = gr.HTML(_start_note(first))

        with gr.Row(elem_classes="rs-two"):
            with gr.Column(scale=7, min_width=320):
                _step(1, "What to start from")
                self.preset = gr.Radio(
                    choices=[(read_preset(name).title, name) for name in self.names], value=first, show_label=False,
                    container=False, elem_id="preset", elem_classes="rs-cards", label="Preset",
                )  # fmt: skip
                self.about = gr.HTML(_about(first))
                form.place("pretrained_model_name_or_path")

                _step(2, "Pictures of the new thing")
                with gr.Row():
                    with gr.Column(scale=3, min_width=260):
                        self.files = gr.File(
                            file_count="multiple", type="filepath", height=150, elem_id="drop",
                            label="Your pictures",
                            file_types=sorted(_UPLOADS),
                        )  # fmt: skip
                        gr.HTML('<p class="rs-quiet">5 to 20 pictures of one thing, from different sides and on different backgrounds. A caption may lie '
                                "beside a picture: photo.txt for photo.png.</p>")  # fmt: skip
                    with gr.Column(scale=4, min_width=260):
                        form.place("instance_data_dir", "trigger_word", "instance_prompt")
                self.pictures = gr.HTML(self._show_pictures(config), elem_id="pictures")

                _step(3, "Settings")
                with gr.Row():
                    form.place("max_train_steps", "learning_rate", "lora_rank")
                with gr.Row():
                    form.place("resolution", "train_batch_size", "seed")
                self.level = gr.Radio(
                    choices=_LEVEL_CHOICES, value=_level_of(config), label="Rollout: practise on its own output", elem_id="level",
                    info="Some rows of a batch start farther out in the noise; the model walks them back by itself and learns from where "
                    "it arrives. Gentle and strong are starting points; every number behind them is under All settings.",
                )  # fmt: skip
                self.ramp = gr.HTML(ramp_panel(config), elem_id="ramp")
                form.place("validation_prompts")
                with gr.Accordion("All settings", open=False, elem_id="all-settings"), gr.Tabs():
                    for section in SECTIONS:
                        with gr.Tab(SECTION_TITLES[section], id=f"settings-{section}"):
                            self._section(section)
                form.check_complete()

                _step(4, "Check and start")
                with gr.Row():
                    self.name = gr.Textbox(label="Name of the run", placeholder="made from the preset and the time", max_lines=1, scale=2,
                                           elem_id="run-name", info=_NAME_RULE)  # fmt: skip
                with gr.Row():
                    self.check = gr.Button("Check first", elem_id="check")
                    self.start = gr.Button(_start_words(config, first), variant="primary", elem_id="start")
                self.findings = gr.HTML(elem_id="findings", elem_classes="rs-maybe")
            with gr.Column(scale=4, min_width=300, elem_classes="rs-side"):
                self.side = gr.HTML(side_panel(config, first), elem_id="side")

    def _section(self, section: str) -> None:
        simple, advanced = (self.form.missing(section, level) for level in ("simple", "advanced"))
        elsewhere = [OPTIONS[name] for name in self.form.components if OPTIONS[name].section == section]
        if elsewhere:
            gr.Markdown(f"Above: {', '.join(label(option) for option in elsewhere)}.", elem_classes="rs-quiet")
        for names, title in ((simple, None), (advanced, "Advanced")):
            if not names:
                continue
            # Where simple options stand above, the advanced ones are folded; alone they are the tab.
            with contextlib.nullcontext() if title is None or not simple else gr.Accordion(title, open=False):
                for pair in range(0, len(names), 2):
                    with gr.Row():
                        self.form.place(*names[pair : pair + 2], full=True)

    # -- events ---------------------------------------------------------------------------------------------------------

    def wire(self, tabs: gr.Tabs, picker: gr.components.Component) -> None:
        """Connect everything. `tabs` and `picker` are where a started run is shown."""
        fields = self.form.components
        inputs = {*self.form.inputs(), self.preset, self.name, self.level, self.marked}
        # Whatever a handler changes, it also says at the fields what is wrong there now.
        outputs = [*fields.values(), self.name, self.marked, self.side, self.ramp, self.level, self.start_hero, self.start, self.about,
                   self.note, self.pictures, self.findings]  # fmt: skip
        quick = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        slow = {"show_progress_on": [self.findings], "concurrency_limit": 2, "api_visibility": "private"}
        edits = [each.input for each in fields.values()]
        gr.on([*edits, self.name.input], self.on_edit, inputs, outputs, trigger_mode="always_last", **quick)
        folder = fields["instance_data_dir"]
        gr.on([folder.blur, folder.submit], self.on_pictures, inputs, self.pictures, **quick)
        self.level.input(self.on_level, inputs, outputs, **quick)
        self.preset.input(self.on_preset, inputs, outputs, **quick)
        self.files.upload(self.on_upload, {*inputs, self.files}, outputs, **{**slow, "show_progress_on": [self.pictures]})
        self.check.click(self.on_check, inputs, outputs, **slow).then(None, js=_SHOW_FINDINGS)
        for button in (self.start_hero, self.start):
            button.click(self.on_start, inputs, [*outputs, tabs, picker], **slow).then(None, js=_SHOW_WHAT_STOPS)

    def marks(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Every fault at its field, the run's name among them."""
        updates, wrong = self.form.marks(given, [name for name in given[self.marked] if name != _NAME])
        problem = _name_problem(given[self.name])
        if problem is not None or _NAME in given[self.marked]:
            updates[self.name] = gr.update(info=_NAME_RULE if problem is None else f"⚠ {problem}", elem_classes=[] if problem is None else ["rs-wrong"])
        return {**updates, self.marked: [*wrong, *([] if problem is None else [_NAME])]}

    def on_edit(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        return {**self.panels(given), **self.marks(given)}

    def on_pictures(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        return {self.pictures: self._pictures(given)}

    def on_preset(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """A preset fills the whole form; the run's name stays."""
        name = given[self.preset]
        config = load_preset(name)
        return {
            **self._filled(given, config), **self._panels(config, name), self.about: _about(name), self.note: _start_note(name),
            self.pictures: self._show_pictures(config), self.findings: "",
        }  # fmt: skip

    def on_level(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """A level writes its numbers into the form; "own numbers" leaves them as they are."""
        level = given[self.level]
        try:
            config = self.form.read(given)
            changes = rollout_level(level, config.training.max_train_steps) if level in ROLLOUT_LEVELS else {}
            changed = with_changes(config, changes)
        except ConfigError as error:
            return {self.side: _problems(error.faults), **self.marks(given)}
        return {**self._filled(given, changed, changes), **self._panels(changed, given[self.preset]), self.level: level}

    def _filled(self, given: Mapping[Any, Any], config: RunConfig, only: Iterable[str] | None = None) -> dict[Any, Any]:
        """Updates that show `config` (or only some of its options), with the marks that are right then."""
        shown_values = self.form.show(config, only)
        marks = self.marks({**given, **shown_values})
        for field, value in shown_values.items():
            marks[field] = gr.update(value=value, **{key: change for key, change in marks.get(field, {}).items() if key in ("info", "elem_classes")})
        return marks

    def on_upload(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Dropped files become a folder of their own beside the runs, and that folder the pictures of the run."""
        folder, refused = self._keep(given[self.files])
        if refused:
            gr.Warning(f"Left out, because they are neither pictures nor captions: {', '.join(refused[:5])}.")
        if folder is None:
            return {self.pictures: gr.skip()}
        directory = self.form.components["instance_data_dir"]
        given = {**given, directory: str(folder)}
        marks = self.marks(given)
        marks[directory] = {**marks.get(directory, gr.update()), "value": str(folder)}
        return {**marks, **self.panels(given), self.pictures: self._pictures(given)}

    def _keep(self, paths: list[str] | None) -> tuple[Path | None, list[str]]:
        kept, refused = [], []
        for path in map(Path, paths if paths is not None else []):
            (kept if path.suffix.lower() in _UPLOADS else refused).append(path)
        if not kept:
            return None, [path.name for path in refused]
        folder = self.watch.store.root / ".pictures" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        for path in kept:
            stem = path.stem[:_LARGEST_UPLOAD_NAME]
            # Gradio has cleaned the name; this keeps a picture and its caption together under the same cut name.
            platform_calls.write_atomically(folder / f"{stem}{path.suffix.lower()}", path.read_bytes())
        return folder, [path.name for path in refused]

    def on_check(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        try:
            config = self.form.read(given)
        except ConfigError as error:
            return {self.findings: _problems(error.faults), **self.marks(given)}
        return {self.findings: _findings(self._preflight(config), "Nothing stands in the way. Press Start.")}

    def on_start(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Validate again, check, create the run, start it or queue it behind the one that is training."""
        try:
            config = self.form.read(given)
            problem = _name_problem(given[self.name])
            if problem is not None:
                raise RunError(problem)
        except (ConfigError, RunError) as error:
            gr.Warning("Some settings cannot be used; see below Start.")
            faults = error.faults if isinstance(error, ConfigError) else [Fault(str(error))]
            return {self.findings: _problems(faults), **self.marks(given)}
        found = self._preflight(config)
        if has_errors(found):
            gr.Warning("This cannot start yet; see below Start.")
            return {self.findings: _findings(found)}
        store = self.watch.store
        try:
            name = given[self.name].strip() if given[self.name] else None
            run = store.create(config, name if name else None, preset=given[self.preset])
            store.enqueue(run.name)
        except (RunError, OSError) as error:
            gr.Warning(f"The run could not be made: {error}")
            return {self.findings: _problems([Fault(str(error))])}
        runs = self.watch.runs(fresh=True)
        mine = next(summary for summary in runs if summary.name == run.name)
        if mine.state == "queued":
            ahead = [other.name for other in runs if other.alive and other.device == mine.device]
            gr.Info(f"Queued: it starts by itself after {', '.join(ahead) if ahead else 'the others'}.")
        elif mine.state == "failed":
            gr.Warning(f"The run could not start: {mine.message}")
        return {
            self.findings: _findings([f for f in found if f.level == "warning"]) if found else "",
            **self.shown_run(run.name),
        }

    def shown_run(self, name: str) -> dict[Any, Any]:
        """Updates that lead to a run's page; set by the page, which knows the other tabs."""
        raise NotImplementedError

    def _preflight(self, config: RunConfig) -> list[Finding]:
        from ..core.preflight import preflight

        return preflight(config, runs_dir=self.watch.store.root)

    # -- what the page shows about a config -------------------------------------------------------------------------------

    def panels(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """The panels beside the form for what it holds now: the config, or what is wrong with it."""
        try:
            config = self.form.read(given)
        except ConfigError as error:
            return {self.side: _problems(error.faults, "Please mend this first")}
        return self._panels(config, given[self.preset])

    def _panels(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        words = _start_words(config, preset)
        return {
            self.side: side_panel(config, preset), self.ramp: ramp_panel(config), self.level: _level_of(config),
            self.start_hero: words, self.start: words,
        }  # fmt: skip

    def _pictures(self, given: Mapping[Any, Any]) -> str:
        try:
            return self._show_pictures(self.form.read(given))
        except ConfigError as error:
            return _problems(error.faults)

    def _show_pictures(self, config: RunConfig) -> str:
        if config.data.instance_data_dir is None:
            return '<p class="rs-quiet">No pictures yet. Drop some on the left, or name a folder on this computer.</p>'
        found = scan(config.data)
        cards = []
        for item in found.items[:_PICTURES_SHOWN]:
            address = self.watch.previews.thumbnail(Path(item.path))
            image = f'<img src="{text(address)}" alt="{text(item.caption)}" loading="lazy">' if address else '<div class="rs-gone">unreadable</div>'
            caption = f"<figcaption>{text(item.caption)}</figcaption>"
            cards.append(f'<figure title="{text(item.name)}, {item.width} × {item.height} px">{image}{caption}</figure>')
        more = len(found.items) - len(cards)
        head = f"{len(found.items)} picture{'' if len(found.items) == 1 else 's'}" + (f", the first {len(cards)} shown" if more > 0 else "")
        return f'<div class="rs-quiet">{head}</div><div class="rs-pictures">{"".join(cards)}</div>' + _findings(found.problems)


def _step(number: int, title: str) -> None:
    gr.HTML(f'<h3 class="rs-step"><span>{number}</span>{title}</h3>', padding=False)


def _name_problem(name: str | None) -> str | None:
    if name is None or not name.strip():
        return None
    try:
        check_name(name.strip())
    except RunError as error:
        return str(error)
    return None


def _level_of(config: RunConfig) -> str:
    level = rollout_level_of(config)
    return _OWN if level is None else level


def _start_words(config: RunConfig, preset: str) -> str:
    demo = preset == FIRST and not differences(config, load_preset(FIRST))
    return "Start the demo" if demo else "Start training"


def _start_note(preset: str) -> str:
    if preset.startswith("demo"):
        return '<p class="rs-note">No download and no graphics card needed; a few minutes on a laptop. You may close this page meanwhile: the run goes on.</p>'
    return '<p class="rs-note">You may close this page while it trains: the run goes on by itself.</p>'


def _about(name: str) -> str:
    preset = read_preset(name)
    return f'<div class="rs-about"><p>{text(preset.description)}</p><p><b>Needs:</b> {text(preset.needs)}</p></div>'


def plan_sentence(config: RunConfig) -> str:
    """What Start will do, in one sentence."""
    training, data = config.training, config.data
    rows = training.train_batch_size * training.gradient_accumulation_steps
    what = f"LoRA of rank {config.lora.rank}" if training.model_type == "lora" else "full fine-tune"
    rollout = _level_of(config) if config.rollout.active else "no"
    rollout = "a rollout with your own numbers" if rollout == _OWN else f"{'a ' if rollout != 'no' else ''}{rollout} rollout"
    samples = f"samples every {config.validation.step_interval} steps" if config.validation.step_interval and config.validation.prompts else "no samples on the way"
    return (
        f"{training.max_train_steps} steps with {rows} picture{'' if rows == 1 else 's'} each at {data.resolution} px: a {what} on "
        f"{config.model.pretrained_model_name_or_path}, with {rollout}, {samples}."
    )


def cost_sentence(config: RunConfig) -> str:
    """What the rollout costs, in one sentence; an honest one when it is off."""
    if not config.rollout.active:
        return "No rollout: nothing is practised on the model's own output, and a step costs what a plain step costs."
    cost = rollout_cost(config)
    return (
        f"Rollout costs {quantity(cost.mean_forwards, 2)} extra forwards per row on average, up to {cost.most_forwards} for one row: about "
        f"{quantity(cost.mean_ratio, 3)} times the time of a plain step ({quantity(cost.peak_ratio, 3)} times at its highest chance). It is experimental."
    )


def ramp_panel(config: RunConfig) -> str:
    """The chance of a rollout over the run, drawn, and its cost."""
    cost = f'<p class="rs-quiet">{text(cost_sentence(config))}</p>'
    if not config.rollout.active:
        return cost
    steps = config.training.max_train_steps
    marks = {0, steps, config.rollout.start_step, config.rollout.start_step + config.rollout.ramp_steps}
    xs = sorted({round(index * steps / 100) for index in range(101)} | {mark for mark in marks if mark <= steps})
    line = Line("chance that a row is rolled out", xs, [probability_at(config.rollout, x) for x in xs], "rolled")
    top = max(0.1, 1.15 * max(line.ys))
    return chart([line], title="The ramp", x_label="training step", y_range=(0, min(1.0, top)), x_range=(0, steps), height=90) + cost


def side_panel(config: RunConfig, preset: str) -> str:
    """Your run, always in view: the plan in words, what has no effect, what differs from the preset, and the resolved JSON."""
    base = load_preset(preset)
    changed = differences(config, base)
    old = config_to_flat(base)
    rows = "".join(
        f"<tr><td>{text(label(OPTIONS[name]))}</td><td><s>{text(shown(old[name]))}</s> {text(shown(value))}</td></tr>"
        for name, value in changed.items()
    )
    table = f'<table class="rs-changes">{rows}</table>' if rows else '<p class="rs-quiet">Nothing changed from the preset.</p>'
    said = "".join(f"<li>{text(remark)}</li>" for remark in remarks(config))
    flat = config_to_flat(config)
    defaults = differences(config)
    lines = []
    for index, (name, value) in enumerate(flat.items()):
        mark = ' class="rs-own"' if name in changed else ' class="rs-set"' if name in defaults else ""
        comma = "," if index < len(flat) - 1 else ""
        lines.append(f"<span{mark}>  {text(json.dumps(name))}: {text(json.dumps(value, ensure_ascii=False))}{comma}</span>")
    address = "data:application/json;charset=utf-8," + quote(config.to_json() + "\n")
    return (
        f'<div class="rs-card"><h4>Your run</h4><p>{text(plan_sentence(config))}</p>'
        + (f'<ul class="rs-remarks">{said}</ul>' if said else "")
        + f'<h5>Changed from the preset</h5>{table}<h5>The whole configuration <a download="config.json" href="{address}">save as config.json</a></h5>'
        f'<pre class="rs-json" tabindex="0" aria-label="The resolved configuration as JSON">{text("{")}\n' + "\n".join(lines) + f"\n{text('}')}</pre></div>"
    )


def _problems(faults: list[Fault] | tuple[Fault, ...], title: str = "Please mend this first") -> str:
    items = "".join(f"<li>{_where(fault.options)}{text(fault.message)}</li>" for fault in faults)
    return f'<div class="rs-card rs-bad" role="alert"><h4>{text(title)}</h4><ul>{items}</ul></div>'


def _where(options: tuple[str, ...]) -> str:
    return f"<b>{text(label(OPTIONS[options[0]]))}.</b> " if options and options[0] in OPTIONS else ""


def _findings(findings, all_well: str = "") -> str:
    """Findings of a check, worst first."""
    if not findings:
        return f'<div class="rs-card rs-good">{text(all_well)}</div>' if all_well else ""
    rows = []
    for finding in by_severity(findings):
        where = label(OPTIONS[finding.where]) if finding.where in OPTIONS else finding.where
        rows.append(
            f'<li class="rs-{finding.level}"><b>{text(where)}{": " if where else ""}</b>{text(finding.message)} '
            f'<span class="rs-quiet">{text(finding.remedy)}</span></li>'
        )
    blocked = has_errors(findings)
    word = "This must be mended before training can start" if blocked else (all_well if all_well else "Worth knowing")
    return f'<div class="rs-card {"rs-bad" if blocked else "rs-mild"}"><h4>{text(word)}</h4><ul>{"".join(rows)}</ul></div>'
