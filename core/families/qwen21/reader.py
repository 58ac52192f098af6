"""Qwen 3 VL's processor without what reads pictures and films, which transformers makes with torchvision alone."""

import shutil
from pathlib import Path
from typing import Any, Self

from transformers import Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin


class TextReader(Qwen3VLProcessor):
    """A processor's tokenizer and template. What it makes of a text is what the whole processor makes of it: the code is transformers' own.

    `folder`: the checkpoint's files of the whole processor, which are saved with a pipeline in place of these two.
    """

    folder: Path

    def __init__(self, tokenizer: Any = None, chat_template: Any = None) -> None:
        ProcessorMixin.__init__(self, tokenizer, chat_template=chat_template)
        for kind in ("image", "video"):
            token = f"<|{kind}_pad|>"
            setattr(self, f"{kind}_token", token)
            setattr(self, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(token))

    @classmethod
    def of(cls, folder: Path) -> Self:
        """From the processor's folder. Raises OSError where files are missing."""
        reader = cls.from_pretrained(folder)
        reader.folder = folder
        return reader

    def save_pretrained(self, save_directory: Any, *_: Any, **__: Any) -> list[str]:
        """The whole processor's files as they are, for a pipeline folder that opens elsewhere."""
        place = Path(save_directory)
        shutil.copytree(self.folder, place, dirs_exist_ok=True)
        return [str(file) for file in place.iterdir()]


# What diffusers notes in the `model_index.json` of a saved pipeline.
TextReader.__name__, TextReader.__module__ = Qwen3VLProcessor.__name__, Qwen3VLProcessor.__module__
