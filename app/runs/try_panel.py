"""Try it: a prompt drawn with a run's weights, the base model beside it, from the same noise. The last twelve tries stay with the run.

How a tab places it (the Runs tab does):

    self.try_it = TryPanel(watch)                          # where it should stand, in the current layout
    ... [*others, *self.try_it.outputs]                    # among the outputs of the tab's `view`
    out |= self.try_it.view(run_name, viewer, seen)        # in the tab's `view`; run_name None = no run. `viewer`: the session_hash of the request, or None
    self.try_it.wire(self.picker)                          # picker: the component that holds the chosen run's name
"""

import json
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import ConfigError, config_from_flat
from ...core.config.options import Fault
from ...core.look.sample_request import DRAWING_OPTIONS, KIND, SampleRequest
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ..parts.forms import from_component
from ..parts.panel import QUICK
from ..parts.preview_jobs import PreviewState
from ..parts.watch import Watch, signature
from ..parts.words import duration, quantity, text

FOLDER, KEPT = "tried", 12
_LOOK_S = 0.4
_VIEWERS_KEPT = 256
_LORA, _LIVE, _STEP = "lora", "live", "step:"

_FIELDS = {
    "seed": "Seed",
    "steps": "Steps",
    "guidance": "Guidance",
    "negative_prompt": "What it should not show",
    "width": "Width (px)",
    "height": "Height (px)",
}
"""Field of `Drawing` -> its label."""
_PROMPT_HELP = (
    "Say what the picture should show, with the run's own word for the new thing. Several lines are several pictures."
)
_WEIGHTS_HELP = "The LoRA file that you download, a checkpoint on the way to it, or the run as it trains now."
_BASE_HELP = "From the same noise, so that you see what the training changed."
_NEW_SEED = "() => Math.floor(Math.random() * 4294967296)"


