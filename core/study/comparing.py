"""The samples of a run against the pictures that it trained on: near copies (memorisation), and similarity by CLIP and DINO.

*Near copies* are looked for in pixels: every picture whole, on 64 x 64 pixels in colour, and the root of the mean square difference to the nearest training
picture. That needs no model and finds what a person would call the same picture; a copy that is moved, mirrored (where the run did not train with mirrored
pictures) or recoloured it does not find. The number of the table is relative to its floor: the same distance of held-out pictures, which are of the same
things and cannot be copies.

*Similarity* is the cosine between embeddings: of samples and training pictures (CLIP and DINO, every pair: `clip_image`, `dino_image`), and of samples and
their prompts without the trigger word (`clip_text`). Source: DreamBooth (arXiv 2208.12242), section 4. For the first two only samples whose prompt names the trigger
word count, where any does. A perfect copy has the highest of these numbers too: read them beside `nearest_training`.

Imports torch only where an encoder is used.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import platform_calls
from ..config import RunConfig, config_from_flat
from ..data import pictures
from ..data.concepts import scan
from ..data.holdout import scan_probe, split_holdout
from ..data.scanning import Item
from ..data.transform import apply
from ..runs.folder import RunDir
from .similarity import SIMILARITY, Similarity, SimilarityError, encoder_folder, how_compared, is_compared

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 64  # px
MOST_PICTURES = 500  # of the training set, evenly spaced: more would take minutes
_AT_ONCE = 8
_DISTANCE = "The distance to the nearest training picture"
_BY = {"clip": "Similarity by CLIP", "dino": "Similarity by DINO"}

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


@dataclass(frozen=True)
class Sample:
    """A picture that a run drew at its end."""

    path: Path
    prompt: str


def last_samples(run: RunDir, prompts: Sequence[str]) -> list[Sample]:
    """The samples that the run drew of its `validation_prompts` at its end; none where it drew none."""
    end = run.last_checkpoint()
    for event in reversed(run.events()[0]):
        if event["event"] == "sample" and event["step"] == end:
            found = [Sample(run.path / image["path"], image["prompt"]) for image in event["images"]]
            if [each.prompt for each in found] == list(prompts):  # others were requested by hand
                return [each for each in found if each.path.is_file()]
    return []


def compare_runs(similarity: Similarity, runs: Sequence[RunDir], progress: Progress | None = None) -> None:
    """Compare those that have not been compared in this way. Raises SimilarityError; `Comparison.compare` says what it costs."""
    comparison = Comparison(similarity)
    for number, run in enumerate(runs):
        if progress is not None:
            progress("comparing pictures", number, len(runs))
        if not is_compared(run, similarity):
            comparison.compare(run)


class Comparison:
    """Compares runs; what several of them share, encoders and training pictures, is read once."""

    def __init__(self, similarity: Similarity) -> None:
        self.similarity = similarity
        self._sets: dict[str, _Pictures] = {}
        self._encoders: dict[str, _Encoder | SimilarityError] = {}

    def compare(self, run: RunDir) -> dict[str, float]:
        """Compare a run's samples and keep what was found in its folder; returns the measures.

        Raises: SimilarityError where an encoder that a person named cannot be used.
        Cost: decodes its samples and, once for all runs with the same pictures, those; with encoders one forward of each for every one of them.
        """
        config = config_from_flat(run.read_config())
        samples = last_samples(run, config.validation.prompts)
        found: dict[str, float] = {}
        left_out: dict[str, str] = {}
        record: dict[str, Any] = {"how": how_compared(run, self.similarity)}
        if not samples:
            left_out[_DISTANCE] = f"{run.name} has no samples of its end; give it validation_prompts."
        else:
            known = self._pictures(config)
            shown = [_opened(sample.path) for sample in samples]
            own = nearest(np.stack([small(each) for each in shown]), known.small)
            record["pictures"] = {
                sample.path.name: round(float(each), 6) for sample, each in zip(samples, own, strict=True)
            }
            if known.held_out:
                found["nearest_training"] = float(own.mean()) / known.floor
            else:
                left_out[_DISTANCE] = (
                    "there are no held-out pictures for its floor (drift_holdout_images, or drift_data_dir)."
                )
            for kind in _BY:
                if getattr(self.similarity, kind) is not None:
                    self._similar(kind, config, samples, shown, known, found, left_out)
        record |= {"values": found, "left_out": left_out}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        platform_calls.write_atomically(run.path / SIMILARITY, f"{text}\n".encode())
        return found

    def _pictures(self, config: RunConfig) -> "_Pictures":
        key = repr((config.data, config.drift.data_dir, config.drift.holdout_images, config.drift.seed))
        if key not in self._sets:
            self._sets[key] = _Pictures.of(config)
        return self._sets[key]

    def _similar(
        self, kind: str, config: RunConfig, samples: Sequence[Sample], shown: Sequence[Image.Image], known: "_Pictures",
        found: dict[str, float], left_out: dict[str, str],
    ) -> None:  # fmt: skip
        encoder = self._encoder(kind)
        if isinstance(encoder, SimilarityError):
            if kind in self.similarity.asked:
                raise encoder
            left_out[_BY[kind]] = encoder.message
            return
        trigger = config.data.trigger_word
        embedded = encoder.of_pictures(shown)
        named = [n for n, each in enumerate(samples) if trigger is not None and trigger in each.prompt]
        about = embedded[named] if named else embedded
        found[f"{kind}_image"] = float((about @ known.embedded(encoder).T).mean())
        if kind == "clip":
            words = encoder.of_texts([_without(trigger, each.prompt) for each in samples])
            found["clip_text"] = float((embedded * words).sum(1).mean())

    def _encoder(self, kind: str) -> "_Encoder | SimilarityError":
        if kind not in self._encoders:
            try:
                self._encoders[kind] = _Encoder(kind, getattr(self.similarity, kind))
            except SimilarityError as error:
                self._encoders[kind] = error
        return self._encoders[kind]


def _without(trigger: str | None, prompt: str) -> str:
    """A prompt in words that an encoder knows."""
    return prompt if trigger is None else " ".join(prompt.replace(trigger, " ").split())


@dataclass
class _Pictures:
    """What a run trains on and what it holds out, as it sees them."""

    shown: list[Image.Image]
    mirrored: bool
    held_out: list[Image.Image]

    @classmethod
    def of(cls, config: RunConfig) -> "_Pictures":
        trained, held_out = split_holdout(scan(config.data), config.drift)
        probe, _ = scan_probe(config.data, config.drift)
        every = max(1, -(-len(trained) // MOST_PICTURES))
        opened = [_cropped(item, config) for item in trained[::every]]
        own = {item.digest for item in trained}
        others = [item for item in (*held_out, *probe) if item.digest not in own][:MOST_PICTURES]
        return cls(opened, config.data.random_flip, [_cropped(item, config) for item in others])

    @cached_property
    def small(self) -> NDArray[np.float32]:
        pixels = [small(each) for each in self.shown]
        mirrored = [each[:, ::-1] for each in pixels] if self.mirrored else []
        return np.stack([*pixels, *mirrored])

    @cached_property
    def floor(self) -> float:
        """The mean distance of a held-out picture to the nearest training picture."""
        return float(nearest(np.stack([small(each) for each in self.held_out]), self.small).mean())

    def embedded(self, encoder: "_Encoder") -> "Tensor":
        if encoder.kind not in self._embedded:
            self._embedded[encoder.kind] = encoder.of_pictures(self.shown)
        return self._embedded[encoder.kind]

    @cached_property
    def _embedded(self) -> dict[str, Any]:
        return {}


def _cropped(item: Item, config: RunConfig) -> Image.Image:
    """The part of a picture that trains."""
    crop = item.crop(item.bucket, center=config.data.center_crop)
    return Image.fromarray(apply(pictures.decode(item.path.read_bytes()), crop))


def _opened(path: Path) -> Image.Image:
    return pictures.decode(path.read_bytes())


def small(picture: Image.Image) -> NDArray[np.float32]:
    """(64, 64, 3) in 0..1: the whole picture, whatever its shape."""
    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) / 255


def nearest(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,): root of the mean square difference of each of `some` (n, ...) to the nearest of `others` (m, ...), in parts of full brightness; 0 for a copy."""
    return np.array(
        [np.sqrt(np.square(others - one, dtype=np.float64).reshape(len(others), -1).mean(1)).min() for one in some]
    )


