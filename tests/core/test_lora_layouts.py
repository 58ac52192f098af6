"""LoRA files of both layouts: the key maps against diffusers' own converters at the released sizes, files in stock pipelines, round trips,
merging, resizing and converting."""

import pytest
import torch
from released import as_diffusers_reads, drawn, released
from rollout_studio.core import adapters
from rollout_studio.core.adapters import ExportError, LoraError, kohya
from rollout_studio.core.adapters.check import Probe
from rollout_studio.core.adapters.convert import convert
from rollout_studio.core.adapters.header import read_header, read_lora_config
from rollout_studio.core.adapters.loading import load_lora
from rollout_studio.core.adapters.matrices import Matrices, difference, of_adapter, shapes_of
from rollout_studio.core.adapters.merge import merge
from rollout_studio.core.adapters.resize import reduced, resize
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.core.families.lora_facts import KohyaLayout
from rollout_studio.core.families.registry import FAMILIES
from safetensors.torch import load_file, save_file
from tiny import BY_FAMILY, without_zeros

WITH_LAYOUT = [name for name, facts in FAMILIES.items() if isinstance(facts.kohya, KohyaLayout)]


@pytest.mark.parametrize("family", WITH_LAYOUT)
def test_the_key_map_is_diffusers_own_at_the_released_size(family):
    """Every layer that the family trains, named, fused and scaled; read by the converter of its stock pipeline."""
    facts, network = FAMILIES[family], released(family)
    layers = drawn(network, facts.lora_targets)
    tensors = kohya.written(layers, facts.kohya, network.config, shapes_of(network), torch.float32)
    assert tensors.keys() == kohya.keys(facts.kohya, network.config, list(layers))
    read = as_diffusers_reads(family, network, tensors)
    assert layers.keys() <= read.keys()
    assert all(not other.b.any() for layer, other in read.items() if layer not in layers), (
        "only rows of zeros are added"
    )
    assert max(difference(one, read[layer]) for layer, one in layers.items()) < 1e-6
    again, left = kohya.read(tensors, facts.kohya, network.config, shapes_of(network))
    assert not left and again.keys() == layers.keys()
    if facts.kohya.alphas:
        assert all(torch.equal(one.a, again[layer].a) and torch.equal(one.b, again[layer].b) and one.alpha == again[layer].alpha for layer, one in layers.items())  # fmt: skip
    else:
        assert all(torch.equal(one.folded().b, again[layer].b) for layer, one in layers.items())


# Files in stock pipelines ---------------------------------------------------------------------------------------------

USUAL = {family: builders[0].__name__ for family, builders in BY_FAMILY.items()}
READ_AT_ONE_SIZE = ("flux", "chroma")
"""diffusers' converter of these has the released network's numbers in it, so a tiny pipeline cannot read the layout; they are compared above."""
ON_TINY = [family for family in WITH_LAYOUT if family not in READ_AT_ONE_SIZE]


@pytest.fixture(scope="module")
def trained(tiny_folder):
    """(model, config) of a family with a LoRA moved away from its start; one model a family, for all tests here."""
    made = {}

    def make(family):
        if family not in made:
            flat = {
                "pretrained_model_name_or_path": str(tiny_folder(USUAL[family])), "device": "cpu", "lora_rank": 4, "lora_alpha": 7.0,
                "trigger_word": "sks", "instance_prompt": "a photo of sks dog", "instance_data_dir": "/home/ada/secret-dogs", "resolution": 64,
            }  # fmt: skip
            config = config_from_flat(flat)
            model = load_model(config.model)
            adapters.attach(model, config)
            draws = torch.Generator().manual_seed(9)
            with torch.no_grad():
                for parameter in adapters.trainable_parameters(model):
                    parameter += 0.5 * parameter.std().clamp(min=0.1) * torch.randn(parameter.shape, generator=draws)
            made[family] = model, config
        return made[family]

    return make


