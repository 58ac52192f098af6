"""DREAM."""

from dataclasses import dataclass
from typing import ClassVar

from ..options import option
from .remedy import RemedyConfig

_DREAM = "DREAM (arXiv 2312.00210)"


@dataclass(frozen=True, kw_only=True)
class DreamConfig(RemedyConfig):
    """DREAM: the model's own error of the noise is put into the input and into the target, so that it learns to correct it."""

    title: ClassVar[str] = "DREAM"
    prefix: ClassVar[str] = "dream_"
    name: ClassVar[str] = "DREAM"
    off: ClassVar = {"dream_training": False}
    only: ClassVar = "epsilon"

    training: bool = option(
        False,
        "Add the model's own error of the noise to the input and to the target of every row. One more forward a row. Models that predict the "
        "noise only (SD 1.5, SDXL); not together with another remedy.", label="DREAM", source=_DREAM, level="advanced", since="0.4",
    )  # fmt: skip
    detail_preservation: float = option(
        1.0,
        "Power p of sigma^p, the share of the error that is added: higher keeps it to the noisiest rows; 0 = all of it everywhere, 1 in the paper.",
        label="Keeping of details (p)", ge=0, le=100, source=_DREAM, level="advanced", since="0.4", soft=10,
    )  # fmt: skip

    @property
    def is_active(self) -> bool:
        return self.training
