"""What a drift measurement found: records, JSON, CSV and plain words. No torch: the page reads and explains reports
with this.

`core/look/drift/measure.py` measures and fills these records, `core/look/drift/pictures.py` draws them. `docs/drift.md` says how to read
every number.
"""

import csv
import dataclasses
import io
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FORMAT = "rollout_studio.drift"
VERSION = 1
REPORT_FILE = "report.json"
LARGEST_BYTES = 500_000

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


class ReportError(ValueError):
    """A file is no drift report of ours, or of a version that this one cannot read."""


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

    `offset`: grid steps asked for, `steps`: walked (less at the noisy end; a mean where pictures of several sizes
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
    sample when it is the same. `settings`: what was asked (`measure.Settings`). `strips`: the pictures of the filmstrip
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


# JSON ----------------------------------------------------------------------------------------------------------------


def _rounded(value: Any) -> Any:
    """Only finite numbers, with six significant digits: enough for any use, and a third of the size."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        return {f.name: _rounded(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "strips"}
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot stand in a drift report: {value!r:.80}")


def report_to_json(report: DriftReport) -> str:
    """The report as strict JSON (numbers are finite or null), with its words. Raises ReportError beyond 500 kB."""
    record = {"format": FORMAT, "version": VERSION, **_rounded(report), "network_rows": report.network_rows}
    record |= {"words": words(report), "summary": _rounded(summary(report))}
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > LARGEST_BYTES:
        raise ReportError(
            f"The report has {len(text.encode()):,} bytes: at most {LARGEST_BYTES:,} are kept; ask for fewer "
            "levels or offsets."
        )
    return text


def report_from_json(text: str) -> DriftReport:
    """The report that `report_to_json` wrote, without its pictures. Raises ReportError for anything else."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(
            f"Not JSON ({error.msg} at line {error.lineno}); give the report.json of a drift folder."
        ) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ReportError("This JSON is no drift report; give the report.json of a drift folder.")
    if record.get("version") != VERSION:
        raise ReportError(
            f"Drift report of version {record.get('version')}: this program reads version {VERSION}; measure again."
        )
    try:
        curves = tuple(_curve(curve) for curve in record["curves"])
        keys = [f.name for f in dataclasses.fields(DriftReport) if f.name not in ("curves", "strips")]
        return DriftReport(**{key: record[key] for key in keys}, curves=curves)
    except (KeyError, TypeError) as error:
        raise ReportError(f"The drift report is damaged ({error!r}); measure again.") from error


def read_report(path: Path | str) -> DriftReport:
    """The report of a drift folder, or of its report.json."""
    path = Path(path)
    return report_from_json((path / REPORT_FILE if path.is_dir() else path).read_text(encoding="utf-8"))


def _curve(record: dict[str, Any]) -> Curve:
    kinds = {kind: tuple(_point(point) for point in record[kind]) for kind in ("short", "trajectory", "clean_loss")}
    spectrum = record["spectrum"]
    if spectrum is not None:
        spectrum = Spectrum(**{key: _tuples(value) for key, value in spectrum.items()})
    return Curve(**{**record, **kinds, "spectrum": spectrum})


def _point(record: dict[str, Any]) -> Point:
    measures = {name: Measure(m["value"], m["error"], _tuples(m["values"])) for name, m in record["measures"].items()}
    return Point(**{**record, "measures": measures})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


# CSV -----------------------------------------------------------------------------------------------------------------

COLUMNS = (
    "step",
    "label",
    "weights",
    "pictures",
    "kind",
    "t",
    "sigma",
    "log_snr",
    "offset",
    "steps",
    "measure",
    "value",
    "error",
    "samples",
)


def rows(report: DriftReport) -> Iterator[tuple]:
    """The report as a long table, one number a row, in the order of COLUMNS. `kind`: short, trajectory, clean_loss or
    spectrum."""
    for curve in report.curves:
        head = (report.step, curve.label, curve.weights, curve.role)
        sizes = {"short": curve.samples, "trajectory": curve.trajectory_samples, "clean_loss": curve.samples}
        for kind, samples in sizes.items():
            for point in getattr(curve, kind):
                where = (point.t, point.sigma, point.log_snr, point.offset, point.steps)
                for name, measure in point.measures.items():
                    fine = kind == "short" and name in ("solver", "floor_model", "floor", "model")
                    yield (
                        *head,
                        kind,
                        *where,
                        name,
                        measure.value,
                        measure.error,
                        curve.fine_samples if fine else samples,
                    )
        if curve.spectrum is not None:
            for point, powers in zip(curve.trajectory, curve.spectrum.db, strict=True):
                where = (point.t, point.sigma, point.log_snr, point.offset, point.steps)
                for frequency, power in zip(curve.spectrum.frequencies, powers, strict=True):
                    name = f"power_db at {frequency:.3f} of Nyquist"
                    yield (*head, "spectrum", *where, name, power, None, curve.trajectory_samples)


