"""The arguments of diffusers' DreamBooth scripts: as a JSON or YAML object (`json.dump(vars(args))`, or written by hand), or as the command line in a
shell script.

Facts: `train_dreambooth_sd3.py`, `train_dreambooth_lora_sd3.py` and `train_dreambooth_lora_lumina2.py` in its examples, and their like for other
models. What means something else there: `weighting_scheme` names both how times are drawn and how the loss is weighed; `logit_mean` has the other
sign (the drawn number is a place in a table that runs from noise to clean), except for Lumina 2, whose script turns the table round.
"""

import re
from typing import Any

from ..config import OPTIONS
from ..config.options import shown
from .contract import ImportedConfig, Near
from .counting import count, place_epochs
from .families import words_of
from .reading import SCRIPT
from .sheet import Sheet, is_off, is_on, number, whole
from .words import NO_NEW_TOKENS, place_dora, place_model, place_offset_noise, place_optimizer, place_text_encoder

NAME = "diffusers"

ALIASES = {
    "rank": "lora_rank", "lora_layers": "lora_targets", "adam_weight_decay": "weight_decay", "checkpointing_steps": "checkpoint_step_interval",
    "validation_steps": "validation_step_interval", "cache_dir": "data_cache_dir", "gamma": "snr_gamma", "input_perturbation": "input_perturbation_gamma",
}  # fmt: skip
"""Its name -> ours, with the same meaning. All others are called the same."""
DEFAULTS: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 1e-4, "lr_scheduler": "constant", "lr_warmup_steps": 500, "weight_decay": 1e-4,
    "train_batch_size": 4, "checkpoint_step_interval": 500,
}  # fmt: skip
"""What an absent argument means there, where we have the setting and it matters."""
SAMPLING = {"logit_normal": ("logit_normal", "none"), "mode": ("mode", "none"), "none": ("uniform", "none"),
            "sigma_sqrt": ("uniform", "sigma_sqrt"), "cosmap": ("uniform", "cosmap")}  # fmt: skip
"""`weighting_scheme` -> (timestep_sampling, loss_weighting)."""
NOT_HERE = {
    "output_dir": "runs lie in the folder of the runs here",
    "validation_epochs": "samples come every so many steps here: validation_step_interval",
    "num_validation_images": "one sample is drawn for each prompt here",
    "final_validation_prompt": "validation_prompts are drawn at the end too",
    "resume_from_checkpoint": "a run is resumed by name here",
    "dataset_name": "name the folder with your pictures: instance_data_dir",
    "max_sequence_length": "texts are as long as the model's pipeline takes them here",
    "system_prompt": "the pipeline's own is used here",
    "sample_batch_size": "class pictures are drawn as the memory allows here",
    "lr_num_cycles": "restarts are not counted here", "lr_power": "is fixed here",
    "logging_dir": "every run keeps its own curves here", "guidance_scale": "a network that takes guidance as a number is fed the family's own in training here",
    "pretrained_vae_model_name_or_path": "the checkpoint's own VAE is used here", "image_interpolation_mode": "pictures are scaled one way here",
    "aspect_ratio_buckets": "sides of the shapes follow resolution and bucket_step here",
    "adam_weight_decay_text_encoder": "all that is trained has one weight_decay here",
}  # fmt: skip
"""Arguments without a counterpart, with the reason."""
WHEN_ON = {"push_to_hub": "nothing is uploaded here", "hub_model_id": "nothing is uploaded here", "scale_lr": "the rate is taken as it is here",
           "enable_npu_flash_attention": "does not exist here", "do_edm_style_training": "does not exist here",
           "bnb_quantization_config_path": "see base_model_quantization", "fp8_training": "see base_model_quantization", "do_fp8_training": "see base_model_quantization",
           "prodigy_beta3": "prodigy's own is used here", "upcast_before_saving": "see save_precision"}  # fmt: skip
