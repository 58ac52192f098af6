"""A worker without torch, for tests of everything around a training: real files through the run store, in milliseconds.

`steps` reported one by one with a short wait, commands read between them; a checkpoint, samples, a drift report and a LoRA file at the end.
With the learning rate 9 it fails; with 0.5 it waits longer per step, so that a test can interrupt it, and like a real worker it needs a
moment to leave when it has been stopped.
"""

import json
import sys
import time
from pathlib import Path

from PIL import Image
from rollout_studio.core.look.drift.files import report_to_json
from rollout_studio.core.look.drift.report import Curve, DriftReport, Measure, Point
from rollout_studio.core.runs.folder import RunDir


def checkpoint(run, step):
    folder = run.checkpoints_path / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"step": step, "run": run.name}))


def curve(weights, scale):
    def point(sigma, offset, names):
        measures = {
            name: Measure(scale * sigma * (1 + offset), 0.01, (scale * sigma, scale * sigma * 1.1)) for name in names
        }
        return Point(t=sigma, alpha=1 - sigma, sigma=sigma, offset=offset, steps=float(offset), measures=measures)

    short = tuple(
        point(s, k, ("distance", "solver", "floor_model", "cos_clean", "cos_truth"))
        for s in (0.3, 0.5, 0.7)
        for k in (1, 3)
    )
    loss = tuple(point(s, 0, ("loss",)) for s in (0.3, 0.5, 0.7))
    return Curve(weights, weights, "held-out", 2, 2, 2, 2, short, (), loss, None, 10, 5)


def drift(run, step, scale):
    folder = run.drift_path / f"step-{step:06d}"
    folder.mkdir(parents=True)
    settings = {"sampler": "unipc", "grid": "inference", "grid_steps": 30}
    report = DriftReport(
        "demo-flow", "flow_matching", "rectified-flow", "p", settings, (curve("tuned", scale), curve("base", 1.0)), step
    )
    (folder / "report.json").write_text(report_to_json(report), encoding="utf-8")
    for name in ("curves", "filmstrip"):
        Image.new("RGB", (300, 80), (40, int(200 * scale), 120)).save(folder / f"{name}.png")


def main() -> None:
    run, resume = RunDir(Path(sys.argv[1])), "--resume" in sys.argv
    config = run.read_config()
    total, rate = config["max_train_steps"], config["learning_rate"]
    with run.lock():
        first = run.last_checkpoint() if resume else 0
        run.emit(
            "start", pid=1, device="cpu", config_hash="0", total_steps=total, resumed_from=first if resume else None
        )
        run.write_state(state="running", step=first)
        if rate == 9:
            run.emit("error", message="The loss is not a number.", remedy="Lower learning_rate.", traceback="...")
            run.write_state(state="failed", message="the loss is not a number")
            return
        for step in range(first + 1, total + 1):
            time.sleep(0.2 if rate == 0.5 else 0.001)
            run.emit("step", step=step, loss=1 / step, seconds=0.01, network_rows=2)
            if any(command.name == "stop-and-save" for command in run.take_commands()):
                checkpoint(run, step)
                run.emit("end", state="stopped", step=step)
                run.write_state(state="stopped", step=step)
                return
        checkpoint(run, total)
        samples = run.samples_path / f"step-{total:06d}"
        samples.mkdir(parents=True)
        for number in range(len(config["validation_prompts"])):
            Image.new("RGB", (64, 64), (10 + 40 * number, 90, 200)).save(samples / f"{number:02d}.png")
        drift(run, total, 0.9 if config["scheduled_sampling_max_step_offset"] == 0 else 0.8)
        run.lora_path.mkdir()
        header = json.dumps(
            {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"format": "pt"}}
        ).encode()
        header += b" " * (-len(header) % 8)
        (run.lora_path / f"{run.name}.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + b"\0\0\x80?"
        )
        run.emit("end", state="done", step=total)
        run.write_state(state="done", step=total)


if __name__ == "__main__":
    main()
    if RunDir(Path(sys.argv[1])).read_state()["state"] == "stopped":
        time.sleep(1.0)  # torch takes as long to unload; the run is still owned by this process