def report_to_csv(report: DriftReport) -> str:
    """The long table as CSV text (comma, point, header; text cells that a spreadsheet would run as a formula are quoted
    by ')."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(report):
        writer.writerow(
            ""
            if cell is None
            else f"{cell:.6g}"
            if isinstance(cell, float)
            else f"'{cell}"
            if isinstance(cell, str) and cell[:1] in "=+-@"
            else cell
            for cell in row
        )
    return out.getvalue()


# Comparison and words ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A relative change in percent with its 95 % interval; None where one sample tells nothing of the spread."""

    percent: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """-1 fell, 1 rose, 0 when the interval holds 0 or there is none."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    def __str__(self) -> str:
        verb = "fell" if self.percent < 0 else "rose"
        if self.low is None or self.high is None:
            return f"{verb} by {abs(self.percent):.1f} % (one sample: no uncertainty known)"
        if self.sign == 0:
            return f"did not change measurably ({self.percent:+.1f} % ± {(self.high - self.low) / 2:.1f} %)"
        return f"{verb} by {abs(self.percent):.1f} % ± {(self.high - self.low) / 2:.1f} %"


def relative_change(after: Sequence[float], before: Sequence[float], resamples: int = 2000) -> Change:
    """How the mean changed, with a paired bootstrap over the samples (the same place = the same picture and noise).

    Raises: ValueError when the two differ in length or are empty. A mean of 0 before cannot change relatively: 0 when
        both are 0.
    """
    if len(after) != len(before) or len(after) == 0:
        raise ValueError(
            f"{len(after)} values against {len(before)}: a paired comparison needs the same samples on both sides."
        )

    def percent(chosen: Sequence[int]) -> float:
        new, old = sum(after[i] for i in chosen), sum(before[i] for i in chosen)
        return 100 * (new / old - 1) if old else 0.0 if new == old else math.inf

    whole = percent(range(len(after)))
    if len(after) < 2:
        return Change(whole, None, None)
    draws = random.Random(0)  # the same report always gives the same words
    drawn = sorted(percent(draws.choices(range(len(after)), k=len(after))) for _ in range(resamples))
    return Change(whole, drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples)])


@dataclass(frozen=True)
class Verdict:
    """Tuned against base on one set of pictures. `kind`: what the two changes mean together (rollout.md section 6)."""

    role: Role
    sigma: float
    offset: int
    samples: int
    drift: Change
    loss: Change
    kind: Literal[
        "blur",
        "less drift",
        "less drift, better model",
        "better model, more drift",
        "more drift",
        "worse model",
        "better model",
        "no difference",
    ]


def verdict(tuned: Curve, base: Curve, share: float = 0.5) -> Verdict | None:
    """Drift at the level nearest `share` and the farthest offset, and the clean loss over all its levels, tuned against
    base.

    None when the curves have no per-sample values to compare. Falling drift with a rising clean loss is *blur*: a model
    that predicts less also strays less.
    """
    here, there = tuned.at(share), base.at(share)
    if here is None or there is None or not tuned.clean_loss or len(tuned.clean_loss) != len(base.clean_loss):
        return None
    new, old = here.measures["distance"].values, there.measures["distance"].values
    losses = [[p.measures["loss"].values for p in curve.clean_loss] for curve in (tuned, base)]
    values = [new, old, *losses[0], *losses[1]]
    if any(each is None or len(each) != len(new) for each in values):
        return None
    drift, loss = (
        relative_change(new, old),
        relative_change(*([_mean(column) for column in zip(*levels, strict=True)] for levels in losses)),
    )
    match drift.sign, loss.sign:
        case -1, 1:
            kind = "blur"
        case -1, -1:
            kind = "less drift, better model"
        case -1, _:
            kind = "less drift"
        case 1, -1:
            kind = "better model, more drift"
        case 1, _:
            kind = "more drift"
        case _, 1:
            kind = "worse model"
        case _, -1:
            kind = "better model"
        case _:
            kind = "no difference"
    return Verdict(tuned.role, here.sigma, here.offset, tuned.samples, drift, loss, kind)


MEANING = {
    "blur": "That is blur, not success: a model that predicts vaguer pictures strays less from its pair.",
    "less drift": (
        "The clean loss is no worse within the uncertainty, so this is less drift, not blur; look at "
        "the samples as well."
    ),
    "less drift, better model": "Both fell: the model strays less and predicts these pictures better.",
    "better model, more drift": (
        "Paired drift often rises while pictures get better, because a surer model decides earlier: judge by the "
        "samples and the clean loss."
    ),
    "more drift": "The model strays farther from the true states without predicting these pictures better.",
    "worse model": "The model predicts these pictures worse than its base did, at unchanged drift.",
    "better model": "The model predicts these pictures better, at unchanged drift.",
    "no difference": "Within the uncertainty nothing changed.",
}


NO_SCORE = "Drift explains, it does not score: an exact model drifts too (the floor), and a vague one drifts little."


def words(report: DriftReport, share: float = 0.5) -> list[str]:
    """The finding in plain sentences with its uncertainty; what it does not say, too."""
    said = []
    walk = (
        f"{report.settings['sampler']}, {report.settings['grid_steps']}-step grid"
        if report.settings.get("grid") == "inference"
        else (f"{report.settings.get('sampler')}, training grid")
    )
    for tuned, base in report.pairs():
        found = verdict(tuned, base, share)
        if found is None:
            if _finite(tuned) and _finite(base):
                said.append(
                    "Base and tuned model were not measured on the same samples: look at the curves, no "
                    "difference is computed."
                )
            continue
        seen = "held-out pictures" if found.role == "held-out" else "training pictures"
        said.append(
            f"On {seen}, base against tuned: drift at sigma {found.sigma:.2f}, {_steps(found.offset)} from its "
            f"source ({walk}), {found.drift}, "
            f"while the clean loss {found.loss}. {MEANING[found.kind]}"
        )
    for curve in [tuned for tuned, _ in report.pairs()] or report.curves[:1]:
        said += _alone(curve, share)
        break
    for curve in report.curves[:1]:
        if curve.samples > 1:
            noises = curve.samples // curve.pictures
            said.append(
                f"Uncertainties are 95 % intervals over {curve.samples} samples"
                + (
                    f" ({_pictures(curve.pictures)}, {noises} noises each)"
                    if noises > 1
                    else f" ({_pictures(curve.pictures)}, one noise each)"
                )
                + (": with one picture they say nothing about other pictures." if curve.pictures == 1 else ".")
            )
        else:
            said.append("One picture with one noise: no uncertainty is known; raise drift_num_images for one.")
    said.append(NO_SCORE)
    return said


def _alone(curve: Curve, share: float) -> list[str]:
    """What one curve says by itself."""
    said, point = [], curve.at(share)
    if not _finite(curve):
        diverged = (
            f"{curve.label.capitalize()} model: it answers with what is not a number (NaN or infinity). The training "
            "has diverged: go back to an earlier checkpoint, with a lower learning rate or in float32."
        )
        return [diverged]
    if point is not None:
        total, solver = (point.measures.get(name) for name in ("distance", "solver"))
        text = (
            f"{curve.label.capitalize()} model: after {_steps(point.offset)} to sigma {point.sigma:.2f} its own "
            "state differs from the true one by "
            f"{100 * total.value:.1f} % of its length"
        )
        if solver is not None and solver.values and total.values and curve.samples == len(total.values):
            # compared on the same samples: the fine rollout is walked for the first few only
            of_it = sum(solver.values) / max(sum(total.values[: len(solver.values)]), 1e-12)
            text += f". Of the length of that difference the solver's part is {100 * of_it:.1f} %" + (
                ": finer steps would not help, it is floor + model"
                if of_it < 0.1
                else ": finer steps would help; the rest is floor + model"
            )
        said.append(text + ".")
    if curve.trajectory:
        last = curve.trajectory[-1]
        ratio = last.measures["std_ratio"]
        if ratio.value is not None:
            clear = ratio.error is not None and abs(ratio.value - 1) > 1.96 * ratio.error
            spread = f" ± {196 * ratio.error:.1f} %" if ratio.error is not None else ""
            said.append(
                f"At the end of the walk its states vary by {100 * (ratio.value - 1):+.1f} %{spread} against true ones"
                + (" (an exact flow would keep 0 %)." if clear else ": no measurable deviation from an exact flow.")
            )
    return said


def _finite(curve: Curve) -> bool:
    """Whether every sample has a drift and a clean loss."""
    found = [point.measures["distance"].value for point in curve.short] + [
        point.measures["loss"].value for point in curve.clean_loss
    ]
    return None not in found


def _steps(k: int) -> str:
    return f"{k} grid step{'' if k == 1 else 's'}"


def _pictures(n: int) -> str:
    return f"{n} picture{'' if n == 1 else 's'}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def summary(report: DriftReport, share: float = 0.5) -> dict[str, Any]:
    """The report in one line, for an event: `drift` and `clean_loss` of the weights measured, the same of the base
    (`_base`), on held-out pictures (training pictures where there are no others), the changes with their intervals, and
    the verdict. Finite numbers or None."""
    role: Role = "held-out" if any(curve.role == "held-out" for curve in report.curves) else "training"
    result: dict[str, Any] = {"role": role, "network_rows": report.network_rows, "seconds": report.seconds}
    now = report.find("tuned", role)
    now = report.find("base", role) if now is None else now  # step 0: the base is all there is
    for curve, ending in ((now, ""), (report.find("base", role), "_base")):
        point = curve.at(share) if curve is not None else None
        for measure in ("distance", "solver", "floor_model"):
            found = point.measures.get(measure) if point is not None else None
            result[("drift" if measure == "distance" else measure) + ending] = (
                found.value if found is not None else None
            )
        losses = [p.measures["loss"].value for p in curve.clean_loss] if curve is not None else []
        result["clean_loss" + ending] = _mean(losses) if losses and None not in losses else None
        if point is not None:
            result |= {"sigma": point.sigma, "offset": point.offset}
    pair = next(((tuned, base) for tuned, base in report.pairs() if tuned.role == role), None)
    found = verdict(*pair, share) if pair is not None else None
    for key, change in (("drift_change", found and found.drift), ("clean_loss_change", found and found.loss)):
        result[key] = change.percent if change else None
        result[f"{key}_low"], result[f"{key}_high"] = (change.low, change.high) if change else (None, None)
    result["verdict"] = found.kind if found is not None else None
    result["words"] = words(report, share)[:1] if report.pairs() else words(report, share)[:2]
    return _rounded(result)


# Over a training, and run against run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One drift report of a run in a few numbers, as its `summary` has them. None = not known.

    The changes are against the base model on the same pictures and noise; at step 0 the model is its base, so they are 0.
    """

    step: int
    role: Role
    sigma: float | None
    offset: int | None
    drift: float | None
    clean_loss: float | None
    drift_change: Change | None
    loss_change: Change | None
    kind: str | None


