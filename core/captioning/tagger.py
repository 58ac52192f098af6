"""Taggers of the WD kind: a network in ONNX that gives each tag of a list its probability. Needs onnxruntime, an optional package.

Its input is (B, side, side, 3) in float32, blue first, 0..255, the picture on a white square. Source: the model cards of
SmilingWolf/wd-*-tagger-v3.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .models import CaptionError, Found
from .settings import CaptionSettings

THRESHOLD, CHARACTER_THRESHOLD = 0.35, 0.85
GENERAL, CHARACTER = "0", "4"  # categories in selected_tags.csv; the third is ratings, which are no caption
_USUAL_SIDE = 448
_WORD = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True)
class Tag:
    """A line of selected_tags.csv."""

    name: str
    category: str


def read_tags(file: Path) -> list[Tag]:
    """The tags in the order of the network's outputs. Raises CaptionError for another kind of file."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return [Tag(_readable(row["name"]), row["category"]) for row in csv.DictReader(stream)]
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise CaptionError(
            f"{file} is no list of tags: its columns must include name and category ({error!r}).",
            "Download the tagger again.",
        ) from error


def _readable(name: str) -> str:
    """`long_hair` -> "long hair"; what has no word in it is a face made of characters (`o_o`) and stays."""
    return name.replace("_", " ") if _WORD.search(name) else name


def as_input(picture: Image.Image, side: int) -> np.ndarray:
    """(side, side, 3) of a picture: on a white square, blue first, 0..255."""
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)[:, :, ::-1]


def chosen_tags(
    probabilities: np.ndarray, tags: Sequence[Tag], threshold: float, character_threshold: float
) -> list[str]:
    """Names of the tags that are sure enough: characters, then the others, each the surest first."""
    limits = {GENERAL: threshold, CHARACTER: character_threshold}
    order = sorted(range(len(tags)), key=lambda number: -float(probabilities[number]))
    sure = [
        number
        for number in order
        if tags[number].category in limits and probabilities[number] >= limits[tags[number].category]
    ]
    return [
        tags[number].name for category in (CHARACTER, GENERAL) for number in sure if tags[number].category == category
    ]


class Tagger:
    """A tagger that is open. Raises CaptionError where onnxruntime or the device lacks, or the files are not those of a tagger."""

    def __init__(self, found: Found, settings: CaptionSettings) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise CaptionError(
                f"'{found.name}' is a tagger in ONNX, which needs the package onnxruntime, and it is not installed.",
                "Install it (pip install onnxruntime; onnxruntime-gpu for CUDA), or choose a Florence-2 or BLIP model.",
            ) from error
        self.device, providers = _providers(settings.device, onnxruntime.get_available_providers())
        self.tags = read_tags(found.folder / "selected_tags.csv")
        try:
            self._session = onnxruntime.InferenceSession(str(found.folder / "model.onnx"), providers=providers)
        except Exception as error:  # onnxruntime has a class of error for each status, with no common base
            raise CaptionError(
                f"model.onnx of '{found.name}' cannot be opened: {error}", "Download it again."
            ) from error
        self._input = self._session.get_inputs()[0].name
        shape, outputs = self._session.get_inputs()[0].shape, self._session.get_outputs()[0].shape
        if len(shape) != 4 or shape[3] != 3 or len(outputs) != 2 or outputs[1] != len(self.tags):
            raise CaptionError(
                f"model.onnx of '{found.name}' takes {shape} and gives {outputs}; a tagger takes (pictures, side, side, 3) and gives a number for each of "
                f"the {len(self.tags)} tags.",
                "Choose a WD tagger, for example SmilingWolf/wd-vit-tagger-v3.",
            )
        self._side = shape[1] if isinstance(shape[1], int) else _USUAL_SIDE
        self._limits = (
            THRESHOLD if settings.threshold is None else settings.threshold,
            CHARACTER_THRESHOLD if settings.character_threshold is None else settings.character_threshold,
        )

    def describe(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One text for each picture; "" where no tag is sure enough."""
        batch = np.stack([as_input(picture, self._side) for picture in pictures])
        rows = self._session.run(None, {self._input: batch})[0]
        return [", ".join(chosen_tags(row, self.tags, *self._limits)) for row in rows]


def _providers(device: str, available: Sequence[str]) -> tuple[str, list[Any]]:
    """(the device's name, onnxruntime's providers for it). Raises CaptionError where the installation lacks them."""
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device == "auto":
        device = "cuda" if cuda in available else "cpu"
    if device == "cpu":
        return device, [cpu]
    if device == "mps":
        raise CaptionError("caption_device = mps: a tagger computes on cuda or the cpu.", "Set it to auto or cpu.")
    if cuda not in available:
        raise CaptionError(
            f"caption_device = {device}: this onnxruntime has no CUDA.",
            "Set it to auto or cpu, or install onnxruntime-gpu.",
        )
    return device, [(cuda, {"device_id": int(device.partition(":")[2] or 0)}), cpu]
