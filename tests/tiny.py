"""Tiny random pipelines of the real classes, saved in the diffusers layout: for everything that needs a model.

    def test_something(tiny_folder):
        folder = tiny_folder("lumina2")     # built once per session; one of BUILDERS

Every all-zero tensor (output layers, gates) is drawn anew, because a network that answers 0 hides every error behind
it. Tokenizers are built without files, one token per character. Latents have an f4 autoencoder, 8x8 cells for the
default picture of 32x32 pixels.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

LETTERS = [chr(code) for code in range(33, 127)]
PROMPTS = ("a red circle", "sks on blue, far left")
TEXT_LENGTH = 24
SIDE = 8


def predictions(model):
    """What a model makes of two rows of noise at two noise levels, with PROMPTS."""
    x = torch.randn(2, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.7, 0.3]) * (1 if model.is_flow else 999)
    with torch.no_grad():
        return model.denoise(x, t, model.collate(model.encode_prompts(PROMPTS)))


def without_zeros(module: nn.Module) -> nn.Module:
    """Draw every all-zero parameter anew."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return module


def clip_tokenizer():
    from transformers import CLIPTokenizer

    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=TEXT_LENGTH)


def gemma_tokenizer():
    from tokenizers import processors
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *LETTERS]
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=256)
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[bos]
    )
    return tokenizer


def t5_tokenizer():
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)


def clip_text(tokenizer, width: int = 16, *, projected: bool = False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def autoencoder(shift: float | None = None, channels: int = 4):
    from diffusers import AutoencoderKL

    return without_zeros(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=4,
            sample_size=32,
            scaling_factor=0.6,
            shift_factor=shift,
        )
    )


def stable_diffusion(scheduler, *, linear: bool = False):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(1)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        use_linear_projection=linear,
    )
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=without_zeros(unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(scheduler=None):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(4)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    usual = EulerDiscreteScheduler(**SD_BETAS, steps_offset=1, timestep_spacing="leading")
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer_2=clip_tokenizer(),
        unet=without_zeros(unet),
        scheduler=usual if scheduler is None else scheduler,
        add_watermarker=False,
    )


def sdxl_v():
    from diffusers import DDIMScheduler

    return sdxl(DDIMScheduler(**SD_BETAS, steps_offset=1, clip_sample=False, prediction_type="v_prediction"))


SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd1():
    from diffusers import PNDMScheduler

    return stable_diffusion(PNDMScheduler(**SD_BETAS, steps_offset=1, skip_prk_steps=True))


def sd1_euler():
    """Its scheduler keeps x / alpha: the pipeline scales what the network sees."""
    from diffusers import EulerDiscreteScheduler

    return stable_diffusion(EulerDiscreteScheduler(**SD_BETAS, steps_offset=1, timestep_spacing="leading"))


def sd1_sample():
    """Predicts x0."""
    from diffusers import DDIMScheduler

    return stable_diffusion(DDIMScheduler(**SD_BETAS, steps_offset=1, clip_sample=False, prediction_type="sample"))


def sd2_v():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        **SD_BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
    )
    return stable_diffusion(scheduler, linear=True)


def sd3(*, t5: bool = True, dual: tuple[int, ...] = (0,), **scheduler):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(2)
    tokenizer = clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        dual_attention_layers=dual,
        qk_norm="rms_norm",
    )
    words = t5_tokenizer() if t5 else None
    encoder = (
        T5EncoderModel(T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).eval()
        if t5
        else None
    )
    return StableDiffusion3Pipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=autoencoder(0.1),
        text_encoder=clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=words,
    )


def sd35_large():
    """The shape of SD 3.5 Large: no block has a second attention, as Medium's first thirteen have; both normalize queries and keys."""
    return sd3(t5=False, dual=())


def sd3_without_t5():
    return sd3(t5=False)


def sd3_dynamic():
    """Its shift depends on the picture's size."""
    return sd3(t5=False, use_dynamic_shifting=True, base_image_seq_len=8, max_image_seq_len=64)


def lumina2():
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    torch.manual_seed(3)
    tokenizer = gemma_tokenizer()
    text = gemma_text(tokenizer)
    transformer = Lumina2Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 32, 32),
        cap_feat_dim=16,
    )
    return Lumina2Pipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=autoencoder(0.1),
        text_encoder=text,
        tokenizer=tokenizer,
    )


