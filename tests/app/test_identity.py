"""No setting is dead and none is changed on its way: between the browser's raw values and the trainer's config stand Gradio's own
components, the page's handlers, the run store and the trainer's reading, all of them the real ones.

Only the process that would train is not started. What a browser holds is played by `Browser`.
"""

import asyncio
import json
import os
import re
import shutil
from types import SimpleNamespace
from urllib.parse import unquote

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from PIL import Image
from rollout_studio.app.parts.forms import to_component
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train.tab import TrainTab
from rollout_studio.core import platform_calls
from rollout_studio.core.before.checks import computing
from rollout_studio.core.before.checks import model as model_checks
from rollout_studio.core.config import (
    OPTIONS,
    config_from_flat,
    config_to_flat,
    load_preset,
    preset_names,
    read_config,
    with_changes,
)
from rollout_studio.core.config.own_presets import save_preset
from rollout_studio.core.demo import resolve
from rollout_studio.core.foreign.importing import WRITTEN_TO
from rollout_studio.core.runs.store import RunStore


class Browser:
    """One viewer: the raw value of every component, and events that go through Gradio's own processing both ways."""

    def __init__(self, demo):
        self.demo, self.session = demo, SessionState(demo)
        self.raw = self.opened(demo)

    @staticmethod
    def opened(demo):
        blocks = [
            block for block in demo.blocks.values() if isinstance(block, gr.components.Component) and not block.stateful
        ]
        return {block._id: block.postprocess(block.value) for block in blocks}

    def _asked(self, component, event):
        """The handler of `component.event(...)`, and the raw values that it is sent: as JSON, because that is how they travel."""
        [fn] = [fn for fn in self.demo.fns.values() if (component._id, event) in fn.targets and fn.fn is not None]
        return fn, json.loads(json.dumps([self.raw.get(each._id) for each in fn.inputs]))

    def press(self, component, event):
        """The same as `fire`, but its outputs are not drawn, only given back: what takes the time is drawing them."""
        fn, inputs = self._asked(component, event)
        values = asyncio.run(self.demo.preprocess_data(fn, inputs, self.session))
        return fn.fn(dict(zip(fn.inputs, values, strict=True)))

    def fire(self, component, event):
        """An event from end to end; its outputs are put into what this browser holds."""
        fn, inputs = self._asked(component, event)
        answer = asyncio.run(self.demo.process_api(fn, inputs, state=self.session, explicit_call=True))
        for each, new in zip(fn.outputs, answer["data"], strict=True):
            if isinstance(new, dict) and new.get("__type__") == "update":
                if "value" in new:
                    self.raw[each._id] = new["value"]
            elif not each.stateful:
                self.raw[each._id] = new

    def set(self, component, value):
        self.raw[component._id] = value

    def of(self, component):
        return self.raw[component._id]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The Train tab in a page of its own: (demo, tab)."""
    with gr.Blocks() as demo:
        tab = TrainTab(Watch(tmp_path_factory.mktemp("runs")))
        tabs, picker = gr.Tabs(), gr.Radio()
        tab.shown_run = lambda name: {}
        tab.wire(tabs, picker)
    return demo, tab


@pytest.fixture
def store(page, tmp_path, monkeypatch):
    """A fresh runs folder for the page, in which a started process is this one."""
    me = SimpleNamespace(pid=os.getpid(), poll=lambda: 0)
    monkeypatch.setattr(platform_calls, "start_detached", lambda command, log, *, cwd, extra_env: me)
    page[1].watch.store = RunStore(tmp_path / "runs")
    return page[1].watch.store


@pytest.fixture
def viewer(page, shared):
    """One viewer for many tests, each of whom finds the page as it is when it opens: making one costs a quarter of a second."""
    yield shared
    shared.raw = Browser.opened(page[0])


@pytest.fixture(scope="module")
def shared(page):
    return Browser(page[0])


def shown(tab, browser):
    """Every option's raw value in the browser."""
    return {name: browser.of(field) for name, field in tab.form.components.items()}


def downloaded(tab, browser):
    """The text behind "save as config.json"."""
    return unquote(re.search(r'href="data:application/json;charset=utf-8,([^"]+)"', browser.of(tab.side))[1])