class _Encoder:
    """An encoder of transformers, open on the CPU in float32. Raises SimilarityError where it is not here or cannot be opened."""

    def __init__(self, kind: str, name: str) -> None:
        folder = encoder_folder(kind, name)
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.kind = kind
        opens: Mapping[str, Any] = {
            "clip": (transformers.CLIPModel, transformers.AutoProcessor),
            "dino": (transformers.AutoModel, transformers.AutoImageProcessor),
        }
        model, prepares = opens[kind]
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._prepare = prepares.from_pretrained(folder, **safe)
            self._model, loaded = model.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise SimilarityError(
                f"{kind} = {name}: could not be opened: {' '.join(str(error).split())}",
                "Download or save the model again.",
            ) from error
        lacking = sorted(loaded["missing_keys"])
        if lacking:
            raise SimilarityError(
                f"{kind} = {name}: has no weights for {len(lacking)} parts ({', '.join(lacking[:3])}): they would be random.",
                "Download or save the model again.",
            )
        self._model.eval()

    def of_pictures(self, shown: Sequence[Image.Image]) -> "Tensor":
        """(n, d) of length 1."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(shown), _AT_ONCE):
                given = self._prepare(images=list(shown[start : start + _AT_ONCE]), return_tensors="pt")
                found.append(self._pictures(given["pixel_values"]))
        return torch.nn.functional.normalize(torch.cat(found), dim=1)

    def _pictures(self, pixels: "Tensor") -> "Tensor":
        if self.kind == "dino":  # the token that stands for the whole picture
            return self._model(pixel_values=pixels).last_hidden_state[:, 0]
        return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)

    def of_texts(self, texts: Sequence[str]) -> "Tensor":
        """(n, d) of length 1. Words beyond the encoder's length are cut off."""
        import torch

        with torch.inference_mode():
            given = self._prepare(text=list(texts), return_tensors="pt", padding=True, truncation=True)
            words = self._model.text_model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
            return torch.nn.functional.normalize(self._model.text_projection(words.pooler_output), dim=1)
