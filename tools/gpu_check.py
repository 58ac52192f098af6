"""Train the large models at their real size with random weights, a few LoRA steps with rollout, and print memory and seconds as rows of a table.

    python tools/gpu_check.py --minutes 14                 # on a machine with a CUDA device: the rows that wait in docs/gpu-checks.md
    python tools/gpu_check.py --minutes 5 --tiny           # anywhere: the same with tiny networks, to see that the script works
    python tools/gpu_check.py --only sdxl --processes 2    # each row in two processes, on a GPU each; compare with --processes 1
    python tools/gpu_check.py --minutes 9 --only flux      # one of sdxl, sd35-medium, flux; may be given several times

Needs no network and no downloaded model. Each row is a process of its own; a row for which the time is not enough says so. Needs 30 GB of
disk for the largest model, which is deleted after its rows.
"""

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

HEAD = """| model | weights | size | parameters | steps | s/step, median | s/step, longest | rolled rows | peak MiB | estimate MiB | losses |
|---|---|---|---|---|---|---|---|---|---|---|"""

LEAST_SECONDS = 20
"""A row is not begun with less time left."""

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sdxl": ("UNet2DConditionModel", {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    }),
    "sd35-medium": ("SD3Transformer2DModel", {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
    }),
    "flux": ("FluxTransformer2DModel", {
        "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    }),
}  # fmt: skip
"""Preset -> the class of its network and the released model's config."""
TINY = {"sdxl": "sdxl", "sd35-medium": "sd3", "flux": "flux"}
"""Preset -> the builder of the small pipeline in tests/tiny.py, whose network, autoencoder and text encoders are replaced."""
WEIGHTS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "nf4": {"base_model_quantization": "nf4"},
    "int8": {"base_model_quantization": "int8", "gradient_checkpointing": True},
    "fp8": {"base_model_quantization": "fp8", "gradient_checkpointing": True},
    "streamed": {"streamed_blocks": -1, "gradient_checkpointing": True},
}
"""Name of a row's weights -> what is changed in the preset; -1: all blocks."""


@dataclass(frozen=True)
class Check:
    """What all rows share. `end`: on the clock of `time.monotonic`."""

    folder: Path
    tiny: bool
    steps: int
    end: float
    processes: int = 1

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


# Models with random weights -------------------------------------------------------------------------------------------


def build(name: str, folder: Path, tiny: bool) -> None:
    """Save a pipeline with random weights as a folder in the diffusers layout; its network is made on the GPU where there is one."""
    import diffusers
    import tiny as small
    import torch

    if tiny:
        small.build(TINY[name], folder)
        return
    small.TEXT_LENGTH = 77
    kind, config = NETWORKS[name]
    pipe = getattr(small, TINY[name])()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = getattr(diffusers, kind)(**config)
    parts = {"vae": _autoencoder(name), **_text_encoders(name, pipe), pipe_component(name): network}
    type(pipe)(**{**pipe.components, **parts}).save_pretrained(folder)


def pipe_component(name: str) -> str:
    return "unet" if NETWORKS[name][0].startswith("UNet") else "transformer"


def _autoencoder(name: str) -> Any:
    from diffusers import AutoencoderKL

    flow = {"latent_channels": 16, "shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False}
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=1024,
        scaling_factor=0.13,
        **({} if name == "sdxl" else flow),
    )


def _text_encoders(name: str, pipe: Any) -> dict[str, Any]:
    """Of the released widths and few layers: they are gone before the network is opened."""
    import tiny as small
    from transformers import T5Config, T5EncoderModel

    words = pipe.tokenizer
    first = {"text_encoder": small.clip_text(words, 768, projected=name == "sd35-medium")}
    if name != "flux":
        first["text_encoder_2"] = small.clip_text(words, 1280, projected=True)
    if name == "sdxl":
        return first
    slot = "text_encoder_2" if name == "flux" else "text_encoder_3"
    pieces = getattr(pipe, slot.replace("text_encoder", "tokenizer"))
    return first | {slot: T5EncoderModel(T5Config(vocab_size=len(pieces), d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=2)).eval()}  # fmt: skip


# Rows -----------------------------------------------------------------------------------------------------------------


