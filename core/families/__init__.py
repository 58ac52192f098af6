"""Model families: everything that differs between model kinds, behind one `Model` (see `base`).

`load_model` opens a model; `source.locate`, `known.known_family` and the facts (`registry.FAMILIES`) answer questions about one without
torch. To add a family: a folder with its facts (`__init__.py`) and its `Model` (`model.py`, which says what `base.Family` lists), a
preset, its pipeline in `tests/tiny.py`; `tests/core/test_families.py` tests it, and `tools/family_table.py` writes docs/families.md.
"""

from typing import TYPE_CHECKING, Protocol, cast

from .facts import FamilyFacts
from .registry import FAMILIES
from .source import ModelError, Source, locate

if TYPE_CHECKING:
    from ..maths.noise import PredictionType
    from .base import Model

__all__ = ["FAMILIES", "FamilyFacts", "Model", "ModelError", "Source", "family_class", "load_model", "locate"]


class Choice(Protocol):
    """Which model, and how to hold it: the config's model section."""

    model_family: str
    pretrained_model_name_or_path: str
    revision: str | None
    variant: str | None
    pretrained_components: str | None
    base_model_precision: str
    base_model_quantization: str
    streamed_blocks: int
    prediction_type: str | None
    device: str


def __getattr__(name: str):
    if name == "Model":  # lazily, so that `locate` costs no torch
        from .base import Model

        return Model
    raise AttributeError(name)


def family_class(name: str) -> "type[Model]":
    """The class of a family. Imports torch and diffusers."""
    return FAMILIES[name].model_class()


def load_model(config: Choice, *, flow_shift: float | None = None, for_training: bool = True) -> "Model":
    """Open the model that the config's model section names.

    Args:
        config: `model_family` ("auto" reads it from the checkpoint), `pretrained_model_name_or_path`, `revision`,
            `variant`, `pretrained_components`, `base_model_precision`, `base_model_quantization`, `streamed_blocks`, `prediction_type`, `device`.
        flow_shift: the static shift with which training times are drawn; None = the checkpoint's. It never changes the
            inference schedule.
        for_training: the network is opened when it is first asked for (`Model.denoiser`), and in train mode; else at once, in eval mode.
            Every weight is frozen either way: `core.adapters` opens what shall train.

    Raises: ModelError (with a remedy) for a missing, gated, pickled, unsupported or contradictory model, or a device
        that is not there.
    """
    from .loading import Storage

    source = locate(config.pretrained_model_name_or_path, config.revision, config.variant, config.pretrained_components)
    family = source.family
    if config.model_family not in ("auto", family):
        raise ModelError(
            f"model_family = {config.model_family}, but '{source.name}' is {family} (a {source.pipeline_name}).",
            f"Set model_family to {family} or auto, or choose another model.",
        )
    refusal = FAMILIES[family].refuse(source.configs, source.name)
    if refusal is not None:  # before weights are downloaded; `Family.check` sees the opened pipeline
        raise ModelError(f"'{source.name}' {refusal.why}", refusal.remedy)
    return family_class(family).open(
        source,
        precision=config.base_model_precision,
        prediction_type=cast("PredictionType | None", config.prediction_type),
        device=config.device,
        flow_shift=flow_shift,
        for_training=for_training,
        storage=Storage(config.base_model_quantization, config.streamed_blocks),
    )
