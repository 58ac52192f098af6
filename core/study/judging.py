"""The demo's judge on the runs of a study: pictures for its prompts, by the weights that each run has left. Imports torch when it looks."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from .. import platform_calls
from ..config import config_from_flat
from ..runs.folder import RunDir
from .measures import JUDGED, judged_record
from .plan import Judging

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


def is_judged(run: RunDir, judging: Judging) -> bool:
    """Whether the judge has looked at the run's end in this way already."""
    record = judged_record(run)
    return record is not None and record["how"] == {**dataclasses.asdict(judging), "step": run.last_checkpoint()}


def judge_run(run: RunDir, judging: Judging, progress: Progress | None = None) -> dict[str, float]:
    """Draw and judge; the shares (0 to 1) are kept in the run's folder. The same prompts and noise for every run.

    Raises: CheckpointError, ModelError where the weights cannot be opened.
    Cost: `pictures` + `old_pictures` pictures of `steps` steps, about .7 s each on a core for the demo's models at 20 steps.
    """
    from ..demo import judge, things, world
    from ..families import load_model
    from ..look.revisit import load_weights, open_checkpoint

    config = config_from_flat(run.read_config())
    found = open_checkpoint(run)
    model = load_model(config.model, for_training=False)
    load_weights(model, config, found)
    new_scenes, old_scenes = things.thing_scenes()[: judging.pictures], world.held_out()[: judging.old_pictures]
    trigger = config.data.trigger_word if config.data.trigger_word is not None else things.TRIGGER
    prompts = [*(things.thing_caption(scene, trigger) for scene in new_scenes), *map(world.caption, old_scenes)]

    def on_picture(done: int, total: int) -> None:
        if progress is not None:
            progress("samples", done, total)

    pictures = model.sample(
        prompts, steps=judging.steps, guidance=config.validation.guidance, seed=0, on_picture=on_picture
    )
    new, old = pictures[: len(new_scenes)], pictures[len(new_scenes) :]
    seen, known = judge.adherence(new, new_scenes), judge.adherence(old, old_scenes)
    shares = {
        "thing": sum(map(judge.shows_thing, new)) / len(new),
        "background": seen["background"],
        "old_shape": known["shape"],
        "old_all": known["all"],
    }
    how: dict[str, Any] = {**dataclasses.asdict(judging), "step": found.step}
    text = json.dumps({"how": how, "shares": shares}, indent=1)
    platform_calls.write_atomically(run.path / JUDGED, f"{text}\n".encode())
    return shares
