"""Stable Diffusion 3 and 3.5: a transformer on a rectified flow; two CLIP encoders and, where it was saved with it, T5."""

from math import isqrt
from typing import Any

from ..facts import USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from ..lora_facts import NOT_READ
from ..single_file_facts import Contents, Names, SingleFile, count, head_dim, three
from ..unsuitable_facts import DISTILLED

TOKENS = 77 + 256
"""CLIP's, and T5's or the zeros in their place."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    pooled = width_of(configs, "transformer", "pooled_projection_dim", usual=2048)
    return TextCost(TOKENS, 4 * (TOKENS * width + pooled))


# A checkpoint in one file ---------------------------------------------------------------------------------------------------

_X, _TEXT, _BLOCK = (
    r"joint_blocks\.(\d+)\.x_block\.",
    r"joint_blocks\.(\d+)\.context_block\.",
    r"transformer_blocks.\1.",
)
_NAMES: Names = {
    r"pos_embed": "pos_embed.pos_embed",
    r"x_embedder\.(.*)": r"pos_embed.\1",
    r"t_embedder\.mlp\.0\.(.*)": r"time_text_embed.timestep_embedder.linear_1.\1",
    r"t_embedder\.mlp\.2\.(.*)": r"time_text_embed.timestep_embedder.linear_2.\1",
    r"y_embedder\.mlp\.0\.(.*)": r"time_text_embed.text_embedder.linear_1.\1",
    r"y_embedder\.mlp\.2\.(.*)": r"time_text_embed.text_embedder.linear_2.\1",
    r"final_layer\.linear\.(.*)": r"proj_out.\1",
    r"final_layer\.adaLN_modulation\.1\.(.*)": r"norm_out.linear.\1",
    _X + r"(attn2?)\.qkv\.(.*)": three(_BLOCK, r"\2.to_{}", r".\3"),
    _X + r"(attn2?)\.proj\.(.*)": _BLOCK + r"\2.to_out.0.\3",
    _X + r"(attn2?)\.ln_([qk])\.(.*)": _BLOCK + r"\2.norm_\3.\4",
    _X + r"adaLN_modulation\.1\.(.*)": _BLOCK + r"norm1.linear.\2",
    _X + r"mlp\.fc1\.(.*)": _BLOCK + r"ff.net.0.proj.\2",
    _X + r"mlp\.fc2\.(.*)": _BLOCK + r"ff.net.2.\2",
    _TEXT + r"attn\.qkv\.(.*)": three(_BLOCK, "attn.add_{}_proj", r".\2"),
    _TEXT + r"attn\.proj\.(.*)": _BLOCK + r"attn.to_add_out.\2",
    _TEXT + r"attn\.ln_([qk])\.(.*)": _BLOCK + r"attn.norm_added_\2.\3",
    _TEXT + r"adaLN_modulation\.1\.(.*)": _BLOCK + r"norm1_context.linear.\2",
    _TEXT + r"mlp\.fc1\.(.*)": _BLOCK + r"ff_context.net.0.proj.\2",
    _TEXT + r"mlp\.fc2\.(.*)": _BLOCK + r"ff_context.net.2.\2",
}


def recognised(contents: Contents) -> bool:
    return "joint_blocks.0.context_block.adaLN_modulation.1.weight" in contents.network


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    """All of the network's config but its native size."""
    shapes = contents.network
    width, text_width = shapes["context_embedder.weight"]
    patch = shapes["x_embedder.proj.weight"]
    norm = "joint_blocks.0.x_block.attn.ln_q.weight"
    dual = {int(name.split(".")[1]) for name in shapes if ".x_block.attn2." in name}
    network = {
        "num_layers": count(shapes, "joint_blocks."),
        **head_dim(shapes, width, norm, usual=64),
        "caption_projection_dim": width,
        "joint_attention_dim": text_width,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "in_channels": patch[1],
        "out_channels": shapes["final_layer.linear.weight"][0] // patch[2] ** 2,
        "patch_size": patch[2],
        "pos_embed_max_size": isqrt(shapes["pos_embed"][1]),
        "qk_norm": "rms_norm" if norm in shapes else None,
        "dual_attention_layers": sorted(dual),
    }
    return {"transformer": network}


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
    kohya=NOT_READ,
    lycoris="lycoris_",
    unsuitable=(
        Unsuitable(
            what="SD 3.5 Large Turbo and Medium Turbo",
            why=DISTILLED,
            remedy="Train on stabilityai/stable-diffusion-3.5-large or -medium; its LoRA can be tried on the distilled model.",
            hub=("stabilityai/stable-diffusion-3.5-large-turbo", "tensorart/stable-diffusion-3.5-medium-turbo"),
        ),
    ),
    comfyui=("SD3",),
    comfyui_loads=True,
    header={"ss_base_model_version": "sd3", "architecture": "stable-diffusion-3-m"},
    elsewhere={
        "SimpleTuner": ("sd3",),
        "ai-toolkit": ("sd3", "sd35", "is_v3"),
        "OneTrainer": ("STABLE_DIFFUSION_3", "STABLE_DIFFUSION_35"),
        "kohya_ss": ("sd3", "sd3_checkbox"),
        "diffusers": ("sd3",),
    },
    licence="Stability AI Community License",
    examples=("stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3.5-large"),
    single_file=SingleFile(
        recognised=recognised,
        parts={
            "vae": "first_stage_model.",
            "text_encoder": "text_encoders.clip_l.transformer.",
            "text_encoder_2": "text_encoders.clip_g.transformer.",
            "text_encoder_3": "text_encoders.t5xxl.transformer.",
        },
        says=says,
        names=_NAMES,
        ships_configs=True,
        optional=("text_encoder_3",),
        official="stabilityai/stable-diffusion-3.5-medium",
    ),
    model="StableDiffusion3",
)
