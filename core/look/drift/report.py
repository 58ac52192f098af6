"""What a drift measurement found, as records. No torch: the page reads and explains reports with these.

`measure.py` fills them, `files.py` writes and reads them, `comparison.py` compares them, `words.py` describes them
and `core/look/pictures/` draws them. `docs/drift.md` explains how to read every number.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import Trouble

Role = Literal["held-out", "training"]


Weights = Literal["base", "tuned"]


MEASURES: dict[str, tuple[str, bool]] = {
    "distance": ("paired distance ‖xr − x_t‖ / ‖x_t‖", True),
    "solver": ("part of the solver: coarse minus fine rollout, ‖xr − fine‖ / ‖x_t‖", True),
    "floor_model": ("floor + model: fine rollout, ‖fine − x_t‖ / ‖x_t‖", True),
    "floor": ("floor: what an exact flow would leave, ‖exact − x_t‖ / ‖x_t‖ (known on oracles only)", True),
    "model": ("model: fine rollout minus exact flow, ‖fine − exact‖ / ‖x_t‖ (known on oracles only)", False),
    "cos_clean": ("cosine between the outputs at the rolled and at the clean state", True),
    "cos_truth": ("cosine between the output at the rolled state and the output that leads to the true picture", True),
    "noise_shift": ("effective minus nominal noise level, in units of t", True),
    "snr_shift_db": ("effective minus clean signal-to-noise ratio, dB", True),
    "std_ratio": ("standard deviation, rolled over clean", False),
    "norm_ratio": ("norm of the model's output, rolled over clean", False),
    "low_db": ("power of the lowest third of frequencies, rolled over clean, dB", False),
    "mid_db": ("power of the middle third of frequencies, rolled over clean, dB", False),
    "high_db": ("power of the highest third of frequencies, rolled over clean, dB", False),
    "loss": ("clean loss: mean squared error of the output at the true noisy state", False),
}
"""Name -> (what it is, whether even an exact flow leaves something: then it has a floor). Order of the CSV and the
docs."""


class ReportError(Trouble, ValueError):
    """A file is not a drift report, or of a version that this one cannot read."""


@dataclass(frozen=True)
class Measure:
    """One number over the samples.

    `error`: standard error over the samples (jackknife for ratios of means), None with a single one. `values`: one per
    sample, or per group of samples where there are many; None for pooled ratios. The same place in two measurements of
    one probe is the same picture and noise.
    """

    value: float | None
    error: float | None = None
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Point:
    """Measures at one noise level.

    `offset`: grid steps wanted, `steps`: taken (fewer at the noisy end; a mean where pictures of several sizes
    differ). On a trajectory both count from its start; for a clean loss both are 0.
    """

    t: float
    alpha: float
    sigma: float
    offset: int
    steps: float
    measures: dict[str, Measure]

    @property
    def log_snr(self) -> float:
        """ln(alpha^2 / sigma^2), kept finite at the ends of the schedule."""
        return 2 * (math.log(max(self.alpha, 1e-4)) - math.log(max(self.sigma, 1e-4)))

    @property
    def share(self) -> float:
        """sigma / (alpha + sigma): the flow's sigma; one axis for every kind of model."""
        return self.sigma / (self.alpha + self.sigma)


@dataclass(frozen=True)
class Spectrum:
    """Power by spatial frequency along a trajectory, rolled over clean.

    `db`: one row per trajectory point, one column per frequency; 0 = as much as there should be. `frequencies`: middle
    of each ring, as a share of the Nyquist frequency (half a cycle per latent cell).
    """

    sigma: tuple[float, ...]
    log_snr: tuple[float, ...]
    frequencies: tuple[float, ...]
    db: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Curve:
    """Everything measured with one set of weights on one set of pictures.

    `short`: rollouts as training does them, one point per (level, offset). `trajectory`: the sampler's own states from
    `start` to the last node. `clean_loss`: at fixed levels and fixed noise. `samples` = pictures x noise draws;
    `fine_samples` of them have the fine rollout, `trajectory_samples` the trajectory.
    """

    label: str
    weights: Weights
    role: Role
    pictures: int
    samples: int
    fine_samples: int
    trajectory_samples: int
    short: tuple[Point, ...]
    trajectory: tuple[Point, ...]
    clean_loss: tuple[Point, ...]
    spectrum: Spectrum | None
    network_rows: int
    network_calls: int

    def at(self, share: float, offset: int | None = None) -> Point | None:
        """The short point nearest to a noise level (`Point.share`); `offset` None = the farthest."""
        if not self.short:
            return None
        offset = max(point.offset for point in self.short) if offset is None else offset
        return min((p for p in self.short if p.offset == offset), key=lambda p: abs(p.share - share), default=None)


@dataclass(frozen=True)
class DriftReport:
    """A drift report.

    `probe`: fingerprint of pictures, noise, levels, grid and solver: curves of two reports may be compared sample by
    sample when it is the same. `settings`: those of the measurement (`settings.Settings`). `strips`: the pictures of the filmstrip
    (`pictures.Strip`), not in the JSON. `step`: the training step of the tuned weights.
    """

    model: str
    prediction_type: str
    path: str
    probe: str
    settings: dict[str, Any]
    curves: tuple[Curve, ...]
    step: int | None = None
    seconds: float = 0.0
    strips: tuple = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def network_rows(self) -> int:
        """Pictures' worth of network forwards that the report cost."""
        return sum(curve.network_rows for curve in self.curves)

    def find(self, weights: Weights, role: Role = "held-out") -> Curve | None:
        return next((curve for curve in self.curves if curve.weights == weights and curve.role == role), None)

    def pairs(self) -> list[tuple[Curve, Curve]]:
        """(tuned, base) curves of the same pictures."""
        found = [(self.find("tuned", role), self.find("base", role)) for role in ("held-out", "training")]
        return [(tuned, base) for tuned, base in found if tuned is not None and base is not None]

    def with_curves(self, *curves: Curve) -> "DriftReport":
        return dataclasses.replace(self, curves=(*self.curves, *curves))


def rounded(value: Any) -> Any:
    """Only finite numbers, with six significant digits: enough for any use, and a third of the size."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        return {f.name: rounded(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "strips"}
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot stand in a drift report: {value!r:.80}")
