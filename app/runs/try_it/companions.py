"""Other LoRAs that act at the same time as the run's: of other runs on the same model, or any file; each with a weight of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ....core.config import ConfigError
from ....core.config.options import Fault
from ....core.look.preview.request import MOST_LORAS, SAME_MODEL, read_strength
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from ...parts.watch import Watch
from .weights import lora_files

OTHER = "run:"
SLIDER = {"minimum": -1.0, "maximum": 2.0, "step": 0.05}
"""What a weight's slider reaches; the field beside it takes what is refused beyond -4 and 4."""
HELP = "A run on the same model, or the path of a .safetensors file."


class Companions:
    """The rows of fields, in the current layout."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.rows: list[tuple[gr.Dropdown, gr.Slider]] = []
        with gr.Accordion("Other LoRAs at the same time", open=False, elem_id="try-others"):
            for number in range(1, MOST_LORAS):
                with gr.Row(elem_classes="rs-try-row"):
                    file = gr.Dropdown(
                        choices=[("none", "")], value="", label=f"LoRA {number + 1}", info=HELP, allow_custom_value=True, scale=3, min_width=220,
                        elem_id=f"try-other-{number}",
                    )  # fmt: skip
                    weight = gr.Slider(
                        **SLIDER,
                        value=1.0,
                        label=f"Weight of LoRA {number + 1}",
                        scale=2,
                        min_width=200,
                        elem_id=f"try-other-weight-{number}",
                    )
                self.rows.append((file, weight))

    @property
    def fields(self) -> list[gr.components.Component]:
        return [field for row in self.rows for field in row]

    @property
    def files(self) -> list[gr.Dropdown]:
        return [file for file, _ in self.rows]

    def choices(self, run: RunSummary | None) -> list[tuple[str, str]]:
        """(words, value) of what can stand beside this run's LoRA."""
        found = [("none", "")]
        if run is None:
            return found
        model = _model(run)
        for other in self.watch.runs():
            if other.name != run.name and model is not None and _model(other) == model and lora_files(other):
                found.append((f"LoRA of {other.name}", OTHER + other.name))
        return found

    def asked(self, given: Mapping[Any, Any]) -> list[dict[str, Any]]:
        """What is chosen, as a request names it. Raises ConfigError for what is not there, or has no usable weight."""
        found = []
        for file, weight in self.rows:
            value = str(given[file] or "").strip()
            if not value:
                continue
            try:
                strength = read_strength(given[weight])
            except ConfigError as error:
                raise ConfigError([Fault(fault.message, ("beside",)) for fault in error.faults]) from error
            found.append({**self._file(value), "strength": strength})
        return found

    def _file(self, value: str) -> dict[str, Any]:
        if not value.startswith(OTHER):
            return {"lora": value, "label": Path(value).stem[:80] or "LoRA"}
        run = self.watch.run(value.removeprefix(OTHER))
        files = [] if run is None else lora_files(run)
        if run is None or not files:
            message = f"{value.removeprefix(OTHER)} has no LoRA file (any more); choose another, or none."
            raise ConfigError([Fault(message, ("beside",))])
        return {"lora": str(files[0]), "label": run.name[:80]}


def _model(run: RunSummary) -> tuple[Any, ...] | None:
    """What must be equal for two LoRAs to be of one model; None where it cannot be read."""
    try:
        config = RunDir(run.path).read_config()
    except RunError:
        return None  # the run's own page says what is wrong with it
    return tuple(config.get(name) for name in SAME_MODEL)
