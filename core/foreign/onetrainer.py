"""OneTrainer: its JSON (a preset, or an exported config), with the concepts and samples inside or in files beside it.

Facts: the published presets, the names of the keys, their defaults and the words of its choices. What means something else there: `lora_alpha`
is 1 unless it is set; a run is given in epochs; LOGIT_NORMAL has the width 1 + `noising_weight`; a warm-up below 1 is a share of the run.
"""

from typing import Any

from .contract import ImportedConfig, Near
from .counting import place_epochs, place_every
from .families import family_called
from .onetrainer_data import place_concepts, place_samples, with_files
from .sheet import Sheet, is_off, is_on, number
from .words import (
    MASKS_BESIDE,
    MIXED,
    OPTIMIZERS,
    PRECISIONS,
    is_flow,
    leave_model,
    place_arguments,
    place_dora,
    place_kind,
    place_model,
    place_offset_noise,
    place_optimizer,
    place_quantised,
    place_rate,
    place_resolution,
    place_text_encoder,
    place_weighting,
    plain,
)

NAME = "OneTrainer"

_SIGNS = {"base_model_name", "training_method", "output_model_format", "output_model_destination", "concept_file_name", "timestep_distribution", "optimizer_defaults",
          "learning_rate_warmup_steps", "sample_definition_file_name", "layer_filter_preset", "train_dtype", "backup_after", "masked_training", "workspace_dir"}  # fmt: skip
ROWS = {
    "batch_size": "train_batch_size", "gradient_accumulation_steps": "gradient_accumulation_steps", "clip_grad_norm": "max_grad_norm", "lora_rank": "lora_rank",
    "lora_alpha": "lora_alpha", "dropout_probability": "lora_dropout", "aspect_ratio_bucketing": "aspect_buckets",
    "perturbation_noise_weight": "input_perturbation_gamma", "ema_decay": "ema_decay",
}  # fmt: skip
ASSUMED = {
    "learning_rate": 3e-6, "train_batch_size": 1, "gradient_accumulation_steps": 1, "resolution": 512, "lora_rank": 16, "lora_alpha": 1.0, "max_grad_norm": 1.0,
    "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 200, "optimizer": "adamw", "mixed_precision": "fp16", "gradient_checkpointing": True,
}  # fmt: skip
"""What an absent key means there."""
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine", "cosine_with_restarts": "cosine_with_restarts",
             "cosine_with_hard_restarts": "cosine_with_restarts"}  # fmt: skip
"""Each has its warm-up there, "constant" too."""
NETWORKS = ("unet", "transformer", "prior")
OTHER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4", "vae", "effnet_encoder", "decoder", "decoder_text_encoder", "decoder_vqgan",
               "unconditional_transformer")  # fmt: skip
