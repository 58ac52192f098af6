"""Pictures for a `SampleRequest`: by the stock pipeline, from the same noise for all weights, each with its settings inside the file."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..adapters.header import published_config
from .drift.settings import Stopped
from .picture_settings import TEXT_KEY, drawn_with
from .preview.request import PreviewError, Weights
from .sample_request import KIND, SampleRequest

if TYPE_CHECKING:
    from ..families.base import Model


def draw(
    request: SampleRequest,
    enter: Callable[[Weights], AbstractContextManager[Any]],
    model: "Model",
    folder: Path,
    *,
    step: int | None = None,
    memory: Any = None,
    report_progress: Callable[[float, str], None] = lambda share, what: None,
    part: Callable[[dict[str, Any]], None] = lambda result: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Draw the pictures of the request into `folder`.

    Args:
        enter: gives the model with the weights in place, for as long as the block lasts.
        model: for its sizes and defaults.
        step: of the training that draws with its weights of now, for the record.
        memory: a `remembering.Memory`: pictures that were drawn before with the same weights are not drawn again.
        report_progress: called with the share that is done and what is being done, after every sampling step.
        part: called with the result so far after every picture but the last; of a matrix also before the first.
        should_stop: called after every sampling step; true stops with `Stopped`.

    Returns: the result, JSON-able, its files named as in `folder`: `pictures` (label, kind, prompt, seed, file), and the settings as
        they were used: `model`, `size` (width, height), `steps`, `guidance`, `negative_prompt`, `seed`; of a matrix `matrix` (rows: strengths,
        columns: labels, prompts), and each picture's `row` and `column`. It is in `samples.json` too.
    Raises: Stopped, PreviewError, and what the model raises.
    """
    began = time.monotonic()
    drawing, used = request.drawing, _used(request, model)
    name = published_config(request.config)["pretrained_model_name_or_path"]
    about_all = {"what": [KIND], "model": name, "step": step, "seed": drawing.seed}
    result: dict[str, Any] = {**about_all, **used, **_matrix(request), "pictures": []}
    total = len(request.cells) * len(request.prompts)
    folder.mkdir(parents=True, exist_ok=True)

    def report_part() -> None:
        part({**result, "pictures": list(result["pictures"]), "seconds": time.monotonic() - began})

    if request.strengths:
        report_part()  # the empty table, with its rows and columns
    for place, (row, column, weights) in enumerate(request.cells):
        with enter(weights) as shown:
            for number, prompt in enumerate(request.prompts):
                done, seed = len(result["pictures"]), drawing.seed + number
                what = f"{weights.label}: picture {done + 1} of {total}"
                progress = _Progress(done, total, what, report_progress, should_stop)
                pixels = _pixels(shown, prompt, seed, drawing.negative_prompt, used, memory, progress)
                file = f"{number:02d}-{place}.png"
                _save(pixels.numpy(), folder / file, _about(weights, prompt, seed, name, used, step))
                drawn = {"label": weights.label, "kind": weights.kind, "prompt": prompt, "seed": seed, "file": file}
                where = {"row": row, "column": column} if request.strengths else {}
                result["pictures"].append(drawn | where)
                if done + 1 < total:
                    report_part()
    result["seconds"] = round(time.monotonic() - began, 3)
    (folder / request.proof).write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    return result


def _matrix(request: SampleRequest) -> dict[str, Any]:
    """The rows and columns of a matrix, as the result names them; nothing without one."""
    columns = [each.label for each in request.weights]
    table = {"rows": list(request.strengths), "columns": columns, "prompts": list(request.prompts)}
    return {"matrix": table} if request.strengths else {}


def _about(
    weights: Weights, prompt: str, seed: int, model: str, used: Mapping[str, Any], step: int | None
) -> dict[str, Any]:
    """What a picture carries in its file."""
    return {
        "prompt": prompt,
        "seed": seed,
        "weights": weights.label,
        "drawn_with": drawn_with(weights),
        "model": model,
        **used,
        "training_step": weights.step if step is None else step,
    }


def _used(request: SampleRequest, model: "Model") -> dict[str, Any]:
    """The settings as they are used, with the model's defaults in place of what the request leaves open."""
    drawing = request.drawing
    guidance = model.default_guidance if drawing.guidance is None else drawing.guidance
    return {
        "steps": drawing.steps,
        "guidance": guidance,
        "negative_prompt": drawing.negative_prompt if guidance > 1 and model.guidance.takes_negative else "",
        "size": list(_size(request, model)),
    }


@dataclass(frozen=True)
class _Progress:
    """Reports the picture number `done` of `total`, and stops between two sampling steps where that is wanted."""

    done: int
    total: int
    what: str
    report_progress: Callable[[float, str], None]
    should_stop: Callable[[], bool]

    def begin(self) -> None:
        self.report_progress(self.done / self.total, self.what)

    def after_step(self, step: int, steps: int) -> None:
        self.report_progress((self.done + step / steps) / self.total, self.what)
        if self.should_stop():
            raise Stopped("Cancelled, or a newer request came.")


def _pixels(
    shown: Any, prompt: str, seed: int, negative_prompt: str, used: Mapping[str, Any], memory: Any, progress: _Progress
) -> Tensor:
    """The picture, (height, width, 3) uint8: from the memory where the same weights drew it before, else sampled."""
    key = None if memory is None else _key(shown.state, prompt, seed, used)
    pixels = None if key is None else memory.get(key)
    if pixels is not None:
        return pixels
    progress.begin()
    width, height = used["size"]
    [picture] = shown.sample(
        [prompt], steps=used["steps"], guidance=used["guidance"], negative_prompt=negative_prompt, seed=seed,
        height=height, width=width, on_step=progress.after_step,
    )  # fmt: skip
    pixels = torch.from_numpy(np.array(picture))
    if key is not None:
        memory.put(key, pixels, [pixels])
    return pixels


def _size(request: SampleRequest, model: "Model") -> tuple[int, int]:
    """(width, height): as requested; else the square of the training; else the model's own. Raises PreviewError for sides it cannot make."""
    height, width = model.default_size
    unit = model.size_multiple
    if request.side is not None:
        height = width = max(unit, request.side // unit * unit)
    width = width if request.drawing.width is None else request.drawing.width
    height = height if request.drawing.height is None else request.drawing.height
    for name, side in (("width", width), ("height", height)):
        if side % unit:
            near = max(unit, round(side / unit) * unit)
            raise PreviewError(
                f"{name} = {side}: this model makes sides that are multiples of {unit} px.", f"Take {near}."
            )
    return width, height


def _key(*parts: Any) -> bytes:
    return hashlib.blake2b(json.dumps(["drawn", *parts]).encode(), digest_size=20).digest()


def _save(pixels: np.ndarray, path: Path, about: Mapping[str, Any]) -> None:
    text = PngInfo()
    negative = f"\nNegative prompt: {about['negative_prompt']}" if about["negative_prompt"] else ""
    width, height = about["size"]
    line = f"Steps: {about['steps']}, CFG scale: {about['guidance']:g}, Seed: {about['seed']}, Size: {width}x{height}, Model: {about['model']}"
    text.add_itxt("parameters", f"{about['prompt']}{negative}\n{line}, Weights: {about['weights']}")
    text.add_itxt(TEXT_KEY, json.dumps(about, ensure_ascii=False))
    Image.fromarray(pixels).save(path, pnginfo=text)
