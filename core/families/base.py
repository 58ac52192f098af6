"""What a model family must say, and everything that follows from it.

The rest of the core sees a `Model` only: latents are what its codec gave; times are the noise path's (`t` = sigma for flow, the
fractional training timestep for variance preserving); a flow output is the noise-ward velocity `noise - x0`. What a checkpoint's
network, pipeline and scheduler want instead is converted in the family's folder and nowhere else: `Family` is what it says there. A
model is put together from parts: a `LatentCodec` (pixels and latents), a `Layout` (latents and the network's arguments), a `Guidance`,
a `PromptEncoder` and its `Times`. `tests/core/test_families.py` compares each family with its stock diffusers pipeline.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from ..maths.noise import (
    NoisePath,
    Prediction,
    PredictionType,
    RectifiedFlow,
    VariancePreserving,
    prediction_from_output,
)
from . import sampling
from .codec import LatentCodec, ScaledVae
from .conditioning import Conditioning, Frame, Prompt
from .devices import DTYPES, current, resolve_device
from .facts import FamilyFacts, Geometry, PartConfigs
from .guidance import Guidance
from .layout import AsIs, Layout
from .loading import WHOLE, Storage
from .modes import without_adapters
from .prompts import PromptEncoder
from .single_file import loader_of
from .source import ModelError, Source
from .times import Times

ENCODERS_BESIDE_NETWORK = 1 << 30
"""Bytes of text encoders that may stay in a CPU's memory while the network trains there."""