SILENT = (
    SCRIPT, "config_file", "local_rank", "dataloader_num_workers", "dataset_config_name", "image_column", "caption_column", "hub_token", "prodigy_decouple", "prodigy_use_bias_correction",
    "prodigy_safeguard_warmup", "allow_tf32", "prior_generation_precision", "vae_encode_mode", "cache_latents", "offload", "enable_xformers_memory_efficient_attention", "set_grads_to_none",
    "tokenizer_name", "tokenizer_max_length", "pre_compute_text_embeddings", "text_encoder_use_attention_mask", "skip_final_inference", "skip_save_text_encoder",
    "fsdp_text_encoder", "remote_text_encoder", "use_8bit_adam", "log_level", "text_encoder_out_layers", "vae_dtype",
)  # fmt: skip
"""Arguments that change nothing of what is learned."""


def looks_like(data: Any) -> bool:
    """Whether these are such a script's arguments: one that all flow scripts have and no other program, or the command that starts one."""
    if not isinstance(data, dict):
        return False
    script = str(data.get(SCRIPT, ""))
    if {"model_family", "LoRA_type", "network_module", "network_dim"} & set(data):
        return False
    old = {"instance_data_dir", "output_dir", "resolution"} <= set(data) and bool(
        {"lr_num_cycles", "adam_weight_decay", "num_validation_images", "rank"} & set(data)
    )
    return "weighting_scheme" in data or "dreambooth" in script or old


def read(data: Any, near: Near) -> ImportedConfig:
    """Our settings for its arguments."""
    sheet = Sheet(NAME, data, {*OPTIONS, *ALIASES, *NOT_HERE, *WHEN_ON})
    script = re.sub(r"\.py$", "", str(data.get(SCRIPT, "")))
    lora = "lora" in script or any(
        key in ("rank", "lora_alpha", "lora_dropout", "lora_layers") or key.startswith("lora_") for key in data
    )
    lumina = (
        "lumina" in script
        or "system_prompt" in data
        or "lumina" in str(data.get("pretrained_model_name_or_path", "")).lower()
    )
    place_model(sheet, "pretrained_model_name_or_path")
    family = next((named[0] for end, named in words_of(NAME).items() if script.endswith(end)), None)
    if family is not None:
        sheet.assume("model_family", family)
    if not lora:
        sheet.assume("model_type", "full")
    place_optimizer(sheet, "optimizer", eight_bit=is_on(sheet.get("use_8bit_adam")))
    if "optimizer" not in data and is_on(sheet.get("use_8bit_adam")):
        sheet.carry("use_8bit_adam", "optimizer", value="adamw_8bit")
    _prompts(sheet)
    _weighting(sheet, lumina)
    place_dora(sheet, "use_dora")
    place_text_encoder(sheet, "train_text_encoder", "text_encoder_lr")
    place_offset_noise(sheet, "noise_offset")
    _new_tokens(sheet)
    for key in list(sheet.values):
        option = ALIASES.get(key, key)
        if option in OPTIONS and key not in NOT_HERE:
            _one(sheet, key, option)
    _length(sheet, near)
    _silences(sheet)
    for option, value in DEFAULTS.items():
        sheet.assume(
            option, 0 if option == "lr_warmup_steps" and sheet.flat.get("lr_scheduler") == "constant" else value
        )
    if lora:
        sheet.assume("lora_rank", 4)
    return sheet.done()


def _new_tokens(sheet: Sheet) -> None:
    """Textual inversion beside the LoRA, of the advanced scripts: tokens that start as a word."""
    key, word = "train_text_encoder_ti", sheet.get("initializer_concept")
    if is_on(sheet.get(key)) and isinstance(word, str):
        tokens = whole(sheet.get("num_new_tokens_per_abstraction"))
        options = {"new_tokens": 2 if tokens is None else tokens, "new_token_initializer": word}
        how = f"The trigger word becomes {options['new_tokens']} tokens that start as {word}."
        sheet.change(key, options, how)
    off, carried = is_off(sheet.get(key)), sheet.gave("new_tokens")
    for name in (key, "initializer_concept", "num_new_tokens_per_abstraction"):
        why = "is off there" if off else "is new_tokens here" if carried else NO_NEW_TOKENS
        sheet.leave(name, why, quiet=off or carried)
    fractions = {
        "train_text_encoder_ti_frac": "see new_token_steps",
        "train_text_encoder_frac": "see text_encoder_steps",
    }
    sheet.reasons({"token_abstraction": "see trigger_word", **fractions})


