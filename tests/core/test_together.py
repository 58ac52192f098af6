"""LoRAs at another strength, several at once, and a matrix of both: what the layers then compute, what is refused, and when a model is opened."""

import json

import pytest
import torch
from PIL import Image
from rollout_studio.core import adapters
from rollout_studio.core.adapters.variants import layers_of_state, of_trained
from rollout_studio.core.config import ConfigError, config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.picture_settings import PictureError, read_settings
from rollout_studio.core.look.preview.request import PreviewError, read_weights
from rollout_studio.core.look.sample_request import SampleRequest
from rollout_studio.core.train.loop import train
from tiny import predictions
from tiny_run import at_step, events, quietly

PROMPT = "a large red circle"


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """name -> (file, its config, layer -> its change): two LoRAs, a DoRA and a LoKr of one tiny model."""
    folder, found = tmp_path_factory.mktemp("loras"), {}
    for seed, (name, kind) in enumerate((("first", "lora"), ("second", "lora"), ("rows", "dora"), ("kron", "lokr"))):
        flat = {"pretrained_model_name_or_path": str(tiny_folder("lumina2")), "device": "cpu", "lora_type": kind, "lora_rank": 3,
                "lora_alpha": 4.0, "resolution": 64, "lora_layout": "kohya" if kind == "lokr" else "diffusers", "lora_rslora": name == "second"}  # fmt: skip
        config = config_from_flat(flat)
        model = load_model(config.model)
        adapters.attach(model, config)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapters.trainable_parameters(model):
                parameter += 0.3 * parameter.std().clamp(min=0.1) * torch.randn(parameter.shape, generator=draws)
        state = adapters.adapter_state(model)
        changes = of_trained(model, kind, state)
        assert changes.keys() == layers_of_state(state).keys()
        file = adapters.export_lora(model, folder / f"{name}.safetensors", config, layout=flat["lora_layout"])
        found[name] = file, config, changes
    return found


def opened(made):
    bench = Bench()
    bench.open(made["first"][1])
    return bench


def weights_of(made, name, strength=1.0, **beside):
    others = [{"lora": str(made[other][0]), "strength": each} for other, each in beside.items()]
    return read_weights([{"lora": str(made[name][0]), "strength": strength, "beside": others}])[0]


def layer_weights(bench, names):
    """What the named layers do now, as matrices."""
    found = {}
    with torch.no_grad():
        for name in names:
            module = bench.model.denoiser.get_submodule(name)
            width = getattr(module, "base_layer", module).weight.shape[1]
            zero, eye = torch.zeros(1, width), torch.eye(width)
            found[name] = (module(eye) - module(zero)).T
    return found


@pytest.mark.parametrize(
    ("asked", "sums"),
    [(("first", 0.4), {"first": 0.4}), (("first", -1.5), {"first": -1.5}), (("first", 0.5, {"second": 2.0}), {"first": 0.5, "second": 2.0}),
     (("first", 0.0, {"second": 0.7}), {"second": 0.7}), (("rows", 0.35), {"rows": 0.35}), (("rows", 1.6), {"rows": 1.6}), (("kron", 0.25), {"kron": 0.25})],
    ids=["weaker", "the other way", "two at once", "one of two at 0", "a DoRA's share", "more than a DoRA", "LoKr"],
)  # fmt: skip
def test_a_layer_has_the_base_and_each_change_times_its_strength(made, asked, sums):
    bench = opened(made)
    name, strength, *others = asked
    bench.with_weights(weights_of(made, name, strength, **(others[0] if others else {})))
    layers = list(made[name][2])[:4]
    base = {layer: bench.model.denoiser.get_submodule(layer).base_layer.weight.detach() for layer in layers}
    expected = {
        layer: base[layer] + sum(each * made[which][2][layer].of(base[layer]) for which, each in sums.items())
        for layer in layers
    }
    for layer, got in layer_weights(bench, layers).items():
        assert torch.allclose(got, expected[layer], atol=2e-5), (layer, (got - expected[layer]).abs().max())


def test_strengths_come_and_go_and_1_is_the_trained_one_bit_for_bit(made):
    bench = opened(made)
    base = predictions(bench.model)
    for name in ("first", "rows"):
        bench.with_weights(weights_of(made, name))
        trained = predictions(bench.model)
        states = {bench.with_weights(weights_of(made, name, each)).state for each in (0.3, 0.6, 1.0, 0.0)}
        assert len(states) == 4 and "base" in states
        assert torch.equal(predictions(bench.model), base)
        bench.with_weights(weights_of(made, name))
        assert torch.equal(predictions(bench.model), trained) and not torch.equal(trained, base)


