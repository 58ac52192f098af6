"""What a step costs beside other ways to take it: `python benchmarks/rollout.py [--rounds N] [--network NAME] [--write]`.

One process, one network at a time, all ways on the same weights, LoRA, optimizer, pictures and (for rollouts) plans, in turns that change
from round to round. First it is proven that they do the same work: trainable parameters, network calls and rows, and equal step-0 losses
under the same noise. Then medians and quartiles of the ratios within a round. On a CPU the time is that of the process on one thread, so
that other programs on the machine move it little; on a GPU it is wall time around a synchronised step.

The peers are re-implementations of our own, as thin as their method allows:

    diffusers-style   the loop of a plain DreamBooth LoRA script with cached latents: noise, time, forward, loss, backward, clip, AdamW, `.item()`
    row at a time     a rollout as public implementations have it: one row after the other, each with batch 1, by Euler
    floor             nothing but the network: forward, backward, AdamW; for a rollout also its calls without gradient, of the same sizes
    arithmetic        the floor of a plain step + n times what a row costs in a full batch without gradient: (c + n) / c, c measured
"""

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

BATCH, OFFSET = 4, 10
NETWORKS = ("demo", "sd3", "sd1")
P = "scheduled_sampling_"


# Sessions ---------------------------------------------------------------------------------------------------------------


def large_pipeline(kind: str) -> Any:
    """A pipeline of the real class with a network of about 30 M parameters, drawn at random."""
    import diffusers
    import tiny
    import torch

    pipe = getattr(tiny, kind)()
    torch.manual_seed(3)
    if kind == "sd3":
        pipe.transformer = tiny.without_zeros(
            diffusers.SD3Transformer2DModel(
                sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=6, attention_head_dim=64, num_attention_heads=6,
                joint_attention_dim=32, caption_projection_dim=384, pooled_projection_dim=32, pos_embed_max_size=32, qk_norm="rms_norm",
            )
        )  # fmt: skip
    else:
        pipe.unet = tiny.without_zeros(
            diffusers.UNet2DConditionModel(
                sample_size=16, block_out_channels=(96, 192, 320), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            )
        )  # fmt: skip
    return pipe


def config_of(network: str, folder: Path, **changes: Any) -> Any:
    from rollout_studio.core.config import config_from_flat, load_preset, with_changes

    own = {
        "train_batch_size": BATCH, "max_train_steps": 1000, "seed": 7, "lora_rank": 16, "checkpoint_step_interval": 0,
        "with_prior_preservation": False, "use_ema": False, "drift_holdout_images": 0, "drift_data_dir": None, "drift_num_images": 1,
        "validation_prompts": [], "data_cache_dir": str(folder / f"cache-{network}"),
        f"{P}max_step_offset": 0, f"{P}ramp_steps": 0, f"{P}probability": 1.0, f"{P}prob_end": 0.5,
    }  # fmt: skip
    if network == "demo":
        return with_changes(load_preset("demo"), own | {"class_prompt": None} | changes)
    side = {"resolution": 64 if network != "nothing" else 32, "aspect_buckets": False}
    model = {
        "pretrained_model_name_or_path": str(folder / network),
        "instance_data_dir": str(folder / "pictures"),
        "lora_targets": ["to_q", "to_k", "to_v", "to_out.0"],
    }
    return config_from_flat(own | side | model | changes)


@contextlib.contextmanager
def opened(network: str, folder: Path) -> Iterator[Any]:
    """A session on the network, with nothing written down."""
    import tiny
    import tiny_run
    from rollout_studio.core.runs.folder import RunDir
    from rollout_studio.core.train.accelerator import opened_accelerator
    from rollout_studio.core.train.interrupt import Interrupt
    from rollout_studio.core.train.listening import Listener
    from rollout_studio.core.train.ranks import Ranks
    from rollout_studio.core.train.session import open_session
    from rollout_studio.core.train.status import SilentJournal, Status

    if not (folder / "pictures").exists():
        tiny_run.draw_pictures(folder / "pictures", 4)
    if network == "nothing":
        tiny.build("sd3", folder / network)
    elif network != "demo":
        large_pipeline(network).save_pretrained(folder / network)
    config, run = config_of(network, folder), RunDir(folder / f"run-{network}")
    status = Status(run, SilentJournal(run), Ranks())
    with opened_accelerator(config, run) as accelerator:
        session = open_session(config, accelerator, Listener(status, Interrupt()))
        session.free_what_training_does_not_need()
        if network == "nothing":
            do_nothing(session.model.denoiser)
        yield session


