"""The result of a study: what was measured of every run, and the paired differences. Written as JSON, so that tables and report can be made anew."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import platform_calls
from ..config import config_from_flat, config_to_flat
from ..runs.store import RunStore
from .measures import KINDS, measured
from .paired import CONFIDENCE, LEAST_SEEDS, Difference, Spread, difference, spread
from .plan import Study, Variant
from .similarity import left_out
from .work import CellState

FORMAT, VERSION = "rollout_studio.study", 1
FOLDER = ".studies"
"""In the folder of the runs: one folder a study, with `study.json` and `report.html`."""


@dataclass(frozen=True)
class Test:
    """How a measure is tested: among how many comparisons (0: not at all), over how many seeds, and its spread over all variants with all of them."""

    comparisons: int
    seeds: int
    pooled: Spread | None


@dataclass(frozen=True)
class Comparison:
    """A variant against another one, measure by measure. `problem`: why they cannot be compared, where that is so."""

    variant: str
    against: str
    differences: Mapping[str, Difference]
    problem: str = ""


@dataclass(frozen=True)
class Results:
    """`values`: variant -> seed -> measure -> number; `missing`: what a person should know of runs that are not in it."""

    name: str
    seeds: tuple[int, ...]
    reference: str
    variants: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any]]
    controls: Mapping[str, str]
    runs: Mapping[str, Mapping[int, str]]
    values: Mapping[str, Mapping[int, Mapping[str, float]]]
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]

    @property
    def measures(self) -> list[str]:
        """Those that at least one run has, in the order of the tables."""
        return [
            name for name in KINDS if any(name in each for seeds in self.values.values() for each in seeds.values())
        ]

    def mean(self, variant: str, measure: str) -> tuple[float, int] | None:
        """(mean over the seeds that have it, how many those are); None where none has."""
        numbers = [each[measure] for each in self.values[variant].values() if measure in each]
        return (statistics.fmean(numbers), len(numbers)) if numbers else None

    def caveats(self) -> list[str]:
        """What the numbers do not show, in sentences."""
        tested = max((each.comparisons for one in self.comparisons for each in one.differences.values()), default=0)
        said = []
        if len(self.seeds) < LEAST_SEEDS:
            said.append(
                f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}: below {LEAST_SEEDS} no interval is given and nothing is called better or worse."
            )
        elif tested:
            said.append(
                f"{tested} differences are tested at once, so each interval is widened until all of them together hold with {100 * CONFIDENCE:.0f} % "
                "(Bonferroni, Student's t; how much seeds differ is pooled over all variants, or is the pair's own where that is more)."
            )
        untested = {name for one in self.comparisons for name, each in one.differences.items() if not each.comparisons}
        if untested:
            said.append(
                "What is not tested has no interval and no verdict: the study's file named before it began what decides."
            )
        said.append(
            "The seeds are those of the training; pictures and prompts are the same in all of them, so nothing is said of other pictures."
        )
        said.append(
            "Drift and spread explain, they do not score: an exact model drifts too, and a vague one drifts little."
        )
        return [*said, *self.missing]


def results(study: Study, states: Sequence[CellState], store: RunStore) -> Results:
    """Read the runs that are done. Raises ReportError for a damaged drift report."""
    values: dict[str, dict[int, Mapping[str, float]]] = {variant.name: {} for variant in study.variants}
    runs: dict[str, dict[int, str]] = {variant.name: {} for variant in study.variants}
    probes: dict[tuple[str, int], str | None] = {}
    missing = []
    for state in states:
        cell = state.cell
        if state.state != "done":
            why = f": {state.message.rstrip('.')}" if state.message else ""
            missing.append(f"{cell.run} is not in the table: {state.state}{why}.")
            continue
        run = store.get(cell.run)
        found = measured(run)
        missing += [said for said in left_out(run) if study.similarity is not None and said not in missing]
        values[cell.variant.name][cell.seed] = found.values
        runs[cell.variant.name][cell.seed] = cell.run
        probes[cell.variant.name, cell.seed] = found.probe
    pairs = [(variant.name, other.name) for variant in study.variants for other in study.compared_with(variant)]
    tested = sum(name in study.deciding for pair in pairs for name in _shared(values, *pair))
    tests = {
        name: Test(tested if name in study.deciding else 0, len(study.seeds), _pooled(values, study.seeds, name))
        for name in KINDS
    }
    return Results(
        study.name,
        study.seeds,
        study.reference,
        tuple(values),
        {variant.name: _changed(study, variant) for variant in study.variants},
        {variant.name: str(variant.of) for variant in study.variants if variant.control is not None},
        runs,
        values,
        tuple(_compared(values, probes, *pair, tests) for pair in pairs),
        tuple(missing),
    )


def _changed(study: Study, variant: Variant) -> dict[str, Any]:
    """What a variant changes in the study's base; a level, or a control, also names options that it leaves as they are."""
    base = config_to_flat(config_from_flat(study.base))
    flat = config_to_flat(study.config(variant, study.seeds[0]))
    return {key: value for key, value in flat.items() if base[key] != value and key != "seed"}


