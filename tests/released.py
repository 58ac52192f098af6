"""Networks of the released sizes without weights, and LoRAs on them: for key maps, which tiny models cannot prove.

network = released("sdxl")
layers = drawn(network, targets)
as_diffusers_reads("sdxl", network, tensors)   # the stock pipeline's own converter
"""

import torch
from rollout_studio.core.adapters.matrices import Matrices, shapes_of
from rollout_studio.core.adapters.trainable import matching_layers
from rollout_studio.core.families.registry import FAMILIES


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
        "qwen21": ("QwenImage21Transformer2DModel", {}),
        "krea2": ("Krea2Transformer2DModel", {}),
        "anima": ("CosmosTransformer3DModel", {"num_attention_heads": 16, "rope_scale": (1.0, 4.0, 4.0), "extra_pos_embed_type": None}),
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
