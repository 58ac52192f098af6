"""The load check: an exported file must do, in a fresh stock pipeline, what the trainer's model does.

Several wrong files load silently without effect, so nothing less than a prediction counts.
"""

from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..families.quantised import is_quantised
from ..randomness import kept_random_state
from . import encoder_files, kohya, text_encoders, variants
from .files import base_weight, file_name
from .header import ExportError, read_metadata
from .kinds import MAGNITUDE
from .loading import adapter_matrices, has_adapter
from .lora_file import read_lora_header
from .lora_layers import Base, kohya_keys
from .matrices import Matrices, difference
from .trainable import ADAPTER, adapted_layers, adapter_state
from .variants import Change

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Model
    from ..families.source import Source

EXACT, ROUNDED = 0.01, 0.06
"""Allowed difference of the predictions, in shares of the adapter's effect: of float32 files, and of 16-bit files, whose weights are
rounded and whose adapter then computes in 16 bits. A wrong alpha, a lost layer or a wrong name changes far more."""
SAME_CHANGE, SAME_CHANGE_ROUNDED = 1e-4, 2e-2
"""By how much the change that a loaded layer makes to its weight may differ from the file's: a loader that multiplies alpha in rounds once more."""
NOISE_FLOOR = 2e-5
NOISE_FLOOR_ROUNDED = 5e-2
"""And what float32 itself may differ by, in shares of the prediction's root mean square; the same for 16 bits."""

WORDS = "a photo of a thing"
"""What both models are asked for where text encoders are compared too."""


@dataclass(frozen=True)
class ExportCheck:
    """What the fresh pipeline made of the file.

    `missing`: tensors that the loaded adapter has but the file lacks; `unexpected`: tensors of the file that it has no
    place for. `used` of `total`: tensors of the file that arrived unchanged and took part in a prediction.
    `max_difference`: largest difference of one prediction to the reference's; `effect`: largest difference that the
    training makes in it. `reference`: "trainer" (the live model) or "file" (the base with the file's matrices added by
    hand). `layout`: of the file. In the kohya layout a key is missing or unexpected by the family's key map, and a tensor arrived where the
    loaded layers change their weights as it says, because loaders split and scale these.
    """

    path: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    used: int
    total: int
    max_difference: float
    effect: float
    tolerance: float
    reference: str
    layout: str = "diffusers"

    @property
    def passed(self) -> bool:
        return (
            not self.missing
            and not self.unexpected
            and self.used == self.total > 0
            and self.max_difference <= self.tolerance
        )

    def as_dict(self) -> dict[str, Any]:
        """For an event or a JSON file."""
        return asdict(self) | {
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "passed": self.passed,
        }

    def __str__(self) -> str:
        return (
            f"{self.used} / {self.total} tensors used, {len(self.missing)} missing, {len(self.unexpected)} unexpected; "
            f"prediction differs by {self.max_difference:.2g} where the training's effect is {self.effect:.2g}"
        )


def check_export(
    path: Path | str, config: "RunConfig", model: "Model | None" = None, state: Mapping[str, Tensor] | None = None
) -> ExportCheck:
    """Load the file (or folder) in a fresh stock pipeline, with diffusers' own loader, and compare.

    Args:
        path: what `export_lora` or `export_full` wrote.
        config: its model section names the base.
        model: the live model, the reference of choice; None = the base with the file's matrices added by hand.
        state: the weights that were exported instead of the model's current ones (a moving average); used for the
            comparison only.

    Cost: loads the base model once more, on the model's device, and runs a few forwards of two rows. The live model's
    mode and weights and the global random state are afterwards what they were.

    Raises: ExportError where the check fails; its text is the reason, and the file stays for inspection.
    """
    path = Path(path)
    with kept_random_state(), torch.no_grad():
        if path.is_dir():
            check = _check_full(path, model, state)
        elif not read_lora_header(path).is_read_by_diffusers:
            check = check_read_back(path, config, model, state)
        elif read_metadata(path).get("rollout_studio_layout") == "kohya":
            check = _check_kohya(path, config, model, state)
        else:
            check = _check_lora(path, config, model, state)
    if not check.passed:
        named = [f"missing {', '.join(check.missing[:3])}"] if check.missing else []
        named += [f"unexpected {', '.join(check.unexpected[:3])}"] if check.unexpected else []
        raise ExportError(
            f"The load check of '{path}' failed: {check} (allowed {check.tolerance:.2g})"
            f"{''.join('; ' + part for part in named)}. A stock diffusers pipeline would not do what the trained model "
            "does: do not share this file. The checkpoints are not affected; export again, and report the versions of "
            "diffusers and peft if it stays."
        )
    return check


