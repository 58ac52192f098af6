"""From a study's result to what the advice reads (`core/look/drift/evidence.py`). No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import SECTIONS
from ..look.drift.evidence import BANDS, Place, PredictionType, Result
from .measures import KINDS
from .plan import Study, study_of


def results_of(
    record: Mapping[str, Any], *, family: str, prediction_type: PredictionType, date: str, folder: Path = Path()
) -> list[Result]:
    """What a `study.json` (`table.saved`) has shown of each remedy at equal time: every measure that was tested and has a better side.

    A variant is compared with its own control at equal time; one that takes no extra time has that with the reference.

    Args:
        family, prediction_type: of the model that it trained. date: when it ended, YYYY-MM-DD.
        folder: where `config` of its file is looked for, and presets of one's own.
    Raises: StudyError, ConfigError where the study's file cannot be read any more.
    """
    study = study_of(record["study"], "study", folder, folder)
    found = []
    for one in record["comparisons"]:
        remedy = _remedy(study, one["variant"])
        if remedy is None or one["against"] != _equal_time(study, one["variant"]):
            continue
        model = study.config(study.variant(one["variant"]), study.seeds[0]).model.pretrained_model_name_or_path
        about = {"remedy": remedy, "variant": one["variant"], "family": family, "prediction_type": prediction_type}
        about |= {"model": model, "study": study.name, "date": date}
        for measure, difference in one["differences"].items():
            better, half = KINDS[measure].better, difference["half_interval"]
            if better is None or half is None or measure in _COSTS:
                continue
            gain = difference["mean"] if better == "higher" else -difference["mean"]
            numbers = {"gain": gain, "low": gain - half, "high": gain + half, "seeds": len(difference["by_seed"])}
            numbers |= {"comparisons": difference["comparisons"], "unit": KINDS[measure].unit}
            found.append(Result(place=_place(measure), measure=measure, **about, **numbers))
    return found


_COSTS = ("train_seconds", "network_rows")
"""What a training takes is no gain of its result."""


def _remedy(study: Study, variant: str) -> str | None:
    """The section of a variant's remedy; None for plain training and for controls."""
    row = study.variant(variant)
    remedy = study.config(row, study.seeds[0]).remedy
    if row.control is not None or remedy is None or not remedy.acts:
        return None
    return next(name for name, section in SECTIONS.items() if section is type(remedy))


def _equal_time(study: Study, variant: str) -> str | None:
    """With what a variant is compared at equal time; None where the study has nothing for that."""
    remedy = study.config(study.variant(variant), study.seeds[0]).remedy
    if remedy is not None and not remedy.takes_time:
        return study.reference
    return next((each.name for each in study.variants if each.of == variant and each.control == "plain-time"), None)


def _place(measure: str) -> Place:
    return next((name for name in BANDS if measure.endswith(f"_{name}")), "all")  # type: ignore[return-value]
