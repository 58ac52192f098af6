"""Proof in a real ComfyUI server, on the CPU: `python tools/comfy_check.py PATH_TO_COMFYUI --python ITS_PYTHON`.

Makes a Stable Diffusion 1 checkpoint of random weights that is as narrow as ComfyUI recognises (320 channels, texts of width 768: 243
million weights, 0.5 GB on the disk), starts a server of its own with this checkout as a pack, and asks it over HTTP. PATH_TO_COMFYUI
is not written to. Packages that a CPU check does without (torchvision, torchaudio, spandrel) are stood in for where they are missing.
Some minutes on two idle cores (not measured: ten on shared ones); about 2 GB of memory.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[1]
NAME = "narrow-sd1.safetensors"
STAND_INS = """
import importlib.abc, importlib.machinery, importlib.util, sys, types
class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls
class StandIn(metaclass=Anything):
    def __init__(self, *given, **named): pass
    def __call__(self, *given, **named): return self
class Loader(importlib.abc.Loader):
    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__, module.__version__ = [], "0"
        def attribute(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return StandIn
        module.__getattr__ = attribute
        return module
    def exec_module(self, module): pass
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            return importlib.machinery.ModuleSpec(name, Loader(), is_package=True)
MISSING = {name for name in ("torchvision", "torchaudio", "spandrel", "spandrel_extra_arches") if importlib.util.find_spec(name) is None}
sys.meta_path.insert(0, Finder())
"""


def make_checkpoint(folder: Path) -> None:
    """The narrow model in both layouts: `folder`/diffusers, and `folder`/NAME as released files are."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    sys.path.insert(0, str(ROOT / "tests"))
    import original_layout
    from rollout_studio.core.families.single_file import clip_tokenizer
    from tiny import SD_BETAS, without_zeros

    torch.manual_seed(0)
    tokenizer = clip_tokenizer({"pad_token": "<|endoftext|>", "model_max_length": 77})
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            projection_dim=768, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 320), layers_per_block=1, cross_attention_dim=768, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512, scaling_factor=0.18215,
    )  # fmt: skip
    parts = {"text_encoder": text.eval(), "unet": without_zeros(unet), "vae": without_zeros(vae)}
    for part in parts.values():
        part.half()  # the same numbers in both layouts
    scheduler = PNDMScheduler(**SD_BETAS, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False)
    pipe = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "diffusers")
    tensors = original_layout.vae(vae.state_dict(), 4) | original_layout.unet(unet.state_dict(), 1)
    tensors |= original_layout.clip(text.state_dict(), "cond_stage_model.transformer.")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(folder / NAME))