def test_kinds_that_alternate_leave_the_model_open(made, monkeypatch):
    """A LoKr does not stand in the layers of a LoRA: those are taken out, and the model is not read again."""
    bench = opened(made)
    base, opened_again = predictions(bench.model), []
    monkeypatch.setattr("rollout_studio.core.families.load_model", lambda *a, **k: opened_again.append(a))
    shown = {}
    for name in ("first", "kron", "first", "rows", "kron"):
        bench.with_weights(weights_of(made, name))
        now = predictions(bench.model)
        assert torch.equal(shown.setdefault(name, now), now)
    assert len({tuple(each.flatten()[:50].tolist()) for each in (base, *shown.values())}) == 4
    bench.with_weights(read_weights(["base"])[0])
    assert torch.equal(predictions(bench.model), base) and not opened_again


@pytest.mark.parametrize(
    ("beside", "words"),
    [({"kron": 1.0}, "one kind"), ({"rows": 0.5}, "length of each row")],
)
def test_what_cannot_act_together_is_refused_before_it_is_loaded(made, beside, words):
    bench = opened(made)
    with pytest.raises(PreviewError, match=words) as refused:
        bench.with_weights(weights_of(made, "first", 1.0, **beside))
    assert next(iter(beside)) in refused.value.message and refused.value.remedy
    assert not bench.model.has_adapter


@pytest.mark.parametrize(
    ("checkpoints", "words"),
    [([{"lora": "a", "strength": 5}], "strength = 5: must be a number from -4 to 4"), ([{"lora": "a", "strength": float("nan")}], "strength = nan"),
     ([{"lora": "a", "strength": "1"}], "strength"), ([{"lora": "a", "beside": [{"lora": "a"}]}], "named twice"),
     ([{"lora": "a", "beside": [{"lora": x} for x in "bcde"]}], "at most 3"), ([{"run": "r", "live": True, "beside": [{"lora": "b"}]}], "own process"),
     ([{"lora": "a", "beside": ["base"]}], "each must be"), ([{"lora": "a", "beside": [{"lora": "b", "beside": [{"lora": "c"}]}]}], "each must be")],
    ids=str,
)  # fmt: skip
def test_wrong_strengths_and_companions_are_refused(checkpoints, words):
    with pytest.raises(ConfigError, match=words):
        read_weights(checkpoints)


def test_a_full_fine_tune_has_no_weight(tiny_run):
    run = tiny_run("lumina2", model_type="full")
    config = run.read_config()
    with pytest.raises(PreviewError, match="full fine-tune"):
        bench = Bench()
        bench.open(config_from_flat(config))
        bench.with_weights(read_weights([{"run": str(run.path), "step": 1, "strength": 0.5}])[0])


# A matrix -------------------------------------------------------------------------------------------------------------


def request_of(made, **more):
    return {"what": "samples", "prompts": PROMPT, "steps": 2, "guidance": 1.0, "config": {"pretrained_model_name_or_path": made["first"][1].model.pretrained_model_name_or_path,
            "resolution": 32}, "checkpoints": [{"lora": str(made[name][0])} for name in ("first", "rows")], **more}  # fmt: skip


def test_a_matrix_comes_cell_by_cell_and_each_cell_says_what_it_was_drawn_with(made, tmp_path):
    from rollout_studio.core.look.preview.answer import answer

    parts = []
    result = answer(Bench(), request_of(made, strengths=[0, 0.5, 1]), tmp_path, report_progress=lambda *_: None, part=parts.append, should_stop=lambda: False)  # fmt: skip
    assert result["matrix"] == {"rows": [0.0, 0.5, 1.0], "columns": ["first", "rows"], "prompts": [PROMPT]}
    assert [len(part["pictures"]) for part in parts] == [0, 1, 2, 3, 4, 5] and parts[0]["matrix"] == result["matrix"]
    cells = {(each["row"], each["column"]): each for each in result["pictures"]}
    assert cells.keys() == {(row, column) for row in range(3) for column in range(2)}
    drawn = {place: Image.open(tmp_path / each["file"]).tobytes() for place, each in cells.items()}
    assert drawn[0, 0] == drawn[0, 1], "without the LoRA all checkpoints are the base"
    assert len(set(drawn.values())) == 5
    found = read_settings(tmp_path / cells[1, 1]["file"])
    assert (found.prompt, found.drawing.steps, found.drawing.width, found.maker) == (PROMPT, 2, 32, "Rollout Studio")
    assert [(part.kind, part.file, part.strength) for part in found.parts] == [("lora", "rows.safetensors", 0.5)]
    assert str(made["rows"][0].parent) not in (tmp_path / cells[1, 1]["file"]).read_bytes().decode("latin-1")
    plain = quietly(
        Bench(), request_of(made, checkpoints=[{"lora": str(made["first"][0]), "strength": 0.5}]), tmp_path / "plain"
    )
    assert Image.open(tmp_path / "plain" / plain["pictures"][0]["file"]).tobytes() == drawn[1, 0]