# -- every preset ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*preset_names(), "a preset of one's own"])
def test_a_preset_goes_into_the_form_out_as_a_file_and_back_in_unchanged(page, store, others, tmp_path, name):
    demo, tab = page
    browser = Browser(demo)
    key = name if name in preset_names() else save_preset(store.root, "mine", "Mine", config_from_flat(others)).key
    browser.fire(tab.keep.fold, "expand")  # the cards of one's own
    browser.set(tab.model.preset, key)
    browser.fire(tab.model.preset, "input")
    # an edit that changes nothing: the form is read as the browser holds it
    browser.fire(tab.form.components["seed"], "input")
    first, text = shown(tab, browser), downloaded(tab, browser)
    assert config_from_flat(json.loads(text)) == load_preset(key)

    other = Browser(demo)  # a fresh form takes the file
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    other.set(
        tab.keep.file,
        [{"path": str(tmp_path / "config.json"), "orig_name": "config.json", "meta": {"_type": "gradio.FileData"}}],
    )
    other.fire(tab.keep.file, "upload")
    # Where files are written to is not taken from a file that anybody may have handed on.
    kept = {name: value for name, value in first.items() if name not in WRITTEN_TO}
    assert {name: value for name, value in shown(tab, other).items() if name not in WRITTEN_TO} == kept
    unset = json.loads(text) | dict.fromkeys(WRITTEN_TO)
    assert json.loads(downloaded(tab, other)) == unset


# -- every option -----------------------------------------------------------------------------------------------------------

TOGETHER = {
    "shard_weights": {"model_type": "full"},
    "caption_strategy": {"instance_prompt": "a cup"},
    "scheduled_sampling_order": {"scheduled_sampling_sampler": "unipc"},
    "lr_warmup_steps": {"lr_scheduler": "linear"},
    "input_perturbation_gamma": {"scheduled_sampling_max_step_offset": 0},
    "soar_states": {"scheduled_sampling_max_step_offset": 0},
    "mixflow_gamma": {"scheduled_sampling_max_step_offset": 0},
    "dream_training": {"scheduled_sampling_max_step_offset": 0, "pretrained_model_name_or_path": "demo-epsilon"},
    "prediction_type": {"pretrained_model_name_or_path": "demo-epsilon"},
    "revision": {"pretrained_model_name_or_path": "somebody/model"},
    "base_model_quantization": {"gradient_checkpointing": True},
    "streamed_blocks": {"gradient_checkpointing": True},
    "lora_layout": {"pretrained_model_name_or_path": "demo-epsilon"},
    "train_text_encoder": {"pretrained_model_name_or_path": "demo-epsilon"},
    "new_tokens": {
        "pretrained_model_name_or_path": "demo-epsilon",
        "trigger_word": "qrx",
        "new_token_initializer": "dog",
    },
}
"""What must be set too, so that a value is no contradiction."""


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """For every option a value that is not its default, and that this machine can train with."""
    tmp_path = tmp_path_factory.mktemp("others")
    pictures, model = tmp_path / "pictures", tmp_path / "model"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (96, 96), (50 * number, 90, 30)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("a cup", encoding="utf-8")
    shutil.copytree(resolve("demo-flow"), model)
    for file in [*model.rglob("*.safetensors")]:
        shutil.copy(file, file.with_name(f"{file.stem}.fp16.safetensors"))
    special = {
        "model_family": "lumina2", "pretrained_model_name_or_path": str(model), "revision": "main", "variant": "fp16", "device": "cpu",
        "prediction_type": "flow_matching", "instance_data_dir": str(pictures), "class_data_dir": str(pictures),
        "data_cache_dir": str(tmp_path / "cache"), "drift_data_dir": "demo-dreambooth-heldout", "class_prompt": "a cup",
        "optimizer": "adafactor", "report_to": "tensorboard", "mixed_precision": "bf16", "lora_targets": ["to_q", "to_k"], "drift_offsets": [2, 7],
        "validation_prompts": ["one, with a comma", "[two]", "line\nbreak", "ünï ☃"], "scheduled_sampling_reflexflow": True, "train_batch_size": 3,
        "resolution": 96, "lr_scheduler": "cosine", "caption_strategy": "instanceprompt", "instance_prompt": "a cup", "max_train_steps": 123,
        "base_model_precision": "bfloat16", "scheduled_sampling_sampler": "dpm", "scheduled_sampling_order": 1, "num_class_images": 4,
        "scheduled_sampling_reflexflow_mode": "single-pass", "seed": 2**53 - 1, "lr_warmup_steps": 7, "model_type": "lora",
        "loss_weighting": "none", "precondition_outputs": False, "input_perturbation_gamma": 0.0, "soar_states": 0, "mixflow_gamma": 0.0, "dream_training": False, "lora_folder": str(tmp_path),
        "concepts": json.dumps([{"instance_data_dir": "demo-dreambooth-post", "instance_prompt": "a vbk shape", "trigger_word": "vbk", "class_prompt": "a shape"}]),
        "base_model_quantization": "int8", "streamed_blocks": 1, "compile": False, "num_processes": 2, "gradient_checkpointing": True, "lora_type": "lora",
        "lora_rank_pattern": ["to_q=8", "to_k=4:2"], "shard_weights": False, "scheduled_sampling_shared_offsets": 3, "train_text_encoder": False, "new_tokens": 0,
    }  # fmt: skip
    return {name: special[name] if name in special else _another(option) for name, option in OPTIONS.items()}


