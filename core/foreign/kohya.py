"""kohya_ss: the GUI's JSON, the TOML of sd-scripts, and a command line that starts one of its scripts.

Facts: the GUI's own presets and test configs, and sd-scripts' documentation. What means something else there: `network_alpha` is 1 unless it
is set; without `random_crop` pictures are cropped from the middle; warm-up is a share of the run in per cent; an epoch repeats each folder as
often as its name says; class pictures are rows of their own; `logit_mean` counts a table from noise to clean.
"""

import re
from typing import Any

from . import kohya_data
from .contract import ImportedConfig, Near
from .counting import place_epochs, place_every
from .families import words_of
from .reading import SCRIPT
from .sheet import Sheet, is_off, is_on, number, whole
from .words import (
    MIXED,
    NO_TEXT_ENCODER,
    PLAIN_LORA,
    PRECISIONS,
    SCHEDULES,
    is_flow,
    place_arguments,
    place_dora,
    place_kind,
    place_model,
    place_offset_noise,
    place_optimizer,
    place_rate,
    place_resolution,
    place_text_encoder,
    place_weighting,
)

NAME = "kohya_ss"

_SIGNS = {"LoRA_type", "network_module", "train_data_dir", "max_resolution", "LyCORIS_preset", "caption_extension", "network_dim", "save_model_as",
          "stop_text_encoder_training", "min_snr_gamma", "bucket_reso_steps", "enable_bucket", "sdxl_no_half_vae", "noise_offset_type",
          "unet_lr", "flux1_checkbox", "dataset_config", "network_alpha", "optimizer_type", "output_name", "bucket_no_upscale"}  # fmt: skip
"""Keys of which a config of its has at least three, and no other tool's."""

ALIASES = {"optimizer_type": "optimizer"}
"""Another name of the same key."""

ROWS = {
    "network_dim": "lora_rank", "network_dropout": "lora_dropout", "train_batch_size": "train_batch_size", "batch_size": "train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps", "gradient_checkpointing": "gradient_checkpointing", "max_grad_norm": "max_grad_norm",
    "bucket_reso_steps": "bucket_step", "enable_bucket": "aspect_buckets", "flip_aug": "random_flip", "caption_dropout_rate": "caption_dropout_probability",
    "ip_noise_gamma": "input_perturbation_gamma",
}  # fmt: skip
"""key -> option of the same meaning and unit; an option that this version lacks leaves the key with that reason."""

