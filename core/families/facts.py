"""What is known of a model family before one is opened: plain data, no torch. Page, preflight, estimate, grid and export read it.

Each family's folder states its own `FACTS` (`core/families/<name>/__init__.py`); `registry.FAMILIES` has all of them. What a checkpoint's
own config files say is derived from them by the functions here, and not written down a second time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal, TypeGuard

from .guidance import CLASSIFIER_FREE, Guidance
from .lora_facts import NO_MAP, KohyaLayout, NoKohyaLayout
from .single_file_facts import SingleFile

PartConfigs = Mapping[str, Mapping[str, Any]]
"""The parts' own config files by the part's name ("unet", "transformer", "vae", "scheduler", "text_encoder" ...), and the pipeline's own settings
(`model_index.json`) as "pipeline"; absent ones are left out."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Ends of the names of an attention block's four projections."""
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""The same with those of the text's side, in blocks where text and picture attend together."""


@dataclass(frozen=True)
class Geometry:
    """How latents lie; None where the configs do not state it.

    `channels`: of the latents that noise is added to. `pixels_per_latent`: pixels of a latent cell's side. `cells_per_token`: cells of
    the side of what the network takes as one position (2: a 2x2 square). `native_size`: side in pixels of what the model was made for.
    """

    channels: int | None
    pixels_per_latent: int | None
    cells_per_token: int
    native_size: int | None

    def tokens(self, height: int, width: int) -> int:
        """Positions of a picture of `height` x `width` latent cells."""
        return (height // self.cells_per_token) * (width // self.cells_per_token)


@dataclass(frozen=True)
class TextCost:
    """`tokens`: of one caption, as they go through the network's blocks. `bytes_`: of one cached caption in 32 bits, at most."""

    tokens: int
    bytes_: int


@dataclass(frozen=True)
class Refusal:
    """Why a checkpoint of a known class cannot be trained here (`why` goes on after the model's name), and what to take instead."""

    why: str
    remedy: str


Marks = Callable[[PartConfigs], Mapping[str, Any] | None]
"""What in a checkpoint's configs tells that it is of some kind, as values by name; None where it is not, or where they do not show it."""


def unmarked(configs: PartConfigs) -> None:
    """Nothing in the configs tells it."""


@dataclass(frozen=True, kw_only=True)
class Unsuitable:
    """A kind of checkpoint that belongs to a family and cannot be trained here.

    Attributes:
        what: its name, for the generated table. why: goes on after a checkpoint's name. remedy: what to take instead.
        marks: tell it by its configs; shown: the same in words, in which `{name}` is one of the values found.
        hub: ids of such checkpoints, where nothing but the name tells them. A folder of that name is taken for one, too.
        pipelines: classes of `model_index.json` that are always of this kind.
    """

    what: str
    why: str
    remedy: str
    marks: Marks = unmarked
    shown: str = ""
    hub: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()

    def refuse(self, configs: PartConfigs, names: Sequence[str]) -> Refusal | None:
        """The refusal of a checkpoint of this kind, None for others. `names`: what it is called."""
        found = self.marks(configs)
        if found is not None:
            return Refusal(f"{self.why}: {self.shown.format(**found)}.", self.remedy)
        known = {_last(name) for name in self.hub}
        named = next((_last(name) for name in names if _last(name) in known), None)
        if named is None:
            return None
        return Refusal(
            f"{self.why}: it is named {named}.",
            f"{self.remedy} If it is another model after all, name its folder otherwise, also as _name_or_path in its model_index.json.",
        )


def _last(name: str) -> str:
    """The last part of a hub id or a path, in small letters."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the stock pipeline sets its scheduler.

    `usual`: the scheduler's config where the checkpoint's own cannot be read. For flow models: `sigmas`: from 1 down to the smallest sigma
    of the training table ("table"), or to 1 / steps ("steps"), both before the shift, or down the numbers of the training table, rounded
    down to whole ones, which the scheduler keeps as its times while the shift bends the sigmas alone ("whole"); `bends_with`: what a
    shift that depends on the size counts; `max_shift`: the pipeline's default for the key of that name; `mu_by_length`: (the
    scheduler's config, what is counted) -> mu, where it is on no straight line; `mu_with_steps`: (what is counted, steps) -> the
    exponent of the shift, where the pipeline makes it depend on the number of steps too; `usual_steps`: the pipeline's default number
    of them, with which training times are drawn there.
    """

    usual: Mapping[str, Any]
    sigmas: Literal["table", "steps", "whole"] = "table"
    bends_with: Literal["tokens", "channels"] = "tokens"
    max_shift: float = 1.15
    mu_by_length: Callable[[Mapping[str, Any], int], float] | None = None
    mu_with_steps: Callable[[int, int], float] | None = None
    usual_steps: int = 50

    def length(self, geometry: Geometry, shape: Sequence[int]) -> int:
        """What a shift that depends on the size counts, for latents of shape (..., C, h, w)."""
        channels, height, width = shape[-3:]
        return geometry.tokens(height, width) if self.bends_with == "tokens" else channels

    def mu(
        self, config: Mapping[str, Any], geometry: Geometry, shape: Sequence[int], steps: int | None = None
    ) -> float:
        """The exponent of the shift for latents of shape (..., C, h, w), or the shift itself where the config's `time_shift_type` is
        linear. `config`: the scheduler's; `steps` None: the usual ones."""
        length = self.length(geometry, shape)
        if self.mu_with_steps is not None:
            return self.mu_with_steps(length, self.usual_steps if steps is None else steps)
        if self.mu_by_length is not None:
            return self.mu_by_length(config, length)
        return resolution_mu(config, length, max_shift=self.max_shift)

    def but(self, **changes: Any) -> "Schedule":
        """The same with some fields changed."""
        return replace(self, **changes)


def resolution_mu(config: Mapping[str, Any], tokens: int, *, max_shift: float) -> float:
    """mu on the straight line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), as `calculate_shift` of
    diffusers' pipelines.

    Args:
        config: the scheduler's; absent keys have the pipeline's defaults.
        tokens: what the pipeline counts as the picture's length.
        max_shift: that pipeline's own default for the key of this name.

    Source: Esser et al., arXiv 2403.03206, section 5.3.2; the linear form is from the FLUX.1 release.
    """
    base_length, max_length = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (top - base) / (max_length - base_length)
    return tokens * slope + base - slope * base_length


FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
         "steps_offset": 1, "timestep_spacing": "leading"}  # fmt: skip
