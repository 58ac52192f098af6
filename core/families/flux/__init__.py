"""FLUX.1: a transformer on a rectified flow over 2x2 squares of latents; a pooled CLIP vector and T5 text; guidance as an input."""

import re
from typing import Any

from ..facts import (
    JOINT_ATTENTION,
    USUAL_FLOW,
    FamilyFacts,
    PartConfigs,
    Refusal,
    TextCost,
    vae_geometry,
    width_of,
)
from ..guidance import Embedded
from ..single_file_facts import Contents, Shapes, SingleFile, count, split

TOKENS = 512
"""Captions are padded to so many, and the padding takes part in the attention."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    pooled = width_of(configs, "transformer", "pooled_projection_dim", usual=768)
    return TextCost(TOKENS, 4 * (TOKENS * width + pooled))


def refuse(configs: PartConfigs) -> Refusal | None:
    """Models that were distilled to a few steps take no guidance; those for filling, depth or edges a second picture beside the latents."""
    if not configs.get("transformer", {}).get("guidance_embeds", True):
        return Refusal(
            "takes no guidance as an input: a model that was distilled to a few steps, as FLUX.1 schnell, and training on noisy pictures undoes that.",
            "Choose FLUX.1-dev, or a checkpoint made from it.",
        )
    taken = width_of(configs, "transformer", "in_channels", usual=64)
    given = CELLS**2 * width_of(configs, "vae", "latent_channels", usual=16)
    if taken == given:
        return None
    return Refusal(
        f"has a transformer that takes {taken} channels where a square of its VAE's latents has {given}: a model for filling or control.",
        "Choose a text-to-image checkpoint.",
    )


# A checkpoint in one file ---------------------------------------------------------------------------------------------------

_RENAMED = {
    "time_in.in_layer.": "time_text_embed.timestep_embedder.linear_1.", "time_in.out_layer.": "time_text_embed.timestep_embedder.linear_2.",
    "vector_in.in_layer.": "time_text_embed.text_embedder.linear_1.", "vector_in.out_layer.": "time_text_embed.text_embedder.linear_2.",
    "guidance_in.in_layer.": "time_text_embed.guidance_embedder.linear_1.",
    "guidance_in.out_layer.": "time_text_embed.guidance_embedder.linear_2.", "txt_in.": "context_embedder.", "img_in.": "x_embedder.",
    "final_layer.linear.": "proj_out.", "final_layer.adaLN_modulation.1.": "norm_out.linear.",
}  # fmt: skip
_SIDES = {"img": ("", "to_{}", "attn.to_out.0", ""), "txt": ("_context", "add_{}_proj", "attn.to_add_out", "added_")}


def recognised(contents: Contents) -> bool:
    """Related models have no pooled vector, or share one modulation among the blocks."""
    names = contents.network
    return (
        "double_blocks.0.img_attn.qkv.weight" in names
        and {"vector_in.in_layer.weight", "img_in.weight"} <= names.keys()
    )


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    """All of the network's config but how its positions are split among the axes."""
    shapes = contents.network
    width, head = shapes["img_in.weight"][0], shapes["double_blocks.0.img_attn.norm.key_norm.scale"][0]
    network = {
        "num_layers": count(shapes, "double_blocks."),
        "num_single_layers": count(shapes, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "in_channels": shapes["img_in.weight"][1],
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
    }
    return {"transformer": network}


def renamed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The network's tensors as `FluxTransformer2DModel` names them."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        double = re.fullmatch(r"double_blocks\.(\d+)\.(img|txt)_(.+)\.(weight|bias|scale)", name)
        single = re.fullmatch(r"single_blocks\.(\d+)\.(.+)\.(weight|bias|scale)", name)
        if double is not None:
            found |= _in_double(f"transformer_blocks.{double[1]}.", double[2], double[3], double[4], shape)
        elif single is not None:
            found |= _in_single(f"single_transformer_blocks.{single[1]}.", single[2], single[3], shape, shapes)
        else:
            old = next((old for old in _RENAMED if name.startswith(old)), None)
            found[name if old is None else _RENAMED[old] + name[len(old) :]] = shape
    return found


def _in_double(block: str, side: str, name: str, kind: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    after, projection, out, added = _SIDES[side]
    if name == "attn.qkv":
        return split(shape, [f"{block}attn.{projection.format(each)}.{kind}" for each in "qkv"])
    if name.startswith("attn.norm."):
        return {f"{block}attn.norm_{added}{name[len('attn.norm.')]}.weight": shape}
    new = {
        "mod.lin": f"norm1{after}.linear",
        "mlp.0": f"ff{after}.net.0.proj",
        "mlp.2": f"ff{after}.net.2",
        "attn.proj": out,
    }
    return {f"{block}{new[name]}.{kind}": shape}


def _in_single(block: str, name: str, kind: str, shape: tuple[int, ...], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    if name == "linear1":
        ends = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        return split(shape, [f"{block}{end}.{kind}" for end in ends], rows=shapes["img_in.weight"][0])
    if name.startswith("norm."):
        return {f"{block}attn.norm_{name[len('norm.')]}.weight": shape}
    return {f"{block}{ {'modulation.lin': 'norm.linear', 'linear2': 'proj_out'}[name] }.{kind}": shape}


FACTS = FamilyFacts(
    name="flux",
    label="FLUX.1",
    pipelines=("FluxPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    text_encoders=("text_encoder", "text_encoder_2"),
    unused=("image_encoder", "feature_extractor"),
    guidance=Embedded(),
    schedule=USUAL_FLOW.but(
        usual={**USUAL_FLOW.usual, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
        sigmas="steps",
    ),
    # The network's config names no size; a bare `pipe(prompt)` draws 128 x 128 cells.
    geometry=vae_geometry("transformer", cells_per_token=CELLS, native_cells=128),
    text=text,
    refuse=refuse,
    single_file=SingleFile(recognised=recognised, says=says, renamed=renamed, official="black-forest-labs/FLUX.1-dev"),
    header={"ss_base_model_version": "flux1", "architecture": "flux-1-dev"},
    licence="FLUX.1 [dev] Non-Commercial License",
    examples=("black-forest-labs/FLUX.1-dev",),
    model="Flux",
)