def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(5)
    tokenizer, words = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    shifting = {"shift": 3.0, "use_dynamic_shifting": True, "base_image_seq_len": 8, "max_image_seq_len": 64}
    return FluxPipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**shifting),
        vae=autoencoder(0.1),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ).eval(),
        tokenizer_2=words,
    )


def qwen_tokenizer():
    """With a chat template: each message's role and text (whole, or in parts), and the beginning of an answer."""
    from transformers import Qwen2Tokenizer

    pieces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", "Ċ", *LETTERS]
    tokenizer = Qwen2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content if message.content is string else message.content | map(attribute='text') | join }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def t5_text(words, config=None, model=None, width: int = 32):
    from transformers import T5Config, T5EncoderModel

    config, model = config or T5Config, model or T5EncoderModel
    return model(config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=width, num_layers=1, num_heads=2)).eval()


def zimage():
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(6)
    tokenizer = qwen_tokenizer()
    text = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
        )
    )
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 128, 128],
    )
    return ZImagePipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=autoencoder(0.1),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
    )


def chroma():
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(7)
    words = t5_tokenizer()
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(0.1),
        text_encoder=t5_text(words),
        tokenizer=words,
    )


def pixart(scheduler=None):
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(6)
    words = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=SIDE,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        transformer=without_zeros(transformer),
        scheduler=scheduler or DPMSolverMultistepScheduler(),
        vae=autoencoder(),
        text_encoder=t5_text(words),
        tokenizer=words,
    )


def qwen_template_tokenizer(*more: str):
    """One token per character, but one per word of the template that pipelines put around a prompt: they cut its first 34 tokens off.
    `more`: further special tokens."""
    from transformers import Qwen2Tokenizer

    special = ["<|im_start|>", "<|im_end|>", *more]
    first = ("system", "Describe", "user", "assistant")
    words = (
        "the image by detailing color shape size texture quantity text spatial relationships of objects and background"
    )
    pieces, merges = ["<|endoftext|>", *special, *LETTERS, "Ġ", "Ċ"], []
    for word in (*first, *(f"Ġ{word}" for word in words.split())):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return Qwen2Tokenizer(vocab=vocab, merges=merges, extra_special_tokens=special, model_max_length=2048)


QWEN_TEXT = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "bos_token_id": None, "eos_token_id": None,
    "head_dim": 8, "max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
}  # fmt: skip


def film_autoencoder():
    from diffusers import AutoencoderKLQwenImage

    return without_zeros(
        AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.3, -0.2, 0.1, 0.5],
            latents_std=[1.5, 0.8, 1.2, 2.0],
        )
    )


def qwen():
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(6)
    tokenizer = qwen_template_tokenizer()
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**QWEN_TEXT, "vocab_size": len(tokenizer)}, vision_config=eyes)
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    shifting = {"base_image_seq_len": 8, "max_image_seq_len": 64, "max_shift": 0.9, "shift_terminal": 0.02}
    return QwenImagePipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **shifting),
        vae=film_autoencoder(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
    )


def krea2():
    from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    torch.manual_seed(7)
    tokenizer = qwen_template_tokenizer()
    eyes = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text = Qwen3VLModel(Qwen3VLConfig(text_config={**QWEN_TEXT, "vocab_size": len(tokenizer)}, vision_config=eyes))
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    shifting = {"base_image_seq_len": 8, "max_image_seq_len": 64}
    return Krea2Pipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **shifting),
        vae=film_autoencoder(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        text_encoder_select_layers=(0, 1, 2),
    )


CHAT = "{% for one in messages %}<|im_start|>{{ one.role }}\n{% for part in one.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"


def whole_reader(tokenizer):
    """Transformers' own processor of Qwen 3 VL, without the readers of pictures and films, for which it wants torchvision: a stand-in for
    texts alone. Saved it has the files of a whole one."""
    from transformers import Qwen3VLProcessor

    reader = object.__new__(Qwen3VLProcessor)
    reader.tokenizer, reader.chat_template = tokenizer, tokenizer.chat_template
    for kind in ("image", "video"):
        setattr(reader, f"{kind}_token", f"<|{kind}_pad|>")
        setattr(reader, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>"))

    def saved(folder):
        tokenizer.save_pretrained(folder)
        for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
            (Path(folder) / name).write_text('{"processor_class": "Qwen3VLProcessor"}')

    reader.save_pretrained = saved
    return reader


def four_channel_autoencoder():
    from diffusers import AutoencoderKLQwenImage21

    return without_zeros(
        AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=4,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.3, -0.2, 0.1, 0.5],
            latents_std=[1.5, 0.8, 1.2, 2.0],
            scale_factor_spatial=4,
        )
    )


