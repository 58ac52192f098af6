"""Drift on demand: pictures, curves and numbers for one picture and any weights, in a process of their own. And pictures drawn for
a prompt (`drawing.py`), by the same worker with the same model and weights.

    python -m rollout_studio.core.look.preview [--idle SECONDS]

A line of JSON in asks, lines of JSON out tell the progress and the answer (`Worker`). The worker keeps the last model,
a few LoRAs beside it, and what its network and its decoder have answered, by content: asking again with another solver,
offset or checkpoint costs only what is new. A running run answers with its own weights, between two of its steps, by
the same code (`show_live`). What is measured is `drift.measure`'s affair; how a request reads is `preview_request`'s.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.options import ConfigError
from ..data import pictures, transform
from ..data.buckets import MULTIPLE, bucket_sizes, choose
from ..families.source import ModelError
from ..maths.noise import Level, Prediction
from ..maths.rollout import Grid, plan_from_noise, plan_offsets
from ..memory import is_out_of_memory, memory_message
from ..platform_calls import use_all_cores
from ..runs import checkpoint
from .drawing import draw
from .drift import measure as drift
from .drift.files import report_to_csv, report_to_json
from .drift.report import DriftReport
from .drift.report import Weights as Side
from .drift.settings import ProbeSet, Settings, Stopped
from .drift.states import t_at_share
from .drift.words import words
from .pictures.curves import curves_figure
from .pictures.filmstrip import filmstrip, heat, heat_scale
from .pictures.panels import figure_png
from .pictures.spectrum import spectrum_figure
from .preview_request import PreviewError, PreviewRequest, Weights
from .sample_request import SampleRequest, read_request

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Conditioning, Model

REMEMBERED_BYTES = 256 * 2**20
"""Of network answers, decoded pictures, latents and prompts."""
ADAPTERS_KEPT = 4
IDLE_S = 300.0
PROGRESS_S = 0.1  # between two lines of progress
SAME_MODEL = ("pretrained_model_name_or_path", "revision", "variant")
"""What must be equal in the configs of a run and of the request that shows its checkpoint."""
LOAD_SHARE = 0.6  # of the progress bar, where the model must be loaded first
STRIP_WORK, CURVES_WORK, SPECTRUM_WORK = 20, 45, 15  # what drawing costs, in rows of the demo's network


# What is remembered --------------------------------------------------------------------------------------------------


class Memory:
    """Tensors by content key, the least recently used ones dropped beyond `limit` bytes."""

    def __init__(self, limit: int = REMEMBERED_BYTES) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()

    def get(self, key: bytes) -> Any:
        """What was put under the key, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: bytes, value: Any, tensors: Sequence[Tensor]) -> None:
        """Keep `value`, which holds these tensors."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > self.limit or key in self._kept:
            return
        self._kept[key] = (value, size)
        self.bytes += size
        while self.bytes > self.limit:
            self.bytes -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def _key(*parts: Any) -> bytes:
    """A key of the content of tensors and plain values."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(repr((part.shape, part.dtype)).encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if part.numel() else b"")
        else:
            digest.update(repr(part).encode())
    return digest.digest()


