"""Model families: everything that differs between model kinds, behind one `Model` (see `base.Model`).

`load_model` opens a model; `source.locate` answers questions about one without torch. To add a family: one file with a
subclass of `Model`, one line in `FAMILIES`, its pipeline class in `source.FAMILY_OF_PIPELINE`;
`tests/core/test_families.py` greets you.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .source import FAMILY_OF_PIPELINE, ModelError, Source, locate

if TYPE_CHECKING:
    from ..config import ModelConfig
    from .base import Model

FAMILIES: dict[str, tuple[str, str]] = {
    "sd1x": (".sd", "StableDiffusion1"),
    "sd2x": (".sd", "StableDiffusion2"),
    "sd3": (".sd3", "StableDiffusion3"),
    "lumina2": (".lumina2", "Lumina2"),
}
"""Family name -> (module, class); imported only when used, because diffusers takes seconds to import."""

__all__ = ["FAMILIES", "FAMILY_OF_PIPELINE", "Model", "ModelError", "Source", "family_class", "load_model", "locate"]


def __getattr__(name: str):
    if name == "Model":  # lazily, so that `locate` costs no torch
        from .base import Model

        return Model
    raise AttributeError(name)


def family_class(name: str) -> "type[Model]":
    """The class of a family. Imports torch and diffusers."""
    module, attribute = FAMILIES[name]
    return getattr(import_module(module, __name__), attribute)


def load_model(config: "ModelConfig", *, flow_shift: float | None = None, for_training: bool = True) -> "Model":
    """Open the model that the config's model section names.

    Args:
        config: `model_family` ("auto" reads it from the checkpoint), `pretrained_model_name_or_path`, `revision`,
            `variant`, `base_model_precision`, `prediction_type`, `device`.
        flow_shift: the static shift with which training times are drawn; None = the checkpoint's. It never changes the
            inference schedule.
        for_training: the denoiser is left in train mode (else in eval mode). Every weight is frozen either way:
            `core.adapters` opens what shall train.

    Raises: ModelError (with a remedy) for a missing, gated, pickled, unsupported or contradictory model, or a device
        that is not there.
    """
    source = locate(config.pretrained_model_name_or_path, config.revision, config.variant)
    family = source.family
    if config.model_family not in ("auto", family):
        raise ModelError(
            f"model_family = {config.model_family}, but '{source.name}' is {family} (a {source.pipeline_name}).",
            f"Set model_family to {family} or auto, or choose another model.",
        )
    return family_class(family).open(
        source,
        precision=config.base_model_precision,
        prediction_type=config.prediction_type,
        device=config.device,
        flow_shift=flow_shift,
        for_training=for_training,
    )
