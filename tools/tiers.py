"""What each preset takes on a graphics card, by the program's own estimate, from the shapes of the released networks.

    python tools/tiers.py            prints every preset and tier
    python tools/tiers.py --write    writes `takes_gb` of every tier into presets/*.json

The networks are built from their released configs without memory (on torch's meta device): nothing is downloaded. Numbers of text encoders
and VAEs are those of their releases. A preset states its network as `released` in its `_metadata`, with the fields of `Released`; those of
the first models stand here.
"""

import argparse
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout_studio.core.before.estimate import memory_estimate
from rollout_studio.core.before.model_files import ModelFacts, facts_of
from rollout_studio.core.config import load_preset, read_preset, with_changes
from rollout_studio.core.config.presets import PRESETS, Preset, Tier, preset_names, tier_changes
from rollout_studio.core.families.registry import FAMILIES

_CLIP_L, _CLIP_G, _OPEN_CLIP_H, _T5_XXL, _GEMMA_2 = 0.123, 0.695, 0.340, 4.762, 2.614
_QWEN3_4B, _PILE_T5_XL, _UMT5_XXL, _MINISTRAL_3B = 4.022, 1.212, 5.681, 3.849
_KL = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16}
_KL4 = _KL | {"latent_channels": 4}
_FILM = {"dim_mult": [1, 2, 4, 4], "z_dim": 16}


@dataclass(frozen=True)
class Released:
    """A released model: its network's class and what its config sets beside the class's defaults; billions of weights of what encodes
    captions, and of the VAE."""

    network: str
    encoders: float
    config: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=lambda: _KL)
    vae_weights: float = 0.084
    decoding: float = 3.2
    """GB that the VAE takes in 32 bits to decode one picture of 1024 px, counted on the meta device like `count_step.py`."""


_UNET = "UNet2DConditionModel"
RELEASED = {
    "sd15": Released(_UNET, _CLIP_L, {"cross_attention_dim": 768, "sample_size": 64}, _KL4),
    "sd21": Released(_UNET, _OPEN_CLIP_H, {
        "cross_attention_dim": 1024, "sample_size": 96, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True,
    }, _KL4),
    "sdxl": Released(_UNET, _CLIP_L + _CLIP_G, {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }, _KL4),
    "sd35-medium": Released("SD3Transformer2DModel", _CLIP_L + _CLIP_G + _T5_XXL, {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "caption_projection_dim": 1536,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    }),
    "sd35-large": Released("SD3Transformer2DModel", _CLIP_L + _CLIP_G + _T5_XXL, {
        "sample_size": 128, "num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64, "caption_projection_dim": 2432,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "qk_norm": "rms_norm",
    }),
    "flux": Released("FluxTransformer2DModel", _CLIP_L + _T5_XXL, {"guidance_embeds": True}),
    "chroma": Released("ChromaTransformer2DModel", _T5_XXL),
    "flux2-dev": Released("Flux2Transformer2DModel", 24.011, vae=_KL | {"latent_channels": 32}),
    "flux2-klein": Released("Flux2Transformer2DModel", _QWEN3_4B, {
        "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False,
    }, _KL | {"latent_channels": 32}),
    "krea2": Released("Krea2Transformer2DModel", 4.438, vae=_FILM, vae_weights=0.127, decoding=7.3),
    "lumina2": Released("Lumina2Transformer2DModel", _GEMMA_2, {"cap_feat_dim": 2304}),
    "pixart-sigma": Released("PixArtTransformer2DModel", _T5_XXL, {"caption_channels": 4096}, _KL4),
    "qwen": Released("QwenImageTransformer2DModel", 8.292, vae=_FILM, vae_weights=0.127, decoding=7.3),
    "sana": Released("SanaTransformer2DModel", _GEMMA_2, vae={"encoder_block_out_channels": [128] * 6, "latent_channels": 32}, vae_weights=0.312, decoding=2.4),
    "zimage": Released("ZImageTransformer2DModel", _QWEN3_4B),
    "ernie": Released("ErnieImageTransformer2DModel", _MINISTRAL_3B, {  # to its published 8 billion weights; the config itself was not at hand
        "hidden_size": 4096, "num_attention_heads": 32, "num_layers": 36, "ffn_hidden_size": 12288, "text_in_dim": 3072,
    }, _KL | {"latent_channels": 32}),
    "wan": Released("WanTransformer3DModel", _UMT5_XXL, {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}, _FILM, 0.127, 7.3),
    "auraflow": Released("AuraFlowTransformer2DModel", _PILE_T5_XL, vae=_KL4),
}  # fmt: skip
"""By the preset's name. A preset that is not here comes along with its model."""