class Family(ABC):
    """What a family says of its models; the rest follows (`Model`).

    Attributes:
        facts: what is known of the family without a checkpoint.
        pipe: the stock diffusers pipeline; its components are the ones used here.
        source: where it came from.
        device, dtype: where the network runs and in which precision its frozen weights are. The VAE is always float32.
    """

    facts: ClassVar[FamilyFacts]
    codec_class: ClassVar[type[LatentCodec]] = ScaledVae
    layout: ClassVar[Layout] = AsIs()

    def __init__(self, pipe: Any, source: Source, *, device: torch.device, dtype: torch.dtype):
        self.pipe, self.source, self.device, self.dtype = pipe, source, device, dtype

    @property
    def network_config(self) -> Mapping[str, Any]:
        """The network's config, as its class has it (also before its weights are there)."""
        return getattr(self.pipe, self.facts.component).config

    @property
    def part_configs(self) -> PartConfigs:
        """The configs of the network, the VAE, the scheduler and the pipeline, as `facts` reads them."""
        parts = {
            self.facts.component: self.network_config,
            "vae": self.pipe.vae.config,
            "scheduler": self.pipe.scheduler.config,
            "pipeline": self.pipe.config,
        }
        return {name: dict(config) for name, config in parts.items()}

    @cached_property
    def geometry(self) -> Geometry:
        return self.facts.geometry(self.part_configs)

    @property
    def latent_scale(self) -> int:
        """Pixels per latent cell and side."""
        return cast(int, self.geometry.pixels_per_latent)  # a model that opened has a VAE whose config says it

    @property
    def pipeline_scale(self) -> int:
        """Pixels per latent cell and side as the stock pipeline counts them, whatever its autoencoder does."""
        return self.pipe.vae_scale_factor * self.codec_class.patch

    @property
    def size_multiple(self) -> int:
        """The sides of pictures must be multiples of it, in pixels: the network takes whole tokens."""
        return self.latent_scale * self.geometry.cells_per_token

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the picture that a bare `pipe(prompt)` gives."""
        size = self.network_config.get("sample_size")
        if size is None:  # the pipeline has a number of its own
            side = cast(int, self.geometry.native_size)
            return side, side
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.latent_scale, width * self.latent_scale

    def checkpoint_prediction(self) -> PredictionType:
        """What the checkpoint's own scheduler says that the network predicts."""
        return "flow_matching"

    def checkpoint_guidance(self) -> Guidance:
        """The family's form of guidance, or another one where this checkpoint has it."""
        return self.facts.guidance

    def check(self, prediction: PredictionType) -> None:
        """Refuse checkpoints of the right class that cannot be trained; `prediction`: what is to be trained. Raises ModelError."""
        refusal = self.facts.refuse(self.part_configs, self.source.name)
        if refusal is not None:
            raise ModelError(f"'{self.source.name}' {refusal.why}", refusal.remedy)

    @abstractmethod
    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        """The pipeline's own encoding of one prompt, without the batch axis."""

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        """One batch on the device. Where prompts differ in length: pad and add a mask."""
        return Conditioning({key: torch.stack([one[key] for one in prompts]).to(self.device) for key in prompts[0]})

    def framed(self, cond: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        """With what the network is given of each row's picture. `frames`: one for each row."""
        return cond

    def network_time(self, t: Tensor) -> Tensor:
        """Core's time (B,) float32 -> what the network's time embedding wants."""
        return t

    @abstractmethod
    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """One call of the network at x (B, C, h, w), with `timestep` as `network_time` gave it; the output in core's sign, like x."""

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        """The stock pipeline's arguments for prompts that are encoded already: their own names, and those with `negative_` before them
        for the second row. `negative` None: no second row."""
        inputs = dict(self.collate(conditionings))
        if negative is not None:
            against = self.collate([negative] * len(conditionings))
            inputs |= {f"negative_{key}": value for key, value in against.items()}
        return inputs

    def call_key(self, prompt: Prompt) -> Hashable:
        """Prompts with equal ones can share a call of the stock pipeline: all can, unless it takes texts of one length only and has no mask."""
        return None

    def pipeline_latents(self, latents: Tensor, height: int, width: int) -> Tensor:
        """What the stock pipeline gives as latents -> (B, C, height, width)."""
        return self.layout.from_network(latents, height, width)

    def lora_options(self) -> dict[str, Any]:
        """Further arguments of the pipeline's `lora_state_dict`, which reads LoRA files."""
        return {}


class Loaded(Family):
    """The parts of one model in memory: opened, frozen, freed.

    Attributes, beside those of `Family`:
        codec, guidance, text (a `PromptEncoder`): see their modules; the layout belongs to the class.
        noise_path, prediction_type: how to read `denoise`'s output (`noise.prediction_from_output`).
    """

    def __init__(
        self,
        pipe: Any,
        source: Source,
        *,
        prediction_type: PredictionType | None,
        device: torch.device,
        dtype: torch.dtype,
        flow_shift: float | None,
        open_network: Callable[[], nn.Module] | None = None,
        storage: Storage = WHOLE,
    ):
        """`open_network`: gives the network when it is first asked for; None = the pipeline has it. `storage`: how its weights are kept."""
        super().__init__(pipe, source, device=device, dtype=dtype)
        self._open_network, self.storage = open_network, storage
        self.prediction_type = self._choose_prediction(prediction_type)
        if flow_shift is not None and not self.is_flow:
            raise ModelError(
                f"flow_schedule_shift = {flow_shift}, but {self.name} is no flow model.",
                "Leave flow_schedule_shift out.",
            )
        self.check(self.prediction_type)
        self.noise_path: NoisePath = (
            RectifiedFlow() if self.is_flow else VariancePreserving(pipe.scheduler.alphas_cumprod.clone())
        )
        self.guidance = self.checkpoint_guidance()
        self.codec = self.codec_class(pipe.vae, device)
        self.text = PromptEncoder(pipe, self.facts.text_encoders, self.encode_prompt, self._text_encoders_again)
        self._times = Times(pipe, self.facts.schedule, self.geometry, is_flow=self.is_flow, flow_shift=flow_shift)

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        precision: str,
        prediction_type: PredictionType | None,
        device: str,
        flow_shift: float | None,
        for_training: bool,
        storage: Storage = WHOLE,
    ) -> Self:
        """Load the pipeline's components, freeze every weight, and move them to the device.

        `for_training`: the network is opened when it is first asked for, in train mode, and text encoders for the first prompt that is not
        known: so that they may be gone when the network comes, or not come at all.
        """
        dtype, place = DTYPES[precision], resolve_device(device)
        storage.check(place)
        loader = loader_of(cls.facts, source, dtype, storage)
        with current(place):
            pipe = loader.before_network() if for_training else loader.pipeline()
        storage.place_pipeline(pipe, place, cls.facts.component, without_network=for_training)

        def open_network() -> nn.Module:
            with current(place):
                return storage.place(loader.network().requires_grad_(False), place).train()

        return cls(
            pipe, source, prediction_type=prediction_type, device=place, dtype=dtype, flow_shift=flow_shift,
            open_network=open_network if for_training else None, storage=storage,
        )  # fmt: skip

    @classmethod
    def open_pipeline(
        cls, source: Source, dtype: torch.dtype, device: torch.device, storage: Storage, without: Sequence[str] = ()
    ) -> Any:
        """The stock pipeline of `source`, frozen, on the device, lacking the components named in `without`; the VAE in float32."""
        with current(device):
            pipe = loader_of(cls.facts, source, dtype, storage).pipeline(without)
        storage.place_pipeline(pipe, device, cls.facts.component)
        return pipe

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def component(self) -> str:
        """The name of the part that is trained."""
        return self.facts.component

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained: the pipeline's unet or transformer. The first call may open it, which takes its time."""
        if self._open_network is not None:
            setattr(self.pipe, self.component, self._open_network())
            self._open_network = None
        return getattr(self.pipe, self.component)

    @property
    def vae(self) -> nn.Module:
        return self.codec.vae

    @property
    def is_flow(self) -> bool:
        return self.prediction_type == "flow_matching"

    @property
    def has_adapter(self) -> bool:
        return bool(getattr(getattr(self.pipe, self.component), "peft_config", None))

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """The base model inside: LoRA layers are passed by, the text encoders' too. Afterwards they act, and train, as before."""
        if not self.has_adapter:
            raise RuntimeError(
                "The model has no adapter to switch off; base against tuned needs a LoRA (model_type = lora)."
            )
        with without_adapters(self.denoiser, *self.text.adapted()):
            yield

    @property
    def encoders_must_go(self) -> bool:
        """Must the text encoders make room for the network? On an accelerator always, on a CPU where they are large; and where none was
        opened so far, one that a new prompt brings shall not stay."""
        large = self.device.type != "cpu" or not self.text.are_open or self.text.bytes_() > ENCODERS_BESIDE_NETWORK
        return large and not self.text.stay

    def free_text_encoders(self) -> None:
        """Drop the text encoders. A prompt that is still unknown afterwards loads them again, for that call only."""
        self.text.free()
        self.empty_cache()

    def free_vae(self) -> None:
        """Keep the VAE on the CPU between calls; encode and decode bring it back for the call."""
        self.codec.park()
        self.empty_cache()

    def _choose_prediction(self, wanted: PredictionType | None) -> PredictionType:
        found = self.checkpoint_prediction()
        if wanted is None:
            return found
        if wanted not in self.facts.predictions:
            raise ModelError(
                f"prediction_type = {wanted}, but {self.name} models predict {' or '.join(self.facts.predictions)}.",
                f"Leave prediction_type out to take the checkpoint's ({found}).",
            )
        return wanted

    def _text_encoders_again(self) -> dict[str, nn.Module]:
        encoders = loader_of(self.facts, self.source, self.dtype).text_encoders()
        return {part: encoder.requires_grad_(False).eval().to(self.device) for part, encoder in encoders.items()}

    def empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Model(Loaded):
    """One loaded model of one family, as the rest of the core uses it.

    Attributes, beside those of `Loaded`:
        latent_channels: of the latents that noise is added to.
        default_steps, default_guidance, default_size: what a bare `pipe(prompt)` uses.
    """

    @property
    def latent_channels(self) -> int:
        return cast(int, self.geometry.channels)

    @property
    def default_steps(self) -> int:
        return sampling.stock_default(self.pipe, "num_inference_steps")

    @property
    def default_guidance(self) -> float:
        return self.guidance.from_stock(sampling.stock_default(self.pipe, self.guidance.argument))

    def encode_prompts(self, prompts: Sequence[str], *, negative: bool = False) -> list[Prompt]:
        """What the pipeline's own text encoders make of each prompt, as inference uses it (padding included).

        Args:
            prompts: any number; each is encoded by itself, so that the result does not depend on its neighbours.
            negative: encode them as the pipeline encodes *negative* prompts (some pipelines put no system prompt
                before those). The unconditional row of caption dropout is `encode_prompts([""], negative=True)`, because
                inference uses that.

        Returns: one `Prompt` each: CPU, no batch axis, the text encoders' dtype.
        Cost: after `free_text_encoders` each call loads them again from disk; ask for all prompts at once.
        """
        return self.text.encode(prompts, negative)

    def remember(self, prompts: Sequence[str], *, negative: bool = False) -> None:
        """Encode prompts that `sample` will be given, so that it needs no text encoder for them."""
        self.text.remembered(prompts, negative)

    def unconditional(self) -> Prompt:
        """The empty negative prompt, encoded once and kept."""
        return self.text.remembered([""], True)[0]

    def by_words(self, prompts: Sequence[str]) -> list[Prompt]:
        """Prompts for what is shown with several weights: encoded, or where text encoders can change to be encoded when they are collated."""
        return self.encode_prompts(prompts)

    def encode_images(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`LatentCodec.encode`. Raises ValueError for a picture that is no whole number of latent cells."""
        height, width = pixels.shape[-2:]
        if height % self.latent_scale or width % self.latent_scale:
            raise ValueError(
                f"A picture of {width}x{height} pixels: {self.name} needs sides that are multiples of "
                f"{self.latent_scale}. Crop or resize it first."
            )
        return self.codec.encode(pixels, generator)

    def decode(self, latents: Tensor) -> Tensor:
        """`LatentCodec.decode`."""
        return self.codec.decode(latents)

    def denoise(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """One call of the network, in core's terms.

        Args:
            x: (B, C, h, w) noisy latents of the noise path, any float dtype.
            t: (B,) one time per row, core's coordinate; it reaches the network in float32, whatever its weights'
                precision.
            cond: a collated batch of B rows.

        Returns: (B, C, h, w) float32: noise-ward velocity for flow, else epsilon, v or x0 as `prediction_type` says.
            Gradients flow.
        """
        inputs = (cond if isinstance(cond, Conditioning) else Conditioning(cond)).to(dtype=self.dtype)
        fed = {name: value for name, value in self.guidance.fed_in_training().items() if name not in inputs}
        if fed:
            inputs = inputs.with_rows(**{name: x.new_full((len(x),), value) for name, value in fed.items()})
        return self.forward(self.denoiser, x.to(self.dtype), self.network_time(t.to(torch.float32)), inputs).float()

    def predict(
        self, cond: Conditioning, guidance: float = 1.0, negative: Prompt | None = None
    ) -> Callable[[Tensor, Any, Tensor], Prediction]:
        """The function that solvers call: (x (R, ...), level (R,), rows (R,)) -> Prediction; `rows` picks from `cond`.

        Args:
            cond: a collated batch.
            guidance: 1.0 = none; above 1 each call costs `self.guidance.evaluations(guidance)` times the rows.
            negative: one prompt's conditioning (no batch axis); None = the empty prompt.
        Raises: ValueError for a guidance below 1.
        """
        if guidance < 1:
            raise ValueError(f"guidance = {guidance}: must be at least 1.0 (1.0 is no guidance).")
        against = None
        if self.guidance.evaluations(guidance) > 1:
            against = self.collate([self.unconditional() if negative is None else negative])

        def predict(x: Tensor, level: Any, rows: Tensor) -> Prediction:
            chosen = cond.select(rows)
            if guidance == 1:
                output = self.denoise(x, level.t, chosen)
            else:
                away = None if against is None else against.repeat(len(rows))
                output = self.guidance(self.denoise, x, level.t, chosen, away, guidance)
            return prediction_from_output(output, x, level, self.prediction_type)

        return predict

    def inference_times(self, steps: int, latent_shape: Sequence[int]) -> Tensor:
        """The schedule that the stock pipeline samples with in `steps` steps: strictly decreasing times, 0 at the end.

        Float32 on the CPU. `latent_shape`: (..., C, h, w); some schedules bend with the picture's size. A node that a
        scheduler visits twice (PNDM) is named once. `flow_schedule_shift` changes nothing: it is the users' schedule.
        """
        return self._times.inference(steps, latent_shape)

    def training_times(self, latent_shape: Sequence[int] | None = None) -> Tensor:
        """The training table, noisiest first: T shifted sigmas (no 0) for flow, T-1..0 for variance preserving.

        Float32 on the CPU. `latent_shape` is needed only where the shift depends on the picture's size.
        """
        return self._times.table(latent_shape)

    def training_shift(self, latent_shape: Sequence[int] | None = None) -> float:
        """The shift of training's flow times: `flow_schedule_shift`, else the checkpoint's; 1.0 for other models."""
        return self._times.shift(latent_shape)

    def sample(
        self,
        prompts: Sequence[str],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str = "",
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 4,
        on_picture: Callable[[int, int], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list:
        """Pictures by the stock pipeline with the current weights: the code that users will run.

        Args:
            prompts: one picture each; picture i starts from a CPU generator seeded with `seed + i`, whatever the device
                and batch.
            steps, guidance, height, width (pixels): None = the pipeline's own.
            negative_prompt: used where guidance is above 1 and the family's guidance takes one.
            batch_size: pictures per pipeline call.
            on_picture: called with (done, total) after every batch.
            on_step: called with (done, total) after every sampling step of a batch; what it raises ends the drawing.

        Returns: PIL images. Train mode, scheduler and random state are afterwards what they were.
        """
        guidance = self.default_guidance if guidance is None else guidance
        steps = self._times.checked(self.default_steps if steps is None else steps)
        height = self.default_size[0] if height is None else height
        width = self.default_size[1] if width is None else width
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"A picture of {width}x{height} pixels: {self.name} makes sides that are multiples of "
                f"{self.size_multiple}."
            )
        conditionings, negative = self.text.remembered(prompts, False), None
        if self.guidance.evaluations(guidance) > 1:
            negative = self.text.remembered([negative_prompt], True)[0]
        with torch.no_grad():
            return sampling.draw(
                self,
                conditionings,
                negative,
                steps=steps,
                stock_guidance=self.guidance.stock_scale(guidance),
                cells=(height // self.latent_scale, width // self.latent_scale),
                seed=seed,
                batch_size=batch_size,
                on_picture=on_picture,
                on_step=on_step,
            )
