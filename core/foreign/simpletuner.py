"""SimpleTuner's config.json, read with its own meaning: its defaults for absent keys, its names, what means something else there.

Facts of its format 4.8. Used only where a person brings such a file in; everywhere else a flat file has our own meaning.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import OPTIONS
from ..config.options import did_you_mean, shown
from ..families.registry import FAMILIES

ALIASES = {
    "validation_steps": "validation_step_interval",
    "checkpointing_steps": "checkpoint_step_interval",
    "save_total_limit": "checkpoints_total_limit",
}
DEFAULTS: dict[str, Any] = {
    "model_type": "full", "mixed_precision": "bf16", "base_model_precision": "no_change",
    "lora_rank": 16, "lora_dropout": 0.1,
    "optimizer": "adamw_bf16", "learning_rate": 4e-7, "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 0,
    "max_grad_norm": 2.0, "train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": True,
    "loss_type": "l2", "flow_schedule_shift": 3.0, "use_ema": False, "ema_decay": 0.995,
    "resolution": 1024, "checkpoint_step_interval": 500, "checkpoints_total_limit": 5, "validation_step_interval": 100,
    "validation_guidance": 7.5, "validation_num_inference_steps": 30,
    "scheduled_sampling_prob_end": 0.5, "scheduled_sampling_reflexflow_beta1": 10.0,
}  # fmt: skip
"""What an absent key means there, where we have the setting and it matters."""

_NOT_HERE = {
    "model_flavour": "the model is named by pretrained_model_name_or_path here",
    "lora_format": "both layouts, diffusers and ComfyUI, are always written here",
    "init_lora": "a LoRA is always begun anew here",
    "text_encoder_lr": "the text encoder is not trained here",
    "num_train_epochs": "the length of a run is given in steps here",
    "noise_offset": "offset noise does not exist here",
    "flow_sigmoid_scale": "is the width of the noise levels: see logit_std",
    "masked_loss_probability": "masks do not exist here",
    "data_backend_config": "is the name of another file; name the folder with your pictures",
    "resolution_type": "pictures are always scaled to an area here, given as the side of a square",
    "minimum_image_size": "small pictures are reported by the check here",
    "aspect_bucket_rounding": "the sides of the shapes follow bucket_step here",
    "vae_batch_size": "the pictures are prepared in batches that fit the memory here",
    "output_dir": "runs lie in the folder of the runs here",
    "resume_from_checkpoint": "a run is resumed by name here",
    "validation_resolution": "samples are as large as the training pictures here",
    "user_prompt_library": "is the name of another file; paste its prompts",
    "push_to_hub": "nothing is uploaded here", "hub_model_id": "nothing is uploaded here",
}  # fmt: skip
"""Its keys that have no counterpart, with the reason."""
_ONLY_WHEN_ON = {
    "use_dora": "DoRA does not exist here", "train_text_encoder": "the text encoder is not trained here",
    "offset_noise": "offset noise does not exist here",
    "input_perturbation_steps": "input perturbation holds for the whole run here",
    "flow_schedule_auto_shift": "a shift that follows the resolution does not exist here",
}  # fmt: skip
"""The same, where only a value other than off is worth a word."""
_OWN = {*_NOT_HERE, *_ONLY_WHEN_ON, *ALIASES, "lora_type", "validation_prompt", "input_perturbation"}
_PLACEHOLDER = re.compile(r"\{env:[^}]*\}")
_TRUE = {"true", "1", "yes", "on"}


@dataclass
class Read:
    """A translation: flat keys of ours, and everything worth a word."""

    flat: dict[str, Any] = field(default_factory=dict)
    taken: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    left_out: tuple[tuple[str, Any, str], ...] = ()
    remarks: tuple[str, ...] = ()
    fill_in: tuple[str, ...] = ()


def is_one(flat: Mapping[str, Any]) -> bool:
    """Whether a flat config speaks SimpleTuner's language: a key or a word that only it has."""
    words = (
        ("optimizer", "adamw_bf16"),
        ("base_model_precision", "no_change"),
        ("loss_type", "l2"),
        ("loss_type", "smooth_l1"),
    )
    return bool(_OWN & set(flat)) or any(flat.get(key) == word for key, word in words)


def translated(flat: Mapping[str, Any]) -> Read:
    """Our settings for its config."""
    return _Translation(flat).done()


