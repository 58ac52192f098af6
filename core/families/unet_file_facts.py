"""Files with a UNet on latents in the layout of latent diffusion ("input_blocks", "middle_block", "output_blocks"); no torch."""

from typing import Any

from .single_file_facts import Contents, Shapes

VAE = "first_stage_model."
_LAYERS = {
    "time_embed.0.": "time_embedding.linear_1.", "time_embed.2.": "time_embedding.linear_2.", "input_blocks.0.0.": "conv_in.",
    "label_emb.0.0.": "add_embedding.linear_1.", "label_emb.0.2.": "add_embedding.linear_2.", "out.0.": "conv_norm_out.", "out.2.": "conv_out.",
    "middle_block.0.": "mid_block.resnets.0.", "middle_block.1.": "mid_block.attentions.0.", "middle_block.2.": "mid_block.resnets.1.",
}  # fmt: skip
_RESNET = {"in_layers.0.": "norm1.", "in_layers.2.": "conv1.", "emb_layers.1.": "time_emb_proj.", "out_layers.0.": "norm2.",
           "out_layers.3.": "conv2.", "skip_connection.": "conv_shortcut."}  # fmt: skip


def is_unet(contents: Contents) -> bool:
    """A UNet for pictures: not a control network, and no rescaled path (`edm_mean`)."""
    names = contents.network
    return "input_blocks.0.0.weight" in names and "time_embed.0.weight" in names and "edm_mean" not in contents.shapes


def has_size_input(contents: Contents) -> bool:
    """Does the network take a vector beside the text (size, crop, pooled text)?"""
    return "label_emb.0.0.weight" in contents.network


def linear_projections(contents: Contents) -> bool:
    """Are there linear layers around the attention blocks, not 1x1 convolutions?"""
    return any(len(shape) == 2 for name, shape in contents.network.items() if name.endswith(".1.proj_in.weight"))


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    """Channels and text width, and what the network predicts where the file says it: as ModelSpec's text, or as the empty tensors
    `v_pred` and `ztsnr` by which merged checkpoints tell it."""
    network = contents.network
    said: dict[str, dict[str, Any]] = {"unet": {"in_channels": network["input_blocks.0.0.weight"][1]}}
    widths = {shape[1] for name, shape in network.items() if name.endswith(".attn2.to_k.weight")}
    if len(widths) == 1:
        said["unet"]["cross_attention_dim"] = widths.pop()
    predicts = {"v": "v_prediction", "epsilon": "epsilon"}.get(contents.metadata.get("modelspec.prediction_type", ""))
    if "v_pred" in contents.shapes:
        predicts = "v_prediction"
    if predicts is not None:
        said["scheduler"] = {"prediction_type": predicts}
    if "ztsnr" in contents.shapes:
        said["scheduler"] = {
            **said.get("scheduler", {}),
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        }
    return said


def renamed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The UNet's tensors as `UNet2DConditionModel` names them."""
    downs = [int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks.") and ".0.op." in name]
    blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks.")]
    each = min(downs) if downs else max(blocks, default=1)  # layers of a level and what scales after them
    return {_renamed(name, each): shape for name, shape in shapes.items()}


def _renamed(name: str, each: int) -> str:
    for old, new in _LAYERS.items():
        if name.startswith(old):
            return _in_resnet(new + name[len(old) :])
    side, _, rest = name.partition("_blocks.")
    if side not in ("input", "output"):
        return name
    number, part, inside = rest.split(".", 2)
    at = int(number) - (1 if side == "input" else 0)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{at // each}."
    if inside.startswith("op."):
        return f"{block}downsamplers.0.conv.{inside[3:]}"
    if inside.startswith("conv."):
        return f"{block}upsamplers.0.{inside}"
    return _in_resnet(f"{block}{'resnets' if part == '0' else 'attentions'}.{at % each}.{inside}")


def _in_resnet(name: str) -> str:
    for old, new in _RESNET.items():
        name = name.replace(f".{old}", f".{new}")
    return name
