"""What studies have shown of the remedies: a file that ships with the program, which the advice reads. No torch.

`evidence.json` beside this file: `{"format", "version", "results": [...]}`. A result is one measure of one study: the remedy against plain training that took as
long, of the same seeds, with the interval that holds for all differences of that study together (`core/study/paired.py`). Results without a gain belong
there too: what was tried and did not help is evidence.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ... import platform_calls
from ...config import SECTIONS, RemedyConfig
from ...errors import Trouble

FILE = Path(__file__).with_name("evidence.json")
FORMAT, VERSION = "rollout_studio.evidence", 1
BANDS: dict[str, tuple[float, float]] = {"low": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "high": (2 / 3, 1.0)}
"""Of `Point.share`, sigma / (alpha + sigma): one axis for every kind of model."""

Place = Literal["all", "low", "middle", "high"]
PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_matching"]
REMEDIES = {name: section.title for name, section in SECTIONS.items() if issubclass(section, RemedyConfig)}
"""Section of a remedy -> its title."""


class EvidenceError(Trouble, ValueError):
    """The file of evidence cannot be read, or a result is none."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measure of one study.

    Attributes:
        remedy: its section (`REMEDIES`). variant: what the study calls it, with its settings.
        family, prediction_type: the kind of model. model: the checkpoint's name.
        place: the noise levels that the measure is about: a band of `BANDS`, or all.
        measure: of `core/study/measures.py`. unit: of the numbers below; "" for a plain number.
        gain: how much better than plain training at equal time, mean over the seeds: above 0 is better, whichever way the measure counts.
        low, high: its interval. seeds: how many; comparisons: how many differences were tested at once.
        study: its name. date: when it ended, YYYY-MM-DD.
    """

    remedy: str
    variant: str
    family: str
    prediction_type: PredictionType
    model: str
    place: Place
    measure: str
    unit: str = ""
    gain: float
    low: float
    high: float
    seeds: int
    comparisons: int
    study: str
    date: str

    def __post_init__(self) -> None:
        numbers = (self.gain, self.low, self.high)
        wrong = [
            f"remedy = {self.remedy!r}: must be one of {', '.join(REMEDIES)}" if self.remedy not in REMEDIES else "",
            _not_one_of("prediction_type", self.prediction_type, get_args(PredictionType)),
            _not_one_of("place", self.place, get_args(Place)),
            ""
            if all(isinstance(each, int | float) and math.isfinite(each) for each in numbers)
            and self.low <= self.gain <= self.high
            else f"low, gain, high = {numbers}: must be finite numbers in this order",
            f"seeds = {self.seeds}: below three no interval is known" if self.seeds < 3 else "",
        ]
        if any(wrong):
            raise EvidenceError(
                f"A result of study {self.study!r}: {'; '.join(filter(None, wrong))}.",
                "Write it anew from its study.json.",
            )

    @property
    def is_gain(self) -> bool:
        """Better beyond its uncertainty."""
        return self.low > 0

    @property
    def words(self) -> str:
        """The result in a few words."""
        unit = f" {self.unit}" if self.unit else ""
        where = "" if self.place == "all" else f" at {self.place} noise"
        return f"{REMEDIES[self.remedy]} on {self.model}, {self.measure.replace('_', ' ')}{where}: {self.gain:+.3g}{unit} ({self.low:+.3g} to {self.high:+.3g}; study {self.study}, {self.seeds} seeds)"


def _not_one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    return "" if value in choices else f"{name} = {value!r}: must be one of {', '.join(choices)}"


@cache
def known_results(file: Path = FILE) -> tuple[Result, ...]:
    """The results of a file. Raises EvidenceError where it is damaged. Cost: reads it once a process."""
    try:
        return results_from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if isinstance(error, EvidenceError):
            raise
        raise EvidenceError(
            f"{file} cannot be read: {error}.", "Take it from the version of the program that you use."
        ) from error


def results_from_json(record: Any) -> tuple[Result, ...]:
    """Raises EvidenceError for what is no evidence of this version."""
    if not isinstance(record, Mapping) or (record.get("format"), record.get("version")) != (FORMAT, VERSION):
        raise EvidenceError(
            f"This is no evidence of version {VERSION} ({str(record)[:80]}).", f"It begins with the format {FORMAT}."
        )
    found = []
    for number, each in enumerate(record.get("results", ())):
        try:
            found.append(Result(**each))
        except TypeError as error:
            raise EvidenceError(f"Result {number}: {error}.", "Write it anew from its study.json.") from error
    return tuple(found)


def write_results(results: Iterable[Result], file: Path = FILE) -> None:
    """Write the file anew; one result a line, so that a change shows which."""
    lines = ",\n".join(f"  {json.dumps(dataclasses.asdict(each), ensure_ascii=False)}" for each in results)
    body = f"[\n{lines}\n ]" if lines else "[]"
    text = f'{{\n "format": "{FORMAT}",\n "version": {VERSION},\n "results": {body}\n}}\n'
    platform_calls.write_atomically(file, text.encode())
    known_results.cache_clear()


def band_of(share: float) -> Place:
    """The band of a noise level (`Point.share`, 0..1)."""
    return next((name for name, (low, high) in BANDS.items() if low <= share < high), "high")  # type: ignore[return-value]


def remedies_in_words(
    shares: Iterable[float], prediction_type: str | None, results: Iterable[Result] | None = None
) -> str:
    """What is known of remedies for models of this kind at these noise levels, in a sentence.

    Args:
        shares: where a model loses something (`Point.share`). prediction_type: None = not known; then results of any kind of model count.
        results: None = those that ship with the program.
    """
    bands = {"all", *map(band_of, shares)}
    known = known_results() if results is None else tuple(results)
    fitting = [each for each in known if each.place in bands and prediction_type in (None, each.prediction_type)]
    gains = sorted((each for each in fitting if each.is_gain), key=lambda each: -each.seeds)
    if gains:
        best = "; ".join(each.words for each in gains[:2])
        return f"Better than plain training at equal time in a study of models of this kind: {best}. Whether it helps yours only a study of yours tells (Runs tab, Study)."
    tried = sorted({REMEDIES[each.remedy] for each in fitting})
    said = f" (tried on models of this kind: {', '.join(tried)})" if tried else ""
    return f"None of this program's has yet shown a gain at equal time in a study{said}: train plainly, or let a study of yours decide (Runs tab, Study)."