NOT_HERE = {
    "generalized_offset_noise": "offset noise does not exist here", "rescale_noise_scheduler_to_zero_terminal_snr": "the schedule is the checkpoint's here",
    "min_noising_strength": "all noise levels are trained here", "max_noising_strength": "all noise levels are trained here", "mae_strength": "the loss is mse or huber here",
    "log_cosh_strength": "the loss is mse or huber here", "vb_loss_strength": "a learned variance is not trained here", "learning_rate_scaler": "the rate is taken as it is here",
    "loss_scaler": "the loss is a mean over all rows here", "learning_rate_min_factor": "the schedules end at 0 here", "learning_rate_cycles": "restarts are not counted here",
    "custom_learning_rate_scheduler": "the schedules are those of lr_scheduler", "scheduler_params": "the schedules take no arguments here", "ema_update_step_interval": "the mean follows at every step here",
    "layer_filter": "is a filter on names; see lora_targets", "layer_filter_preset": "is a filter on names; see lora_targets", "layer_filter_regex": "is a filter on names; see lora_targets",
    "quantization.layer_filter": "all large layers are quantised here", "quantization.layer_filter_preset": "all large layers are quantised here",
    "quantization.layer_filter_regex": "all large layers are quantised here", "quantization.svd_dtype": "quantised weights have no low-rank part here",
    "quantization.svd_rank": "quantised weights have no low-rank part here", "lora_model_name": "a LoRA is always begun anew here", "unmasked_probability": "masks are on or off for a whole run here; see masked_training",
    "normalize_masked_area_loss": "how a mask weighs is fixed here; see masked_training", "masked_prior_preservation_weight": "outside its mask a picture counts by masked_background_weight here",
    "custom_conditioning_image": "control pictures do not exist here", "embedding_learning_rate": "see new_token_learning_rate", "preserve_embedding_norm": "see new_tokens: their norm is not rescaled here",
    "additional_embeddings": "see new_tokens: the trigger word alone becomes new tokens here", "output_model_destination": "runs lie in the folder of the runs here", "workspace_dir": "runs lie in the folder of the runs here",
    "cache_dir": "see data_cache_dir", "force_circular_padding": "does not exist here", "text_encoder_layer_skip": "texts are encoded as the model's pipeline does here",
    "text_encoder_2_layer_skip": "texts are encoded as the model's pipeline does here", "text_encoder_3_layer_skip": "texts are encoded as the model's pipeline does here",
    "text_encoder_4_layer_skip": "texts are encoded as the model's pipeline does here", "train_device": "see device", "multi_gpu": "several GPUs: torchrun, see docs/training.md",
    "device_indexes": "device names the GPU here", "validation": "see drift_holdout_images", "continue_last_backup": "a run is resumed by name here",
    "lokr_dim": "belongs to LoKr", "oft_block_size": "belongs to OFT", "lora_decompose_norm_epsilon": "belongs to DoRA", "lora_decompose_output_axis": "belongs to DoRA",
    "dynamic_timestep_shifting": "the shift is the checkpoint's here, which may follow the resolution", "lora_weight_dtype": "trained weights stay in 32 bits here",
    "huber_delta": "is used with huber only", "noising_weight": "is used with LOGIT_NORMAL only", "noising_bias": "is used with LOGIT_NORMAL only",
}  # fmt: skip
SILENT = (
    "__version", "debug_mode", "debug_dir", "huggingface_cache_dir", "offline_mode", "tensorboard", "tensorboard_expose", "tensorboard_always_on", "tensorboard_port", "validate_after",
    "validate_after_unit", "prevent_overwrites", "include_train_config", "gradient_reduce_precision", "fused_gradient_reduce", "async_gradient_reduce", "async_gradient_reduce_buffer",
    "async_offloading", "compile", "latent_caching", "clear_cache_before_training", "dataloader_threads", "temp_device", "fallback_train_dtype", "enable_autocast_cache", "only_cache",
    "frames", "attention_mechanism", "non_ema_sampling", "samples_to_tensorboard", "sample_image_format", "sample_video_format", "sample_audio_format", "rolling_backup", "backup_before_save",
    "save_filename_prefix", "save_skip_first", "sample_skip_first", "weight_dtype", "embedding_weight_dtype", "bundle_additional_embeddings", "text_encoder_sequence_length",
    "text_encoder_2_sequence_length", "quantization.cache_dir", "lokr_decompose_both", "lokr_decompose_factor", "lokr_use_tucker", "lokr_weight_decompose", "lokr_dora_on_output",
    "lokr_full_matrix", "lokr_vec_trick", "oft_block_share", "oft_scaled", "activation_offloading",
)  # fmt: skip
_BIG_PARTS = ("cloud", "secrets", "embedding", "optimizer_defaults")
_KNOWN = {*ROWS, *NOT_HERE, *SILENT, *_SIGNS, "model_type", "epochs", "learning_rate", "resolution"}


def looks_like(data: Any) -> bool:
    """Whether this is its config: its word for the kind of model, or several keys that only it has."""
    if not isinstance(data, dict):
        return False
    return (str(data.get("model_type")).isupper() or "training_method" in data) and len(_SIGNS & set(data)) >= 2


def read(data: Any, near: Near) -> ImportedConfig:
    """Our settings for its config."""
    sheet = Sheet(NAME, with_files(data, near), _KNOWN)
    _model(sheet)
    _method(sheet)
    _optimizer(sheet)
    sheet.rows(ROWS)
    place_resolution(sheet, "resolution", several="," in str(sheet.get("resolution", "")))
    _precision(sheet)
    _masks(sheet)
    place_offset_noise(sheet, "offset_noise_weight")
    _loss(sheet)
    rows = place_concepts(sheet, near)
    for option, value in ASSUMED.items():
        if option not in ("lr_scheduler", "lr_warmup_steps"):
            sheet.assume(option, value)
    _length(sheet, rows)
    _when(sheet, rows)
    place_samples(sheet)
    sheet.silent_at({"max_noising_strength": (1, 1.0), "learning_rate_cycles": (1, 1.0), "vb_loss_strength": (1, 1.0), "layer_filter_preset": ("full",), "quantization.layer_filter_preset": ("full",),
                     "ema_update_step_interval": (1, 5), "lokr_dim": (16,), "oft_block_size": (32,), "lora_decompose_norm_epsilon": (True,), "quantization.svd_rank": (16,), "huber_delta": (1, 1.0),
                     "unmasked_probability": (0.1,), "unmasked_weight": (0.1,), "train_device": ("cuda",), "lora_weight_dtype": ("FLOAT_32",)})  # fmt: skip
    sheet.reasons(NOT_HERE)
    sheet.silent(SILENT)
    for part in _BIG_PARTS:
        sheet.silent(sheet.open(f"{part}.") + sheet.open(f"{part}"), why="holds nothing of this training")
    return sheet.done()


