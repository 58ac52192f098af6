"""UniPC."""

import math

import torch
from torch import Tensor

from ..noise import Level, NoisePath
from .base import Evaluate, Past, Solver, after, combined


class UniPC(Solver):
    """Predictor-corrector in lam, data prediction, B2(h) = expm1 (2302.04867, section 3 and appendix). One call a step.

    The network sees the *predicted* state; its answer first corrects that state and then predicts the next one, so the corrector
    costs no call. The last state of a rollout is therefore predicted, not corrected. A row's first step is first order.
    `order` p takes p evaluations into the predictor and p + 1 into the corrector.
    """

    def step(
        self, predict: Evaluate, path: NoisePath, x: Tensor, here: Level, there: Level, past: Past | None = None
    ) -> tuple[Tensor, Past]:
        x0_hat = predict(x, here).x0_hat
        usable = past.steps if past is not None else torch.zeros(len(here), dtype=torch.long)
        older = list(past.x0_hats) if past is not None else []

        if past is not None and bool((usable > 0).any()):
            # Columns: the uncorrected state, the state before, the evaluations before (newest first), the new one.
            weights = torch.zeros(len(here), len(older) + 3, dtype=torch.float64)
            weights[:, 0] = 1.0
            for order in range(1, self.order + 1):
                rows = usable.clamp(max=self.order) == order
                if not bool(rows.any()):
                    continue
                lams = [lam[rows] for lam in past.lams[1:order]] + [here.lam[rows]]
                start, *evaluations, new = _weights(past.level[rows], here[rows], lams)
                weights[rows, 0] = 0.0
                weights[rows, 1] = start
                for column, weight in enumerate(evaluations, start=2):
                    weights[rows, column] = weight
                weights[rows, -1] = new
            x = combined(weights, [x, past.x, *older, x0_hat])

        # Columns: the state, the new evaluation, the ones before.
        weights = torch.zeros(len(here), len(older) + 2, dtype=torch.float64)
        orders = torch.where((there.lam - here.lam).isfinite(), (usable + 1).clamp(max=self.order), 1)
        for order in range(1, self.order + 1):
            rows = orders == order
            if not bool(rows.any()):
                continue
            lams = [lam[rows] for lam in (past.lams[: order - 1] if past is not None else ())]
            for column, weight in enumerate(_weights(here[rows], there[rows], lams)):
                weights[rows, column] = weight
        return combined(weights, [x, x0_hat, *older]), after(past, x0_hat, x, here, keep=self.order)


def _weights(start: Level, end: Level, lams: list[Tensor]) -> list[Tensor]:
    """Weights (R,) of [the state at `start`, the evaluation there, the evaluations at `lams`] in the state at `end`.

    2302.04867 eq. 5 and 9 (data prediction): `x' = (sigma'/sigma) x - alpha' B (m0 + sum_i rho_i (m_i - m0) / r_i)` with
    `r_i = (lam_i - lam) / h`, `B = expm1(-h)`, and rho from `sum_i rho_i r_i^j = b_j`. With a single r the paper's rho is
    1/2 whatever B (its appendix on UniPC-2), which makes the second-order predictor DPM-Solver++ 2M.
    """
    h = end.lam - start.lam
    b = torch.expm1(-h)
    ratios = [(lam - start.lam) / h for lam in lams]
    if len(lams) < 2:
        rhos = [torch.full_like(h, 0.5) for _ in lams]
    else:
        phi, moments = b / -h - 1, []
        for j in range(1, len(lams) + 1):
            moments.append(phi * math.factorial(j) / b)
            phi = phi / -h - 1 / math.factorial(j + 1)
        powers = torch.stack([torch.stack(ratios, 1) ** j for j in range(len(lams))], 1)
        rhos = list(torch.linalg.solve(powers, torch.stack(moments, 1)).T)
    differences = [-end.alpha * b * rho / r for rho, r in zip(rhos, ratios, strict=True)]
    own = -end.alpha * b - sum(differences, torch.zeros_like(h))
    return [end.sigma / start.sigma, own, *differences]
