"""Our settings as SimpleTuner's files: config.json and the data-backend file it names. `simpletuner.read` is the way back.

Only keys that its format 4.8 lists are written, because its own tool fails on any other. What it cannot hold is listed, and all of our settings
stand in the file as a remark (`_metadata`), so that our own import gives them back whole.
"""

import json
from dataclasses import dataclass
from typing import Any

from ..config import OPTIONS, RunConfig, config_to_flat, differences
from ..config.options import ConfigError, Fault, shown
from ..families.registry import FAMILIES as OURS
from .contract import Changed, Left
from .families import name_in
from .words import family_of_name

PROGRAM = "SimpleTuner"
REMARK = "rollout_studio"
BACKEND = "multidatabackend.json"
PROMPTS = "user_prompt_library.json"
TRAINING_STEPS = 1000

SAME = (
    "model_type", "pretrained_model_name_or_path", "prediction_type", "mixed_precision", "lora_rank", "lora_alpha", "lora_dropout", "learning_rate", "lr_scheduler", "lr_warmup_steps",
    "max_grad_norm", "train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_train_steps", "seed", "snr_gamma", "flow_schedule_shift", "use_ema", "ema_decay",
    "caption_dropout_probability", "resolution", "checkpoint_step_interval", "checkpoints_total_limit", "validation_negative_prompt", "validation_guidance",
    "validation_num_inference_steps", "validation_seed", "report_to", "scheduled_sampling_strategy", "scheduled_sampling_probability", "scheduled_sampling_prob_start",
    "scheduled_sampling_prob_end", "scheduled_sampling_ramp_steps", "scheduled_sampling_start_step", "scheduled_sampling_ramp_shape",
    "scheduled_sampling_reflexflow_alpha", "scheduled_sampling_reflexflow_beta1", "scheduled_sampling_reflexflow_beta2",
)  # fmt: skip
"""Options that are keys of its with the same name, unit and meaning."""
OPTIMIZERS = {"adamw": "adamw_bf16", "adamw_8bit": "bnb-adamw8bit", "prodigy": "prodigy"}
QUANTISED = {"nf4": "nf4-bnb", "int8": "int8-quanto", "fp8": "fp8-torchao"}
BACKEND_OPTIONS = (
    "instance_data_dir",
    "instance_prompt",
    "caption_strategy",
    "repeats",
    "center_crop",
    "aspect_buckets",
)
"""Options that the data-backend file holds."""
_ELSEWHERE = {"lora_type", "train_text_encoder", "text_encoder_learning_rate", *SAME, *BACKEND_OPTIONS, "model_family", "optimizer", "loss_type", "base_model_quantization", "validation_prompts", "validation_step_interval", "input_perturbation_gamma",
              "scheduled_sampling_max_step_offset", "scheduled_sampling_grid", "scheduled_sampling_grid_steps", "scheduled_sampling_target", "scheduled_sampling_sampler",
              "scheduled_sampling_order", "scheduled_sampling_reflexflow", "scheduled_sampling_reflexflow_norm"}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """`config` is config.json; `files` what it names, by name; `changed` and `left` are what means something else there, or cannot be there."""

    config: dict[str, Any]
    files: dict[str, Any]
    changed: tuple[Changed, ...]
    left: tuple[Left, ...]

    def texts(self) -> dict[str, str]:
        """All files as JSON, by name, without a last line feed."""
        files = {"config.json": self.config, **self.files}
        return {name: json.dumps(data, indent=2, ensure_ascii=False) for name, data in files.items()}


def export(config: RunConfig) -> Exported:
    """Our settings as its files. Raises ConfigError for a model that it has no name for."""
    flat = config_to_flat(config)
    family = _family(flat)
    flow = OURS[family].is_flow
    own = differences(config)
    out: dict[str, Any] = {"_metadata": {REMARK: own}, "model_family": name_in(PROGRAM, family)}
    changed: list[Changed] = []
    left: list[Left] = []
    for name in SAME:
        unset = flat[name] is None or (name == "validation_negative_prompt" and flat[name] == "")
        belongs = name.startswith("lora_") and flat["model_type"] != "lora" or "reflexflow" in name and not flow
        if not unset and not belongs:
            out[name] = flat[name]
    _choices(flat, out, changed, left)
    _rollout(flat, flow, out, changed, left)
    prompts = flat["validation_prompts"]
    if prompts:
        out["validation_prompt"] = prompts[0]
    files: dict[str, Any] = {BACKEND: _backend(flat)}
    if len(prompts) > 1:
        files[PROMPTS] = {f"prompt_{index}": each for index, each in enumerate(prompts, 1)}
        out["user_prompt_library"] = PROMPTS
    if flat["validation_step_interval"]:
        out["validation_step_interval"] = flat["validation_step_interval"]
    out |= {
        "data_backend_config": BACKEND,
        "num_train_epochs": 0,
        "resolution_type": "pixel_area",
        "validation_resolution": str(flat["resolution"]),
    }
    if flow and flat["flow_schedule_shift"] is None:
        left.append(Left("flow_schedule_shift", None, "unset is the checkpoint's own shift here, and 3 there"))
    left += [Left(name, value, _why(name)) for name, value in own.items() if name not in _ELSEWHERE]
    return Exported(out, files, tuple(changed), tuple(left))


