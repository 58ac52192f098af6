"""Measure the drift picture that stands on the Drift tab before the first click: `python tools/demo_drift.py` (half a minute on a CPU).

It is the page's own first request, answered by the preview worker's own code, and goes to `presets/demo/drift/` with that request.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image
from rollout_studio.app.drift.example import EXAMPLE
from rollout_studio.app.drift.lab import DriftLab
from rollout_studio.app.parts.watch import Watch
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.preview.answer import answer


def main() -> None:
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryDirectory() as made:
        watch, folder = Watch(runs), Path(made)
        with gr.Blocks():
            lab = DriftLab(watch)
        given = {component: component.value for component in lab.fields.components.values()}
        request = lab.record(given, lab.viewers.session(""))
        result = answer(
            Bench(),
            request,
            folder,
            report_progress=lambda share, what: None,
            part=lambda each: None,
            should_stop=lambda: False,
        )
        shutil.rmtree(EXAMPLE, ignore_errors=True)
        (EXAMPLE / "frames").mkdir(parents=True)
        for path in sorted((folder / "frames").glob("*.png")):
            Image.open(path).convert("RGB").save(EXAMPLE / "frames" / f"{path.stem}.webp", lossless=True)
        told = {
            "request": {**request, "image": Path(request["image"]).name},
            "result": {**result, "picture": Path(result["picture"]).name},
        }
        text = re.sub(r'"(frames/[^"]*)\.png"', r'"\1.webp"', json.dumps(told, indent=1, ensure_ascii=False))
        (EXAMPLE / "result.json").write_text(text + "\n", encoding="utf-8")
        watch.close()
    print(f"{EXAMPLE}: {sum(path.stat().st_size for path in EXAMPLE.rglob('*') if path.is_file()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
