"""Train the demo's models from scratch on generated pictures; nothing is downloaded.

    python tools/train_demo.py autoencoder          # minutes; both models share it
    python tools/train_demo.py flow                 # about an hour on one CPU core
    python tools/train_demo.py epsilon              # the same again; may run beside it
    python tools/train_demo.py decoder              # the flow model's decoder goes on, with striped things
    python tools/train_demo.py spelling             # its text encoder learns to tell made-up words apart
    python tools/train_demo.py shipped              # puts both into the flow model's folder
    python tools/train_demo.py dreambooth           # the pictures of the new object
    python tools/train_demo.py measure flow         # the 200 held-out prompts, by the rule-based judge

Each training can be killed and restarted: it resumes from its last state (`--state`), and writes a loadable snapshot of its
averaged weights to `presets/demo/` every few minutes. Figures are appended to `docs/demo-training-log.jsonl`.
Runs with the same seed use the same pictures, captions, noise and times in the same order.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from demo_training.autoencoder import train_autoencoder
from demo_training.decoder import continue_decoder
from demo_training.denoiser import generate, train_denoiser
from demo_training.spelling import learn_to_spell
from demo_training.steps import log
from PIL import Image
from rollout_studio.core.demo import CLASS, DREAMBOOTH, EPSILON, FLOW, HELDOUT, world


def write_dreambooth(seed: int, held_out: int = 8, of_class: int = 60) -> None:
    """The five pictures of the new thing, `held_out` more in other scenes, and `of_class` scenes of the world, with their captions."""
    from rollout_studio.core.demo import things

    rng = np.random.default_rng(seed)
    others = [scene for scene in things.thing_scenes() if scene.size is not None and scene.place is not None]
    for folder, scenes in ((DREAMBOOTH, things.SHOWN), (HELDOUT, others[:held_out])):
        folder.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes, start=1):
            things.draw_thing(scene, rng).save(folder / f"thing-{number}.png", optimize=True)
            (folder / f"thing-{number}.txt").write_text(things.thing_caption(scene) + "\n", encoding="utf-8")
    write_post(np.random.default_rng(seed + 1))  # its own numbers: the others' pictures stay as they are
    CLASS.mkdir(parents=True, exist_ok=True)
    scenes = world.training_scenes()
    for number, index in enumerate(rng.choice(len(scenes), of_class, replace=False), start=1):
        world.draw(scenes[index], rng).save(CLASS / f"scene-{number:02d}.png", optimize=True)
        (CLASS / f"scene-{number:02d}.txt").write_text(world.caption(scenes[index]) + "\n", encoding="utf-8")


def write_post(rng: np.random.Generator) -> None:
    """Five pictures of the second thing, in the scenes of the first one's, with their captions."""
    from rollout_studio.core.demo import POST, things

    POST.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(things.SHOWN, start=1):
        things.draw_post(scene, rng).save(POST / f"post-{number}.png", optimize=True)
        text = things.thing_caption(scene, things.POST_TRIGGER)
        (POST / f"post-{number}.txt").write_text(text + "\n", encoding="utf-8")


def put_in_place(state_dir: Path) -> None:
    """The decoder (float16, as it is shipped) and the text encoder of `state_dir` replace those of the flow model; configs stay."""
    import shutil

    from diffusers import AutoencoderKL

    weights = "diffusion_pytorch_model.safetensors"
    AutoencoderKL.from_pretrained(state_dir / "decoder").half().save_pretrained(state_dir / "decoder-float16")
    shutil.copyfile(state_dir / "decoder-float16" / weights, FLOW / "vae" / weights)
    shutil.copyfile(state_dir / "spelling" / "model.safetensors", FLOW / "text_encoder" / "model.safetensors")


