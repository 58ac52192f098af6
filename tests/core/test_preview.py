"""Drift previews: how a request reads, what is remembered, and a running run that answers with its own weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import random_pair
from PIL import Image
from rollout_studio.core.config import ConfigError, config_from_flat
from rollout_studio.core.data import pictures as picture_files
from rollout_studio.core.data import scan, transform
from rollout_studio.core.data.beside import Cut, crop_path, write_cut
from rollout_studio.core.families.base import Model
from rollout_studio.core.look import bench as the_bench
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.preview.request import (
    RELEVANT,
    VIEW_OPTIONS,
    PreviewError,
    PreviewRequest,
    find_picture,
    located_in,
    showcase,
)
from rollout_studio.core.look.preview.show import encode_request
from rollout_studio.core.look.remembering import Memory, Remembering
from rollout_studio.core.maths.noise import Prediction, RectifiedFlow
from rollout_studio.core.train.loop import train
from tiny_run import asked_of, at_step, events, quietly

PICTURE = {"image": showcase()[0]}


def read(**more) -> PreviewRequest:
    return PreviewRequest.from_json({**PICTURE, **more})


# Requests ------------------------------------------------------------------------------------------------------------


def test_a_request_says_everything_by_default():
    request = read()
    assert request.what == ("strip",) and [each.label for each in request.weights] == ["base"]
    assert request.config.model.pretrained_model_name_or_path == "demo-flow" and request.resolution is None
    assert request.picture.is_file() and request.text().startswith("a ")


def test_all_faults_of_a_request_are_reported_at_once():
    with pytest.raises(ConfigError) as reported:
        PreviewRequest.from_json(
            {"target": 1.5, "offset": 0, "sampler": "uni", "what": ["film"], "checkpoints": ["first"], "colour": 1}
        )
    text = str(reported.value)
    for wrong in (
        "target = 1.5",
        "offset = 0",
        "scheduled_sampling_sampler",
        "film",
        "checkpoints",
        "'colour'",
        "image",
    ):
        assert wrong in text, wrong


def test_a_request_refuses_what_is_no_number():
    with pytest.raises(ConfigError, match="finite"):
        read(target=float("nan"))


def test_an_unfinished_training_form_does_not_stand_in_the_way_of_a_preview():
    request = read(config={"learning_rate": -1, "resolution": 64, "max_train_steps": "many"})
    assert request.resolution == 64
    with pytest.raises(ConfigError, match="Did you mean 'resolution'"):
        read(config={"resolutoin": 64})


def test_what_cannot_change_the_picture_does_not_change_the_key():
    assert read().key() == read(config={"learning_rate": 0.5, "max_train_steps": 7}).key()
    changes = {
        "sampler": "dpm", "order": 1, "grid": "training", "grid_steps": 20, "guidance": 2.0, "seed": 1, "fine_factor": 3, "target": 0.3,
        "offset": 2, "start": "noise", "columns": 3, "samples": 2, "prompt": "a red circle", "image": showcase()[1],
        "what": ["curves"], "role": "training", "checkpoints": [{"lora": "a.safetensors"}], "samplers": ["euler", "dpm"],
        "config": {"pretrained_model_name_or_path": "demo-epsilon"}, "correction": "shifted_time",
    }  # fmt: skip
    numbers = {"epsilon_scale": 1.1, "time_window": 0.1, "time_cutoff": 0.2}
    used = {"epsilon_scale": "epsilon_scaling", "time_window": "shifted_time", "time_cutoff": "shifted_time"}
    keys = [read().key(), *(read(**{name: value}).key() for name, value in changes.items())]
    keys += [read(correction=used[name], **{name: value}).key() for name, value in numbers.items()]
    assert len(set(keys)) == len(keys)
    assert read().key() == read(**numbers).key()
    assert {*VIEW_OPTIONS, "sampler", "order"} <= {*changes, *numbers} and "pretrained_model_name_or_path" in RELEVANT


def test_a_changed_picture_is_another_picture(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(file)
    before = read(image=str(file), prompt="red").key()
    Image.new("RGB", (64, 80), "blue").save(file)
    assert read(image=str(file), prompt="red").key() != before


@pytest.mark.parametrize("center_crop", [True, False])
def test_the_picture_is_cropped_as_in_training(tmp_path, center_crop):
    """The part that is kept of it (its crop lies beside it), in the bucket and at the place that training takes of that part."""
    file = tmp_path / "a.png"
    Image.effect_noise((210, 120), 90).convert("RGB").save(file)
    (tmp_path / "a.txt").write_text("noise")
    flat = {"instance_data_dir": str(tmp_path), "resolution": 64, "aspect_buckets": True, "bucket_step": 16, "center_crop": center_crop}  # fmt: skip

    class Model:
        default_size = (128, 128)

        def encode_images(self, pixels):
            return pixels

        def by_words(self, words):
            return [{"embedding": torch.zeros(1)}]

    def shown_and_trained():
        request = read(image=str(file), config=flat)
        (item,) = scan(config_from_flat(flat).data).items
        trained = transform.apply(picture_files.decode(file.read_bytes()), item.crop(item.bucket, center=center_crop))
        shown = encode_request(Model(), request).latents.permute(1, 2, 0)
        return ((shown + 1) * 127.5).round().byte().numpy(), trained, request.key()

    shown, trained, whole = shown_and_trained()
    assert np.array_equal(shown, trained) and shown.shape != (64, 64, 3)
    write_cut(file, Cut(100, 20, 180, 110), 210, 120)
    shown, trained, part = shown_and_trained()
    assert np.array_equal(shown, trained) and whole != part
    crop_path(file).write_text("{}")
    with pytest.raises(PreviewError, match="is no crop"):
        encode_request(Model(), read(image=str(file), config=flat))


def test_solver_against_solver_gives_each_its_own_order():
    configs = read(samplers=["unipc", {"sampler": "dpm", "order": 1}, "rk4"]).by_solver
    assert [(each.rollout.sampler, each.rollout.order) for each in configs] == [("unipc", 2), ("dpm", 1), ("rk4", 2)]
    with pytest.raises(ConfigError, match="twice"):
        read(samplers=["euler", "euler"])


def test_the_weights_of_a_running_run_stand_alone_or_against_the_base(tmp_path):
    now = {"run": str(tmp_path / "mine"), "live": True}
    assert read(checkpoints=["base", now]).live.label == "mine, now"
    with pytest.raises(ConfigError, match="running run"):
        read(checkpoints=[now, {"run": str(tmp_path / "mine"), "step": 3}])


@pytest.mark.parametrize("name", ["nowhere.png", "demo-dreambooth-heldout/nothing", ".."])
def test_a_missing_picture_is_reported_with_a_remedy(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ".." is then a folder without pictures
    with pytest.raises(PreviewError) as reported:
        find_picture(name)
    assert reported.value.remedy


def test_a_picture_without_a_caption_needs_a_prompt(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    with pytest.raises(PreviewError, match="Write a prompt"):
        read(image=str(tmp_path / "a.png")).text()


def test_a_result_cannot_name_files_outside_its_folder(tmp_path):
    with pytest.raises(PreviewError, match="outside"):
        located_in({"report": "../../secret.json", "strips": []}, tmp_path)


# What is remembered --------------------------------------------------------------------------------------------------


class Counting:
    """Answers with a simple function of its inputs, and counts the rows that it was asked."""

    def __init__(self):
        self.rows = self.decoded = 0

    def predict(self, cond, guidance=1.0, negative=None):
        def predict(x, level, rows):
            self.rows += len(x)
            shift = cond["text"][rows].mean((1, 2))[:, None, None, None] * guidance
            return Prediction(x * level.t[:, None, None, None] + shift, x - shift)

        return predict

    def decode(self, latents):
        self.decoded += len(latents)
        return latents[:, :3] * 2


def test_a_row_is_evaluated_once_for_the_same_state_time_prompt_guidance_and_weights():
    model, path = Counting(), RectifiedFlow()
    x, _ = random_pair((3, 4, 5, 6), 0, torch.float32)
    cond, rows = {"text": torch.arange(24.0).reshape(2, 3, 4)}, torch.tensor([0, 1, 1])
    level = path.at(torch.tensor([0.2, 0.5, 0.5]))
    memory = Memory()
    exact = model.predict(cond)(x, level, rows)
    model.rows = 0

    def ask(state="base", x=x, level=level, rows=rows, guidance=1.0):
        before = model.rows
        found = Remembering(model, state, memory).predict(cond, guidance)(x, level, rows)
        return model.rows - before, found

    assert ask()[0] == 3
    asked, found = ask()
    assert asked == 0 and torch.equal(found.x0_hat, exact.x0_hat) and torch.equal(found.noise_hat, exact.noise_hat)
    assert ask(x=torch.cat([x[:2], x[:1]]))[0] == 1  # the third row only: another state at that time
    assert ask(state="lora")[0] == ask(guidance=2.0)[0] == ask(rows=torch.tensor([1, 0, 0]))[0] == 3
    assert ask(level=path.at(torch.tensor([0.2, 0.5, 0.6])))[0] == 1
    turned = torch.tensor([2, 0, 1])
    asked, found = ask(x=x[turned], level=level[turned], rows=rows[turned])
    assert asked == 0 and torch.equal(found.x0_hat, exact.x0_hat[turned])


def test_a_picture_is_decoded_once():
    model, memory = Counting(), Memory()
    latents, _ = random_pair((3, 4, 5, 6), 0, torch.float32)
    shown = Remembering(model, "base", memory)
    assert torch.equal(shown.decode(latents), latents[:, :3] * 2)
    assert torch.equal(shown.decode(latents.flip(0)), latents.flip(0)[:, :3] * 2)
    assert model.decoded == 3


def test_the_memory_is_bounded_and_drops_what_was_not_used_for_longest():
    memory, one = Memory(limit=3 * 40), torch.zeros(10)
    for name in (b"a", b"b", b"c"):
        memory.put(name, name, [one])
    memory.get(b"a")
    memory.put(b"d", b"d", [one])
    assert [memory.get(name) for name in (b"a", b"b", b"c", b"d")] == [b"a", None, b"c", b"d"]
    assert memory.bytes == 120
    memory.put(b"huge", b"huge", [torch.zeros(1000)])
    assert memory.get(b"huge") is None and memory.bytes == 120


# The bench: weights on a real tiny model ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["sd1", pytest.param("lumina2", marks=pytest.mark.slow)])
def test_a_checkpoint_shows_what_its_exported_file_shows_and_the_base_stays_the_base(
    tiny_run, without_drift, pictures, tmp_path, variant
):
    run = tiny_run(variant, lora_alpha=1.5, max_train_steps=2, checkpoint_step_interval=1)
    assert train(run) == 0
    bench = Bench()
    weights = [
        {"run": str(run.path), "step": 2}, {"lora": str(run.lora_path / f"{run.name}.safetensors")},
        {"run": str(run.path), "step": 1, "label": "first"}, "base",
    ]  # fmt: skip
    together = quietly(bench, asked_of(run, pictures, checkpoints=weights), tmp_path / "a")["numbers"]
    checkpoint, file, first, base = (together[name] for name in (f"{run.name}, step 2", run.name, "first", "base"))
    assert checkpoint == pytest.approx(file, rel=1e-4, abs=1e-5)
    assert len({numbers["cos_clean"] for numbers in (checkpoint, first, base)}) == 3
    assert quietly(Bench(), asked_of(run, pictures), tmp_path / "b")["numbers"]["base"] == base
    with pytest.raises(PreviewError, match="no checkpoint of step 9") as reported:
        quietly(bench, asked_of(run, pictures, checkpoints=[{"run": str(run.path), "step": 9}]), tmp_path / "c")
    assert "1, 2" in reported.value.remedy
    with pytest.raises(PreviewError, match="another model"):
        other = {**asked_of(run, pictures, checkpoints=weights[:1]), "config": {}}
        quietly(bench, other, tmp_path / "d")


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda name, tensor: (name, tensor * float("nan")), "hold NaN"),
    (lambda name, tensor: (name, tensor * 0 + 1e30), "times their own size"),
    (lambda name, tensor: (name.replace("layers.0", "layers.9"), tensor), "no such layer"),
    (lambda name, tensor: (name, tensor[:, :1] if "lora_A" in name else tensor), "inputs"),
], ids=["NaN", "1e30", "names", "shapes"])  # fmt: skip
def test_a_lora_that_does_not_fit_is_reported_and_the_base_stays_the_base(
    tiny_run, without_drift, pictures, tmp_path, spoil, words
):
    from safetensors.torch import load_file, save_file

    run = tiny_run("lumina2", max_train_steps=1)
    assert train(run) == 0
    file = tmp_path / "spoilt.safetensors"
    good = load_file(run.lora_path / f"{run.name}.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in (spoil(*each) for each in good.items())}, file)
    bench = Bench()
    base = quietly(bench, asked_of(run, pictures), tmp_path / "a")["numbers"]
    for record in (
        asked_of(run, pictures, checkpoints=["base", {"lora": str(file)}]),
        {
            "what": "samples",
            "prompts": "x",
            "steps": 1,
            "config": run.read_config(),
            "checkpoints": [{"lora": str(file)}],
        },
    ):
        with pytest.raises(PreviewError, match=words) as reported:
            quietly(bench, record, tmp_path / "b")
        assert "spoilt.safetensors" in reported.value.message and reported.value.remedy
    bench.memory.clear()
    assert quietly(bench, asked_of(run, pictures), tmp_path / "c")["numbers"] == base


@pytest.mark.slow
def test_a_full_fine_tune_is_shown_after_adapters_and_the_base_comes_back(tiny_run, without_drift, pictures, tmp_path):
    lora, full = (
        tiny_run("lumina2", "lora", max_train_steps=1),
        tiny_run("lumina2", "full", max_train_steps=1, model_type="full"),
    )
    assert train(lora) == 0 and train(full) == 0
    weights = ["base", {"run": str(lora.path), "step": 1}, {"run": str(full.path), "step": 1}]
    bench = Bench()
    record = asked_of(full, pictures, checkpoints=weights)
    first = quietly(bench, record, tmp_path / "a")["numbers"]
    bench.memory.clear()  # what was remembered must not hide wrong weights
    assert quietly(bench, {**record, "checkpoints": weights[::-1]}, tmp_path / "b")["numbers"] == first
    assert len({numbers["cos_clean"] for numbers in first.values()}) == 3
    alone = quietly(Bench(), {**record, "config": full.read_config() | {
        "pretrained_model_name_or_path": str(full.lora_path / "full")}, "checkpoints": ["base"]}, tmp_path / "c")  # fmt: skip
    assert alone["numbers"]["base"] == pytest.approx(first["full, step 1"], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_more_adapters_than_are_kept_come_and_go(tiny_run, without_drift, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(the_bench, "ADAPTERS_KEPT", 1)
    run = tiny_run("lumina2", max_train_steps=2, checkpoint_step_interval=1)
    assert train(run) == 0
    weights = [{"run": str(run.path), "step": 1}, {"run": str(run.path), "step": 2}, "base"]
    bench = Bench()
    first = quietly(bench, asked_of(run, pictures, checkpoints=weights), tmp_path / "a")["numbers"]
    bench.memory.clear()
    assert quietly(bench, asked_of(run, pictures, checkpoints=weights[::-1]), tmp_path / "b")["numbers"] == first
    assert len(bench.model.denoiser.peft_config) == 1


def test_a_filmstrip_is_reported_picture_by_picture_before_it_is_whole(tiny_run, pictures, tmp_path):
    """Each report names files that are there, and says more than the one before; the whole answer has the same pictures."""
    run, told = tiny_run("lumina2"), []

    def grow(growing):
        strips = located_in(growing, tmp_path / "a")["strips"]
        seen = [
            frame[row] for strip in strips for frame in strip["frames"] for row in ("clean", "rolled") if row in frame
        ]
        assert all(Path(each).is_file() for each in seen)
        told.append(seen)

    request = asked_of(run, pictures, samplers=["unipc", "euler"], columns=3)
    result = quietly(Bench(), request, tmp_path / "a", grow=grow)
    assert [len(each) for each in told] == list(range(1, 13)) and told[0][0].endswith("0-00-clean.png")
    whole = located_in(result, tmp_path / "a")["strips"]
    assert {frame[row] for strip in whole for frame in strip["frames"] for row in ("clean", "rolled")} == set(told[-1])


def test_a_rollout_is_shown_beside_its_corrected_one_with_their_names_in_the_report(tiny_run, pictures, tmp_path):
    run = tiny_run("lumina2")
    correction = {"correction": "shifted_time", "time_window": 0.3, "time_cutoff": 0.0}
    asked = asked_of(run, pictures, **correction, what=["curves"], samples=1)
    result = quietly(Bench(), asked, tmp_path / "a")
    labels = ["base", "base, shifted time ±0.3 above 0"]
    assert [strip["label"] for strip in result["strips"]] == labels == list(result["numbers"])
    report = json.loads((tmp_path / "a" / "report.json").read_text(encoding="utf-8"))
    assert [curve["label"] for curve in report["curves"]] == labels
    assert report["curves"][0]["network_rows"] == report["curves"][1]["network_rows"]
    distances = [result["numbers"][label]["distance"] for label in labels]
    assert distances[0] != distances[1]
    said = [sentence for sentence in result["words"] if "arXiv 2305.15583" in sentence]
    assert len(said) == 1 and said[0].startswith("With shifted time ±0.3 above 0")
    with pytest.raises(ConfigError, match="this model predicts the flow's velocity"):
        quietly(Bench(), asked_of(run, pictures, correction="epsilon_scaling"), tmp_path / "b")


@pytest.mark.slow
def test_every_kind_of_rollout_is_shown(tiny_run, pictures, tmp_path):
    run = tiny_run("lumina2")
    bench = Bench()
    ways = {
        "solvers": (
            {"samplers": ["unipc", "euler", "rk4"], "what": ["curves"], "samples": 1},
            ["unipc2", "euler", "rk4"],
        ),
        "noise": ({"start": "noise"}, ["base"]),
        "training": ({"grid": "training", "offset": 7}, ["base"]),
        "guided": ({"guidance": 2.0, "what": ["spectrum"], "samples": 2}, ["base"]),
    }
    results = {}
    for name, (changes, labels) in ways.items():
        results[name] = quietly(bench, asked_of(run, pictures, **changes), tmp_path / name)
        assert [strip["label"] for strip in results[name]["strips"]] == labels, name
    assert results["noise"]["walked"][0]["source_sigma"] > 0.9 and results["training"]["walked"][0]["steps"] == 7
    assert results["noise"]["numbers"]["base"]["distance"] > results["solvers"]["numbers"]["unipc2"]["distance"]
    report = json.loads((tmp_path / "solvers" / "report.json").read_text(encoding="utf-8"))
    assert [curve["label"] for curve in report["curves"]] == ["unipc2", "euler", "rk4"]
    assert (tmp_path / "solvers" / "curves.png").is_file() and (tmp_path / "guided" / "spectrum.png").is_file()


# A running run -------------------------------------------------------------------------------------------------------


def test_a_running_run_shows_its_weights_of_now_and_trains_on_unchanged(tiny_run, without_drift, pictures, monkeypatch):
    ask = {
        "image": str(pictures / "0.png"), "checkpoints": ["base", {"run": "mine", "live": True}], "target": 0.3, "offset": 2,
        "columns": 3, "config": {"resolution": 32, "aspect_buckets": False}, "grid_steps": 6,
    }  # fmt: skip
    ask |= {"what": ["strip", "curves"], "samples": 2}
    run, alone, grown, decoded = tiny_run("lumina2", "asked"), tiny_run("lumina2", "alone"), [], []
    decode = Model.decode
    monkeypatch.setattr(Model, "decode", lambda self, latents: decoded.append(len(latents)) or decode(self, latents))
    ask_at_two = at_step(2, lambda: run.send("drift", request=ask))

    def listen(event):
        ask_at_two(event)
        if event["event"] == "phase" and event["name"] == "preview":
            grown.extend(json.loads(file.read_text()) for file in run.drift_path.glob("previews/*/so-far.json"))

    assert train(run, listen=listen) == 0
    # each picture once, however often it is shown: of both weights three true and three own ones that begin alike, and the picture itself
    assert sum(decoded) == 2 * (3 + 3 - 1) + 1
    assert train(alone) == 0
    # picture by picture, then the whole strip, then the curves level by level; and nothing of it is left
    counts = [sum(len(frame) - 2 for strip in each["growing"]["strips"] for frame in strip["frames"]) for each in grown]
    assert counts == sorted(counts) and len(set(counts)) > 1 and counts[-1] == 12
    assert "part" not in grown[0] and {"part", "curves"} <= grown[-1].keys()
    assert not list(run.drift_path.glob("previews/*/so-far.json"))
    assert [event["loss"] for event in events(run, "step")] == [event["loss"] for event in events(alone, "step")]
    command = next(event for event in events(run, "command") if event["name"] == "drift")
    (reported,) = events(run, "preview")
    assert reported["id"] == command["id"] and reported["step"] == 2, reported
    file = run.path / reported["path"]
    result = located_in(json.loads(file.read_text(encoding="utf-8")), file.parent)
    assert [strip["label"] for strip in result["strips"]] == ["base", "mine, now"]
    assert result["numbers"]["base"]["distance"] != result["numbers"]["mine, now"]["distance"]


def test_a_running_run_reports_what_is_wrong_with_a_request(tiny_run, without_drift):
    run = tiny_run("lumina2")
    assert (
        train(run, listen=at_step(1, lambda: run.send("drift", request={"image": "nowhere.png", "prompt": "a"}))) == 0
    )
    (reported,) = events(run, "preview")
    assert "nowhere.png" in reported["message"] and reported["remedy"]
    assert len(events(run, "step")) == 3