class Remembering:
    """A model whose predictions and decoded pictures are remembered row by row; everything else is the model's own.

    `state` names the weights that it has now. A row's answer depends on its state, time, prompt and guidance only, so
    the true path is evaluated and decoded once for all solvers and offsets that end at the same level.
    """

    def __init__(self, model: "Model", state: str, memory: Memory) -> None:
        self._model, self._state, self._memory = model, state, memory

    @property
    def state(self) -> str:
        """Names the weights: equal exactly for equal ones of one model."""
        return self._state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, cond: "Conditioning", guidance: float = 1.0, negative: "Conditioning | None" = None) -> Any:
        """As `Model.predict`."""
        predict, memory = self._model.predict(cond, guidance, negative), self._memory
        against = None if negative is None else _key(*(negative[name] for name in sorted(negative)))
        number = len(next(iter(cond.values())))
        prompts = [_key(*(cond[name][row] for name in sorted(cond))) for row in range(number)]

        def remembered(x: Tensor, level: Level, rows: Tensor) -> Prediction:
            asked = zip(x, level.t.tolist(), rows.tolist(), strict=True)
            keys = [_key("net", self._state, guidance, against, prompts[row], t, one) for one, t, row in asked]
            known = [memory.get(key) for key in keys]
            new = [place for place, found in enumerate(known) if found is None]
            if new:
                places = torch.tensor(new)
                answer = predict(x[places.to(x.device)], level[places.to(level.t.device)], rows[places.to(rows.device)])
                for place, x0_hat, noise_hat in zip(new, answer.x0_hat, answer.noise_hat, strict=True):
                    known[place] = (x0_hat.clone(), noise_hat.clone())
                    memory.put(keys[place], known[place], known[place])
            return Prediction(*(torch.stack(part) for part in zip(*known, strict=True)))

        return remembered

    def decode(self, latents: Tensor) -> Tensor:
        """As `Model.decode`."""
        keys = [_key("pixels", one) for one in latents]
        known = [self._memory.get(key) for key in keys]
        new = [place for place, found in enumerate(known) if found is None]
        if new:
            for place, pixels in zip(new, self._model.decode(latents[torch.tensor(new)]), strict=True):
                known[place] = pixels.clone()
                self._memory.put(keys[place], known[place], [known[place]])
        return torch.stack(known)


# The model and its weights -------------------------------------------------------------------------------------------


