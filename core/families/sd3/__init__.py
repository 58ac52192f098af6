"""Stable Diffusion 3 and 3.5: a transformer on a rectified flow; two CLIP encoders and, where it was saved with it, T5."""

import re
from math import isqrt
from typing import Any

from ..facts import USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, vae_geometry, width_of
from ..single_file_facts import Contents, Shapes, SingleFile, count, split

TOKENS = 77 + 256
"""CLIP's, and T5's or the zeros in their place."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    pooled = width_of(configs, "transformer", "pooled_projection_dim", usual=2048)
    return TextCost(TOKENS, 4 * (TOKENS * width + pooled))


# A checkpoint in one file ---------------------------------------------------------------------------------------------------

_JOINT = "joint_blocks."
_SIDES = {"x_block": ("", ""), "context_block": ("_context", "add_")}
_RENAMED = {
    "pos_embed": "pos_embed.pos_embed", "x_embedder.": "pos_embed.", "t_embedder.mlp.0.": "time_text_embed.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "time_text_embed.timestep_embedder.linear_2.", "y_embedder.mlp.0.": "time_text_embed.text_embedder.linear_1.",
    "y_embedder.mlp.2.": "time_text_embed.text_embedder.linear_2.", "final_layer.linear.": "proj_out.",
    "final_layer.adaLN_modulation.1.": "norm_out.linear.",
}  # fmt: skip


def recognised(contents: Contents) -> bool:
    return f"{_JOINT}0.context_block.adaLN_modulation.1.weight" in contents.network


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    """All of the network's config but its native size."""
    shapes = contents.network
    width, text_width = shapes["context_embedder.weight"]
    patch = shapes["x_embedder.proj.weight"]
    norm = shapes.get(f"{_JOINT}0.x_block.attn.ln_q.weight")
    head = 64 if norm is None else norm[0]
    dual = {int(name.split(".")[1]) for name in shapes if name.startswith(_JOINT) and ".attn2." in name}
    network = {
        "num_layers": count(shapes, _JOINT),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "caption_projection_dim": width,
        "joint_attention_dim": text_width,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "in_channels": patch[1],
        "out_channels": shapes["final_layer.linear.weight"][0] // patch[2] ** 2,
        "patch_size": patch[2],
        "pos_embed_max_size": isqrt(shapes["pos_embed"][1]),
        "qk_norm": None if norm is None else "rms_norm",
        "dual_attention_layers": sorted(dual),
    }
    return {"transformer": network}


def renamed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The network's tensors as `SD3Transformer2DModel` names them."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        block = re.fullmatch(r"joint_blocks\.(\d+)\.(x_block|context_block)\.(.+)", name)
        if block is not None:
            found |= _in_block(f"transformer_blocks.{block[1]}.", *_SIDES[block[2]], block[3], shape)
            continue
        old = next((old for old in _RENAMED if name.startswith(old)), None)
        found[name if old is None else _RENAMED[old] + name[len(old) :]] = shape
    return found


def _in_block(block: str, side: str, added: str, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    start, _, kind = name.rpartition(".")
    if start in ("attn.qkv", "attn2.qkv"):
        ends = [f"{added}{each}_proj" if added else f"to_{each}" for each in "qkv"]
        return split(shape, [f"{block}{start.split('.')[0]}.{end}.{kind}" for end in ends])
    new = {
        "attn.proj": f"attn.to_{added}out" + ("" if added else ".0"),
        "attn2.proj": "attn2.to_out.0",
        "attn.ln_q": f"attn.norm_{'added_' if added else ''}q",
        "attn.ln_k": f"attn.norm_{'added_' if added else ''}k",
        "attn2.ln_q": "attn2.norm_q",
        "attn2.ln_k": "attn2.norm_k",
        "adaLN_modulation.1": f"norm1{side}.linear",
        "mlp.fc1": f"ff{side}.net.0.proj",
        "mlp.fc2": f"ff{side}.net.2",
    }
    return {f"{block}{new.get(start, start)}.{kind}": shape}


FACTS = FamilyFacts(
    name="sd3",
    label="Stable Diffusion 3",
    pipelines=("StableDiffusion3Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    untrained=("pos_embed.pos_embed",),
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    unused=("image_encoder", "feature_extractor"),
    schedule=USUAL_FLOW.but(max_shift=1.16),
    geometry=vae_geometry("transformer"),
    text=text,
    single_file=SingleFile(
        recognised=recognised,
        parts={
            "vae": "first_stage_model.",
            "text_encoder": "text_encoders.clip_l.transformer.",
            "text_encoder_2": "text_encoders.clip_g.transformer.",
            "text_encoder_3": "text_encoders.t5xxl.transformer.",
        },
        says=says,
        renamed=renamed,
        ships_configs=True,
        optional=("text_encoder_3",),
        official="stabilityai/stable-diffusion-3.5-medium",
    ),
    header={"ss_base_model_version": "sd3", "architecture": "stable-diffusion-3-m"},
    licence="Stability AI Community License",
    examples=("stabilityai/stable-diffusion-3.5-medium",),
    model="StableDiffusion3",
)