def _model(sheet: Sheet) -> None:
    kind = str(sheet.get("model_type", ""))
    name = sheet.get("base_model_name", "")
    family = family_called(NAME, kind, name)
    if kind and family is None:
        leave_model(sheet, "model_type", "base_model_name", kind)
    sheet.carry("model_type", "model_family", value=family)
    place_model(sheet, "base_model_name")
    for key, value in (("force_v_prediction", "v_prediction"), ("force_epsilon_prediction", "epsilon")):
        if is_on(sheet.get(key)):
            sheet.carry(key, "prediction_type", value=value)
        sheet.leave(key, "is off there", quiet=True)
    key = "transformer.model_name"
    sheet.reasons(
        {
            key: "the network of the checkpoint is trained here",
            "unet.model_name": "the network of the checkpoint is trained here",
            "vae.model_name": "the checkpoint's own VAE is used here",
        }
    )


def _method(sheet: Sheet) -> None:
    method = str(sheet.get("training_method", "FINE_TUNE")).upper()
    kinds = {"LORA": "lora", "FINE_TUNE": "full"}
    sheet.words(
        "training_method",
        "model_type",
        {key.lower(): value for key, value in kinds.items()},
        "new tokens are not trained alone here; a LoRA is trained instead",
    )
    if method in kinds:
        sheet.assume("model_type", kinds[method])
    if method == "LORA":
        peft = str(sheet.get("peft_type", "LORA")).lower()
        place_kind(sheet, "peft_type", peft)
        place_dora(sheet, "lora_decompose")
        factor = number(sheet.get("lokr_decompose_factor"))
        if peft == "lokr":
            sheet.carry("lokr_dim", "lora_rank")
            if factor and factor > 1:
                sheet.carry("lokr_decompose_factor", "lora_lokr_factor")
    layout = str(sheet.get("output_model_format", ""))
    if layout == "KOHYA_LORA":
        sheet.carry("output_model_format", "lora_layout", value="kohya")
    elif layout == "DIFFUSERS_LORA":
        sheet.carry("output_model_format", "lora_layout", value="diffusers")
    elif layout.endswith("_LORA"):
        sheet.change(
            "output_model_format",
            {"lora_layout": "both"},
            "Both layouts are written here: diffusers' names, which ComfyUI reads, and kohya's.",
        )
    sheet.silent(["output_model_format"], why="a whole model is saved in the diffusers layout here")
    if method == "LORA":
        return
    sheet.silent(["lora_rank", "lora_alpha", "lora_decompose", "peft_type"], why="no LoRA is trained")


def _optimizer(sheet: Sheet) -> None:
    key = "optimizer.optimizer" if sheet.has("optimizer.optimizer") else "optimizer"
    word = sheet.get(key, "ADAMW")
    name = plain(word)
    if name.endswith("adv") and name.removesuffix("adv") in OPTIMIZERS and sheet.has(key):
        base = OPTIMIZERS[name.removesuffix("adv")]
        sheet.change(key, {"optimizer": base}, f"{word} is plain {base} here.")
        here = sheet.gave("optimizer")
    else:
        here = place_optimizer(sheet, key)
    place_rate(sheet, "learning_rate", here, word)
    for part in NETWORKS:
        own = f"{part}.learning_rate"
        if number(sheet.get(own)):
            sheet.leave(own, "learning_rate holds for the network here")
        sheet.leave(own, "is not set there", quiet=True)
    for key in sheet.open("optimizer."):
        name = key.partition(".")[2]
        if here and name in ("weight_decay", "beta1", "beta2", "eps") and number(sheet.get(key)) is not None:
            place_arguments(sheet, key, {name: sheet.get(key)})
        elif name in ("fused", "foreach", "stochastic_rounding", "fused_back_pass", "min_8bit_size", "block_wise", "quant_block_size", "percentile_clipping", "use_triton", "__version",
                      "log_every", "fsdp_in_use"):  # fmt: skip
            sheet.leave(key, "changes nothing of what is learned", quiet=True)
        else:
            off = is_off(sheet.get(key)) or (name, sheet.get(key)) in (
                ("clip_threshold", 1.0),
                ("decay_rate", -0.8),
                ("eps2", 0.001),
                ("eps", 1e-30),
            )
            sheet.leave(key, "is off, or as usual" if off else f"is not an option of {word} here", quiet=off)
    given = sheet.get("learning_rate_scheduler")
    sheet.words("learning_rate_scheduler", "lr_scheduler", SCHEDULES)
    if given is None or str(given).upper() == "CONSTANT":
        sheet.assume("lr_scheduler", "constant_with_warmup")