def qwen21():
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImage21Pipeline, QwenImage21Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(14)
    tokenizer = qwen_template_tokenizer("<|image_pad|>", "<|video_pad|>")
    tokenizer.chat_template = CHAT
    eyes = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    words = {**QWEN_TEXT, "vocab_size": len(tokenizer), "initializer_range": 0.3}  # so that captions differ
    transformer = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    shifting = {"base_image_seq_len": 8, "max_image_seq_len": 64, "max_shift": 0.9, "shift_terminal": 0.02}
    return QwenImage21Pipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **shifting),
        vae=four_channel_autoencoder(),
        text_encoder=Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=words, vision_config=eyes)).eval(),
        processor=whole_reader(tokenizer),
    )


def deep_autoencoder():
    """No posterior, and deep compression in the released ones; here 4 pixels a cell."""
    from diffusers import AutoencoderDC

    return without_zeros(
        AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
            scaling_factor=0.41,
        )
    )


def gemma_text(tokenizer):
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        query_pre_attn_scalar=8,
    )
    return Gemma2Model(config).eval()


def sana():
    """`timestep_scale` is 1 in the released ones: another number shows where it is forgotten."""
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    torch.manual_seed(7)
    tokenizer = gemma_tokenizer()
    transformer = SanaTransformer2DModel(
        sample_size=SIDE,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        qk_norm="rms_norm_across_heads",
        timestep_scale=0.5,
    )
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    return SanaPipeline(
        transformer=without_zeros(transformer),
        scheduler=scheduler,
        vae=deep_autoencoder(),
        text_encoder=gemma_text(tokenizer),
        tokenizer=tokenizer,
    )


def auraflow():
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(8)
    words = t5_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=256,
    )
    with (
        torch.no_grad()
    ):  # freshly drawn gates let so little through that attention, and a LoRA on it, would hardly show
        for name, parameter in transformer.named_parameters():
            if name.endswith("linear.weight"):
                parameter *= 8
    return AuraFlowPipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=autoencoder(),
        text_encoder=t5_text(words, UMT5Config, UMT5EncoderModel),
        tokenizer=words,
    )


def flux2_vae():
    """Two of its pixels a cell, four in the 2x2 squares; the statistics of a trained one."""
    from diffusers import AutoencoderKLFlux2

    vae = without_zeros(
        AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=2,
            norm_num_groups=4,
            sample_size=32,
        )
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def flux2_transformer(text_width: int, *, guidance: bool):
    from diffusers import Flux2Transformer2DModel

    return without_zeros(
        Flux2Transformer2DModel(
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=text_width,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance,
        )
    )


def flux2_scheduler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def flux2_klein():
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(6)
    tokenizer = qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=28,  # the pipeline takes the hidden states after 9, 18 and 27
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=512,
        initializer_range=0.3,  # so that captions differ
    )
    return Flux2KleinPipeline(
        transformer=flux2_transformer(3 * 8, guidance=False),
        scheduler=flux2_scheduler(),
        vae=flux2_vae(),
        text_encoder=Qwen3ForCausalLM(config).eval(),
        tokenizer=tokenizer,
    )


def flux2_dev():
    """With a plain tokenizer in the place of its processor for text and pictures."""
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig

    torch.manual_seed(7)
    tokenizer = qwen_tokenizer()
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=31,  # the pipeline takes the hidden states after 10, 20 and 30
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=512,
        initializer_range=0.3,  # so that captions differ
    )
    pictures = PixtralVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    config = Mistral3Config(text_config=text, vision_config=pictures, image_token_index=1)
    return Flux2Pipeline(
        transformer=flux2_transformer(3 * 8, guidance=True),
        scheduler=flux2_scheduler(),
        vae=flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
    )


def ernie():
    from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import Mistral3Config, Mistral3Model, MistralConfig, PixtralVisionConfig

    torch.manual_seed(8)
    tokenizer = qwen_tokenizer()
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.3,  # so that captions differ
    )
    pictures = PixtralVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=8,
        out_channels=8,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    return ErnieImagePipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux2_vae(),
        text_encoder=Mistral3Model(
            Mistral3Config(text_config=text, vision_config=pictures, image_token_index=1)
        ).eval(),
        tokenizer=tokenizer,
    )


