"""How the trained weights are updated."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import LARGEST_SEED, Checked, Fault, option, shown


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """How long, how fast and with which optimizer."""

    title: ClassVar[str] = "Training"

    model_type: Literal["lora", "full"] = option(
        "lora",
        "Train a small adapter (lora), or every weight of the denoiser (full: far more memory, a whole model as the result).",
        label="What is trained",
    )
    optimizer: Literal["adamw", "adamw_8bit", "prodigy", "adafactor", "lion", "came"] = option(
        "adamw",
        "The update rule. adamw_8bit needs bitsandbytes and a CUDA device; prodigy finds its own rate (learning_rate 1); adafactor wants "
        "about 1e-2, lion a third to a tenth of adamw's rate; lion and came need pytorch-optimizer.",
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
    ] = option("constant", "How the learning rate goes over the run.", label="Learning rate over time")
    lr_warmup_steps: int = option(
        0, "The learning rate grows from 0 over this many steps.", label="Warm-up", unit="steps", ge=0, le=1_000_000, level="advanced",
    )  # fmt: skip
    max_train_steps: int = option(
        1000, "Length of the run in optimizer steps.", label="Training steps", unit="steps", ge=1, le=10_000_000
    )
    train_batch_size: int = option(
        1, "Instance rows that go through the network together.", label="Batch size", unit="rows", ge=1, le=1024
    )
    gradient_accumulation_steps: int = option(
        1,
        "Batches gathered before one update: a larger batch for the same memory.",
        unit="batches",
        ge=1,
        le=1024,
        level="advanced",
    )
    max_grad_norm: float = option(
        1.0,
        "Longer gradients are shortened to this norm; 0 = off.",
        label="Gradient clipping",
        ge=0,
        le=1e6,
        level="advanced",
    )
    gradient_checkpointing: bool = option(
        False,
        "Recompute instead of remember: much less memory, a step about a third to a half slower.",
        level="advanced",
    )
    compile: bool = option(
        False,
        "Have PyTorch compile the network's blocks: faster steps after a first one that takes minutes; worth it for long runs. Results "
        "differ in rounding. Needs a C++ compiler on a CPU, Triton and a C compiler on CUDA.",
        label="Compile the network",
        level="advanced",
        since="0.3",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "no", "Compute the network in 16 bits; bf16 where the device has it. The rolled-out state stays in 32 bits."
    )
    use_ema: bool = option(
        False,
        "Also keep a running mean of the trained weights, and save that.",
        label="Average the weights (EMA)",
        level="advanced",
    )
    ema_decay: float = option(
        0.995, "How slowly the running mean follows.", label="EMA decay", ge=0, le=0.999999, level="advanced"
    )
    seed: int = option(42, "Every random draw of the run follows from it.", ge=0, le=LARGEST_SEED)
    timestep_sampling: Literal["auto", "uniform", "logit_normal", "mode"] = option(
        "auto",
        "Which noise levels are trained; auto = logit_normal for flow models, uniform for the others. mode prefers middle levels and, "
        "unlike logit_normal, leaves none out.",
        label="Which noise levels are trained",
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    logit_mean: float = option(
        0.0,
        "Middle of logit_normal; above 0 = noisier, as in the paper. The sign is the opposite of diffusers' scripts for SD 3 and FLUX, "
        "where above 0 = cleaner; an import turns it.",
        label="Middle of the noise levels (logit)",
        ge=-10,
        le=10,
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    logit_std: float = option(
        1.0,
        "Width of logit_normal.",
        label="Width of the noise levels (logit)",
        ge=0.01,
        le=10,
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    mode_scale: float = option(
        1.29,
        "Strength of mode: above 0 more of the middle noise levels, below 0 more of both ends, 0 = uniform.",
        label="Strength of mode",
        ge=-1,
        le=1.75,
        source="SD 3 (arXiv 2403.03206), where it runs from -1 to 2 / (pi - 2)",
        level="advanced",
        since="0.2",
    )
    loss_weighting: Literal["none", "sigma_sqrt", "cosmap", "debiased", "noise_error"] = option(
        "none",
        "How much an error counts at a noise level: everywhere alike (none). Flow models: 1 / sigma^2 (sigma_sqrt), or more in the middle "
        "(cosmap). The others: noisier rows more (debiased), or the error of the noise whatever is predicted (noise_error, for v-prediction).",
        label="Weight by noise level",
        source="SD 3 (arXiv 2403.03206), as diffusers' DreamBooth scripts have it; debiased: arXiv 2310.08442",
        level="advanced",
        since="0.2",
    )
    precondition_outputs: bool = option(
        False,
        "Flow models: count the error of the picture that the output implies, not of the velocity (times sigma^2: cleaner rows count "
        "less). diffusers' DreamBooth script for SD 3 does so by default.",
        label="Count the picture's error, not the velocity's",
        source="EDM (arXiv 2206.00364), as diffusers' DreamBooth scripts have it",
        level="advanced",
        since="0.2",
    )
    flow_schedule_shift: float | None = option(
        None,
        "Flow models: shift of the noise schedule towards noise; unset = the checkpoint's.",
        label="Schedule shift",
        ge=0.01,
        le=100,
        source="SD 3 (arXiv 2403.03206)",
        level="advanced",
    )
    snr_gamma: float | None = option(
        None,
        "Min-SNR weighting of the loss, usually 5; unset = off.",
        label="Min-SNR gamma",
        ge=0.01,
        le=1000,
        source="Min-SNR (arXiv 2303.09556)",
        level="advanced",
    )
    loss_type: Literal["mse", "huber"] = option(
        "mse", "Distance to the target; huber forgives outliers.", label="Loss", level="advanced"
    )
    huber_delta: float = option(0.1, "Where huber turns from square to straight.", ge=1e-6, le=100, level="advanced")
    num_processes: int = option(
        1,
        "Processes that train the run together, each on a GPU of its own (with device cpu: on a share of the cores). They divide "
        "train_batch_size among them, so the run learns what it would learn in one process, in less time.",
        label="Processes (GPUs)",
        unit="processes",
        ge=1,
        le=64,
        level="advanced",
        since="0.3",
    )
    max_restarts: int = option(
        0,
        "Of several processes: how often all are started again, from the last checkpoint, after one of them was killed or crashed; 0 = "
        "the run ends there.",
        label="Restarts after a lost process",
        unit="restarts",
        ge=0,
        le=100,
        level="advanced",
        since="0.3",
    )
    shard_weights: bool = option(
        False,
        "Of several processes that train a whole model (full): each keeps a share of the weights, their gradients, moments and average, and "
        "gets a block's weights from the others while it computes (PyTorch's FSDP2). For models whose training does not fit one GPU; slower.",
        label="Divide the weights among the processes (FSDP)", level="advanced", since="0.4",
    )  # fmt: skip
    skip_broken_steps: int = option(
        3,
        "A step whose loss, rolled-out latents or gradient is not a finite number never reaches the weights. So many in a row are skipped; "
        "then the run goes back to its last good checkpoint, once, with half the learning rate, and ends if that does not help. 0 = it ends at "
        "the first.",
        label="Broken steps that are skipped", unit="steps in a row", ge=0, le=100, level="advanced", since="0.3",
    )  # fmt: skip
    split_on_out_of_memory: bool = option(
        True,
        "Where a batch does not fit into the memory, train it in two, four, ... parts from there on: the same rows, draws and gradient up to "
        "rounding, in more time. Off = the run ends.",
        label="Split a batch that does not fit", level="advanced", since="0.3",
    )  # fmt: skip
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = option(
        "none",
        "Also send the curves to a tracker, which must be installed; the page needs none.",
        label="Tracker",
        level="advanced",
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
        if self.num_processes > self.train_batch_size:
            yield Fault(
                f"num_processes = {self.num_processes}: they divide the {self.train_batch_size} rows of train_batch_size among them, and each "
                f"needs one; take train_batch_size {self.num_processes} or more, or fewer processes.",
                ("num_processes", "train_batch_size"),
            )
        if self.shard_weights:
            yield from _rules_of_shares(self)
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
        """The options that weigh the loss by noise level here, beside snr_gamma."""
        asked = {"loss_weighting": self.loss_weighting != "none", "precondition_outputs": self.precondition_outputs}
        return tuple(name for name, on in asked.items() if on)

    def not_for(self, *, is_flow: bool) -> tuple[str, ...]:
        """Those of them that are defined for the other kind of models alone."""
        elsewhere = (self.loss_weighting in OFF_THE_FLOW) == is_flow
        return tuple(name for name in self.weighs_by_noise if (elsewhere if name == "loss_weighting" else not is_flow))


DIVISIBLE = ("adamw", "lion")
"""Optimizers that treat every number by itself, so that they work on shares of the weights."""

OFF_THE_FLOW = ("debiased", "noise_error")
"""Values of `loss_weighting` for variance-preserving models alone; the others but "none" are for flow models alone."""


def _rules_of_shares(training: TrainingConfig) -> Iterator[Fault]:
    """What does not go with `shard_weights`."""
    wrong = {
        "model_type": (
            training.model_type == "full",
            "an adapter is small, and its frozen base is not divided; take full, or",
        ),
        "optimizer": (
            training.optimizer in DIVISIBLE,
            f"it is not known to work on shares of the weights; take {' or '.join(DIVISIBLE)}, or",
        ),
        "compile": (not training.compile, "was not tried with shares of the weights; set it to false, or"),
        "mixed_precision": (
            training.mixed_precision != "fp16",
            "its loss scale was not tried with shares of the weights; take bf16 or no, or",
        ),
    }
    for name, (fits, why) in wrong.items():
        if not fits:
            yield Fault(
                f"{name} = {shown(getattr(training, name))}: with shard_weights = true {why} set shard_weights to false.",
                (name, "shard_weights"),
            )
