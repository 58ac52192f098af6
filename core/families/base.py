"""What a model family must say, and everything that follows from it.

The rest of the core sees a `Model` only: latents are what the VAE gave, scaled; times are the noise path's (`t` = sigma
for flow, the fractional training timestep for variance preserving); a flow output is the noise-ward velocity `noise -
x0`. What a checkpoint's network, pipeline and scheduler want instead is converted in the family's folder and
nowhere else. What differs lives in small methods, marked "family:" below. The standing test (`tests/core/test_families.py`)
compares each with its stock diffusers pipeline.
"""

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
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
from ..platform_calls import device_name
from ..randomness import kept_random_state
from .conditioning import Conditioning, Frame, Prompt
from .facts import FamilyFacts, Geometry, PartConfigs
from .source import ModelError, Source, hub_error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KNOWN_PROMPTS = 32
"""So many prompts that `sample` met are remembered, so that validation pictures need no text encoder a second time."""


def resolve_device(name: str) -> torch.device:
    """The device of the option `device`. Raises ModelError for one that this machine lacks."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return torch.device(choose_device(name, [*gpus, *mps, "cpu"]))


def choose_device(name: str, available: Sequence[str]) -> str:
    """The one of the `available` devices (cuda:0, mps, cpu; best first) that `name` means: "auto" the first, "cuda" cuda:0.

    Raises: ModelError where it is not among them.
    """
    chosen = available[0] if name == "auto" else device_name(name)
    if chosen not in available:
        raise ModelError(
            f"device = {name}, but torch sees no {name} device here.",
            f"Set device to auto or {' or '.join(available)}; CUDA needs a CUDA build of torch.",
        )
    return chosen


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every sub-module is in the mode in which it was."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


class Model(ABC):
    """One loaded model of one family.

    Attributes:
        facts: what is known of the family without a checkpoint.
        pipe: the stock diffusers pipeline; its components are the ones used here.
        noise_path, prediction_type: how to read `denoise`'s output (`noise.prediction_from_output`).
        device, dtype: where the network runs and in which precision its frozen weights are. The VAE is always float32.
        latent_scale: pixels per latent cell and side.
        size_multiple: the sides of pictures must be multiples of it, in pixels.
        default_steps, default_guidance, default_size: what a bare `pipe(prompt)` uses.
    """

    facts: ClassVar[FamilyFacts]

    def __init__(
        self,
        pipe: Any,
        source: Source,
        *,
        prediction_type: PredictionType | None,
        device: torch.device,
        dtype: torch.dtype,
        flow_shift: float | None,
    ):
        self.pipe, self.source, self.device, self.dtype = pipe, source, device, dtype
        self.prediction_type = self._choose_prediction(prediction_type)
        self.noise_path: NoisePath = self.make_noise_path()
        if flow_shift is not None and not self.is_flow:
            raise ModelError(
                f"flow_schedule_shift = {flow_shift}, but {self.name} is no flow model.",
                "Leave flow_schedule_shift out.",
            )
        self._flow_shift = flow_shift
        self._text_encoders_freed = self._vae_parked = False
        self._vae_users = 0
        self._known: dict[tuple[str, bool], Prompt] = {}
        self._check()

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
    ) -> "Model":
        """Load the pipeline's components, freeze every weight, and move them to the device."""
        dtype, place = DTYPES[precision], resolve_device(device)
        pipe = cls.open_pipeline(source, dtype)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        model = cls(
            pipe.to(place), source, prediction_type=prediction_type, device=place, dtype=dtype, flow_shift=flow_shift
        )
        model.denoiser.train(for_training)
        return model

    @classmethod
    def open_pipeline(cls, source: Source, dtype: torch.dtype, without: Sequence[str] = ()) -> Any:
        """The stock pipeline of `source` on the CPU, lacking the components named in `without`; the VAE in float32.

        Only safetensors are read: a pickled weight file may run any code when opened.
        """
        from huggingface_hub import errors

        # Names that the saved pipeline does not know may not be passed; those saved as "none" must be, as None.
        none = {part: None for part in (*source.absent, *cls.facts.unused, *without) if part in source.index}
        try:
            with _without_progress_bars():
                pipe = _pipeline_class(cls.facts.pipelines[0]).from_pretrained(
                    source.location,
                    revision=source.revision,
                    variant=source.variant,
                    use_safetensors=True,
                    dtype={"vae": torch.float32, "default": dtype},
                    **cls.loading_options(),
                    **none,
                )
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            raise _loading_error(source, error) from error
        pipe.set_progress_bar_config(disable=True)
        return pipe

    # What the rest of the core uses ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def component(self) -> str:
        """The name of the part that is trained."""
        return self.facts.component

    @property
    def part_configs(self) -> PartConfigs:
        """The configs of the network and the VAE, as `facts` reads them."""
        return {self.component: dict(self.denoiser.config), "vae": dict(self.vae.config)}

    @cached_property
    def geometry(self) -> Geometry:
        return self.facts.geometry(self.part_configs)

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained: the pipeline's unet or transformer."""
        return getattr(self.pipe, self.component)

    @property
    def vae(self) -> nn.Module:
        return self.pipe.vae

    @property
    def is_flow(self) -> bool:
        return self.prediction_type == "flow_matching"

    @property
    def latent_scale(self) -> int:
        return cast(int, self.geometry.pixels_per_latent)  # a model that opened has a VAE whose config says it

    @property
    def latent_channels(self) -> int:
        return cast(int, self.geometry.channels)

    @property
    def size_multiple(self) -> int:
        """family: the network takes whole tokens."""
        return self.latent_scale * self.geometry.cells_per_token

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the picture that a bare `pipe(prompt)` gives."""
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.latent_scale, width * self.latent_scale

    @property
    def default_steps(self) -> int:
        return inspect.signature(type(self.pipe).__call__).parameters["num_inference_steps"].default

    @property
    def default_guidance(self) -> float:
        return inspect.signature(type(self.pipe).__call__).parameters["guidance_scale"].default

    @torch.no_grad()
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
        with self._text_encoders_present() as encoders, evaluating(*encoders), kept_random_state():
            return [
                {key: value.cpu() for key, value in self.encode_prompt(prompt, negative).items()} for prompt in prompts
            ]

    def unconditional(self) -> Prompt:
        """The empty negative prompt, encoded once and kept."""
        return self._remembered([""], negative=True)[0]

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        """One batch on the device.

        family: where prompts differ in length, pad and add a mask.
        """
        return Conditioning({key: torch.stack([one[key] for one in prompts]).to(self.device) for key in prompts[0]})

    def framed(self, cond: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        """family: with what the network is told of each row's picture. `frames`: one for each row."""
        return cond

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels (B, 3, H, W) in -1..1 -> scaled latents (B, C, h, w) float32 on the device.

        `generator`: draws from the posterior (a CPU generator makes it the same on every device); None takes the
        posterior's mode.
        """
        height, width = pixels.shape[-2:]
        if height % self.latent_scale or width % self.latent_scale:
            raise ValueError(
                f"A picture of {width}x{height} pixels: {self.name} needs sides that are multiples of "
                f"{self.latent_scale}. Crop or resize it first."
            )
        with self._vae_present() as vae, evaluating(vae):
            posterior = vae.encode(pixels.to(self.device, torch.float32)).latent_dist
            latents = posterior.mode() if generator is None else posterior.sample(generator)
        return self.scale_latents(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> pixels (B, 3, H, W) in 0..1, float32 on the device."""
        with self._vae_present() as vae, evaluating(vae):
            pixels = vae.decode(self.unscale_latents(latents.to(self.device, torch.float32)), return_dict=False)[0]
        return (pixels / 2 + 0.5).clamp(0, 1)

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
        inputs = Conditioning(cond).to(dtype=self.dtype)
        return self.network(x.to(self.dtype), self.network_time(t.to(torch.float32)), inputs).float()

    def guided(
        self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], negative: Mapping[str, Tensor] | None, guidance: float
    ) -> Tensor:
        """As `denoise`, with guidance in the family's own form. `negative`: B rows; None where `facts.evaluations` needs none.

        Cost: `facts.evaluations(guidance)` rows for each.
        """
        if negative is None:
            raise ValueError(f"guidance {guidance}: needs the negative conditioning of each row")
        both = Conditioning(negative).before(cond)
        unconditional, conditional = self.denoise(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return self.combine(conditional, unconditional, guidance)

    def predict(
        self, cond: Conditioning, guidance: float = 1.0, negative: Prompt | None = None
    ) -> Callable[[Tensor, Any, Tensor], Prediction]:
        """The function that solvers call: (x (R, ...), level (R,), rows (R,)) -> Prediction; `rows` picks from `cond`.

        Args:
            cond: a collated batch.
            guidance: 1.0 = none; above 1 each call costs `facts.evaluations(guidance)` times the rows.
            negative: one prompt's conditioning (no batch axis); None = the empty prompt.
        """
        if guidance < 1:
            raise ValueError(f"guidance = {guidance}: must be at least 1.0 (1.0 is no guidance).")
        against = None
        if self.facts.evaluations(guidance) > 1:
            against = self.collate([self.unconditional() if negative is None else negative])

        def predict(x: Tensor, level: Any, rows: Tensor) -> Prediction:
            chosen = cond.select(rows)
            if guidance == 1:
                output = self.denoise(x, level.t, chosen)
            else:
                output = self.guided(
                    x, level.t, chosen, None if against is None else against.repeat(len(rows)), guidance
                )
            return prediction_from_output(output, x, level, self.prediction_type)

        return predict

    def inference_times(self, steps: int, latent_shape: Sequence[int]) -> Tensor:
        """The schedule that the stock pipeline walks in `steps` steps: strictly decreasing times, 0 at the end.

        Float32 on the CPU. `latent_shape`: (..., C, h, w); some schedules bend with the picture's size. A node that a
        scheduler visits twice (PNDM) is named once. `flow_schedule_shift` changes nothing: it is the users' schedule.
        """
        scheduler = copy.deepcopy(self.pipe.scheduler)
        self.set_schedule(scheduler, steps, latent_shape)
        times = (scheduler.sigmas if self.is_flow else scheduler.timesteps).to("cpu", torch.float32)
        kept = [times[0]]
        for time in times[1:]:
            if time < kept[-1]:
                kept.append(time)
        if kept[-1] > 0:
            kept.append(torch.zeros(()))
        return torch.stack(kept)

    def training_times(self, latent_shape: Sequence[int] | None = None) -> Tensor:
        """The training table, noisiest first: T shifted sigmas (no 0) for flow, T-1..0 for variance preserving.

        Float32 on the CPU. `latent_shape` is needed only where the shift depends on the picture's size.
        """
        number = self.pipe.scheduler.config.num_train_timesteps
        if not self.is_flow:
            return torch.arange(number - 1, -1, -1, dtype=torch.float32)
        sigmas = torch.arange(number, 0, -1, dtype=torch.float32) / number
        shift = self.training_shift(latent_shape)
        return shift * sigmas / (1 + (shift - 1) * sigmas)

    def training_shift(self, latent_shape: Sequence[int] | None = None) -> float:
        """The shift of training's flow times: `flow_schedule_shift`, else the checkpoint's; 1.0 for other models."""
        if not self.is_flow:
            return 1.0
        if self._flow_shift is not None:
            return self._flow_shift
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        if latent_shape is None:
            raise ValueError(f"The shift of '{self.source.name}' depends on the picture's size: give latent_shape.")
        mu = self.mu(latent_shape)
        return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu

    @property
    def has_adapter(self) -> bool:
        return bool(getattr(self.denoiser, "peft_config", None))

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """The base model inside: LoRA layers are passed by. Afterwards they act, and train, as before."""
        if not self.has_adapter:
            raise RuntimeError(
                "The model has no adapter to switch off; base against tuned needs a LoRA (model_type = lora)."
            )
        trained = [(parameter, parameter.requires_grad) for parameter in self.denoiser.parameters()]
        self.denoiser.disable_adapters()
        try:
            yield
        finally:
            self.denoiser.enable_adapters()
            for parameter, requires_grad in trained:
                parameter.requires_grad_(requires_grad)

    def free_text_encoders(self) -> None:
        """Drop the text encoders. A prompt that is still unknown afterwards loads them again, for that call only."""
        if self._text_encoders_freed:
            return
        self.unconditional()
        for part in self.facts.text_encoders:
            setattr(self.pipe, part, None)
        self._text_encoders_freed = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def free_vae(self) -> None:
        """Keep the VAE on the CPU between calls; encode and decode bring it back for the call."""
        self._vae_parked = True
        self.vae.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
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
            negative_prompt: used where guidance is above 1.
            batch_size: pictures per pipeline call.
            on_picture: called with (done, total) after every batch.
            on_step: called with (done, total) after every sampling step of a batch; what it raises ends the drawing.

        Returns: PIL images. Train mode, scheduler and random state are afterwards what they were.
        """
        from PIL import Image

        steps = self.default_steps if steps is None else steps
        guidance = self.default_guidance if guidance is None else guidance
        height = self.default_size[0] if height is None else height
        width = self.default_size[1] if width is None else width
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"A picture of {width}x{height} pixels: {self.name} makes sides that are multiples of "
                f"{self.size_multiple}."
            )
        conditionings = self._remembered(list(prompts))
        negative = (
            self._remembered([negative_prompt], negative=True)[0] if self.facts.evaluations(guidance) > 1 else None
        )
        scheduler, images = self.pipe.scheduler, []
        try:
            # The pipeline runs where its first component lies, and that may be the VAE: it must be present.
            with evaluating(self.denoiser), kept_random_state(), self._vae_present():
                for first in range(0, len(conditionings), batch_size):
                    part = conditionings[first : first + batch_size]
                    self.pipe.scheduler = copy.deepcopy(scheduler)
                    latents = self.pipe(
                        **self.pipeline_inputs(part, negative),
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        height=height // self.latent_scale * self.pipe.vae_scale_factor,
                        width=width // self.latent_scale * self.pipe.vae_scale_factor,
                        generator=[torch.Generator().manual_seed(seed + first + i) for i in range(len(part))],
                        output_type="latent",
                        **({} if on_step is None else {"callback_on_step_end": partial(_after_step, on_step, steps)}),
                    ).images
                    cells = (height // self.latent_scale, width // self.latent_scale)
                    for pixels in self.decode(self.pipeline_latents(latents, *cells)).permute(0, 2, 3, 1).cpu():
                        images.append(Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()))
                    if on_picture is not None:
                        on_picture(len(images), len(conditionings))
        finally:
            self.pipe.scheduler = scheduler
        return images

    # What a family says ----------------------------------------------------------------------------------------------

    @classmethod
    def loading_options(cls) -> dict[str, Any]:
        """family: further arguments of `from_pretrained`."""
        return {}

    def checkpoint_prediction(self) -> PredictionType:
        """family: what the checkpoint's own scheduler says that the network predicts."""
        return "flow_matching"

    def make_noise_path(self) -> NoisePath:
        """family: the path that the checkpoint was trained on."""
        return RectifiedFlow() if self.is_flow else VariancePreserving(self.pipe.scheduler.alphas_cumprod.clone())

    @abstractmethod
    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        """family: the pipeline's own encoding of one prompt, without the batch axis."""

    def network_time(self, t: Tensor) -> Tensor:
        """family: core's time (B,) float32 -> what the network's time embedding wants."""
        return t

    @abstractmethod
    def network(self, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """family: one forward; returns the output in core's sign."""

    def combine(self, conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
        """family: classifier-free guidance."""
        return unconditional + guidance * (conditional - unconditional)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """family: the VAE's latents -> the network's."""
        return (latents - self._vae_shift) * self.vae.config.scaling_factor

    def unscale_latents(self, latents: Tensor) -> Tensor:
        """family: the network's latents -> the VAE's."""
        return latents / self.vae.config.scaling_factor + self._vae_shift

    def set_schedule(self, scheduler: Any, steps: int, latent_shape: Sequence[int]) -> None:
        """`scheduler.set_timesteps` exactly as the stock pipeline calls it."""
        if self.is_flow and self.facts.schedule.walk == "steps":
            # The scheduler ignores mu where its shift does not depend on the size.
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.mu(latent_shape))
        elif scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, mu=self.mu(latent_shape))
        else:
            scheduler.set_timesteps(steps)

    def mu(self, latent_shape: Sequence[int]) -> float:
        """The exponent of a shift that depends on the picture's size. `latent_shape`: (..., C, h, w)."""
        channels, height, width = latent_shape[-3:]
        tokens = self.geometry.tokens(height, width)
        return self.facts.schedule.mu(self.pipe.scheduler.config, tokens=tokens, channels=channels)

    @abstractmethod
    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        """family: the stock pipeline's arguments for prompts that are encoded already. `negative` None: no guidance."""

    def pipeline_latents(self, latents: Tensor, height: int, width: int) -> Tensor:
        """family: what the stock pipeline gives as latents -> (B, C, height, width)."""
        return latents

    def lora_options(self) -> dict[str, Any]:
        """family: further arguments of the pipeline's `lora_state_dict`, which reads LoRA files."""
        return {}

    def _check(self) -> None:
        """family: refuse checkpoints of the right class that this adapter cannot train. Raises ModelError."""
        refusal = self.facts.refuse(self.part_configs)
        if refusal is not None:
            raise ModelError(f"'{self.source.name}' {refusal.why}", refusal.remedy)

    # Helpers ---------------------------------------------------------------------------------------------------------

    @property
    def _vae_shift(self) -> float:
        shift = self.vae.config.get("shift_factor")
        return 0.0 if shift is None else shift

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

    def _remembered(self, prompts: list[str], *, negative: bool = False) -> list[Prompt]:
        """As `encode_prompts`, through a small memory."""
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, negative) not in self._known]
        encoded = dict(zip(new, self.encode_prompts(new, negative=negative), strict=True)) if new else {}
        result = [encoded[prompt] if prompt in encoded else self._known[prompt, negative] for prompt in prompts]
        for prompt, conditioning in encoded.items():
            if len(self._known) >= KNOWN_PROMPTS:
                # The oldest goes, but the empty prompt stays: guidance always needs it.
                self._known.pop(next(key for key in self._known if key != ("", True)))
            self._known[prompt, negative] = conditioning
        return result

    @contextmanager
    def _text_encoders_present(self) -> Iterator[list[nn.Module]]:
        if self._text_encoders_freed:
            again = self.open_pipeline(self.source, self.dtype, without=(self.component, "vae"))
            for part in self.facts.text_encoders:
                encoder = getattr(again, part)
                if encoder is not None:
                    setattr(self.pipe, part, encoder.requires_grad_(False).eval().to(self.device))
        try:
            yield [
                getattr(self.pipe, part) for part in self.facts.text_encoders if getattr(self.pipe, part) is not None
            ]
        finally:
            if self._text_encoders_freed:
                for part in self.facts.text_encoders:
                    setattr(self.pipe, part, None)

    @contextmanager
    def _vae_present(self) -> Iterator[nn.Module]:
        self._vae_users += 1
        if self._vae_parked:
            self.vae.to(self.device)
        try:
            yield self.vae
        finally:
            self._vae_users -= 1
            if self._vae_parked and self._vae_users == 0:
                self.vae.to("cpu")


def _after_step(
    told: Callable[[int, int], None], steps: int, pipe: Any, index: int, t: Any, values: dict[str, Any]
) -> dict[str, Any]:
    """What a pipeline calls after each of its steps; solvers that call the network more often have more than `steps`."""
    told(min(index + 1, steps), steps)
    return values


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
