"""Time comes from what was measured or is not known; memory follows its formula and held against real runs; disk is preflight's."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from rollout_studio.core.before import estimate as module
from rollout_studio.core.before.cost import rollout_cost
from rollout_studio.core.before.disk import disk_estimate, trained_weights
from rollout_studio.core.before.estimate import MEASURED, estimate, memory_estimate, time_estimate
from rollout_studio.core.before.held import held_weights
from rollout_studio.core.before.installation import device_of
from rollout_studio.core.before.model_files import model_findings
from rollout_studio.core.config import config_from_flat, load_preset, rollout_level, with_changes
from rollout_studio.core.data import scan
from rollout_studio.core.families.blocks import blocks_of
from rollout_studio.core.runs.store import RunStore
from tiny import ONE_PER_FAMILY
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

DEMO = with_changes(load_preset("demo"), {"device": "cpu", "max_train_steps": 300, **rollout_level("gentle", 300)})
PLAIN = with_changes(DEMO, {"scheduled_sampling_max_step_offset": 0})
STEPS = PLAIN.training.max_train_steps


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def ran(store, config, name, seconds, *, network_rows=8, steps=12, end="done", rows=8):
    """A run that reported `steps` steps of `seconds`; a list of seconds or rows is used in turn."""
    run = store.create(config, name)
    run.emit("start", pid=1, device="cpu", total_steps=steps, resumed_from=None)
    for step in range(1, steps + 1):
        pick = [value[step % len(value)] if isinstance(value, list) else value for value in (seconds, network_rows)]
        run.emit(
            "step",
            step=step,
            loss=1.0,
            seconds=pick[0],
            network_rows=pick[1],
            **({} if rows is None else {"rows": rows}),
        )
    if end is not None:
        run.emit("end", state=end, step=steps)
    return run


# -- time -------------------------------------------------------------------------------------------------------------------------


def test_the_time_of_a_plain_run_is_its_steps_at_the_pace_of_an_earlier_one(store):
    ran(store, PLAIN, "before", 0.5)
    found_estimate = time_estimate(PLAIN, store.root)
    assert found_estimate.plain_step_s == pytest.approx(0.5) and found_estimate.steps_s.likely == pytest.approx(
        0.5 * 300
    )
    assert "before" in found_estimate.explanation and "this computer" in found_estimate.explanation


def test_rolled_steps_of_an_earlier_run_count_as_the_plain_ones_they_are_worth(store):
    """c = 2: a step with 12 more rows than its 8 took (2 + 1.5) / 2 of a plain one."""
    ran(store, DEMO, "rolled", [0.4, 0.4 * 3.5 / 2], network_rows=[8, 20])
    assert time_estimate(PLAIN, store.root).plain_step_s == pytest.approx(0.4)


def test_a_rollout_takes_longer_by_the_ratio_that_the_cost_tells(store):
    ran(store, PLAIN, "before", 0.5)
    dear = with_changes(
        PLAIN,
        {
            "scheduled_sampling_max_step_offset": 4,
            "scheduled_sampling_ramp_steps": 0,
            "scheduled_sampling_probability": 1.0,
        },
    )
    ratio = rollout_cost(dear).mean_ratio
    assert ratio > 2 and time_estimate(dear, store.root).steps_s.likely == pytest.approx(0.5 * STEPS * ratio)


def test_an_old_run_without_the_count_of_rows_is_read_by_its_smallest_step(store):
    ran(store, DEMO, "old", [0.4, 0.7], network_rows=[8, 20], rows=None)
    assert time_estimate(PLAIN, store.root).plain_step_s == pytest.approx(0.4)


@pytest.mark.parametrize(
    "changes",
    [{"train_batch_size": 8}, {"resolution": 128}, {"model_type": "full"}, {"gradient_checkpointing": True}, {"device": "cuda"}, {"lora_rank": 32},
     {"pretrained_model_name_or_path": "demo-epsilon", "lora_targets": []}, {"mixed_precision": "bf16"}, {"gradient_accumulation_steps": 2}],
)  # fmt: skip
def test_a_run_that_did_other_work_says_nothing_about_this_one(store, changes):
    ran(store, with_changes(PLAIN, changes), "other", 77.0)
    assert "other" not in time_estimate(PLAIN, store.root).explanation.split()


@pytest.mark.parametrize(
    "changes",
    [{"max_train_steps": 20}, {"learning_rate": 1.0}, {"seed": 7}, {"validation_prompts": ["x"]}, {"use_ema": False}],
)
def test_what_does_not_change_a_step_does_not_matter(store, changes):
    ran(store, with_changes(PLAIN, changes), "alike", 0.5)
    assert time_estimate(PLAIN, store.root).plain_step_s == pytest.approx(0.5)


def test_too_few_steps_and_damaged_runs_say_nothing(store):
    ran(store, PLAIN, "short", 0.5, steps=4)
    ran(store, PLAIN, "nan", float("nan"))
    broken = ran(store, PLAIN, "broken", 0.5)
    broken.config_path.write_text("{")
    odd = ran(store, PLAIN, "odd", 0.5, steps=0, end=None)
    for step in (None, "x", True, 10, 11, 12, 13, 14, 15):
        odd.emit("step", step=step, seconds="fast" if step == 10 else 0.5, network_rows=0, rows=0)
    strange = ran(store, PLAIN, "strange", 0.5)
    strange.config_path.write_text("[1]")
    (store.root / "a file").write_text("x")
    assert "AMD EPYC" in time_estimate(PLAIN, store.root).explanation  # the demo's own figure is left


def test_the_spread_is_that_of_the_runs_and_the_newest_is_the_likely_one(store):
    import os

    for age, (name, seconds) in enumerate((("new", [0.4, 0.6]), ("mid", 0.9), ("older", 0.3), ("oldest", 50.0))):
        run = ran(store, PLAIN, name, seconds)
        os.utime(run.config_path, (1e9 - age, 1e9 - age))
    found_estimate = time_estimate(PLAIN, store.root)
    assert (
        found_estimate.plain_step_s == pytest.approx(0.5)
        and found_estimate.steps_s.low == pytest.approx(0.3 * STEPS)
        and found_estimate.steps_s.high == pytest.approx(0.9 * STEPS)
    )


def test_what_a_whole_run_spent_beside_its_steps_is_reported_and_only_of_a_whole_one(store, monkeypatch):
    from rollout_studio.core.runs import store as runs

    clock = iter(range(1000, 2000))
    monkeypatch.setattr(runs.time, "time", lambda: next(clock))
    ran(store, PLAIN, "whole", 0.5)
    found_estimate = time_estimate(PLAIN, store.root)
    times = [event["time"] for event in store.get("whole").events()[0]]
    assert found_estimate.beside_s == pytest.approx(times[-1] - times[0] - 12 * 0.5)
    store.delete("whole")
    ran(store, PLAIN, "cut", 0.5, end=None)
    assert time_estimate(PLAIN, store.root).beside_s is None


def test_without_an_earlier_run_the_demo_has_its_measured_figure_and_names_the_machine(tmp_path):
    found_estimate = time_estimate(PLAIN, tmp_path / "none")
    assert (
        found_estimate.steps_s.likely == pytest.approx(STEPS * MEASURED["demo-flow"])
        and "measured on two cores" in found_estimate.explanation
    )
    assert found_estimate.steps_s.low < found_estimate.steps_s.likely < found_estimate.steps_s.high


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": 128},
        {"model_type": "full"},
        {"pretrained_model_name_or_path": "someone/model"},
        {"gradient_checkpointing": True},
    ],
)
def test_elsewhere_the_time_is_unknown_not_invented(tmp_path, changes):
    found_estimate = time_estimate(with_changes(PLAIN, changes), tmp_path)
    assert (
        found_estimate.steps_s is None
        and found_estimate.plain_step_s is None
        and "not known until the first steps" in found_estimate.explanation
    )


# -- memory -----------------------------------------------------------------------------------------------------------------------


def facts(name):
    return model_findings(config_from_flat({"pretrained_model_name_or_path": name}).model)[0]


def estimated_memory(model="demo-flow", **changes):
    base = {
        "pretrained_model_name_or_path": model,
        "resolution": 64,
        "device": "cpu",
        "train_batch_size": 4,
        "lora_rank": 16,
    }
    return memory_estimate(config_from_flat(base | changes), facts(model))


def test_memory_grows_as_its_formula_says():
    base = estimated_memory().parts
    assert estimated_memory(train_batch_size=8).parts["activations"] == pytest.approx(2 * base["activations"])
    halved = estimated_memory(train_batch_size=8, num_processes=2).parts  # of one of them
    assert halved["activations"] == pytest.approx(base["activations"]) and halved["weights"] == base["weights"]
    assert estimated_memory(lora_rank=32).parts["training"] == pytest.approx(2 * base["training"])
    # weight, gradient, two moments, average
    assert estimated_memory(use_ema=True).parts["training"] == pytest.approx(base["training"] * 5 / 4)
    assert estimated_memory(optimizer="adamw_8bit").parts["training"] == pytest.approx(base["training"] * 2.5 / 4)
    assert estimated_memory(with_prior_preservation=True, class_prompt="x").parts["activations"] == pytest.approx(
        2 * base["activations"]
    )
    assert estimated_memory(gradient_checkpointing=True).parts["activations"] < base["activations"]
    assert estimated_memory(base_model_precision="bfloat16").parts["weights"] == pytest.approx(base["weights"] / 2)
    assert estimated_memory(gradient_accumulation_steps=4).parts == base  # one after the other
    network = 3_502_864
    assert estimated_memory(model_type="full").parts["training"] == pytest.approx(network * 4 * 3)
    shared = {"model_type": "full", "num_processes": 2, "train_batch_size": 8}
    alone, divided = (estimated_memory(**shared, shard_weights=each).parts for each in (False, True))
    assert divided["training"] == alone["training"] / 2 and alone["weights"] - divided["weights"] == network * 4 / 2
    assert 0 < divided["visiting"] < 3 * 4 * network / 4 and "visiting" not in alone


def test_a_transformer_needs_by_its_tokens_and_a_unet_by_its_pixels():
    small, large = (estimated_memory(resolution=side).parts["activations"] for side in (64, 128))
    assert large / small == pytest.approx((256 + 64) / (64 + 64))  # patches of 2 on latents of 1/4, and the caption
    small, large = (estimated_memory("demo-epsilon", resolution=side).parts["activations"] for side in (64, 128))
    assert large / small == pytest.approx(4)


RUNS = [  # what 3 steps reported in `memory_mib` on two CPU cores, docs/training.md
    ("demo-flow", {"train_batch_size": 2}, 542), ("demo-flow", {"train_batch_size": 32}, 1133), ("demo-flow", {"train_batch_size": 128}, 3000),
    ("demo-flow", {"train_batch_size": 128, "gradient_checkpointing": True}, 1922), ("demo-epsilon", {"train_batch_size": 2}, 500),
    ("demo-epsilon", {"train_batch_size": 128}, 1336), ("demo-epsilon", {"train_batch_size": 128, "gradient_checkpointing": True}, 936),
]  # fmt: skip


@pytest.mark.parametrize(("model", "changes", "mib"), RUNS)
def test_real_runs_lie_in_the_range_that_is_reported(model, changes, mib):
    adapters = {"lora_targets": list(DEMO.lora.targets)} if model == "demo-flow" else {}
    found_estimate = estimated_memory(model, **adapters, **changes).total
    assert (
        found_estimate.low <= mib * 2**20 <= found_estimate.high
        and found_estimate.low < found_estimate.likely < found_estimate.high
    )


def test_what_is_only_reckoned_for_a_graphics_card_is_called_so():
    found_estimate = estimated_memory(device="cuda")
    assert (
        found_estimate.device == "cuda"
        and "process" not in found_estimate.parts
        and "never compared" in found_estimate.explanation
        and "graphics memory" in found_estimate.explanation
    )


def test_without_the_model_memory_and_disk_are_unknown(tmp_path):
    found_estimate = estimate(with_changes(PLAIN, {"pretrained_model_name_or_path": "someone/not-here"}), tmp_path)
    assert (
        found_estimate.memory.total is None
        and found_estimate.disk is None
        and "not known" in found_estimate.memory.explanation
        and "download" in found_estimate.disk_explanation
    )


def test_auto_takes_the_card_only_with_a_build_that_can_use_it(monkeypatch):
    from rollout_studio.core import platform_calls
    from rollout_studio.core.before import installation

    monkeypatch.setattr(platform_calls, "likely_device", lambda: "cuda")
    for build, device in (((True, True), "cuda"), ((True, False), "cpu")):
        monkeypatch.setattr(installation, "torch_build", lambda build=build: build)
        assert device_of(replace(PLAIN.model, device="auto")) == device
        assert device_of(replace(PLAIN.model, device="mps")) == "mps"


# -- disk, and all together -------------------------------------------------------------------------------------------------------


def test_disk_is_what_preflight_reckons_and_follows_new_pictures(tmp_path, pictures):
    config = with_changes(PLAIN, {"instance_data_dir": str(pictures), "with_prior_preservation": False})
    found_estimate = estimate(config, tmp_path)
    assert found_estimate.disk == disk_estimate(config, scan(config.data), facts("demo-flow"))
    more = tmp_path / "more"
    more.mkdir()
    moved = with_changes(config, {"instance_data_dir": str(more)})
    for path in pictures.glob("0.*"):
        (more / path.name).write_bytes(path.read_bytes())
    before = estimate(moved, tmp_path).disk.cache
    for path in pictures.glob("1.*"):
        (more / path.name).write_bytes(path.read_bytes())
    assert estimate(moved, tmp_path).disk.cache > before


def test_pictures_that_were_not_scanned_are_not_opened_for_a_side_panel(tmp_path, pictures, monkeypatch):
    config = with_changes(
        PLAIN,
        {"instance_data_dir": str(pictures), "class_data_dir": None, "with_prior_preservation": False, "repeats": 3},
    )
    module._scanned.clear()
    real, calls = module.scan, []
    monkeypatch.setattr(module, "scan", lambda data: calls.append(data) or real(data))
    found_estimate = estimate(config, tmp_path, scan_pictures=False)
    assert found_estimate.disk is None and "Check" in found_estimate.disk_explanation and calls == []
    whole = estimate(config, tmp_path).disk
    assert len(calls) == 1 and estimate(config, tmp_path, scan_pictures=False).disk == whole
    assert (
        estimate(with_changes(config, {"resolution": 128}), tmp_path, scan_pictures=False).disk.cache > whole.cache
        and len(calls) == 1
    )


def test_nothing_heavy_is_imported_for_it():
    code = (
        "import sys, json; from rollout_studio.core.before import estimate, effects, run_schedule; from rollout_studio.core.config import load_preset; "
        "estimate.estimate(load_preset('demo'), __import__('pathlib').Path('none')); effects.example_row(load_preset('demo')); "
        "print(json.dumps(sorted({'torch', 'diffusers', 'transformers', 'gradio', 'matplotlib'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_the_seconds_of_a_long_run_are_read_from_its_end(store, monkeypatch):
    monkeypatch.setattr(module, "_TAIL_BYTES", 2000)
    run = ran(store, PLAIN, "long", 9.0, steps=40, end=None)
    for step in range(41, 90):
        run.emit("step", step=step, loss=1.0, seconds=0.2, network_rows=8, rows=8)
    assert time_estimate(PLAIN, store.root).plain_step_s == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_as_many_weights_are_reported_as_train(name, kind, tiny_folder):
    """Counted from the files' headers, with the family's own targets, against the parameters of the opened model."""
    from rollout_studio.core import adapters
    from rollout_studio.core.families import load_model

    config = config_from_flat(
        {"pretrained_model_name_or_path": str(tiny_folder(name)), "device": "cpu", "model_type": kind, "lora_rank": 3}
    )
    model = load_model(config.model)
    adapters.attach(model, config)
    real = sum(weight.numel() for weight in adapters.trainable_parameters(model))
    assert trained_weights(config, facts(str(tiny_folder(name)))) == real > 0


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
@pytest.mark.parametrize("name", ["sd1", pytest.param("lumina2", marks=pytest.mark.slow)])
def test_as_many_weights_are_reported_as_train_of_every_kind(name, kind, tiny_folder):
    """With convolutions, ranks by layer and a factor."""
    from rollout_studio.core import adapters
    from rollout_studio.core.families import load_model

    layers = {"lora_targets": ["conv1", "to_q", "to_out.0", "proj_in", "ff.net.0.proj"]} if name == "sd1" else {}
    pattern = ["to_q=2"] + (["conv1=5:2"] if layers else [])
    config = config_from_flat(
        {"pretrained_model_name_or_path": str(tiny_folder(name)), "device": "cpu", "lora_rank": 3, "lora_type": kind, "lora_lokr_factor": 4,
         "lora_layout": "diffusers" if kind == "dora" else "kohya", "lora_rank_pattern": pattern, **layers}
    )  # fmt: skip
    model = load_model(config.model)
    adapters.attach(model, config)
    real = sum(weight.numel() for weight in adapters.trainable_parameters(model))
    assert trained_weights(config, facts(str(tiny_folder(name)))) == real > 0


# Weights that are quantised, or stream -----------------------------------------------------------------------------------


def held(name, **changes):
    model = config_from_flat({"pretrained_model_name_or_path": name, "gradient_checkpointing": True} | changes).model
    return held_weights(model, facts(name).shapes, streams=model.device == "cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_the_blocks_that_stay_and_the_largest_that_streams_are_on_the_card(precision, tiny_folder):
    folder, wide = str(tiny_folder("flux")), {"float32": 4, "bfloat16": 2}[precision]
    shapes = facts(folder).shapes
    blocks = {block: sum(math.prod(shapes[name]) for name in names) for block, names in blocks_of(shapes).items()}
    double, single = blocks["transformer_blocks.0"], blocks["single_transformer_blocks.0"]
    assert double > single and list(blocks)[-1] == "transformer_blocks.0"
    whole = sum(math.prod(shape) for shape in shapes.values())
    common = {"base_model_precision": precision}
    none = held(folder, **common, device="cuda")
    assert (none.weights, none.visiting, none.whole) == (wide * whole, 0, whole)
    one = held(folder, **common, device="cuda", streamed_blocks=1)
    assert (one.weights, one.visiting, one.whole) == (wide * (whole - double), wide * double, whole)
    most = held(folder, **common, device="cuda", streamed_blocks=len(blocks))
    outside = whole - sum(blocks.values())
    assert (most.weights, most.visiting, most.whole) == (wide * outside, wide * double, outside + double)
    assert held(folder, **common, device="cpu", streamed_blocks=1).weights == wide * whole  # the same memory


def test_a_quantised_network_takes_half_a_byte_or_one_and_what_is_unpacked():
    """12 layers of 3072 x 3072 in blocks, and one outside."""
    side = 3072
    layer = side * side
    shapes = {f"blocks.{block}.{name}.weight": (side, side) for block in range(3) for name in "abcd"} | {
        "out.weight": (side, side)
    }
    model = config_from_flat({"base_model_precision": "bfloat16", "gradient_checkpointing": True}).model
    per_weight = {"nf4": (0.5 + 1 / 64, 1), "int8": (1, 4), "int8_bnb": (1, 1), "fp8": (1, 4)}
    for kind, (bytes_, unpacked) in per_weight.items():
        found = held_weights(replace(model, base_model_quantization=kind), shapes, streams=True)
        assert found.weights == pytest.approx(12 * layer * bytes_ + 2 * layer, rel=2e-3)
        assert found.visiting == 2 * layer * unpacked and found.whole == layer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("name", ["flux", "sd1", "lumina2"])
def test_the_bytes_of_a_quantised_network_are_those_of_the_opened_one(name, kind, tiny_folder):
    pytest.importorskip("torchao")
    from rollout_studio.core.families import load_model

    changes = {"device": "cpu", "base_model_quantization": kind, "base_model_precision": "bfloat16"}
    folder = str(tiny_folder(name))
    network = load_model(
        config_from_flat({"pretrained_model_name_or_path": folder, "gradient_checkpointing": True} | changes).model
    ).denoiser
    parts = [
        part
        for weight in network.parameters()
        for part in (
            [getattr(weight, each) for each in weight.__tensor_flatten__()[0]]
            if is_traceable_wrapper_subclass(weight)
            else [weight]
        )
    ]
    assert held(folder, **changes).weights == sum(part.numel() * part.element_size() for part in parts)


def test_the_estimate_counts_them():
    big = {
        "model": "demo-epsilon",
        "device": "cuda",
        "base_model_precision": "bfloat16",
        "gradient_checkpointing": True,
    }
    plain, streamed, small = (
        estimated_memory(**big, **more) for more in ({}, {"streamed_blocks": 2}, {"base_model_quantization": "nf4"})
    )
    assert plain.parts["weights"] > streamed.parts["weights"] and "visiting" not in plain.parts
    assert plain.parts["weights"] > small.parts["weights"] and small.total.likely == sum(small.parts.values())
    assert small.total.low > small.parts["weights"] + small.parts["visiting"]
