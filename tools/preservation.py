"""What the demo's flow model still draws after DreamBooth training, by what preserves it: nothing, class pictures, its own outputs.

    python tools/preservation.py                    # 9 runs of 150 steps, then their pictures: about 12 minutes of one core
    python tools/preservation.py --seeds 1 --steps 300 --prompts 200

Every run is the demo preset at equal steps with another seed; `pictures` are its 60 class pictures, `output` and
`caption` are `output_preservation_weight` with either `output_preservation_prompt`. The judge reads pictures of held-out prompts that the base knows (old), and of prompts that name the new
thing. Stock pipeline, `--sampling-steps`, the same noise for every run. What was measured is kept in `--out` and not measured again.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from demo_training.denoiser import generate
from rollout_studio.core.config import RunConfig, with_changes
from rollout_studio.core.config.presets import load_preset
from rollout_studio.core.demo import FLOW, judge, things, world
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"with_prior_preservation": False},
    "pictures": {"with_prior_preservation": True},
    "output": {
        "with_prior_preservation": False,
        "output_preservation_weight": 1.0,
        "output_preservation_prompt": "class",
    },
    "caption": {
        "with_prior_preservation": False,
        "output_preservation_weight": 1.0,
        "output_preservation_prompt": "caption",
    },
}
QUIET = {
    "validation_prompts": [], "checkpoint_step_interval": 0, "drift_data_dir": None, "drift_holdout_images": 0, "drift_num_images": 1,
    "drift_offsets": [1], "drift_fine_factor": 2,
}  # fmt: skip
"""Nothing between the steps."""


def config_of(kind: str, seed: int, given: argparse.Namespace) -> RunConfig:
    changes = {**QUIET, **KINDS[kind], "seed": seed, "max_train_steps": given.steps}
    if kind in ("output", "caption"):
        changes["output_preservation_weight"] = given.weight
        if given.class_prompt is not None:
            changes["class_prompt"] = given.class_prompt
    return with_changes(load_preset("demo"), changes)


def trained(kind: str, seed: int, given: argparse.Namespace) -> tuple[RunDir, float]:
    """The finished run, and CPU seconds of its steps."""
    run = RunStore(given.out / "runs").create(config_of(kind, seed, given), f"{kind}-{seed}")
    began = time.process_time()
    if train(run) != 0:
        raise SystemExit(f"{run.path}: did not train; its log says why.")
    return run, time.process_time() - began


def judged(lora: Path | None, given: argparse.Namespace) -> dict[str, float]:
    """Shares of pictures that the judge finds right: each attribute of the old prompts, and `thing`."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(FLOW)
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    scenes, prompts = world.held_out()[: given.prompts], things.thing_prompts()[: given.thing_prompts]
    old = generate(pipe, [world.caption(scene) for scene in scenes], given.sampling_steps)
    new = generate(pipe, prompts, given.sampling_steps)
    return {**judge.adherence(old, scenes), "thing": sum(map(judge.shows_thing, new)) / len(new)}


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    file = given.out / "measured.jsonl"
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    wanted = [("base", 0), *((kind, seed) for seed in given.seeds for kind in given.kinds)]
    for kind, seed in wanted:
        if any((each["kind"], each["seed"]) == (kind, seed) for each in found):
            continue
        lora, cpu_s = None, 0.0
        if kind != "base":
            run, cpu_s = trained(kind, seed, given)
            lora = next(run.path.glob("lora/*.safetensors"))
        shares = judged(lora, given)
        found.append({"kind": kind, "seed": seed, "train_cpu_s": round(cpu_s, 1), **shares})
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found[-1]) + "\n")
        print(found[-1], flush=True)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Means over the seeds with their range, one line for each kind."""
    names = ("shape", "all", "colour", "size", "place", "thing")
    lines = [f"| | {' | '.join(names)} | CPU s of training |", "|---" * (len(names) + 2) + "|"]
    for kind in ("base", *KINDS):
        of_kind = [each for each in found if each["kind"] == kind]
        if not of_kind:
            continue
        cells = []
        for name in names:
            values = [100 * each[name] for each in of_kind]
            spread = "" if len(values) == 1 else f" ({', '.join(f'{value:.0f}' for value in values)})"
            cells.append(f"{statistics.mean(values):.1f} %{spread}")
        lines.append(
            f"| {kind} | {' | '.join(cells)} | {statistics.mean(each['train_cpu_s'] for each in of_kind):.0f} |"
        )
    for kind in ("pictures", "output", "caption"):
        by_seed = {each["seed"]: each["shape"] for each in found if each["kind"] == kind}
        gains = [
            100 * (by_seed[e["seed"]] - e["shape"]) for e in found if e["kind"] == "plain" and e["seed"] in by_seed
        ]
        if len(gains) > 1:
            error = statistics.stdev(gains) / math.sqrt(len(gains))
            lines.append(
                f"\nOld shapes, {kind} less plain, by seed: {', '.join(f'{gain:+.1f}' for gain in gains)} points; mean {statistics.mean(gains):+.1f}, "
                f"standard error {error:.1f}."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--steps", type=int, default=150, help="training steps of every run")
    parser.add_argument("--weight", type=float, default=1.0, help="output_preservation_weight")
    parser.add_argument("--class-prompt", help='of output preservation; unset = that of the demo preset, "a shape"')
    parser.add_argument("--prompts", type=int, default=40, help="old prompts, at most 200")
    parser.add_argument("--thing-prompts", type=int, default=16, help="prompts that name the new thing, at most 64")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("build/preservation"), help="runs, and what was measured")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    print(table(measure(given)))


if __name__ == "__main__":
    main()