def do_nothing(network: Any) -> None:
    """The network answers its input, with a gradient for one of its trainable parameters."""
    weight = next(parameter for parameter in network.parameters() if parameter.requires_grad)
    network.forward = lambda hidden_states, **more: (hidden_states + weight.flatten()[0],)


class Calls:
    """Rows of every call of a network, and whether it kept what a gradient needs."""

    def __init__(self, network: Any) -> None:
        import torch

        self.seen: list[tuple[int, bool]] = []

        def count(module: Any, args: Any, kwargs: Any) -> None:
            first = args[0] if args else next(iter(kwargs.values()))
            self.seen.append((len(first), torch.is_grad_enabled()))

        self._hook = network.register_forward_pre_hook(count, with_kwargs=True)

    def taken(self) -> list[tuple[int, bool]]:
        self._hook.remove()
        return self.seen


# Ways to take a step ----------------------------------------------------------------------------------------------------


class Ways:
    """All ways to take a step on one session. A way is called with the step's number; it trains the session's LoRA."""

    def __init__(self, session: Any) -> None:
        self.session, self.model = session, session.model
        self._steppers: dict[str, Any] = {}
        self.flow = self.model.is_flow

    def ours(self, name: str, **changes: Any) -> Callable[[int], float]:
        """Our own step under changed options."""
        from rollout_studio.core.config import with_changes
        from rollout_studio.core.train.ranks import Ranks
        from rollout_studio.core.train.step import Stepper

        config = with_changes(self.session.config, changes)
        stepper = Stepper(dataclasses.replace(self.session, config=config), Ranks())
        self._steppers[name] = stepper
        return lambda step: stepper.take(step).tally.fields()["loss"]

    def drawn(self, name: str, step: int) -> tuple[Any, Any]:
        """(the batch, the draw) of our own step `name`: for those who are given the same."""
        from rollout_studio.core.train.window import draw_window

        stepper, data = self._steppers[name], self.session.data
        batch = data.batch(step)
        [draw] = draw_window(
            self.model, stepper.session.config, [batch.latents.shape[1:]], [batch.numbers], data.rows_per_step, step, stepper.grid
        )  # fmt: skip
        return batch, draw

    def ask(self, x: Any, t: Any, cond: Any) -> Any:
        """The network as its pipeline calls it."""
        model = self.model
        return model.forward(model.denoiser, x, model.network_time(t), cond)

    def update(self, loss: Any) -> float:
        """As a script ends its step."""
        import torch

        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.session.parameters, 1.0)
        self.session.optimizer.step()
        self.session.optimizer.zero_grad(set_to_none=True)
        return loss.detach().item()

    def diffusers_style(self, step: int, given: tuple[Any, Any] | None = None) -> float:
        """`given`: noise and sigma (or timestep), in place of drawing them."""
        import torch

        batch = self.session.data.batch(step)
        x0, (noise, t) = batch.latents, (None, None) if given is None else given
        if noise is None:
            noise = torch.randn_like(x0)
        if self.flow:
            if t is None:
                u = torch.sigmoid(torch.randn(len(x0))).to(x0.device)
                shift = self.model.training_shift(x0.shape[1:])
                t = shift * u / (1 + (shift - 1) * u)
            sigma = t.reshape(-1, 1, 1, 1)
            x, target = (1 - sigma) * x0 + sigma * noise, noise - x0
        else:
            if t is None:
                t = torch.randint(0, 1000, (len(x0),), device=x0.device)
            abar = self.model.pipe.scheduler.alphas_cumprod.to(x0.device)[t.long()].reshape(-1, 1, 1, 1)
            x, target = abar.sqrt() * x0 + (1 - abar).sqrt() * noise, noise
        output = self.ask(x, t.float(), batch.conditioning)
        return self.update((output.float() - target.float()).square().mean())

    def row_at_a_time(self, drawn: tuple[Any, Any], levels: list[list[tuple[float, float, float]]]) -> float:
        """`levels`: of each row (t, alpha, sigma) from its source to its target. ReflexFlow on flow models."""
        import torch

        batch, draw = drawn
        x0, noise, cond = batch.latents, draw.noise.to(batch.latents), batch.conditioning
        states, rolled = [], [row for row, way in enumerate(levels) if len(way) > 1]
        targets = torch.tensor([way[-1] for way in levels], device=x0.device)
        with torch.no_grad():
            for row, way in enumerate(levels):
                _, alpha, sigma = way[0]
                x = alpha * x0[row : row + 1] + sigma * noise[row : row + 1]
                one = cond.select(torch.tensor([row])) if len(way) > 1 else None
                for (t, alpha, sigma), (_, alpha_next, sigma_next) in itertools.pairwise(way):
                    output = self.ask(x, torch.tensor([t], device=x.device), one)
                    if self.flow:
                        x = x + (sigma_next - sigma) * output
                    else:
                        x = alpha_next * (x - sigma * output) / alpha + sigma_next * output
                states.append(x)
            x = torch.cat(states)
            if self.flow and rolled:
                t, alpha, sigma = targets[rolled].unbind(1)
                clean = alpha.reshape(-1, 1, 1, 1) * x0[rolled] + sigma.reshape(-1, 1, 1, 1) * noise[rolled]
                u_clean = self.ask(clean, t, cond.select(torch.tensor(rolled)))
        t, alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in targets.unbind(1))
        output = self.ask(x, targets[:, 0].contiguous(), cond).float()
        if self.flow:
            target, weight = noise - x0, torch.ones_like(x0)
            target[rolled] = ((x - x0) / sigma)[rolled]
            if not rolled:
                return self.update((output - target).square().flatten(1).mean(1).mean())
            bias = (u_clean - output[rolled]).detach()
            weight[rolled] = (1 + bias / bias.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)).clamp(min=0)
            beta1 = self.session.config.rollout.reflexflow_beta1
            rows = (weight * (output - target).square()).flatten(1).mean(1)
            away = torch.nn.functional.normalize((x - x0)[rolled].flatten(1), dim=1)
            drift = (torch.nn.functional.normalize(output[rolled].flatten(1), dim=1) - away).square().sum(1)
            return self.update(rows.index_add(0, torch.tensor(rolled, device=x.device), beta1 * drift).mean())
        target = noise.clone()
        target[rolled] = ((x - alpha * x0) / sigma)[rolled]
        bound = (5.0 / (alpha / sigma).square()).clamp(max=1).flatten()
        bound[[row for row in range(len(levels)) if row not in rolled]] = 1.0
        return self.update(((output - target).square().flatten(1).mean(1) * bound).mean())

    def floor(self, batch: Any, sizes: Sequence[int]) -> float:
        """Nothing but the network and the optimizer: calls without gradient of these sizes, one with it."""
        import torch

        x, t = (
            batch.latents,
            torch.full((len(batch.latents),), 0.5 * self.model.noise_path.t_max, device=batch.latents.device),
        )
        with torch.no_grad():
            for size in sizes:
                places = torch.arange(size) % len(x)
                self.ask(x[places], t[places], batch.conditioning.select(places))
        loss = self.ask(x, t, batch.conditioning).float().square().mean()
        loss.backward()
        self.session.optimizer.step()
        self.session.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def levels(self, draw: Any, grid: Any) -> list[list[tuple[float, float, float]]]:
        """Of each row what `row_at_a_time` is given."""
        path, plan, ways = self.model.noise_path, draw.plan, []
        for row in range(len(plan.k)):
            k = int(plan.k[row])
            times = [float(grid.time(float(plan.index[row]) - left)) for left in range(k, 0, -1)]
            way = [path.levels.at(time) for time in times]
            way.append(path.levels.at(float(plan.target.t[row])))
            ways.append([(float(each.t), float(each.alpha), float(each.sigma)) for each in way])
        return ways


