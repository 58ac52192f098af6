"""A preview worker that draws grey squares at once, for tests of what is around it; a prompt with "wait" in it waits until it is cancelled."""

import sys
from pathlib import Path

from rollout_studio.app.parts.preview_client import PreviewClient
from rollout_studio.app.parts.watch import Watch

SCRIPT = """
import json, os, sys
from PIL import Image
from PIL.PngImagePlugin import PngInfo
held = {}
for line in sys.stdin:
    message = json.loads(line)
    say = lambda **more: print(json.dumps(more), flush=True)
    if "cancel" in message:
        say(id=message["cancel"], status="cancelled")
        continue
    ask, folder = message["ask"], message["folder"]
    os.makedirs(folder)
    pictures = []
    rows, cells = ask.get("strengths"), []
    for column, weights in enumerate(ask["checkpoints"]):
        cells += [(row, column, weights, strength) for row, strength in enumerate(rows or [None])]
    for number, prompt in enumerate(ask["prompts"]):
        for place, (row, column, weights, strength) in enumerate(cells):
            file = f"{number}-{place}.png"
            label, kind = weights if weights == "base" else weights["label"], "base" if weights == "base" else "lora" if "lora" in weights else "run"
            part = {"kind": kind, "strength": 1.0}
            if weights != "base":
                part["strength"] = weights["strength"] if strength is None else strength
                folder_of = weights.get("lora", weights.get("run")).replace(os.sep, "/").split("/")
                part |= {"file": folder_of[-1], "run": folder_of[-3]} if kind == "lora" else {"run": folder_of[-1], "step": weights.get("step")}
            about = {"prompt": prompt, "seed": ask["seed"] + number, "steps": ask["steps"], "guidance": 4.0, "negative_prompt": "", "size": [64, 64],
                     "model": "demo-flow", "weights": label, "drawn_with": [part]}
            text = PngInfo()
            text.add_itxt("rollout_studio", json.dumps(about))
            Image.new("L", (16, 16), 40 * place).save(os.path.join(folder, file), pnginfo=text)
            where = {} if rows is None else {"row": row, "column": column}
            pictures.append({"label": label, "kind": kind, "prompt": prompt, "seed": ask["seed"] + number, "file": file, **where})
    result = {"what": ["samples"], "model": "demo-flow", "seed": ask["seed"], "steps": ask["steps"], "guidance": 4.0, "negative_prompt": "",
              "size": [16, 16], "pictures": pictures}
    if rows is not None:
        result["matrix"] = {"rows": rows, "columns": [each["label"] for each in ask["checkpoints"]], "prompts": ask["prompts"]}
    if any("wait" in prompt for prompt in ask["prompts"]):
        say(id=message["id"], status="working", share=0.5, what="base: picture 2 of 2")
        say(id=message["id"], status="part", result={**result, "pictures": pictures[:1]})
        continue
    json.dump(result, open(os.path.join(folder, "samples.json"), "w"))
    say(id=message["id"], status="done", result=result)
"""


def scripted_watch(runs_dir: Path, folder: Path) -> Watch:
    """A page's watch whose preview worker is the script, put into `folder`."""
    script = folder / "worker.py"
    script.write_text(SCRIPT, encoding="utf-8")
    watch = Watch(runs_dir)
    watch._preview_client = PreviewClient(watch.previews.folder / "drift", worker=[sys.executable, str(script)])
    return watch
