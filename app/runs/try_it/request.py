"""From the panel's fields to a request for pictures, with everything that is wrong with them."""

from collections.abc import Mapping
from typing import Any

from ....core.config import ConfigError
from ....core.config.options import Fault
from ....core.look.sample_request import DRAWING_OPTIONS, KIND, SampleRequest
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from ...parts.forms import from_component
from .weights import LIVE, weights_of


def request_record(
    run: RunSummary | None, prompts: Any, weights: Any, with_base: Any, fields: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Fault]]:
    """(the request as `SampleRequest` reads it, its faults). With faults the record may be incomplete.

    Args:
        prompts: one prompt a line.
        weights: a value of `weights_choices`.
        with_base: whether the untrained model draws too.
        fields: field of `Drawing` -> the value of its component.
    """
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
        if with_base and weights == LIVE and record["config"].get("model_type") == "full":
            message = "A full fine-tune has no untrained model beside it while it trains; take the tick away."
            raise ConfigError([Fault(message, ("base",))])
        record["checkpoints"] = [*(["base"] if with_base else []), weights_of(run, weights)]
        SampleRequest.from_json(record)
    except ConfigError as error:
        faults += [fault for fault in error.faults if fault.options[:1] not in [known.options[:1] for known in faults]]
    except RunError as error:
        faults.append(Fault(str(error), ("checkpoints",)))
    return record, faults
