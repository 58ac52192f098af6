"""The arguments of diffusers' DreamBooth scripts for flow models, as a JSON object (`json.dump(vars(args))`, or written by hand).

Facts: `train_dreambooth_sd3.py`, `train_dreambooth_lora_sd3.py` and `train_dreambooth_lora_lumina2.py` in its examples. What means
something else there: `weighting_scheme` names both how times are drawn and how the loss is weighed; `logit_mean` has the other sign
(the drawn number is a place in a table that runs from noise to clean), except for Lumina 2, whose script turns the table round.
"""

from collections.abc import Mapping
from typing import Any

from ..config import OPTIONS
from ..config.options import did_you_mean, shown
from .simpletuner import Read

ALIASES = {
    "rank": "lora_rank", "lora_layers": "lora_targets", "adam_weight_decay": "weight_decay",
    "checkpointing_steps": "checkpoint_step_interval", "validation_prompt": "validation_prompts", "cache_dir": "data_cache_dir",
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "optimizer": "AdamW", "learning_rate": 1e-4, "lr_scheduler": "constant", "lr_warmup_steps": 500, "weight_decay": 1e-4,
    "train_batch_size": 4, "checkpoint_step_interval": 500, "logit_mean": 0.0, "logit_std": 1.0, "mode_scale": 1.29,
}  # fmt: skip
"""What an absent argument means there, where we have the setting and it matters."""

SAMPLING = {"logit_normal": ("logit_normal", "none"), "mode": ("mode", "none"), "none": ("uniform", "none"),
            "sigma_sqrt": ("uniform", "sigma_sqrt"), "cosmap": ("uniform", "cosmap")}  # fmt: skip
"""`weighting_scheme` -> (timestep_sampling, loss_weighting)."""

_NOT_HERE = {
    "output_dir": "runs lie in the folder of the runs here",
    "num_train_epochs": "the length of a run is given in steps here: max_train_steps",
    "validation_epochs": "samples come every so many steps here: validation_step_interval",
    "num_validation_images": "one sample is drawn for each prompt here",
    "final_validation_prompt": "validation_prompts are drawn at the end too",
    "resume_from_checkpoint": "a run is resumed by name here",
    "dataset_name": "name the folder with your pictures: instance_data_dir",
    "text_encoder_lr": "the text encoder is not trained here",
    "max_sequence_length": "texts are as long as the model's pipeline takes them here",
    "system_prompt": "the pipeline's own is used here",
    "sample_batch_size": "class pictures are drawn as the memory allows here",
    "lr_num_cycles": "restarts are not counted here", "lr_power": "is fixed here",
    "logging_dir": "every run keeps its own curves here",
}  # fmt: skip
"""Arguments without a counterpart, with the reason. What is off or unset is not worth a word."""
_SILENT = {"config_file", "local_rank", "dataloader_num_workers", "dataset_config_name", "image_column", "caption_column", "hub_token", "prodigy_beta3",
           "prodigy_decouple", "prodigy_use_bias_correction", "prodigy_safeguard_warmup", "adam_weight_decay_text_encoder", "allow_tf32",
           "prior_generation_precision", "vae_encode_mode", "cache_latents", "upcast_before_saving", "offload"}  # fmt: skip
"""Arguments that change nothing of what is learned."""
_WHEN_ON = {"push_to_hub": "nothing is uploaded here", "hub_model_id": "nothing is uploaded here", "scale_lr": "the rate is taken as it is here",
            "train_text_encoder": "the text encoder is not trained here", "use_dora": "DoRA does not exist here"}  # fmt: skip


def is_one(flat: Mapping[str, Any]) -> bool:
    """Whether these are such a script's arguments: the one argument that all of them have, and no other program."""
    return "weighting_scheme" in flat


