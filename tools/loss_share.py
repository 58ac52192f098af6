"""The share of each noise level in the loss of rolled rows, without and with `scheduled_sampling_snr_gamma`, as a Markdown table.

    python tools/loss_share.py                          # level strong on Stable Diffusion 1.5's schedule, in closed form
    python tools/loss_share.py --level gentle --gamma 10 --spread 0.5
    python tools/loss_share.py --measure                # also on demo-epsilon, a real model on that schedule (a minute, needs torch)

Closed form: Gaussian data with standard deviation `--spread`, a model that is perfect on plain rows (`core/before/loss_share.py`). Measured:
`batch_loss` of the untrained model on pictures of the demo's picture set, one row for each training timestep.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from rollout_studio.core.before.loss_share import EDGES, bands, whole_step
from rollout_studio.core.config import RunConfig, config_from_flat, rollout_level

SD15 = {"pretrained_model_name_or_path": "stable-diffusion-v1-5/stable-diffusion-v1-5", "model_family": "sd1x"}
PREFIX = "scheduled_sampling_"
MEASURED = {"pretrained_model_name_or_path": "demo-epsilon", "resolution": 64}
_ROWS = 50  # that go through the network together


def table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Shares as percentages, a line for each band of noise."""
    lines = [f"| noise up to | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {name} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |" for name, shares in rows]
    return "\n".join(lines)


def closed_form(config: RunConfig, spread: float) -> str:
    found = bands(config, spread)
    half, always = whole_step(config, spread), whole_step(config, spread, chance=1.0)
    names = (
        "rows",
        "rolled rows: free",
        "bounded",
        "all rows: free",
        "bounded",
        "all rows, chance 1: free",
        "bounded",
        "plain training",
    )
    rows = [
        (f"sigma {band.sigma:.2f}", (band.rows, band.unbounded, band.bounded, half["unbounded"][i], half["bounded"][i],
                                     always["unbounded"][i], always["bounded"][i], half["plain training"][i]))
        for i, band in enumerate(found)
    ]  # fmt: skip
    return table(names, rows)


def measured(config: RunConfig) -> str:
    """The same shares of the rolled rows, and of the same rows without a rollout, in a real model's own losses."""
    import torch
    from PIL import Image
    from rollout_studio.core.demo import CLASS
    from rollout_studio.core.families import load_model
    from rollout_studio.core.maths.grid import Grid
    from rollout_studio.core.randomness import row_noise
    from rollout_studio.core.remedies import Batch, Ground, remedy_for
    from rollout_studio.core.train.losses import batch_loss

    model = load_model(config.model, for_training=False)
    files = sorted(CLASS.glob("*.png"))
    pictures = torch.stack(
        [torch.tensor(list(Image.open(file).convert("RGB").tobytes())).reshape(64, 64, 3) for file in files]
    )
    latents = model.encode_images(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1)
    prompts = model.encode_prompts([file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in files])
    grid = Grid(model.inference_times(config.rollout.grid_steps, tuple(latents.shape[1:])))
    always = replace(config, rollout=replace(config.rollout, ramp_steps=0, probability=1.0))
    kinds = {
        "free": replace(always, rollout=replace(always.rollout, snr_gamma=0.0)),
        "bounded": always,
        "plain": replace(always, rollout=replace(always.rollout, max_step_offset=0)),
    }
    losses: dict[str, list[torch.Tensor]] = {name: [] for name in kinds}
    rolled = []
    times = torch.arange(1000.0)
    for number, t in enumerate(times.split(_ROWS)):
        rows = [(number * _ROWS + i) % len(files) for i in range(len(t))]
        noise = row_noise((len(t), *latents.shape[1:]), seed=0, step=number)
        for name, kind in kinds.items():
            remedy = remedy_for(kind, Ground(model.noise_path, model.prediction_type, grid))
            plan = remedy.plan(t, step=number, seed=0)
            with torch.no_grad():
                found = batch_loss(
                    model,
                    kind,
                    remedy,
                    Batch(latents[rows], noise, model.collate([prompts[row] for row in rows])),
                    plan,
                )
            losses[name].append(found.parts.main)
            if name == "free":
                rolled.append(plan.rolled)
    is_rolled = torch.cat(rolled)
    ends = [0, *(round(edge * len(times)) for edge in EDGES)]
    shares = {}
    for name, parts in losses.items():
        of_rolled = torch.cat(parts) * (is_rolled if name != "plain" else 1.0)
        shares[name] = [float(of_rolled[begin:end].sum() / of_rolled.sum()) for begin, end in pairwise(ends)]
    rows = [
        (
            f"sigma {float(model.noise_path.at(times[end - 1 : end]).sigma):.2f}",
            (float(is_rolled[begin:end].sum() / is_rolled.sum()), *(shares[name][i] for name in kinds)),
        )
        for i, (begin, end) in enumerate(pairwise(ends))
    ]
    return table(("rolled rows", "rolled rows' loss: free", "bounded", "plain training"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", default="strong", choices=("gentle", "strong"))
    parser.add_argument("--gamma", type=float, default=5.0, help="the bound, scheduled_sampling_snr_gamma")
    parser.add_argument("--spread", type=float, nargs="*", default=[1.0, 0.5], help="standard deviation of the data")
    parser.add_argument("--prediction", default="epsilon", choices=("epsilon", "v_prediction"))
    parser.add_argument("--measure", action="store_true", help="also measure on demo-epsilon")
    given = parser.parse_args()
    wanted = {
        **rollout_level(given.level, 1000),
        PREFIX + "snr_gamma": given.gamma,
        "prediction_type": given.prediction,
    }
    for spread in given.spread:
        print(
            f"Level {given.level}, {given.prediction}, data of standard deviation {spread:g}, bound {given.gamma:g}:\n"
        )
        print(closed_form(config_from_flat({**SD15, **wanted}), spread), "\n")
    if given.measure:
        print(f"Measured on demo-epsilon, level {given.level}, every row chosen:\n")
        print(measured(config_from_flat({**MEASURED, **wanted, "prediction_type": "epsilon"})))


if __name__ == "__main__":
    main()
