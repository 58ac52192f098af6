"""LoRA files of both layouts: the key maps against diffusers' own converters at the released sizes, files in stock pipelines, round trips,
merging, resizing and converting."""

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters import kohya
from rollout_studio.core.adapters.header import read_header
from rollout_studio.core.adapters.matrices import Matrices, difference, shapes_of
from rollout_studio.core.adapters.trainable import matching_layers
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.core.families.lora_names import KohyaLayout
from rollout_studio.core.families.registry import FAMILIES
from safetensors.torch import load_file
from tiny import BY_FAMILY

WITH_LAYOUT = [name for name, facts in FAMILIES.items() if isinstance(facts.kohya, KohyaLayout)]


def released(family):
    """The network of a family without weights. The defaults of diffusers' classes are the released sizes, but for the UNets'."""
    import diffusers
    from accelerate import init_empty_weights

    kinds = {
        "sd1x": ("UNet2DConditionModel", {"cross_attention_dim": 768}),
        "sd2x": ("UNet2DConditionModel", {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}),
        "sdxl": ("UNet2DConditionModel", {
            "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}),
        "flux": ("FluxTransformer2DModel", {}),
        "chroma": ("ChromaTransformer2DModel", {}),
        "flux2_dev": ("Flux2Transformer2DModel", {}),
        "flux2_klein": ("Flux2Transformer2DModel", {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24}),
        "zimage": ("ZImageTransformer2DModel", {}),
        "qwen": ("QwenImageTransformer2DModel", {}),
        "krea2": ("Krea2Transformer2DModel", {}),
    }  # fmt: skip
    kind, config = kinds[family]
    with init_empty_weights():
        return getattr(diffusers, kind)(**config)


def drawn(network, targets, rank=2, alpha=3.0):
    """A LoRA on the layers that a family trains, its matrices drawn."""
    draws, shapes = torch.Generator().manual_seed(3), shapes_of(network)
    layers = {}
    for layer in matching_layers(network, targets, "family"):
        outputs, inputs, *kernel = shapes[layer]
        a = torch.randn(rank, inputs, *kernel, generator=draws)
        b = torch.randn(outputs, rank, *(1 for _ in kernel), generator=draws)
        layers[layer] = Matrices(a, b, alpha)
    return layers


def as_diffusers_reads(family, network, tensors):
    """Layer -> its LoRA, by the converter of the stock pipeline."""
    import diffusers
    from diffusers.utils import convert_unet_state_dict_to_peft

    facts = FAMILIES[family]
    options = {"unet_config": network.config} if facts.component == "unet" else {}
    found = getattr(diffusers, facts.pipelines[0]).lora_state_dict(dict(tensors), **options)
    converted, alphas = found if isinstance(found, tuple) else (found, None)
    bare = {name.removeprefix(facts.component + "."): tensor for name, tensor in converted.items()}
    alpha = None
    if facts.component == "unet":  # the others multiply the scale into the matrices
        bare = convert_unet_state_dict_to_peft(bare)
        assert 2 * len(alphas) == len(bare)
        (alpha,) = set(alphas.values())
    return {
        name.removesuffix(".lora_A.weight"): Matrices(
            a, bare[name.replace("lora_A", "lora_B")], float(alpha or a.shape[0])
        )
        for name, a in bare.items()
        if name.endswith(".lora_A.weight")
    }


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
