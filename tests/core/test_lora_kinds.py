"""DoRA, LoHa, LoKr, ranks by layer and rsLoRA: what trains, its start, its files against other readers' definitions, and whole runs."""

import json

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters import ExportError, LoraError
from rollout_studio.core.adapters.convert import convert
from rollout_studio.core.adapters.files import base_weight
from rollout_studio.core.adapters.header import read_header
from rollout_studio.core.adapters.kinds import tensor_shapes
from rollout_studio.core.adapters.loading import load_lora, restore_adapter
from rollout_studio.core.adapters.matrices import shapes_of
from rollout_studio.core.adapters.merge import merge
from rollout_studio.core.adapters.resize import resize
from rollout_studio.core.adapters.trainable import adapted_layers
from rollout_studio.core.adapters.variants import layers_of_state, of_trained
from rollout_studio.core.config import config_from_flat, config_to_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.config.rank_pattern import ranks_of
from rollout_studio.core.families import ModelError, load_model
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.preview.answer import answer
from rollout_studio.core.look.preview.request import Weights
from rollout_studio.core.train.loop import train
from safetensors.torch import load_file, save_file
from tiny import predictions
from tiny_run import ROLLOUT, events

LAYOUT = {"lora": "both", "dora": "both", "loha": "kohya", "lokr": "kohya"}
CONVOLUTIONS = ("to_q", "to_k", "conv1", "proj_in", "ff.net.0.proj")
ALWAYS = [("sd1", "dora"), ("lumina2", "loha"), ("sd1", "lokr")]
ALSO = [("sd1", "lora"), ("sd1", "loha"), ("lumina2", "dora"), ("lumina2", "lokr")]
CASES = [*ALWAYS, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALSO)]
"""A UNet with convolutions and a transformer; of plain LoRA the ranks by layer and the rank-stabilised scale."""


@pytest.fixture(scope="module")
def trained(tiny_folder):
    """(model, config) of a kind of adapter moved away from its start; one model a case, which tests do not change."""
    made = {}

    def make(name, kind):
        if (name, kind) not in made:
            config = with_kind(tiny_folder(name), name, kind)
            model = load_model(config.model)
            adapters.attach(model, config)
            draws = torch.Generator().manual_seed(9)
            with torch.no_grad():
                for parameter in adapters.trainable_parameters(model):
                    parameter += 0.3 * parameter.std().clamp(min=0.1) * torch.randn(parameter.shape, generator=draws)
            made[name, kind] = model, config
        return made[name, kind]

    return make


def with_kind(folder, name, kind, **changes):
    """Different ranks and alphas, so that no scale is 1 and none is another layer's."""
    flat = {
        "pretrained_model_name_or_path": str(folder), "device": "cpu", "lora_type": kind, "lora_rank": 3, "lora_alpha": 4.0, "resolution": 64,
        "lora_rslora": kind in ("lora", "dora"), "lora_rank_pattern": ["to_q=2:1"], "lora_layout": LAYOUT[kind] if name == "sd1" or kind != "dora" else "diffusers",
    }  # fmt: skip
    if name == "sd1":
        flat |= {"lora_targets": list(CONVOLUTIONS), "lora_rank_pattern": ["to_q=2:1", "conv1=5"]}
    return config_from_flat(flat | changes)