NOT_HERE = {
    "adaptive_noise_scale": "offset noise does not exist here", "noise_offset_random_strength": "offset noise does not exist here",
    "multires_noise_iterations": "multi-resolution noise does not exist here", "multires_noise_discount": "multi-resolution noise does not exist here",
    "ip_noise_gamma_random_strength": "the strength is the same for every row here",
    "zero_terminal_snr": "the schedule is the checkpoint's here", "debiased_estimation_loss": "this weighting does not exist here; snr_gamma weighs by noise level",
    "scale_v_pred_loss_like_noise_pred": "this weighting does not exist here", "v_pred_like_loss": "this loss term does not exist here",
    "min_timestep": "all noise levels are trained here", "max_timestep": "all noise levels are trained here",
    "shuffle_caption": "captions are taken as they are written here", "keep_tokens": "captions are taken as they are written here",
    "keep_tokens_separator": "captions are taken as they are written here", "caption_tag_dropout_rate": "captions are taken as they are written here",
    "caption_dropout_every_n_epochs": "a share of the rows has no caption here: caption_dropout_probability",
    "weighted_captions": "weights in captions are not read here", "color_aug": "colours are not changed here", "face_crop_aug_range": "faces are not looked for here",
    "bucket_no_upscale": "small pictures are enlarged here; the check names them", "clip_skip": "texts are encoded as the model's pipeline does here",
    "max_token_length": "texts are as long as the model's pipeline takes them here", "t5xxl_max_token_length": "texts are as long as the model's pipeline takes them here",
    "block_lr": "one learning rate holds for all layers here", "down_lr_weight": "one learning rate holds for all layers here",
    "mid_lr_weight": "one learning rate holds for all layers here", "up_lr_weight": "one learning rate holds for all layers here",
    "block_lr_zero_threshold": "one learning rate holds for all layers here", "block_dims": "one rank holds for all layers here; lora_targets chooses layers",
    "block_alphas": "one rank holds for all layers here", "conv_block_dims": "one rank holds for all layers here", "conv_block_alphas": "one rank holds for all layers here",
    "rank_dropout": "drops the adapter's inputs only: lora_dropout", "module_dropout": "drops the adapter's inputs only: lora_dropout",
    "rank_dropout_scale": "drops the adapter's inputs only: lora_dropout", "scale_weight_norms": "trained weights are not bounded here",
    "loraplus_lr_ratio": "both matrices of the adapter have one rate here", "loraplus_unet_lr_ratio": "both matrices of the adapter have one rate here",
    "loraplus_text_encoder_lr_ratio": "both matrices of the adapter have one rate here", "network_weights": "a LoRA is always begun anew here",
    "lora_network_weights": "a LoRA is always begun anew here", "dim_from_weights": "a LoRA is always begun anew here", "base_weights": "LoRAs are merged by rollout-studio lora here",
    "resume": "a run is resumed by name here", "resume_from_huggingface": "a run is resumed by name here", "full_fp16": "trained weights stay in 32 bits here",
    "full_bf16": "trained weights stay in 32 bits here", "vae": "the checkpoint's own VAE is used here", "lr_scheduler_type": "only the schedules of lr_scheduler are here",
    "lr_scheduler_args": "the schedules take no arguments here", "lr_scheduler_power": "is fixed here", "gpu_ids": "device names the GPU here", "multi_gpu": "several GPUs: torchrun, see docs/training.md",
    "additional_parameters": "arguments for its scripts are not read; look through them", "blocks_to_swap": "see streamed_blocks: blocks that stay in main memory",
    "double_blocks_to_swap": "see streamed_blocks", "single_blocks_to_swap": "see streamed_blocks", "cpu_offload_checkpointing": "see streamed_blocks",
    "fused_backward_pass": "the update comes after the whole backward pass here", "flux_fused_backward_pass": "the update comes after the whole backward pass here",
    "sd3_fused_backward_pass": "the update comes after the whole backward pass here", "fused_optimizer_groups": "the update comes after the whole backward pass here",
    "huggingface_repo_id": "uploading is a step of its own here: rollout-studio lora upload", "sample_sampler": "samples are drawn with the pipeline's own scheduler here",
    "huber_schedule": "huber_delta holds at every noise level here", "token_string": "new tokens: not here", "init_word": "new tokens: not here", "weights": "new tokens: not here",
    "num_vectors_per_token": "new tokens: not here", "sample_every_n_seconds": "samples come every so many steps here: validation_step_interval",
    "training_comment": "a comment; the run's name says what it is", "train_norm": "only the layers of lora_targets get an adapter here",
    "apply_t5_attn_mask": "texts are masked as the model's pipeline does here", "clip_l": "the pipeline's own text encoders are used here", "clip_g": "the pipeline's own text encoders are used here",
    "t5xxl": "the pipeline's own text encoders are used here", "ae": "the pipeline's own VAE is used here", "flux1_clip_l": "the pipeline's own text encoders are used here",
    "flux1_t5xxl": "the pipeline's own text encoders are used here", "train_t5xxl": "the text encoders are not trained here", "decompose_both": "belongs to LoKr",
    "network_args": "arguments of its network modules are not read; look through them",
    "log_with": "see report_to",
    "save_last_n_steps": "see checkpoints_total_limit", "save_last_n_epochs": "see checkpoints_total_limit",
    "learning_rate_te": "the text encoder is not trained here",
    "learning_rate_te1": "the text encoder is not trained here", "learning_rate_te2": "the text encoder is not trained here",
    "use_cp": "belongs to LyCORIS", "use_tucker": "belongs to LyCORIS", "use_scalar": "belongs to LyCORIS", "bypass_mode": "belongs to LyCORIS",
    "rescaled": "belongs to LyCORIS", "split_mode": "all layers of lora_targets are trained here", "train_blocks": "all layers of lora_targets are trained here",
    "sigmoid_scale": "is the width of the noise levels: logit_std",
}  # fmt: skip
"""Keys without a counterpart, with the reason."""