class Bench:
    """The one loaded model, the adapters beside it, and the memory. Everything is loaded when it is first asked for."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self.memory = Memory()
        self._key: Any = None
        self._config: RunConfig | None = None
        self._adapters: OrderedDict[str, str] = OrderedDict()  # state -> the adapter's name, least recently used first
        self._base: dict[str, Tensor] | None = None  # the base's weights, while those of a full fine-tune are in place
        self._state = "base"
        self._numbers = 0

    def is_open(self, config: "RunConfig") -> bool:
        """Whether the config's model is the one that is loaded."""
        return self.model is not None and self._key == (config.model, config.training.flow_schedule_shift)

    def open(self, config: "RunConfig") -> "Model":
        """The config's model; another one that was loaded goes first."""
        if not self.is_open(config):
            from ..families import load_model

            self.free()
            shift = config.training.flow_schedule_shift
            self.model = load_model(config.model, flow_shift=shift, for_training=False)
            self._key, self._config = (config.model, shift), config
        return self.model

    def free(self) -> None:
        """Give the memory back: model, adapters, everything remembered."""
        self.model, self._key, self._config, self._base, self._state = None, None, None, None, "base"
        self._numbers = 0
        self._adapters.clear()
        self.memory.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def wearing(self, weights: Weights) -> Remembering:
        """The open model with these weights in place. Raises PreviewError where they are missing or do not fit it."""
        if weights.is_base:
            self._put_on("base")
        elif weights.kind == "lora":
            self._put_on(self._lora_file(weights))
        else:
            self._checkpoint(weights)
        return Remembering(self.model, self._state, self.memory)

    def _put_on(self, state: str) -> None:
        """The base, or an adapter that is loaded."""
        denoiser = self.model.denoiser
        self._take_off_full()
        if self.model.has_adapter:
            if state == "base":
                denoiser.disable_adapters()
            else:
                denoiser.enable_adapters()
                denoiser.set_adapter(self._adapters[state])
        if state != "base":
            self._adapters.move_to_end(state)
        self._state = state

    def _lora_file(self, weights: Weights) -> str:
        from ..adapters.lora_file import LoraError, look

        try:
            path = look(weights.path).path
        except LoraError as error:
            raise PreviewError(error.message, error.remedy) from error
        state = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        if state not in self._adapters:
            self._load_adapter(state, path)
        return state

    def _checkpoint(self, weights: Weights) -> None:
        """The weights of a run's checkpoint; of its moving average where it has one, because that is what is exported."""
        folder = weights.checkpoint
        if not (folder / checkpoint.MANIFEST).is_file():
            there = [str(checkpoint.step_of(path)) for path in checkpoint.checkpoints(folder.parent)]
            raise PreviewError(
                f"{weights.path.name} has no checkpoint of step {weights.step}.",
                f"Choose one that is there: {', '.join(there)}." if there else "It has none yet: save one first.",
            )
        state = hashlib.blake2b((folder / checkpoint.MANIFEST).read_bytes(), digest_size=16).hexdigest()
        if state in self._adapters:
            self._put_on(state)
            return
        if self._state == state:  # a full fine-tune that is in place
            return
        found = checkpoint.load(folder)
        trained = found.record["config"]
        here = {name: getattr(self._config.model, name) for name in SAME_MODEL}
        other = [f"{name}: {trained[name]}, here {here[name]}" for name in here if trained[name] != here[name]]
        if other:
            raise PreviewError(
                f"{weights.label} was trained on another model ({'; '.join(other)}).", "Choose the run's own model."
            )
        tensors = found.tensors["ema"] if "ema" in found.tensors else found.tensors["trainable"]
        if trained["model_type"] == "lora":
            rank = trained["lora_rank"]
            alpha = rank if trained["lora_alpha"] is None else trained["lora_alpha"]
            file = {
                f"{self.model.component}.{name.replace('.default.', '.')}": tensor * (alpha / rank) if ".lora_B." in name else tensor
                for name, tensor in tensors.items()
            }  # fmt: skip
            self._load_adapter(state, file)
            self._put_on(state)
        else:
            self._put_on_full(state, tensors)

    def _load_adapter(self, state: str, source: Path | dict[str, Tensor]) -> None:
        """Load a LoRA beside the others; the oldest goes. Raises PreviewError where it does not fit."""
        from ..adapters.loading import load_lora
        from ..adapters.lora_file import LoraError

        self._take_off_full()
        while len(self._adapters) >= ADAPTERS_KEPT:
            self.model.denoiser.delete_adapters(self._adapters.popitem(last=False)[1])
        self._numbers += 1
        name = f"preview{self._numbers}"
        try:
            load_lora(self.model, source, name, text_encoders=False)
        except LoraError as error:
            raise PreviewError(error.message, error.remedy) from error
        self._adapters[state] = name

    def _put_on_full(self, state: str, tensors: Mapping[str, Tensor]) -> None:
        """The weights of a full fine-tune in place of the base's, which are kept aside."""
        if self._numbers:  # adapters have renamed the denoiser's layers
            config = self._config
            self.free()
            self.open(config)
        self._take_off_full()
        own = self.model.denoiser.state_dict()
        wrong = sorted(name for name in own.keys() | tensors.keys() if name not in tensors or name not in own or own[name].shape != tensors[name].shape)  # fmt: skip
        if wrong:
            raise PreviewError(
                f"The checkpoint does not fit {self.model.source.name}: {len(wrong)} weights differ, as {wrong[0]}.",
                "Choose a checkpoint of a run on this model.",
            )
        self._base = {name: tensor.detach().to("cpu", copy=True) for name, tensor in own.items()}
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        self._state = state

    def _take_off_full(self) -> None:
        if self._base is not None:
            with torch.no_grad():
                for name, tensor in self.model.denoiser.state_dict().items():
                    tensor.copy_(self._base[name])
            self._base, self._state = None, "base"


# One request ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One walk to show: these weights with this solver. `enter` gives the model as it is then."""

    label: str
    weights: Side
    walk: "RunConfig"
    enter: Callable[[], AbstractContextManager["Model | Remembering"]]


@dataclass(frozen=True)
class Sight:
    """The picture and the prompt, as the network takes them."""

    latents: Tensor
    conditioning: "Conditioning"
    caption: str


class _Progress:
    """Work done of the work planned, told as a share and a word; a way out wherever it is told."""

    def __init__(self, planned: float, tell: Callable[[float, str], None], should_stop: Callable[[], bool]) -> None:
        self.planned, self.done, self.tell, self.should_stop = planned, 0.0, tell, should_stop

    def of(self, work: float, what: str) -> Callable[[int, int, str], None]:
        """For `drift.measure`: the progress of one measurement that is `work` of the whole."""
        return lambda done, total, _: self.tell((self.done + work * done / max(1, total)) / self.planned, what)

    def finish(self, work: float, what: str) -> None:
        self.done += work
        self.tell(min(1.0, self.done / self.planned), what)
        if self.should_stop():
            raise Stopped("A newer request came.")