# What trains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_is_said_of_a_kind_is_what_trains(name, kind, trained):
    """Names and shapes of every tensor, in every layer with its own rank."""
    model, _ = trained(name, kind)
    shapes, layers = shapes_of(model.denoiser), layers_of_state(adapters.adapter_state(model))
    assert list(layers) == adapted_layers(model)
    ranks = {"to_q": 2, "conv1": 5}
    for layer, parts in layers.items():
        rank = ranks.get(layer.split(".")[-1], 3)
        assert {part: tuple(each.shape) for part, each in parts.items()} == tensor_shapes(kind, shapes[layer], rank)


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_it_starts_without_effect_and_from_its_seed_alone(kind, precision, tiny_folder):
    states = []
    for seed in (1, 1, 2):
        config = with_kind(tiny_folder("sd1"), "sd1", kind, seed=seed, base_model_precision=precision)
        torch.manual_seed(seed + len(states))
        before = torch.get_rng_state()
        model = load_model(config.model)
        adapters.attach(model, config)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(adapters.adapter_state(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    drawn = {name for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    assert len(drawn) >= len(adapted_layers(model)), "the rest is 0, or a row's own length"
    with_it = predictions(model)
    with model.adapters_disabled():
        assert torch.equal(predictions(model), with_it)
    assert all(parameter.dtype == torch.float32 for parameter in adapters.trainable_parameters(model))


def test_a_lokr_factor_divides_the_layers(tiny_folder):
    model = load_model(with_kind(tiny_folder("lumina2"), "lumina2", "lokr").model)
    adapters.attach(model, with_kind(tiny_folder("lumina2"), "lumina2", "lokr", lora_lokr_factor=8))
    parts = layers_of_state(adapters.adapter_state(model))["layers.0.attn.to_k"]
    assert parts["lokr_w1"].shape == (8, 8) and parts["lokr_w2"].shape == (2, 4)


def test_of_several_lines_the_last_that_fits_a_layer_holds():
    layers = ["down.0.attn1.to_q", "down.0.attn2.to_q", "up.10.attn2.to_k", "up.10.ff.net.0"]
    found = ranks_of(layers, 16, 8.0, ["attn*=4", "to_q=2:1", "attn2.to_k=6:3", "up.1=1"])
    assert found == dict(zip(layers, [(2, 1.0), (2, 1.0), (6, 3.0), (16, 8.0)], strict=True))
    assert ranks_of(layers[3:], 16, None, ["ff.net=5"]) == {layers[3]: (5, 5.0)}, "alpha unset is the layer's own rank"


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["to_qq=4"], "Did you mean to_q"), (["to_q=4", "attn=2"], "no effect"), (["zzz=3"], "in the name of none")],
)
def test_a_pattern_that_changes_nothing_is_refused_with_near_names(lines, message, tiny_folder):
    config = with_kind(tiny_folder("lumina2"), "lumina2", "lora", lora_rank_pattern=lines)
    model = load_model(config.model)
    with pytest.raises(ModelError, match="lora_rank_pattern") as told:
        adapters.attach(model, config)
    assert message in str(told.value) and not model.has_adapter


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_type": "loha"}, "lora_layout"),
        ({"lora_type": "lokr", "lora_layout": "both"}, "lora_layout"),
        ({"lora_type": "loha", "lora_layout": "kohya", "lora_dropout": 0.1}, "lora_dropout"),
        ({"lora_type": "lokr", "lora_layout": "kohya", "lora_rslora": True}, "lora_rslora"),
        ({"lora_type": "dora", "base_model_quantization": "nf4"}, "base_model_quantization"),
        ({"lora_rank_pattern": ["to_q"]}, "pattern=rank"),
        ({"lora_rank_pattern": ["to_q=0"]}, "from 1 to 1024"),
        ({"lora_rank_pattern": ["to_q=4:-1"]}, "alpha must be above 0"),
        ({"lora_rank_pattern": [".to_q=4"]}, "a dot"),
    ],
)
def test_what_cannot_be_honoured_is_refused_at_the_field(changes, words):
    with pytest.raises(ConfigError, match="lora_") as told:
        config_from_flat(changes)
    assert words in str(told.value)


# Files ----------------------------------------------------------------------------------------------------------------


def comfyui_weight(tensors, name, weight):
    """A layer's weight as ComfyUI makes it of a file (comfy/weight_adapter, 2025), from its formulas."""

    def get(part):
        found = tensors.get(f"{name}.{part}")
        return None if found is None else found.float()

    alpha, before, dim = get("alpha"), weight.float(), None
    if get("hada_w1_a") is not None:
        dim = get("hada_w1_b").shape[0]
        change = (get("hada_w1_a") @ get("hada_w1_b")) * (get("hada_w2_a") @ get("hada_w2_b"))
    elif get("lokr_w1") is not None:
        large = get("lokr_w2")
        if large is None:
            large, dim = get("lokr_w2_a") @ get("lokr_w2_b"), get("lokr_w2_b").shape[0]
        small = get("lokr_w1")
        change = torch.kron(small[..., None, None] if large.ndim == 4 else small, large)
    else:
        down = get("lora_down.weight")
        dim, change = down.shape[0], get("lora_up.weight").flatten(1) @ down.flatten(1)
    change = change.reshape(weight.shape) * (1.0 if dim is None or alpha is None else float(alpha) / dim)
    scale = get("dora_scale")
    if scale is None:
        return before + change
    assert scale.shape[0] == weight.shape[0], "on the outputs' axis"
    rows = before.reshape(before.shape[0], -1).norm(dim=1).reshape(-1, *(1 for _ in weight.shape[1:]))
    return (before + change) * scale / rows