class Server:
    """A ComfyUI of our own, asked over HTTP."""

    def __init__(self, comfyui: Path, python: str, base: Path, stand_ins: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = base / "server.log"
        environment = {**os.environ, "PYTHONPATH": str(stand_ins), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [
            python,
            "main.py",
            "--cpu",
            "--port",
            str(self.port),
            "--base-directory",
            str(base),
            "--disable-auto-launch",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=log, env=environment)
        for _ in range(240):
            with contextlib.suppress(OSError):
                self.version = self.get("/system_stats")["system"]["comfyui_version"]
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        raise SystemExit(f"ComfyUI did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def run(self, prompt: dict) -> dict:
        """The history of a prompt that ran, whether or not it succeeded."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/prompt",
            json.dumps({"prompt": prompt}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                id = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"refused: {error.read().decode()[:3000]}") from None
        while True:
            history = self.get(f"/history/{id}")
            if id in history:
                return history[id]
            if self.process.poll() is not None:
                raise SystemExit(f"ComfyUI ended:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def done(self, prompt: dict) -> dict:
        """The outputs of a prompt that must succeed."""
        history = self.run(prompt)
        if history["status"]["status_str"] != "success":
            raise SystemExit(json.dumps(history["status"], indent=1)[:4000])
        return history["outputs"]

    def cached(self, history: dict) -> list[str]:
        """Ids of the nodes that were not run again."""
        return next(data["nodes"] for kind, data in history["status"]["messages"] if kind == "execution_cached")

    def pixels(self, output: dict):
        """The first picture of a node, as an array."""
        from io import BytesIO

        import numpy
        from PIL import Image

        query = urllib.parse.urlencode(output["images"][0])
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/view?{query}", timeout=30) as answer:
            return numpy.asarray(Image.open(BytesIO(answer.read())).convert("RGB"), dtype=float)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def loaded(pictures: list[str], captions: str) -> dict:
    """Stock loaders, and their pictures as our dataset. Pictures of two sizes: a batch of two, and one by itself."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=NAME),
        **{f"load{i}": node("LoadImage", image=name) for i, name in enumerate(pictures)},
        "batch": node("ImageBatch", image1=["load0", 0], image2=["load1", 0]),
        "folder": node("RolloutStudioImagesToFolder", images=["batch", 0], images_b=["load2", 0], captions=captions),
        "data": node("RolloutStudioDreamBoothDataset", folder=["folder", 0], resolution=64),
    }  # fmt: skip


def measured(**more) -> dict:
    host = {"model": ["ckpt", 0], "clip": ["ckpt", 1], "vae": ["ckpt", 2], "dataset": ["data", 0]}
    return {
        "probe": node("RolloutStudioDriftProbe", offsets="1", num_images=1, fine_factor=2),
        "rollout": node("RolloutStudioScheduledSampling", grid_steps=4),
        "report": node("RolloutStudioComfyDriftReport", **{**host, **more}, rollout=["rollout", 0], drift=["probe", 0]),
    }


def drawn(model: list, clip: list) -> dict:
    """A picture by the stock sampler."""
    return {
        "text": node("CLIPTextEncode", text="a thing", clip=clip),
        "none": node("CLIPTextEncode", text="", clip=clip),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampled": node("KSampler", model=model, seed=1, steps=4, cfg=2.0, sampler_name="euler", scheduler="normal",
                        positive=["text", 0], negative=["none", 0], latent_image=["empty", 0], denoise=1.0),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["ckpt", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="check"),
    }  # fmt: skip


def check(claim: str, holds: bool, figure: str = "") -> None:
    print(f"{'ok  ' if holds else 'FAIL'} {claim}{': ' + figure if figure else ''}", flush=True)
    if not holds:
        raise SystemExit(1)


def prove_pictures(server: Server, work: Path, pictures: list[str]) -> dict:
    """Stock pictures as our dataset; returns the nodes that make it."""
    start = loaded(pictures, "a red thing\na blue thing\na thing")
    data = start | {"look": node("RolloutStudioDatasetPreview", dataset=["data", 0])}
    server.done(data)
    [folder] = (work / "base" / "output" / "rollout-studio" / "runs" / ".pictures").iterdir()
    names = sorted(path.name for path in folder.iterdir())
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]
    whole = len(names) == 6 and texts == ["a red thing", "a blue thing", "a thing"]
    check("stock pictures became a folder with captions", whole, ", ".join(names))
    again = server.run(data)
    check("the same pictures again run nothing", {"folder", "data", "look"} <= set(server.cached(again)))
    server.done(loaded(pictures, "one caption") | {"look": data["look"]})
    check("other captions are another folder", len(list(folder.parent.iterdir())) == 2)
    return start


def prove_measurements(server: Server, work: Path, start: dict) -> None:
    """Drift and rollout of a stock model."""
    import numpy

    out = server.done(start | measured())["report"]
    words = out["text"][0]
    check(
        "the drift of a stock model is measured",
        len(out["images"]) >= 2 and "drift" in words.lower(),
        words.replace("\n", " "),
    )
    short = {"rollout": node("RolloutStudioScheduledSampling", grid_steps=4)}
    preview = short | {
        "strip": node("RolloutStudioComfyRolloutPreview", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], dataset=["data", 0],
                      rollout=["rollout", 0], offset=1, schedule="normal"),
    }  # fmt: skip
    strip = server.pixels(server.done(start | preview)["strip"])
    check(
        "its rollout is shown as a filmstrip, along ComfyUI's own schedule",
        strip.std() > 1,
        f"{strip.shape[1]}x{strip.shape[0]} pixels",
    )
    own = short | {
        "own": node("RolloutStudioModel", pretrained_model_name_or_path=str(work / "diffusers"), base_model_precision="float32"),
        "strip": node("RolloutStudioRolloutPreview", model=["own", 0], dataset=["data", 0], rollout=["rollout", 0], offset=1),
    }  # fmt: skip
    ours = server.pixels(server.done(start | own)["strip"])
    preview["strip"]["inputs"]["schedule"] = "pipeline"
    theirs = server.pixels(server.done(start | preview)["strip"])
    difference = abs(ours - theirs).mean() if ours.shape == theirs.shape else numpy.inf
    check("on the pipeline's schedule it is the filmstrip of our own Model node on the same weights", difference < 0.5,
          f"mean difference {difference:.4f} of 255")  # fmt: skip
    edm = start | measured(model=["edm", 0]) | {
        "edm": node("ModelSamplingContinuousEDM", model=["ckpt", 0], sampling="edm", sigma_max=120.0, sigma_min=0.002)
    }  # fmt: skip
    failed = server.run(edm)
    message = next(
        data["exception_message"] for kind, data in failed["status"]["messages"] if kind == "execution_error"
    )
    check(
        "noise levels without a counterpart are refused in words", "has no counterpart here" in message, message.strip()
    )


