"""Krea 2's layers under their original names, behind `diffusion_model.`, as its own trainer writes them and ComfyUI reads them.

diffusers refuses a file with alphas here, so the scale is multiplied into B.
"""

from ..lora_facts import KohyaLayout, Rename, renames

_PROJECTIONS = {"to_q": "wq", "to_k": "wk", "to_v": "wv", r"to_out\.0": "wo", "to_gate": "gate"}
_PLACES = {
    r"transformer_blocks\.(\d+)\.": "diffusion_model.blocks.{0}.",
    r"text_fusion\.(layerwise_blocks|refiner_blocks)\.(\d+)\.": "diffusion_model.txtfusion.{0}.{1}.",
}
KOHYA = KohyaLayout(
    place=renames(
        *(
            Rename(f"{where}attn\\.{ours}", f"{there}attn.{theirs}")
            for where, there in _PLACES.items()
            for ours, theirs in _PROJECTIONS.items()
        ),
        *(
            Rename(f"{where}ff\\.{part}", f"{there}mlp.{part}")
            for where, there in _PLACES.items()
            for part in ("gate", "up", "down")
        ),
    ),
    down=".lora_A.weight",
    up=".lora_B.weight",
    alphas=False,
    about="`diffusion_model.` and the original names; without alpha tensors, which diffusers refuses here",
)
