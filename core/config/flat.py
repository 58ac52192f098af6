"""The whole of a config and its flat form: JSON keys in and out, files, differences; all faults at once.

The flat form, `{"learning_rate": 1e-4, "scheduled_sampling_max_step_offset": 2, ...}`, is what files, flags and forms exchange:
`config_from_flat` and `config_to_flat` are inverse. Nothing is ever changed in place.
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .. import formats
from .options import Checked, ConfigError, Fault, Option, did_you_mean, options_of, shown
from .sections import (
    DataConfig,
    DreamConfig,
    DriftConfig,
    InputPerturbationConfig,
    LoraConfig,
    MixFlowConfig,
    ModelConfig,
    RemedyConfig,
    RolloutConfig,
    SavingConfig,
    SoarConfig,
    TextEncoderConfig,
    TrainingConfig,
    ValidationConfig,
)
from .text_encoder_rules import text_encoder_rules


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All sections. Building one checks everything; `ConfigError` carries every fault."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    input_perturbation: InputPerturbationConfig = field(default_factory=InputPerturbationConfig)
    soar: SoarConfig = field(default_factory=SoarConfig)
    mixflow: MixFlowConfig = field(default_factory=MixFlowConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)

    def __post_init__(self):
        faults = list(_rules_between_sections(self))
        if faults:
            raise ConfigError(faults)

    @property
    def remedy(self) -> RemedyConfig | None:
        """The section of the remedy that is on, also as the control of one; None in plain training."""
        return next(iter(_remedies_on(self)), None)

    def hash(self) -> str:
        """sha256 of the canonical JSON: equal exactly for configs that train the same."""
        return hashlib.sha256(_canonical(config_to_flat(self)).encode()).hexdigest()

    def to_json(self) -> str:
        """The resolved config as a file to read: every key, in the order of the reference."""
        return json.dumps(config_to_flat(self), indent=2, ensure_ascii=False)


def _remedies_on(config) -> list[RemedyConfig]:
    """In the order of the sections."""
    return [each for each in vars(config).values() if isinstance(each, RemedyConfig) and each.is_active]


def _rules_of_remedies(config) -> Iterator[Fault]:
    on = _remedies_on(config)
    if len(on) > 1:
        one, other = on[1], on[0]  # the later one is what was added
        name, value = one.switch
        yield Fault(
            f"{name} = {shown(value)}: {other.name} is on too, and a run has one remedy, so that a comparison says which one helped; "
            f"set {one.off_in_words} or {other.off_in_words}.",
            (name, other.switch[0]),
        )
    for each in on:
        kind = config.model.known_prediction_type()
        if kind is None and config.model.is_flow() is False and each.only == "flow_matching":
            kind = "epsilon"  # or another; not a flow in any case
        why = each.unfit(kind)
        if why is not None:
            name, value = each.switch
            yield Fault(
                f"{name} = {shown(value)}: {why}, and {_model_shown(config.model)} is not one; set {each.off_in_words}.",
                (name, "prediction_type", "model_family", "pretrained_model_name_or_path"),
            )


def _rules_between_sections(config) -> Iterator[Fault]:
    is_flow = config.model.is_flow()
    if config.rollout.reflexflow and is_flow is False:
        yield Fault(
            "scheduled_sampling_reflexflow = true: ReflexFlow needs a flow model, and "
            f"{_model_shown(config.model)} is not one; leave it unset or set it to false.",
            ("scheduled_sampling_reflexflow", "prediction_type", "model_family", "pretrained_model_name_or_path"),
        )
    yield from _rules_of_remedies(config)
    if config.training.flow_schedule_shift is not None and is_flow is False:
        yield Fault(
            f"flow_schedule_shift = {shown(config.training.flow_schedule_shift)}: only flow models have a shift, and "
            f"{_model_shown(config.model)} is not one; leave it unset.",
            ("flow_schedule_shift", "prediction_type", "model_family", "pretrained_model_name_or_path"),
        )
    for name in () if is_flow is None else config.training.not_for(is_flow=is_flow):
        yield Fault(
            f"{name} = {shown(getattr(config.training, name))}: is defined for flow models only, and {_model_shown(config.model)} is not "
            "one; leave it out (snr_gamma weighs by noise level there)."
            if not is_flow
            else f"{name} = {shown(getattr(config.training, name))}: is not defined for flow models, and {_model_shown(config.model)} is one; take "
            "cosmap or sigma_sqrt, or leave it out.",
            (name, "prediction_type", "model_family", "pretrained_model_name_or_path"),
        )
    if config.training.model_type == "full" and config.data.output_preservation_weight > 0:
        yield Fault(
            f"output_preservation_weight = {shown(config.data.output_preservation_weight)}: the untrained model's answer is read with the adapter "
            'switched off, and model_type "full" has none; set it to 0 and with_prior_preservation to true, or model_type to "lora".',
            ("output_preservation_weight", "model_type"),
        )
    if config.training.model_type == "full" and config.model.base_model_precision != "float32":
        yield Fault(
            f'base_model_precision = "{config.model.base_model_precision}": with model_type "full" the weights are trained, and that '
            "needs float32; leave it out (mixed_precision computes in 16 bits all the same).",
            ("base_model_precision", "model_type"),
        )
    if config.training.shard_weights and config.rollout.reflexflow_step_gradient:
        yield Fault(
            "scheduled_sampling_reflexflow_step_gradient = true: processes that share weights (shard_weights) must go back through them in one order, and "
            "those without a rolled row have no such gradient; set one of the two to false.",
            ("scheduled_sampling_reflexflow_step_gradient", "shard_weights"),
        )
    yield from _rules_of_kept_weights(config)
    kind, quantised = config.lora.type, config.model.base_model_quantization
    if config.training.model_type == "lora" and kind != "lora" and quantised != "none":
        yield Fault(
            f"lora_type = {shown(kind)}: needs the base's weights as numbers, and base_model_quantization = {shown(quantised)} packs them; set "
            "lora_type to lora, or base_model_quantization to none.",
            ("lora_type", "base_model_quantization"),
        )
    yield from text_encoder_rules(config)


def _rules_of_kept_weights(config) -> Iterator[Fault]:
    """Frozen weights that are quantised, or stream from main memory."""
    model, training = config.model, config.training
    asked = {"base_model_quantization": model.base_model_quantization, "streamed_blocks": model.streamed_blocks}
    for name, value in asked.items():
        if value in ("none", 0):
            continue
        if training.compile:
            why = (
                "a streamed block exchanges its weights inside the call"
                if name == "streamed_blocks"
                else "packed weights were not tried with it"
            )
            yield Fault(
                f"compile = true: {name} = {shown(value)}, and {why}; set compile to false, or {name} to its default.",
                ("compile", name),
            )
        if training.model_type == "full":
            off = "none" if name == "base_model_quantization" else 0
            yield Fault(
                f'{name} = {shown(value)}: with model_type "full" these weights are trained, and only frozen ones can be kept so; '
                f'set {name} to {shown(off)}, or model_type to "lora".',
                (name, "model_type"),
            )
        elif not training.gradient_checkpointing and value not in ("nf4", "int8_bnb"):
            why = (
                "the weights of a block are kept"
                if name == "streamed_blocks"
                else "torchao unpacks every weight and keeps that"
            )
            yield Fault(
                f"{name} = {shown(value)}: {why} for the backward pass, so without gradient_checkpointing it would save nothing; set "
                "gradient_checkpointing to true.",
                (name, "gradient_checkpointing"),
            )


def _model_shown(model: ModelConfig) -> str:
    if model.prediction_type is not None:
        return f'prediction_type "{model.prediction_type}"'
    if model.model_family != "auto":
        return f'model_family "{model.model_family}"'
    return model.pretrained_model_name_or_path


SECTIONS: dict[str, type[Checked]] = typing.get_type_hints(RunConfig)
"""Section name -> its class, in order."""
OPTIONS: dict[str, Option] = {each.name: each for name, cls in SECTIONS.items() for each in options_of(cls, name)}
"""Flat name -> option, in the order of the sections."""


def _canonical(flat: Mapping[str, Any]) -> str:
    return json.dumps(flat, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def config_to_flat(config: RunConfig) -> dict[str, Any]:
    """Every option by its flat name, in order; tuples as lists, ready for JSON."""
    flat = {}
    for name, each in OPTIONS.items():
        value = getattr(getattr(config, each.section), each.field)
        flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def config_from_flat(mapping: Mapping[str, Any]) -> RunConfig:
    """The config that a flat mapping describes; absent keys have their defaults.

    Keys may carry a leading `--`; a key that starts with `_` is a remark and is passed over. Strings are understood for numbers,
    booleans and lists ("1e-4", "false", "1,3,5"); "none", "null" and "" unset what can be unset.

    Raises:
        ConfigError: with every fault: unknown keys (and the nearest name), values, and rules between values. Of a newer version's, that alone.
    """
    refuse_newer(mapping, "It")
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    wrong: set[str] = set()
    for key, value in mapping.items():
        if str(key).startswith("_"):
            continue
        name = str(key).removeprefix("--")
        if name not in OPTIONS:
            near = did_you_mean(name, OPTIONS)
            faults.append(
                Fault(f"Unknown option '{name}'.{near if near else ' All names: rollout-studio options.'}", (name,))
            )
        elif name in values or name in wrong:
            faults.append(Fault(f"Option '{name}' is given twice, once as '--{name}'; keep one.", (name,)))
        else:
            try:
                values[name] = OPTIONS[name].read(value, text=True)
            except ConfigError as error:
                faults += error.faults
                wrong.add(name)
    if not faults:
        # Each section is built on bare values first, so that the rules of all sections speak, not only those of the first wrong one.
        faults = _rule_faults(values)
    else:
        # A rule over a value that is wrong in itself would judge the default in its place: leave it out.
        faults += [fault for fault in _rule_faults(values) if not wrong.intersection(fault.options)]
    if faults:
        raise ConfigError(faults)
    sections: dict[str, Any] = {name: cls(**_fields(name, values)) for name, cls in SECTIONS.items()}
    return RunConfig(**sections)


def refuse_newer(mapping: Mapping[str, Any], where: str) -> None:
    """Raises: ConfigError for settings of a newer version: of a format that is not read here, or with an option that is not known. `where`: what
    messages call them."""
    written_by = mapping.get(formats.WRITTEN_BY)
    newer = formats.refusal("settings", mapping.get(formats.NUMBER), written_by)
    unknown = [name for key in mapping if (name := str(key).removeprefix("--")) not in OPTIONS and name[:1] != "_"]
    if newer is None and unknown:
        newer = formats.refusal_of_version(written_by, f"the options {', '.join(unknown[:5])}")
    if newer is not None:
        raise ConfigError([Fault(f"{where} {newer}")])


def _fields(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {OPTIONS[name].field: value for name, value in values.items() if OPTIONS[name].section == section}


def _rule_faults(values: Mapping[str, Any]) -> list[Fault]:
    sections = {}
    for name, cls in SECTIONS.items():
        # the class without its checks: the values are checked, the rules are what is asked for
        bare = object.__new__(cls)
        given = _fields(name, values)
        for each in dataclasses.fields(cls):
            object.__setattr__(bare, each.name, given.get(each.name, each.default))
        sections[name] = bare
    faults = [fault for bare in sections.values() for fault in bare.rules()]
    return faults + list(_rules_between_sections(SimpleNamespace(**sections)))


def with_changes(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A new config: this one with some flat keys changed. Raises ConfigError like `config_from_flat`."""
    return config_from_flat(config_to_flat(config) | {key.removeprefix("--"): value for key, value in changes.items()})


