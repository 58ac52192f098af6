"""BLIP and Florence-2: pictures to sentences, by transformers' own classes. A model's own code is never run, and only safetensors are read."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..families.devices import resolve_device
from ..families.source import ModelError
from .models import KINDS, CaptionError, Found
from .settings import CaptionSettings

_TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "long": "<MORE_DETAILED_CAPTION>"}
_LONGEST = {"blip": 60, "florence2": 256}  # tokens
_BEAMS = 3


class Sentences:
    """A model of transformers that is open, its weights in float32. Raises CaptionError where it cannot be opened, or the device lacks."""

    def __init__(self, found: Found, settings: CaptionSettings) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.found, self.settings = found, settings
        try:
            place = resolve_device(settings.device)
        except ModelError as error:
            raise CaptionError(f"caption_{error.message}", error.remedy) from error
        self.device = str(place)
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(found.folder, **safe)
            model, loaded = getattr(transformers, KINDS[found.kind].class_name).from_pretrained(
                found.folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise CaptionError(
                f"'{found.name}' could not be opened: {' '.join(str(error).split())}",
                "Download or save the model again; see the cause above.",
            ) from error
        lacking = sorted({*loaded["missing_keys"], *(str(key) for key in loaded["mismatched_keys"])})
        if lacking:
            raise CaptionError(
                f"'{found.name}' has no weights for {len(lacking)} parts of a {KINDS[found.kind].class_name} ({', '.join(lacking[:3])} ...): they would be random.",
                "Download the model again, or take it in the form that transformers saves.",
            )
        self._model = model.eval().to(place)

    @torch.inference_mode()
    def describe(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One text for each picture: beam search, nothing drawn at random."""
        given: dict[str, Any] = self._processor(
            images=list(pictures), text=self._texts(len(pictures)), return_tensors="pt"
        ).to(self.device)
        longest = _LONGEST[self.found.kind] if self.settings.max_tokens is None else self.settings.max_tokens
        written = self._model.generate(**given, max_new_tokens=longest, num_beams=_BEAMS, do_sample=False)
        return [text.strip() for text in self._processor.batch_decode(written, skip_special_tokens=True)]

    def _texts(self, count: int) -> list[str] | None:
        if self.found.kind == "florence2":
            return [_TASKS["detailed" if self.settings.detail is None else self.settings.detail]] * count
        return None if self.settings.prompt is None else [self.settings.prompt] * count