SILENT = (
    "cache_latents", "cache_latents_to_disk", "xformers", "sdpa", "mem_eff_attn", "mem_eff_save", "vae_batch_size", "persistent_data_loader_workers",
    "max_data_loader_n_workers", "num_cpu_threads_per_process", "num_machines", "num_processes", "main_process_port", "dynamo_backend", "dynamo_mode",
    "dynamo_use_dynamic", "dynamo_use_fullgraph", "extra_accelerate_launch_args", "sdxl_no_half_vae", "no_half_vae", "sdxl_cache_text_encoder_outputs", "cache_text_encoder_outputs",
    "cache_text_encoder_outputs_to_disk", "flux1_cache_text_encoder_outputs", "flux1_cache_text_encoder_outputs_to_disk", "sd3_cache_text_encoder_outputs",
    "sd3_cache_text_encoder_outputs_to_disk", "sd3_text_encoder_batch_size", "save_model_as", "save_as_bool", "save_state", "save_state_on_train_end",
    "save_last_n_steps_state", "save_last_n_epochs_state", "save_state_to_huggingface", "model_list", "metadata_author", "metadata_title", "metadata_description",
    "metadata_license", "metadata_tags", "wandb_api_key", "wandb_run_name", "use_wandb", "log_config", "log_tracker_name", "log_tracker_config", "log_prefix", "async_upload",
    "huggingface_token", "huggingface_path_in_repo", "huggingface_repo_type", "huggingface_repo_visibility", "lowvram", "highvram", "lowram", "skip_cache_check",
    "disable_mmap_load_safetensors", "no_token_padding", "save_t5xxl", "save_clip", "t5xxl_device", "t5xxl_dtype", "use_8bit_adam", "noise_offset_type", "LyCORIS_preset",
    "use_latent_files", "generate_caption_database", "generate_image_buckets", "full_path", "create_caption", "create_buckets", "template",
    "logging_dir", "output_dir", "output_name", "caption_metadata_filename", "latent_metadata_filename", "unit", "constrain", "conv_dims", "conv_alphas", "config_file", "include_subdirectories", "debug_dataset", "use_safetensors",
    "blockwise_fused_optimizers", "train_on_input", "save_n_epoch_ratio", "tokenizer_cache_dir",
)  # fmt: skip
"""Keys that change nothing of what is learned, or that only matter with another one which is left."""

USUAL: dict[str, tuple[Any, ...]] = {
    "clip_skip": (1, "1"), "max_token_length": (75, "75"), "max_timestep": (1000, "1000"), "min_bucket_reso": (256, "256"), "max_bucket_reso": (1024, "1024", 2048, "2048"),
    "lr_scheduler_num_cycles": (1, "1"), "lr_scheduler_power": (1, "1", 1.0), "t5xxl_max_token_length": (512, 256), "guidance_scale": (1, "1"), "conv_dim": (1,), "conv_alpha": (1,),
    "huber_scale": (1,), "train_blocks": ("all",), "mode_scale": (1.29,), "logit_std": (), "sigmoid_scale": (1, "1"), "prior_loss_weight": (), "num_vectors_per_token": (),
}  # fmt: skip
_KINDS = {
    "standard": "lora",
    "flux1": "lora",
    "lycoris/loha": "loha",
    "lycoris/lokr": "lokr",
    "lycoris/locon": "",
    "kohya locon": "",
    "lycoris/glora": "",
    "kohya dylora": "",
}
"""`LoRA_type` -> ours; empty for kinds that are none of ours."""
_FLOW_ONLY = ("timestep_sampling", "discrete_flow_shift", "model_prediction_type", "weighting_scheme", "logit_mean", "logit_std", "mode_scale", "sigmoid_scale", "guidance_scale",
              "training_shift")  # fmt: skip
_KNOWN = {*ROWS, *NOT_HERE, *SILENT, *USUAL, *_SIGNS, *_FLOW_ONLY}


def looks_like(data: Any) -> bool:
    """Whether this is a config of the GUI or of sd-scripts, its dataset file, or the command line of one of its scripts."""
    if not isinstance(data, dict):
        return False
    script = str(data.get(SCRIPT, ""))
    if re.fullmatch(r"(sdxl_|flux_|sd3_|lumina_)?(train_network|train_db|train)\.py|fine_tune\.py", script):
        return bool({"network_module", "train_data_dir", "dataset_config", "ae"} & set(data)) or script != "train.py"
    if kohya_data.is_dataset(data):
        return True
    return len(_SIGNS & set(kohya_data.flattened(data)[0])) >= 3