def _shared(
    values: Mapping[str, Mapping[int, Mapping[str, float]]], variant: str, against: str
) -> dict[str, list[int]]:
    """Measure -> the seeds that both have, for those measures that are compared."""
    found: dict[str, list[int]] = {}
    for name in KINDS:
        seeds = [
            seed for seed, mine in values[variant].items() if name in mine and name in values[against].get(seed, {})
        ]
        if seeds:
            found[name] = seeds
    return found


def _pooled(values: Mapping[str, Mapping[int, Mapping[str, float]]], seeds: Sequence[int], name: str) -> Spread | None:
    """Over the variants that have the measure for every seed."""
    whole = [each for each in values.values() if all(name in each.get(seed, {}) for seed in seeds)]
    return spread([[each[seed][name] for seed in seeds] for each in whole])


def _compared(
    values: Mapping[str, Mapping[int, Mapping[str, float]]],
    probes: Mapping[tuple[str, int], str | None],
    variant: str,
    against: str,
    tests: Mapping[str, Test],
) -> Comparison:
    seeds = [seed for seed in values[variant] if seed in values[against]]
    if not seeds:
        return Comparison(variant, against, {}, "no seed has both runs")
    if any(probes[variant, seed] != probes[against, seed] for seed in seeds):
        problem = (
            "their drift was measured on different pictures, noise, levels or solver, so those measures are left out"
        )
        left_out = {
            "clean_loss",
            "drift_short",
            "drift_long",
            "spread",
            *(name for name in KINDS if name.startswith("clean_loss_")),
        }
    else:
        problem, left_out = "", set()
    found = {
        name: difference(
            [values[variant][seed][name] for seed in both],
            [values[against][seed][name] for seed in both],
            tests[name].comparisons,
            tests[name].pooled if len(both) == tests[name].seeds else None,
        )
        for name, both in _shared(values, variant, against).items()
        if name not in left_out
    }
    return Comparison(variant, against, found, problem)


def saved(found: Results, study: Study, folder: Path) -> Path:
    """Write the results as `study.json` into `folder`; returns the file."""
    record = {
        "format": FORMAT, "version": VERSION, "study": dict(study.source), "seeds": list(found.seeds), "reference": found.reference,
        "variants": [{"name": name, "changes": found.changes[name], "control_of": found.controls.get(name)} for name in found.variants],
        "runs": found.runs, "values": found.values, "missing": list(found.missing),
        "comparisons": [
            {"variant": each.variant, "against": each.against, "problem": each.problem, "differences": {
                name: {"mean": d.mean, "error": d.error, "half_interval": d.half, "by_seed": list(d.values), "comparisons": d.comparisons, "verdict": d.verdict(KINDS[name].better)}
                for name, d in each.differences.items()}}
            for each in found.comparisons
        ],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.json"
    platform_calls.write_atomically(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def number(value: float, unit: str = "") -> str:
    """Four significant digits; percent with one decimal."""
    return f"{value:.1f} %" if unit == "%" else f"{value:.4g}{' ' + unit if unit else ''}"


def as_text(found: Results) -> str:
    """The tables in plain text: what was measured, then the differences with their verdicts."""
    lines = [f"{found.name}: seeds {', '.join(map(str, found.seeds))}", ""]
    for name in found.measures:
        kind = KINDS[name]
        lines.append(kind.title + (f" ({kind.floor})" if kind.floor else ""))
        for variant in found.variants:
            got = found.mean(variant, name)
            lines.append(f"  {variant:<44} {'-' if got is None else f'{number(got[0], kind.unit)}  (n = {got[1]})'}")
        for one in found.comparisons:
            if name in one.differences:
                lines.append(f"    {one.variant} less {one.against}: {said(one.differences[name], name)}")
    return "\n".join([*lines, "", *found.caveats()])


def said(found: Difference, measure: str) -> str:
    """A difference with its interval and what it means."""
    error = "" if found.error is None else f", standard error {number(found.error, KINDS[measure].unit)}"
    return f"{change(found, measure)} (n = {len(found.values)}{error}): {found.verdict(KINDS[measure].better)}"


def change(found: Difference, measure: str) -> str:
    """The mean of a difference with its sign, and half of its interval where it has one."""
    unit = KINDS[measure].unit
    spread = "" if found.half is None else f" ± {number(found.half, unit)}"
    return f"{'+' if found.mean >= 0 else ''}{number(found.mean, unit)}{spread}"