def fresh_model(source: "Source", model: "Model | None", config: "RunConfig | None") -> "Model":
    """A second model: the stock pipeline from disk, its network kept as the live one's or as the config says, so that the file alone can
    make a difference. Text encoders only where no live model can lend a prompt, or they are trained too."""
    from ..families import family_class
    from ..families.devices import DTYPES, resolve_device
    from ..families.loading import Storage

    family = family_class(source.family) if model is None else type(model)
    dtype = DTYPES[config.model.base_model_precision] if model is None else model.dtype
    device = resolve_device(config.model.device) if model is None else model.device
    prediction = config.model.prediction_type if model is None else model.prediction_type
    storage = (
        Storage(config.model.base_model_quantization, config.model.streamed_blocks) if model is None else model.storage
    )
    storage.check(device)
    without = () if model is None or model.text.stay else family.facts.text_encoders
    pipe = family.open_pipeline(source, dtype, device, storage, without)
    return family(
        pipe, source, prediction_type=prediction, device=device, dtype=dtype, flow_shift=None, storage=storage
    )


def _opened(config: "RunConfig", model: "Model | None") -> "Model":
    from ..families import locate

    section = config.model
    if model is not None:
        return fresh_model(model.source, model, config)
    return fresh_model(
        locate(section.pretrained_model_name_or_path, section.revision, section.variant, section.pretrained_components),
        model,
        config,
    )


def _check_lora(
    path: Path, config: "RunConfig", model: "Model | None", state: Mapping[str, Tensor] | None
) -> ExportCheck:
    from safetensors.torch import load_file

    fresh, in_file = _opened(config, model), load_file(path)
    probe = Probe(fresh, model, words=WORDS if any(map(text_encoders.is_encoders, in_file)) else None)
    base = probe.prediction(fresh)
    if model is not None:
        reference = probe.prediction(model, state)
    else:
        with layers_added(fresh, _of_diffusers(path, in_file, fresh)):
            reference = probe.prediction(fresh)

    prediction, ran = _with_the_file(fresh, path, probe)
    loaded = {
        f"{fresh.component}.{file_name(name.replace('.check.', f'.{ADAPTER}.'))}": tensor
        for name, tensor in fresh.denoiser.state_dict().items()
        if ".lora_" in name
    } | {
        f"{name}.lora_{letter}.weight": getattr(module, f"lora_{letter}")["check"].weight
        for name, module in text_encoders.modules(fresh)
        if text_encoders.is_encoders(name) and has_adapter(module, "check")
        for letter in "AB"
    }
    used = sum(
        name in loaded
        and torch.equal(loaded[name].cpu(), tensor.to(loaded[name].dtype))
        and name.removesuffix(".weight").removeprefix(f"{fresh.component}.").replace(MAGNITUDE, "lora_B") in ran
        for name, tensor in in_file.items()
    )
    effect = float((reference - base).abs().max())
    exact = _is_exact(fresh, in_file)
    return ExportCheck(
        path=str(path),
        missing=tuple(sorted(loaded.keys() - in_file.keys())),
        unexpected=tuple(sorted(in_file.keys() - loaded.keys())),
        used=used,
        total=len(in_file),
        max_difference=float((prediction - reference).abs().max()),
        effect=effect,
        tolerance=(EXACT if exact else ROUNDED) * effect + probe.floor(reference),
        reference="file" if model is None else "trainer",
    )


