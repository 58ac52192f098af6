"""The settings inside a picture: written by `drawing`, read again by the page. No torch, and no pixels are read.

A PNG carries them as JSON under `TEXT_KEY`, and under `parameters` as the text that other tools show; a picture of theirs is read from that.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..config.options import ConfigError
from ..errors import Trouble
from .preview.request import Weights, read_strength
from .sample_request import LONGEST_PROMPT, Drawing

TEXT_KEY = "rollout_studio"
_PARAMETERS = "parameters"
_LAST_LINE = re.compile(r"^Steps: \d+, .*$", re.MULTILINE)
_FIELDS = {"Steps": ("steps", int), "CFG scale": ("guidance", float), "Seed": ("seed", int)}
"""Name in a line of parameters -> the field of `Drawing`."""
_MOST_PARTS = 8


class PictureError(Trouble):
    """A picture that has no settings to read. `message`: why; `remedy`: what to do."""


@dataclass(frozen=True)
class Part:
    """One of the things that a picture was drawn with. `file`: of a LoRA; `run`: the name of its run; `step`: of a checkpoint."""

    kind: str
    strength: float
    run: str | None = None
    file: str | None = None
    step: int | None = None


@dataclass(frozen=True)
class PictureSettings:
    """What a picture says of itself. `parts`: what it was drawn with, the first thing first; empty where another tool made it."""

    prompt: str
    drawing: Drawing
    parts: tuple[Part, ...]
    model: str
    maker: str


def drawn_with(weights: Weights) -> list[dict[str, Any]]:
    """The weights of a picture as it carries them: names alone, because a path names a person's folders."""
    return [_part(each) for each in (weights.together or (weights,))]


def _part(weights: Weights) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": weights.kind, "strength": weights.strength}
    if weights.kind == "lora" and weights.path is not None:
        in_a_run = weights.path.parent.name == "lora"  # runs/<name>/lora/<file>
        found |= {"file": weights.path.name} | ({"run": weights.path.parent.parent.name} if in_a_run else {})
    elif weights.path is not None:
        found |= {"run": weights.path.name} | ({} if weights.step is None else {"step": weights.step})
    return found


def read_settings(path: Path) -> PictureSettings:
    """The settings that a picture carries. Raises PictureError, naming who made the picture where that can be told."""
    texts = _texts(path)
    try:
        if TEXT_KEY in texts:
            return _own(json.loads(texts[TEXT_KEY]))
        if _PARAMETERS in texts:
            return _of_others(texts[_PARAMETERS])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PictureError(f"{path.name}: its settings are damaged ({str(error)[:120]}).", _ANOTHER) from error
    except ConfigError as error:
        raise PictureError(f"{path.name}: its settings cannot be used: {error}", _ANOTHER) from error
    if {"workflow", "prompt"} & texts.keys():
        raise PictureError(
            f"{path.name} was made by ComfyUI and carries a workflow, not a prompt with its settings.",
            "Open it in ComfyUI, and copy its prompt and seed.",
        )
    raise PictureError(f"{path.name} carries no settings.", _ANOTHER)


_ANOTHER = (
    "Take the PNG that Try it saved: a screenshot, a JPEG, or a picture that another program saved anew has lost them."
)


def _texts(path: Path) -> dict[str, str]:
    """The texts of a PNG, by their keys."""
    try:
        with Image.open(path) as picture:
            if picture.format != "PNG":
                raise PictureError(
                    f"{path.name} is a {picture.format} file; only a PNG carries its settings.", _ANOTHER
                )
            return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise PictureError(f"{path.name} is no picture that can be read.", _ANOTHER) from error
    except (OSError, ValueError) as error:  # also texts of more than a megabyte
        raise PictureError(f"{path.name} cannot be read: {str(error)[:120]}.", _ANOTHER) from error


def _own(about: dict[str, Any]) -> PictureSettings:
    width, height = about["size"]
    drawing = Drawing(
        seed=about["seed"], steps=about["steps"], guidance=about["guidance"], negative_prompt=about["negative_prompt"], width=width, height=height
    )  # fmt: skip
    given = about.get("drawn_with", [])  # pictures of version 0.2 have none
    if not isinstance(given, list) or len(given) > _MOST_PARTS:
        raise ValueError("drawn_with")
    parts = tuple(
        Part(
            str(each["kind"]),
            read_strength(each["strength"]),
            _text(each, "run"),
            _text(each, "file"),
            _step(each.get("step")),
        )
        for each in given
    )
    return PictureSettings(_prompt(about["prompt"]), drawing, parts, str(about["model"]), "Rollout Studio")


def _of_others(parameters: str) -> PictureSettings:
    """From the text that AUTOMATIC1111's page, Forge and others write: the prompt, the negative one, a line of settings."""
    found = _LAST_LINE.search(parameters)
    if found is None:
        raise ValueError("there is no line of settings that begins with Steps")
    words, line = parameters[: found.start()], found[0]
    prompt, _, negative = words.partition("\nNegative prompt: ")
    pairs = dict(re.findall(r"(?:^|, )([A-Za-z ]+): ([^,]*)", line))
    values = {field: kind(pairs[name]) for name, (field, kind) in _FIELDS.items() if name in pairs}
    size = re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", ""))
    if size is not None:
        values |= {"width": int(size[1]), "height": int(size[2])}
    drawing = Drawing(negative_prompt=" ".join(negative.split()), **values)
    return PictureSettings(_prompt(" ".join(prompt.split())), drawing, (), pairs.get("Model", ""), "another tool")


def _prompt(given: Any) -> str:
    if not isinstance(given, str) or not given.strip() or len(given) > LONGEST_PROMPT or not given.isprintable():
        raise ValueError(f"the prompt must be one line of at most {LONGEST_PROMPT} characters")
    return given


def _text(part: dict[str, Any], name: str) -> str | None:
    value = part.get(name)
    return None if value is None else str(value)[:200]


def _step(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise ValueError("the step must be a whole number")
    return value