def sight(model: "Model", request: PreviewRequest, memory: Memory | None = None) -> Sight:
    """The request's picture, cropped to a shape that the model takes, as latents; its prompt, encoded.

    Raises: PreviewError for a missing or broken picture and for a missing prompt.
    """
    caption = request.text()
    try:
        data = pictures.read_bytes(request.picture)
        digest = hashlib.sha256(data).hexdigest()
        size = _size(model, request, data)
        key, text_key = _key("latents", digest, size), _key("text", caption)
        latents = None if memory is None else memory.get(key)
        if latents is None:
            image = pictures.decode(data)
            pixels = transform.apply(image, transform.crop_for(*image.size, size, center=True, digest=digest))
            scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = model.encode_images(scaled)[0].cpu()
    except pictures.BadPicture as bad:
        raise PreviewError(f"{request.picture}: {bad.reason}.", bad.remedy) from bad
    conditioning = None if memory is None else memory.get(text_key)
    if conditioning is None:
        conditioning = model.encode_prompts([caption])[0]
    if memory is not None:
        memory.put(key, latents, [latents])
        memory.put(text_key, conditioning, list(conditioning.values()))
    return Sight(latents, conditioning, caption)


def _size(model: "Model", request: PreviewRequest, data: bytes) -> tuple[int, int]:
    """(width, height) in pixels: the bucket that training would put the picture into."""
    found, config = pictures.inspect(data), request.config.data
    height, width = model.default_size
    side = round((height * width) ** 0.5) if request.resolution is None else request.resolution
    resolution = max(MULTIPLE, side // MULTIPLE * MULTIPLE)
    if not config.aspect_buckets:
        return resolution, resolution
    return choose(found.width, found.height, bucket_sizes(resolution, config.bucket_step))


def strip_settings(request: PreviewRequest, walk: "RunConfig") -> Settings:
    """One picture, one noise, the short walk to the target with its filmstrip: what the first picture needs, no more."""
    view = request.view
    return Settings.from_config(
        walk, levels=(), loss_levels=(), offsets=(view.offset,), samples=1, fine_samples=0, trajectory_samples=1,
        start=None if view.start == "noise" else 0.8, end=view.target, walk=None if view.start == "noise" else view.offset,
        shown=view.columns, strips=1,
    )  # fmt: skip


def curve_settings(request: PreviewRequest, walk: "RunConfig") -> Settings:
    """Several noises, all levels, the solver's part apart, the clean loss, and the whole walk for the spectrum."""
    view = request.view
    return Settings.from_config(
        walk, levels=tuple(sorted({*Settings.levels, view.target})), offsets=tuple(sorted({1, view.offset})),
        samples=view.samples, fine_samples=min(2, view.samples), fine_offsets=(view.offset,),
        trajectory_samples=view.samples, strips=0,
    )  # fmt: skip


def show(
    request: PreviewRequest,
    variants: Sequence[Variant],
    model: "Model",
    seen: Sight,
    folder: Path,
    *,
    step: int | None = None,
    tell: Callable[[float, str], None] = lambda share, what: None,
    part: Callable[[dict[str, Any]], None] = lambda result: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure and draw what the request asks for, into `folder`.

    Args:
        model: for its schedule and noise path; what is measured is what each variant's `enter` gives.
        step: of the training, for the record.
        tell: called with the share that is done and what is being done.
        part: called with the result so far when the filmstrips are there and the curves are not.
        should_stop: asked before every network call.

    Returns: the result, JSON-able, its files named as in `folder` (`preview_request.located_in`): `strips` (label, caption, filmstrip, truth, frames with step, t,
        sigma, difference and three pictures each), `numbers` (label -> measure -> value, at the target), `words`,
        `walked` (grid steps, sigma and t of both ends), `report`, `csv`, and where asked `curves`, `spectrum`.
    Raises: Stopped, PreviewError, and what the model raises.
    """
    began = time.monotonic()
    walked = [_walked(model, seen.latents.shape, request, variant.walk) for variant in variants]
    strips = [strip_settings(request, variant.walk) for variant in variants]
    curves = [curve_settings(request, variant.walk) for variant in variants] if set(request.what) != {"strip"} else []
    steps = [round(ends["steps"]) + 1 for ends in walked]
    strip_work = [drift.expected_rows(each, 1, n) for each, n in zip(strips, steps, strict=True)]
    curve_work = [drift.expected_rows(each, each.samples, each.grid_steps) for each in curves]
    drawing = (CURVES_WORK if "curves" in request.what else 0) + (SPECTRUM_WORK if "spectrum" in request.what else 0)
    progress = _Progress(sum(strip_work) + STRIP_WORK * len(variants) + sum(curve_work) + drawing, tell, should_stop)
    probe = [ProbeSet((seen.latents,), (seen.conditioning,), (seen.caption,), request.role)]

    def measured(variant: Variant, settings: Settings, work: float, what: str) -> DriftReport:
        what = f"{what}: {variant.label}"
        with variant.enter() as shown:
            report = drift.measure(
                shown, probe, settings, weights=variant.weights, step=step, should_stop=should_stop,
                progress=progress.of(work, what),
            )  # fmt: skip
        progress.finish(work, what)
        return report

    folder.mkdir(parents=True, exist_ok=True)
    reports = [measured(*each, "walking") for each in zip(variants, strips, strip_work, strict=True)]
    result: dict[str, Any] = {
        "what": list(request.what), "caption": seen.caption, "picture": str(request.picture),
        "model": model.source.name, "step": step, "target": request.view.target, "walked": walked,
        "strips": _draw_strips(variants, reports, folder), "numbers": {}, "words": [],
    }  # fmt: skip
    for variant, report, strip in zip(variants, reports, result["strips"], strict=True):
        end = report.curves[0].trajectory[-1]
        numbers = {name: measure.value for name, measure in end.measures.items()}
        numbers["picture_difference"] = strip["frames"][-1]["difference"]
        result["numbers"][variant.label] = numbers
        result["words"].append(_said(variant.label, end.sigma, round(end.steps), numbers))
    _write_report(_together(variants, reports), folder, result)
    progress.finish(STRIP_WORK * len(variants), "the filmstrip")
    if curves:
        part(_finite({**result, "seconds": time.monotonic() - began}))
        reports = [measured(*each, "curves") for each in zip(variants, curves, curve_work, strict=True)]
        report = _together(variants, reports)
        _write_report(report, folder, result)
        result["words"] += _told(variants, reports, request.view.target)
        for kind, figure, work in (
            ("curves", curves_figure, CURVES_WORK),
            ("spectrum", spectrum_figure, SPECTRUM_WORK),
        ):
            if kind in request.what:
                (folder / f"{kind}.png").write_bytes(figure_png(figure(report)))
                result[kind] = f"{kind}.png"
                progress.finish(work, "drawing")
    return _finite({**result, "seconds": time.monotonic() - began})


def _walked(model: "Model", shape: Sequence[int], request: PreviewRequest, walk: "RunConfig") -> dict[str, float]:
    """Where the walk starts and ends. Raises PreviewError where there is no room for a step."""
    view, path, grid_steps = request.view, model.noise_path, walk.rollout.grid_steps
    whole = view.start == "noise"
    times = model.inference_times(grid_steps, shape) if whole or walk.rollout.grid == "inference" else model.training_times(shape)  # fmt: skip
    grid = Grid(times)
    t = torch.tensor([t_at_share(path, view.target)], dtype=torch.float64)
    plan = plan_from_noise(t, path, grid) if whole else plan_offsets(t, torch.tensor([view.offset]), path, grid)
    if int(plan.k[0]) == 0:
        raise PreviewError(
            f"target = {view.target:g}: the schedule begins at noise level {_share(path.at(grid.nodes[:1])):.3f}, so "
            "there is no room for a step before it.",
            "Choose a lower target.",
        )
    source, target = plan.source, plan.target
    return {
        "steps": int(plan.k[0]), "source_sigma": float(source.sigma[0]), "source_t": float(source.t[0]),
        "target_sigma": float(target.sigma[0]), "target_t": float(target.t[0]),
    }  # fmt: skip


def _share(level: Level) -> float:
    return float(level.sigma[0] / (level.alpha[0] + level.sigma[0]))


def _draw_strips(variants: Sequence[Variant], reports: Sequence[DriftReport], folder: Path) -> list[dict[str, Any]]:
    """A filmstrip of each variant and its single pictures; one colour scale for all, so that they can be compared."""
    scale = heat_scale([report.strips[0] for report in reports])
    (folder / "frames").mkdir(exist_ok=True)
    told = []
    for number, (variant, report) in enumerate(zip(variants, reports, strict=True)):
        strip = dataclasses.replace(report.strips[0], weights=variant.label)
        file = f"filmstrip-{number}.png"
        filmstrip(strip, scale=scale).save(folder / file, compress_level=1)
        frames = []
        for place, frame in enumerate(strip.frames):
            shown = {"clean": frame.clean, "rolled": frame.rolled, "heat": heat(frame.difference, scale)}
            files = {}
            for row, pixels in shown.items():
                files[row] = f"frames/{number}-{place:02d}-{row}.png"
                Image.fromarray(pixels).save(folder / files[row])
            difference = float(frame.difference.mean())
            frames.append({"step": frame.step, "t": frame.t, "sigma": frame.sigma, "difference": difference, **files})
        Image.fromarray(strip.truth).save(folder / "frames" / "truth.png")
        told.append(
            {"label": variant.label, "weights": variant.weights, "caption": strip.caption, "sampler": variant.walk.rollout.sampler,
             "filmstrip": file, "truth": "frames/truth.png", "scale": scale, "frames": frames}
        )  # fmt: skip
    return told


def _together(variants: Sequence[Variant], reports: Sequence[DriftReport]) -> DriftReport:
    """The curves of all variants in one report, each under its label; base against tuned keep these names."""
    pair = [variant.weights for variant in variants] in (["base", "tuned"], ["tuned", "base"])
    curves = [
        dataclasses.replace(curve, label=curve.weights if pair else variant.label)
        for variant, report in zip(variants, reports, strict=True)
        for curve in report.curves
    ]
    same = len({report.probe for report in reports}) == 1
    return dataclasses.replace(
        reports[0], curves=tuple(curves), probe=reports[0].probe if same else "",
        seconds=sum(report.seconds for report in reports), strips=(),
    )  # fmt: skip


def _write_report(report: DriftReport, folder: Path, result: dict[str, Any]) -> None:
    for name, file, text in (
        ("report", "report.json", report_to_json(report)),
        ("csv", "report.csv", report_to_csv(report)),
    ):
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
        result[name] = file


def _said(label: str, sigma: float, steps: int, numbers: Mapping[str, float | None]) -> str:
    distance = numbers["distance"]
    if distance is None:
        return f"{label}: the model answers with what is not a number; the training has diverged."
    return (
        f"{label}: after {steps} grid step{'' if steps == 1 else 's'} to sigma {sigma:.2f} its own state differs from the "
        f"true one by {100 * distance:.1f} % of its length, and what it sees there by "
        f"{100 * numbers['picture_difference']:.1f} % of full brightness (one noise; part of it no model can avoid)."
    )


def _told(variants: Sequence[Variant], reports: Sequence[DriftReport], share: float) -> list[str]:
    """The curves in words at the noise level `share`: each tuned variant against the base with the same solver, else
    each by itself.
    """
    said: list[str] = []
    for variant, report in zip(variants, reports, strict=True):
        if variant.weights == "base" and any(each.weights == "tuned" for each in variants):
            continue
        base = next(
            (other for each, other in zip(variants, reports, strict=True) if each.weights == "base" and each.walk == variant.walk),
            None,
        )  # fmt: skip
        both = report if base is None or base is report else report.with_curves(*base.curves)
        sentences = words(both, share)
        start = f"{variant.label}: " if len(reports) > 2 or (len(reports) > 1 and base is None) else ""
        said += [start + sentence for sentence in sentences if sentence not in said]
    return list(dict.fromkeys(said))


def show_live(
    model: "Model",
    record: Mapping[str, Any],
    folder: Path,
    *,
    step: int,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[float, str], None] = lambda share, what: None,
) -> dict[str, Any]:
    """Answer a request with the weights that a training has now, between two steps, and the base beside them.

    Leaves the model's modes, adapter, weights and the random state as found. `record`: the request's JSON, whose only
    weights are this run's (`live`) and the base's; its model must be the run's.

    Raises: PreviewError, ConfigError, Stopped.
    """
    request = read_request(record)
    if any(each.kind not in ("base", "live") for each in request.weights):
        raise PreviewError("A running run shows its own weights and the base only.", "Ask for other checkpoints apart.")
    if any(each.is_base for each in request.weights) and not model.has_adapter:
        raise PreviewError(
            "A full fine-tune has no base beside it while it trains.", "Leave the base out, or compare when it is done."
        )

    @contextmanager
    def entered(weights: Weights) -> Iterator["Model"]:
        with model.adapters_disabled() if weights.is_base else nullcontext():
            yield model

    if isinstance(request, SampleRequest):
        return draw(request, entered, model, folder, step=step, tell=tell, should_stop=should_stop)
    variants = _variants(request, entered)
    return show(request, variants, model, sight(model, request), folder, step=step, tell=tell, should_stop=should_stop)


def _variants(request: PreviewRequest, enter: Callable[[Weights], AbstractContextManager[Any]]) -> list[Variant]:
    several = len(request.walks) > 1
    return [
        Variant(
            f"{weights.label}, {_solver(walk)}" if several and len(request.weights) > 1 else _solver(walk) if several else weights.label,
            "base" if weights.is_base else "tuned",
            walk,
            lambda weights=weights: enter(weights),
        )
        for weights in request.weights
        for walk in request.walks
    ]  # fmt: skip


def _solver(walk: "RunConfig") -> str:
    name, order = walk.rollout.sampler, walk.rollout.order
    return f"{name}{order}" if name in ("unipc", "dpm") else name


def answer(
    bench: Bench,
    record: Mapping[str, Any],
    folder: Path,
    *,
    tell: Callable[[float, str], None],
    part: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """`show` with the bench's model and memory. Raises PreviewError, ConfigError, ModelError, Stopped."""
    request = read_request(record)
    if request.live is not None:
        raise PreviewError("The weights of a running run are with its trainer.", "Ask the run.")
    if isinstance(request, PreviewRequest):
        request.text()  # what is missing is told before a model is loaded
    first = 0.0 if bench.is_open(request.config) else LOAD_SHARE
    if first:
        tell(0.0, "loading the model")
    model = bench.open(request.config)
    tell(first, "the picture")

    @contextmanager
    def entered(weights: Weights) -> Iterator[Remembering]:
        yield bench.wearing(weights)

    def after_loading(share: float, what: str) -> None:
        tell(first + (1 - first) * share, what)

    if isinstance(request, SampleRequest):
        return draw(request, entered, model, folder, memory=bench.memory, tell=after_loading, part=part, should_stop=should_stop)
    return show(
        request, _variants(request, entered), model, sight(model, request, bench.memory), folder,
        tell=after_loading, part=part, should_stop=should_stop,
    )  # fmt: skip


def explain(error: BaseException) -> tuple[str, str]:
    """What went wrong, and what to do."""
    if is_out_of_memory(error):
        return f"There is not enough memory for this preview. {memory_message(error)}", (
            "Choose fewer checkpoints or a smaller picture, base_model_precision bfloat16, or device cpu; a run that trains "
            "on the same device holds its memory until it ends."
        )
    if isinstance(error, PreviewError | ModelError):
        return error.message, error.remedy
    if isinstance(error, ConfigError):
        return str(error), "Correct the field named."
    if isinstance(error, checkpoint.CheckpointError):
        return str(error), "Choose another checkpoint."
    return f"{type(error).__name__}: {error}", "See the worker's log; the traceback is there."


# The process ---------------------------------------------------------------------------------------------------------


class Worker:
    """Reads requests, answers them one after another.

    In: `{"ask": {...}, "id", "folder"}`, `{"warm": {...config}, "id"}`, `{"cancel": id}`. Out, each with the `id`:
    `{"status": "working", "share", "what"}`, `{"status": "part" | "done", "result"}`, `{"status": "failed", "message",
    "remedy"}`, `{"status": "cancelled"}`. At the end of the input, which is when the parent is gone, the process ends.
    """

    def __init__(self, out: Any, idle_s: float) -> None:
        self.out, self.idle_s, self.bench = out, idle_s, Bench()
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._cancelled: set[str] = set()
        self._told = 0.0

    def send(self, **message: Any) -> None:
        line = json.dumps(message, ensure_ascii=True, allow_nan=False) + "\n"
        try:
            with self._lock:
                self.out.write(line.encode())
                self.out.flush()
        except OSError:  # nobody reads any more: the parent is gone
            os._exit(0)

    def listen(self, lines: Iterator[bytes]) -> None:
        """The thread that reads. Cancelling must be heard while the main thread computes."""
        for line in lines:
            try:
                message = json.loads(line)
                id = str(message["cancel"] if "cancel" in message else message["id"])
            except (ValueError, KeyError, TypeError) as error:
                self.send(
                    id=None, status="failed", message=f"No request: {error!r}", remedy="Send a JSON object a line."
                )
                continue
            with self._lock:
                if "cancel" not in message:
                    self._open.add(id)
                elif id in self._open:
                    self._cancelled.add(id)
            if "cancel" not in message:
                self.inbox.put(message)
        os._exit(0)  # at once: whatever is computed now, nobody will look at

    def run(self, lines: Iterator[bytes]) -> None:
        """Never returns: `listen` ends the process."""
        threading.Thread(target=self.listen, args=(lines,), daemon=True).start()
        while True:
            try:
                message = self.inbox.get(timeout=None if self.bench.model is None else self.idle_s)
            except queue.Empty:
                self.bench.free()
                print(f"idle for {self.idle_s:g} s: the model is given back", file=sys.stderr, flush=True)
                continue
            self.handle(message)
            with self._lock:
                self._open.discard(message["id"])
                self._cancelled.discard(message["id"])

    def handle(self, message: Mapping[str, Any]) -> None:
        """One request, whatever comes of it."""
        id = message["id"]
        try:
            if self.stopped(id):
                raise Stopped("Cancelled before it began.")
            if "warm" in message:
                self.warm(id, message["warm"])
                self.send(id=id, status="done", result={})
                return
            result = answer(
                self.bench,
                message["ask"],
                Path(message["folder"]),
                tell=lambda share, what: self.tell(id, share, what),
                part=lambda result: self.send(id=id, status="part", result=result),
                should_stop=lambda: self.stopped(id),
            )
            self.send(id=id, status="done", result=result)
        except Stopped:
            self.send(id=id, status="cancelled")
        except Exception as error:  # noqa: BLE001 - told with its remedy; the traceback is in the log, and the worker lives
            told, remedy = explain(error)
            if not isinstance(error, PreviewError | ConfigError):
                traceback.print_exc()
            if is_out_of_memory(error):
                self.bench.free()
            self.send(id=id, status="failed", message=told, remedy=remedy)

    def warm(self, id: str, config: Mapping[str, Any]) -> None:
        """Import and load what the first request will need. The model's code comes with the model."""
        self.tell(id, 0.0, "starting")
        request = PreviewRequest.from_json({"config": config, "image": "-"})
        self.bench.open(request.config)
        _warm_drawing()

    def tell(self, id: str, share: float, what: str) -> None:
        """Progress, ten times a second at most."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self.send(id=id, status="working", share=round(share, 4), what=what)

    def stopped(self, id: str) -> bool:
        with self._lock:
            return id in self._cancelled


def _warm_drawing() -> None:
    """matplotlib's parts, which would cost the first picture half a second."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    heat(np.zeros((1, 1)), 1.0)


def _finite(value: Any) -> Any:
    """JSON has no NaN: None in its place."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def main(arguments: list[str]) -> int:
    """`[--idle SECONDS]`: free the model after so many seconds without a request."""
    if arguments and (len(arguments) != 2 or arguments[0] != "--idle"):
        print("usage: python -m rollout_studio.core.look.preview [--idle SECONDS]", file=sys.stderr)
        return 78
    idle_s = float(arguments[1]) if arguments else IDLE_S
    # The protocol gets a channel of its own; what libraries print goes to the log.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    use_all_cores()
    Worker(out, idle_s).run(iter(sys.stdin.buffer.readline, b""))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
