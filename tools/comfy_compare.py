"""Our adapter on ComfyUI's models against diffusers' networks with the same weights; `comfy_check.py` runs this in ComfyUI's Python.

    python comfy_compare.py PATH_TO_COMFYUI FOLDER CHECKPOINT

FOLDER and CHECKPOINT: one Stable Diffusion 1 model in both layouts. SD 2 (v), SDXL and SD 3 are small networks of the host's own classes.
Exit code 1 where a difference exceeds 1e-4 of the largest value.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
COMFYUI, FOLDER, CHECKPOINT = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu"]  # ComfyUI reads the command line
sys.path[:0] = [COMFYUI, str(ROOT / "tests")]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.model_base
import comfy.model_detection
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.supported_models
import torch

spec = importlib.util.spec_from_file_location(
    "rollout_studio", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
)
sys.modules["rollout_studio"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rollout_studio"])
import original_layout
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.nodes.comfy.host_model import HostModel
from tiny import without_zeros

START = "model.diffusion_model."


def differ(what: str, one: torch.Tensor, other: torch.Tensor) -> bool:
    worst = float((one - other).abs().max() / other.abs().max())
    print(
        f"{'ok  ' if worst < 1e-4 else 'FAIL'} {what}, in ComfyUI against diffusers: {worst:.1e} of the largest value"
    )
    return worst < 1e-4


def whole_model() -> bool:
    """A checkpoint through ComfyUI's loader: texts, network, autoencoder, schedule."""
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=True, output_clip=True)
    flat = {"pretrained_model_name_or_path": FOLDER, "base_model_precision": "float32"}
    host, own = HostModel(model, clip, vae), load_model(config_from_flat(flat).model, for_training=False)
    words = ["a red circle", "sks on blue, far left"]
    texts = own.encode_prompts(words)
    right = differ(
        "SD 1 texts", *(torch.stack([p["prompt_embeds"] for p in m.encode_prompts(words)]) for m in (host, own))
    )
    x = torch.randn(2, 4, 8, 8)
    for t in ([999.0, 1.0], [500.0, 20.0], [3.3, 700.25]):
        right &= differ(
            f"SD 1 output at t = {t}", *(m.denoise(x, torch.tensor(t), m.collate(texts)) for m in (host, own))
        )
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = own.encode_images(pixels)
    right &= differ("SD 1 latents of pictures", host.encode_images(pixels), latents)
    right &= differ("SD 1 pictures of latents", host.decode(latents), own.decode(latents))
    return right and torch.equal(host.inference_times(30, (4, 8, 8)), own.inference_times(30, (4, 8, 8)))


def unet(**more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=48, attention_head_dim=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, **more,
    )  # fmt: skip


def mmdit():
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=128, pooled_projection_dim=32, pos_embed_max_size=16,
    )  # fmt: skip


def hosted(kind: str, network, tensors: dict, channels: int) -> HostModel:
    """The network in ComfyUI's class of that kind, which is smaller than what its loader recognises."""
    config = getattr(comfy.supported_models, kind)(comfy.model_detection.detect_unet_config(tensors, START))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(tensors, START, device="cpu")
    if kind == "SD20":
        model.model_sampling = comfy.model_base.model_sampling(config, comfy.model_base.ModelType.V_PREDICTION)
    model.load_model_weights(dict(tensors), START)
    cpu, nothing = torch.device("cpu"), torch.nn.Linear(1, 1)
    vae = SimpleNamespace(latent_channels=channels, downscale_ratio=8, first_stage_model=nothing)
    return HostModel(comfy.model_patcher.ModelPatcher(model, cpu, cpu), SimpleNamespace(cond_stage_model=nothing), vae)


def network(kind: str, what: str, network, channels: int) -> bool:
    """Two rows with different texts at different times; sides of different length."""
    without_zeros(network).eval()
    tensors = (
        original_layout.sd3(network.state_dict()) if kind == "SD3" else original_layout.unet(network.state_dict(), 1)
    )
    host, right = hosted(kind, network, tensors, channels), True
    x, text, pooled = torch.randn(2, channels, 8, 12), torch.randn(2, 77, 48), torch.randn(2, 32)
    cond = {"prompt_embeds": text} | ({} if kind == "SD20" else {"pooled": pooled})
    for times in ([0.9, 0.123],) if kind == "SD3" else ([999.0, 1.0], [3.3, 700.25]):
        t = torch.tensor(times)
        if kind == "SD3":
            expected = network(x, text, pooled, t * 1000, return_dict=False)[0]
        else:
            added = (
                {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 96, 0, 0, 64, 96]] * 2)}
                if kind == "SDXL"
                else None
            )
            expected = network(x, t, text, added_cond_kwargs=added, return_dict=False)[0]
        right &= differ(f"{what} output at t = {times}", host.denoise(x, t, cond), expected)
    return right


def main() -> bool:
    torch.manual_seed(0)
    sizes = {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 32 + 6 * 256}
    right = whole_model()
    right &= network("SD20", "SD 2 (v)", unet(), 4)
    right &= network(
        "SDXL", "SDXL", unet(transformer_layers_per_block=(1, 2), addition_embed_type="text_time", **sizes), 4
    )
    return network("SD3", "SD 3", mmdit(), 16) and right


if __name__ == "__main__":
    with torch.inference_mode():  # as ComfyUI runs nodes
        sys.exit(0 if main() else 1)