class _Translation:
    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = {ALIASES.get(key, key): value for key, value in given.items()}
        self.out = Read()
        self._left: list[tuple[str, Any, str]] = []
        self._remarks: list[str] = []
        self._assumed: list[str] = []
        for alias, key in ALIASES.items():
            if alias in given and key in given:
                self.leave(alias, given[alias], f"{key} has the same meaning and is used")
                self.given[key] = given[key]

    def leave(self, key: str, value: Any, why: str) -> None:
        self._left.append((key, value, why))

    def done(self) -> Read:
        self._strings()
        self._without_counterpart()
        family = self.given.get("model_family")
        flow = isinstance(family, str) and family in FAMILIES and FAMILIES[family].is_flow
        self._defaults(flow)
        for key, how in _WORDS.items():
            if key in self.given:
                how(self, key, self.given[key])
        self._data()
        self._flow(flow)
        self._rollout(flow)
        self._perturbation()
        for key, value in self.given.items():
            if key not in OPTIONS:
                self.leave(
                    key, value, f"this name is known neither there nor here.{did_you_mean(key, [*OPTIONS, *_OWN])}"
                )
                continue
            self.out.flat[key] = value
        self._model(family)
        out = self.out
        out.assumed = tuple(key for key in self._assumed if key in out.flat)
        out.taken = tuple(key for key in out.flat if key not in self._assumed)
        out.left_out, out.remarks = tuple(self._left), tuple(self._remarks)
        out.fill_in = tuple(
            key
            for key in ("pretrained_model_name_or_path", "instance_data_dir", "max_train_steps")
            if key not in out.flat
        )
        return out

    def _strings(self) -> None:
        """The string "false" is dropped there; unset ones are absent; placeholders are filled in or cannot be."""
        for key, value in list(self.given.items()):
            if value is None or value == "":
                del self.given[key]
            elif isinstance(value, str) and value.strip().lower() == "false":
                self.leave(
                    key,
                    value,
                    'the text "false" is dropped there, so that its default holds; write false without quotes',
                )
                del self.given[key]
            elif isinstance(value, str) and _PLACEHOLDER.search(value):
                self.leave(key, value, "names a variable of another computer; fill it in")
                del self.given[key]
            elif (
                isinstance(value, str) and "{model_family}" in value and isinstance(self.given.get("model_family"), str)
            ):
                self.given[key] = value.replace("{model_family}", self.given["model_family"])

    def _without_counterpart(self) -> None:
        given = self.given
        scale = given.get("flow_sigmoid_scale")
        if isinstance(scale, int | float) and not isinstance(scale, bool) and math.isfinite(scale) and scale != 1:
            given["logit_std"] = scale
            self._remarks.append(
                f"flow_sigmoid_scale {shown(scale)} is logit_std here: the width of the noise levels trained."
            )
        for key in list(given):
            value = given[key]
            if key in _NOT_HERE:
                self.leave(key, value, _NOT_HERE[key])
            elif key in _ONLY_WHEN_ON:
                if _on(value):
                    self.leave(key, value, _ONLY_WHEN_ON[key])
            elif key == "lora_type":
                if value != "standard":
                    self.leave(key, value, "only plain LoRA is trained here")
            else:
                continue
            del given[key]
        if any(key == "flow_schedule_auto_shift" for key, _, _ in self._left) and "flow_schedule_shift" in given:
            self.leave(
                "flow_schedule_shift",
                given.pop("flow_schedule_shift"),
                "there the resolution decides, as flow_schedule_auto_shift is on",
            )

    def _defaults(self, flow: bool) -> None:
        auto_shift = any(key == "flow_schedule_auto_shift" for key, _, _ in self._left)
        left = {key for key, _, _ in self._left}
        for key, value in DEFAULTS.items():
            if (
                key in self.given
                or (key == "flow_schedule_shift" and (not flow or auto_shift))
                or (key == "resolution" and key in left)
            ):
                continue
            self.given[key] = value
            self._assumed.append(key)

    def _data(self) -> None:
        if "validation_prompt" in self.given:
            prompt = self.given.pop("validation_prompt")
            self.given["validation_prompts"] = [prompt] if isinstance(prompt, str) else prompt

    def _flow(self, flow: bool) -> None:
        if not flow and "flow_schedule_shift" in self.given:
            self.leave("flow_schedule_shift", self.given.pop("flow_schedule_shift"), "only flow models have a shift")
        if not flow and "logit_std" in self.given:
            del self.given["logit_std"]

    def _rollout(self, flow: bool) -> None:
        """Its rollout counts another grid, trains another target and weighs with another norm."""
        prefix = "scheduled_sampling_"
        given = {key.removeprefix(prefix): value for key, value in self.given.items() if key.startswith(prefix)}
        if given.get("sampler") == "unip":
            self.given[prefix + "sampler"] = "unipc"
        if not flow:
            for key in [key for key in self.given if key.startswith(prefix + "reflexflow")]:
                value = self.given.pop(key)
                if key not in self._assumed:
                    self.leave(key, value, "ReflexFlow is for flow models")
        if _number(given.get("max_step_offset")) in (None, 0):
            return
        self.out.flat |= {prefix + "grid": "training", prefix + "target": "original"}
        self._remarks.append(
            "Offsets count the 1000 steps of the training table there, and rolled rows keep their old target: set so."
        )
        if flow:
            self.out.flat[prefix + "reflexflow_norm"] = "l1"
            self._remarks.append(
                "Its frequency weight is divided by the l1 norm, which does nearly nothing at real sizes: set so."
            )
            solver = self.given.pop(prefix + "sampler", "unipc")
            self.given.pop(prefix + "order", None)
            self.out.flat[prefix + "sampler"] = "euler"
            if solver != "euler":
                self._remarks.append(
                    f"Flow models always step with Euler there, whatever its sampler ({shown(solver)}) is: set so."
                )
        start, ramp = _number(given.get("probability")), _number(given.get("ramp_steps"))
        if start and ramp and "prob_start" not in given:
            end = given.get("prob_end", 0.5)
            self._remarks.append(
                f"The ramp is taken as written, from 0 to {shown(end)}; there it ran from {shown(start)} to {shown(end)}."
            )

    def _perturbation(self) -> None:
        value = self.given.pop("input_perturbation", 0)
        if not _on(value):
            return
        if _number(self.given.get("scheduled_sampling_max_step_offset")) in (None, 0):
            self.given["input_perturbation_gamma"] = value
        else:
            self.leave(
                "input_perturbation", value, "together with scheduled sampling it is refused here: a run has one remedy"
            )

    def _model(self, family: Any) -> None:
        known = OPTIONS["model_family"].choices
        if family is not None and family not in known:
            self.out.flat.pop("model_family", None)
            self.leave(
                "model_family",
                family,
                f"Rollout Studio trains {', '.join(each for each in known if each != 'auto')}; choose such a model",
            )
            if "pretrained_model_name_or_path" in self.out.flat:
                name = self.out.flat.pop("pretrained_model_name_or_path")
                self.leave("pretrained_model_name_or_path", name, f"it is a {family} model")
            if "prediction_type" in self.out.flat:
                self.leave("prediction_type", self.out.flat.pop("prediction_type"), f"it belongs to a {family} model")