"""The noise table of latent diffusion (Rombach et al., arXiv 2112.10752), as released checkpoints have it."""
USUAL_FLOW = Schedule(usual={"_class_name": FLOW_SCHEDULER, "shift": 3.0, "num_train_timesteps": 1000})
USUAL_VARIANCE_PRESERVING = Schedule(usual={"_class_name": "PNDMScheduler", "skip_prk_steps": True, **BETAS})
"""What is drawn where not even the family is known."""


@dataclass(frozen=True, kw_only=True)
class Modular:
    """How a pipeline is opened and drawn with that diffusers has as modular blocks only (`modular_model_index.json`).

    `workflow`: of its blocks, the one that leads from a prompt to a picture. `encoding`, `decoding`: the names of those in it that make
    conditioning of a caption, and a picture of latents; prompts are encoded already when it draws, and the codec decodes.
    """

    workflow: str = "text2image"
    encoding: tuple[str, ...]
    decoding: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """One family.

    Attributes:
        name: as `model_family` says it, the name of the family's folder; label: for people.
        pipelines: classes that a checkpoint's index may name; the first is the one that opens them.
        component: the part that is trained. predictions: what its output may mean.
        lora_targets: ends of the names of the layers that get an adapter where a config names none.
        untrained: ends of names of tensors in the network's files that are no weights (tables).
        text_encoders: parts that make conditioning of a caption. trained_encoders: those that may be trained, with what the names of their
            layers begin with in the kohya layout. unused: parts that training and sampling do without.
        guidance: how a prompt is made to count more; a checkpoint may lack it (`Family.checkpoint_guidance`).
        opening: further arguments of `from_pretrained`. modular: of a pipeline of modular blocks; None = it is one of diffusers' usual ones.
        own_library: the package of diffusers' pipelines in which the class of a part lies, where an index names that as its library.
        made: parts that are not opened as they were saved, with the function in `<name>/model.py` that makes each of (the checkpoint's
            location, its revision).
        schedule, geometry, text: see their records; geometry and text are read from the parts' configs.
        unsuitable: checkpoints that cannot be trained (`refuse` tells them).
        claims: of classes that serve several families, whether this checkpoint is of this one.
        kohya: the names of a LoRA's layers in the layout of other tools, or why it is not written.
        lycoris: what ComfyUI reads before a layer's own name in a file of LoHa or LoKr ("lycoris_": dots are underscores), where the kohya
            layout has no names or joins layers; None where it reads no such file.
        reader: what of diffusers reads a LoRA: the pipeline (`load_lora_weights`), only the network (`load_lora_adapter`), or nothing ("peft").
        comfyui_loads: does ComfyUI's *Load LoRA* know the names of the diffusers layout? False also where no such reader is known.
        comfyui: what ComfyUI calls its models of this family (classes of `comfy.supported_models`), which can be measured inside it.
        elsewhere: other training tool -> its words for the family, the usual one first; "" = what it trains where no word says so.
        header: words of a LoRA file's header (`ss_base_model_version`, `architecture`).
        licence: of the released weights. examples: hub ids.
        single_file: how a checkpoint in one file is recognised and opened; None where it is not.
    """

    name: str
    label: str
    pipelines: tuple[str, ...]
    component: Literal["unet", "transformer"]
    predictions: tuple[Literal["epsilon", "v_prediction", "sample", "flow_matching"], ...]
    lora_targets: tuple[str, ...] = ATTENTION
    untrained: tuple[str, ...] = ()
    text_encoders: tuple[str, ...] = ("text_encoder",)
    trained_encoders: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    guidance: Guidance = CLASSIFIER_FREE
    opening: Mapping[str, Any] = field(default_factory=dict)
    modular: Modular | None = None
    made: Mapping[str, str] = field(default_factory=dict)
    own_library: str = ""
    schedule: Schedule
    geometry: Callable[[PartConfigs], Geometry]
    text: Callable[[PartConfigs], TextCost]
    unsuitable: tuple[Unsuitable, ...] = ()
    claims: Callable[[PartConfigs], bool] | None = None
    kohya: KohyaLayout | NoKohyaLayout = NO_MAP
    lycoris: str | None = None
    reader: Literal["pipeline", "network", "peft"] = "pipeline"
    comfyui_loads: bool = False
    comfyui: tuple[str, ...] = ()
    elsewhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    header: Mapping[str, str]
    licence: str
    examples: tuple[str, ...] = ()
    single_file: SingleFile | None = None
    model: str
    """The name of its `Model` in `<name>/model.py`."""

    @property
    def is_flow(self) -> bool:
        """Does every model of the family learn a velocity on a rectified flow?"""
        return self.predictions == ("flow_matching",)

    def refuse(self, configs: PartConfigs, *names: str) -> Refusal | None:
        """Why a checkpoint cannot be trained; None where it can.

        Args:
            names: what it is called: a hub id, a folder. The name under which its pipeline was saved counts beside them.
        """
        saved = configs.get("pipeline", {}).get("_name_or_path")
        called = [name for name in (*names, saved) if isinstance(name, str)]
        return next(filter(None, (kind.refuse(configs, called) for kind in self.unsuitable)), None)

    def model_class(self) -> type[Any]:
        """The family's `base.Model`. Imports torch and diffusers."""
        return getattr(self._module(), self.model)

    def make(self, part: str, location: str, revision: str | None) -> Any:
        """One of the parts in `made`. Imports as `model_class`. Raises OSError where its files are missing."""
        return getattr(self._module(), self.made[part])(location, revision)

    def _module(self) -> Any:
        return import_module(f".{self.name}.model", __package__)