def stated() -> dict[str, Released]:
    """What presets state themselves."""
    files = {name: json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8")) for name in preset_names()}
    return {
        name: Released(**flat["_metadata"]["released"])
        for name, flat in files.items()
        if "released" in flat["_metadata"]
    }


RELEASED |= stated()


def released_facts(preset: Preset) -> ModelFacts:
    """What `before.model_files` would know of the preset's model, were it on this computer."""
    import diffusers
    from accelerate import init_empty_weights

    released, family = RELEASED[preset.name], FAMILIES[str(preset.changes["model_family"])]
    with warnings.catch_warnings(), init_empty_weights(include_buffers=True):
        warnings.simplefilter("ignore")
        network = getattr(diffusers, released.network).from_config(released.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    configs = {family.component: dict(network.config), "vae": released.vae, "pipeline": {}}
    return facts_of(Path(), configs, shapes, family)


def takes_gb(preset: Preset, facts: ModelFacts, tier: Tier) -> float:
    """`takes` of one of its tiers."""
    return takes(preset, facts, tier_changes(preset, tier))


def takes(preset: Preset, facts: ModelFacts, changes: Mapping[str, Any]) -> float:
    """GB (10^9 bytes) at the peak on an NVIDIA card, whichever is most: encoding the captions, a training step, drawing a sample.
    `changes`: flat keys beside the preset's own. Raises ConfigError for a combination that is refused."""
    config = with_changes(preset.config(), {"device": "cuda", **changes})
    released, step = RELEASED[preset.name], memory_estimate(config, facts)
    assert step.total is not None  # the shapes are known
    sample = (step.parts["weights"] + step.parts["training"]) / 1e9 + 4 * released.vae_weights
    sample += released.decoding * (config.data.resolution / 1024) ** 2
    return round(max(encoding_gb(released), step.total.likely / 1e9, sample), 1)


def encoding_gb(released: Released) -> float:
    """What encoding the captions takes, before the network is opened: text encoders in 16 bits, the VAE in 32."""
    return 2 * released.encoders + 4 * released.vae_weights


def as_text(flat: dict[str, Any]) -> str:
    """A preset's file: every tier on a line of its own."""
    about = flat["_metadata"]
    text = json.dumps({**flat, "_metadata": {**about, "tiers": "@"}}, indent=2, ensure_ascii=False)
    lines = ",\n".join(f"      {json.dumps(tier, ensure_ascii=False)}" for tier in about["tiers"])
    return text.replace('"@"', f"[\n{lines}\n    ]") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    for name in preset_names():
        preset = read_preset(name)
        if name not in RELEASED:
            continue
        facts = released_facts(preset)
        path = PRESETS / f"{name}.json"
        flat = json.loads(path.read_text(encoding="utf-8"))
        for tier, written in zip(preset.tiers, flat["_metadata"]["tiers"], strict=True):
            written["takes_gb"] = takes_gb(preset, facts, tier)
            print(f"{name:14} {tier.gb:4} GB  takes {written['takes_gb']:5.1f}  {tier.changes}")
        if write:
            path.write_text(as_text(flat), encoding="utf-8")


if __name__ == "__main__":
    load_preset("demo")  # a broken preset is said before anything is built
    main()