def _check_kohya(
    path: Path, config: "RunConfig", model: "Model | None", state: Mapping[str, Tensor] | None
) -> ExportCheck:
    from safetensors.torch import load_file

    fresh = _opened(config, model)
    base, in_file = Base.of_model(fresh), load_file(path)
    of_encoders, others = encoder_files.read(in_file, base.facts, base.encoder_shapes)
    layers = kohya.read(others, base.kohya(), base.network, base.shapes)[0] | of_encoders
    trained = list(layers) if model is None else adapted_layers(model)
    named = kohya_keys(trained, base)
    probe = Probe(fresh, model, words=WORDS if of_encoders else None)
    without = probe.prediction(fresh)
    if model is not None:
        reference = probe.prediction(model, state)
    else:
        with layers_added(fresh, layers):
            reference = probe.prediction(fresh)

    prediction, ran = _with_the_file(fresh, path, probe)
    loaded = {
        layer: Matrices(a, b, scale * a.shape[0])
        for layer, module in text_encoders.modules(fresh)
        if has_adapter(module, "check")
        for a, b, _, scale in [adapter_matrices(module, "check")]
    }
    exact = _is_exact(fresh, in_file)
    arrived = {
        layer
        for layer, one in layers.items()
        if {f"{layer}.lora_A", f"{layer}.lora_B"} <= ran
        and layer in loaded
        and difference(one, loaded[layer]) < (SAME_CHANGE if exact else SAME_CHANGE_ROUNDED)
    }
    lost = kohya_keys([layer for layer in layers if layer not in arrived], base)
    added = {f"{fresh.component}.{layer}" for layer, one in loaded.items() if layer not in layers and bool(one.b.any())}
    effect = float((reference - without).abs().max())
    return ExportCheck(
        path=str(path),
        missing=tuple(sorted(named - in_file.keys())),
        unexpected=tuple(sorted((in_file.keys() - named) | added)),
        used=len((in_file.keys() & named) - lost),
        total=len(in_file),
        max_difference=float((prediction - reference).abs().max()),
        effect=effect,
        tolerance=(EXACT if exact else ROUNDED) * effect + probe.floor(reference),
        reference="file" if model is None else "trainer",
        layout="kohya",
    )


def check_read_back(
    path: Path, config: "RunConfig", model: "Model | None", state: Mapping[str, Tensor] | None
) -> ExportCheck:
    """Of files that no stock pipeline reads whole: the keys by the kind and the layers, and the base with every layer changed as the file
    and the kind's definition say, against the trainer's model. The definitions are those of ComfyUI's and LyCORIS' readers."""
    from safetensors.torch import load_file

    fresh, in_file, kind = _opened(config, model), load_file(path), read_lora_header(path).kind
    base, weights = Base.of_model(fresh), partial(base_weight, fresh)
    metadata = read_metadata(path)
    layers, left = variants.read(in_file, kind, base, weights, metadata)
    trained = layers
    if model is not None:
        trained = variants.of_trained(model, kind, adapter_state(model) if state is None else state)
    named = variants.keys(trained, base)
    probe = Probe(fresh, model)
    without = probe.prediction(fresh)
    with layers_added(fresh, layers):
        by_definition = probe.prediction(fresh)
    if model is None:  # peft's layers with the file's tensors against the definition
        variants.place(fresh, layers, "check")
        reference, prediction = by_definition, probe.prediction(fresh)
    else:
        reference, prediction = probe.prediction(model, state), by_definition
    exact = _is_exact(fresh, in_file)
    apart = SAME_CHANGE if exact else SAME_CHANGE_ROUNDED
    arrived = {
        layer
        for layer, one in trained.items()
        if layer in layers and _apart(one, layers[layer], weights(layer)) < apart
    }
    lost = (
        variants.keys({layer: one for layer, one in trained.items() if layer not in arrived}, base)
        if arrived != set(trained)
        else set()
    )
    effect = float((reference - without).abs().max())
    return ExportCheck(
        path=str(path),
        missing=tuple(sorted(named - in_file.keys())),
        unexpected=tuple(sorted((in_file.keys() - named) | set(left))),
        used=len((in_file.keys() & named) - lost),
        total=len(in_file),
        max_difference=float((prediction - reference).abs().max()),
        effect=effect,
        tolerance=(EXACT if exact else ROUNDED) * effect + probe.floor(reference),
        reference="file" if model is None else "trainer",
        layout="kohya",
    )


