"""Pictures by the stock pipeline, with prompts that are encoded already: the code that users will run."""

import copy
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from ..randomness import kept_random_state
from .codec import LatentCodec
from .conditioning import Prompt
from .guidance import Guidance
from .modes import evaluating


class Sampled(Protocol):
    """What drawing needs of a model."""

    pipe: Any
    codec: LatentCodec
    guidance: Guidance

    @property
    def denoiser(self) -> Any: ...

    @property
    def pipeline_scale(self) -> int: ...

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]: ...

    def call_key(self, prompt: Prompt) -> Hashable: ...

    def pipeline_latents(self, latents: Tensor, height: int, width: int) -> Tensor: ...


def draw(
    model: Sampled,
    prompts: Sequence[Prompt],
    negative: Prompt | None,
    *,
    steps: int,
    stock_guidance: float,
    cells: tuple[int, int],
    seed: int,
    batch_size: int,
    on_picture: Callable[[int, int], None] | None,
    on_step: Callable[[int, int], None] | None,
) -> list:
    """See `Model.sample`. `cells`: height and width in latent cells; `stock_guidance`: as the pipeline counts it."""
    from PIL import Image

    pipe, scheduler = model.pipe, model.pipe.scheduler
    images: list[Any] = []
    height, width = cells
    pixels_per_cell = model.pipeline_scale
    listening = {} if on_step is None else _listening(pipe, on_step, steps)
    try:
        # The pipeline runs where its first component lies, and that may be the VAE: it must be present.
        with evaluating(model.denoiser), kept_random_state(), model.codec.present():
            for part in calls(prompts, batch_size, model.call_key):
                first = len(images)
                pipe.scheduler = copy.deepcopy(scheduler)
                if on_step is not None and not listening:
                    _listen_at_the_scheduler(pipe.scheduler, on_step, steps)
                latents = pipe(
                    **model.pipeline_inputs(part, negative),
                    num_inference_steps=steps,
                    **{model.guidance.argument: stock_guidance},
                    height=height * pixels_per_cell,
                    width=width * pixels_per_cell,
                    generator=[torch.Generator().manual_seed(seed + first + i) for i in range(len(part))],
                    output_type="latent",
                    **listening,
                    return_dict=False,
                )[0]
                # One after the other: a picture of 1024 px takes 3 GB in a VAE of 32 bits (tools/tiers.py).
                for latent in model.pipeline_latents(latents, *cells).split(1):
                    pixels = model.codec.decode(latent)[0].permute(1, 2, 0).cpu()
                    images.append(Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()))
                if on_picture is not None:
                    on_picture(len(images), len(prompts))
    finally:
        pipe.scheduler = scheduler
    return images


def stock_default(pipe: Any, argument: str) -> Any:
    """What a bare `pipe(prompt)` uses for an argument; a pipeline of blocks states its own."""
    stated = getattr(pipe, "default_call_parameters", None)
    return inspect.signature(type(pipe).__call__).parameters[argument].default if stated is None else stated[argument]


def calls(prompts: Sequence[Prompt], batch_size: int, key: Callable[[Prompt], Hashable]) -> Iterator[list[Prompt]]:
    """The prompts in their order, in parts of at most `batch_size` neighbours whose keys are equal: what one pipeline call can take."""
    for _, alike in groupby(prompts, key):
        together = list(alike)
        yield from (together[first : first + batch_size] for first in range(0, len(together), batch_size))


def _listening(pipe: Any, report: Callable[[int, int], None], steps: int) -> Mapping[str, Any]:
    """The pipeline's arguments with which it reports each step; older pipelines know another form. Empty: it has none."""
    taken = inspect.signature(type(pipe).__call__).parameters
    if "callback_on_step_end" in taken:
        return {"callback_on_step_end": partial(_after_step, report, steps)}
    if "callback" in taken:
        return {"callback": lambda index, t, latents: report(min(index + 1, steps), steps)}
    return {}


def _listen_at_the_scheduler(scheduler: Any, report: Callable[[int, int], None], steps: int) -> None:
    """For a pipeline that reports nothing (LongCat-Image's): `scheduler`, which is one call's own, does after each of its steps."""
    step, done = scheduler.step, count(1)

    def reporting(*given: Any, **named: Any) -> Any:
        result = step(*given, **named)
        report(min(next(done), steps), steps)
        return result

    scheduler.step = reporting


def _after_step(
    report: Callable[[int, int], None], steps: int, pipe: Any, index: int, t: Any, values: dict[str, Any]
) -> dict[str, Any]:
    """What a pipeline calls after each of its steps; solvers that call the network more often have more than `steps`."""
    report(min(index + 1, steps), steps)
    return values
