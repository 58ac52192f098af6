"""Opening a model's parts from disk, all together or in stages, and what a failure of it means for the user.

A pipeline in memory as a whole needs the sum of its parts: 12 B parameters and two text encoders. In stages the text encoders are opened
when a prompt must be encoded that is not in the cache, and the network when it is first asked for (`Model.denoiser`); until then a skeleton
without memory stands in its place, so that the pipeline and its config are complete.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .facts import FamilyFacts
from .lora_methods import with_lora_methods
from .source import ModelError, Source, hub_error


@dataclass(frozen=True)
class Loader:
    """What is needed to open a part of a model, now or later. Only safetensors are read: a pickled weight file may run any code."""

    facts: FamilyFacts
    source: Source
    dtype: torch.dtype

    def pipeline(self, without: Sequence[str] = (), **instead: nn.Module) -> Any:
        """The stock pipeline on the CPU, the VAE in float32.

        Args:
            without: components that are not read and stand as None. instead: components by name that are taken in place of the saved ones.
        Raises: ModelError with the remedy.
        """
        with self._refusing(), _without_progress_bars():
            pipe = _pipeline_class(self.facts.pipelines[0]).from_pretrained(
                self.source.location,
                dtype={"vae": torch.float32, "default": self.dtype},
                **self._files,
                **self._none(without),
                **instead,
            )
        pipe.set_progress_bar_config(disable=True)
        return with_lora_methods(pipe, self.facts.component)

    def before_network(self) -> Any:
        """The pipeline without text encoders, which are opened for the first prompt that is not known, and with a skeleton in the network's
        place, which has its config and no weights. A hub's files are all fetched now."""
        with self._refusing():
            if not self.source.is_folder:
                _pipeline_class(self.facts.pipelines[0]).download(self.source.location, **self._files, **self._none(()))
            return self.pipeline(self.facts.text_encoders, **{self.facts.component: self._skeleton()})

    def network(self) -> nn.Module:
        """The network alone, on the CPU."""
        others = [part for part in self.source.parts if part not in (self.facts.component, "scheduler")]
        return getattr(self.pipeline(others), self.facts.component)

    def text_encoders(self) -> dict[str, nn.Module]:
        """The text encoders alone, on the CPU, by name; those that the model was saved without are left out."""
        pipe = self.pipeline((self.facts.component, "vae"))
        found = {part: getattr(pipe, part) for part in self.facts.text_encoders}
        return {part: encoder for part, encoder in found.items() if encoder is not None}

    @property
    def _files(self) -> dict[str, Any]:
        source = self.source
        return {"revision": source.revision, "variant": source.variant, "use_safetensors": True}

    def _none(self, without: Sequence[str]) -> dict[str, Any]:
        # Names that the saved pipeline does not know may not be passed; those saved as "none" must be, as None.
        none = {part: None for part in (*self.source.absent, *self.facts.unused, *without) if part in self.source.index}
        return {**self.facts.opening, **none}

    def _skeleton(self) -> nn.Module:
        import diffusers
        from accelerate import init_empty_weights

        kind, part = self.source.index[self.facts.component][1], self.facts.component
        network = getattr(diffusers, kind)
        with init_empty_weights():
            skeleton = network.from_config(
                network.load_config(self.source.location, subfolder=part, revision=self.source.revision)
            )
        return skeleton.eval()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """A failure of diffusers' loaders inside is raised as a ModelError."""
        from huggingface_hub import errors

        try:
            yield
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            raise _loading_error(self.source, error) from error


def _pipeline_class(name: str) -> Any:
    """Imported without transformers' remarks on image processors that text-to-image never uses."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        import diffusers

        return getattr(diffusers, name)
    finally:
        transformers.logging.set_verbosity(level)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Loading draws no bars: a run's log is a file, and the command line has its own."""
    import diffusers
    import transformers

    libraries = [diffusers.utils.logging, transformers.logging]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _loading_error(source: Source, error: Exception) -> ModelError:
    """What a failure of diffusers' loader means for the user."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError | errors.EntryNotFoundError | errors.OfflineModeIsEnabled):
        return hub_error(source.name, source.location, source.revision, "its weights", error)
    text = " ".join(str(error).split())
    if source.variant is not None and "variant" in text:
        return ModelError(
            f"'{source.name}' has no files of variant '{source.variant}' ({text}).",
            "Leave variant out, or name one whose files are there (model.VARIANT.safetensors).",
        )
    pickled = (
        sorted(str(file.relative_to(source.location)) for file in Path(source.location).glob("*/*.bin"))
        if source.is_folder
        else []
    )
    if pickled or "no file named" in text or "necessary `safetensors`" in text:
        named = f" (it has {', '.join(pickled)})" if pickled else ""
        return ModelError(
            f"'{source.name}' lacks weights in safetensors{named}: {text}",
            "Pickled weights (.bin, .ckpt) are not opened, because they can run code. Convert them where you trust "
            "them: load the pipeline with diffusers and save_pretrained(folder), which writes safetensors, then name "
            "that folder.",
        )
    return ModelError(
        f"'{source.name}' could not be opened: {text}", "Download or save the model again; see the cause above."
    )