def merged_weight(model, layer):
    """A layer's weight with the adapter, as peft merges it."""
    module = model.denoiser.get_submodule(layer)
    before = module.base_layer.weight.detach().clone()
    module.merge(adapter_names=["default"])
    merged = module.base_layer.weight.detach().clone()
    module.merged_adapters.clear()
    module.base_layer.weight.data.copy_(before)
    return before, merged


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_files_pass_their_check_and_mean_in_comfyui_what_was_trained(name, kind, trained, tmp_path):
    """In the diffusers layout a fresh stock pipeline's own loader gives the same output to 1e-5; in the other one every layer's weight is the
    one that peft merges, by ComfyUI's formulas."""
    model, config = trained(name, kind)
    ours = predictions(model)
    layouts = ["diffusers"] if kind in ("lora", "dora") else []
    layouts += ["kohya"] if config.lora.layout != "diffusers" else []
    assert layouts
    for layout in layouts:
        path = adapters.export_lora(model, tmp_path / f"{layout}.safetensors", config, layout=layout)
        tensors = load_file(path)
        for check in (adapters.check_export(path, config, model), adapters.check_export(path, config)):
            assert check.passed and check.used == check.total == len(tensors) and check.effect > 1e-3
            assert check.max_difference < 1e-5
        fresh = load_model(config.model, for_training=False)
        if layout == "diffusers":
            fresh.pipe.load_lora_weights(str(path))
            assert len(tensors) == len(adapters.trainable_names(model))
        else:
            assert load_lora(fresh, path, "drawn").layers == len(adapted_layers(model))
            prefix = "lora_unet_" if name == "sd1" else "lycoris_"
            for layer in adapted_layers(model):
                before, merged = merged_weight(model, layer)
                read = comfyui_weight(tensors, prefix + layer.replace(".", "_"), before)
                assert (read - merged).norm() < 1e-5 * merged.norm() < 0.01 * (merged - before).norm() * 100
        assert (predictions(fresh) - ours).abs().max() < 1e-5
        notes = read_header(path)["__metadata__"]
        module = {"lora": "networks.lora"}.get(kind, "lycoris.kohya")
        assert notes["ss_network_module"] == module and notes["ss_network_dim"] in ("3", "5")
        assert json.loads(notes["ss_network_args"]).get("algo") == {"lora": None, "dora": "lora"}.get(kind, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_lycoris_own_library_reads_the_file_as_it_was_trained(kind, trained, tmp_path):
    """Needs the package lycoris-lora."""
    lycoris = pytest.importorskip("lycoris")
    model, config = trained("lumina2", kind)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    fresh = load_model(config.model, for_training=False)
    network, _ = lycoris.create_lycoris_from_weights(1.0, str(path), fresh.denoiser)
    network.apply_to()
    assert len(network.loras) == len(adapted_layers(model))
    assert (predictions(fresh) - predictions(model)).abs().max() < 1e-5


@pytest.mark.parametrize("damage", ["a scale twice", "a layer lost", "a tensor lost", "another name"])
def test_a_wrong_lycoris_file_fails_the_check(damage, trained, tmp_path):
    model, config = trained("lumina2", "lokr")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    tensors, layer = load_file(path), "lycoris_layers_0_attn_to_k"
    match damage:
        case "a scale twice":
            tensors[f"{layer}.alpha"] *= 2
        case "a layer lost":
            tensors = {name: each for name, each in tensors.items() if not name.startswith(layer)}
        case "a tensor lost":
            del tensors[f"{layer}.alpha"]
        case "another name":
            tensors = {name.replace(layer, "lycoris_layers_7_attn_to_k"): each for name, each in tensors.items()}
    save_file(tensors, path, metadata=read_header(path)["__metadata__"])
    with pytest.raises(ExportError, match="failed"):
        adapters.check_export(path, config, model)


def test_a_dora_in_16_bits_keeps_its_lengths_in_32_and_passes_its_check_in_both_layouts(trained, tmp_path):
    """Rounded lengths would change every weight by up to 0.4 %, which is as much as a whole training may."""
    model, config = trained("sd1", "dora")
    for layout, part in (("diffusers", "lora_magnitude_vector"), ("kohya", "dora_scale")):
        path = adapters.export_lora(model, tmp_path / f"{layout}.safetensors", config, "bfloat16", layout=layout)
        assert adapters.check_export(path, config, model).passed
        kinds = {
            name.endswith(part): tensor.dtype for name, tensor in load_file(path).items() if not name.endswith(".alpha")
        }
        assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_parts_that_do_not_train_keep_their_rows_in_a_fused_layer(tiny_folder, tmp_path):
    """FLUX.1 has q, k and v in one layer there; of a DoRA on q alone the others' rows are the base's own lengths."""
    from rollout_studio.core.adapters import variants
    from rollout_studio.core.adapters.kinds import MAGNITUDE
    from rollout_studio.core.adapters.lora_layers import Base
    from rollout_studio.core.families.registry import FAMILIES

    layers = [f"transformer_blocks.0.attn.to_{each}" for each in "qkv"]
    draws = torch.Generator().manual_seed(4)
    weights = {layer: torch.randn(6, 5, generator=draws) for layer in layers}
    base = Base("x", FAMILIES["flux"], FAMILIES["flux"].kohya, "", {}, dict.fromkeys(layers, (6, 5)), {})
    parts = {
        "lora_A": torch.randn(2, 5, generator=draws),
        "lora_B": torch.randn(6, 2, generator=draws),
        MAGNITUDE: torch.rand(6) + 1,
    }
    change = variants.Change("dora", parts, 0.5)
    tensors = variants.written({layers[0]: change}, base, weights.__getitem__, torch.float32)
    assert tensors.keys() == variants.keys({layers[0]: change}, base)
    whole = torch.cat([weights[layer] for layer in layers])
    read = comfyui_weight(tensors, "lora_unet_double_blocks_0_img_attn_qkv", whole)
    torch.testing.assert_close(read[6:], whole[6:])
    torch.testing.assert_close(read[:6].norm(dim=1), change.lengths)
    again, left = variants.read(tensors, "dora", base, weights.__getitem__, {})
    assert not left and list(again) == layers[:1]
    torch.testing.assert_close(again[layers[0]].of(weights[layers[0]]), change.of(weights[layers[0]]))


# Afterwards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("sd1", "lokr"), *(pytest.param(*each, marks=pytest.mark.slow) for each in ALWAYS[:2])]
)
def test_a_merged_model_has_the_change_and_what_cannot_be_done_is_refused(name, kind, trained, tmp_path):
    model, config = trained(name, kind)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    done = merge(path, model.source, tmp_path / "whole")
    assert done.effect > 1e-3 > 100 * done.difference
    for refused in (
        lambda out: convert(path, out, "diffusers", model.source),
        lambda out: resize(path, out, 2, model.source),
    ):
        with pytest.raises(LoraError, match="lora merge"):
            refused(tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_a_merged_model_has_the_base_and_the_change_whatever_alpha_is(kind, trained, tmp_path):
    """The kohya layout, which is read by ourselves. Ranks are 2, 3 and 5, alphas others."""
    model, config = trained("sd1", kind)
    path = adapters.export_lora(model, tmp_path / "lora.safetensors", config, layout="kohya")
    merge(path, model.source, tmp_path / "merged")
    written = load_model(config_from_flat({"pretrained_model_name_or_path": str(tmp_path / "merged")}).model)
    for layer, change in of_trained(model, kind, adapters.adapter_state(model)).items():
        before = base_weight(model, layer).detach()
        changed = base_weight(written, layer).detach().flatten(1) - before.flatten(1)
        assert change.scale != 1 and (changed - change.of(before)).norm() < 1e-4 * change.of(before).norm()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_checkpoints_adapter_is_put_on_another_model_as_it_was(name, kind, trained):
    """What "Try it" and the drift of a run's checkpoints do."""
    model, config = trained(name, kind)
    fresh = load_model(config.model, for_training=False)
    base = predictions(fresh)
    restore_adapter(fresh, config.lora, adapters.adapter_state(model), "tried")
    assert (predictions(fresh) - predictions(model)).abs().max() < 1e-5
    with fresh.adapters_disabled():
        assert torch.equal(predictions(fresh), base)


@pytest.mark.parametrize("spoil", [
    lambda tensors, layer: tensors.pop(f"{layer}.lokr_w1"), lambda tensors, layer: tensors.pop(f"{layer}.lokr_w2_b"),
    lambda tensors, layer: tensors.update({f"{layer}.lokr_w2_a": torch.ones(3, 4)}),
    lambda tensors, layer: tensors.update({f"{layer}.lokr_w1": torch.ones(2, 2)}),
], ids=["a factor lost", "half a product lost", "factors apart", "another size"])  # fmt: skip
def test_a_spoilt_lokr_is_refused_by_the_layer_and_leaves_no_adapter(spoil, trained, tmp_path):
    model, config = trained("lumina2", "lokr")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    tensors = load_file(path)
    spoil(tensors, "lycoris_layers_0_attn_to_k")
    save_file(tensors, path)
    fresh = load_model(config.model, for_training=False)
    with pytest.raises(LoraError, match="layers.0.attn.to_k|lycoris_layers_0_attn_to_k"):
        load_lora(fresh, path, "drawn")
    assert not fresh.has_adapter


def test_a_file_for_another_model_is_refused_and_leaves_no_adapter(trained, tmp_path):
    model, config = trained("sd1", "loha")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    other = load_model(trained("lumina2", "loha")[1].model, for_training=False)
    with pytest.raises(LoraError, match="0 of its"):
        load_lora(other, path, "drawn")
    assert not other.has_adapter


# Whole runs -----------------------------------------------------------------------------------------------------------

RUNS = [pytest.param(*each, marks=pytest.mark.slow) for each in [*ALWAYS, *ALSO]]


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_a_run_with_rollout_measures_base_and_tuned_and_its_checkpoint_shows_what_its_file_shows(
    name, kind, tiny_run, pictures, tmp_path
):
    """Two steps with an average; ReflexFlow on the flow model. Whether it resumes bit for bit: `test_resume.py`."""
    config = with_kind("x", name, kind)
    own = {each: value for each, value in config_to_flat(config).items() if each.startswith("lora_")}
    often = {**ROLLOUT, "scheduled_sampling_probability": 1.0}
    run = tiny_run(name, **often, **own, max_train_steps=2, use_ema=True, ema_decay=0.5, drift_step_interval=2)
    assert train(run) == 0, run.read_state()
    [exported] = events(run, "exported")
    assert exported["check"]["passed"] and exported["check"]["effect"] > 0
    assert {layout["layout"] for layout in exported["files"]} <= {"diffusers", "kohya"}
    assert sum(event["rolled_rows"] for event in events(run, "step")) > 0
    curves = json.loads((run.path / events(run, "drift")[-1]["path"]).read_text())["curves"]
    assert {curve["weights"] for curve in curves} == {"base", "tuned"}
    weights = [{"run": str(run.path), "step": 2}, {"lora": str(run.lora_path / f"{run.name}.safetensors")}, "base"]
    request = {
        "config": run.read_config(),
        "image": str(pictures / "0.png"),
        "target": 0.3,
        "offset": 2,
        "columns": 2,
        "checkpoints": weights,
    }
    nothing = {"report_progress": lambda share, what: None, "part": lambda result: None, "should_stop": lambda: False}
    shown = answer(Bench(), request, tmp_path / "a", **nothing)["numbers"]
    assert shown[f"{run.name}, step 2"] == pytest.approx(shown[run.name], rel=1e-4, abs=1e-5)
    assert shown["base"]["cos_clean"] != shown[run.name]["cos_clean"]


@pytest.mark.slow
def test_adapters_of_two_kinds_are_shown_one_after_the_other(tiny_folder, trained, tmp_path):
    """A LoKr does not stand in the layers of a LoRA: these are taken out (`test_together.py`: the model stays open)."""
    files = []
    for kind in ("dora", "lokr"):
        model, config = trained("lumina2", kind)
        files.append(
            adapters.export_lora(
                model, tmp_path / f"{kind}.safetensors", config, layout="diffusers" if kind == "dora" else "kohya"
            )
        )
    bench, expected = Bench(), [predictions(trained("lumina2", kind)[0]) for kind in ("dora", "lokr")]
    base = predictions(load_model(config.model))
    bench.open(config)
    for which in (0, 1, 0):
        bench.with_weights(Weights("lora", files[which], None, "x"))
        assert (predictions(bench.model) - expected[which]).abs().max() < 1e-5
    bench.with_weights(Weights("base", None, None, "base"))
    assert torch.equal(predictions(bench.model), base)