# Proof ------------------------------------------------------------------------------------------------------------------


def prove(ways: Ways) -> str:
    """That all ways do the same work. Raises AssertionError where they do not."""
    import torch

    session = ways.session
    start = [parameter.detach().clone() for parameter in session.parameters]

    def afresh(act: Callable[[], float]) -> tuple[float, list[tuple[int, bool]]]:
        with torch.no_grad():
            for parameter, value in zip(session.parameters, start, strict=True):
                parameter.copy_(value)
        calls = Calls(ways.model.denoiser)
        return act(), calls.taken()

    rolled = {f"{P}max_step_offset": OFFSET, f"{P}sampler": "euler"}
    plain, euler = ways.ours("plain"), ways.ours("proof", **rolled)
    step = next(step for step in range(100) if int(ways.drawn("proof", step)[1].plan.k.max()) >= OFFSET - 2)
    batch, draw = ways.drawn("plain", step)
    t = draw.plan.t.to(batch.latents.device)
    told = [f"{sum(p.numel() for p in session.parameters):,} trainable parameters"]

    one, calls = afresh(lambda: plain(step))
    other, theirs = afresh(lambda: ways.diffusers_style(step, (draw.noise.to(batch.latents), t)))
    assert calls == theirs == [(BATCH, True)] and abs(one - other) <= 1e-4 * abs(one), (one, other, calls, theirs)
    told.append(f"plain step {one:.6f} and {other:.6f}")

    batch, draw = ways.drawn("proof", step)
    grid = ways._steppers["proof"].grid(tuple(batch.latents.shape[1:]))
    k = draw.plan.k.tolist()
    one, calls = afresh(lambda: euler(step))
    other, theirs = afresh(lambda: ways.row_at_a_time((batch, draw), ways.levels(draw, grid)))
    rows = sum(k) + ways.flow * sum(each > 0 for each in k) + BATCH
    assert sum(size for size, _ in calls) == sum(size for size, _ in theirs) == rows, (calls, theirs, k)
    assert len(calls) == max(k) + 1 and len(theirs) == sum(k) + ways.flow + 1, (calls, theirs, k)
    assert abs(one - other) <= 2e-4 * abs(one), (one, other)
    told.append(
        f"rollout of offsets {k} by Euler {one:.6f} and {other:.6f}, {rows} rows each, {len(calls)} and {len(theirs)} calls"
    )
    return "; ".join(told)


