"""A preview worker that measures nothing: real pictures and reports of the right shape, at once.

`python drift_worker.py` speaks the protocol of `core/look/preview/worker.py`; `write_answer` is what a running run would leave in its folder. A request
with seed 13 fails, one with seed 14 takes until it is cancelled, one with seed 16 stays half-way until then, and the curves of one with seed 15 come
when a folder above theirs holds a file `go`.
"""

import json
import sys
import time
from pathlib import Path

from PIL import Image

STEPS = (0, 2, 4)


def labels(record):
    """One for each rollout, as `core.look.preview.answer` calls them."""
    weights = [
        "base"
        if each == "base"
        else each.get("label", f"{Path(each['run']).name}, {'now' if 'live' in each else each.get('step')}")
        for each in record["checkpoints"]
    ]
    solvers = [f"{each['sampler']}{each.get('order', '')}" for each in record.get("samplers", [])]
    return (
        [f"{label}, {solver}" if len(weights) > 1 else solver for label in weights for solver in solvers]
        if solvers
        else weights
    )


def write_answer(folder, record, step=None):
    """Everything that an answer to `record` holds, in `folder`; returns the result, its files named as in the folder."""
    folder = Path(folder)
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    strips = []
    for number, label in enumerate(labels(record)):
        frames = []
        for at, walked in enumerate(STEPS):
            files = {}
            for row, color in (
                ("clean", (20, 120, 40 * at)),
                ("rolled", (200, 90, 40 * at)),
                ("heat", (60 * at, 0, number * 90)),
            ):
                files[row] = f"frames/{number}-{at:02d}-{row}.png"
                Image.new("RGB", (64, 64), color).save(folder / files[row])
            frames.append({"step": walked, "t": 0.6 - at / 5, "sigma": 0.6 - at / 5, "difference": at / 100, **files})
        Image.new("RGB", (64, 64), (1, 2, 3)).save(folder / "frames" / "truth.png")
        Image.new("RGB", (300, 100), (9, 9, number)).save(folder / f"filmstrip-{number}.png")
        strips.append({"label": label, "weights": "base" if label == "base" else "tuned", "caption": record["prompt"], "sampler": "unipc",
                       "filmstrip": f"filmstrip-{number}.png", "truth": "frames/truth.png", "scale": 0.4, "frames": frames})  # fmt: skip
    report = {"format": "rollout_studio.drift", "version": 1, "model": "demo-flow", "prediction_type": "flow_matching", "path": "", "probe": "p",
              "settings": {}, "step": step, "seconds": 1.0, "curves": [_curve(label) for label in labels(record)]}  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "report.csv").write_text("step,label\n")
    result = {
        "what": record["what"], "caption": record["prompt"], "picture": record["image"], "model": "demo-flow", "step": step, "target": record["target"],
        "walked": [{"steps": STEPS[-1], "source_sigma": 0.6, "source_t": 0.6, "target_sigma": 0.2, "target_t": 0.2}], "strips": strips,
        "numbers": {strip["label"]: {"distance": 0.287, "picture_difference": 0.038, "cos_clean": 0.9, "low_db": None} for strip in strips},
        "words": [f"{strip['label']}: strays." for strip in strips], "report": "report.json", "csv": "report.csv",
    }  # fmt: skip
    for kind in ("curves", "spectrum"):
        if kind in record["what"]:
            Image.new("RGB", (64, 64)).save(folder / f"{kind}.png")
            result[kind] = f"{kind}.png"
    (folder / "result.json").write_text(json.dumps(result))
    return result


def begun_strips(result):
    """The first filmstrip of an answer while it grows."""
    strips = result["strips"][:1]
    return {
        "strips": [{"label": each["label"], "columns": len(STEPS), "frames": _begun(each["frames"])} for each in strips]
    }


def _begun(frames):
    """Frames of a filmstrip of which only the first own picture is known."""
    rows = [
        ("step", "sigma", "clean", "rolled") if at == 0 else ("step", "sigma", "clean") for at in range(len(frames))
    ]
    return [{name: frame[name] for name in names} for names, frame in zip(rows, frames, strict=True)]


def _curve(label):
    def point(sigma, offset, **measures):
        measured = {name: {"value": value, "error": None, "values": [value]} for name, value in measures.items()}
        return {"t": sigma, "alpha": 1 - sigma, "sigma": sigma, "offset": offset, "steps": offset, "measures": measured}

    short = [point(sigma, 4, distance=sigma / 3, solver=sigma / 30, floor_model=sigma / 4) for sigma in (0.2, 0.5, 0.8)]
    spectrum = {"sigma": [0.8, 0.5], "log_snr": [-1, 0], "frequencies": [0.5, 1.0], "db": [[1.0, -2.0], [None, 4.0]]}
    return {"label": label, "weights": "base" if label == "base" else "tuned", "role": "held-out", "pictures": 1, "samples": 1, "fine_samples": 1,
            "trajectory_samples": 1, "short": short, "trajectory": [point(0.8, 0), point(0.5, 1)],
            "clean_loss": [point(sigma, 0, loss=sigma) for sigma in (0.2, 0.8)], "spectrum": spectrum, "network_rows": 1, "network_calls": 1}  # fmt: skip


def main():
    def say(**message):
        print(json.dumps(message), flush=True)

    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            say(id=message["cancel"], status="cancelled")
        elif "warm" in message:
            say(id=message["id"], status="done", result={})
        elif message["ask"]["seed"] == 13:
            say(id=message["id"], status="failed", message="No <luck>.", remedy="Take another seed.")
        else:
            say(id=message["id"], status="working", share=0.5, what="rollout: base")
            if message["ask"]["seed"] == 17 and "curves" in message["ask"]["what"]:  # one level of the curves is there
                whole = _curve("base")
                begun = {**whole, "short": whole["short"][:1], "clean_loss": [], "trajectory": [], "spectrum": None}
                say(id=message["id"], status="curves", result={"curves": [begun]})
            if message["ask"]["seed"] in (15, 17) and "curves" in message["ask"]["what"]:
                while not any((above / "go").exists() for above in Path(message["folder"]).parents):
                    time.sleep(0.01)
            if message["ask"]["seed"] == 16:  # the true path is there, and one picture of the own one
                result = write_answer(message["folder"], message["ask"])
                say(id=message["id"], status="growing", result=begun_strips(result))
            elif message["ask"]["seed"] != 14:
                say(id=message["id"], status="done", result=write_answer(message["folder"], message["ask"]))


if __name__ == "__main__":
    main()