def _words(**known: str) -> Callable[["_Translation", str, Any], None]:
    """Its words of a choice -> ours; a word that is neither is left out."""

    def read(self: "_Translation", key: str, value: Any) -> None:
        if not isinstance(value, str):
            return
        if value in known:
            self.given[key] = known[value]
        elif value not in OPTIONS[key].choices:
            self.leave(
                key,
                value,
                f"is not here; taken instead: {shown(OPTIONS[key].default)}. There are: {', '.join(OPTIONS[key].choices)}",
            )
            del self.given[key]

    return read


def _optimizer(self: "_Translation", key: str, value: Any) -> None:
    if not isinstance(value, str) or value in OPTIONS[key].choices:
        return
    plain = value.lower().replace("-", "_")
    ours = next((ours for word, ours in (("schedulefree", None), ("8bit", "adamw_8bit" if "adamw" in plain else None), ("adamw", "adamw"),
                                         ("prodigy", "prodigy"), ("adafactor", "adafactor")) if word in plain), None)  # fmt: skip
    if ours is None:
        self.leave(key, value, f"is not here; taken instead: adamw. There are: {', '.join(OPTIONS[key].choices)}")
        del self.given[key]
        return
    self.given[key] = ours
    if key not in self._assumed or value == "adamw_bf16":
        self._remarks.append(f"Optimizer {value} is {ours} here; the trained weights stay in 32 bits.")


def _scheduler(self: "_Translation", key: str, value: Any) -> None:
    warm = _number(self.given.get("lr_warmup_steps"))
    if value == "cosine_with_warmup":
        self.given[key] = "cosine"
    elif value == "constant" and warm:
        self.given[key] = "constant_with_warmup"
    else:
        _words()(self, key, value)


_WORDS: dict[str, Callable[["_Translation", str, Any], None]] = {
    "loss_type": _words(l2="mse"),
    "base_model_precision": _words(no_change="float32"),
    "mixed_precision": _words(),
    "report_to": _words(),
    "optimizer": _optimizer,
    "lr_scheduler": _scheduler,
}  # fmt: skip


def _on(value: Any) -> bool:
    number = _number(value)
    return number != 0 if number is not None else str(value).lower() in _TRUE


def _number(value: Any) -> float | None:
    """A number, also written as text; None for anything else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