# What configs say, for families whose parts are named as usual ----------------------------------------------------------


_BLOCKS = ("block_out_channels", "dim_mult", "encoder_block_out_channels")
"""Where the config of an autoencoder lists its blocks: of pictures, of films, a deep one."""


def vae_geometry(
    component: str, *, cells_per_token: int | None = None, native_cells: int | None = None
) -> Callable[[PartConfigs], Geometry]:
    """From the VAE's blocks and channels, of pictures or of films, and the network's `sample_size`.

    Args:
        cells_per_token: None = the network's `patch_size`.
        native_cells: side of the picture that a bare `pipe(prompt)` draws where the network's config names no `sample_size`.
    """

    def geometry(configs: PartConfigs) -> Geometry:
        vae, network = configs.get("vae", {}), configs.get(component, {})
        blocks = next((vae[key] for key in _BLOCKS if key in vae), None)
        channels = vae.get("latent_channels", vae.get("z_dim"))
        size = network.get("sample_size", native_cells)
        scale = 2 ** (len(blocks) - 1) if isinstance(blocks, list | tuple) and blocks else None
        native = size * scale if whole(size) and scale is not None else None
        cells = network.get("patch_size") if cells_per_token is None else cells_per_token
        return Geometry(channels if whole(channels) else None, scale, cells if whole(cells) else 2, native)

    return geometry


def width_of(configs: PartConfigs, part: str, *names: str, usual: int) -> int:
    """The first of the named whole numbers in a part's config; `usual` where there is none."""
    found = (configs.get(part, {}).get(name) for name in names)
    return next((value for value in found if whole(value)), usual)


def whole(value: Any) -> TypeGuard[int]:
    """Is it a positive whole number?"""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