def _precision(sheet: Sheet) -> None:
    sheet.words("train_dtype", "mixed_precision", MIXED)
    sheet.words("output_dtype", "save_precision", PRECISIONS)
    sheet.words("ema", "use_ema", {"off": False, "gpu": True, "cpu": True})
    for part in NETWORKS:
        key = f"{part}.weight_dtype"
        word = str(sheet.get(key, sheet.get("weight_dtype", "")))
        if word.lower() in PRECISIONS:
            if sheet.flat.get("model_type") == "full":
                sheet.leave(key, "weights that are trained stay in 32 bits here", quiet=word == "FLOAT_32")
            sheet.carry(key, "base_model_precision", value=PRECISIONS[word.lower()])
        elif sheet.has(key):
            place_quantised(sheet, key, word)
            sheet.assume("base_model_precision", "bfloat16")
        sheet.silent(
            [f"{part}.train", f"{part}.include", f"{part}.attention_mask", f"{part}.__version"],
            why="the network is what is trained here too",
        )
        sheet.reasons({"offload_fraction": "see streamed_blocks: blocks that stay in main memory", "stop_training_after": "the network is trained to the end here",
                       "dropout_probability": "see lora_dropout"}, f"{part}.")  # fmt: skip
        sheet.silent_at({"guidance_scale": (1, 1.0)}, f"{part}.")
        sheet.reasons(
            {"guidance_scale": "a network that takes guidance as a number is fed the family's own in training here"},
            f"{part}.",
        )
        on = sheet.get(f"{part}.gradient_checkpointing")
        if on is not None:
            sheet.carry(f"{part}.gradient_checkpointing", "gradient_checkpointing")
        sheet.silent(sheet.open(f"{part}."), why="belongs to a part that has no such setting here")
    key = "gradient_checkpointing"
    sheet.words(
        key, "gradient_checkpointing", {"on": True, "off": False, "cpu_offloaded": True, "true": True, "false": False}
    )
    texts = [part for part in OTHER_PARTS if part.startswith("text_encoder") and is_on(sheet.get(f"{part}.train"))]
    if texts:
        place_text_encoder(sheet, f"{texts[0]}.train", f"{texts[0]}.learning_rate")
    for part in texts[1:]:
        sheet.leave(
            f"{part}.train", "all text encoders are trained here, or none", quiet=sheet.gave("train_text_encoder")
        )
    for part in OTHER_PARTS:
        for key in sheet.open(f"{part}."):
            sheet.leave(key, "belongs to a part that is not trained here", quiet=True)


def _masks(sheet: Sheet) -> None:
    key = "masked_training"
    if is_on(sheet.get(key)):
        sheet.change(
            key,
            {"masked_training": "soft"},
            "Masks lie beside the pictures, white where it is trained: name-masklabel.png, or name-mask.png, which comes first.",
        )
        if sheet.gave("masked_training"):
            sheet.carry("unmasked_weight", "masked_background_weight")
            sheet.assume("masked_background_weight", 0.1)
    off = is_off(sheet.get(key))
    for name in (key, "unmasked_weight"):
        sheet.leave(name, "is off there" if off else MASKS_BESIDE, quiet=off)


