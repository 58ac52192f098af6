"""`rollout-studio sample`: pictures by a model, with or without trained weights."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config import config_from_flat, with_changes
from ...core.config.options import ConfigError, Fault
from ...core.platform_calls import use_all_cores
from ...core.runs.store import RunStore
from .answers import DONE, print_message
from .computing import empty_folder, only_with_run
from .flags import add_runs_dir
from .progress import Progress


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    sample = command("sample", _sample, "Draw pictures with a model, with or without a LoRA; writes PNGs.")
    sample.add_argument("--run", dest="run_name", metavar="RUN", help="the model and the weights of this run")
    sample.add_argument("--checkpoint", type=int, metavar="STEP", help="with --run: this checkpoint, not the last one")
    sample.add_argument("--model", metavar="M", help="demo-flow, demo-epsilon, a folder or a hub id")
    sample.add_argument("--lora", type=Path, metavar="FILE", help="a LoRA file in the diffusers layout")
    sample.add_argument(
        "--prompt", action="append", required=True, metavar="TEXT", help="what to draw; may be given again"
    )
    sample.add_argument("--negative-prompt", default="", metavar="TEXT")
    sample.add_argument("--steps", type=int, default=None, help="sampling steps (default: the run's, or 30)")
    sample.add_argument("--guidance", type=float, default=None, help="default: the run's, or the pipeline's own")
    sample.add_argument("--seed", type=int, default=42)
    sample.add_argument("--width", type=int, default=None, metavar="PX", help="default: the pipeline's own")
    sample.add_argument("--height", type=int, default=None, metavar="PX")
    sample.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    add_runs_dir(sample)


def _sample(given: argparse.Namespace) -> int:
    if (given.run_name is None) == (given.model is None):
        raise ConfigError([Fault("sample: name either --run RUN or --model M.")])
    run = None
    if given.run_name is not None:
        if given.lora is not None:
            raise ConfigError(
                [Fault(f"--lora {given.lora}: --run draws with the run's own weights; name the model with --model.")]
            )
        run = RunStore(given.runs_dir).get(given.run_name)
        config = config_from_flat(run.read_config())
    else:
        config = config_from_flat({"pretrained_model_name_or_path": given.model})
    only_with_run(given)
    if given.lora is not None:
        from ...core.adapters.lora_file import read_lora_header

        read_lora_header(given.lora)  # what its header shows is refused before seconds are spent on a model
    steps = config.validation.num_inference_steps if given.steps is None else given.steps
    guidance = config.validation.guidance if given.guidance is None else given.guidance
    with_changes(
        config,
        {"validation_num_inference_steps": steps, "validation_guidance": guidance, "validation_seed": given.seed},
    )
    out = empty_folder(given.out)

    from ...core.families import load_model  # what follows imports torch and diffusers: seconds

    height, width = given.height, given.width
    found = None
    if run is not None:
        from ...core.look.revisit import load_weights, open_checkpoint

        found = open_checkpoint(run, given.checkpoint)
    use_all_cores()
    model = load_model(config.model, for_training=False)
    if found is not None:
        load_weights(model, config, found)
        side = config.data.resolution // model.size_multiple * model.size_multiple
        height, width = side if height is None else height, side if width is None else width
    if given.lora is not None:
        print_message(f"{given.lora}: {_loaded(model, given.lora)}.")
    progress = Progress(sys.stderr)
    try:
        pictures = model.sample(
            given.prompt, steps=steps, guidance=guidance, negative_prompt=given.negative_prompt, seed=given.seed, height=height,
            width=width, on_picture=lambda done, total: progress.phase("samples", done, total),
        )  # fmt: skip
    finally:
        progress.close()
    out.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        path = out / f"{number:03d}.png"
        picture.save(path)
        print(path)
    return DONE


def _loaded(model: Any, lora: Path) -> Any:
    """What became of a LoRA file's tensors; new tokens that were trained with it come from the embedding file beside it."""
    from ...core.adapters.embedding_files import words_beside
    from ...core.adapters.loading import load_lora
    from ...core.adapters.text_encoders import put_tokens

    put_tokens(model, *words_beside(model, lora))
    return load_lora(model, lora, "given")
