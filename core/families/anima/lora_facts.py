"""Anima's layers under the original names, behind `diffusion_model.`, as ComfyUI reads them and diffusers' loader for it maps them back.

diffusers refuses a file with alphas here, so the scale is multiplied into B.
"""

from ..lora_facts import KohyaLayout, Rename, renames

_BLOCK, _THERE = r"transformer_blocks\.(\d+)\.", "diffusion_model.blocks.{0}."
_PARTS = {"1": "self_attn", "2": "cross_attn", "3": "mlp"}
_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", r"to_out\.0": "output_proj"}
_OTHERS = {
    rf"{_BLOCK}ff\.net\.0\.proj": f"{_THERE}mlp.layer1",
    rf"{_BLOCK}ff\.net\.2": f"{_THERE}mlp.layer2",
    r"patch_embed\.proj": "diffusion_model.x_embedder.proj.1",
    r"time_embed\.t_embedder\.linear_([12])": "diffusion_model.t_embedder.1.linear_{0}",
    r"norm_out\.linear_([12])": "diffusion_model.final_layer.adaln_modulation.{0}",
    r"proj_out": "diffusion_model.final_layer.linear",
}
KOHYA = KohyaLayout(
    place=renames(
        *(
            Rename(rf"{_BLOCK}attn{number}\.{ours}", f"{_THERE}{_PARTS[number]}.{theirs}")
            for number in ("1", "2")
            for ours, theirs in _PROJECTIONS.items()
        ),
        *(
            Rename(rf"{_BLOCK}norm{number}\.linear_([12])", f"{_THERE}adaln_modulation_{part}.{{1}}")
            for number, part in _PARTS.items()
        ),
        *(Rename(ours, theirs) for ours, theirs in _OTHERS.items()),
    ),
    down=".lora_A.weight",
    up=".lora_B.weight",
    alphas=False,
    about="`diffusion_model.` and the original names; without alpha tensors, which diffusers refuses here",
)
