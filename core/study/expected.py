"""What a study takes, and what stops it, before it starts. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..before.estimate import time_estimate
from ..before.preflight import preflight
from ..findings import Finding
from .plan import Study, Variant


@dataclass(frozen=True)
class VariantTime:
    """`steps`: None for a control at equal time, whose variant's runs will tell; `run_seconds`: of one run's steps, None where not known yet."""

    variant: Variant
    steps: int | None
    run_seconds: float | None


@dataclass(frozen=True)
class StudyTime:
    """`seconds`: of all steps whose time is known; `unknown`: variants whose time is not."""

    variants: tuple[VariantTime, ...]
    runs: int
    seconds: float
    unknown: int


def study_time(study: Study, runs_dir: Path) -> StudyTime:
    """Runs, steps and seconds; opening models, samples and measuring come on top. Cost: a look at earlier runs for each variant."""
    variants = []
    for variant in study.variants:
        config = study.config(variant, study.seeds[0])
        took = time_estimate(config, runs_dir).steps_s
        steps = None if variant.control == "plain-time" else config.training.max_train_steps
        variants.append(VariantTime(variant, steps, None if took is None else took.likely))
    known = [each.run_seconds for each in variants if each.run_seconds is not None]
    return StudyTime(tuple(variants), len(study.cells()), sum(known) * len(study.seeds), len(variants) - len(known))


def what_stops(study: Study, runs_dir: Path) -> Iterator[tuple[Variant, list[Finding]]]:
    """The variants that may not start, with what is wrong. Cost: the checks of a run (`preflight`) for each variant, pictures included."""
    for variant in study.variants:
        found = preflight(study.config(variant, study.seeds[0]), runs_dir=runs_dir)
        wrong = [each for each in found if each.level == "error"]
        if wrong:
            yield variant, wrong