@pytest.mark.parametrize("family", ON_TINY)
def test_a_file_of_the_kohya_layout_does_in_a_stock_pipeline_what_the_trainer_does(family, trained, tmp_path):
    model, config = trained(family)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    tensors, has_alphas = load_file(path), model.facts.kohya.alphas
    for check in (adapters.check_export(path, config, model), adapters.check_export(path, config)):
        assert check.passed and check.layout == "kohya" and check.missing == check.unexpected == ()
        assert check.used == check.total == len(tensors)
        assert check.max_difference < 1e-3 * check.effect and check.effect > 1e-3
    metadata = read_header(path)["__metadata__"]
    alphas = {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")}
    assert float(metadata["ss_network_alpha"]) in (alphas if has_alphas else {4.0})
    assert bool(alphas) == has_alphas and metadata["rollout_studio_layout"] == "kohya"
    fit = load_lora(load_model(config.model, for_training=False), path, "drawn")
    assert fit.layers == len(adapters.trainable_names(model)) / 2, "what draws with a LoRA reads it, too"


@pytest.mark.parametrize(
    "damage", ["another alpha", "a layer lost", "an alpha lost", "a layer of another name", "a matrix of another layer"]
)
def test_a_wrong_file_of_the_kohya_layout_fails_the_check(damage, trained, tmp_path):
    model, config = trained("qwen")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    tensors, metadata = load_file(path), read_header(path)["__metadata__"]
    layer, other = "lora_unet_transformer_blocks_0_attn_to_q", "lora_unet_transformer_blocks_0_attn_to_k"
    match damage:
        case "another alpha":
            tensors[f"{layer}.alpha"] *= 2
        case "a layer lost":
            tensors = {key: value for key, value in tensors.items() if not key.startswith(layer)}
        case "an alpha lost":
            del tensors[f"{layer}.alpha"]
        case "a layer of another name":
            tensors = {key.replace(layer, layer.replace("_0_", "_9_")): value for key, value in tensors.items()}
        case "a matrix of another layer":
            tensors[f"{layer}.lora_up.weight"] = tensors[f"{other}.lora_up.weight"].clone()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ExportError, match="failed") as told:
        adapters.check_export(path, config, model)
    assert (f"missing {layer}" in str(told.value)) == (
        damage in ("a layer lost", "an alpha lost", "a layer of another name")
    )
    assert ("unexpected lora_unet" in str(told.value)) == (damage == "a layer of another name")


@pytest.mark.slow
def test_a_network_of_the_released_width_reads_the_layout_that_is_read_at_that_width_alone(tmp_path):
    """FLUX.1 with one block, because its converter has the width in it; half a gigabyte of weights."""
    from diffusers import FluxTransformer2DModel
    from tiny import flux

    pipe = flux()
    torch.manual_seed(5)
    pipe.transformer = without_zeros(
        FluxTransformer2DModel(
            in_channels=16, num_layers=0, num_single_layers=1, attention_head_dim=128, num_attention_heads=24, joint_attention_dim=32,
            pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(16, 56, 56),
        )
    )  # fmt: skip
    pipe.save_pretrained(tmp_path / "wide")
    flat = {"pretrained_model_name_or_path": str(tmp_path / "wide"), "device": "cpu", "lora_rank": 4, "lora_alpha": 7.0,
            "lora_targets": ["to_q", "to_k", "to_v", "single_transformer_blocks.0.proj_out"]}  # fmt: skip
    config = config_from_flat(flat)
    model = load_model(config.model)
    adapters.attach(model, config)
    with torch.no_grad():
        for parameter in adapters.trainable_parameters(model):
            parameter += 0.5 * parameter.std().clamp(min=0.1) * torch.randn(parameter.shape)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    check = adapters.check_export(path, config, model)
    assert check.passed and check.used == check.total == 6 and check.effect > 1e-3


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WITH_LAYOUT)
def test_there_and_back_a_file_is_the_same_lora_and_predicts_the_same(family, trained, tmp_path):
    """diffusers -> kohya -> diffusers: every tensor, and a stock pipeline's output to 1e-5."""
    model, config = trained(family)
    first = adapters.export_lora(model, tmp_path / "first.safetensors", config)
    source, there, back = model.source, tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    if family in READ_AT_ONE_SIZE:  # the reason of the tiny model's size aside, the conversion is the same
        with pytest.raises(LoraError, match="3072"):
            convert(first, there, "kohya", source)
        return
    done = convert(first, there, "kohya", source)
    assert done.keys == done.expected == len(load_file(there)) and done.difference < 1e-6
    assert convert(there, back, "diffusers", source).keys == len(load_file(first))
    before, after = load_file(first), load_file(back)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert read_lora_config(back) == read_lora_config(first), "the settings go along"
    pictures = [predicted(model.source, file) for file in (first, there)]
    assert (pictures[0] - pictures[1]).abs().max() < 1e-5 * max(1.0, float(pictures[0].abs().max()))
    assert not torch.allclose(pictures[0], predicted(model.source, None), atol=1e-3)


def predicted(source, lora):
    """One output of a fresh model with the file loaded by the stock pipeline's own loader."""
    model = load_model(
        config_from_flat({"pretrained_model_name_or_path": source.location, "device": "cpu"}).model, for_training=False
    )
    if lora is not None:
        model.pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    with torch.no_grad():
        return Probe(model, None).prediction(model)


def test_a_lora_trained_on_the_fused_layer_itself_is_read_too():
    """As sd-scripts trains it: one A for q, k and v, and no blocks in B."""
    network = released("flux")
    shapes, draws = shapes_of(network), torch.Generator().manual_seed(2)
    a, b = torch.randn(4, 3072, generator=draws), torch.randn(3 * 3072, 4, generator=draws)
    name = "lora_unet_double_blocks_3_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(2.0)}
    layers, left = kohya.read(tensors, FAMILIES["flux"].kohya, network.config, shapes)
    assert not left and [layer.split(".")[-1] for layer in layers] == ["to_q", "to_k", "to_v"]
    assert torch.equal(torch.cat([one.delta() for one in layers.values()]), 0.5 * b @ a)


