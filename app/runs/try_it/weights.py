"""What a run can draw with: its LoRA file, its checkpoints, itself while it trains; and which of them each viewer chose."""

from pathlib import Path
from typing import Any

import gradio as gr

from ....core.config import ConfigError
from ....core.config.options import Fault
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from .recent import Recent

LIVE = "live"
_LORA, _STEP = "lora", "step:"


def weights_choices(run: RunSummary | None) -> list[tuple[str, str]]:
    """(words, value) of what a run can draw with now, the best first: its LoRA file, its checkpoints from the last on, itself while it trains."""
    if run is None:
        return []
    found = [(f"The LoRA file, {path.name}", _LORA) for path in lora_files(run)[:1]]
    if run.state in ("running", "paused"):
        found.append(("As it trains now", LIVE))
    return [*found, *((f"Checkpoint of step {step}", f"{_STEP}{step}") for step in sorted(_steps(run), reverse=True))]


def lora_files(run: RunSummary) -> list[Path]:
    """The LoRA files of a run; the main one first."""
    folder = RunDir(run.path).lora_path
    # The main file first: the other layout's has a longer name.
    return sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name)) if folder.is_dir() else []


def _steps(run: RunSummary) -> list[int]:
    folder = RunDir(run.path).checkpoints_path
    found = folder.glob("step-*/manifest.json") if folder.is_dir() else []
    return [
        int(path.parent.name.removeprefix("step-"))
        for path in found
        if path.parent.name.removeprefix("step-").isdecimal()
    ]


def weights_of(run: RunSummary, value: Any) -> Any:
    """The weights of a choice, as a request names them. Raises ConfigError for what is not there (any more)."""
    missing = Fault("There are no such weights of this run; choose again what to draw with.", ("checkpoints",))
    if value == _LORA and (files := lora_files(run)):
        return {"lora": str(files[0]), "label": f"LoRA of {run.name}"[:80]}
    if value == LIVE and run.state in ("running", "paused"):
        return {"run": str(run.path), "live": True, "label": "now" if run.step is None else f"now, step {run.step}"}
    if (
        isinstance(value, str)
        and value.startswith(_STEP)
        and value.removeprefix(_STEP).isdecimal()
        and int(value.removeprefix(_STEP)) in _steps(run)
    ):
        return {
            "run": str(run.path),
            "step": int(value.removeprefix(_STEP)),
            "label": f"step {value.removeprefix(_STEP)}",
        }
    raise ConfigError([missing])


class ChosenWeights:
    """Which weights each viewer has chosen. A choice stays while it can be used; after that the best one is chosen."""

    def __init__(self) -> None:
        self._chosen: Recent[str, tuple[tuple[str, float], str | None]] = (
            Recent()
        )  # viewer -> (run's name and age, weights)

    def dropdown(self, run: RunSummary | None, viewer: str | None) -> gr.Dropdown:
        """The update of the field: the choices, and a value only where the viewer's own can no longer be used."""
        choices = weights_choices(run)
        chosen = self._chosen.get(viewer) if viewer is not None else None
        if (
            run is not None
            and chosen is not None
            and chosen[0] == (run.name, run.created)
            and chosen[1] in [value for _, value in choices]
        ):
            return gr.Dropdown(choices=choices)
        value = choices[0][1] if choices else None
        self.choose(run, viewer, value)
        return gr.Dropdown(choices=choices, value=value)

    def choose(self, run: RunSummary | None, viewer: str | None, value: str | None) -> None:
        """Remember a viewer's choice for a run; None = nothing chosen yet."""
        if run is not None and viewer is not None:
            self._chosen[viewer] = (run.name, run.created), value