def read(data: Any, near: Near) -> ImportedConfig:
    """Our settings for its config."""
    if kohya_data.is_dataset(data):
        sheet = Sheet(NAME, data, _KNOWN)
        kohya_data.place_dataset(sheet, near)
        return sheet.done()
    flat, written = kohya_data.flattened(data)
    script = str(flat.get(SCRIPT, ""))
    other = kohya_data.dataset_beside(flat, near)
    for name, ours in ALIASES.items():
        if name in flat and ours not in flat:
            flat[ours], written[ours] = flat.pop(name), written[name]
    sheet = Sheet(NAME, {**flat, **other}, _KNOWN, written)
    sheet.silent([SCRIPT], why="says which script was started")
    _model(sheet, script)
    rows = kohya_data.place_folders(sheet, near)
    _adapter(sheet)
    _rates(sheet)
    sheet.rows(ROWS)
    if is_on(sheet.get("masked_loss")):
        how = "Masks lie beside the pictures here: name-mask.png, white where it is trained."
        sheet.change("masked_loss", {"masked_training": "soft"}, how)
    sheet.leave("masked_loss", "is off there", quiet=True)
    place_offset_noise(sheet, "noise_offset")
    _loss(sheet)
    _length(sheet, rows)
    _samples(sheet, rows)
    _precision(sheet)
    sheet.silent_at(USUAL)
    sheet.reasons(NOT_HERE)
    sheet.reasons({"min_bucket_reso": "sides of the shapes follow the resolution here", "max_bucket_reso": "sides of the shapes follow the resolution here",
                   "conv_dim": "belongs to LyCORIS and LoCon", "conv_alpha": "belongs to LyCORIS and LoCon", "lr_scheduler_num_cycles": "restarts are not counted here"})  # fmt: skip
    sheet.silent(SILENT)
    if (
        "LoRA_type" not in sheet.values and "epoch" not in sheet.values and not other
    ):  # sd-scripts, not its GUI, which writes every key
        sheet.assume("learning_rate", 2e-6)
        if sheet.flat.get("max_train_steps") is None and "max_train_epochs" not in sheet.values:
            sheet.assume("max_train_steps", 1600)
    return sheet.done()


def _model(sheet: Sheet, script: str) -> None:
    place_model(sheet, "pretrained_model_name_or_path")
    module = str(sheet.get("network_module", ""))
    called = words_of(NAME)
    switches = [word for word in called if word in sheet.values]
    on = next((word for word in switches if is_on(sheet.get(word))), None)
    words = (on, script.partition("_")[0], module.rpartition("_")[2])
    family = next((called[word][0] for word in words if word in called and word), None)
    for word in switches:
        if word == on:
            sheet.carry(word, "model_family", value=family)
        sheet.leave(word, "is off there" if is_off(sheet.get(word)) else f"the model is {family} already", quiet=True)
    if family is not None:
        sheet.assume("model_family", family)
    elif switches or "LoRA_type" in sheet.values:  # the GUI without any of its switches
        sheet.assume("model_family", called[""][0])
    if is_on(sheet.get("v_parameterization")) and is_flow(sheet) is not True:
        sheet.carry("v_parameterization", "prediction_type", value="v_prediction")
    sheet.reasons({"v_parameterization": "flow models have no v-parameterization"})


def _adapter(sheet: Sheet) -> None:
    kind = str(sheet.get("LoRA_type", "")).lower()
    module = str(sheet.get("network_module", ""))
    is_lora = bool(kind or module or sheet.has("network_dim"))
    if is_lora:
        sheet.assume("model_type", "lora")
    else:
        sheet.assume("model_type", "full")
    if "LoRA_type" in sheet.values:
        ours = _KINDS.get(kind, "lora" if "lora" in kind else "")
        if ours:
            place_kind(sheet, "LoRA_type", ours)
        sheet.leave("LoRA_type", PLAIN_LORA)
    algorithm = re.search(r"algo=(\w+)", str(sheet.get("network_args", "")))
    if module in ("networks.lora", "networks.lora_flux", "networks.lora_sd3", "networks.lora_lumina"):
        place_kind(sheet, "network_module", "lora")
    elif module == "lycoris.kohya" and algorithm is not None and algorithm[1] in ("loha", "lokr"):
        place_kind(sheet, "network_module", algorithm[1])
    sheet.reasons({"network_module": PLAIN_LORA})
    place_dora(sheet, "dora_wd")
    factor = whole(sheet.get("factor"))
    if "lokr" in kind and factor and factor > 1:
        sheet.carry("factor", "lora_lokr_factor")
    elif factor == -1 or "lokr" not in kind:
        sheet.silent(["factor"], why="is LoKr's own choice there" if factor == -1 else "belongs to LoKr")
    sheet.reasons({"factor": "belongs to LoKr"})
    sheet.carry("network_alpha", "lora_alpha")
    if is_lora:
        sheet.assume("lora_alpha", 1)
        sheet.assume("lora_rank", 8 if kind else 4)


