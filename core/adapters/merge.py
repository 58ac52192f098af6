"""A LoRA merged into its base: a pipeline folder whose network has W + alpha / rank * B A as its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import platform_calls
from ..randomness import kept_random_state
from . import text_encoders
from .check import EXACT, ROUNDED, WORDS, Probe
from .header import ExportError
from .loading import Fit, load_lora

if TYPE_CHECKING:
    from ..families.base import Model
    from ..families.source import Source

_NAME = "merged"


@dataclass(frozen=True)
class Merged:
    """`fit`: what became of the LoRA's tensors. `difference`: largest one of a prediction by the written folder to the base's with the LoRA;
    `effect`: what the LoRA changes in it."""

    path: Path
    fit: Fit
    difference: float
    effect: float

    def __str__(self) -> str:
        return (
            f"{self.fit}; the written model's prediction differs by {self.difference:.2g} from the base with the LoRA, whose effect is "
            f"{self.effect:.2g}"
        )


def merge(
    lora: Path, source: "Source", folder: Path, *, precision: str = "float32", scale: float = 1.0, device: str = "cpu"
) -> Merged:
    """Write `source` with the LoRA merged in to `folder`, whole or not at all, and compare it with the base that has the LoRA loaded.

    Args:
        lora: a file of any layout that the pipeline's own loader reads; what it changes of text encoders is merged too.
        folder: becomes a pipeline folder for `from_pretrained`; one that is there is replaced.
        precision: of the written weights and of the comparison ("float32", "bfloat16", "float16").
        scale: strength of the LoRA; 1 = as trained.
    Cost: opens the model twice.
    Raises: LoraError where the LoRA does not fit; ExportError where the written folder does something else. Then there is no folder.
    """
    with kept_random_state(), torch.no_grad():
        model = _opened(source, precision, device)
        probe = Probe(model, None, words=WORDS if model.facts.trained_encoders else None)
        base = probe.prediction(model)
        fit = load_lora(model, lora, _NAME, text_encoders=bool(model.facts.trained_encoders))
        model.pipe.set_adapters([_NAME], [scale])
        reference = probe.prediction(model)
        model.pipe.fuse_lora(
            components=[model.component, *text_encoders.adapted_encoders(model)], lora_scale=1.0, safe_fusing=True
        )
        model.pipe.unload_lora_weights()
        with platform_calls.replacing_folder(folder) as part:
            model.pipe.to("cpu").save_pretrained(part, safe_serialization=True)
            difference, effect = _compared(part, probe, reference, base, precision, device)
    return Merged(folder, fit, difference, effect)


def _opened(source: "Source", precision: str, device: str) -> "Model":
    from ..families import family_class

    return family_class(source.family).open(
        source, precision=precision, prediction_type=None, device=device, flow_shift=None, for_training=False
    )


def _compared(
    folder: Path, probe: Probe, reference: torch.Tensor, base: torch.Tensor, precision: str, device: str
) -> tuple[float, float]:
    from ..families import locate

    difference = float((probe.prediction(_opened(locate(str(folder)), precision, device)) - reference).abs().max())
    effect = float((reference - base).abs().max())
    allowed = (EXACT if precision == "float32" else ROUNDED) * effect + probe.floor(reference)
    if not difference <= allowed:
        raise ExportError(
            f"The merged model is not the base with the LoRA: a prediction differs by {difference:.2g} (allowed {allowed:.2g}) where the "
            f"LoRA's effect is {effect:.2g}. Nothing was written; merge in float32."
        )
    return difference, effect
