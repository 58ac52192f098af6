"""Which LoRAs can act at once, and which can act at another strength than they were trained at. No torch: the page asks before anything starts."""

from ..adapters.kinds import LYCORIS, NAMES, Kind, tuner
from ..adapters.lora_file import LoraError, read_lora_header
from ..runs.errors import RunError
from ..runs.folder import RunDir
from .preview.request import PreviewError, Weights


def check_together(weights: Weights) -> None:
    """Raises PreviewError, with the value, the rule and the remedy, where these weights cannot act as they are asked to.

    Reads the headers of the LoRA files and the configs of the runs; whether a file fits the model is found out when it is loaded.
    """
    if weights.is_base or weights.is_plain:
        return
    kinds = {each.label: _kind(each) for each in weights.together}
    whole = next((label for label, kind in kinds.items() if kind is None), None)
    if whole is not None:
        asked = "stands beside a LoRA" if weights.beside else f"weight = {weights.strength:g}"
        raise PreviewError(
            f"{whole} is a full fine-tune ({asked}): only the change of a LoRA can be weighted or added to others.",
            "Set the weight to 1 and leave the other LoRAs out, or choose a LoRA.",
        )
    known = {label: kind for label, kind in kinds.items() if kind is not None}
    if weights.kind == "live" and known[weights.label] == "dora" and weights.strength not in (0, 1):
        raise PreviewError(
            f"weight = {weights.strength:g} for {weights.label}: a DoRA that trains acts at 0 or 1 only, because its rows are in use.",
            "Choose one of its checkpoints, which can have any weight.",
        )
    if not weights.beside:
        return
    said = ", ".join(f"{label} ({NAMES[kind]})" for label, kind in known.items())
    if "dora" in known.values():
        raise PreviewError(
            f"{said}: a DoRA sets the length of each row of a weight, so nothing can be added beside it.",
            "Draw with it alone, or choose plain LoRAs.",
        )
    if len({tuner(kind) for kind in known.values()}) > 1:
        odd = next(NAMES[kind] for kind in known.values() if kind in LYCORIS)
        raise PreviewError(
            f"{said}: LoRAs that act at once must be of one kind, because the layers of a {odd} do not stand in those of another.",
            "Choose files of the same kind, or draw with them one after the other.",
        )


def _kind(weights: Weights) -> Kind | None:
    """What these weights are; None for a full fine-tune."""
    assert weights.path is not None
    try:
        if weights.kind == "lora":
            return read_lora_header(weights.path).kind
        config = RunDir(weights.path).read_config()
    except LoraError as error:
        raise PreviewError(error.message, error.remedy) from error
    except RunError as error:
        raise PreviewError(str(error), "Choose another run.") from error
    return None if config.get("model_type", "lora") == "full" else config.get("lora_type", "lora")
