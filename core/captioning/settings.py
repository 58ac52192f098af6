"""The settings of automatic captions, declared once; the command line's flags, the page's fields and the worker's request come from here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from ..config.options import Checked, ConfigError, Fault, Option, did_you_mean, option, options_of
from . import models


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(Checked):
    """How captions are written. What a kind of model cannot honour is refused once it is known which kind it is: `refusals`."""

    title: ClassVar[str] = "Automatic captions"
    prefix: ClassVar[str] = "caption_"

    model: str = option(
        models.RECOMMENDED[0].name,
        "The model that looks at the pictures: a folder or a hub id of a Florence-2, BLIP or WD tagger model.",
        since="0.3",
    )
    revision: str | None = option(
        None, "Branch, tag or commit of a hub id; unset = its main branch.", level="advanced", since="0.3"
    )
    download: bool = option(
        False,
        "Fetch the model from the hub where it is not on this computer. Off, nothing is asked of the network.",
        label="Download the model if needed",
        since="0.3",
    )
    existing: Literal["keep", "back up", "overwrite"] = option(
        "keep",
        "Captions that are there: keep them and write only those that are missing; write all anew, with the old ones kept in the hidden folder "
        ".auto-captions; or write all anew and keep none.",
        label="Captions that are there",
        since="0.3",
    )
    trigger_word: str | None = option(
        None,
        "Put in front of every caption that does not mention it; unset = none. Training puts its own trigger word in front by itself.",
        label="Trigger word in the captions",
        example="zwx",
        since="0.3",
    )
    text_before: str | None = option(
        None,
        "Text in front of what the model writes; unset = none.",
        label="Text in front",
        example="a photo of",
        since="0.3",
    )
    text_after: str | None = option(
        None,
        "Text behind what the model writes; unset = none.",
        label="Text behind",
        example=", studio light",
        since="0.3",
    )
    detail: Literal["short", "detailed", "long"] | None = option(
        None, "Florence-2: how much it writes. Unset = detailed.", label="How much is written", since="0.3"
    )
    prompt: str | None = option(
        None,
        "BLIP: the words that its caption begins with; unset = it begins by itself.",
        label="Beginning of the caption",
        example="a photograph of",
        level="advanced",
        since="0.3",
    )
    max_tokens: int | None = option(
        None,
        "Florence-2 and BLIP: longest caption, in tokens (about 3/4 of a word each); unset = 60 for BLIP, 256 for Florence-2.",
        label="Longest caption",
        unit="tokens",
        ge=4,
        le=400,
        level="advanced",
        since="0.3",
    )
    threshold: float | None = option(
        None,
        "Tagger: how sure it must be of a tag; unset = 0.35. Lower gives more tags, and more wrong ones.",
        label="Least certainty of a tag",
        ge=0.01,
        le=1,
        since="0.3",
    )
    character_threshold: float | None = option(
        None,
        "Tagger: the same for names of characters; unset = 0.85.",
        label="Least certainty of a name",
        ge=0.01,
        le=1,
        level="advanced",
        since="0.3",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto",
        "Where the model computes; auto takes cuda, then mps, then cpu.",
        label="Device of the captioning model",
        level="advanced",
        numbered="cuda",
        since="0.3",
    )
    batch_size: int = option(
        4,
        "Pictures that the model looks at together; fewer take less memory.",
        label="Pictures at once",
        unit="pictures",
        ge=1,
        le=64,
        level="advanced",
        since="0.3",
    )

    def refusals(self, kind: str) -> list[Fault]:
        """What is set that a model of this kind (see `models.KINDS`) cannot honour."""
        return [
            Fault(
                f"{OPTIONS[field].name} = {getattr(self, field)!r}: {models.KINDS[kind].label} has no such setting, only {' and '.join(models.KINDS[other].label for other in kinds)}; "
                "leave it unset.",
                (OPTIONS[field].name,),
            )
            for field, kinds in ONLY.items()
            if getattr(self, field) is not None and kind not in kinds
        ]

    @property
    def text_marks(self) -> dict[str, Any]:
        """What decides the text that a picture gets."""
        given = asdict(self)
        return {name: value for name, value in given.items() if name not in ("download", "device", "batch_size")}


OPTIONS: dict[str, Option] = {each.field: each for each in options_of(CaptionSettings, "captions")}
"""By field, in the order of the declaration."""

ONLY: dict[str, tuple[str, ...]] = {
    "detail": ("florence2",),
    "prompt": ("blip",),
    "max_tokens": ("florence2", "blip"),
    "threshold": ("tagger",),
    "character_threshold": ("tagger",),
}
"""The fields that only some kinds of model have; all of them are unset by default."""


def read_settings(given: Mapping[str, Any]) -> CaptionSettings:
    """The settings from fields by name; values may be text. Raises ConfigError with every fault."""
    faults, values = [], {}
    for field, value in given.items():
        if field not in OPTIONS:
            faults.append(Fault(f"Unknown setting of captions '{field}'.{did_you_mean(field, OPTIONS)}", (field,)))
            continue
        try:
            values[field] = OPTIONS[field].read(value, text=True)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return CaptionSettings(**values)