def _rates(sheet: Sheet) -> None:
    optimizer = sheet.get("optimizer", "AdamW")
    here = place_optimizer(sheet, "optimizer", eight_bit=is_on(sheet.get("use_8bit_adam")))
    unet = number(sheet.get("unet_lr"))
    if unet:
        place_rate(sheet, "unet_lr", here, optimizer)
        sheet.leave(
            "learning_rate",
            "unet_lr decides there for the network",
            quiet=number(sheet.get("learning_rate")) == unet,
        )
    else:
        sheet.leave("unet_lr", "is off there", quiet=True)
        place_rate(sheet, "learning_rate", here, optimizer)
    if is_on(sheet.get("network_train_unet_only")):
        sheet.leave("text_encoder_lr", "network_train_unet_only is on there", quiet=True)
        sheet.silent(["network_train_unet_only"], why="the network alone is trained here too")
    elif sheet.flat.get("model_type") == "lora":
        place_text_encoder(sheet, "", "text_encoder_lr")
    sheet.reasons(
        {
            "text_encoder_lr": NO_TEXT_ENCODER,
            "network_train_unet_only": "is off there",
            "train_text_encoder": NO_TEXT_ENCODER,
        }
    )
    arguments = sheet.get("optimizer_args")
    if arguments is not None:
        words = (
            arguments
            if isinstance(arguments, list)
            else re.findall(r"[\w.]+\s*=\s*[^\s\"']+", str(arguments).replace('"', " ").replace("'", " "))
        )
        pairs = dict(str(word).partition("=")[::2] for word in words if "=" in str(word))
        place_arguments(sheet, "optimizer_args", {key.strip(): value.strip() for key, value in pairs.items()})
    sheet.leave("optimizer_args", "is empty", quiet=True)
    sheet.words("lr_scheduler", "lr_scheduler", SCHEDULES)


def _loss(sheet: Sheet) -> None:
    flow = is_flow(sheet)
    gamma = number(sheet.get("min_snr_gamma"))
    if gamma and flow is not True:
        sheet.carry("min_snr_gamma", "snr_gamma")
    sheet.reasons(
        {
            "min_snr_gamma": "weighs by signal to noise on a variance-preserving path; it does nothing for flow models there"
        }
    )
    for key, ours in (("debiased_estimation_loss", "debiased"), ("scale_v_pred_loss_like_noise_pred", "noise_error")):
        if is_on(sheet.get(key)) and flow is not True:
            place_weighting(sheet, key, ours)
    kind = str(sheet.get("loss_type", "l2")).lower()
    if kind == "smooth_l1":
        sheet.change("loss_type", {"loss_type": "huber"}, "smooth_l1 is huber here, with huber_delta as its corner.")
    sheet.words("loss_type", "loss_type", {"l2": "mse", "huber": "huber"})
    if sheet.flat.get("loss_type") == "huber":
        sheet.carry("huber_c", "huber_delta")
    else:
        sheet.silent(["huber_c", "huber_schedule", "huber_scale"], why="is used with huber only")
    if flow is False:
        sheet.silent(_FLOW_ONLY, why="is for flow models only")
    _noise_levels(sheet)