def _is_exact(fresh: "Model", in_file: Mapping[str, Tensor]) -> bool:
    """Whether neither the model nor the file rounds to 16 bits."""
    return fresh.dtype == torch.float32 and all(tensor.dtype == torch.float32 for tensor in in_file.values())


def _apart(one: Change, other: Change, weight: Tensor) -> float:
    """The share by which two changes of a layer differ."""
    mine, its = one.of(weight), other.of(weight)
    size, apart = float(mine.norm()), float((mine - its).norm())
    # where nothing was trained, what is left is rounding of the weight itself
    return apart / size if size > NOISE_FLOOR * float(weight.float().norm()) else apart


def _with_the_file(fresh: "Model", path: Path, probe: "Probe") -> tuple[Tensor, set[str]]:
    """(the prediction with the file loaded as the adapter "check" by the pipeline's own loader, the matrices that took part).

    Raises: ExportError where the loader refuses the file.
    """
    with _without_warnings():
        try:
            fresh.pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="check")
        except Exception as error:  # the loader raises whatever its converters raise
            raise ExportError(
                f"The load check of '{path}' failed: a stock diffusers pipeline cannot read it ({' '.join(str(error).split())[:300]}). "
                "Do not share this file; the checkpoints are not affected."
            ) from error
    with _layers_that_ran(fresh) as ran:
        return probe.prediction(fresh), ran


def _check_full(path: Path, model: "Model | None", state: Mapping[str, Tensor] | None) -> ExportCheck:
    """The folder's denoiser against the live one; without a live model there is nothing to compare with."""
    from ..families import locate

    if model is None:
        raise ValueError("The check of a full fine-tune compares with the trainer's model: give `model`.")
    fresh = fresh_model(locate(str(path)), model, None)
    probe = Probe(fresh, model)
    reference, prediction = probe.prediction(model, state), probe.prediction(fresh)
    base = probe.prediction(fresh_model(model.source, model, None))
    here, there = model.denoiser.state_dict(), fresh.denoiser.state_dict()
    here = {name: (state or {}).get(name, tensor) for name, tensor in here.items()}
    saved = _saved_dtype(path / fresh.component)
    # A share of the weights themselves: a file in 16 bits rounds every one of them.
    exact = saved == torch.float32
    used = sum(
        name in here and torch.equal(tensor.cpu(), here[name].to("cpu", saved).to(tensor.dtype))
        for name, tensor in there.items()
    )
    effect = float((reference - base).abs().max())
    floor = probe.floor(reference) if exact else NOISE_FLOOR_ROUNDED * float(reference.square().mean().sqrt())
    return ExportCheck(
        path=str(path),
        missing=tuple(sorted(here.keys() - there.keys())),
        unexpected=tuple(sorted(there.keys() - here.keys())),
        used=used,
        total=len(there),
        max_difference=float((prediction - reference).abs().max()),
        effect=effect,
        tolerance=(EXACT if exact else ROUNDED) * effect + floor,
        reference="trainer",
    )


