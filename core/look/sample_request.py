"""Pictures on request: which prompts are drawn with which weights; one record for the page, the preview worker and the trainer.

No torch, as in `preview/request.py`, whose requests use the same client and worker. Every picture of
a request starts from the same noise for all weights, so that base and tuned can be compared.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from ..config import LARGEST_SEED, OPTIONS, RunConfig, config_from_flat, config_to_flat
from ..config.options import Checked, ConfigError, Fault, Option, did_you_mean, option, options_of, shown
from .preview.request import (
    MOST_CHECKPOINTS,
    PreviewRequest,
    Weights,
    faults_of,
    read_strength,
    read_weights,
    weights_mark,
)

KIND = "samples"
"""What a record's `what` must be: alone, because drift is requested separately."""
RELEVANT = (*(name for name, each in OPTIONS.items() if each.section == "model"), "flow_schedule_shift", "resolution")
"""The options that a picture depends on. All others of a config may be there, even wrong ones, and change nothing."""
MOST_PROMPTS, MOST_PICTURES, LONGEST_PROMPT = 8, 16, 2000
MOST_COLUMNS, MOST_ROWS, MOST_CELLS = 12, 9, 64
"""Of a matrix: checkpoints, strengths, pictures."""


@dataclass(frozen=True, kw_only=True)
class Drawing(Checked):
    """How the pictures are drawn. Declared like options, so that a form can be made of it."""

    prefix: ClassVar[str] = ""

    seed: int = option(
        42,
        "The noise that a picture starts from: the same seed, the same noise for all weights.",
        ge=0,
        le=LARGEST_SEED,
    )
    steps: int = option(
        30, "Sampling steps of each picture: more are slower and a little finer.", unit="steps", ge=1, le=200
    )
    guidance: float | None = option(
        None,
        "How strictly the picture follows the prompt; unset = what the model is made for. 1 = no guidance.",
        ge=0,
        le=30,
    )
    negative_prompt: str = option("", "What the pictures should not show; used where guidance is above 1.")
    width: int | None = option(
        None, "Unset = the size that the run trained, else the model's own.", unit="px", ge=32, le=4096
    )
    height: int | None = option(
        None, "Unset = the size that the run trained, else the model's own.", unit="px", ge=32, le=4096
    )


