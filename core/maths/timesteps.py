"""Which noise levels training sees: one time per row, drawn from the run's own "t" stream.

Rectified flow: a time in (0, 1), uniform, logit-normal or by mode, then bent by the schedule's shift (all as in Esser et
al., arXiv 2403.03206, sections 3.1 and 5.3.2). Variance preserving: uniform is the integer timestep of Ho et al. (arXiv
2006.11239, algorithm 1), which is what such checkpoints were trained on; the others are continuous over the same range.

`logit_mean` has the paper's sign: above 0 = noisier. diffusers' scripts for SD 3 and FLUX take the drawn number as a place
in a table that runs from noise to clean, so there above 0 = cleaner; `core/foreign/diffusers_scripts.py` turns it on import. The
density of mode is the same both ways.
"""

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor

from .grid import shifted

if TYPE_CHECKING:
    from ..config import TrainingConfig

FLOW_EDGE = 1e-4
"""Flow times stay this far from 0 and 1: at 0 there is nothing to learn, at 1 a sampler's first step is no less well
served.
"""


def by_mode(u: Tensor, scale: float) -> Tensor:
    """Uniform numbers in 0..1 to times of which middle ones are more frequent (scale > 0) or rarer (arXiv 2403.03206, eq. 20)."""
    return 1 - u - scale * (torch.cos(math.pi * u / 2).square() - 1 + u)


def sampling_kind(config: "TrainingConfig", is_flow: bool) -> Literal["uniform", "logit_normal", "mode"]:
    """`timestep_sampling` with "auto" resolved: logit_normal for flow, uniform for variance preserving."""
    if config.timestep_sampling == "auto":
        return "logit_normal" if is_flow else "uniform"
    return config.timestep_sampling


def sample_times(
    config: "TrainingConfig",
    rows: int,
    generator: Generator,
    *,
    is_flow: bool,
    shift: float = 1.0,
    training_times: int = 1000,
) -> Tensor:
    """Draw (rows,) float32 times in core's coordinate: sigma in (0, 1) for flow, a timestep in [0, training_times - 1]
    otherwise.

    One draw per row in order, so that the first n of m rows are the same as n rows. `shift` is the flow schedule's
    (1.0: none).
    """
    kind = sampling_kind(config, is_flow)
    if kind == "logit_normal":
        normal = torch.stack([torch.randn((), generator=generator) for _ in range(rows)])
        t = torch.sigmoid(config.logit_mean + config.logit_std * normal)
    else:
        t = torch.rand(rows, generator=generator)
        t = by_mode(t, config.mode_scale) if kind == "mode" else t
    if is_flow:
        return shifted(t, shift).clamp(FLOW_EDGE, 1 - FLOW_EDGE)
    if kind == "uniform":
        return (t * training_times).floor().clamp(max=training_times - 1)
    return t * (training_times - 1)