# Times ------------------------------------------------------------------------------------------------------------------


def clock(device: Any) -> Callable[[], float]:
    """Seconds: of the process on a CPU, of the wall on an accelerator that has done its work."""
    import torch

    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        (torch.cuda if device.type == "cuda" else torch.mps).synchronize()
        return time.perf_counter()

    return synchronised


def measured(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round; in `sizes` and `n` what the plans asked."""
    far = {f"{P}max_step_offset": OFFSET}
    gentle, strong = (
        {f"{P}max_step_offset": k, f"{P}probability": p, f"{P}reflexflow_beta1": 1.0} for k, p in ((2, 0.25), (4, 0.5))
    )
    ours = {
        "plain": ways.ours("plain"),
        "rollout": ways.ours("rollout", **far),
        "at most 1": ways.ours("at most 1", **far, **{f"{P}max_evaluations": 1}),
        "at most 3": ways.ours("at most 3", **far, **{f"{P}max_evaluations": 3}),
        "gentle": ways.ours("gentle", **gentle),
        "strong": ways.ours("strong", **strong),
        "gentle, exact share": ways.ours("gentle, exact share", **gentle, **{f"{P}exact_share": True}),
    }
    read = clock(ways.model.device)
    times: dict[str, list[float]] = {
        name: [] for name in (*ours, "diffusers-style", "floor", "floor of the plan", "arithmetic", "row at a time")
    }
    for step in range(-2, rounds):
        number = step + 2
        batch, draw = ways.drawn("rollout", number)
        grid = ways._steppers["rollout"].grid(tuple(batch.latents.shape[1:]))
        levels, k = ways.levels(draw, grid), draw.plan.k.tolist()
        rolled = sum(each > 0 for each in k)
        sizes = [sum(each >= left for each in k) for left in range(max(k), 0, -1)]
        if sizes and ways.flow:
            sizes[0] += rolled
        acts: dict[str, Callable[[], Any]] = {name: partial(act, number) for name, act in ours.items()}
        acts |= {
            "diffusers-style": partial(ways.diffusers_style, number),
            "floor": partial(ways.floor, batch, []),
            "floor of the plan": partial(ways.floor, batch, sizes),
            "arithmetic": partial(ways.floor, batch, [BATCH]),
            "row at a time": partial(ways.row_at_a_time, (batch, draw), levels),
        }
        order = list(acts)
        order = order[number % len(order) :] + order[: number % len(order)]
        found = {}
        for name in order:
            began = read()
            acts[name]()
            found[name] = read() - began
        # a full batch without gradient -> what n rows would take at that rate
        found["arithmetic"] = (
            found["floor"] + max(0.0, found["arithmetic"] - found["floor"]) * (sum(k) + ways.flow * rolled) / BATCH
        )
        if step >= 0:
            for name, seconds in found.items():
                times[name].append(seconds)
    return times


RATIOS = (
    ("plain step / diffusers-style loop", "plain", "diffusers-style", "<= 1.00 beyond the spread"),
    ("plain step / floor", "plain", "floor", "<= 1.05"),
    ("rollout / plain step", "rollout", "plain", ""),
    ("rollout / its calls alone (floor of the same sizes)", "rollout", "floor of the plan", "<= 1.03; demo <= 1.15"),
    ("rollout / (c + n) / c of the floor", "rollout", "arithmetic", "<= 1.03; demo <= 1.15"),
    ("rollout / row at a time", "rollout", "row at a time", "<= .90; demo <= .60"),
    ("at most 1 evaluation / row at a time", "at most 1", "row at a time", "<= .35"),
    ("at most 3 evaluations / row at a time", "at most 3", "row at a time", "<= .55"),
)
MEANS = (
    ("gentle, at full chance / plain step", "gentle", "plain", ""),
    ("gentle, exact share, at full chance / plain step", "gentle, exact share", "plain", ""),
    ("strong, at full chance / plain step", "strong", "plain", ""),
)
GENTLE_MEAN = 0.9
"""Of the full chance: a fifth of the run ramps up from 0."""


def lines(network: str, times: dict[str, list[float]]) -> Iterator[str]:
    """Rows of the table."""
    for title, above, below, bar in RATIOS:
        ratios = [a / b for a, b in zip(times[above], times[below], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        yield f"| {network} | {title} | {middle:.2f} | {low:.2f} to {high:.2f} | {bar} |"
    for title, above, below, bar in MEANS:
        ratio = statistics.fmean(times[above]) / statistics.fmean(times[below])
        yield f"| {network} | {title} | {ratio:.2f} | mean of {len(times[above])} steps | {bar} |"
        if above == "gentle":
            yield f"| {network} | gentle, mean over a run / plain step | {1 + GENTLE_MEAN * (ratio - 1):.2f} | from the row above | <= 1.10; demo <= 1.25 |"
    seconds = ", ".join(f"{name} {statistics.median(each):.3g}" for name, each in times.items())
    yield f"| {network} | median seconds of a step | | {seconds} | |"


def host_time(folder: Path, rounds: int) -> Iterator[str]:
    """What a step takes with a network that does nothing, in ms."""
    with opened("nothing", folder) as session:
        ways = Ways(session)
        ours = {"plain": ways.ours("plain"), "K = 10": ways.ours("K = 10", **{f"{P}max_step_offset": OFFSET})}
        read, found = clock(session.model.device), {name: [] for name in ours}
        steps = [step for step in range(200) if int(ways.drawn("K = 10", step)[1].plan.k.max()) >= OFFSET - 1]
        for step in (steps * rounds)[: 8 * rounds]:
            for name, act in ours.items():
                began = read()
                act(step)
                found[name].append(1e3 * (read() - began))
        for name, bar in (("plain", ""), ("K = 10", "<= 4 ms")):
            low, middle, high = statistics.quantiles(found[name][4:], n=4)
            yield f"| a network that does nothing | host time of a step, {name} | {middle:.1f} ms | {low:.1f} to {high:.1f} ms | {bar} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="steps of every way that count")
    parser.add_argument(
        "--network",
        action="append",
        choices=(*NETWORKS, "nothing"),
        help="which; all of them without it, and then host time too",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds: at least 2, for a median and quartiles.")
    import psutil
    import torch

    torch.set_num_threads(given.threads)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    settings = (
        f"`python benchmarks/rollout.py {' '.join(sys.argv[1:])}`, {datetime.date.today()}: {device}, {psutil.cpu_count()} cores, torch {torch.__version__}, "
        f"{given.threads} thread(s), batch {BATCH}, load average at the start {psutil.getloadavg()[0]:.1f}."
    )
    head = [
        settings,
        "",
        "| network | | median | quartiles | bar |",
        "|---|---|---|---|---|",
    ]
    table, proofs = [], []
    print("\n".join(head), flush=True)

    def tell(row: str) -> None:
        table.append(row)
        print(row, flush=True)

    with tempfile.TemporaryDirectory(prefix="rollout-benchmark-") as place:
        for network in given.network or NETWORKS:
            with opened(network, Path(place)) as session:
                ways = Ways(session)
                millions = sum(parameter.numel() for parameter in session.model.denoiser.parameters()) / 1e6
                proofs.append(f"- {network} ({millions:.1f} M parameters): {prove(ways)}.")
                print(proofs[-1], file=sys.stderr, flush=True)
                for row in lines(network, measured(ways, given.rounds)):
                    tell(row)
        if not given.network:
            for row in host_time(Path(place), given.rounds):
                tell(row)
    end = f"Load average at the end {psutil.getloadavg()[0]:.1f}. Equal work, proven first (losses of step 0 under the same noise; ours, then the peer):"
    print("\n".join(["", end, "", *proofs]))
    if given.write:
        title = (
            "# What a step costs: results\n\nHow it is measured: the head of `benchmarks/rollout.py`. Written by it.\n"
        )
        (ROOT / "benchmarks/RESULTS.md").write_text(
            "\n".join([title, *head, *table, "", end, "", *proofs, ""]), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
