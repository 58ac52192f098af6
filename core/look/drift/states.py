"""How two states at the same noise level differ: distance, direction, effective level, spread, spectrum.

Tensors in, one value a row out; no model and no settings. Source, with the papers of the
single measures: docs/mathematics.md, "Drift measures". Differs: the effective noise level and the effective
signal-to-noise ratio refer to the pair, and a
test shows on paper that an exact flow moves them too; they are reported as measures with a floor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...maths.noise import Level, NoisePath, Prediction, PredictionType, target_output


def t_at_share(path: NoisePath, share: float) -> float:
    """The path's t where `sigma / (alpha + sigma) = share`; the nearest there is where the path does not reach it."""
    low, high = 0.0, path.t_max
    for _ in range(60):  # sigma / alpha grows with t
        middle = (low + high) / 2
        level = path.at(torch.tensor([middle], dtype=torch.float64))
        if float(level.sigma / (level.alpha + level.sigma)) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def output_of(prediction: Prediction, level: Level, prediction_type: PredictionType) -> Tensor:
    """The network's canonical output again, from the pair that it implies."""
    return target_output(prediction.x0_hat, prediction.noise_hat, level, prediction_type)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per row, (R,) float64 on the CPU."""
    return (a.flatten(1) * b.flatten(1)).sum(1).cpu().double()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()


def effective_t(x: Tensor, x0: Tensor, noise: Tensor, path: NoisePath) -> Tensor:
    """The t whose state of the pair is nearest to x: `argmin_tau ||x - alpha(tau) x0 - sigma(tau) noise||`, (R,)
    float64, in 0..t_max.

    Exact for flow, where the square is a parabola in t; else to about 1e-4 of the path. Source: MixFlow (2512.19311).
    Has a floor.
    """
    taus = torch.linspace(0, path.t_max, 2001, dtype=torch.float64)
    level = path.at(taus)
    a, b, p, q, n = (dot(*pair)[:, None] for pair in ((x, x0), (x, noise), (x0, x0), (x0, noise), (noise, noise)))
    square = (
        level.alpha**2 * p
        + 2 * level.alpha * level.sigma * q
        + level.sigma**2 * n
        - 2 * (level.alpha * a + level.sigma * b)
    )
    at = square.argmin(1).clamp(1, len(taus) - 2)
    left, middle, right = (square.gather(1, (at + shift)[:, None])[:, 0] for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = torch.where(bend > 0, (left - right) / (2 * bend), 0.0).clamp(-1, 1)
    return taus[at] + shift * (taus[1] - taus[0])


def signal_to_noise_db(x: Tensor, x0: Tensor) -> Tensor:
    """Least squares `x = a x0 + rest`: 10 log10 of the powers' ratio, (R,). Source: DCW (2604.16044). Has a floor."""
    a = dot(x, x0) / dot(x0, x0)
    signal = a.square() * dot(x0, x0)
    return 10 * (signal / (dot(x, x) - signal).clamp_min(1e-12)).log10()


@dataclass(frozen=True)
class Rings:
    """Rings of spatial frequency of an (H, W) grid, and its three bands. The mean (frequency 0) belongs to none."""

    frequencies: Tensor  # (n,) share of the Nyquist frequency
    members: Tensor  # (n + 3, H * W): weights of each ring's and each band's mean; NaN where it is empty

    @classmethod
    def of(cls, height: int, width: int, number: int) -> "Rings":
        f = (
            torch.stack(torch.meshgrid(torch.fft.fftfreq(height), torch.fft.fftfreq(width), indexing="ij"))
            .norm(dim=0)
            .flatten()
            / 0.5
        )
        # what lies beyond Nyquist (the corners) counts with the last ring
        ring = (f * number).round().long().clamp(1, number)
        chosen = [(ring == i + 1) & (f > 0) for i in range(number)]
        chosen += [(f > 0) & (f < 1 / 3), (f >= 1 / 3) & (f < 2 / 3), f >= 2 / 3]
        members = torch.stack(chosen).double()
        return cls(torch.arange(1, number + 1, dtype=torch.float64) / number, members / members.sum(1, keepdim=True))

    def power(self, x: Tensor) -> Tensor:
        """Mean power per ring, then low, mid, high: (R, n + 3) float64; averaged over channels."""
        power = torch.fft.fft2(x.cpu().double(), norm="ortho").abs().square().mean(1).flatten(1)
        # an empty ring has weights 0 / 0: NaN in its own column only
        return torch.stack([power @ weights for weights in self.members], dim=1)


Row = dict[str, Tensor]  # name -> (R,) or (R, n) float64: what is kept of each sample at one level


def state_row(xr: Tensor, x_t: Tensor, x0: Tensor, noise: Tensor, level: Level, path: NoisePath, rings: Rings) -> Row:
    """How two states at the same level differ, without the network."""
    spread = {
        name: x.cpu().double().var((-2, -1), correction=0).mean(1)
        for name, x in (("var_rolled", xr), ("var_clean", x_t))
    }
    return {
        "distance": (dot(xr - x_t, xr - x_t) / dot(x_t, x_t)).sqrt(),
        "noise_shift": effective_t(xr, x0, noise, path) - level.t,
        "snr_shift_db": signal_to_noise_db(xr, x0) - signal_to_noise_db(x_t, x0),
        **spread,
        "power_rolled": rings.power(xr),
        "power_clean": rings.power(x_t),
    }


def output_row(rolled: Tensor, clean: Tensor, truth: Tensor) -> Row:
    """How the network's outputs at the two states differ; `truth`: the output at the rolled state that leads to the true
    picture."""
    return {
        "cos_clean": cosine(rolled, clean),
        "cos_truth": cosine(rolled, truth),
        "norm_rolled": dot(rolled, rolled),
        "norm_clean": dot(clean, clean),
    }