def differences(config: RunConfig, base: RunConfig | None = None) -> dict[str, Any]:
    """The flat keys in which `config` differs from `base` (unset: the defaults), with the values of `config`."""
    other = config_to_flat(RunConfig() if base is None else base)
    return {name: value for name, value in config_to_flat(config).items() if value != other[name]}


def read_flat(path: str | Path, *, unwrap: bool = True) -> dict[str, Any]:
    """The options in a config file, as written: one flat JSON object.

    Keys may be bare or start with `--`; `{"_metadata": ..., "config": {...}}` is unwrapped, unless `unwrap` is false; other keys with `_` are
    remarks.

    Raises:
        ConfigError: no such file, not UTF-8, broken JSON (with line and column), a key twice, not an object.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([Fault(f"{path}: there is no such file; check the path.")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8.")]) from None
    except OSError as error:
        raise ConfigError([Fault(f"{path}: cannot be read ({error.strerror}).")]) from None
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                twice.append(key)
            seen[key] = value
        return seen

    try:
        flat = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        line = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
        hint = " A comma after the last entry is not allowed in JSON." if _after_comma(text, error.pos) else ""
        raise ConfigError([
            Fault(f"{path}, line {error.lineno}, column {error.colno}: broken JSON: {error.msg}.{hint} The line reads: {line}")
        ]) from None  # fmt: skip
    except RecursionError:
        raise ConfigError([Fault(f"{path}: is nested too deeply; a config is one flat JSON object.")]) from None
    except ValueError:  # Python reads no whole number of more than 4300 digits
        raise ConfigError([Fault(f"{path}: holds a number with thousands of digits; no option takes one.")]) from None
    if unwrap and isinstance(flat, dict) and isinstance(flat.get("config"), dict):
        flat = flat["config"]
    if not isinstance(flat, dict):
        raise ConfigError([Fault(f'{path}: must be one JSON object, for example {{"max_train_steps": 500}}.')])
    if twice:
        raise ConfigError([Fault(f"{path}: '{key}' is given twice; keep one.", (key,)) for key in twice])
    return flat


def _after_comma(text: str, position: int) -> bool:
    before = text[:position].rstrip()
    return before.endswith(",") or text[position : position + 1] == ","


def read_config(path: str | Path) -> RunConfig:
    """The config in a file; see `read_flat` and `config_from_flat` for what is understood and refused."""
    flat = read_flat(path)
    try:
        return config_from_flat(flat)
    except ConfigError as error:
        raise ConfigError([Fault(f"{path}: {fault.message}", fault.options) for fault in error.faults]) from None