def wan():
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(9)
    words = t5_tokenizer()
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.3, -0.2, 0.1, 0.5],
        latents_std=[1.5, 0.8, 1.2, 2.0],
        scale_factor_spatial=4,
        scale_factor_temporal=2,
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )
    return WanPipeline(
        transformer=without_zeros(transformer),
        scheduler=UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
        vae=without_zeros(vae),
        text_encoder=t5_text(words, UMT5Config, UMT5EncoderModel),
        tokenizer=words,
    )


def glm_tokenizer():
    """A token for each word, filled up in front, two marks before the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word.strip(",") for prompt in PROMPTS for word in prompt.split()}
    pieces = ["<unk>", "<pad>", "[gMASK]", "<sop>", "blurry", *sorted(words), *LETTERS]
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[(mark, numbers[mark]) for mark in ("[gMASK]", "<sop>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", padding_side="left"
    )


def cogview4():
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import GlmConfig, GlmModel

    torch.manual_seed(11)
    tokenizer = glm_tokenizer()
    text = GlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,  # so that captions differ
    )
    transformer = CogView4Transformer2DModel(
        sample_size=SIDE,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        pos_embed_max_size=16,
        rope_axes_dim=(16, 16),
    )
    shifting = {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 0.25, "max_shift": 0.75}
    return CogView4Pipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**shifting, base_image_seq_len=8),
        vae=autoencoder(),
        text_encoder=GlmModel(text).eval(),
        tokenizer=tokenizer,
    )


def longcat():
    from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImagePipeline, LongCatImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(12)
    tokenizer = qwen_tokenizer()
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**QWEN_TEXT, "vocab_size": len(tokenizer)}, vision_config=eyes)
    )
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,  # the pipeline has the 16 channels of FLUX.1's VAE written into it
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 6, 6],
    )
    shifting = {"use_dynamic_shifting": True, "base_image_seq_len": 8, "max_image_seq_len": 64}
    return LongCatImagePipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**shifting),
        vae=autoencoder(0.1, 16),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        text_processor=None,
    )


def ovis():
    from diffusers import FlowMatchEulerDiscreteScheduler, OvisImagePipeline, OvisImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(13)
    tokenizer = qwen_tokenizer()
    text = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
            initializer_range=0.3,  # so that captions differ
        )
    )
    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return OvisImagePipeline(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(0.1),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
    )


def anima():
    from diffusers import (
        AnimaAutoBlocks,
        AnimaTextConditioner,
        CosmosTransformer3DModel,
        FlowMatchEulerDiscreteScheduler,
    )
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(14)
    tokenizer, words = qwen_tokenizer(), t5_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.3,  # so that captions differ
    )
    conditioner = AnimaTextConditioner(
        source_dim=16, target_dim=16, model_dim=16, num_layers=2, num_attention_heads=2, target_vocab_size=len(words)
    )
    transformer = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        rope_scale=(1.0, 4.0, 4.0),
        extra_pos_embed_type=None,
    )
    pipe = AnimaAutoBlocks().init_pipeline()
    pipe.update_components(
        transformer=without_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=film_autoencoder(),
        text_encoder=Qwen3Model(text).eval(),
        tokenizer=tokenizer,
        t5_tokenizer=words,
        text_conditioner=without_zeros(conditioner).eval(),
    )
    return pipe


class Letters:
    """In the place of the class by which diffusers' ChatGLM tokenizer reads its words with sentencepiece, which the tests do without: a token for
    each letter. The tokenizer itself is diffusers' own."""

    bos_id, eos_id, pad_id = 1, 2, 0

    def __init__(self, model_path: str):
        pieces = Path(model_path).read_text(encoding="utf-8").split("\n")
        marks = [
            "[MASK]",
            "[gMASK]",
            "[sMASK]",
            "sop",
            "eop",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|observation|>",
        ]
        self.special_tokens = {mark: len(pieces) + number for number, mark in enumerate(marks)}
        self.numbers = {piece: number for number, piece in enumerate(pieces)} | self.special_tokens
        self.pieces = {number: piece for piece, number in self.numbers.items()}
        self.n_words = len(self.numbers)

    def tokenize(self, text, encode_special_tokens=False):
        return list(text.replace(" ", "▁"))

    def convert_token_to_id(self, token):
        return self.numbers.get(token, self.pad_id)

    def convert_id_to_token(self, index):
        return self.pieces.get(index, "")