def over_training(summaries: Mapping[int, Any]) -> list[Reading]:
    """Training step -> `summary` of its report, as readings by rising step. What is no number in it reads as None."""
    return [_reading(step, told if isinstance(told, Mapping) else {}) for step, told in sorted(summaries.items())]


def _reading(step: int, told: Mapping[str, Any]) -> Reading:
    def number(key: str) -> float | None:
        value = told.get(key)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if good else None

    def change(key: str) -> Change | None:
        if step == 0:
            return Change(0.0, 0.0, 0.0)
        percent = number(key)
        return None if percent is None else Change(percent, number(f"{key}_low"), number(f"{key}_high"))

    offset = number("offset")
    return Reading(
        step, "training" if told.get("role") == "training" else "held-out", number("sigma"),
        None if offset is None else int(offset), number("drift"), number("clean_loss"), change("drift_change"),
        change("clean_loss_change"), told["verdict"] if told.get("verdict") in MEANING else None,
    )  # fmt: skip


def training_words(readings: Sequence[Reading]) -> list[str]:
    """What the reports of a run say together, with their uncertainty: where it stands, since when, and what that is not."""
    if not readings:
        return []
    last, said = readings[-1], []
    if last.step == 0:
        if last.drift is not None:
            where = f" ({_where(last)})" if last.sigma is not None and last.offset is not None else ""
            said.append(
                f"Before training, the model's own state differs from the true one by {100 * last.drift:.1f} % of its length{where}. "
                "The next report will tell what training changed."
            )
        return [*said, *_role_words(last), NO_SCORE]
    if last.drift_change is None or last.loss_change is None:
        return [
            f"Step {last.step} has no base model measured on the same samples to be compared with.",
            *_role_words(last),
            NO_SCORE,
        ]
    where = f" ({_where(last)})" if last.sigma is not None and last.offset is not None else ""
    said.append(
        f"At step {last.step}, against the model before training: drift{where} {last.drift_change}, while the clean loss "
        f"{last.loss_change}. {MEANING[last.kind] if last.kind is not None else ''}".strip()
    )
    later = [reading for reading in readings if reading.step > 0]
    if last.kind == "blur" and len(later) > 1:
        since = last.step
        for reading in reversed(later):
            if reading.kind != "blur":
                break
            since = reading.step
        if since != last.step:
            said.append(f"It has been blur since step {since}.")
    elif any(reading.kind == "blur" for reading in later):
        steps = ", ".join(str(reading.step) for reading in later if reading.kind == "blur")
        said.append(f"On the way it was blur at step {steps}, and no longer is.")
    best = min(
        (reading for reading in readings if reading.loss_change is not None),
        key=lambda reading: reading.loss_change.percent,
    )
    if (
        best.loss_change.high is not None
        and last.loss_change.low is not None
        and best.loss_change.high < last.loss_change.low
    ):
        said.append(
            f"The clean loss was lowest at step {best.step} and has risen since, beyond the uncertainty: compare the samples of "
            "that step with the last ones."
        )
    said += _role_words(last)
    if last.drift_change.low is None:
        said.append("One picture with one noise: no uncertainty is known; raise drift_num_images for one.")
    else:
        said.append(
            "The uncertainties are 95 % intervals over the pictures and noises measured; training again with another seed "
            "may come out otherwise."
        )
    return [*said, NO_SCORE]


