"""SimpleTuner's config.json, read with its own meaning: its defaults for absent keys, its names, what means something else there.

Facts of its format 4.8. Used only where a person brings such a file in; everywhere else a flat file has our own meaning. A file that
`simpletuner_export` wrote carries our own settings as a remark: they hold for every key that was not edited since.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import OPTIONS, config_from_flat, config_to_flat
from ..config.options import ConfigError, shown
from . import simpletuner_export
from .contract import Carried, Changed, ImportedConfig, Left, Near, leaves
from .families import family_called
from .reading import read_file
from .sheet import Sheet, is_off, number
from .simpletuner_data import place_backends, with_backends
from .words import (
    SCHEDULES,
    is_flow,
    leave_model,
    place_dora,
    place_model,
    place_optimizer,
    place_quantised,
    place_text_encoder,
)

NAME = "SimpleTuner"

ALIASES = {
    "validation_steps": "validation_step_interval",
    "checkpointing_steps": "checkpoint_step_interval",
    "save_total_limit": "checkpoints_total_limit",
}
DEFAULTS: dict[str, Any] = {
    "model_type": "full", "mixed_precision": "bf16", "lora_rank": 16, "lora_dropout": 0.1,
    "optimizer": "adamw", "learning_rate": 4e-7, "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 0,
    "max_grad_norm": 2.0, "train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": True,
    "loss_type": "mse", "use_ema": False, "ema_decay": 0.995, "resolution": 1024, "checkpoint_step_interval": 500, "checkpoints_total_limit": 5,
    "validation_step_interval": 100, "validation_guidance": 7.5, "validation_num_inference_steps": 30,
    "scheduled_sampling_prob_end": 0.5, "scheduled_sampling_reflexflow_beta1": 10.0,
}  # fmt: skip
"""What an absent key means there, in our words, where we have the setting and it matters. `flow_schedule_shift` is 3 for flow models."""

NOT_HERE = {
    "model_flavour": "the model is named by pretrained_model_name_or_path here",
    "lora_format": "both layouts, diffusers and ComfyUI, are always written here",
    "init_lora": "a LoRA is always begun anew here",
    "num_train_epochs": "the length of a run is given in steps here",
    "noise_offset": "offset noise does not exist here",
    "masked_loss_probability": "masks are on or off for a whole run here; see masked_training",
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
"""Its keys that have no counterpart, with the reason, whatever their value."""
ONLY_WHEN_ON = {
    "offset_noise": "offset noise does not exist here",
    "input_perturbation_steps": "input perturbation holds for the whole run here",
    "flow_schedule_auto_shift": "a shift that follows the resolution does not exist here",
}
"""The same, where only a value other than off is worth a word."""
OWN = {
    *NOT_HERE, *ONLY_WHEN_ON, *ALIASES, "use_dora", "train_text_encoder", "text_encoder_lr", "lora_type", "validation_prompt", "input_perturbation", "flow_sigmoid_scale",
}  # fmt: skip
"""Its keys that are no option of ours, or were none in every version."""
_PLACEHOLDER = re.compile(r"\{env:[^}]*\}")
_TRUE = {"true", "1", "yes", "on"}
_SAMPLING = "scheduled_sampling_"


def looks_like(data: Any) -> bool:
    """Whether a flat config speaks SimpleTuner's language: a key or a word that only it has."""
    if not isinstance(data, Mapping):
        return False
    words = (
        ("optimizer", "adamw_bf16"),
        ("base_model_precision", "no_change"),
        ("loss_type", "l2"),
        ("loss_type", "smooth_l1"),
        ("lora_type", "standard"),
        ("lora_type", "lycoris"),
    )
    return bool((OWN - set(OPTIONS)) & set(data)) or any(data.get(key) == word for key, word in words)


def read(data: Mapping[str, Any], near: Near) -> ImportedConfig:
    """Our settings for its config. Other values than the options take are left, key by key."""
    found = _translated(data, near)
    metadata = data.get("_metadata")
    remembered = metadata.get(simpletuner_export.REMARK) if isinstance(metadata, Mapping) else None
    return _restored(found, data, remembered) if isinstance(remembered, Mapping) else found


