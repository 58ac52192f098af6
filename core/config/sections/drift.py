"""The drift report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..options import LARGEST_SEED, Checked, Fault, option, path_faults


@dataclass(frozen=True, kw_only=True)
class DriftConfig(Checked):
    """Measure how far the model drifts on its own output, on pictures that it was not trained on."""

    title: ClassVar[str] = "Drift probe"
    prefix: ClassVar[str] = "drift_"

    step_interval: int = option(
        0,
        "A drift report every so many steps; 0 = only at the start, the end and when asked.",
        label="Drift picture every",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    data_dir: str | None = option(
        None,
        "Pictures with captions to measure on; unset = some instance pictures, held out of the training.",
        label="Folder with probe pictures",
        level="advanced",
    )
    holdout_images: int = option(
        1,
        "Instance pictures kept out of the training for this when drift_data_dir is unset and there are at least three; 0 = none. Of several "
        "things each gives as many.",
        label="Pictures held out for the probe",
        unit="pictures",
        ge=0,
        le=1000,
        level="advanced",
    )
    offsets: tuple[int, ...] = option(
        (1, 3, 5),
        "From how many grid steps away the rollouts start.",
        label="Offsets measured",
        unit="grid steps",
        ge=1,
        le=1000,
        level="advanced",
    )
    num_images: int = option(
        8, "Most pictures to measure on.", label="Pictures measured", unit="pictures", ge=1, le=1000, level="advanced"
    )
    seed: int = option(
        42,
        "Noise of the measurement; the same at every step.",
        label="Seed of the probe",
        ge=0,
        le=LARGEST_SEED,
        level="advanced",
    )
    fine_factor: int = option(
        4, "The reference rollout takes this many times finer steps, which separates solver error from model error.", label="Fineness of the reference rollout", unit="times",
        ge=2, le=32, level="advanced",
    )  # fmt: skip
    guidance: float = option(
        1.0,
        "Guidance inside the measured rollouts; above 1 doubles their cost.",
        label="Guidance of the probe",
        ge=1,
        le=30,
        level="advanced",
    )

    def rules(self) -> Iterator[Fault]:
        yield from path_faults(self, "data_dir")
        if not self.offsets:
            yield Fault("drift_offsets = []: name at least one offset, for example 1, 3, 5.", ("drift_offsets",))
