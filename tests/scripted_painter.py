"""A preview worker that draws grey squares at once, for tests of what is around it; a prompt with "wait" in it waits until it is cancelled."""

import sys
from pathlib import Path

from rollout_studio.app.parts.preview_client import PreviewClient
from rollout_studio.app.parts.watch import Watch

SCRIPT = """
import json, os, sys
from PIL import Image
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
    for number, prompt in enumerate(ask["prompts"]):
        for place, weights in enumerate(ask["checkpoints"]):
            file = f"{number}-{place}.png"
            Image.new("L", (16, 16), 40 * place).save(os.path.join(folder, file))
            label = weights if weights == "base" else weights["label"]
            pictures.append({"label": label, "kind": "base" if weights == "base" else "lora", "prompt": prompt, "seed": ask["seed"] + number, "file": file})
    result = {"what": ["samples"], "model": "demo-flow", "seed": ask["seed"], "steps": ask["steps"], "guidance": 4.0, "negative_prompt": "",
              "size": [16, 16], "pictures": pictures}
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