def _translated(data: Mapping[str, Any], near: Near) -> ImportedConfig:
    sheet = Sheet(NAME, with_backends(data, near), {*OPTIONS, *OWN})
    names = {key: alias for alias, key in ALIASES.items() if alias in sheet.values and key not in sheet.values}
    for alias, key in ALIASES.items():
        if key in sheet.values:
            sheet.leave(alias, f"{key} has the same meaning and is used")
    _strings(sheet)
    _model(sheet)
    flow = is_flow(sheet) is True
    auto_shift = _on(sheet.get("flow_schedule_auto_shift"))
    place_backends(sheet, near)
    _words(sheet)
    _prompts(sheet, near)
    _flow(sheet, flow, auto_shift)
    _rollout(sheet, flow)
    _perturbation(sheet)
    place_dora(sheet, "use_dora")
    place_text_encoder(sheet, "train_text_encoder", "text_encoder_lr")
    sheet.reasons(ONLY_WHEN_ON)
    for key, why in NOT_HERE.items():
        sheet.leave(key, why)
    if str(sheet.get("lora_type", "")) == "standard":
        sheet.silent(["lora_type"], why="a LoRA; use_dora says which")
    sheet.leave("lora_type", "its algorithm stands in another file; set the kind of adapter here")
    for key in OPTIONS:
        sheet.carry(names.get(key, key), key)
    _defaults(sheet, flow, auto_shift)
    return sheet.done()


def _strings(sheet: Sheet) -> None:
    """The string "false" is dropped there; unset ones are absent; placeholders are filled in or cannot be."""
    for key, value in list(sheet.values.items()):
        if key.startswith(("_", "data_backend[")):
            continue
        if value is None or value == "":
            sheet.leave(key, "is not set there", quiet=True)
        elif isinstance(value, str) and value.strip().lower() == "false":
            sheet.leave(key, 'the text "false" is dropped there, so that its default holds; write false without quotes')
        elif isinstance(value, str) and _PLACEHOLDER.search(value):
            sheet.leave(key, "names a variable of another computer; fill it in")
        elif isinstance(value, str) and "{model_family}" in value and isinstance(sheet.get("model_family"), str):
            sheet.values[key] = value.replace("{model_family}", sheet.values["model_family"])


def _model(sheet: Sheet) -> None:
    family = sheet.get("model_family")
    name = str(sheet.get("pretrained_model_name_or_path", ""))
    ours = family_called(NAME, family, f"{name} {sheet.get('model_flavour', '')}")
    if family is not None and ours is None:
        leave_model(sheet, "model_family", "pretrained_model_name_or_path", family)
        sheet.leave("prediction_type", f"it belongs to a {family} model")
    sheet.carry("model_family", "model_family", value=ours)
    place_model(sheet, "pretrained_model_name_or_path")


def _prompts(sheet: Sheet, near: Near) -> None:
    """One prompt, and a library of more where that file is at hand."""
    prompt = sheet.get("validation_prompt")
    together = [prompt] if isinstance(prompt, str) else prompt
    path = near.find_file(sheet.get("user_prompt_library"))
    try:
        library = read_file(path, path.name) if path is not None else {}
    except ConfigError:  # its key then says that it was not read
        library = {}
    more = (
        [each for each in library.values() if isinstance(each, str) and each != prompt]
        if isinstance(library, dict)
        else []
    )
    if more:
        together = [*(together if isinstance(together, list) else []), *more]
        sheet.change(
            "user_prompt_library",
            {"validation_prompts": together},
            f"Its {len(more)} prompts are among validation_prompts here.",
        )
    sheet.carry("validation_prompt", "validation_prompts", value=together)


def _words(sheet: Sheet) -> None:
    """Choices that have other words there."""
    place_optimizer(sheet, "optimizer")
    if sheet.get("lr_scheduler") == "constant" and number(sheet.get("lr_warmup_steps")):
        sheet.carry("lr_scheduler", "lr_scheduler", value="constant_with_warmup")
    sheet.words("lr_scheduler", "lr_scheduler", SCHEDULES)
    sheet.words("loss_type", "loss_type", {"l2": "mse", "mse": "mse", "huber": "huber"})
    word = sheet.get("base_model_precision")
    if isinstance(word, str) and word in (OPTIONS["base_model_precision"].choices or ()):
        sheet.carry("base_model_precision", "base_model_precision")
    elif word == "no_change":
        sheet.carry("base_model_precision", "base_model_precision", value="float32")
    elif isinstance(word, str):
        place_quantised(sheet, "base_model_precision", word)


def _defaults(sheet: Sheet, flow: bool, auto_shift: bool) -> None:
    for option, value in DEFAULTS.items():
        if not (
            option == "resolution" and "resolution" in sheet.values
        ):  # one that could not be used is not replaced by another
            sheet.assume(option, value)
    if flow and not auto_shift:
        sheet.assume("flow_schedule_shift", 3.0)


def _flow(sheet: Sheet, flow: bool, auto_shift: bool) -> None:
    scale = number(sheet.get("flow_sigmoid_scale"))
    if scale == 1:
        sheet.silent(["flow_sigmoid_scale"], why="is the usual width")
    elif flow and scale is not None:
        sheet.change(
            "flow_sigmoid_scale",
            {"logit_std": scale},
            f"flow_sigmoid_scale {shown(scale)} is logit_std here: the width of the noise levels trained.",
        )
    sheet.leave("flow_sigmoid_scale", "only flow models have noise levels of this kind")
    if auto_shift:
        sheet.leave("flow_schedule_shift", "there the resolution decides, as flow_schedule_auto_shift is on")
    if not flow:
        sheet.leave("flow_schedule_shift", "only flow models have a shift")