def translated(flat: Mapping[str, Any]) -> Read:
    """Our settings for its arguments. A value that cannot be used is left as it is: `config_from_flat` refuses it by name."""
    out, left, remarks, assumed = Read(), [], [], []
    given = {key: value for key, value in flat.items() if value is not None}
    lumina = "system_prompt" in given or "lumina" in str(given.get("pretrained_model_name_or_path", "")).lower()
    for key in [key for key in given if key in {*_NOT_HERE, *_SILENT, *_WHEN_ON}]:
        value = given.pop(key)
        if key in _NOT_HERE or (key in _WHEN_ON and value not in (False, 0, "")):
            left.append((key, value, {**_NOT_HERE, **_WHEN_ON}[key]))
    for alias, key in ALIASES.items():
        if alias in given:
            given[key] = given.pop(alias)
    lora = any(key.startswith("lora_") for key in given)
    given["model_type"] = "lora" if lora else "full"
    for key, value in DEFAULTS.items():
        if key not in given:
            given[key] = value
            assumed.append(key)
    if lora and "lora_rank" not in given:
        given["lora_rank"] = 4
        assumed.append("lora_rank")
    _optimizer(given)
    if isinstance(given.get("lr_warmup_steps"), int) and given["lr_scheduler"] == "constant":
        given["lr_warmup_steps"] = 0  # "constant" knows no warm-up there either
    if isinstance(given.get("validation_prompts"), str):
        given["validation_prompts"] = [given["validation_prompts"]]
    _weighting(given, left, remarks, assumed, lumina)
    for key, value in given.items():
        if key not in OPTIONS:
            left.append((key, value, f"there is no such option here.{did_you_mean(key, OPTIONS)}"))
            continue
        choices = OPTIONS[key].choices
        if choices is not None and isinstance(value, str) and value not in choices:
            left.append(
                (
                    key,
                    value,
                    f"is not here; taken instead: {shown(OPTIONS[key].default)}. There are: {', '.join(choices)}",
                )
            )
            continue
        out.flat[key] = value
    out.assumed = tuple(key for key in assumed if key in out.flat)
    out.taken = tuple(key for key in out.flat if key not in out.assumed)
    out.left_out, out.remarks = tuple(left), tuple(remarks)
    out.fill_in = tuple(
        key for key in ("pretrained_model_name_or_path", "instance_data_dir", "max_train_steps") if key not in out.flat
    )
    return out


def _optimizer(given: dict[str, Any]) -> None:
    eight_bit = given.pop("use_8bit_adam", False) in (True, 1)
    name = str(given["optimizer"]).lower()
    given["optimizer"] = "adamw_8bit" if name == "adamw" and eight_bit else name


def _weighting(given: dict[str, Any], left: list, remarks: list[str], assumed: list[str], lumina: bool) -> None:
    """Times and weights by noise level, each under our name and with our sign."""
    scheme = given.pop("weighting_scheme")
    if not isinstance(scheme, str) or scheme not in SAMPLING:
        left.append(("weighting_scheme", scheme, f"is not one of {', '.join(SAMPLING)}; our default is used"))
        for key in ("logit_mean", "logit_std", "mode_scale", "precondition_outputs"):
            given.pop(key, None)
        return
    sampling, weighting = SAMPLING[scheme]
    if lumina and weighting == "sigma_sqrt":
        left.append(
            (
                "weighting_scheme",
                scheme,
                "weighs by 1 / (1 - sigma)^2 in Lumina 2's script, which is not here; every level counts alike",
            )
        )
        weighting = "none"
    given |= {"timestep_sampling": sampling, "loss_weighting": weighting}
    remarks.append(
        f'weighting_scheme "{scheme}" is timestep_sampling "{sampling}"'
        + (f' and loss_weighting "{weighting}"' if weighting != "none" else "")
        + " here."
    )
    if sampling != "logit_normal":
        del given["logit_mean"], given["logit_std"]
    elif not lumina and _number(given["logit_mean"]) not in (None, 0.0):
        theirs = given["logit_mean"]
        given["logit_mean"] = -_number(theirs)
        remarks.append(
            f"logit_mean {shown(theirs)} is {shown(given['logit_mean'])} here: there, above 0 means cleaner; here, as in the paper, noisier."
        )
    if sampling != "mode":
        del given["mode_scale"]
    if lumina:
        remarks.append(
            "Lumina 2's script lets the schedule's shift push towards the picture; here it pushes towards noise. For the same, set "
            "flow_schedule_shift to 1 / the checkpoint's."
        )
        given.pop("precondition_outputs", None)
        return
    if "precondition_outputs" not in given:
        given["precondition_outputs"] = True
        assumed.append("precondition_outputs")
    elif _number(given["precondition_outputs"]) is not None:
        given["precondition_outputs"] = _number(given["precondition_outputs"]) != 0


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