def _where(reading: Reading) -> str:
    return f"at sigma {reading.sigma:.2f}, {_steps(reading.offset)} from its source"


def _role_words(reading: Reading) -> list[str]:
    if reading.role == "held-out":
        return []
    return [
        "Measured on pictures that it trains on, because none are held out: their clean loss also falls when they are learnt by heart."
    ]


AGAINST = {
    "blur": "That is blur, not success: of two models the vaguer one strays less.",
    "less drift": "Its clean loss is no worse within the uncertainty, so this is less drift, not blur; look at the samples as well.",
    "less drift, better model": "It strays less and predicts these pictures better.",
    "better model, more drift": "It predicts these pictures better although it strays more: judge by the samples and the clean loss.",
    "more drift": "It strays farther from the true states without predicting these pictures better.",
    "worse model": "It predicts these pictures worse, at no measurable difference in drift.",
    "better model": "It predicts these pictures better, at no measurable difference in drift.",
    "no difference": "Within the uncertainty there is no difference.",
}
"""What a `Verdict` of two runs means, the first of them against the second."""


def against(mine: DriftReport, other: DriftReport, share: float = 0.5) -> Verdict | str:
    """The tuned model of one report against that of another, sample by sample; or in words why they cannot be compared."""
    if mine.probe != other.probe:
        return "they were measured on different pictures, noise, levels or solver, so their numbers cannot be set against each other"
    for role in ("held-out", "training"):
        pair = mine.find("tuned", role), other.find("tuned", role)
        if None not in pair:
            found = verdict(*pair, share)
            return found if found is not None else "a measured number is not finite or is missing"
    return "one of them was measured before training only"