def kolors():
    import tempfile

    import diffusers
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
    from diffusers.pipelines.kolors import tokenizer as reading
    from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from rollout_studio.core.families import kolors as facts

    # For the rest of this process: diffusers has another thing under this name where sentencepiece is not installed.
    diffusers.KolorsPipeline, reading.SPTokenizer, facts.find_spec = KolorsPipeline, Letters, lambda name: name
    torch.manual_seed(15)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "tokenizer.model"
        file.write_text("\n".join(["<unk>", "<s>", "</s>", "▁", *LETTERS]), encoding="utf-8")
        tokenizer = reading.ChatGLMTokenizer(str(file))
    vocabulary = "\n".join(["<unk>", "<s>", "</s>", "▁", *LETTERS])
    tokenizer.save_vocabulary = lambda folder, **_: (
        (Path(folder) / "tokenizer.model").write_text(vocabulary, "utf-8"),
    )
    text = ChatGLMConfig(
        num_layers=2, padded_vocab_size=len(tokenizer), hidden_size=16, ffn_hidden_size=32, kv_channels=8, num_attention_heads=2,
        seq_length=256, multi_query_attention=True, multi_query_group_num=1, add_qkv_bias=True, original_rope=True,
    )  # fmt: skip
    encoder = ChatGLMModel(text).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # as made they hold whatever was in memory
            parameter.normal_(std=0.3)
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    betas = {**SD_BETAS, "beta_end": 0.014, "num_train_timesteps": 1100}
    return KolorsPipeline(
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=without_zeros(unet),
        scheduler=EulerDiscreteScheduler(**betas, steps_offset=1, timestep_spacing="leading"),
    )


BY_FAMILY: dict[str, tuple[Callable, ...]] = {
    "sd1x": (sd1, sd1_euler, sd1_sample),
    "sd2x": (sd2_v,),
    "sd3": (sd3, sd3_without_t5, sd3_dynamic, sd35_large),
    "lumina2": (lumina2,),
    "sdxl": (sdxl, sdxl_v),
    "flux": (flux,),
    "flux2_klein": (flux2_klein,),
    "flux2_dev": (flux2_dev,),
    "pixart": (pixart,),
    "qwen": (qwen,),
    "krea2": (krea2,),
    "sana": (sana,),
    "auraflow": (auraflow,),
    "zimage": (zimage,),
    "chroma": (chroma,),
    "ernie": (ernie,),
    "wan": (wan,),
    "cogview4": (cogview4,),
    "longcat": (longcat,),
    "ovis": (ovis,),
    "anima": (anima,),
    "qwen21": (qwen21,),
    "kolors": (kolors,),
}
"""Family -> its pipelines, the usual one first. Every variant is one way in which a checkpoint may differ."""
BUILDERS: dict[str, Callable] = {builder.__name__: builder for builders in BY_FAMILY.values() for builder in builders}
FAMILY_OF = {builder.__name__: family for family, builders in BY_FAMILY.items() for builder in builders}
PROVEN_ONLY: tuple[str, ...] = (
    "anima", "auraflow", "chroma", "cogview4", "ernie", "flux2_dev", "flux2_klein", "kolors", "krea2", "longcat", "ovis", "pixart", "qwen",
    "qwen21", "sana", "wan", "zimage",
)  # fmt: skip
"""Families of which the default suite runs the proofs alone (`PROOFS` in conftest.py), to keep its time; everything else of them is slow."""
ONE_PER_FAMILY = tuple(builders[0].__name__ for builders in BY_FAMILY.values())


def build(name: str, folder: Path) -> Path:
    """Save one of BUILDERS to `folder` and return it. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        pipe = BUILDERS[name]()
    modular = hasattr(pipe, "blocks")
    pipe.save_pretrained(str(folder), **({"overwrite_modular_index": True} if modular else {}))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Name of a variant -> its folder, built when first asked for. Treat it as read-only."""
    root, built = tmp_path_factory.mktemp("tiny"), {}

    def folder(name: str) -> Path:
        if name not in built:
            built[name] = build(name, root / name)
        return built[name]

    return folder