def _family(flat: dict[str, Any]) -> str:
    family = flat["model_family"]
    name = flat["pretrained_model_name_or_path"]
    if family == "auto":
        family = family_of_name(name)
    known = [each for each in OURS if name_in(PROGRAM, each) is not None]
    if family not in known:
        rule = f"SimpleTuner's files are written for {', '.join(known)}"
        remedy = "name the kind of model in model_family" if family is None else "choose a model of one of these"
        raise ConfigError(
            [Fault(f"{shown(name)}: {rule}; {remedy}.", ("model_family", "pretrained_model_name_or_path"))]
        )
    return family


def _choices(flat: dict[str, Any], out: dict[str, Any], changed: list[Changed], left: list[Left]) -> None:
    optimizer = flat["optimizer"]
    if optimizer in OPTIMIZERS:
        out["optimizer"] = OPTIMIZERS[optimizer]
        if optimizer == "adamw":
            changed.append(
                Changed(
                    "optimizer",
                    optimizer,
                    {"optimizer": "adamw_bf16"},
                    "Keeps the trained weights in 16 bits there, with stochastic rounding; here in 32.",
                )
            )
    else:
        left.append(Left("optimizer", optimizer, "its name there is not known here; its default, adamw_bf16, holds"))
    out["loss_type"] = {"mse": "l2"}.get(flat["loss_type"], flat["loss_type"])
    kept = flat["base_model_quantization"]
    out["base_model_precision"] = QUANTISED.get(kept, "no_change")
    if kept != "none" and kept not in QUANTISED:
        left.append(Left("base_model_quantization", kept, "its name there is not known here"))
    if flat["model_type"] == "lora":
        out["lora_type"] = "standard"
        kind = flat.get("lora_type", "lora")  # not an option of every version
        if kind == "dora":
            out["use_dora"] = True
        elif kind != "lora":
            left.append(
                Left("lora_type", kind, "its LyCORIS adapters stand in a file of their own; a plain LoRA is written")
            )
    if flat.get("train_text_encoder"):
        out["train_text_encoder"] = True
        if flat["text_encoder_learning_rate"] is not None:
            out["text_encoder_lr"] = flat["text_encoder_learning_rate"]
    if flat["input_perturbation_gamma"]:
        out["input_perturbation"] = flat["input_perturbation_gamma"]


def _rollout(flat: dict[str, Any], flow: bool, out: dict[str, Any], changed: list[Changed], left: list[Left]) -> None:
    prefix = "scheduled_sampling_"
    key = f"{prefix}max_step_offset"
    offset = flat[key]
    out[f"{prefix}reflexflow"] = bool(flow and offset and flat[f"{prefix}reflexflow"] is not False)
    out[f"{prefix}sampler"] = flat[f"{prefix}sampler"]
    out[f"{prefix}order"] = flat[f"{prefix}order"]
    out[key] = offset
    if not offset:
        return
    if flat[f"{prefix}grid"] == "inference":
        out[key] = max(1, round(offset * TRAINING_STEPS / flat[f"{prefix}grid_steps"]))
        changed.append(
            Changed(
                key,
                offset,
                {key: out[key]},
                f"{offset} of {flat[f'{prefix}grid_steps']} inference steps are {out[key]} of the {TRAINING_STEPS} steps that it counts.",
            )
        )
    if flat[f"{prefix}target"] != "original":
        left.append(Left(f"{prefix}target", flat[f"{prefix}target"], "rolled rows keep their old target there"))
    if flow and flat[f"{prefix}sampler"] != "euler":
        changed.append(
            Changed(
                f"{prefix}sampler",
                flat[f"{prefix}sampler"],
                {f"{prefix}sampler": "euler"},
                "Flow models always step with Euler there.",
            )
        )
    if flow and flat[f"{prefix}reflexflow_norm"] != "l1":
        left.append(
            Left(
                f"{prefix}reflexflow_norm",
                flat[f"{prefix}reflexflow_norm"],
                "the frequency weight is divided by the l1 norm there",
            )
        )


def _backend(flat: dict[str, Any]) -> list[dict[str, Any]]:
    pictures = {
        "id": "pictures", "type": "local", "dataset_type": "image", "instance_data_dir": flat["instance_data_dir"], "caption_strategy": flat["caption_strategy"],
        "instance_prompt": flat["instance_prompt"], "crop": True, "crop_style": "center" if flat["center_crop"] else "random",
        "crop_aspect": "closest" if flat["aspect_buckets"] else "square", "resolution": flat["resolution"], "resolution_type": "pixel_area", "repeats": flat["repeats"] - 1,
        "cache_dir_vae": "cache/vae",
    }  # fmt: skip
    texts = {"id": "texts", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"}
    return [{key: value for key, value in pictures.items() if value is not None}, texts]


def _why(name: str) -> str:
    section = OPTIONS[name].section
    if name in ("with_prior_preservation", "class_prompt", "class_data_dir", "prior_loss_weight", "num_class_images"):
        return "its regularisation data is another method: the frozen model's own prediction is the target"
    if section == "drift":
        return "drift is measured here only"
    return "it has no such key"
