"""The two demo models with random weights, and how they are saved."""

import copy
import os
import shutil
from pathlib import Path

import torch
from rollout_studio.core.demo import world

WORDS = (
    *("a", "an", "picture", "photo", "of", "on", "the", "at", "in", "background", world.CLASS_NOUN),
    *(*world.SHAPES, *world.COLOURS, *world.SIZES, *world.PLACES, *world.BACKGROUNDS),
)
"""Every word of the world is one token; any other word falls apart into letters."""


def gemma_tokenizer():
    """Byte-pair pieces without a training corpus: each word grows letter by letter from its leading space (`▁`).

    Lumina2Pipeline puts a long system prompt before every prompt; as one added token it costs one position.
    """
    from diffusers import Lumina2Pipeline
    from tokenizers import AddedToken, processors
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)] + ["▁"] + [chr(code) for code in range(33, 127)]
    merges = []
    for word in ("▁" + word for word in WORDS):
        for n in range(1, len(word)):
            merges.append((word[:n], word[n]))
            pieces.append(word[: n + 1])
    pieces, merges = list(dict.fromkeys(pieces)), list(dict.fromkeys(merges))
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=256)
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[bos]
    )
    system_prompt = Lumina2Pipeline(
        transformer=None, scheduler=None, vae=None, text_encoder=None, tokenizer=None
    ).system_prompt
    tokenizer.add_tokens([AddedToken(f"{system_prompt} <Prompt Start>", normalized=False)])
    return tokenizer


def clip_tokenizer(length: int = 32):
    """As above for CLIP, where a word's *last* letter is marked: each word grows from its end."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces, merges = letters + [letter + "</w>" for letter in letters], []
    for word in WORDS:
        for n in range(len(word) - 1, 0, -1):
            merges.append((word[n - 1], word[n:] + "</w>"))
            pieces.append(word[n - 1 :] + "</w>")
    pieces, merges = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"], list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=length)


def build_flow(vae):
    """Lumina 2 in small: a transformer over 8x8 patches and the caption's tokens, a Gemma 2 text encoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192,
            num_hidden_layers=3,  # the pipeline reads hidden_states[-2]: two layers work, the third is never seen
            num_attention_heads=4, num_key_value_heads=4, head_dim=24, query_pre_attn_scalar=24,
            attn_logit_softcapping=None, max_position_embeddings=512,
        )
    )  # fmt: skip
    transformer = Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=160, num_layers=6, num_refiner_layers=1,
        num_attention_heads=5, num_kv_heads=5, multiple_of=32, ffn_dim_multiplier=0.75,
        axes_dim_rope=(8, 12, 12), axes_lens=(300, 64, 64), cap_feat_dim=96,
    )  # fmt: skip
    with torch.no_grad():
        # Times come as 0..1, where the sinusoids hardly move: larger first weights separate them sooner.
        transformer.time_caption_embed.timestep_embedder.linear_1.weight.mul_(4)
        for block in (*transformer.noise_refiner, *transformer.layers):
            block.norm1.linear.weight.mul_(0.1)
        transformer.norm_out.linear_2.weight.mul_(0.1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    return Lumina2Pipeline(
        transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
    )


def build_epsilon(vae):
    """Stable Diffusion 1.5 in small: a UNet over 16x16, 8x8 and 4x4, a CLIP text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2, projection_dim=96,
            num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    with torch.no_grad():  # CLIP's own 0.02 is made for years of training
        text_encoder.get_input_embeddings().weight.mul_(10)
        for name, weight in text_encoder.named_parameters():
            if name.endswith("position_embedding.weight"):
                weight.mul_(10)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, cross_attention_dim=96,
        block_out_channels=(64, 80, 80), norm_num_groups=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="epsilon", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def parameters(*models) -> int:
    return sum(weight.numel() for model in models for weight in model.parameters())


def publish(pipe, folder: Path, scratch: Path) -> None:
    """Save a pipeline in the standard layout, then move file by file into place: `folder` can be opened at any moment.

    The denoiser and the autoencoder are stored in float16, which halves them; diffusers opens them in float32 unless
    another type is passed. The text encoder stays float32, because transformers opens a file in the type it was saved in.
    """
    small = {
        name: copy.deepcopy(getattr(pipe, name)).half()
        for name in ("vae", "unet", "transformer")
        if hasattr(pipe, name)
    }
    shutil.rmtree(scratch, ignore_errors=True)
    type(pipe)(
        **{**pipe.components, **small}, **({"requires_safety_checker": False} if "unet" in small else {})
    ).save_pretrained(scratch)
    for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
        target = folder / file.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target.with_name(target.name + ".part"))
        os.replace(target.with_name(target.name + ".part"), target)
