"""The drift reports of a run one after another: what they show together. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .comparison import Change
from .report import Role
from .words import MEANING, NO_SCORE, steps_in_words


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
    """Training step -> `summary` of its report, as readings by rising step. Values that are not numbers read as None."""
    return [
        _reading(step, summary if isinstance(summary, Mapping) else {}) for step, summary in sorted(summaries.items())
    ]


def _reading(step: int, summary: Mapping[str, Any]) -> Reading:
    def number(key: str) -> float | None:
        value = summary.get(key)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if good else None

    def change(key: str) -> Change | None:
        if step == 0:
            return Change(0.0, 0.0, 0.0)
        percent = number(key)
        return None if percent is None else Change(percent, number(f"{key}_low"), number(f"{key}_high"))

    offset = number("offset")
    return Reading(
        step, "training" if summary.get("role") == "training" else "held-out", number("sigma"),
        None if offset is None else int(offset), number("drift"), number("clean_loss"), change("drift_change"),
        change("clean_loss_change"), summary["verdict"] if summary.get("verdict") in MEANING else None,
    )  # fmt: skip


def training_words(readings: Sequence[Reading]) -> list[str]:
    """What the reports of a run show together, with their uncertainty: its state now, since when, and the limits of that."""
    if not readings:
        return []
    last, sentences = readings[-1], []
    if last.step == 0:
        if last.drift is not None:
            where = f" ({_where(last)})" if last.sigma is not None and last.offset is not None else ""
            sentences.append(
                f"Before training, the model's own state differs from the true one by {100 * last.drift:.1f} % of its length{where}. "
                "The next report will show what training changed."
            )
        return [*sentences, *_role_words(last), NO_SCORE]
    if last.drift_change is None or last.loss_change is None:
        return [
            f"Step {last.step} has no base model measured on the same samples to be compared with.",
            *_role_words(last),
            NO_SCORE,
        ]
    where = f" ({_where(last)})" if last.sigma is not None and last.offset is not None else ""
    sentences.append(
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
            sentences.append(f"It has been blur since step {since}.")
    elif any(reading.kind == "blur" for reading in later):
        steps = ", ".join(str(reading.step) for reading in later if reading.kind == "blur")
        sentences.append(f"On the way it was blur at step {steps}, and no longer is.")
    best = min(
        (reading for reading in readings if reading.loss_change is not None),
        key=lambda reading: reading.loss_change.percent,
    )
    if (
        best.loss_change.high is not None
        and last.loss_change.low is not None
        and best.loss_change.high < last.loss_change.low
    ):
        sentences.append(
            f"The clean loss was lowest at step {best.step} and has risen since, beyond the uncertainty: compare the samples of "
            "that step with the last ones."
        )
    sentences += _role_words(last)
    if last.drift_change.low is None:
        sentences.append("One picture with one noise: no uncertainty is known; raise drift_num_images for one.")
    else:
        sentences.append(
            "The uncertainties are 95 % intervals over the pictures and noises measured; training again with another seed "
            "may come out otherwise."
        )
    return [*sentences, NO_SCORE]


def _where(reading: Reading) -> str:
    return f"at sigma {reading.sigma:.2f}, {steps_in_words(reading.offset)} from its source"


def _role_words(reading: Reading) -> list[str]:
    if reading.role == "held-out":
        return []
    return [
        "Measured on pictures that it trains on, because none are held out: their clean loss also falls when they are learnt by heart."
    ]