def _one(sheet: Sheet, key: str, option: str) -> None:
    """An argument with a counterpart of the same meaning."""
    value = sheet.get(key)
    if value is None:
        sheet.leave(key, "is not set there", quiet=True)
    elif option == "lr_warmup_steps" and sheet.values.get("lr_scheduler", "constant") == "constant" and number(value):
        sheet.leave(key, '"constant" knows no warm-up there', quiet=True)
    elif key == "prior_loss_weight" and is_off(sheet.get("with_prior_preservation")):
        sheet.leave(key, "is used with class pictures only", quiet=True)
    else:
        sheet.carry(key, option)


def _prompts(sheet: Sheet) -> None:
    key, prompt = "validation_prompt", sheet.get("validation_prompt")
    sheet.carry(key, "validation_prompts", value=[prompt] if isinstance(prompt, str) else prompt)


def _length(sheet: Sheet, near: Near) -> None:
    epochs = whole(sheet.get("num_train_epochs"))
    if sheet.gave("max_train_steps") or not epochs:
        sheet.leave("num_train_epochs", "the length of a run is given in steps here: max_train_steps")
        return
    path = near.find_folder(sheet.get("instance_data_dir"))
    repeats = whole(sheet.get("repeats"))
    sheet.assume("train_batch_size", DEFAULTS["train_batch_size"])
    place_epochs(
        sheet, "num_train_epochs", epochs, count(path) * (repeats if repeats else 1) if path is not None else 0
    )


def _silences(sheet: Sheet) -> None:
    for key, why in NOT_HERE.items():
        sheet.leave(key, why, quiet=sheet.get(key) is None)
    sheet.reasons(WHEN_ON)
    sheet.silent(SILENT)


def _weighting(sheet: Sheet, lumina: bool) -> None:
    """Times and weights by noise level, each under our name and with our sign."""
    key = "weighting_scheme"
    if not sheet.has(key):
        return
    scheme = sheet.get(key)
    if not isinstance(scheme, str) or scheme not in SAMPLING:
        sheet.leave(key, f"is not one of {', '.join(SAMPLING)}; our default is used")
        for other in ("logit_mean", "logit_std", "mode_scale", "precondition_outputs"):
            sheet.leave(other, "belongs to weighting_scheme")
        return
    sampling, weighting = SAMPLING[scheme]
    words = f'weighting_scheme "{scheme}" is timestep_sampling "{sampling}"'
    if lumina and weighting == "sigma_sqrt":
        sheet.leave(
            key, "weighs by 1 / (1 - sigma)^2 in Lumina 2's script, which is not here; every level counts alike"
        )
        sheet.assume("timestep_sampling", sampling)
        weighting = "none"
    sheet.change(
        key,
        {"timestep_sampling": sampling, "loss_weighting": weighting},
        words + (f' and loss_weighting "{weighting}"' if weighting != "none" else "") + " here.",
    )
    mean = number(sheet.get("logit_mean"))
    if sampling != "logit_normal":
        for other in ("logit_mean", "logit_std"):
            sheet.leave(other, "is used with logit_normal only", quiet=True)
    elif not lumina and mean:
        sheet.change(
            "logit_mean",
            {"logit_mean": -mean},
            f"logit_mean {shown(sheet.get('logit_mean'))} is {shown(-mean)} here: there, above 0 means cleaner; here, as in the paper, noisier.",
        )
    if sampling != "mode":
        sheet.leave("mode_scale", "is used with mode only", quiet=True)
    if lumina:
        sheet.note("Lumina 2's script lets the schedule's shift push towards the picture; here it pushes towards noise. For the same, set "
                   "flow_schedule_shift to 1 / the checkpoint's.")  # fmt: skip
        sheet.leave("precondition_outputs", "Lumina 2's script does not use it", quiet=True)
        return
    outputs = number(sheet.get("precondition_outputs"))
    if "precondition_outputs" not in sheet.values:
        sheet.assume("precondition_outputs", True)
    elif outputs is not None:
        sheet.carry("precondition_outputs", "precondition_outputs", value=outputs != 0)
