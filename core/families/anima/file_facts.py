"""Anima in one file, as its makers release it and ComfyUI opens it: the network under Cosmos Predict2's names, the conditioner within it.

Text encoder and VAE are files of their own there; here they come from a whole pipeline. Source: diffusers' converters
(`loaders/single_file_utils.py`, `scripts/convert_anima_to_diffusers.py`).
"""

from typing import Any

from ..single_file_facts import Contents, Names, Shapes, SingleFile, count
from ..single_file_facts import renamed as by_patterns

CONDITIONER = "llm_adapter."
_NOT_WEIGHTS = ("pos_embedder.", "accum_")
"""Beginnings of the names of tables and counters."""
_BLOCK, _OURS = r"blocks\.(\d+)\.", r"transformer_blocks.\1."
_NAMES: Names = {
    rf"{_BLOCK}self_attn\.([qkv])_(proj|norm)\.(.*)": rf"{_OURS}attn1.\2_\3.\4",
    rf"{_BLOCK}cross_attn\.([qkv])_(proj|norm)\.(.*)": rf"{_OURS}attn2.\2_\3.\4",
    rf"{_BLOCK}self_attn\.output_proj\.(.*)": rf"{_OURS}attn1.to_out.0.\2",
    rf"{_BLOCK}cross_attn\.output_proj\.(.*)": rf"{_OURS}attn2.to_out.0.\2",
    rf"{_BLOCK}mlp\.layer1\.(.*)": rf"{_OURS}ff.net.0.proj.\2",
    rf"{_BLOCK}mlp\.layer2\.(.*)": rf"{_OURS}ff.net.2.\2",
    rf"{_BLOCK}adaln_modulation_self_attn\.([12])\.(.*)": rf"{_OURS}norm1.linear_\2.\3",
    rf"{_BLOCK}adaln_modulation_cross_attn\.([12])\.(.*)": rf"{_OURS}norm2.linear_\2.\3",
    rf"{_BLOCK}adaln_modulation_mlp\.([12])\.(.*)": rf"{_OURS}norm3.linear_\2.\3",
    r"x_embedder\.proj\.1\.(.*)": r"patch_embed.proj.\1",
    r"t_embedder\.1\.(.*)": r"time_embed.t_embedder.\1",
    r"t_embedding_norm\.(.*)": r"time_embed.norm.\1",
    r"final_layer\.adaln_modulation\.([12])\.(.*)": r"norm_out.linear_\1.\2",
    r"final_layer\.linear\.(.*)": r"proj_out.\1",
}
_INSIDE: Names = {
    r"(.*)\.([qkv])_proj\.(.*)": r"\1.to_\2.\3",
    r"(.*)\.([qkv])_norm\.(.*)": r"\1.norm_\2.\3",
}


def recognised(contents: Contents) -> bool:
    """Cosmos Predict2 itself, whose names are the same, has no conditioner."""
    marks = {"x_embedder.proj.1.weight", "blocks.0.cross_attn.q_norm.weight", f"{CONDITIONER}out_proj.weight"}
    return marks <= contents.network.keys()


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    shapes = contents.network
    width, patch = shapes["x_embedder.proj.1.weight"]
    each, text = shapes["blocks.0.cross_attn.q_norm.weight"][0], shapes["blocks.0.cross_attn.k_proj.weight"][1]
    network = {"num_layers": count(shapes, "blocks."), "in_channels": patch // 4 - 1, "attention_head_dim": each,
               "num_attention_heads": width // each, "text_embed_dim": text}  # fmt: skip
    return {"transformer": network, "text_conditioner": {"num_layers": count(shapes, f"{CONDITIONER}blocks.")}}


def renamed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The network's tensors as `CosmosTransformer3DModel` names them."""
    weights = {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(_NOT_WEIGHTS) and not name.endswith("_extra_state")
    }
    return by_patterns(by_patterns(weights, _NAMES), _INSIDE)


SINGLE_FILE = SingleFile(
    recognised=recognised,
    inside={"text_conditioner": CONDITIONER},
    says=says,
    renamed=renamed,
    official="circlestone-labs/Anima-Base-v1.0-Diffusers",
)
