"""From the panel's fields to a request for pictures, with everything that is wrong with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....core.config import ConfigError
from ....core.config.options import Fault
from ....core.look.preview.request import PreviewError, read_strength
from ....core.look.sample_request import DRAWING_OPTIONS, KIND, SampleRequest
from ....core.look.together import check_together
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from ...parts.forms import from_component
from .weights import LIVE, weights_of

_LONGEST_LABEL = 80


def request_record(
    run: RunSummary | None,
    prompts: Any,
    weights: Any,
    with_base: Any,
    fields: Mapping[str, Any],
    *,
    strength: Any = 1.0,
    beside: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], list[Fault]]:
    """(the request as `SampleRequest` reads it, its faults). With faults the record may be incomplete.

    Args:
        prompts: one prompt a line.
        weights: a value of `weights_choices`.
        with_base: whether the untrained model draws too.
        fields: field of `Drawing` -> the value of its component.
        strength: of the run's LoRA. beside: LoRAs that act with it, as a request names them.
    """

    def place(record: dict[str, Any], run: RunSummary) -> None:
        if with_base and weights == LIVE and record["config"].get("model_type") == "full":
            message = "A full fine-tune has no untrained model beside it while it trains; take the tick away."
            raise ConfigError([Fault(message, ("base",))])
        own = with_others(weights_of(run, weights), read_strength(strength), beside)
        record["checkpoints"] = [*(["base"] if with_base else []), own]

    return _record(run, prompts, fields, place)


def matrix_record(
    run: RunSummary | None,
    prompts: Any,
    columns: Any,
    rows: Any,
    fields: Mapping[str, Any],
    *,
    beside: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], list[Fault]]:
    """As `request_record`, of a matrix. `columns`: values of `weights_choices`; `rows`: the weights as they were typed, "0, 0.5, 1"."""

    def place(record: dict[str, Any], run: RunSummary) -> None:
        record["strengths"] = _numbers(rows)
        if not columns:
            raise ConfigError([Fault("Choose at least one checkpoint for the matrix.", ("columns",))])
        record["checkpoints"] = [with_others(weights_of(run, each), 1.0, beside) for each in columns]

    return _record(run, prompts, fields, place)


def _record(
    run: RunSummary | None, prompts: Any, fields: Mapping[str, Any], place: Callable[[dict[str, Any], RunSummary], None]
) -> tuple[dict[str, Any], list[Fault]]:
    """`place` puts in what is drawn with."""
    faults: list[Fault] = []
    record: dict[str, Any] = {
        "what": KIND,
        "prompts": [line.strip() for line in str(prompts or "").splitlines() if line.strip()],
    }
    for name, value in fields.items():
        try:
            record[name] = from_component(DRAWING_OPTIONS[name], value)
        except ConfigError as error:
            faults += error.faults
    try:
        if run is None:
            raise ConfigError([Fault("Choose a run first.", ("checkpoints",))])
        record["config"] = RunDir(run.path).read_config()
        place(record, run)
        for _, _, weights in SampleRequest.from_json(record).cells:
            check_together(weights)
    except ConfigError as error:
        faults += [fault for fault in error.faults if fault.options[:1] not in [known.options[:1] for known in faults]]
    except PreviewError as error:
        faults.append(Fault(f"{error.message} {error.remedy}", ("beside" if _has_others(record) else "strength",)))
    except RunError as error:
        faults.append(Fault(str(error), ("checkpoints",)))
    return record, faults


def _has_others(record: Mapping[str, Any]) -> bool:
    return any(isinstance(each, Mapping) and each.get("beside") for each in record.get("checkpoints", ()))


def with_others(own: Mapping[str, Any], strength: float, beside: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The weights of a run at a strength, with others beside them, and a label that says so."""
    label = str(own["label"]) + (f" × {strength:g}" if strength != 1 else "")
    label += "".join(f" + {each['label']} × {float(each['strength']):g}" for each in beside)
    short = label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
    return {**own, "label": short, "strength": strength} | ({"beside": list(beside)} if beside else {})


def _numbers(typed: Any) -> list[float]:
    """The rows of a matrix as they were typed."""
    try:
        return [float(each) for each in str(typed or "").replace(";", ",").replace(",", " ").split()]
    except ValueError as error:
        message = f"weights = {str(typed)[:40]!r}: must be numbers with commas between them, such as 0, 0.5, 1."
        raise ConfigError([Fault(message, ("strengths",))]) from error