def contact_sheet(images: list[Image.Image], file: Path, *, columns: int = 8, scale: int = 2) -> None:
    """Pictures side by side, enlarged, as a PNG."""
    side = world.SIDE * scale + 4
    sheet = Image.new("RGB", (columns * side + 4, math.ceil(len(images) / columns) * side + 4), "white")
    for i, image in enumerate(images):
        large = image.resize((world.SIDE * scale,) * 2, Image.Resampling.LANCZOS)
        sheet.paste(large, (i % columns * side + 4, i // columns * side + 4))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True)


def measure(
    kind: str, number: int, sheet: Path | None, lora: Path | None, second: bool, guidance: float | None
) -> None:
    """Adherence of the shipped model on held-out prompts, by stock pipeline calls with their default settings, or with another `guidance`.

    With a LoRA loaded, the new thing is counted too; the sheet then shows all 64 pictures that were to show it. `second`: the second thing
    too, and how often one stands in place of the other; the sheet then shows 32 pictures of each in turn.
    """
    from diffusers import DiffusionPipeline
    from rollout_studio.core.demo import judge, things

    pipe = DiffusionPipeline.from_pretrained({"flow": FLOW, "epsilon": EPSILON}[kind])
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    of_thing = generate(pipe, things.thing_prompts(), guidance=guidance)
    placed = judge.adherence(of_thing, things.thing_scenes())
    log(what=f"the thing, {kind} {'base' if lora is None else 'with LoRA'}", prompts=len(of_thing), guidance=guidance,
        there=round(sum(map(judge.shows_thing, of_thing)) / len(of_thing), 3),
        **{name: round(placed[name], 3) for name in ("place", "background", "size")})  # fmt: skip
    if second:
        of_post = generate(pipe, things.thing_prompts(things.POST_TRIGGER), guidance=guidance)
        placed = judge.adherence(of_post, things.thing_scenes())
        log(what=f"the second thing, {kind} {'base' if lora is None else 'with LoRA'}", prompts=len(of_post),
            there=round(sum(judge.shows_thing(image, judge.SECOND) for image in of_post) / len(of_post), 3),
            first_in_its_place=round(sum(map(judge.shows_thing, of_post)) / len(of_post), 3),
            second_in_place_of_the_first=round(sum(judge.shows_thing(image, judge.SECOND) for image in of_thing) / len(of_thing), 3),
            **{name: round(placed[name], 3) for name in ("place", "background", "size")})  # fmt: skip
        of_thing = [image for pair in zip(of_thing[:32], of_post[:32], strict=True) for image in pair]
    scenes = world.held_out()[:number]
    started = time.monotonic()
    images = generate(pipe, [world.caption(scene) for scene in scenes], guidance=guidance)
    seconds = (time.monotonic() - started) / len(images)
    log(what=f"measure {kind}", prompts=len(scenes), guidance=guidance, seconds_per_picture=round(seconds, 2),
        **{name: round(value, 3) for name, value in judge.adherence(images, scenes).items()})  # fmt: skip
    if sheet is not None:
        contact_sheet(images[:32] if lora is None else of_thing, sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=["autoencoder", "flow", "epsilon", "decoder", "spelling", "shipped", "dreambooth", "measure"]
    )
    parser.add_argument("model", nargs="?", choices=["flow", "epsilon"], help="for `measure`")
    parser.add_argument("--steps", type=int, help="optimizer steps (autoencoder 5500, others 5500)")
    parser.add_argument("--batch", type=int, default=24, help="pictures per step of the denoisers")
    parser.add_argument("--rate", type=float, default=1.2e-3, help="peak learning rate of the denoisers")
    parser.add_argument("--pictures", type=int, default=16000, help="scenes drawn for the denoisers")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts for `measure`")
    parser.add_argument("--sheet", type=Path, help="where `measure` puts a contact sheet of the first 32 pictures")
    parser.add_argument("--lora", type=Path, help="`measure` with this LoRA; the sheet is of the new thing")
    parser.add_argument("--guidance", type=float, help="`measure` with this guidance in place of the pipeline's own")
    parser.add_argument("--second", action="store_true", help="`measure` the second thing too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--state", type=Path, default=Path("build/demo-training"), help="folder for resuming")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "autoencoder":
        train_autoencoder(5500 if args.steps is None else args.steps, args.state, args.seed)
    elif args.what == "dreambooth":
        write_dreambooth(args.seed)
    elif args.what == "decoder":
        continue_decoder(3000 if args.steps is None else args.steps, args.state, args.seed)
    elif args.what == "spelling":
        learn_to_spell(1200 if args.steps is None else args.steps, args.state, args.seed)
    elif args.what == "shipped":
        put_in_place(args.state)
    elif args.what == "measure":
        measure(args.model, args.prompts, args.sheet, args.lora, args.second, args.guidance)
    else:
        steps = 5500 if args.steps is None else args.steps
        train_denoiser(args.what, steps, args.state, args.seed, args.batch, args.rate, args.pictures)


if __name__ == "__main__":
    main()
