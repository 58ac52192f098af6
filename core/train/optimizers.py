"""What changes the weights: the optimizer, its learning-rate schedule, and the moving average."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from ..config import TrainingConfig


@dataclass(frozen=True)
class OwnRate:
    """Parameters with a learning rate of their own, which follows the same schedule. `weight_decay` None: the run's."""

    parameters: Sequence[Tensor]
    rate: float
    weight_decay: float | None = None

    def group(self) -> dict[str, Any]:
        """For torch's optimizers."""
        decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return {"params": list(self.parameters), "lr": self.rate, **decay}


def make_optimizer(
    config: "TrainingConfig", parameters: Sequence[Tensor], own_rates: Sequence["OwnRate"] = ()
) -> Optimizer:
    """Build the optimizer that `config.optimizer` names. `own_rates`: the last of the parameters, in their order, with rates of their own.

    AdamW runs fused (3.5 to 4.6 times the speed of the plain loop on a CPU) where every parameter allows it. Prodigy
    finds its own rate: `learning_rate` multiplies it and should be 1.0. Adafactor is torch's: no first moment, and an
    update of `learning_rate` times the weights' own root mean square. Lion and CAME have their papers' betas.

    Raises:
        ValueError: nothing to train, or a package that is not installed.
    """
    given: Any = list(parameters)
    if not given:
        raise ValueError(
            "Nothing to train: no parameter requires a gradient. Check lora_targets against the model's layers."
        )
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in given)
    if own_rates:
        others = given[: len(given) - sum(len(each.parameters) for each in own_rates)]
        given = [{"params": others}, *(each.group() for each in own_rates)]
    betas = (config.adam_beta1, config.adam_beta2)
    rate, decay, epsilon = config.learning_rate, config.weight_decay, config.adam_epsilon
    if config.optimizer == "adamw":
        return torch.optim.AdamW(given, lr=rate, betas=betas, eps=epsilon, weight_decay=decay, fused=fused)
    if config.optimizer == "adamw_8bit":
        try:
            import bitsandbytes
        except ImportError as error:
            raise ValueError(
                "optimizer = adamw_8bit needs the package bitsandbytes, which is not installed: "
                "pip install bitsandbytes, or choose optimizer = adamw."
            ) from error
        return bitsandbytes.optim.AdamW8bit(given, lr=rate, betas=betas, eps=epsilon, weight_decay=decay)
    if config.optimizer == "prodigy":
        from prodigyopt import Prodigy

        # Its own advice for diffusion models: corrected bias, and warm-up steps that do not inflate the estimate.
        return Prodigy(
            given,
            lr=rate,
            betas=betas,
            eps=epsilon,
            weight_decay=decay,
            use_bias_correction=True,
            safeguard_warmup=config.lr_warmup_steps > 0,
        )
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(given, lr=rate, weight_decay=decay)
    return _of_collection(config.optimizer, given, rate, decay)


def _of_collection(name: str, parameters: Any, rate: float, decay: float) -> Optimizer:
    """Lion (arXiv 2302.06675) and CAME (arXiv 2307.02047), of the package pytorch-optimizer; weight decay is decoupled."""
    try:
        from pytorch_optimizer import CAME, Lion
    except ImportError as error:
        raise ValueError(
            f"optimizer = {name} needs the package pytorch-optimizer, which is not installed: "
            "pip install pytorch-optimizer, or choose optimizer = adamw."
        ) from error
    kinds: dict[str, type[Optimizer]] = {"lion": Lion, "came": CAME}
    if name not in kinds:
        raise ValueError(f"optimizer = {name}: must be adamw, adamw_8bit, prodigy, adafactor, lion or came.")
    return kinds[name](parameters, lr=rate, weight_decay=decay)


class Schedule:
    """The learning rate as a function of the optimizer step, so that a resumed run needs nothing but its step
    number.
    """

    def __init__(self, config: "TrainingConfig", optimizer: Optimizer) -> None:
        from diffusers.optimization import get_scheduler

        self._optimizer = optimizer
        self.factor = 1.0
        """What every rate is multiplied by: less than 1 after the run went back (`recovery`)."""
        self._scheduler = get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )

    def set(self, step: int) -> float:
        """Put the rate for optimizer step `step` (from 0) into the optimizer and return it."""
        for group, base, factor in zip(
            self._optimizer.param_groups, self._scheduler.base_lrs, self._scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(step) * self.factor
        return self._optimizer.param_groups[0]["lr"]


class Average:
    """Exponential moving average of parameters, in float32 (`use_ema`).

    The decay warms up as (1 + n) / (10 + n) for the n-th update, up to `decay`, so that early steps do not weigh for
    ever.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._held: list[Tensor] | None = None  # what is trained, while the average is in place
        self._parameters = list(parameters)
        self.values = [p.detach().float().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the parameters as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, [parameter.detach().float() for parameter in self._parameters], 1 - decay)

    def load(self, values: Sequence[Tensor], updates: int) -> None:
        """Take over a saved average; shapes must agree."""
        for mine, saved in zip(self.values, values, strict=True):
            mine.copy_(saved)
        self.updates = updates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold the average inside the block, and exactly what they held before after it, also after an
        error.
        """
        self._held = [p.detach().clone() for p in self._parameters]
        try:
            self._write(self.values)
            yield
        finally:
            self._write(self._held)
            self._held = None

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Inside the block the parameters hold what is trained, also in the middle of an `in_place` block; afterwards what they held."""
        if self._held is None:
            yield
            return
        self._write(self._held)
        try:
            yield
        finally:
            self._write(self.values)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