def compare(reports: Sequence[tuple[str, DriftReport]]) -> DriftReport:
    """Several reports in one, each curve under the label given for its report: solver against solver, run against run.

    The first report's base curves stay; later ones only where their probe differs, because else they are the same
    numbers.
    Raises: ValueError for no report, two equal labels, or different kinds of models.
    """
    if not reports or len({label for label, _ in reports}) < len(reports):
        raise ValueError(
            f"labels {[label for label, _ in reports]}: at least one report, and a different label for each."
        )
    if len({report.prediction_type for _, report in reports}) > 1:
        raise ValueError(
            "The reports are of models with different predictions; their losses and outputs cannot stand on one axis."
        )
    first, curves = reports[0][1], []
    for label, report in reports:
        for curve in report.curves:
            same_base = (
                curve.weights == "base"
                and report is not first
                and report.probe == first.probe
                and first.find("base", curve.role)
            )
            if not same_base:
                name = (
                    label if curve.weights == "tuned" else f"{label}, base" if report.probe != first.probe else "base"
                )
                curves.append(dataclasses.replace(curve, label=name))
    probe = first.probe if len({report.probe for _, report in reports}) == 1 else ""
    return dataclasses.replace(
        first,
        probe=probe,
        curves=tuple(curves),
        step=None,
        seconds=sum(report.seconds for _, report in reports),
        strips=tuple(strip for _, report in reports for strip in report.strips),
    )
