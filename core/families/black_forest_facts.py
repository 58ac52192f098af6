"""Names of the layers in the networks that were released with fused projections: FLUX.1, what was made from it, and FLUX.2 (no torch)."""

from collections.abc import Mapping
from typing import Any

from .lora_facts import KohyaLayout, Rename, fused, renames

DOUBLE, SINGLE = r"transformer_blocks\.(\d+)\.", r"single_transformer_blocks\.(\d+)\."
_ATTENTION = (
    fused(DOUBLE + r"attn\.", "lora_unet_double_blocks_{0}_img_attn_qkv", "to_q", "to_k", "to_v"),
    fused(DOUBLE + r"attn\.", "lora_unet_double_blocks_{0}_txt_attn_qkv", "add_q_proj", "add_k_proj", "add_v_proj"),
    Rename(DOUBLE + r"attn\.to_out\.0", "lora_unet_double_blocks_{0}_img_attn_proj"),
    Rename(DOUBLE + r"attn\.to_add_out", "lora_unet_double_blocks_{0}_txt_attn_proj"),
)
WIDTH, DOUBLE_BLOCKS, SINGLE_BLOCKS = 3072, 19, 38
"""What diffusers' converter of FLUX.1 is written for: the rows of a fused projection, and how many blocks it looks for."""


def refuse_other_sizes(network: Mapping[str, Any]) -> str | None:
    """FLUX.1's converter has the released network's numbers in it."""
    width = network.get("num_attention_heads", 24) * network.get("attention_head_dim", 128)
    blocks = network.get("num_layers", DOUBLE_BLOCKS), network.get("num_single_layers", SINGLE_BLOCKS)
    if width == WIDTH and blocks[0] <= DOUBLE_BLOCKS and blocks[1] <= SINGLE_BLOCKS:
        return None
    return (
        f"this network is {width} wide with {blocks[0]} and {blocks[1]} blocks, and diffusers reads such a file only for the released size "
        f"({WIDTH} wide, at most {DOUBLE_BLOCKS} and {SINGLE_BLOCKS} blocks), so that it could not be checked"
    )


FLUX1 = KohyaLayout(
    place=renames(
        *_ATTENTION,
        Rename(DOUBLE + r"ff\.net\.0\.proj", "lora_unet_double_blocks_{0}_img_mlp_0"),
        Rename(DOUBLE + r"ff\.net\.2", "lora_unet_double_blocks_{0}_img_mlp_2"),
        Rename(DOUBLE + r"ff_context\.net\.0\.proj", "lora_unet_double_blocks_{0}_txt_mlp_0"),
        Rename(DOUBLE + r"ff_context\.net\.2", "lora_unet_double_blocks_{0}_txt_mlp_2"),
        Rename(DOUBLE + r"norm1\.linear", "lora_unet_double_blocks_{0}_img_mod_lin"),
        Rename(DOUBLE + r"norm1_context\.linear", "lora_unet_double_blocks_{0}_txt_mod_lin"),
        Rename(
            SINGLE + r"(?:attn\.to_q|attn\.to_k|attn\.to_v|proj_mlp)",
            "lora_unet_single_blocks_{0}_linear1",
            tuple(
                f"single_transformer_blocks.{{0}}.{part}"
                for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            ),
        ),
        Rename(SINGLE + r"proj_out", "lora_unet_single_blocks_{0}_linear2"),
        Rename(SINGLE + r"norm\.linear", "lora_unet_single_blocks_{0}_modulation_lin"),
    ),
    refuse=refuse_other_sizes,
    about="`lora_unet_` and the original names; q, k and v fused",
)
FLUX2 = KohyaLayout(
    place=renames(
        *_ATTENTION,
        Rename(DOUBLE + r"ff\.linear_in", "lora_unet_double_blocks_{0}_img_mlp_0"),
        Rename(DOUBLE + r"ff\.linear_out", "lora_unet_double_blocks_{0}_img_mlp_2"),
        Rename(DOUBLE + r"ff_context\.linear_in", "lora_unet_double_blocks_{0}_txt_mlp_0"),
        Rename(DOUBLE + r"ff_context\.linear_out", "lora_unet_double_blocks_{0}_txt_mlp_2"),
        Rename(SINGLE + r"attn\.to_qkv_mlp_proj", "lora_unet_single_blocks_{0}_linear1"),
        Rename(SINGLE + r"attn\.to_out", "lora_unet_single_blocks_{0}_linear2"),
    ),
    about="`lora_unet_` and the original names; q, k and v of the double blocks fused",
)
