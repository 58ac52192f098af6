"""Pipelines that diffusers has as modular blocks only: opened part by part, and called as its other pipelines are.

The blocks are the pipeline's own. When it draws, those are left out that encode captions and decode latents (`facts.Modular`): prompts are
encoded already, and the codec decodes. Its parts are those that its blocks ask for, of the classes that they name: nothing that a
checkpoint's index says decides which code runs, and blocks that lie in a repository are never loaded.
"""

import json
import logging as python_logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .facts import Modular
from .index_files import MODULAR, NAMES, is_modular
from .loading import Loader, no_variant, pipeline_class, without_progress_bars
from .lora_methods import with_lora_methods
from .source import ModelError

PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.onnx")
"""Files of a hub model that are not fetched."""


class ModularLoader(Loader):
    """A `Loader` of a pipeline of modular blocks."""

    def pipeline(self, without: Sequence[str] = (), **instead: Any) -> Any:
        assert self.facts.modular is not None
        with _without_remarks():
            pipe = called_like_others(pipeline_class(self.facts.pipelines[0])(), self.facts.modular)
        left_out = {*self._none(without), *instead}
        wanted = [part for part in pipe.pretrained_component_names if part not in left_out]
        with self._refusing(), without_progress_bars():
            folder = self._folder(wanted)
            self._check_variant(folder)
            parts = {part: self._part(folder, part, pipe.get_component_spec(part).type_hint) for part in wanted}
        pipe.update_components(**parts, **instead)
        return with_lora_methods(pipe, self.facts.component)

    def fetch(self, without: Sequence[str] = ()) -> None:
        with self._refusing():
            self._folder([part for part in self.source.parts if part not in self._none(without)])

    def _folder(self, parts: Sequence[str]) -> Path:
        """Where the parts lie on this computer; those of a hub id are fetched."""
        source = self.source
        if source.is_folder:
            return Path(source.location)
        from huggingface_hub import snapshot_download

        variants = ["*.*.safetensors"] if source.variant is None else []
        wanted = [*NAMES, *(f"{part}/*" for part in parts)]
        where = snapshot_download(
            source.location, revision=source.revision, allow_patterns=wanted, ignore_patterns=[*PICKLED, *variants]
        )
        return Path(where)

    def _check_variant(self, folder: Path) -> None:
        """Some part must have files of the variant that is asked for, whichever are opened at the moment. Raises ModelError."""
        weights = [path for part in self.source.parts for path in (folder / part).glob("*.safetensors")]
        if self.source.variant is not None and weights and not any(self._is_of_variant(path) for path in weights):
            raise no_variant(self.source, f"{folder} has {weights[0].parent.name}/{weights[0].name}")

    def _is_of_variant(self, path: Path) -> bool:
        name = path.name.split(".")
        return len(name) > 2 and re.sub(r"-\d{5}-of-\d{5}$", "", name[1]) == self.source.variant

    def _part(self, folder: Path, part: str, kind: type) -> Any:
        """One part from its own folder, on the CPU; the VAE in float32. Raises ModelError where there is no such folder."""
        place = folder / part
        if not place.is_dir():
            raise ModelError(
                f"'{self.source.name}' lacks its part {part}.",
                f"Every part of a {self.source.pipeline_name} is read from beside its index, wherever that says that it lay: download or save the "
                "model again, whole.",
            )
        if not issubclass(kind, nn.Module):
            return kind.from_pretrained(str(place))  # type: ignore[attr-defined]
        how: dict[str, Any] = {"dtype": torch.float32 if part == "vae" else self.dtype, "use_safetensors": True}
        if self.source.variant is not None and any(self._is_of_variant(path) for path in place.glob("*.safetensors")):
            how["variant"] = self.source.variant  # as of diffusers' other pipelines: else the plain file
        if part == self.facts.component and self.storage.quantization != "none":
            how["quantization_config"] = self._network_quantization()
        return kind.from_pretrained(str(place), **how)  # type: ignore[attr-defined]


@contextmanager
def _without_remarks() -> Iterator[None]:
    """diffusers says of every guider that is made that guiders may change one day."""
    logger = python_logging.getLogger("diffusers.guiders.guider_utils")
    level = logger.level
    logger.setLevel(python_logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def called_like_others(pipe: Any, how: Modular) -> Any:
    """The modular pipeline, in place, with the calling convention of diffusers' other ones (`CalledLikeOthers`)."""
    from diffusers.modular_pipelines import SequentialPipelineBlocks

    kind, blocks = type(pipe), pipe.blocks.get_workflow(how.workflow).sub_blocks
    left_out = {*how.encoding, *how.decoding}
    drawing = {name: block for name, block in blocks.items() if name not in left_out}
    assert len(drawing) == len(blocks) - len(left_out), f"blocks of {kind.__name__}: {', '.join(blocks)}"
    pipe.__class__ = type(kind.__name__, (CalledLikeOthers, kind), {"__module__": kind.__module__})
    pipe.drawing = SequentialPipelineBlocks.from_blocks_dict(drawing)
    for block in drawing.values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
    return pipe


class CalledLikeOthers:
    """What a modular pipeline is given to be called and saved as diffusers' other ones. `drawing`: its blocks from encoded prompts to latents."""

    drawing: Any
    guider: Any

    def __call__(self, *, guidance_scale: float, output_type: str, return_dict: bool, **inputs: Any) -> tuple[Any]:
        """Latents for prompts that are encoded, by the blocks' own inputs and the guider's scale.

        Raises: ValueError for an input that no block takes, or another form of output.
        """
        from diffusers.modular_pipelines import PipelineState

        taken = {given.name: given for given in self.drawing.inputs if given.name is not None}
        if output_type != "latent" or return_dict or not inputs.keys() <= taken.keys():
            unknown = ", ".join(sorted(inputs.keys() - taken.keys()))
            raise ValueError(
                f"{type(self).__name__}: gives latents alone, and takes {', '.join(sorted(taken))}; not {unknown or output_type}."
            )
        state, guider = PipelineState(), self.guider
        for name, given in taken.items():
            state.set(name, inputs.get(name, given.default), given.kwargs_type)
        with _without_remarks():
            self.guider = guider.new(guidance_scale=guidance_scale)
        try:
            with torch.no_grad():
                _, state = self.drawing(self, state)
        finally:
            self.guider = guider
        return (state.get("latents"),)

    @property
    def default_call_parameters(self) -> dict[str, Any]:
        """What a bare `pipe(prompt)` uses."""
        usual = {given.name: given.default for given in self.drawing.inputs if given.name is not None}
        return {**usual, "guidance_scale": self.guider.guidance_scale}

    def save_pretrained(self, save_directory: Path | str, **options: Any) -> None:
        """As its own, without the folder's place in the index: it is another one when the folder was moved, and nobody else's business."""
        super().save_pretrained(str(save_directory), overwrite_modular_index=True, **options)  # type: ignore[misc]
        file = Path(save_directory) / MODULAR
        index = json.loads(file.read_text(encoding="utf-8"))
        for entry in index.values():
            if is_modular(entry):
                entry[2]["pretrained_model_name_or_path"] = None
        file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def set_progress_bar_config(self, **config: Any) -> None:
        for block in self.drawing.sub_blocks.values():
            if hasattr(block, "set_progress_bar_config"):
                block.set_progress_bar_config(**config)