DRAWING_OPTIONS: dict[str, Option] = {each.name: each for each in options_of(Drawing, "drawing")}
"""The fields of `Drawing`, as options: for a form's fields, their bounds and their help."""


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """A checked request. `side`: of the square that the config trains; None = the model's own size.

    `strengths`: of a matrix: its rows; each of `weights`, its columns, draws at each of them. Empty: no matrix.
    """

    config: RunConfig
    side: int | None
    weights: tuple[Weights, ...]
    prompts: tuple[str, ...]
    drawing: Drawing
    strengths: tuple[float, ...] = ()

    what: ClassVar[tuple[str, ...]] = (KIND,)
    proof: ClassVar[str] = "samples.json"

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "SampleRequest":
        """The request that a JSON object describes.

        Keys: `what`: "samples"; `config`, `checkpoints` as in `PreviewRequest.from_json`; `prompts` (one text, or a list;
        picture i starts from `seed` + i); the fields of `Drawing`; `strengths`, of a matrix: a list of numbers, at which each of the
        checkpoints draws each prompt.

        Raises: ConfigError with every fault.
        """
        faults: list[Fault] = []
        known = {"what", "config", "checkpoints", "prompts", "strengths", *DRAWING_OPTIONS}
        for name in sorted(set(record) - known):
            faults.append(Fault(f"Unknown key '{name}' of a request for pictures.{did_you_mean(name, known)}", (name,)))
        given = record.get("config", {})
        if not isinstance(given, Mapping):
            faults.append(Fault("config: must be an object of flat options.", ("config",)))
            given = {}
        flat = {
            name: value for name, value in given.items() if name in RELEVANT or name.removeprefix("--") not in OPTIONS
        }
        config = faults_of(faults, lambda: config_from_flat(flat))
        drawing = faults_of(
            faults, lambda: Drawing(**{name: record[name] for name in DRAWING_OPTIONS if record.get(name) is not None})
        )
        is_matrix = record.get("strengths") is not None
        most = MOST_COLUMNS if is_matrix else MOST_CHECKPOINTS
        weights = faults_of(faults, lambda: read_weights(record.get("checkpoints", ["base"]), most))
        prompts = faults_of(faults, lambda: _prompts(record.get("prompts")))
        strengths = faults_of(faults, lambda: _strengths(record["strengths"], weights)) if is_matrix else ()
        if weights and prompts and strengths is not None:
            faults += _too_many(len(weights), len(prompts), len(strengths))
        if faults:
            raise ConfigError(faults)
        side = config.data.resolution if flat.get("resolution") is not None else None
        return cls(config=config, side=side, weights=weights, prompts=prompts, drawing=drawing, strengths=strengths)

    @property
    def live(self) -> Weights | None:
        """The running run that must draw this itself; None when the worker can."""
        return next((each for each in self.weights if each.kind == "live"), None)

    @property
    def cells(self) -> tuple[tuple[int, int, Weights], ...]:
        """(row, column, weights) of what each prompt is drawn with, column after column: a checkpoint is loaded once. Without a matrix one row."""
        if not self.strengths:
            return tuple((0, column, each) for column, each in enumerate(self.weights))
        return tuple(
            (row, column, replace(each, strength=strength, label=f"{each.label} × {strength:g}"))
            for column, each in enumerate(self.weights)
            for row, strength in enumerate(self.strengths)
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The fields of `drawing`."""
        return {each.name: getattr(self.drawing, each.name) for each in fields(self.drawing)}

    def key(self) -> str:
        """Equal for two requests that draw the same: the settings, and the files (by place, size and time) behind them."""
        flat = config_to_flat(self.config)
        parts = [KIND, {name: flat[name] for name in RELEVANT}, self.side, self.prompts, self.settings,
                 [weights_mark(each) for each in self.weights], self.strengths]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]


def read_request(record: Mapping[str, Any]) -> PreviewRequest | SampleRequest:
    """The request for pictures or for drift that a JSON object describes. Raises ConfigError with every fault."""
    what = record.get("what")
    asks_pictures = what == KIND or (isinstance(what, list | tuple) and list(what) == [KIND])
    return (SampleRequest if asks_pictures else PreviewRequest).from_json(record)


def _strengths(given: Any, weights: tuple[Weights, ...] | None) -> tuple[float, ...]:
    """The rows of a matrix."""
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MOST_ROWS:
        raise ConfigError([Fault(f"strengths: must be a list of 1 to {MOST_ROWS} weights.", ("strengths",))])
    try:
        found = tuple(read_strength(each) for each in given)
    except ConfigError as error:
        raise ConfigError([Fault(fault.message, ("strengths",)) for fault in error.faults]) from error
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice is not None:
        raise ConfigError([Fault(f"strengths: {twice:g} is named twice; leave one out.", ("strengths",))])
    if any(each.is_base for each in weights or ()):
        message = "checkpoints: a matrix has no column for the base; its row of weight 0 is the base."
        raise ConfigError([Fault(message, ("checkpoints",))])
    return found


def _too_many(weights: int, prompts: int, strengths: int) -> list[Fault]:
    if strengths and weights * prompts * strengths > MOST_CELLS:
        message = (
            f"{strengths} weights x {weights} checkpoints x {prompts} prompts = {weights * prompts * strengths} pictures: a matrix has at most "
            f"{MOST_CELLS}; leave some out."
        )
        return [Fault(message, ("strengths", "checkpoints", "prompts"))]
    if not strengths and weights * prompts > MOST_PICTURES:
        message = (
            f"{prompts} prompts x {weights} checkpoints: at most {MOST_PICTURES} pictures together; leave some out."
        )
        return [Fault(message, ("prompts", "checkpoints"))]
    return []


def _prompts(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not 1 <= len(texts) <= MOST_PROMPTS:
        raise ConfigError([Fault(f"prompts: must be 1 to {MOST_PROMPTS} texts.", ("prompts",))])
    faults = []
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            faults.append(Fault("prompts: there is no prompt. Describe what the picture should show.", ("prompts",)))
        elif len(text) > LONGEST_PROMPT or not text.isprintable():
            faults.append(
                Fault(
                    f"prompts: {shown(text[:40])} must be one line of at most {LONGEST_PROMPT} characters.",
                    ("prompts",),
                )
            )
    if faults:
        raise ConfigError(faults)
    return tuple(text.strip() for text in texts)
