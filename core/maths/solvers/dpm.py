"""DPM-Solver++ multistep."""

import torch
from torch import Tensor

from ..noise import Level, NoisePath
from .base import Evaluate, Past, Solver, after, combined


class Dpm(Solver):
    """DPM-Solver++ 2M, midpoint form (2211.01095, algorithm 2). One call a step; order 1 is Euler in lam.

    The first step of a row is first order, and so is one that ends at clean data (h is infinite there).
    """

    def step(
        self, predict: Evaluate, path: NoisePath, x: Tensor, here: Level, there: Level, past: Past | None = None
    ) -> tuple[Tensor, Past]:
        x0_hat = predict(x, here).x0_hat
        h = there.lam - here.lam
        toward = -there.alpha * torch.expm1(-h)  # how much of the implied clean image enters
        weights = [there.sigma / here.sigma, toward]
        states = [x, x0_hat]
        if past is not None and self.order == 2:
            bends = (past.steps > 0) & h.isfinite()
            bend = torch.where(bends, toward * h / (2 * (here.lam - past.lams[0])), 0.0)
            weights = [weights[0], toward + bend, -bend]
            states.append(past.x0_hats[0])
        return combined(torch.stack(weights, 1), states), after(past, x0_hat, x, here, keep=1)