def _another(option):
    if option.choices is not None:
        return next(choice for choice in option.choices if choice != option.default)
    if option.type == "bool":
        return not option.default
    if option.type == "str":
        return "something else"
    low, high = option.minimum, option.maximum
    value = low + (min(high, 40) - low) / 4
    value = round(value, 6) if option.type == "float" else int(value)
    return value if value != option.default else value + (1 if option.type == "int" else 0.125)


def test_a_further_thing_goes_from_the_small_form_into_the_run(page, viewer, store):
    tab, browser = page[1], viewer
    things = tab.pictures.things
    typed = ("demo-dreambooth-post", "vbk", "a vbk shape", "a shape", "")
    for box, value in zip(things.boxes.values(), typed, strict=True):
        browser.set(box, value)
    browser.fire(things.keep, "click")
    assert "vbk" in browser.of(things.list) and browser.of(things.boxes["trigger_word"]) == ""
    browser.fire(tab.form.components["seed"], "input")
    assert "2 things are learned at once" in browser.of(tab.side)
    browser.press(tab.start, "click")
    (run,) = store.list()
    assert read_config(run.path / "config.json").data.trigger_words == ("zwx", "vbk")


ALONE = {"model_type": "full", "loss_weighting": "cosmap", "precondition_outputs": True, "scheduled_sampling_reflexflow_mode": "paper",
         "input_perturbation_gamma": 0.25, "soar_states": 2, "mixflow_gamma": 0.5, "dream_training": True, "lora_type": "dora", "compile": True, "train_text_encoder": True, "new_tokens": 2,
         "shard_weights": True}  # fmt: skip
"""Values that contradict many others, so that they are tried with the defaults only."""


@pytest.mark.parametrize("name", OPTIONS)
def test_a_value_set_in_the_page_is_what_the_trainer_reads(page, viewer, store, others, tmp_path, monkeypatch, name):
    """Nothing else moves either: the whole config is compared."""
    tab, browser = page[1], viewer
    tracker = tmp_path / "tracker" / "tensorboard"
    tracker.mkdir(parents=True)
    (tracker / "__init__.py").touch()
    monkeypatch.syspath_prepend(tracker.parent)  # as if it were installed
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        # a hub id may then be named; nothing is downloaded before the run's own process
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(computing, "why_not", lambda kind, device: None)  # as if torchao were installed
    monkeypatch.setattr(
        model_checks, "check_model", lambda model: SimpleNamespace(findings=())
    )  # as if its hub had answered
    value = ALONE.get(name, others[name])
    assert value != OPTIONS[name].default
    changes = {**TOGETHER.get(name, {}), name: value}
    for key, each in changes.items():
        field = tab.form.components[key]
        browser.set(field, field.postprocess(to_component(OPTIONS[key], OPTIONS[key].read(each))))
    answer = browser.press(tab.start, "click")
    runs = store.list()
    assert len(runs) == 1, answer[tab.findings]
    config = read_config(runs[0].path / "config.json")  # the trainer's own reading: Trainer reads its run so
    assert config == with_changes(load_preset("demo"), changes)
    assert config_to_flat(config)[name] == value
