"""Tiny pipelines written as one file in the layout of their release: the way back of what diffusers' single-file loaders do.

    file = single_file("sdxl", folder, tmp_path)        # folder: in the diffusers layout; file: a .safetensors

Names by the original code: CompVis/latent-diffusion and openai/CLIP, open_clip, Stability AI's sd3, Black Forest Labs' flux.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from stock import stock_pipeline

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_TOP = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
            "add_embedding.linear_2": "label_emb.0.2", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
            "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}  # fmt: skip


def unet(state, layers):
    """`layers`: resnets of a level of the downward half."""
    found = {}
    for name, tensor in state.items():
        top = next((old for old in UNET_TOP if name.startswith(old + ".")), None)
        down = re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", name)
        up = re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", name)
        if top is not None:
            new = UNET_TOP[top] + name[len(top) :]
        elif down is not None:
            block, kind, at, rest = down.groups()
            first = 1 + int(block) * (layers + 1)
            new = {
                "resnets": f"input_blocks.{first + int(at)}.0.{rest}",
                "attentions": f"input_blocks.{first + int(at)}.1.{rest}",
                "downsamplers": f"input_blocks.{first + layers}.0.{rest.replace('conv', 'op')}",
            }[kind]
        else:
            block, kind, at, rest = up.groups()
            first = int(block) * (layers + 1)
            attends = any(key.startswith(f"up_blocks.{block}.attentions") for key in state)
            new = {
                "resnets": f"output_blocks.{first + int(at)}.0.{rest}",
                "attentions": f"output_blocks.{first + int(at)}.1.{rest}",
                "upsamplers": f"output_blocks.{first + layers}.{2 if attends else 1}.{rest}",
            }[kind]
        for old, original in RESNET.items() if "resnets" in name else ():
            new = new.replace(f".{old}.", f".{original}.")
        found["model.diffusion_model." + new] = tensor
    return found


def vae(state, levels, start="first_stage_model."):
    """`levels`: resolutions. Its attention is of 1x1 convolutions."""
    found = {}
    for name, tensor in state.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda at: f"up.{levels - 1 - int(at[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda at: f"up.{levels - 1 - int(at[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda at: f"mid.block_{int(at[1]) + 1}", new)
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1")
            for old, original in {
                "group_norm": "norm",
                "to_q": "q",
                "to_k": "k",
                "to_v": "v",
                "to_out.0": "proj_out",
            }.items():
                new = new.replace(f"attn_1.{old}.", f"attn_1.{original}.")
            if tensor.dim() == 2:
                tensor = tensor[:, :, None, None]
        found[start + new] = tensor
    return found


def clip(state, start):
    return {
        start + (name if name.startswith("text_") else f"text_model.{name}"): tensor for name, tensor in state.items()
    }


def open_clip(state, start):
    """Query, key and value in one tensor; the projection the other way round."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    found = {}
    for name, tensor in state.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if layer is None:
            new = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding",
                   "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
                   "text_projection.weight": "text_projection"}[name]  # fmt: skip
            found[start + new] = tensor.T if new == "text_projection" else tensor
            continue
        block, part, kind = f"{start}transformer.resblocks.{layer[1]}.", layer[2], layer[3]
        if part == "self_attn.q_proj":
            whole = [state[f"encoder.layers.{layer[1]}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(whole)
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            new = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
                   "mlp.fc2": "mlp.c_proj"}[part]  # fmt: skip
            found[f"{block}{new}.{kind}"] = tensor
    return found


def swapped(tensor):
    """Scale and shift of the last layer change places."""
    return torch.cat(tensor.chunk(2)[::-1])


def sd3(state):
    top = {"pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder",
           "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
           "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0", "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
           "proj_out": "final_layer.linear", "norm_out.linear": "final_layer.adaLN_modulation.1"}  # fmt: skip
    parts = {"attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj", "attn2.to_out.0": "x_block.attn2.proj",
             "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k", "attn.norm_added_q": "context_block.attn.ln_q",
             "attn.norm_added_k": "context_block.attn.ln_k", "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
             "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
             "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1",
             "ff_context.net.2": "context_block.mlp.fc2"}  # fmt: skip
    fused = {"attn.to_q": ("x_block.attn.qkv", "attn.to_{}"), "attn.add_q_proj": ("context_block.attn.qkv", "attn.add_{}_proj"),
             "attn2.to_q": ("x_block.attn2.qkv", "attn2.to_{}")}  # fmt: skip
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    found = {}
    for name, tensor in state.items():
        block = re.match(r"transformer_blocks\.(\d+)\.(.*)\.(weight|bias)", name)
        if block is None:
            old = next(old for old in top if name.startswith(old))
            found[top[old] + name[len(old) :]] = swapped(tensor) if old == "norm_out.linear" else tensor
            continue
        number, part, kind = block.groups()
        if part in fused:
            new, names = fused[part]
            tensor = torch.cat([state[f"transformer_blocks.{number}.{names.format(each)}.{kind}"] for each in "qkv"])
        elif part in parts:
            new = parts[part]
            if part == "norm1_context.linear" and int(number) == last:
                tensor = swapped(tensor)
        else:
            continue  # key and value, which stand with their query
        found[f"joint_blocks.{number}.{new}.{kind}"] = tensor
    return {"model.diffusion_model." + name: tensor for name, tensor in found.items()}


def flux(state):
    """Of both generations, and of Chroma."""
    top = {"time_text_embed.timestep_embedder.linear_1": "time_in.in_layer", "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
           "time_text_embed.text_embedder.linear_1": "vector_in.in_layer", "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
           "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
           "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer", "context_embedder": "txt_in", "x_embedder": "img_in",
           "proj_out": "final_layer.linear", "norm_out.linear": "final_layer.adaLN_modulation.1",
           "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
           "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
           "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
           "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
           "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
           "single_stream_modulation.linear": "single_stream_modulation.lin"}  # fmt: skip
    double = {"ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2", "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
              "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.norm_q": "img_attn.norm.query_norm",
              "attn.norm_k": "img_attn.norm.key_norm", "attn.norm_added_q": "txt_attn.norm.query_norm",
              "attn.norm_added_k": "txt_attn.norm.key_norm", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
              "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2", "attn.to_out.0": "img_attn.proj",
              "attn.to_add_out": "txt_attn.proj"}  # fmt: skip
    single = {
        "norm.linear": "modulation.lin",
        "attn.norm_q": "norm.query_norm",
        "attn.norm_k": "norm.key_norm",
        "proj_out": "linear2",
        "attn.to_qkv_mlp_proj": "linear1",
        "attn.to_out": "linear2",
    }
    fused = {"attn.to_q": ("img_attn.qkv", "attn.to_{}"), "attn.add_q_proj": ("txt_attn.qkv", "attn.add_{}_proj")}
    found = {}
    for name, tensor in state.items():
        block = re.match(r"(single_)?transformer_blocks\.(\d+)\.(.*)\.(weight|bias)", name)
        if name.startswith("distilled_guidance_layer."):
            new = name.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
            found[new.replace(".weight", ".scale") if ".norms." in new else new] = tensor
            continue
        if block is None:
            old = next(old for old in top if name.startswith(old))
            found[top[old] + name[len(old) :]] = swapped(tensor) if old == "norm_out.linear" else tensor
            continue
        alone, number, part, kind = block.groups()
        start = f"{alone or ''}transformer_blocks.{number}."
        if alone and part == "attn.to_q":
            rows = [f"attn.to_{each}" for each in "qkv"] + ["proj_mlp"]
            found[f"single_blocks.{number}.linear1.{kind}"] = torch.cat([state[f"{start}{row}.{kind}"] for row in rows])
        elif not alone and part in fused:
            new, names = fused[part]
            found[f"double_blocks.{number}.{new}.{kind}"] = torch.cat(
                [state[f"{start}{names.format(each)}.{kind}"] for each in "qkv"]
            )
        elif part in (single if alone else double):
            new = (single if alone else double)[part]
            kind = "scale" if ".norm." in f".{new}" or "_norm" in new else kind
            found[f"{'single' if alone else 'double'}_blocks.{number}.{new}.{kind}"] = tensor
    return found


def zimage(state):
    found = {}
    for name, tensor in state.items():
        new = name.replace("all_final_layer.2-1.", "final_layer.").replace("all_x_embedder.2-1.", "x_embedder.")
        new = new.replace("attention.to_out.0", "attention.out").replace("attention.norm_k", "attention.k_norm")
        new = new.replace("attention.norm_q", "attention.q_norm")
        if new.endswith("attention.to_q.weight"):
            tensor = torch.cat([state[name.replace("to_q", f"to_{each}")] for each in "qkv"])
            new = new.replace("to_q", "qkv")
        if not new.endswith(("attention.to_k.weight", "attention.to_v.weight")):
            found[new] = tensor
    return found


def krea2(state):
    top = {"img_in.": "first.", "time_embed.linear_1.": "tmlp.0.", "time_embed.linear_2.": "tmlp.2.", "time_mod_proj.": "tproj.1.",
           "txt_in.norm.weight": "txtmlp.0.scale", "txt_in.linear_1.": "txtmlp.1.", "txt_in.linear_2.": "txtmlp.3.", "text_fusion.": "txtfusion.",
           "transformer_blocks.": "blocks.", "final_layer.linear.": "last.linear.", "final_layer.norm.weight": "last.norm.scale",
           "final_layer.scale_shift_table": "last.modulation.lin"}  # fmt: skip
    inside = {".attn.to_q.": ".attn.wq.", ".attn.to_k.": ".attn.wk.", ".attn.to_v.": ".attn.wv.", ".attn.to_out.0.": ".attn.wo.",
              ".attn.to_gate.": ".attn.gate.", ".attn.norm_q.weight": ".attn.qknorm.qnorm.scale",
              ".attn.norm_k.weight": ".attn.qknorm.knorm.scale", ".ff.": ".mlp.", ".norm1.weight": ".prenorm.scale",
              ".norm2.weight": ".postnorm.scale", ".scale_shift_table": ".mod.lin"}  # fmt: skip
    found = {}
    for name, tensor in state.items():
        old = next((old for old in top if name.startswith(old)), "")
        new = top.get(old, "") + name[len(old) :]
        for part, original in inside.items():
            new = new.replace(part, original)
        found[new] = tensor.flatten() if new.endswith(".mod.lin") else tensor
    return found


COSMOS = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
COSMOS_TOP = {"patch_embed.proj": "x_embedder.proj.1", "time_embed.t_embedder": "t_embedder.1", "time_embed.norm": "t_embedding_norm",
              "norm_out.linear_": "final_layer.adaln_modulation.", "proj_out": "final_layer.linear"}  # fmt: skip


def anima(pipe):
    """The network and, within it, the conditioner; a table and a counter as NVIDIA's training code leaves them there."""
    found = {f"net.llm_adapter.{name}": tensor for name, tensor in pipe.text_conditioner.state_dict().items()}
    for name, tensor in pipe.transformer.state_dict().items():
        top = next((old for old in COSMOS_TOP if name.startswith(old)), None)
        new = name if top is None else COSMOS_TOP[top] + name[len(top) :]
        new = new.replace("transformer_blocks.", "blocks.").replace("to_out.0", "output_proj")
        new = new.replace("ff.net.0.proj", "mlp.layer1").replace("ff.net.2", "mlp.layer2")
        for number, part in enumerate(("self_attn", "cross_attn", "mlp"), 1):
            new = new.replace(f".norm{number}.linear_", f".adaln_modulation_{part}.")
        found["net." + ".".join(COSMOS.get(each, each) for each in new.split("."))] = tensor
    return found | {"net.pos_embedder.seq": torch.arange(4.0), "net.accum_iteration": torch.zeros(1)}


ALONE = {
    "flux": flux,
    "chroma": flux,
    "flux2_klein": flux,
    "flux2_dev": flux,
    "zimage": zimage,
    "krea2": krea2,
    "qwen": dict,
}
"""Released as the transformer alone."""


def tensors(name, pipe):
    """The pipeline's tensors as a file of its release names them."""
    if name == "anima":
        return anima(pipe)
    if name in ALONE:
        return ALONE[name](pipe.transformer.state_dict())
    levels = len(pipe.vae.config.block_out_channels)
    found = vae(pipe.vae.state_dict(), levels)
    if name == "sd3":
        found |= sd3(pipe.transformer.state_dict())
        found |= clip(pipe.text_encoder.state_dict(), "text_encoders.clip_l.transformer.")
        found |= clip(pipe.text_encoder_2.state_dict(), "text_encoders.clip_g.transformer.")
        t5 = pipe.text_encoder_3.state_dict() if pipe.text_encoder_3 is not None else {}
        tied = "encoder.embed_tokens.weight"  # the same numbers as "shared.weight"
        return found | {"text_encoders.t5xxl.transformer." + key: tensor for key, tensor in t5.items() if key != tied}
    found |= unet(pipe.unet.state_dict(), pipe.unet.config.layers_per_block)
    first, second = pipe.text_encoder.state_dict(), getattr(pipe, "text_encoder_2", None)
    if second is not None:
        found |= clip(first, "conditioner.embedders.0.transformer.")
        return found | open_clip(second.state_dict(), "conditioner.embedders.1.model.")
    linear = pipe.unet.config.use_linear_projection
    return found | (
        open_clip(first, "cond_stage_model.model.") if linear else clip(first, "cond_stage_model.transformer.")
    )


def single_file(name: str, folder: Path, into: Path, *, without=(), metadata=None, dtype=None, **more) -> Path:
    """`without`: beginnings of names that are left out. `more`: further tensors."""
    absent = {"text_encoder_3": None} if name == "sd3" and not (folder / "text_encoder_3").exists() else {}
    found = tensors(name, stock_pipeline(folder, **absent)) | more
    kept = {
        key: (tensor if dtype is None else tensor.to(dtype)).contiguous().clone()
        for key, tensor in found.items()
        if not key.startswith(tuple(without))
    }
    file = into / f"{name}.safetensors"
    save_file(kept, file, metadata=metadata)
    return file
