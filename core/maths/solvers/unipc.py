"""UniPC."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..grid import Values
from ..noise import Level, NoisePath
from .base import Course, Evaluate, Past, Solver, combined, lam


class UniPC(Solver):
    """Predictor-corrector in lam, data prediction, B2(h) = expm1 (2302.04867, section 3 and appendix). One call a step.

    The network sees the *predicted* state; its answer first corrects that state and then predicts the next one, so the corrector
    costs no call. The last state of a rollout is therefore predicted, not corrected. A row's first step is first order.
    `order` p takes p evaluations into the predictor and p + 1 into the corrector.
    """

    def factors(self, path: NoisePath, course: Course) -> Sequence[Values]:
        """Corrector: of the uncorrected state, the state before, p evaluations before (newest first), the new one; predictor: of the state,
        the new evaluation, p - 1 before."""
        here, there = (np.stack([each.alpha, each.sigma, lam(each)]) for each in (course.here, course.there))
        before, usable = course.earlier()
        back = [before]  # one step back, two ...
        for _ in range(self.order - 1):
            back.append(before[back[-1]])

        correct = np.zeros((self.order + 3, here.shape[1]))
        correct[0] = 1.0
        extrapolate = np.zeros((self.order + 1, here.shape[1]))
        # how many evaluations enter each; at the ends of the path, where lam is infinite, a single one
        corrects = np.minimum(usable, self.order)
        extrapolates = np.where(np.isfinite(there[2] - here[2]), np.minimum(usable + 1, self.order), 1)
        for order in range(1, self.order + 1):
            rows = np.flatnonzero(corrects == order)
            if len(rows):
                lams = [here[2, step[rows]] for step in back[1:order]] + [here[2, rows]]
                start, *evaluations, new = _weights(here[:, before[rows]], here[:, rows], lams)
                correct[0, rows], correct[1, rows], correct[-1, rows] = 0.0, start, new
                for column, weight in enumerate(evaluations, start=2):
                    correct[column, rows] = weight
            rows = np.flatnonzero(extrapolates == order)
            if len(rows):
                lams = [here[2, step[rows]] for step in back[: order - 1]]
                extrapolate[: order + 1, rows] = _weights(here[:, rows], there[:, rows], lams)
        return [*correct, *extrapolate]

    def step(
        self,
        predict: Evaluate,
        path: NoisePath,
        x: Tensor,
        stages: Sequence[Level],
        factors: Sequence[Tensor],
        past: Past | None,
    ) -> tuple[Tensor, Past]:
        x0_hat = predict(x, stages[0]).x0_hat
        correct, extrapolate = factors[: self.order + 3], factors[self.order + 3 :]
        older = past.x0_hats if past is not None else ()
        if past is not None:
            x = combined([*correct[: 2 + len(older)], correct[-1]], [x, past.x, *older, x0_hat])
        states = [x, x0_hat, *older][: self.order + 1]
        return combined(extrapolate[: len(states)], states), Past((x0_hat, *older)[: self.order], x)


def _weights(start: Values, end: Values, lams: list[Values]) -> list[Values]:
    """Weights (R,) of [the state at `start`, the evaluation there, the evaluations at `lams`] in the state at `end`; both are (3, R): alpha,
    sigma, lam.

    2302.04867 eq. 5 and 9 (data prediction): `x' = (sigma'/sigma) x - alpha' B (m0 + sum_i rho_i (m_i - m0) / r_i)` with
    `r_i = (lam_i - lam) / h`, `B = expm1(-h)`, and rho from `sum_i rho_i r_i^j = b_j`. With a single r the paper's rho is
    1/2 whatever B (its appendix on UniPC-2), which makes the second-order predictor DPM-Solver++ 2M.
    """
    (_, sigma_before, lam_before), (alpha, sigma, lam_there) = start, end
    h = lam_there - lam_before
    b = np.expm1(-h)
    ratios = [(each - lam_before) / h for each in lams]
    rhos: list[Values] = [0.5] * len(lams)
    if len(lams) > 1:
        phi, moments = b / -h - 1, []
        for j in range(1, len(lams) + 1):
            moments.append(phi * math.factorial(j) / b)
            phi = phi / -h - 1 / math.factorial(j + 1)
        powers = np.stack([np.stack(ratios, 1) ** j for j in range(len(lams))], 1)
        rhos = list(np.linalg.solve(powers, np.stack(moments, 1)[..., None])[..., 0].T)
    differences = [-alpha * b * rho / r for rho, r in zip(rhos, ratios, strict=True)]
    return [sigma / sigma_before, -alpha * b - sum(differences, np.zeros_like(h)), *differences]
