"""Files of transformers with blocks of two streams (picture, text) and of one ("double_blocks", "single_blocks"); no torch."""

from typing import Any

from .single_file_facts import Contents, Names, count, head_dim, three

_DOUBLE, _SINGLE = r"double_blocks\.(\d+)\.", r"single_blocks\.(\d+)\."
_TO_DOUBLE, _TO_SINGLE = r"transformer_blocks.\1.", r"single_transformer_blocks.\1."
ATTENTION: Names = {
    _DOUBLE + r"img_attn\.qkv\.(.*)": three(_TO_DOUBLE, "attn.to_{}", r".\2"),
    _DOUBLE + r"txt_attn\.qkv\.(.*)": three(_TO_DOUBLE, "attn.add_{}_proj", r".\2"),
    _DOUBLE + r"img_attn\.norm\.([qk])(?:uery|ey)_norm\.scale": _TO_DOUBLE + r"attn.norm_\2.weight",
    _DOUBLE + r"txt_attn\.norm\.([qk])(?:uery|ey)_norm\.scale": _TO_DOUBLE + r"attn.norm_added_\2.weight",
    _DOUBLE + r"img_attn\.proj\.(.*)": _TO_DOUBLE + r"attn.to_out.0.\2",
    _DOUBLE + r"txt_attn\.proj\.(.*)": _TO_DOUBLE + r"attn.to_add_out.\2",
    _SINGLE + r"norm\.([qk])(?:uery|ey)_norm\.scale": _TO_SINGLE + r"attn.norm_\2.weight",
    r"txt_in\.(.*)": r"context_embedder.\1",
    r"img_in\.(.*)": r"x_embedder.\1",
    r"final_layer\.linear\.(.*)": r"proj_out.\1",
    r"final_layer\.adaLN_modulation\.1\.(.*)": r"norm_out.linear.\1",
}
"""What is called alike in all of them."""
FIRST: Names = {
    **ATTENTION,
    _DOUBLE + r"img_mod\.lin\.(.*)": _TO_DOUBLE + r"norm1.linear.\2",
    _DOUBLE + r"txt_mod\.lin\.(.*)": _TO_DOUBLE + r"norm1_context.linear.\2",
    _DOUBLE + r"img_mlp\.0\.(.*)": _TO_DOUBLE + r"ff.net.0.proj.\2",
    _DOUBLE + r"img_mlp\.2\.(.*)": _TO_DOUBLE + r"ff.net.2.\2",
    _DOUBLE + r"txt_mlp\.0\.(.*)": _TO_DOUBLE + r"ff_context.net.0.proj.\2",
    _DOUBLE + r"txt_mlp\.2\.(.*)": _TO_DOUBLE + r"ff_context.net.2.\2",
    # The hidden layer is four times as wide as the stream.
    _SINGLE + r"linear1\.(.*)": (*three(_TO_SINGLE, "attn.to_{}", r".\2"), *(_TO_SINGLE + r"proj_mlp.\2",) * 4),
    _SINGLE + r"linear2\.(.*)": _TO_SINGLE + r"proj_out.\2",
    _SINGLE + r"modulation\.lin\.(.*)": _TO_SINGLE + r"norm.linear.\2",
}
"""The first generation, whose blocks may each have a modulation of their own."""
SECOND: Names = {
    **ATTENTION,
    _DOUBLE + r"img_mlp\.0\.(.*)": _TO_DOUBLE + r"ff.linear_in.\2",
    _DOUBLE + r"img_mlp\.2\.(.*)": _TO_DOUBLE + r"ff.linear_out.\2",
    _DOUBLE + r"txt_mlp\.0\.(.*)": _TO_DOUBLE + r"ff_context.linear_in.\2",
    _DOUBLE + r"txt_mlp\.2\.(.*)": _TO_DOUBLE + r"ff_context.linear_out.\2",
    _SINGLE + r"linear1\.(.*)": _TO_SINGLE + r"attn.to_qkv_mlp_proj.\2",
    _SINGLE + r"linear2\.(.*)": _TO_SINGLE + r"attn.to_out.\2",
    r"(double_stream_modulation_img|double_stream_modulation_txt|single_stream_modulation)\.lin\.(.*)": r"\1.linear.\2",
    r"time_in\.in_layer\.(.*)": r"time_guidance_embed.timestep_embedder.linear_1.\1",
    r"time_in\.out_layer\.(.*)": r"time_guidance_embed.timestep_embedder.linear_2.\1",
    r"guidance_in\.in_layer\.(.*)": r"time_guidance_embed.guidance_embedder.linear_1.\1",
    r"guidance_in\.out_layer\.(.*)": r"time_guidance_embed.guidance_embedder.linear_2.\1",
}
"""The second, whose blocks share their modulation."""


def has_double_blocks(contents: Contents) -> bool:
    return {"double_blocks.0.img_attn.qkv.weight", "img_in.weight", "txt_in.weight"} <= contents.network.keys()


def sizes(contents: Contents) -> dict[str, Any]:
    """Numbers of blocks, and widths."""
    shapes = contents.network
    width, channels = shapes["img_in.weight"]
    return {
        "num_layers": count(shapes, "double_blocks."),
        "num_single_layers": count(shapes, "single_blocks."),
        **head_dim(shapes, width, "double_blocks.0.img_attn.norm.key_norm.scale", usual=128),
        "in_channels": channels,
        "joint_attention_dim": shapes["txt_in.weight"][1],
    }


def has_guidance(contents: Contents) -> bool:
    """Is guidance an input?"""
    return "guidance_in.in_layer.weight" in contents.network


def second_generation(contents: Contents) -> bool:
    return has_double_blocks(contents) and "single_stream_modulation.lin.weight" in contents.network


def second_says(contents: Contents) -> dict[str, dict[str, Any]]:
    return {"transformer": {**sizes(contents), "guidance_embeds": has_guidance(contents)}}