@pytest.mark.parametrize(
    ("more", "words"),
    [({"strengths": []}, "1 to 9"), ({"strengths": [1, 1]}, "named twice"), ({"strengths": [9]}, "from -4 to 4"),
     ({"strengths": [0, 1], "checkpoints": ["base"]}, "row of weight 0"),
     ({"strengths": [0, 1, 2], "prompts": list("abcdefgh"), "checkpoints": [{"lora": x} for x in "pqr"]}, "72 pictures: a matrix has at most 64")],
    ids=str,
)  # fmt: skip
def test_a_matrix_that_cannot_be_drawn_is_refused(more, words):
    with pytest.raises(ConfigError, match=words):
        SampleRequest.from_json({"what": "samples", "prompts": "x", "checkpoints": [{"lora": "a"}], **more})


def test_strengths_and_companions_make_another_picture():
    def key(**more):
        return SampleRequest.from_json({"what": "samples", "prompts": "x", **more}).key()

    asked = [{"checkpoints": [{"lora": "a", "label": "x", **more}]} for more in ({}, {"strength": 0.5}, {"beside": [{"lora": "b"}]}, {"beside": [{"lora": "b", "strength": 2}]})]  # fmt: skip
    keys = {key(**each) for each in asked} | {key(**asked[0], strengths=[1]), key(**asked[0], strengths=[0.5])}
    assert len(keys) == 6


@pytest.mark.slow
def test_a_running_run_draws_at_a_strength_and_trains_on_unchanged(tiny_run, without_drift):
    run, alone = tiny_run("lumina2", "asked", learning_rate=0.05), tiny_run("lumina2", "alone", learning_rate=0.05)
    ask = {"what": "samples", "prompts": PROMPT, "steps": 2, "config": run.read_config(), "strengths": [0, 0.5, 1], "checkpoints": [{"run": str(run.path), "live": True}]}  # fmt: skip
    assert train(run, listen=at_step(2, lambda: run.send("drift", request=ask))) == 0
    assert train(alone) == 0
    [reported] = events(run, "preview")
    assert "path" in reported, reported
    folder = (run.path / reported["path"]).parent
    result = json.loads((run.path / reported["path"]).read_text())
    assert len({(folder / each["file"]).read_bytes()[-400:] for each in result["pictures"]}) == 3
    assert [event["loss"] for event in events(run, "step")] == [event["loss"] for event in events(alone, "step")]


# Settings read back ---------------------------------------------------------------------------------------------------


def saved(path, kind="PNG", **texts):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    Image.new("RGB", (8, 8)).save(path, kind, **({"pnginfo": info} if kind == "PNG" else {}))
    return path


def test_a_picture_of_another_tool_gives_its_prompt_and_seed(tmp_path):
    line = "Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 12, Size: 512x768, Model: dreamshaper"
    found = read_settings(saved(tmp_path / "a.png", parameters=f"a cat,\nsitting\nNegative prompt: blurry\n{line}"))
    drawing = found.drawing
    assert (found.prompt, drawing.negative_prompt, found.maker) == ("a cat, sitting", "blurry", "another tool")
    assert (drawing.steps, drawing.guidance, drawing.seed, drawing.width, drawing.height) == (20, 7.5, 12, 512, 768)


@pytest.mark.parametrize(
    ("texts", "words"),
    [({}, "carries no settings"), ({"workflow": "{}"}, "made by ComfyUI"), ({"rollout_studio": "{"}, "damaged"), ({"rollout_studio": "[1]"}, "damaged"),
     ({"rollout_studio": '{"prompt": "a", "size": [64, 64], "seed": -1, "steps": 2, "guidance": 1, "negative_prompt": "", "model": "m"}'}, "seed = -1"),
     ({"rollout_studio": '{"prompt": "a\\nb", "size": [64, 64], "seed": 1, "steps": 2, "guidance": 1, "negative_prompt": "", "model": "m"}'}, "one line"),
     ({"parameters": "just words"}, "damaged")],
    ids=str,
)  # fmt: skip
def test_a_picture_without_usable_settings_is_refused(tmp_path, texts, words):
    with pytest.raises(PictureError, match=words) as refused:
        read_settings(saved(tmp_path / "a.png", **texts))
    assert refused.value.remedy


def test_only_a_png_keeps_its_settings(tmp_path):
    with pytest.raises(PictureError, match="JPEG"):
        read_settings(saved(tmp_path / "a.jpg", "JPEG"))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match="no picture"):
        read_settings(tmp_path / "b.png")