def _loss(sheet: Sheet) -> None:
    flow = is_flow(sheet)
    huber, mse = number(sheet.get("huber_strength")), number(sheet.get("mse_strength"))
    if huber and not mse:
        sheet.carry("huber_strength", "loss_type", value="huber")
        sheet.carry("huber_delta", "huber_delta")
    elif huber:
        sheet.leave("huber_strength", "one loss holds here: mse or huber")
    sheet.silent(["mse_strength", "huber_strength"], why="mse is the loss here too")
    weight = str(sheet.get("loss_weight_fn", "CONSTANT")).upper()
    strength = number(sheet.get("loss_weight_strength"))
    if weight == "MIN_SNR_GAMMA" and flow is not True:
        gamma = 5.0 if strength is None else strength
        sheet.change("loss_weight_fn", {"snr_gamma": gamma}, f"MIN_SNR_GAMMA is snr_gamma here, {gamma:g}.")
        sheet.silent(["loss_weight_strength"], why="is snr_gamma here")
    elif weight == "DEBIASED_ESTIMATION" and flow is not True:
        place_weighting(sheet, "loss_weight_fn", "debiased")
    elif weight == "CONSTANT":
        sheet.silent(["loss_weight_fn", "loss_weight_strength"], why="every noise level counts alike here too")
    sheet.reasons(
        {
            "loss_weight_fn": "this weighting does not exist here; see snr_gamma and loss_weighting",
            "loss_weight_strength": "belongs to loss_weight_fn",
        }
    )
    kind = str(sheet.get("timestep_distribution", "UNIFORM")).upper()
    if kind == "UNIFORM":
        sheet.carry("timestep_distribution", "timestep_sampling", value="uniform")
        sheet.assume("timestep_sampling", "uniform")
    elif kind == "LOGIT_NORMAL":
        sheet.carry("timestep_distribution", "timestep_sampling", value="logit_normal")
        sheet.carry("noising_bias", "logit_mean")
        width = number(sheet.get("noising_weight"))
        if width:
            sheet.change("noising_weight", {"logit_std": 1 + width}, f"The width is 1 + noising_weight: {1 + width:g}.")
        sheet.silent(["noising_bias", "noising_weight"], why="is the usual one")
    sheet.leave("timestep_distribution", "is not here; there are: uniform, logit_normal, mode")
    shift = number(sheet.get("timestep_shift"))
    dynamic = is_on(sheet.get("dynamic_timestep_shifting"))
    if flow and not dynamic and shift is not None:
        sheet.carry("timestep_shift", "flow_schedule_shift")
    sheet.leave(
        "timestep_shift",
        "dynamic_timestep_shifting decides there" if dynamic else "is for flow models",
        quiet=not dynamic or shift == 1,
    )
    if flow and not dynamic:
        sheet.assume("flow_schedule_shift", 1.0)


def _length(sheet: Sheet, rows: int) -> None:
    epochs = number(sheet.get("epochs"))
    if epochs and epochs >= 1:
        place_epochs(sheet, "epochs", int(epochs), rows)
    sheet.reasons({"epochs": "is no number of epochs"})
    warm, total = number(sheet.get("learning_rate_warmup_steps")), sheet.flat.get("max_train_steps")
    if warm and 0 < warm < 1 and total:
        sheet.change(
            "learning_rate_warmup_steps",
            {"lr_warmup_steps": round(warm * total)},
            f"A share of the run: {warm:g} of {total} steps.",
        )
    elif warm is not None and (warm >= 1 or warm == 0):
        sheet.carry("learning_rate_warmup_steps", "lr_warmup_steps", value=round(warm))
    sheet.reasons(
        {"learning_rate_warmup_steps": "is a share of the run, whose length is not known; set lr_warmup_steps"}
    )
    sheet.assume("lr_scheduler", ASSUMED["lr_scheduler"])
    if sheet.flat.get("lr_scheduler") != "constant":
        sheet.assume("lr_warmup_steps", ASSUMED["lr_warmup_steps"])


def _when(sheet: Sheet, rows: int) -> None:
    """Its "after n units": steps and epochs can be carried, minutes cannot."""
    for key, option in (
        ("sample_after", "validation_step_interval"),
        ("save_every", "checkpoint_step_interval"),
        ("backup_after", "checkpoint_step_interval"),
    ):
        every, unit = (
            number(sheet.get(key)),
            str(sheet.get(f"{key}_unit", {"save_every": "NEVER"}.get(key, "MINUTE"))).upper(),
        )
        if sheet.gave(option) or unit in ("NEVER", "ALWAYS") or not every:
            sheet.silent(
                [key, f"{key}_unit"], why=f"{option} is set more closely" if sheet.gave(option) else "is off there"
            )
        elif unit == "STEP":
            sheet.carry(key, option, value=round(every))
        elif unit == "EPOCH":
            place_every(sheet, key, option, every, rows)
        sheet.reasons({key: f"every {0 if every is None else every:g} {unit.lower()}s; here: {option}, in steps"})
        sheet.silent([f"{key}_unit"], why=f"is the unit of {key}")
    sheet.carry("rolling_backup_count", "checkpoints_total_limit")
