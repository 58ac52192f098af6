"""LoRA files of both layouts: the key maps against diffusers' own converters at the released sizes, files in stock pipelines, round trips,
merging, resizing and converting."""

import pytest
import torch
from rollout_studio.core.adapters import kohya
from rollout_studio.core.adapters.matrices import Matrices, difference, shapes_of
from rollout_studio.core.adapters.trainable import matching_layers
from rollout_studio.core.families.lora_names import KohyaLayout
from rollout_studio.core.families.registry import FAMILIES

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
        name.removesuffix(".lora_A.weight"): Matrices(a, bare[name.replace("lora_A", "lora_B")], float(alpha or a.shape[0]))
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
    assert all(not other.b.any() for layer, other in read.items() if layer not in layers), "only rows of zeros are added"
    assert max(difference(one, read[layer]) for layer, one in layers.items()) < 1e-6
    again, left = kohya.read(tensors, facts.kohya, network.config, shapes_of(network))
    assert not left and again.keys() == layers.keys()
    if facts.kohya.alphas:
        assert all(torch.equal(one.a, again[layer].a) and torch.equal(one.b, again[layer].b) and one.alpha == again[layer].alpha for layer, one in layers.items())  # fmt: skip
    else:
        assert all(torch.equal(one.folded().b, again[layer].b) for layer, one in layers.items())