def test_what_has_no_place_is_refused_and_named(trained, tmp_path):
    model, config = trained("qwen")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    with pytest.raises(LoraError, match="already"):
        convert(path, tmp_path / "out.safetensors", "kohya", model.source)
    save_file(load_file(path) | {"lora_te_layers_0.lora_down.weight": torch.ones(2, 3)}, path)
    with pytest.raises(LoraError, match="text encoder"):
        convert(path, tmp_path / "out.safetensors", "diffusers", model.source)
    with pytest.raises(LoraError, match="another model"):
        resize(adapters.export_lora(model, path, config), tmp_path / "out.safetensors", 2, trained("krea2")[0].source)
    assert not (tmp_path / "out.safetensors").exists()


# Rank and merge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(7, 5, ()), (6, 4, (3, 2))])
def test_a_smaller_rank_keeps_what_no_other_matrices_of_that_rank_keep_better(outputs, inputs, kernel):
    """Against the singular value decomposition of the whole change."""
    draws = torch.Generator().manual_seed(5)
    old = Matrices(
        torch.randn(4, inputs, *kernel, generator=draws),
        torch.randn(outputs, 4, *(1 for _ in kernel), generator=draws),
        6.0,
    )
    new, kept = reduced(old, 2)
    u, sizes, v = torch.linalg.svd(old.delta())
    best = u[:, :2] * sizes[:2] @ v[:2]
    torch.testing.assert_close(new.delta(), best, atol=1e-4, rtol=1e-4)
    assert kept == pytest.approx(float(best.norm() / old.delta().norm()), rel=1e-4)
    assert new.a.shape == (2, inputs, *kernel) and new.b.shape == (outputs, 2, *(1 for _ in kernel)) and new.scale == 1
    assert reduced(old, 4)[1] == reduced(old, 9)[1] == 1.0


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_resized_file_has_the_rank_its_header_says_and_loads(layout, trained, tmp_path):
    model, config = trained("sd1x")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout=layout)
    done = resize(path, tmp_path / "small.safetensors", 2, model.source)
    tensors, notes = load_file(done.path), read_header(done.path)["__metadata__"]
    assert {
        tensor.shape[0] for name, tensor in tensors.items() if name.endswith(("lora_A.weight", "lora_down.weight"))
    } == {2}
    assert (notes["ss_network_dim"], float(notes["ss_network_alpha"]), notes["rollout_studio_resized_from"]) == (
        "2",
        2.0,
        "4",
    )
    assert 0 < min(done.kept.values()) < 1 and len(done.kept) == len(adapters.trainable_names(model)) / 2
    assert adapters.check_export(done.path, config).passed
    with pytest.raises(LoraError, match="--rank 4: must be from 1 to 3"):
        resize(path, tmp_path / "other.safetensors", 4, model.source)


@pytest.mark.parametrize(("family", "layout", "scale", "precision"), [("sd1x", "kohya", 1.0, "float32"), ("zimage", "diffusers", 0.5, "float32"),
                                                                      ("lumina2", "diffusers", 1.0, "bfloat16")])  # fmt: skip
def test_a_merged_model_opens_by_from_pretrained_and_is_the_base_with_the_lora(
    family, layout, scale, precision, trained, tmp_path
):
    from diffusers import DiffusionPipeline

    model, config = trained(family)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout=layout)
    done = merge(path, model.source, tmp_path / "whole", scale=scale, precision=precision)
    assert done.effect > 1e-3 and done.difference < (1e-3 if precision == "float32" else 0.2) * done.effect
    network = getattr(DiffusionPipeline.from_pretrained(tmp_path / "whole", dtype=torch.float32), model.component)
    untouched = dict(load_model(config.model).denoiser.named_parameters())
    layers = of_adapter(model, adapters.adapter_state(model))
    for name, weight in network.named_parameters():
        layer, expected = name.removesuffix(".weight"), untouched[name].float()
        if layer in layers:
            expected = expected + scale * layers[layer].delta().reshape(expected.shape)
        torch.testing.assert_close(
            weight,
            expected,
            atol=1e-5 if precision == "float32" else 0.05,
            rtol=1e-5 if precision == "float32" else 0.01,
        )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thing.safetensors", "whole"]


def test_a_merge_that_does_something_else_leaves_no_folder(trained, tmp_path, monkeypatch):
    model, config = trained("sd1x")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    monkeypatch.setattr(type(model.pipe), "fuse_lora", lambda self, **how: None)
    with pytest.raises(ExportError, match="not the base with the LoRA"):
        merge(path, model.source, tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thing.safetensors"]