def prove_lora(server: Server, work: Path, start: dict) -> None:
    """A LoRA that was trained here, on a stock model."""
    trained = start | {
        "own": node("RolloutStudioModel", pretrained_model_name_or_path=str(work / "diffusers"), base_model_precision="float32"),
        "lora": node("RolloutStudioLoRA", rank=4),
        "probe": measured()["probe"],
        "rate": node("RolloutStudioOptimizer", learning_rate=0.01),
        "short": node("RolloutStudioTrainingSettings", max_train_steps=4, checkpointing_steps=4),
        "train": node("RolloutStudioTrain", model=["own", 0], dataset=["data", 0], adapter=["lora", 0], optimizer=["rate", 0], settings=["short", 0],
                      drift=["probe", 0]),
        "bridge": node("RolloutStudioComfyLoRA", checkpoint=["train", 1], model=["ckpt", 0], clip=["ckpt", 1], name="check"),
    }  # fmt: skip
    history = server.done(trained | drawn(["bridge", 0], ["bridge", 1]))
    tuned, name = server.pixels(history["saved"]), history["bridge"]["text"][0]
    base = server.pixels(server.done({"ckpt": start["ckpt"], **drawn(["ckpt", 0], ["ckpt", 1])})["saved"])
    listed = server.get("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"][0]
    check("the LoRA is in LoraLoader's list", name in listed, name)
    stock = {
        "ckpt": start["ckpt"],
        "stock": node(
            "LoraLoader", model=["ckpt", 0], clip=["ckpt", 1], lora_name=name, strength_model=1.0, strength_clip=1.0
        ),
    }
    through = server.pixels(server.done(stock | drawn(["stock", 0], ["stock", 1]))["saved"])
    change = abs(through - base).mean()
    check("through the stock LoraLoader it changes the picture", change > 1, f"mean difference {change:.2f} of 255")
    check("our node changes it in the same way", bool((through == tuned).all()))
    header = server.get(f"/view_metadata/loras?filename={urllib.parse.quote(name)}")
    check(
        "its header has the training's settings",
        "ss_network_dim" in header and "ss_base_model_version" in header,
        ", ".join(sorted(header)[:6]),
    )
    both = server.done(start | stock | measured(model=["stock", 0], base=["ckpt", 0]))["report"]
    words = both["text"][0].replace("\n", " ")
    check(
        "a model with a LoRA is measured against the one without",
        "base" in words.lower() and "tuned" in words.lower(),
        words,
    )


def prove(server: Server, work: Path, pictures: list[str], only: str | None) -> None:
    print(f"ComfyUI {server.version}")
    there = set(server.get("/object_info"))
    check("the bridges are among its nodes", {"RolloutStudioComfyDriftReport", "RolloutStudioComfyLoRA"} <= there)
    start = prove_pictures(server, work, pictures)
    if only != "lora":
        prove_measurements(server, work, start)
    if only != "measure":
        prove_lora(server, work, start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, help="a checkout of ComfyUI")
    parser.add_argument("--python", default=sys.executable, help="a Python with its requirements and ours")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which is kept; else a temporary one")
    parser.add_argument(
        "--only", choices=("measure", "lora"), help="leave out the other half, and the comparison with diffusers"
    )
    given = parser.parse_args()
    work = Path(mkdtemp()) if given.keep is None else given.keep.resolve()
    base, stand_ins = work / "base", work / "stand-ins"
    shutil.rmtree(base, ignore_errors=True)
    for folder in ("models/checkpoints", "models/loras", "custom_nodes", "input", "output"):
        (base / folder).mkdir(parents=True)
    stand_ins.mkdir(parents=True, exist_ok=True)
    (stand_ins / "sitecustomize.py").write_text(STAND_INS, encoding="utf-8")
    if not (work / NAME).is_file():
        make_checkpoint(work)
    (base / "models" / "checkpoints" / NAME).symlink_to(work / NAME)
    (base / "custom_nodes" / "rollout-studio").symlink_to(ROOT)
    if given.only is None:
        command = [
            given.python,
            str(ROOT / "tools" / "comfy_compare.py"),
            str(given.comfyui.resolve()),
            str(work / "diffusers"),
            str(work / NAME),
        ]
        environment = {**os.environ, "PYTHONPATH": str(stand_ins), "HF_HUB_OFFLINE": "1"}
        compared = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        print(compared.stdout, end="", flush=True)
        if compared.returncode:
            raise SystemExit(1)
    from rollout_studio.core.demo import resolve

    found = sorted(Path(resolve("demo-dreambooth")).glob("*.png"))[:3]
    for path in found[:2]:
        shutil.copyfile(path, base / "input" / path.name)
    from PIL import Image

    with Image.open(found[2]) as image:
        image.resize((96, 64)).save(base / "input" / found[2].name)
    server = Server(given.comfyui.resolve(), given.python, base, stand_ins)
    try:
        prove(server, work, [path.name for path in found], given.only)
    finally:
        server.process.terminate()
        server.process.wait(30)
    if given.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
