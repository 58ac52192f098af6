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
from .quantised import config_for, why_not
from .source import ModelError, Source, hub_error
from .streaming import stream_blocks


@dataclass(frozen=True)
class Storage:
    """How the network's frozen weights are kept: `quantization` as in `quantised.WAYS` ("none": in their precision), and how many of its
    blocks lie in main memory between their calls (`streaming`)."""

    quantization: str = "none"
    streamed_blocks: int = 0

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Put the network, whose weights are frozen, on a device. Raises ModelError where it has fewer blocks than shall stream."""
        if self.streamed_blocks:
            return stream_blocks(network, device, self.streamed_blocks)
        return network.to(device)

    def place_pipeline(self, pipe: Any, device: torch.device, component: str, *, without_network: bool = False) -> None:
        """Freeze a pipeline's parts and put them on the device; its network (`component`) as `place` does, or not at all."""
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module) and name != component:
                part.requires_grad_(False).eval().to(device)
            elif isinstance(part, nn.Module) and not without_network:
                self.place(part.requires_grad_(False).eval(), device)

    def check(self, device: torch.device) -> None:
        """Raises ModelError where the device or the installation lacks it."""
        wrong = None if self.quantization == "none" else why_not(self.quantization, device.type)
        if wrong is not None:
            raise ModelError(*wrong)


WHOLE = Storage()
"""As the file has it, in one piece on the device."""


@dataclass(frozen=True)
class Loader:
    """What is needed to open a part of a model, now or later. Only safetensors are read: a pickled weight file may run any code."""

    facts: FamilyFacts
    source: Source
    dtype: torch.dtype
    storage: Storage = WHOLE

    def pipeline(self, without: Sequence[str] = (), **instead: nn.Module) -> Any:
        """The stock pipeline on the CPU, the VAE in float32.

        Args:
            without: components that are not read and stand as None. instead: components by name that are taken in place of the saved ones.
        Raises: ModelError with the remedy.
        """
        with self._refusing(), without_progress_bars():
            pipe = pipeline_class(self.facts.pipelines[0]).from_pretrained(
                self.source.location,
                dtype={"vae": torch.float32, "default": self.dtype},
                **self._files,
                **self._none(without),
                **self._made(),
                **instead,
                **({} if self.facts.component in (*without, *instead) else self._quantization()),
            )
        pipe.set_progress_bar_config(disable=True)
        return with_lora_methods(pipe, self.facts.component)

    def before_network(self) -> Any:
        """The pipeline without text encoders, which are opened for the first prompt that is not known, and with a skeleton in the network's
        place, which has its config and no weights. A hub's files are all fetched now."""
        with self._refusing():
            if not self.source.is_folder:
                self.fetch()
            return self.pipeline(self.facts.text_encoders, **{self.facts.component: self._skeleton()})

    def fetch(self, without: Sequence[str] = ()) -> None:
        """Bring a hub's files into the cache, but for those of the parts in `without`."""
        with self._refusing():
            kind = pipeline_class(self.facts.pipelines[0])
            kind.download(self.source.location, **self._files, **{**self._none(()), **dict.fromkeys(without)})

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
        none = {
            part: None
            for part in (*self.source.absent, *self.facts.unused, *without)
            if part in self.source.index and part not in self.facts.made
        }
        return {**self.facts.opening, **none}

    def _made(self) -> dict[str, Any]:
        """The parts that the family makes itself; they are small, so they are always there."""
        source = self.source
        return {part: self.facts.make(part, source.location, source.revision) for part in self.facts.made}

    def _quantization(self) -> dict[str, Any]:
        """The argument of `from_pretrained` that quantises the network."""
        if self.storage.quantization == "none":
            return {}
        from diffusers import PipelineQuantizationConfig

        mapping = {self.facts.component: self._network_quantization()}
        return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}

    def _network_quantization(self) -> Any:
        """diffusers' quantisation config of the network."""
        linear = [name for name, layer in self._skeleton().named_modules() if isinstance(layer, nn.Linear)]
        return config_for(self.storage.quantization, self.dtype, linear)

    def _skeleton(self) -> nn.Module:
        import diffusers
        from accelerate import init_empty_weights

        kind, part = self.source.index[self.facts.component][1], self.facts.component
        network = getattr(diffusers, kind)
        with init_empty_weights():
            skeleton = network.from_config(dict(self.source.configs[part]))
        return skeleton.eval()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """A failure of diffusers' loaders inside is raised as a ModelError."""
        from huggingface_hub import errors

        try:
            yield
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            raise _loading_error(self.source, error) from error


def pipeline_class(name: str) -> Any:
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
def without_progress_bars() -> Iterator[None]:
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


def no_variant(source: Source, why: str) -> ModelError:
    """Of a model that has no files of the variant that was asked for."""
    return ModelError(
        f"'{source.name}' has no files of variant '{source.variant}' ({why}).",
        "Leave variant out, or name one whose files are there (model.VARIANT.safetensors).",
    )


def _loading_error(source: Source, error: Exception) -> ModelError:
    """What a failure of diffusers' loader means for the user."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError | errors.EntryNotFoundError | errors.OfflineModeIsEnabled):
        return hub_error(source.name, source.location, source.revision, "its weights", error)
    text = " ".join(str(error).split())
    if source.variant is not None and "variant" in text:
        return no_variant(source, text)
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