class TryPanel:
    """Builds the panel in the current layout."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._lock = threading.Lock()
        # viewer -> (run's name and age, ticket)
        self._asked: OrderedDict[str, tuple[tuple[str, float], str]] = OrderedDict()
        # viewer -> (run's name and age, what they draw with)
        self._held: OrderedDict[str, tuple[tuple[str, float], str | None]] = OrderedDict()
        self._kept: OrderedDict[str, None] = OrderedDict()  # answers that were put into their run's folder
        self._suggested: OrderedDict[str, None] = OrderedDict()  # prompts that were put in by us and may be replaced
        with gr.Column(elem_classes="rs-try"):
            with gr.Row():
                self.prompt = gr.Textbox(
                    label="Prompt",
                    info=_PROMPT_HELP,
                    lines=4,
                    max_lines=8,
                    scale=3,
                    min_width=260,
                    elem_id="try-prompt",
                )
                with gr.Column(scale=2, min_width=240):
                    self.weights = gr.Dropdown(
                        choices=[],
                        value=None,
                        label="Drawn with",
                        info=_WEIGHTS_HELP,
                        filterable=False,
                        elem_id="try-weights",
                    )
                    self.base = gr.Checkbox(
                        value=True, label="The untrained model beside it", info=_BASE_HELP, elem_id="try-base"
                    )
            with gr.Row(elem_classes="rs-try-row"):
                self.fields = {"seed": _field("seed"), "steps": _field("steps"), "guidance": _field("guidance")}
            with gr.Accordion("More", open=False), gr.Row(elem_classes="rs-try-row"):
                self.fields |= {name: _field(name) for name in ("negative_prompt", "width", "height")}
            with gr.Row(elem_classes="rs-buttons"):
                self.draw = gr.Button("Draw", variant="primary", elem_id="try-draw")
                self.dice = gr.Button("Draw with another seed", elem_id="try-dice")
                self.stop = gr.Button("Cancel", visible=False, elem_id="try-stop")
            self.now = gr.HTML(elem_id="try-now", elem_classes="rs-maybe")
            self.earlier = gr.HTML(elem_id="try-earlier", elem_classes="rs-maybe")
        self.timer = gr.Timer(_LOOK_S, active=False)

    @property
    def outputs(self) -> list[Any]:
        """What `view` may change."""
        return [self.weights, self.now, self.earlier, self.stop]

    # -- drawing ----------------------------------------------------------------------------------------------------------

    def view(self, run_name: str | None, viewer: str | None, seen: dict[str, str]) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `run_name` and was last shown `seen` (changed in place)."""
        run = self.watch.run(run_name)
        choices = weights_choices(run)
        state = self._state(run, viewer)
        out: dict[Any, Any] = {}

        def draw(part: str, component: Any, mark: Any, make: Any) -> None:
            if seen.get(part) != mark:
                out[component] = make()
                seen[part] = mark

        draw("try weights", self.weights, signature(run_name, choices), lambda: self._offered(run, viewer, choices))
        if state is not None and state.status == "done" and run is not None:
            self._keep(run, state)
        busy = state is not None and not state.ended
        draw("try now", self.now, signature(run_name, state), lambda: "" if state is None else self._now_card(state))
        draw("try stop", self.stop, signature(busy), lambda: gr.Button(visible=busy))
        folders = [] if run is None else tries(run.path)
        draw(
            "try earlier",
            self.earlier,
            signature(run_name, [folder.name for folder in folders]),
            lambda: "" if run is None else self._earlier_card(run, folders),
        )
        return out

    def _offered(self, run: RunSummary | None, viewer: str | None, choices: list[tuple[str, str]]) -> Any:
        """The choices. What somebody chose stays chosen while it is there; when it goes (as "as it trains now" does at a run's end), the best comes."""
        with self._lock:
            held = self._held.get(viewer) if viewer is not None else None
        if (
            run is not None
            and held is not None
            and held[0] == (run.name, run.created)
            and held[1] in [value for _, value in choices]
        ):
            return gr.Dropdown(choices=choices)
        value = choices[0][1] if choices else None
        self._hold(run, viewer, value)
        return gr.Dropdown(choices=choices, value=value)

    def _hold(self, run: RunSummary | None, viewer: str | None, value: str | None) -> None:
        """Remember what a viewer's choice shows."""
        if run is None or viewer is None:
            return
        with self._lock:
            self._held[viewer] = (run.name, run.created), value
            self._held.move_to_end(viewer)
            while len(self._held) > _VIEWERS_KEPT:
                self._held.popitem(last=False)

    def _state(self, run: RunSummary | None, viewer: str | None) -> PreviewState | None:
        """How far the viewer's last request for this run is; None when there is none."""
        with self._lock:
            asked = self._asked.get(viewer) if viewer is not None else None
        if run is None or asked is None or asked[0] != (run.name, run.created):
            return None
        state = self.watch.preview_client.state(asked[1])
        return None if state.status == "unknown" else state

    def _now_card(self, state: PreviewState) -> str:
        if state.status == "failed":
            faults = "".join(f"<li>{text(fault.message)}</li>" for fault in state.faults)
            said = f"<ul>{faults}</ul>" if faults else f"<p>{text(state.message)} {text(state.remedy)}</p>"
            return f'<div class="rs-card rs-bad" role="alert"><h4>Nothing was drawn</h4>{said}</div>'
        if state.status == "cancelled":
            return '<div class="rs-card rs-quiet">Cancelled.</div>'
        if state.status == "done":
            return ""  # it stands first among the tries below
        share = round(100 * state.share)
        bar = f'<div class="rs-bar" role="progressbar" aria-valuenow="{share}" aria-valuemin="0" aria-valuemax="100"><i style="width:{share}%"></i></div>'
        said = f'<p class="rs-quiet">{text(state.what)} · {share} % · {duration(state.seconds)}</p>'
        there = "" if state.result is None else self._pictures(state.result["pictures"], self.watch.previews.folder)
        return f'<div class="rs-card">{bar}{said}{there}</div>'

    def _earlier_card(self, run: RunSummary, folders: list[Path]) -> str:
        cards = [self._try_card(folder, newest=folder == folders[0]) for folder in folders]
        return (
            f'<div class="rs-tries">{"".join(cards)}</div>'
            if cards
            else '<p class="rs-quiet">Nothing drawn yet with this run. The first picture takes some seconds longer: the model is loaded.</p>'
        )

    def _try_card(self, folder: Path, newest: bool) -> str:
        try:
            told = json.loads((folder / SampleRequest.proof).read_text(encoding="utf-8"))
            pictures = [{**each, "file": str(folder / str(each["file"]))} for each in told["pictures"]]
            size, seed = told["size"], told["seed"]
            words = f"seed {seed} · {told['steps']} steps · guidance {quantity(told['guidance'])} · {size[0]} × {size[1]} px · {told['model']}"
            negative = f" · not: {told['negative_prompt']}" if told["negative_prompt"] else ""
            drawn = self._pictures(pictures, folder)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            return f'<div class="rs-card rs-bad">The try {text(folder.name)} cannot be read: {text(error)}</div>'
        mark = ' data-testid="newest-try"' if newest else ""
        return (
            f'<div class="rs-card rs-try-card"{mark}>{drawn}<p class="rs-quiet">{text(words)}{text(negative)}</p></div>'
        )

    def _pictures(self, pictures: list[Mapping[str, Any]], inside: Path) -> str:
        """The pictures of one request: a row for each prompt, one beside the other for the weights."""
        rows: dict[str, list[str]] = {}
        for number, each in enumerate(pictures):
            source = Path(str(each["file"]))
            address = self.watch.previews.address(source, inside)
            label, prompt, seed = text(each["label"]), text(each["prompt"]), text(each["seed"])
            if address is None:
                shown = '<div class="rs-gone">gone</div>'
            else:
                save = text(
                    self.watch.previews.named(
                        source, f"{_file_words(str(each['label']))}-seed-{int(each['seed'])}-{number}.png"
                    )
                )
                shown = (
                    f'<a href="{text(address)}" target="_blank" rel="noopener"><img src="{text(address)}" alt="{prompt}, {label}, seed {seed}"></a>'
                    f'<figcaption><b>{"Untrained" if each["kind"] == "base" else label}</b> <a download href="{save}">save</a></figcaption>'
                )
            kind = "clean" if each["kind"] == "base" else "rolled"
            rows.setdefault(f"{prompt} <span>seed {seed}</span>", []).append(
                f'<figure class="rs-try-{kind}">{shown}</figure>'
            )
        return "".join(
            f'<p class="rs-try-prompt">{prompt}</p><div class="rs-try-pair">{"".join(figures)}</div>'
            for prompt, figures in rows.items()
        )

    # -- acting -----------------------------------------------------------------------------------------------------------

    def wire(self, picker: gr.components.Component) -> None:
        """Connect everything. `picker` holds the name of the run."""
        inputs = {picker, self.prompt, self.weights, self.base, *self.fields.values()}
        shown = [
            self.prompt,
            self.weights,
            self.base,
            *self.fields.values(),
            self.now,
            self.earlier,
            self.stop,
            self.timer,
        ]

        def ask(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
            return self.ask(given[picker], given, request.session_hash)

        def arrive(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
            return self.arrive(given[picker], given[self.prompt], request.session_hash)

        def look(name: str | None, request: gr.Request) -> dict[Any, Any]:
            return self._looked(name, request.session_hash)

        def picked(name: str | None, value: str | None, request: gr.Request) -> None:
            self._hold(self.watch.run(name), request.session_hash, value)

        def cancel(name: str | None, request: gr.Request) -> dict[Any, Any]:
            self.cancel(request.session_hash)
            return self._looked(name, request.session_hash)

        gr.on([self.draw.click, self.prompt.submit], ask, inputs, shown, **QUICK)
        self.dice.click(None, None, self.fields["seed"], js=_NEW_SEED, **QUICK).then(ask, inputs, shown, **QUICK)
        self.stop.click(cancel, picker, shown, **QUICK)
        self.timer.tick(look, picker, shown, **QUICK)
        self.weights.input(picked, [picker, self.weights], None, **QUICK)
        picker.change(arrive, {picker, self.prompt}, shown, **QUICK)

    def arrive(self, run_name: str | None, prompt: str | None, viewer: str | None) -> dict[Any, Any]:
        """Another run is looked at: what fits it is put in, but a prompt that was written stays."""
        out = self._looked(run_name, viewer)
        run = self.watch.run(run_name)
        if run is None:
            return out
        try:
            config = config_from_flat(RunDir(run.path).read_config())
        except (RunError, ConfigError):
            return out  # the run's own page says what is wrong with it
        self._hold(run, viewer, None)  # another run: the best of it is chosen
        out[self.weights] = self._offered(run, viewer, weights_choices(run))
        out[self.fields["steps"]] = min(config.validation.num_inference_steps, int(DRAWING_OPTIONS["steps"].maximum))
        out[self.fields["guidance"]] = (
            "" if config.validation.guidance is None else quantity(config.validation.guidance, 6)
        )
        out[self.fields["negative_prompt"]] = config.validation.negative_prompt
        with self._lock:
            if not (prompt or "").strip() or prompt in self._suggested:
                known = (*config.validation.prompts, config.data.instance_prompt, config.data.trigger_word)
                wanted = next((each for each in known if each), "")
                self._suggested[wanted] = None
                while len(self._suggested) > _VIEWERS_KEPT:
                    self._suggested.popitem(last=False)
                out[self.prompt] = wanted
        return out

    def ask(self, run_name: str | None, given: Mapping[Any, Any], viewer: str | None) -> dict[Any, Any]:
        """Ask for what the fields say; everything wrong is told at its field and below."""
        run = self.watch.run(run_name)
        faults: list[Fault] = []
        record: dict[str, Any] = {
            "what": KIND,
            "prompts": [line.strip() for line in str(given[self.prompt] or "").splitlines() if line.strip()],
        }
        for name, field in self.fields.items():
            try:
                record[name] = from_component(DRAWING_OPTIONS[name], given[field])
            except ConfigError as error:
                faults += error.faults
        try:
            if run is None:
                raise ConfigError([Fault("Choose a run first.", ("checkpoints",))])
            record["config"] = RunDir(run.path).read_config()
            if given[self.base] and given[self.weights] == _LIVE and record["config"].get("model_type") == "full":
                raise ConfigError(
                    [
                        Fault(
                            "A full fine-tune has no untrained model beside it while it trains; take the tick away.",
                            ("base",),
                        )
                    ]
                )
            record["checkpoints"] = [*(["base"] if given[self.base] else []), _chosen(run, given[self.weights])]
            SampleRequest.from_json(record)
        except ConfigError as error:
            faults += [
                fault for fault in error.faults if fault.options[:1] not in [known.options[:1] for known in faults]
            ]
        except RunError as error:
            faults.append(Fault(str(error), ("checkpoints",)))
        marks = self._marks(faults)
        if faults:
            items = "".join(f"<li>{text(fault.message)}</li>" for fault in faults)
            return {
                **marks,
                self.now: f'<div class="rs-card rs-bad" role="alert"><h4>Please mend this first</h4><ul>{items}</ul></div>',
            }
        who = viewer if viewer is not None else uuid.uuid4().hex
        ticket = self.watch.preview_client.request(record, viewer=f"try-{who}")
        with self._lock:
            self._asked[who] = ((run.name, run.created), ticket)
            self._asked.move_to_end(who)
            while len(self._asked) > _VIEWERS_KEPT:
                self._asked.popitem(last=False)
        self._bring_forward(run, self.watch.preview_client.state(ticket))
        return {**marks, **self._looked(run.name, who)}

    def cancel(self, viewer: str | None) -> None:
        """Draw no further for this viewer."""
        with self._lock:
            asked = self._asked.get(viewer) if viewer is not None else None
        if asked is not None:
            self.watch.preview_client.cancel(asked[1])

    def _looked(self, run_name: str | None, viewer: str | None) -> dict[Any, Any]:
        """Everything drawn anew for one viewer; the timer looks on while something is being drawn."""
        state = self._state(self.watch.run(run_name), viewer)
        return {**self.view(run_name, viewer, {}), self.timer: gr.Timer(active=state is not None and not state.ended)}

    def _marks(self, faults: list[Fault]) -> dict[Any, Any]:
        """Every fault at its field; the help at the others."""
        wrong = {fault.options[0]: fault.message for fault in reversed(faults) if fault.options}
        helped = {
            self.prompt: ("prompts", _PROMPT_HELP),
            self.weights: ("checkpoints", _WEIGHTS_HELP),
            self.base: ("base", _BASE_HELP),
        }
        helped |= {field: (name, DRAWING_OPTIONS[name].help) for name, field in self.fields.items()}
        return {
            field: gr.update(
                info=f"⚠ {wrong[name]}" if name in wrong else said, elem_classes=["rs-wrong"] if name in wrong else []
            )
            for field, (name, said) in helped.items()
        }

    def _bring_forward(self, run: RunSummary, state: PreviewState) -> None:
        """The same asked again is answered at once; it then stands first again."""
        if state.status != "done":
            return
        name = Path(state.result["folder"]).name
        with self._lock:
            self._kept.pop(name, None)
            for old in tries(run.path):
                if old.name.endswith(name):
                    shutil.rmtree(old, ignore_errors=True)

    def _keep(self, run: RunSummary, state: PreviewState) -> None:
        """Put a finished answer into the run's folder, once; the oldest beyond twelve go."""
        source = Path(state.result["folder"])
        folder = run.path / FOLDER
        with self._lock:
            if source.name in self._kept or not run.path.is_dir():
                return
            self._kept[source.name] = None
            while len(self._kept) > _VIEWERS_KEPT:
                self._kept.popitem(last=False)
            fresh = folder / f".new-{source.name}"
            try:
                shutil.copytree(source, fresh, dirs_exist_ok=True)
                fresh.rename(folder / f"{time.time_ns():020d}-{source.name}")
                for old in tries(run.path)[KEPT:]:
                    shutil.rmtree(old, ignore_errors=True)
            except OSError as error:
                shutil.rmtree(fresh, ignore_errors=True)
                gr.Warning(f"The pictures could not be kept with the run: {error}")


def _field(name: str) -> gr.components.Component:
    option = DRAWING_OPTIONS[name]
    common = {"label": _FIELDS[name], "info": option.help, "elem_id": f"try-{name}", "min_width": 150}
    if name == "steps":
        return gr.Slider(minimum=option.minimum, maximum=option.maximum, step=1, value=option.default, **common)
    if name == "seed":
        return gr.Number(value=option.default, **common)
    return gr.Textbox(
        value="" if option.default is None else str(option.default),
        placeholder="unset" if option.optional else None,
        max_lines=1,
        **common,
    )


def weights_choices(run: RunSummary | None) -> list[tuple[str, str]]:
    """(words, value) of what a run can draw with now, the best first: its LoRA file, its checkpoints from the last on, itself while it trains."""
    if run is None:
        return []
    found = [(f"The LoRA file, {path.name}", _LORA) for path in _lora_files(run)[:1]]
    if run.state in ("running", "paused"):
        found.append(("As it trains now", _LIVE))
    return [*found, *((f"Checkpoint of step {step}", f"{_STEP}{step}") for step in sorted(_steps(run), reverse=True))]


def _lora_files(run: RunSummary) -> list[Path]:
    folder = RunDir(run.path).lora_path
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


def _steps(run: RunSummary) -> list[int]:
    folder = RunDir(run.path).checkpoints_path
    found = folder.glob("step-*/manifest.json") if folder.is_dir() else []
    return [
        int(path.parent.name.removeprefix("step-"))
        for path in found
        if path.parent.name.removeprefix("step-").isdecimal()
    ]


def _chosen(run: RunSummary, value: Any) -> Any:
    """The weights of a choice, as a request names them. Raises ConfigError for what is not there (any more)."""
    rule = Fault("There are no such weights of this run; choose again what to draw with.", ("checkpoints",))
    if value == _LORA and (files := _lora_files(run)):
        return {"lora": str(files[0]), "label": f"LoRA of {run.name}"[:80]}
    if value == _LIVE and run.state in ("running", "paused"):
        return {"run": str(run.path), "live": True, "label": "now" if run.step is None else f"now, step {run.step}"}
    if (
        isinstance(value, str)
        and value.startswith(_STEP)
        and value.removeprefix(_STEP).isdecimal()
        and int(value.removeprefix(_STEP)) in _steps(run)
    ):
        return {
            "run": str(run.path),
            "step": int(value.removeprefix(_STEP)),
            "label": f"step {value.removeprefix(_STEP)}",
        }
    raise ConfigError([rule])


def _file_words(label: str) -> str:
    return (
        "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-") else "-" for letter in label).strip(
            "-."
        )
        or "picture"
    )


def tries(run_path: Path) -> list[Path]:
    """The folders of a run's tries, the newest first."""
    folder = run_path / FOLDER
    found = [each for each in folder.iterdir() if each.is_dir() and each.name[0] != "."] if folder.is_dir() else []
    return sorted(found, key=lambda each: each.name, reverse=True)
