"""Opening the parts of a checkpoint in one file, through diffusers' single-file loaders. Nothing is fetched for what the file holds.

The pipeline is that of the frame (`SingleFileSource`); parts that lie in the file are put into it in place of saved ones. Each part is read
by itself, so that the text encoders may be gone before the network is there.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint_file import ModelError
from .facts import FamilyFacts
from .loading import Loader
from .modular import ModularLoader
from .single_file_facts import NETWORK
from .source import SingleFileSource, Source

CLIP_MERGES = Path(__file__).with_name("clip_merges.txt")
"""Pairs of CLIP's byte-pair encoding in the order of learning. Source: openai/CLIP (MIT); the 48,894 of 262,144 that it uses."""


def loader_of(facts: FamilyFacts, source: Source, *how: Any, **more: Any) -> Loader:
    """What opens the parts of this source. `how`, `more`: the further fields of a `Loader`."""
    if isinstance(source, SingleFileSource):
        return SingleFileLoader(facts, source, *how, **more)
    return (Loader if facts.modular is None else ModularLoader)(facts, source, *how, **more)


@dataclass(frozen=True)
class SingleFileLoader(Loader):
    """A `Loader` of a checkpoint in one file."""

    source: SingleFileSource

    def pipeline(self, without: Sequence[str] = (), **instead: Any) -> Any:
        given = {name: value for name, value in self._tokenizers().items() if name not in without}
        for part in self.source.parts_in_file:
            if part not in without and part not in instead:
                given[part] = self._part(part)
        pipe = self._frame.pipeline(without, **{**given, **instead})
        said = self.source.said.get("scheduler")
        if said:
            pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **said)
        return pipe

    def fetch(self, without: Sequence[str] = ()) -> None:
        if not self.source.frame.is_folder:
            self._frame.fetch((*without, *self.source.parts_in_file))

    @property
    def _frame(self) -> Loader:
        mine = {each.name: getattr(self, each.name) for each in fields(Loader)}
        return loader_of(**{**mine, "source": self.source.frame})

    def _tokenizers(self) -> dict[str, Any]:
        """CLIP's, where the pipeline is made of our own configs."""
        folder = self.source.checkpoint.shipped
        if folder is None or str(folder) != self.source.frame.location:
            return {}
        names = [part for part in self.source.parts if part.startswith("tokenizer") and part not in self.source.absent]
        return {part: clip_tokenizer(self.source.read_json(f"{part}/tokenizer_config.json")) for part in names}

    def _part(self, part: str) -> nn.Module:
        """A part whose weights are in the file, on the CPU; the VAE in float32. Raises ModelError where tensors are missing or do not fit."""
        from diffusers.loaders import single_file_utils

        library, name = self.source.index[part]
        kind = getattr(importlib.import_module(library), name)
        dtype = torch.float32 if part == "vae" else self.dtype
        tensors = self._tensors(part)
        with TemporaryDirectory() as folder, self._refusing():
            (Path(folder) / part).mkdir()
            config = Path(folder) / part / "config.json"
            config.write_text(json.dumps(dict(self.source.configs[part])), encoding="utf-8")
            where = {"config": folder, "subfolder": part, "torch_dtype": dtype, "local_files_only": True}
            if part == self.facts.component and self.storage.quantization != "none":
                where["quantization_config"] = self._network_quantization()
            try:
                if part in self.source.checkpoint.kind.inside:
                    module = _by_its_own_names(kind, dict(self.source.configs[part]), tensors, dtype)
                elif hasattr(kind, "from_single_file"):
                    module = kind.from_single_file(tensors, **where)
                elif single_file_utils.is_t5_in_single_file(tensors):
                    module = single_file_utils.create_diffusers_t5_model_from_checkpoint(kind, tensors, **where)
                else:
                    module = single_file_utils.create_diffusers_clip_model_from_ldm(kind, tensors, **where)
            except NotImplementedError as error:  # torch, of a tensor without data
                raise self._unfit(part, "some of its tensors are missing") from error
            except (
                KeyError,
                AttributeError,
                IndexError,
                TypeError,
                RuntimeError,
            ) as error:  # a converter that misses a tensor
                raise self._unfit(part, f"{type(error).__name__}: {error}") from error
        if hasattr(module, "tie_weights"):  # what shares its numbers with another tensor may stand once in the file
            module.tie_weights()
        missing = [key for key, tensor in module.state_dict().items() if tensor.is_meta]
        if missing:
            raise self._unfit(part, f"{len(missing)} tensors are missing, the first is {missing[0]}")
        return module.eval()

    def _tensors(self, part: str) -> dict[str, Tensor]:
        """The part's tensors of the file, as diffusers' converter for it expects them."""
        from safetensors import safe_open

        checkpoint = self.source.checkpoint
        if part == self.facts.component:
            # The converter of UNets asks for the beginning; of transformers all do without it, and some ask for that.
            start, there = NETWORK if part == "unet" else "", checkpoint.contents.start
            names = {name: start + name.removeprefix(there) for name in checkpoint.network_names}
        else:
            start = checkpoint.starts[part]
            cut = start if part in checkpoint.kind.inside else ""
            found = (name for name in checkpoint.contents.shapes if name.startswith(start))
            names = {name: name.removeprefix(cut) for name in found}
        with safe_open(self.source.location, framework="pt") as file:
            return {called: file.get_tensor(name) for name, called in names.items()}

    def _unfit(self, part: str, why: str) -> ModelError:
        return ModelError(
            f"'{self.source.name}': its {part} does not fit a {self.facts.label} model ({' '.join(why.split())}).",
            "Download the file again; if it is whole, it is of another build: name the folder of this model in the diffusers layout instead, or set "
            "pretrained_components to one whose configs fit.",
        )


def _by_its_own_names(kind: Any, config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """A part of diffusers whose tensors are named as diffusers names them; one that is absent stays without memory. Raises RuntimeError for
    shapes that do not fit, and for a tensor that has no place in it."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        module = kind.from_config(config)
    unknown = module.load_state_dict(
        {name: tensor.to(dtype) for name, tensor in tensors.items()}, strict=False, assign=True
    ).unexpected_keys
    if unknown:
        raise RuntimeError(f"{len(unknown)} tensors have no place in it, the first is {unknown[0]}")
    return module


@lru_cache(maxsize=1)
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = CLIP_MERGES.read_text(encoding="utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split(" ") for line in lines if line)]
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    return {piece: at for at, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}, merges


def clip_tokenizer(config: dict[str, Any]) -> Any:
    """CLIP's tokenizer without a file of its own. `config`: `pad_token` and `model_max_length`, as a tokenizer's config has them."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, pad_token=config["pad_token"], model_max_length=config["model_max_length"]
    )