class Probe:
    """Two rows of noise at two noise levels, with a prompt: the same for both models.

    `words`: each model encodes them itself, with the text encoders that it has then; None = one encodes the empty prompt for both.
    """

    def __init__(self, fresh: "Model", model: "Model | None", words: str | None = None):
        one = (fresh if model is None else model).unconditional()
        self.cond = fresh.collate([one, one])
        self.words = words
        side = min(16, *(size // fresh.latent_scale for size in fresh.default_size))
        draws = torch.Generator().manual_seed(0)
        self.x = torch.randn(2, fresh.latent_channels, side, side, generator=draws).to(fresh.device)
        ends = fresh.training_times((fresh.latent_channels, side, side))
        self.t = torch.stack([ends[len(ends) // 4], ends[3 * len(ends) // 4]]).to(fresh.device)

    def prediction(self, model: "Model", state: Mapping[str, Tensor] | None = None) -> Tensor:
        """In eval mode, with `state` in place of the model's current weights."""
        from ..families.modes import evaluating

        with evaluating(model.denoiser), _weights(model, state) if state is not None else nullcontext():
            return model.denoise(self.x, self.t, self.cond if self.words is None else self._encoded(model))

    def _encoded(self, model: "Model") -> Any:
        """The words, encoded in 32 bits: in 16 an encoder's own rounding would hide what its LoRA does."""
        with text_encoders.in_32_bits(model):
            return model.collate(model.encode_prompts([str(self.words)]) * 2)

    def floor(self, reference: Tensor) -> float:
        share = NOISE_FLOOR if next(iter(self.cond.values())).dtype == torch.float32 else NOISE_FLOOR_ROUNDED
        if self.words is not None:
            share *= 2  # the network's input is rounded too: 6 % was seen in bfloat16
        return share * float(reference.square().mean().sqrt())


@contextmanager
def _weights(model: "Model", state: Mapping[str, Tensor]):
    from .trainable import load_adapter_state

    own = adapter_state(model)
    load_adapter_state(model, state)
    try:
        yield
    finally:
        load_adapter_state(model, own)


def _of_diffusers(path: Path, tensors: Mapping[str, Tensor], fresh: "Model") -> Mapping[str, Matrices | Change]:
    """The layers of a file in the diffusers layout, at scale 1."""
    component = fresh.component
    if read_lora_header(path).kind == "dora":
        return variants.read(tensors, "dora", Base.of_model(fresh), partial(base_weight, fresh), {})[0]
    return {
        name.removeprefix(f"{component}.").removesuffix(".lora_A.weight"): Matrices(
            a, tensors[name.replace(".lora_A.", ".lora_B.")], float(a.shape[0])
        )
        for name, a in tensors.items()
        if name.endswith(".lora_A.weight")
    }


@contextmanager
def layers_added(model: "Model", layers: Mapping[str, Matrices | Change]):
    """The base with W + alpha / rank * B A in every layer: LoRA by its definition (other kinds by theirs), without any loader. Of a
    quantised layer the output: W x + alpha / rank * B A x."""
    undo, modules = [], dict(text_encoders.modules(model))
    for layer, matrices in layers.items():
        module = modules[layer]
        if is_quantised(module) and isinstance(matrices, Matrices):
            undo.append(module.register_forward_hook(partial(_plus_matrices, matrices)).remove)
            continue
        weight: Any = module.weight
        undo.append(partial(weight.copy_, weight.clone()))
        change = matrices.of(weight) if isinstance(matrices, Change) else matrices.delta()
        weight += change.reshape(weight.shape).to(weight)
    try:
        yield
    finally:
        for each in undo:
            each()


def _plus_matrices(matrices: Matrices, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    a, b = (each.to(output.device).float() for each in (matrices.a, matrices.b))
    return output + (matrices.scale * (inputs[0].float() @ a.T @ b.T)).to(output)


@contextmanager
def _without_warnings():
    """diffusers warns that the text encoders have no LoRA; that is so on purpose, and lost keys are counted here."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def _layers_that_ran(model: "Model"):
    """Names of the adapter's matrices that a forward inside went through."""
    ran: set[str] = set()
    hooks = []
    for name, module in text_encoders.modules(model):
        if name.endswith((".lora_A.check", ".lora_B.check")):
            hooks.append(module.register_forward_hook(lambda *_, name=name: ran.add(name.removesuffix(".check"))))
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def _saved_dtype(folder: Path) -> torch.dtype:
    from safetensors import safe_open

    file = min(folder.glob("*.safetensors"))
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype
