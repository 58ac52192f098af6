"""What a run can be told: small frozen sections, one dataclass each, every option declared once. `flat.RunConfig` is the whole of them.

Nothing is ever changed in place. Pure Python: importing this costs milliseconds and no torch, because the page and the command line
start with it.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..families.registry import FAMILIES
from .options import Checked, Fault, option, shown

DEMO_PREDICTION_TYPES = {"demo-flow": "flow_matching", "demo-epsilon": "epsilon"}
"""What the built-in models predict; of other checkpoints only their folder knows."""
LARGEST_SEED = 2**53 - 1  # what a browser's number can hold exactly

_SCHEDULED = "Scheduled sampling (Bengio et al., arXiv 1506.03099)"
_REFLEXFLOW = "ReflexFlow (arXiv 2512.04904)"
_PERTURBATION = "Input perturbation (Ning et al., arXiv 2301.11706)"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """Which model is trained, and what it predicts."""

    model_family: Literal["auto", *FAMILIES] = option(  # type: ignore[valid-type]  # the folders that there are
        "auto",
        "Kind of model; auto reads it from the checkpoint. Naming another family than the checkpoint's is refused.",
    )
    pretrained_model_name_or_path: str = option(
        "demo-flow",
        "The model to start from: demo-flow or demo-epsilon (built in, no download), a folder in the diffusers layout, or a hub id.",
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub id; unset = its main branch.", level="advanced")
    variant: str | None = option(
        None, "File variant of the checkpoint, for example fp16; unset = the plain files.", level="advanced"
    )
    base_model_precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "Number format of the frozen weights in memory; the 16-bit formats halve it.", level="advanced"
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_matching"] | None = option(
        None,
        "What the network's output means; unset = what the checkpoint says, which is nearly always right.",
        level="advanced",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto",
        "Where to compute; auto takes cuda, then mps, then cpu. With several GPUs cuda:0, cuda:1, ... is one of them, and cuda the first; "
        "runs on different devices train at the same time.",
        level="advanced",
        numbered="cuda",
    )

    def rules(self) -> Iterator[Fault]:
        # Whether the checkpoint itself agrees is asked where it is opened: a file with only the keys of a rollout set-up names none.
        if self.prediction_type is None or self.model_family == "auto":
            return
        kinds = FAMILIES[self.model_family].predictions
        if self.prediction_type not in kinds:
            wanted = " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
            yield Fault(
                f"prediction_type = {shown(self.prediction_type)}: a {self.model_family} model takes {wanted}; "
                "leave prediction_type unset to follow the checkpoint.",
                ("prediction_type", "model_family"),
            )

    def known_prediction_type(self) -> str | None:
        """What the network predicts, as far as it is known without opening the checkpoint; None when only that can say."""
        if self.prediction_type is not None:
            return self.prediction_type
        if self.model_family != "auto":
            return "flow_matching" if FAMILIES[self.model_family].is_flow else None
        return DEMO_PREDICTION_TYPES.get(self.pretrained_model_name_or_path)

    def is_flow(self) -> bool | None:
        """Is it a flow model? None when only the checkpoint can say."""
        if self.model_family != "auto" and not FAMILIES[self.model_family].is_flow:
            return False
        known = self.known_prediction_type()
        return None if known is None else known == "flow_matching"


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """The pictures, their captions, and how they are prepared."""

    instance_data_dir: str | None = option(
        None,
        "Folder with the pictures of the thing to learn; demo-dreambooth is a set that comes along. Needed for training.",
    )
    instance_prompt: str | None = option(
        None,
        "Caption for every picture without one of its own, for example: a photo of zwx dog. Unset = each picture needs its own.",
    )
    trigger_word: str | None = option(
        None, "The rare word that will mean the new thing; recorded in the LoRA file. Unset = none is recorded."
    )
    caption_strategy: Literal["textfile", "instanceprompt", "filename"] = option(
        "textfile",
        "Where captions come from: a .txt file beside each picture (instance_prompt where it is missing), instance_prompt for all, "
        "or the file's name.",
    )
    class_prompt: str | None = option(
        None, "Caption of the class pictures, for example: a photo of a dog. Unset = none; prior preservation needs it."
    )
    class_data_dir: str | None = option(
        None,
        "Folder with class pictures, captioned by a .txt file beside them or else by class_prompt; missing ones are generated. "
        "Unset = a folder in the cache; demo-class comes along.",
        level="advanced",
    )
    with_prior_preservation: bool = option(
        False,
        "Train on pictures of the whole class too, so that the model does not forget it. Doubles the rows of a step.",
        source="DreamBooth (arXiv 2208.12242)",
    )
    prior_loss_weight: float = option(
        1.0,
        "Weight of the class rows in the loss.",
        ge=0,
        le=100,
        source="DreamBooth (arXiv 2208.12242)",
        level="advanced",
    )
    num_class_images: int = option(
        100, "Class pictures wanted; what the folder lacks is generated by the untrained model.", unit="pictures", ge=1, le=100_000,
        level="advanced",
    )  # fmt: skip
    class_sample_steps: int = option(
        20, "Sampling steps for each generated class picture.", unit="steps", ge=1, le=1000, level="advanced"
    )
    class_sample_guidance: float | None = option(
        None,
        "Guidance for generated class pictures; unset = the pipeline's own default.",
        ge=0,
        le=100,
        level="advanced",
    )
    repeats: int = option(
        1,
        "How often each instance picture comes in an epoch, relative to once.",
        unit="times",
        ge=1,
        le=10_000,
        level="advanced",
    )
    resolution: int = option(
        512,
        "Side of the square whose area every picture is scaled to; the demo models want 64.",
        unit="px",
        ge=32,
        le=4096,
    )
    aspect_buckets: bool = option(
        True, "Keep portraits and landscapes as they are, batched by shape; off = crop everything to a square."
    )
    bucket_step: int = option(
        64,
        "Sides of a bucket are multiples of this; at most a quarter of the resolution, in multiples of 16 px, is used.",
        unit="px",
        ge=8,
        le=512,
        level="advanced",
    )
    center_crop: bool = option(
        False, "Crop what is left over from the middle; off = from a place drawn once per picture.", level="advanced"
    )
    random_flip: bool = option(
        False, "Show each picture mirrored half of the time; not for things with a left and a right."
    )
    caption_dropout_probability: float = option(
        0.0, "Share of rows trained with an empty caption, which keeps guidance working.", ge=0, le=1
    )
    data_cache_dir: str | None = option(
        None,
        "Where prepared latents and text embeddings are kept; unset = a cache in the runs folder.",
        level="advanced",
    )

    def rules(self) -> Iterator[Fault]:
        if self.with_prior_preservation and self.class_prompt is None:
            yield Fault(
                "with_prior_preservation = true: needs class_prompt, the caption of the class pictures (for example: a photo of a dog).",
                ("class_prompt", "with_prior_preservation"),
            )
        if self.caption_strategy == "instanceprompt" and self.instance_prompt is None:
            yield Fault(
                'caption_strategy = "instanceprompt": needs instance_prompt, the caption for all pictures.',
                ("instance_prompt", "caption_strategy"),
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Checked):
    """The adapter that is trained instead of the whole model."""

    prefix: ClassVar[str] = "lora_"

    rank: int = option(
        16, "Capacity of the adapter; the file grows with it.", ge=1, le=1024, source="LoRA (arXiv 2106.09685)"
    )
    alpha: float | None = option(
        None,
        "Scale of the adapter is alpha / rank; unset = alpha equals rank, scale 1.",
        ge=1e-6,
        le=4096,
        level="advanced",
    )
    dropout: float = option(
        0.0, "Share of the adapter's inputs dropped while training.", ge=0, le=0.95, level="advanced"
    )
    targets: tuple[str, ...] = option(
        (), "Names (or ends of names) of the layers that get an adapter, for example to_q, to_k; empty = the family's own list.",
        level="advanced",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """How long, how fast and with which optimizer."""

    model_type: Literal["lora", "full"] = option(
        "lora",
        "Train a small adapter (lora), or every weight of the denoiser (full: far more memory, a whole model as the result).",
    )
    optimizer: Literal["adamw", "adamw_8bit", "prodigy", "adafactor"] = option(
        "adamw",
        "The update rule; adamw_8bit needs bitsandbytes and a CUDA device; prodigy finds its own rate (set learning_rate to 1).",
    )
    learning_rate: float = option(1e-4, "Size of an update. Higher learns faster and forgets faster.", ge=1e-9, le=10)
    adam_beta1: float = option(
        0.9, "Memory of the mean gradient (adamw, adamw_8bit, prodigy).", ge=0, le=0.9999, level="advanced"
    )
    adam_beta2: float = option(
        0.999, "Memory of the squared gradient (adamw, adamw_8bit, prodigy).", ge=0, le=0.999999, level="advanced"
    )
    adam_epsilon: float = option(
        1e-8, "Keeps the division stable (adamw, adamw_8bit, prodigy).", ge=1e-16, le=1, level="advanced"
    )
    weight_decay: float = option(1e-2, "Pull of the trained weights towards zero.", ge=0, le=10, level="advanced")
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = option("constant", "How the learning rate goes over the run.")
    lr_warmup_steps: int = option(
        0, "The learning rate grows from 0 over this many steps.", unit="steps", ge=0, le=1_000_000, level="advanced"
    )
    max_train_steps: int = option(1000, "Length of the run in optimizer steps.", unit="steps", ge=1, le=10_000_000)
    train_batch_size: int = option(1, "Instance rows that go through the network together.", unit="rows", ge=1, le=1024)
    gradient_accumulation_steps: int = option(
        1,
        "Batches gathered before one update: a larger batch for the same memory.",
        unit="batches",
        ge=1,
        le=1024,
        level="advanced",
    )
    max_grad_norm: float = option(
        1.0, "Longer gradients are shortened to this norm; 0 = off.", ge=0, le=1e6, level="advanced"
    )
    gradient_checkpointing: bool = option(
        False,
        "Recompute instead of remember: much less memory, a step about a third to a half slower.",
        level="advanced",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "no", "Compute the network in 16 bits; bf16 where the device has it. The rolled-out state stays in 32 bits."
    )
    use_ema: bool = option(False, "Also keep a running mean of the trained weights, and save that.", level="advanced")
    ema_decay: float = option(0.995, "How slowly the running mean follows.", ge=0, le=0.999999, level="advanced")
    seed: int = option(42, "Every random draw of the run follows from it.", ge=0, le=LARGEST_SEED)
    timestep_sampling: Literal["auto", "uniform", "logit_normal", "mode"] = option(
        "auto",
        "Which noise levels are trained; auto = logit_normal for flow models, uniform for the others. mode prefers middle levels and, "
        "unlike logit_normal, leaves none out.",
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    logit_mean: float = option(
        0.0,
        "Middle of logit_normal; above 0 = noisier, as in the paper. The sign is the opposite of diffusers' scripts for SD 3 and FLUX, "
        "where above 0 = cleaner; an import turns it.",
        ge=-10,
        le=10,
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    logit_std: float = option(
        1.0, "Width of logit_normal.", ge=0.01, le=10, source="SD 3 (arXiv 2403.03206)", level="advanced"
    )
    mode_scale: float = option(
        1.29,
        "Strength of mode: above 0 more of the middle noise levels, below 0 more of both ends, 0 = uniform.",
        ge=-1,
        le=1.75,
        source="SD 3 (arXiv 2403.03206), where it runs from -1 to 2 / (pi - 2)",
        level="advanced",
        since="0.2",
    )
    loss_weighting: Literal["none", "sigma_sqrt", "cosmap"] = option(
        "none",
        "Flow models: how much an error counts at a noise level: everywhere alike (none), 1 / sigma^2 (sigma_sqrt), or more in the "
        "middle (cosmap).",
        source="SD 3 (arXiv 2403.03206), as diffusers' DreamBooth scripts have it",
        level="advanced",
        since="0.2",
    )
    precondition_outputs: bool = option(
        False,
        "Flow models: count the error of the picture that the output implies, not of the velocity (times sigma^2: cleaner rows count "
        "less). diffusers' DreamBooth script for SD 3 does so by default.",
        source="EDM (arXiv 2206.00364), as diffusers' DreamBooth scripts have it",
        level="advanced",
        since="0.2",
    )
    flow_schedule_shift: float | None = option(
        None,
        "Flow models: shift of the noise schedule towards noise; unset = the checkpoint's.",
        ge=0.01,
        le=100,
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    snr_gamma: float | None = option(
        None,
        "Min-SNR weighting of the loss, usually 5; unset = off.",
        ge=0.01,
        le=1000,
        source="Min-SNR (arXiv 2303.09556)",
        level="advanced",
    )
    loss_type: Literal["mse", "huber"] = option(
        "mse", "Distance to the target; huber forgives outliers.", level="advanced"
    )
    huber_delta: float = option(0.1, "Where huber turns from square to straight.", ge=1e-6, le=100, level="advanced")
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = option(
        "none", "Also send the curves to a tracker, which must be installed; the page needs none.", level="advanced"
    )

    def rules(self) -> Iterator[Fault]:
        if self.lr_warmup_steps > self.max_train_steps:
            yield Fault(
                f"lr_warmup_steps = {self.lr_warmup_steps}: the run has only {self.max_train_steps} steps; "
                "take a shorter warm-up or more max_train_steps.",
                ("lr_warmup_steps", "max_train_steps"),
            )
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            yield Fault(
                f'lr_warmup_steps = {self.lr_warmup_steps}: lr_scheduler "constant" has no warm-up; take "constant_with_warmup".',
                ("lr_scheduler", "lr_warmup_steps"),
            )
        for name in self.weighs_by_noise:
            value = shown(getattr(self, name))
            if self.snr_gamma is not None:
                yield Fault(
                    f"{name} = {value}: snr_gamma = {shown(self.snr_gamma)} weighs the loss by noise level too; keep one of the two.",
                    (name, "snr_gamma"),
                )
            if name == "precondition_outputs" and self.loss_type != "mse":
                yield Fault(
                    f"{name} = {value}: turns a squared error of the velocity into one of the picture, and loss_type is "
                    f"{shown(self.loss_type)}; take mse, or leave {name} out.",
                    (name, "loss_type"),
                )

    @property
    def weighs_by_noise(self) -> tuple[str, ...]:
        """The options for flow models alone that weigh the loss by noise level here."""
        asked = {"loss_weighting": self.loss_weighting != "none", "precondition_outputs": self.precondition_outputs}
        return tuple(name for name, on in asked.items() if on)


def _third_of_the_grid(config) -> int:
    """Grid steps; on the training grid, of whose 1000 steps each is small and costs an evaluation, 50."""
    return math.ceil(config.rollout.grid_steps / 3) if config.rollout.grid == "inference" else 50


def _length_of_the_run(config) -> int:
    return config.training.max_train_steps


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(Checked):
    """Scheduled sampling: how often, how far and with which solver a row is rolled out; ReflexFlow on top for flow models."""

    prefix: ClassVar[str] = "scheduled_sampling_"

    max_step_offset: int = option(
        0,
        "Farthest start, in grid steps noisier than the target; each rolled row draws its own from 0 to this. 0 = off. "
        "Start with 1-3 on the inference grid, 5-10 on the training grid.",
        unit="grid steps",
        ge=0,
        le=1000,
        source=_SCHEDULED,
        soft=_third_of_the_grid,
    )
    probability: float = option(
        0.0, "Chance that a row is rolled out; used when ramp_steps is 0.", ge=0, le=1, source=_SCHEDULED
    )
    prob_start: float = option(
        0.0, "Chance at the start of the ramp; used when ramp_steps is above 0.", ge=0, le=1, source=_SCHEDULED
    )
    prob_end: float = option(
        0.5, "Chance at the end of the ramp; used when ramp_steps is above 0.", ge=0, le=1, source=_SCHEDULED
    )
    ramp_steps: int = option(
        0,
        "Over how many steps the chance goes from prob_start to prob_end; 0 = no ramp, probability holds.",
        unit="optimizer steps",
        ge=0,
        le=10_000_000,
        source=_SCHEDULED,
        soft=_length_of_the_run,
    )
    start_step: int = option(
        0, "First step at which the chance counts; before it: none, or prob_start with a ramp.", unit="optimizer steps", ge=0,
        le=10_000_000, level="advanced",
        soft=_length_of_the_run,
    )  # fmt: skip
    ramp_shape: Literal["linear", "cosine"] = option("linear", "How the chance goes along the ramp.", level="advanced")
    strategy: Literal["uniform", "biased_early", "biased_late"] = option(
        "uniform",
        "How offsets are drawn: evenly, mostly short (biased_early) or mostly long (biased_late).",
        level="advanced",
    )
    sampler: Literal["unipc", "euler", "dpm", "rk4"] = option(
        "unipc",
        "Solver of the rollout. From a single step away unipc, dpm and euler are the same; rk4 costs four evaluations a step.",
        source="UniPC (arXiv 2302.04867), DDIM (arXiv 2010.02502), DPM-Solver++ (arXiv 2211.01095)",
        level="advanced",
    )
    order: int = option(
        2, "Order of unipc (1 to 3) or dpm (1 to 2); euler and rk4 have none.", ge=1, le=3,
        source="UniPC (arXiv 2302.04867)", level="advanced",
    )  # fmt: skip
    grid: Literal["inference", "training"] = option(
        "inference",
        "What one step of offset is: a step of the schedule you sample with, or of the checkpoint's training table (1000 steps).",
        level="advanced",
    )
    grid_steps: int = option(
        30, "Steps of the inference grid.", unit="steps", ge=2, le=1000, level="advanced", soft=100
    )
    target: Literal["consistent", "original"] = option(
        "consistent",
        "What a rolled row learns: the output that leads from where it really is to the true picture (consistent), "
        "or the one of the pair it started from (original).",
        source="consistent: arXiv 2210.05147, DREAM (arXiv 2312.00210); original: SimpleTuner",
        level="advanced",
    )
    min_sigma: float = option(
        0.02,
        "Rows whose target carries less noise than this are not rolled out.",
        unit="sigma",
        ge=0,
        le=1,
        level="advanced",
    )
    snr_gamma: float = option(
        5.0,
        "Models on a variance-preserving path (Stable Diffusion) with the target consistent: an error in the picture of a rolled row "
        "counts at most as much as at this signal-to-noise ratio, so that the few cleanest rows do not carry the loss. Plain rows keep "
        "their weight. 0 = no bound.",
        ge=0,
        le=1000,
        source="Min-SNR (arXiv 2303.09556), here for rolled rows alone: ours",
        level="advanced",
        since="0.2",
        soft=20,
    )
    guidance: float = option(
        1.0, "Guidance inside the rollout; above 1 each evaluation costs two forwards.", ge=1, le=30,
        source="SOAR (arXiv 2604.12617)", level="advanced",
        soft=10,
    )  # fmt: skip
    control: Literal["none", "source_noise"] = option(
        "none",
        "For a fair comparison: source_noise walks nowhere, but trains the rows that would have been rolled out as plain rows at the "
        "noise level they would have started from. What it gains too did not come from the rollout.",
        level="advanced",
    )
    reflexflow: bool | None = option(
        None,
        "Flow models: correct the direction of the drift and weight the frequencies it damages. Unset = on for flow models when "
        "scheduled sampling is active; true on another model is refused.",
        source=_REFLEXFLOW,
    )
    reflexflow_alpha: float = option(
        1.0,
        "Strength of the frequency weight; 0 = weight 1 everywhere.",
        ge=0,
        le=100,
        source=_REFLEXFLOW,
        level="advanced",
        soft=5,
    )
    reflexflow_beta1: float = option(
        10.0, "Weight of the anti-drift term; 10 as published, 1 looked safer in our own trial.", ge=0, le=1000, source=_REFLEXFLOW,
        level="advanced",
        soft=20,
    )  # fmt: skip
    reflexflow_beta2: float = option(
        1.0,
        "Weight of the ordinary loss beside the anti-drift term.",
        ge=0,
        le=1000,
        source=_REFLEXFLOW,
        level="advanced",
        soft=5,
    )
    reflexflow_norm: Literal["max", "mean", "l2", "l1"] = option(
        "max",
        "What the frequency weight is divided by; l1 and l2 fade with the size of the picture until they do nothing.",
        source="l1: SimpleTuner; max, mean: ours",
        level="advanced",
    )
    reflexflow_mode: Literal["single-pass", "paper"] = option(
        "single-pass",
        "single-pass: one gradient pass, where the walk arrived. paper: the row learns at the noise level that it drew, takes one step of "
        "any length from there, and a second gradient pass corrects its direction; max_step_offset then only switches rollout on.",
        source=_REFLEXFLOW,
        level="advanced",
    )
    reflexflow_step_gradient: bool = option(
        False,
        "Mode paper: let the second pass also teach the prediction that made the step to it. Whether the authors do is told both ways.",
        source=_REFLEXFLOW,
        level="advanced",
        since="0.2",
    )

    @property
    def walks(self) -> bool:
        """Can any row of the run be rolled out? Not in a control: it plans the same rows, but trains them where they would start."""
        return self.active and self.control == "none"

    @property
    def active(self) -> bool:
        """Is any row of the run chosen for a rollout, walked or (in a control) only trained at its start?"""
        if self.max_step_offset == 0:
            return False
        return self.probability > 0 if self.ramp_steps == 0 else max(self.prob_start, self.prob_end) > 0

    def bounds_loss(self, prediction_type: str | None) -> bool:
        """Does `snr_gamma` act on the rolled rows of a model that predicts this? Only there the target grows as 1 / sigma without a
        limit that `min_sigma` sets: a flow's path goes down to 0, and `sample` has the picture itself as its target."""
        return self.target == "consistent" and self.snr_gamma > 0 and prediction_type in ("epsilon", "v_prediction")

    def probability_at(self, step: int) -> float:
        """The chance that a row is rolled out at an optimizer step (from 0), by the ramp alone; see `probability_at`."""
        return probability_at(self, step)

    def rules(self) -> Iterator[Fault]:
        default = {each.name: each.default for each in dataclasses.fields(type(self))}
        if self.reflexflow_mode == "paper":
            for name in ("sampler", "order", "target", "guidance"):
                if getattr(self, name) != default[name]:
                    yield Fault(
                        f'{self.prefix}{name} = {shown(getattr(self, name))}: reflexflow_mode "paper" takes one Euler step on the answer of '
                        f'its training pass, and its own target; leave {self.prefix}{name} at its default, or take reflexflow_mode "single-pass".',
                        (self.prefix + name, self.prefix + "reflexflow_mode"),
                    )
        elif self.sampler in ("euler", "rk4") and self.order != default["order"]:
            yield Fault(
                f"{self.prefix}order = {self.order}: {self.sampler} has no order to choose; leave it out, or take unipc or dpm.",
                (self.prefix + "order", self.prefix + "sampler"),
            )
        elif self.sampler == "dpm" and self.order > 2:
            yield Fault(
                f"{self.prefix}order = {self.order}: dpm has order 1 or 2; take one of these, or unipc.",
                (self.prefix + "order", self.prefix + "sampler"),
            )
        if self.target == "consistent" and self.min_sigma == 0:
            yield Fault(
                f"{self.prefix}min_sigma = 0: the consistent target grows as 1 / sigma, so the limit must be above 0 "
                '(the default is 0.02); or take target "original".',
                (self.prefix + "min_sigma", self.prefix + "target"),
            )


def probability_at(rollout: RolloutConfig, step: int) -> float:
    """The chance that a row is rolled out at an optimizer step.

    Without a ramp: `probability` from `start_step` on, 0 before. With one: `prob_start` until `start_step`, then linear or cosine to
    `prob_end` over `ramp_steps`. The ramp alone: a `max_step_offset` of 0 turns rollout off whatever this says (`rollout.active`).

    Args:
        step: optimizer step, counted from 0.

    Returns:
        0..1.
    """
    if rollout.ramp_steps == 0:
        return rollout.probability if step >= rollout.start_step else 0.0
    way = min(max((step - rollout.start_step) / rollout.ramp_steps, 0.0), 1.0)
    if way == 1.0:
        return rollout.prob_end  # exactly, without the rounding of the mix below
    if rollout.ramp_shape == "cosine":
        way = 0.5 - 0.5 * math.cos(math.pi * way)
    return rollout.prob_start + (rollout.prob_end - rollout.prob_start) * way


@dataclass(frozen=True, kw_only=True)
class InputPerturbationConfig(Checked):
    """Input perturbation: the input of a row is noisier than its target knows of, as the model's own states are when it samples."""

    prefix: ClassVar[str] = "input_perturbation_"

    gamma: float = option(
        0.0,
        "Extra noise on the input of every row, as a share of the noise that is there; the target stays that of the noise without it. "
        "Costs no time. 0 = off, 0.1 in the paper. Not together with scheduled sampling.",
        ge=0, le=1, source=_PERTURBATION, level="advanced", since="0.2",
    )  # fmt: skip
    control: Literal["none", "input_noise"] = option(
        "none",
        "For a fair comparison: input_noise perturbs nothing, but trains every row as a plain row at the noise level that its perturbed "
        "input would have had. What it gains too did not come from the mismatch.",
        level="advanced", since="0.2",
    )  # fmt: skip

    @property
    def active(self) -> bool:
        """Does any row train elsewhere than in plain training, perturbed or (in a control) at another level?"""
        return self.gamma > 0

    @property
    def perturbs(self) -> bool:
        """Is the input of any row perturbed? Not in a control."""
        return self.active and self.control == "none"


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Checked):
    """Sample pictures while training."""

    prefix: ClassVar[str] = "validation_"

    prompts: tuple[str, ...] = option(
        (), "Captions to draw at the start, every so often and at the end; one per line. Empty = none.", split="\n"
    )
    negative_prompt: str = option("", "What the samples should not show.", level="advanced")
    step_interval: int = option(
        250, "Samples every so many steps; 0 = only at the start and the end.", unit="steps", ge=0, le=10_000_000
    )
    num_inference_steps: int = option(
        30, "Sampling steps of each picture.", unit="steps", ge=1, le=1000, level="advanced"
    )
    guidance: float | None = option(
        None,
        "How strictly a sample follows its caption; unset = the pipeline's own default.",
        ge=0,
        le=100,
        level="advanced",
    )
    seed: int = option(
        42, "Starting noise of the samples; the same at every step.", ge=0, le=LARGEST_SEED, level="advanced"
    )


@dataclass(frozen=True, kw_only=True)
class DriftConfig(Checked):
    """Measure how far the model drifts on its own output, on pictures that it was not trained on."""

    prefix: ClassVar[str] = "drift_"

    step_interval: int = option(
        0,
        "A drift report every so many steps; 0 = only at the start, the end and when asked.",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    data_dir: str | None = option(
        None,
        "Pictures with captions to measure on; unset = some instance pictures, held out of the training.",
        level="advanced",
    )
    holdout_images: int = option(
        1,
        "Instance pictures kept out of the training for this when drift_data_dir is unset and there are at least three; 0 = none.",
        unit="pictures",
        ge=0,
        le=1000,
        level="advanced",
    )
    offsets: tuple[int, ...] = option(
        (1, 3, 5),
        "From how many grid steps away the rollouts start.",
        unit="grid steps",
        ge=1,
        le=1000,
        level="advanced",
    )
    num_images: int = option(8, "Most pictures to measure on.", unit="pictures", ge=1, le=1000, level="advanced")
    seed: int = option(42, "Noise of the measurement; the same at every step.", ge=0, le=LARGEST_SEED, level="advanced")
    fine_factor: int = option(
        4, "The reference rollout takes this many times finer steps, which tells solver error from model error.", unit="times",
        ge=2, le=32, level="advanced",
    )  # fmt: skip
    guidance: float = option(
        1.0, "Guidance inside the measured rollouts; above 1 doubles their cost.", ge=1, le=30, level="advanced"
    )

    def rules(self) -> Iterator[Fault]:
        if not self.offsets:
            yield Fault("drift_offsets = []: name at least one offset, for example 1, 3, 5.", ("drift_offsets",))


@dataclass(frozen=True, kw_only=True)
class SavingConfig(Checked):
    """Checkpoints, and the file that comes out."""

    checkpoint_step_interval: int = option(
        250, "A checkpoint to resume from every so many steps; 0 = only at the end.", unit="steps", ge=0, le=10_000_000
    )
    checkpoints_total_limit: int = option(
        3, "Checkpoints kept; older ones are removed after a newer one is safe.", unit="checkpoints", ge=1, le=10_000,
        level="advanced",
    )  # fmt: skip
    save_precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "Number format of the exported file.", level="advanced"
    )
