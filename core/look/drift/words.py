"""A drift report in plain sentences, with its uncertainty and its limits; and in one line, for an event. No torch."""

from typing import Any

from .advice import advice_in_words, advise
from .comparison import mean, verdict
from .correction import correction_of
from .report import Curve, DriftReport, Role, rounded

MEANING = {
    "blur": "That is blur, not success: a model that predicts vaguer pictures strays less from its pair.",
    "less drift": (
        "The clean loss is no worse within the uncertainty, so this is less drift, not blur; see the samples as well."
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


AGAINST = {
    "blur": "That is blur, not success: of two models the vaguer one strays less.",
    "less drift": "Its clean loss is no worse within the uncertainty, so this is less drift, not blur; see the samples as well.",
    "less drift, better model": "It strays less and predicts these pictures better.",
    "better model, more drift": "It predicts these pictures better although it strays more: judge by the samples and the clean loss.",
    "more drift": "It strays farther from the true states without predicting these pictures better.",
    "worse model": "It predicts these pictures worse, at no measurable difference in drift.",
    "better model": "It predicts these pictures better, at no measurable difference in drift.",
    "no difference": "Within the uncertainty there is no difference.",
}
"""What a `Verdict` of two runs means, the first of them against the second."""


NO_SCORE = "Drift explains, it does not score: an exact model drifts too (the floor), and a vague one drifts little."


def words(report: DriftReport, share: float = 0.5) -> list[str]:
    """The finding in plain sentences, with its uncertainty and its limits."""
    sentences = []
    solver = (
        f"{report.settings['sampler']}, {report.settings['grid_steps']}-step grid"
        if report.settings.get("grid") == "inference"
        else (f"{report.settings.get('sampler')}, training grid")
    )
    for tuned, base in report.pairs():
        found = verdict(tuned, base, share)
        if found is None:
            if _finite(tuned) and _finite(base):
                sentences.append(
                    "Base and tuned model were not measured on the same samples: see the curves, no "
                    "difference is computed."
                )
            continue
        seen = "held-out pictures" if found.role == "held-out" else "training pictures"
        sentences.append(
            f"On {seen}, base against tuned: drift at sigma {found.sigma:.2f}, {steps_in_words(found.offset)} from its "
            f"source ({solver}), {found.drift}, "
            f"while the clean loss {found.loss}. {MEANING[found.kind]}"
        )
    for curve in [tuned for tuned, _ in report.pairs()] or report.curves[:1]:
        sentences += _alone(curve, share)
        break
    base = next((curve for curve in report.curves if curve.weights == "base" and curve.role == "held-out"), None)
    if base is not None and _finite(base):
        sentences.append(advice_in_words(advise(base), report.prediction_type))
    for curve in report.curves[:1]:
        if curve.samples > 1:
            noises = curve.samples // curve.pictures
            sentences.append(
                f"Uncertainties are 95 % intervals over {curve.samples} samples"
                + (
                    f" ({_pictures(curve.pictures)}, {noises} noises each)"
                    if noises > 1
                    else f" ({_pictures(curve.pictures)}, one noise each)"
                )
                + (": with one picture they do not hold for other pictures." if curve.pictures == 1 else ".")
            )
        else:
            sentences.append("One picture with one noise: no uncertainty is known; raise drift_num_images for one.")
    corrected = correction_of(report.settings.get("correction", {})).sentence
    return [*sentences, *filter(None, [corrected]), NO_SCORE]


def _alone(curve: Curve, share: float) -> list[str]:
    """What one curve shows by itself."""
    sentences, point = [], curve.at(share)
    if not _finite(curve):
        diverged = (
            f"{curve.label.capitalize()} model: its output is not finite (NaN or infinity). The training "
            "has diverged: go back to an earlier checkpoint, with a lower learning rate or in float32."
        )
        return [diverged]
    if point is not None:
        total, solver = (point.measures.get(name) for name in ("distance", "solver"))
        text = (
            f"{curve.label.capitalize()} model: after {steps_in_words(point.offset)} to sigma {point.sigma:.2f} its own "
            "state differs from the true one by "
            f"{100 * total.value:.1f} % of its length"
        )
        if solver is not None and solver.values and total.values and curve.samples == len(total.values):
            # compared on the same samples: only the first few have the fine rollout
            of_it = sum(solver.values) / max(sum(total.values[: len(solver.values)]), 1e-12)
            text += f". Of the length of that difference the solver's part is {100 * of_it:.1f} %" + (
                ": finer steps would not help, it is floor + model"
                if of_it < 0.1
                else ": finer steps would help; the rest is floor + model"
            )
        sentences.append(text + ".")
    if curve.trajectory:
        last = curve.trajectory[-1]
        ratio = last.measures["std_ratio"]
        if ratio.value is not None:
            clear = ratio.error is not None and abs(ratio.value - 1) > 1.96 * ratio.error
            spread = f" ± {196 * ratio.error:.1f} %" if ratio.error is not None else ""
            sentences.append(
                f"At the end of the trajectory its states vary by {100 * (ratio.value - 1):+.1f} %{spread} against true ones"
                + (" (an exact flow would keep 0 %)." if clear else ": no measurable deviation from an exact flow.")
            )
    return sentences


def _finite(curve: Curve) -> bool:
    """Whether every sample has a drift and a clean loss."""
    found = [point.measures["distance"].value for point in curve.short] + [
        point.measures["loss"].value for point in curve.clean_loss
    ]
    return None not in found


def steps_in_words(k: int) -> str:
    return f"{k} grid step{'' if k == 1 else 's'}"


def _pictures(n: int) -> str:
    return f"{n} picture{'' if n == 1 else 's'}"


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
        result["clean_loss" + ending] = mean(losses) if losses and None not in losses else None
        if point is not None:
            result |= {"sigma": point.sigma, "offset": point.offset}
    pair = next(((tuned, base) for tuned, base in report.pairs() if tuned.role == role), None)
    found = verdict(*pair, share) if pair is not None else None
    for key, change in (("drift_change", found and found.drift), ("clean_loss_change", found and found.loss)):
        result[key] = change.percent if change else None
        result[f"{key}_low"], result[f"{key}_high"] = (change.low, change.high) if change else (None, None)
    result["verdict"] = found.kind if found is not None else None
    result["words"] = words(report, share)[:1] if report.pairs() else words(report, share)[:2]
    return rounded(result)