def _rollout(sheet: Sheet, flow: bool) -> None:
    """Its rollout counts another grid, trains another target and weighs with another norm."""
    offset, sampler = f"{_SAMPLING}max_step_offset", f"{_SAMPLING}sampler"
    if sheet.get(sampler) == "unip":
        sheet.carry(sampler, sampler, value="unipc")
    if not flow:
        for key in sheet.open(f"{_SAMPLING}reflexflow"):
            sheet.leave(key, "ReflexFlow is for flow models", quiet=is_off(sheet.get(key)))
    if number(sheet.get(offset)) in (None, 0):
        return
    options = {offset: sheet.get(offset), f"{_SAMPLING}grid": "training", f"{_SAMPLING}target": "original"}
    how = "Offsets count the 1000 steps of the training table there, and rolled rows keep their old target: set so."
    if flow:
        options |= {f"{_SAMPLING}reflexflow_norm": "l1", sampler: "euler"}
        how += " Its frequency weight is divided by the l1 norm, which does nearly nothing at real sizes: set so."
    sheet.change(offset, options, how)
    if flow:
        solver = sheet.get(sampler, "unipc")
        if solver != "euler":
            sheet.change(
                sampler,
                {sampler: "euler"},
                f"Flow models always step with Euler there, whatever its sampler ({shown(solver)}) is: set so.",
            )
            if sampler not in sheet.values:
                sheet.note("Flow models always step with Euler there: set so.")
        sheet.carry(sampler, sampler)
        sheet.leave(f"{_SAMPLING}order", "Euler has no order", quiet=True)
    start, ramp = number(sheet.get(f"{_SAMPLING}probability")), number(sheet.get(f"{_SAMPLING}ramp_steps"))
    if start and ramp and f"{_SAMPLING}prob_start" not in sheet.values:
        end = sheet.get(f"{_SAMPLING}prob_end", 0.5)
        sheet.note(
            f"The ramp is taken as written, from 0 to {shown(end)}; there it ran from {shown(start)} to {shown(end)}."
        )


def _perturbation(sheet: Sheet) -> None:
    if number(sheet.get(f"{_SAMPLING}max_step_offset")) in (None, 0):
        sheet.carry("input_perturbation", "input_perturbation_gamma")
    off = not _on(sheet.get("input_perturbation", 0))
    sheet.leave(
        "input_perturbation",
        "is off there" if off else "together with scheduled sampling it is refused here: a run has one remedy",
        quiet=off,
    )


def _on(value: Any) -> bool:
    found = number(value)
    return found != 0 if found is not None else str(value).lower() in _TRUE


def _restored(found: ImportedConfig, data: Mapping[str, Any], remembered: Mapping[str, Any]) -> ImportedConfig:
    """Our own settings, as `simpletuner_export` remembered them, for all keys that stand as they were exported; the others as they were read."""
    try:
        config = config_from_flat({key: value for key, value in remembered.items() if key in OPTIONS})
        exported = simpletuner_export.export(config)
    except ConfigError:
        return replace(
            found,
            notes=(
                *found.notes,
                "The remark with our own settings cannot be used; the file is read as any of SimpleTuner's.",
            ),
        )
    ours = config_to_flat(config)
    wrote = {**exported.config, **dict(leaves(exported.files[simpletuner_export.BACKEND], "data_backend"))}
    gone = {key for key in exported.config if key not in data}

    def stands(each: Carried | Changed | Left) -> bool:
        is_share = isinstance(each, Changed) and "repeats" in each.options and "concepts" in found.flat
        return each.key in wrote and wrote[each.key] == each.given and not is_share  # of sets that were added since

    flat = dict(ours)
    carried, changed = [], []
    for one in found.carried:
        if not stands(one):
            flat[one.option] = one.value
        carried.append(replace(one, value=ours[one.option]) if stands(one) else one)
    for each in found.changed:
        if not stands(each):
            flat |= each.options
            changed.append(each)
        else:
            options = {name: ours[name] for name in each.options}
            changed.append(
                replace(each, options=options, how="Stands as it was exported from here, so our own setting holds.")
            )
    flat |= {key: found.flat.get(key, OPTIONS[key].default) for key in gone if key in OPTIONS}
    note = "This file was exported from Rollout Studio: what was not edited since has our own settings."
    needed = tuple(name for name in found.fill_in if flat.get(name) is None)
    left = tuple(replace(each, quiet=True) if stands(each) else each for each in found.left)
    return replace(
        found,
        flat=flat,
        left=left,
        carried=tuple(carried),
        changed=tuple(changed),
        assumed=(),
        notes=(*found.notes, note),
        fill_in=needed,
    )
