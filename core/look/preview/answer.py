"""Answers a request with the weights that it names: by the bench of a worker, or by a training between two of its steps."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...adapters.strength import at_strength
from ...config.options import ConfigError
from ...families.source import ModelError
from ...memory import is_out_of_memory, memory_message
from ...runs import checkpoint
from ..bench import Bench
from ..drawing import draw
from ..drift.correction import SamplingCorrection
from ..remembering import Remembering
from ..sample_request import SampleRequest, read_request
from ..together import check_together
from .growing import DecodedOnce, Noted
from .request import PreviewError, PreviewRequest, Weights
from .show import Variant, encode_request, show

if TYPE_CHECKING:
    from ...config import RunConfig
    from ...families.base import Model

LOAD_SHARE = 0.6  # of the progress bar, where the model must be loaded first


def show_live(
    model: "Model",
    record: Mapping[str, Any],
    folder: Path,
    *,
    step: int,
    should_stop: Callable[[], bool] = lambda: False,
    report_progress: Callable[[float, str], None] = lambda share, what: None,
) -> dict[str, Any]:
    """Answer a request with the weights that a training has now, between two steps, and the base beside them.

    Leaves the model's modes, adapter, weights and the random state as found. `record`: the request's JSON, whose only
    weights are this run's (`live`) and the base's; its model must be the run's.

    Raises: PreviewError, ConfigError, Stopped.
    """
    request = read_request(record)
    if any(each.kind not in ("base", "live") for each in request.weights):
        raise PreviewError(
            "A running run shows its own weights and the base only.", "Request other checkpoints separately."
        )
    if any(each.is_base for each in request.weights) and not model.has_adapter:
        raise PreviewError(
            "A full fine-tune has no base beside it while it trains.", "Leave the base out, or compare when it is done."
        )

    for each in request.weights:
        check_together(each)
    shown = DecodedOnce(model)

    @contextmanager
    def entered(weights: Weights) -> Iterator[Any]:
        with (
            model.adapters_disabled()
            if weights.is_base
            else nullcontext()
            if weights.is_plain
            else at_strength(model, weights.strength)
        ):
            yield model if isinstance(request, SampleRequest) else shown

    if isinstance(request, SampleRequest):
        return draw(
            request, entered, model, folder, step=step, report_progress=report_progress, should_stop=should_stop
        )
    variants, so_far = _variants(request, entered), Noted(folder)
    result = show(
        request, variants, model, encode_request(model, request), folder,
        step=step, report_progress=report_progress, part=so_far.keep("part"), grow=so_far.keep("growing"), on_curves=so_far.keep("curves"),
        should_stop=should_stop,
    )  # fmt: skip
    so_far.end()
    return result


def answer(
    bench: Bench,
    record: Mapping[str, Any],
    folder: Path,
    *,
    report_progress: Callable[[float, str], None],
    part: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    grow: Callable[[dict[str, Any]], None] | None = None,
    on_curves: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """`show` with the bench's model and memory. Raises PreviewError, ConfigError, ModelError, Stopped."""
    request = read_request(record)
    if request.live is not None:
        raise PreviewError("The weights of a running run are in its own process.", "Send the request to the run.")
    if isinstance(request, PreviewRequest):
        request.text()  # what is missing is reported before a model is loaded
    first = 0.0 if bench.is_open(request.config) else LOAD_SHARE
    if first:
        report_progress(0.0, "loading the model")
    model = bench.open(request.config)
    report_progress(first, "the picture")

    @contextmanager
    def entered(weights: Weights) -> Iterator[Remembering]:
        yield bench.with_weights(weights)

    def after_loading(share: float, what: str) -> None:
        report_progress(first + (1 - first) * share, what)

    if isinstance(request, SampleRequest):
        return draw(
            request,
            entered,
            model,
            folder,
            memory=bench.memory,
            report_progress=after_loading,
            part=part,
            should_stop=should_stop,
        )
    return show(
        request, _variants(request, entered), model, encode_request(model, request, bench.memory), folder,
        report_progress=after_loading, part=part, grow=grow, on_curves=on_curves, should_stop=should_stop,
    )  # fmt: skip


def _variants(request: PreviewRequest, enter: Callable[[Weights], AbstractContextManager[Any]]) -> list[Variant]:
    several = len(request.by_solver) > 1

    def called(weights: Weights, config: "RunConfig", correction: SamplingCorrection) -> str:
        of_weights = [weights.label] if len(request.weights) > 1 or not several else []
        return ", ".join([*of_weights, *([_solver(config)] if several else []), *filter(None, [correction.label])])

    return [
        Variant(
            called(weights, config, correction), "base" if weights.is_base else "tuned", config,
            lambda weights=weights: enter(weights), correction,
        )
        for weights in request.weights
        for config in request.by_solver
        for correction in request.correction.ways
    ]  # fmt: skip


def _solver(config: "RunConfig") -> str:
    name, order = config.rollout.sampler, config.rollout.order
    return f"{name}{order}" if name in ("unipc", "dpm") else name


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