def _noise_levels(sheet: Sheet) -> None:
    """Of a flow model: which noise levels are trained, and how they weigh."""
    sampling = str(sheet.get("timestep_sampling", "")).lower()
    scale = number(sheet.get("sigmoid_scale"))
    if sampling in ("sigmoid", "shift"):
        options = {"timestep_sampling": "logit_normal"}
        shift = number(sheet.get("discrete_flow_shift"))
        if sampling == "sigmoid":
            options["flow_schedule_shift"] = 1.0
            sheet.leave("discrete_flow_shift", 'is not used there with timestep_sampling "sigmoid"', quiet=True)
        sheet.change(
            "timestep_sampling",
            options,
            f'"{sampling}" is logit_normal here, {"without a shift" if sampling == "sigmoid" else "with discrete_flow_shift as the shift"}.',
        )
        if shift:
            sheet.carry("discrete_flow_shift", "flow_schedule_shift")
        if scale and scale != 1:
            sheet.carry("sigmoid_scale", "logit_std")
    elif sampling == "uniform":
        sheet.change(
            "timestep_sampling",
            {"timestep_sampling": "uniform", "flow_schedule_shift": 1.0},
            '"uniform" has no shift there, so the shift is 1.',
        )
    elif sampling == "flux_shift":
        sheet.change(
            "timestep_sampling",
            {"timestep_sampling": "logit_normal"},
            "The shift follows the resolution there; here it is the checkpoint's.",
        )
    elif sampling == "sigma":
        scheme = str(sheet.get("weighting_scheme", "none")).lower()
        sheet.leave(
            "timestep_sampling", 'with "sigma" weighting_scheme decides', quiet=scheme in ("logit_normal", "mode")
        )
    _weighting(sheet)
    if number(sheet.get("guidance_scale")) not in (None, 1.0):
        sheet.leave(
            "guidance_scale", "a network that takes guidance as a number is fed the family's own in training here"
        )


def _weighting(sheet: Sheet) -> None:
    """What `weighting_scheme` says where timestep_sampling does not, and in what the error is counted."""
    scheme = str(sheet.get("weighting_scheme", "")).lower()
    if scheme == "logit_normal":
        sheet.carry("weighting_scheme", "timestep_sampling", value="logit_normal")
        mean = number(sheet.get("logit_mean"))
        if mean:
            sheet.change(
                "logit_mean",
                {"logit_mean": -mean},
                f"logit_mean {mean:g} is {-mean:g} here: there, above 0 means cleaner; here, as in the paper, noisier.",
            )
        sheet.carry("logit_std", "logit_std")
    elif scheme == "mode":
        sheet.carry("weighting_scheme", "timestep_sampling", value="mode")
        sheet.carry("mode_scale", "mode_scale")
    elif scheme in ("sigma_sqrt", "cosmap"):
        sheet.carry("weighting_scheme", "loss_weighting", value=scheme)
    sheet.reasons({"weighting_scheme": "is not here", "logit_mean": "is used with logit_normal only", "logit_std": "is used with logit_normal only",
                   "mode_scale": "is used with mode only"})  # fmt: skip
    sheet.words(
        "model_prediction_type",
        "precondition_outputs",
        {"raw": False, "sigma_scaled": True},
        "is not here; the error of the network's own output counts",
    )
    sheet.reasons({"discrete_flow_shift": "the shift is the checkpoint's here unless flow_schedule_shift is set", "training_shift": "set flow_schedule_shift",
                   "sigmoid_scale": "is used with sigmoid only"})  # fmt: skip