def rows(name: str, weights: list[str], check: Check) -> Iterator[str]:
    """The table's rows of one model."""
    model = check.folder / name
    try:
        command = [sys.executable, __file__, "--build", name, str(model), *(["--tiny"] if check.tiny else [])]
        subprocess.run(command, check=True, timeout=max(1.0, check.left), stdout=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        yield f"| {name} | | | no time left to build it | | | | | | | |"
        return
    for each in weights:
        yield _row(name, each, model, check)
    shutil.rmtree(model)


def _row(name: str, weights: str, model: Path, check: Check) -> str:
    from rollout_studio.core.before.estimate import known_facts, memory_estimate
    from rollout_studio.core.families.blocks import blocks_of
    from rollout_studio.core.families.quantised import why_not
    from rollout_studio.core.runs.store import RunStore

    config = _config(name, weights, model, check)
    facts = known_facts(config.model)
    if config.model.streamed_blocks:
        config = _config(name, weights, model, check, len(blocks_of(facts.shapes)))
    memory = memory_estimate(config, facts)
    kind = config.model.base_model_quantization
    wrong = None if kind == "none" else why_not(kind, memory.device)
    parameters = sum(math.prod(shape) for shape in facts.shapes.values())
    begin = f"| {name} | {weights} | {config.data.resolution} px | {parameters / 1e9:.3g} B"
    if wrong is not None:
        return f"{begin} | not here: {wrong[0]} | | | | | | |"
    if check.left < LEAST_SECONDS:
        return f"{begin} | no time left | | | | | | |"
    run = RunStore(check.folder / "runs").create(config, f"{name}-{weights}")
    try:
        subprocess.run(
            [sys.executable, "-m", "rollout_studio.core.train.worker", str(run.path)],
            check=False,
            timeout=check.left,
            stdout=sys.stderr,
        )
    except subprocess.TimeoutExpired:
        print(f"{name} {weights}: stopped, the time was over", file=sys.stderr)
    events = run.events()[0]
    steps = [event for event in events if event["event"] == "step"]
    errors = [event["message"] for event in events if event["event"] == "error"]
    if not steps or errors:
        return f"{begin} | failed: {' '.join(errors) if errors else 'no step'} | | | | | | |"
    seconds = [event["seconds"] for event in steps[2:]] if len(steps) > 4 else [event["seconds"] for event in steps]
    finite = all(math.isfinite(event["loss"]) for event in steps)
    return (
        f"{begin} | {len(steps)} | {statistics.median(seconds):.3g} | {max(seconds):.3g} | {sum(event['rolled_rows'] for event in steps)} | "
        f"{max(event['memory_mib'] for event in steps):.0f} | {memory.total.likely / 2**20:.0f} | {'finite' if finite else 'NOT FINITE'} |"
    )


def _config(name: str, weights: str, model: Path, check: Check, blocks: int = 1) -> Any:
    from rollout_studio.core.config import load_preset, with_changes

    pictures = check.folder / "pictures"
    changes = {
        "pretrained_model_name_or_path": str(model), "instance_data_dir": str(pictures), "max_train_steps": check.steps, "device": "auto",
        "gradient_accumulation_steps": 1, "lr_warmup_steps": 0, "lr_scheduler": "constant", "checkpoint_step_interval": 0,
        "drift_holdout_images": 0, "drift_num_images": 1, "drift_offsets": [1], "drift_fine_factor": 2,
        "scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5,
        "data_cache_dir": str(check.folder / "cache" / name),
        **WEIGHTS[weights], **({"resolution": 32, "lora_rank": 4} if check.tiny else {}),
    }  # fmt: skip
    if check.processes > 1:  # two rows each, so that the global batch is the same for any of them that divides it
        changes |= {"num_processes": check.processes, "train_batch_size": 2 * check.processes}
    if changes.get("streamed_blocks"):
        changes["streamed_blocks"] = blocks
    return with_changes(load_preset(name), changes)


def _draw_pictures(folder: Path, side: int) -> None:
    from PIL import Image, ImageDraw

    folder.mkdir()
    for number in range(2):
        picture = Image.new("RGB", (side, side), (60 * number, 120, 200))
        ImageDraw.Draw(picture).ellipse((side // 4, side // 4, side // 2, side // 2), fill=(220, 40, 90 * number))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a disc", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=14.0, help="no row is begun or goes on after them")
    parser.add_argument("--only", action="append", choices=tuple(NETWORKS), help="models; all of them without it")
    parser.add_argument(
        "--weights",
        action="append",
        choices=tuple(WEIGHTS),
        help="how the weights are kept; bf16, nf4 and streamed without it",
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--processes", type=int, default=1, help="processes of each row, on a GPU each; with --tiny they share a CPU"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny networks, for a machine without a GPU")
    parser.add_argument("--build", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        build(given.build[0], Path(given.build[1]), given.tiny)
        return 0
    import torch

    if not given.tiny and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --tiny runs anywhere.")
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        check = Check(Path(place), given.tiny, given.steps, end, given.processes)
        _draw_pictures(check.folder / "pictures", 64 if given.tiny else 1024)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{device}, torch {torch.__version__}{', tiny networks' if given.tiny else ''}\n\n{HEAD}", flush=True)
        for name in NETWORKS if given.only is None else given.only:
            for row in rows(name, ["bf16", "nf4", "streamed"] if given.weights is None else given.weights, check):
                print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