def _length(sheet: Sheet, rows: int) -> None:
    epochs, most = whole(sheet.get("epoch")), whole(sheet.get("max_train_epochs"))
    steps = whole(sheet.get("max_train_steps"))
    doubled = sheet.flat.get("with_prior_preservation") is True
    if most:
        place_epochs(sheet, "max_train_epochs", most, rows, doubled=doubled)
        sheet.leave("max_train_steps", "max_train_epochs decides there", quiet=not steps)
        sheet.leave("epoch", "max_train_epochs decides there", quiet=True)
    elif steps:
        sheet.carry("max_train_steps", "max_train_steps", value=steps)
        sheet.leave("epoch", "max_train_steps decides there", quiet=True)
    elif epochs:
        place_epochs(sheet, "epoch", epochs, rows, doubled=doubled)
    sheet.reasons(
        {
            "max_train_epochs": "is no number of epochs",
            "max_train_steps": "is no number of steps",
            "epoch": "is no number of epochs",
        }
    )
    stop, total = number(sheet.get("stop_text_encoder_training")), whole(sheet.flat.get("max_train_steps"))
    if stop and total and sheet.gave("train_text_encoder"):
        steps = max(1, round(stop * total / 100))
        sheet.change(
            "stop_text_encoder_training", {"text_encoder_steps": steps}, f"{stop:g} per cent of {total} steps."
        )
    sheet.reasons({"stop_text_encoder_training": NO_TEXT_ENCODER, "stop_text_encoder_training_pct": NO_TEXT_ENCODER})
    share, warm = number(sheet.get("lr_warmup")), number(sheet.get("lr_warmup_steps"))
    if sheet.flat.get("lr_scheduler") in ("constant", None):
        sheet.silent(["lr_warmup", "lr_warmup_steps"], why="constant knows no warm-up there")
    if warm and warm >= 1:
        sheet.carry("lr_warmup_steps", "lr_warmup_steps")
        sheet.leave("lr_warmup", "lr_warmup_steps decides there", quiet=True)
    elif warm and total:
        sheet.change(
            "lr_warmup_steps",
            {"lr_warmup_steps": round(warm * total)},
            f"A share of the run: {warm:g} of {total} steps.",
        )
    elif share and total:
        sheet.change(
            "lr_warmup", {"lr_warmup_steps": round(share * total / 100)}, f"{share:g} per cent of {total} steps."
        )
    why = "is a share of the run, whose length is not known; set lr_warmup_steps"
    sheet.reasons({"lr_warmup": why, "lr_warmup_steps": why})


def _samples(sheet: Sheet, rows: int) -> None:
    for what, option in (("save", "checkpoint_step_interval"), ("sample", "validation_step_interval")):
        steps, epochs = whole(sheet.get(f"{what}_every_n_steps")), number(sheet.get(f"{what}_every_n_epochs"))
        if steps:
            sheet.carry(f"{what}_every_n_steps", option)
            sheet.leave(f"{what}_every_n_epochs", f"{what}_every_n_steps is set too", quiet=not epochs)
        elif epochs:
            place_every(sheet, f"{what}_every_n_epochs", option, epochs, rows)
        sheet.reasons({f"{what}_every_n_steps": "is no number", f"{what}_every_n_epochs": "is no number"})
    lines = [
        line.strip()
        for line in str(sheet.get("sample_prompts", "")).splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    if lines and not lines[0].lower().endswith((".txt", ".json", ".toml")):
        options: dict[str, Any] = {"validation_prompts": [re.split(r"\s--[a-z]\b", line)[0].strip() for line in lines]}
        for flag, option in (
            ("s", "validation_num_inference_steps"),
            ("l", "validation_guidance"),
            ("d", "validation_seed"),
            ("n", "validation_negative_prompt"),
        ):
            found = re.search(rf"\s--{flag}\s+(.*?)(?=\s--[a-z]\b|$)", lines[0])
            if found is not None:
                options[option] = found[1].strip() if flag == "n" else number(found[1])
        options = {name: value for name, value in options.items() if value is not None}
        more = (
            "; what follows -- in the first line is set apart, sizes are those of the training"
            if re.search(r"\s--[a-z]\b", lines[0])
            else ""
        )
        if more:
            sheet.change("sample_prompts", options, f"One line is one prompt{more}.")
        else:
            sheet.carry("sample_prompts", "validation_prompts", value=options["validation_prompts"])
    sheet.reasons({"sample_prompts": "is the name of another file; paste its prompts"})
    seed = whole(sheet.get("seed"))
    if seed:
        sheet.carry("seed", "seed")
    sheet.leave("seed", "is drawn anew for each run there; here it stands in the settings", quiet=True)


def _precision(sheet: Sheet) -> None:
    sheet.words("mixed_precision", "mixed_precision", MIXED)
    if sheet.flat.get("model_type") == "lora" and sheet.flat.get("mixed_precision") in ("bf16", "fp16"):
        sheet.assume("base_model_precision", PRECISIONS[sheet.flat["mixed_precision"]])
    sheet.words("save_precision", "save_precision", PRECISIONS)
    if is_on(sheet.get("fp8_base")):
        sheet.change(
            "fp8_base",
            {"base_model_quantization": "fp8"},
            "Frozen weights are kept as fp8 here by torchao's quantisation, with a scale per row.",
        )
    sheet.reasons({"fp8_base": "is off there", "fp8_base_unet": "is not here"})
    place_resolution(sheet, "max_resolution")
    place_resolution(sheet, "resolution")
