"""The demo's judge on the runs of a study: pictures for its prompts, by the weights that each run has left. Imports torch when it looks."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
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


def judge_runs(
    judging: Judging,
    runs: Sequence[RunDir],
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Judge those that have not been judged in this way; `tell` is called with the name of each before. Raises and costs what `judge_run` does."""
    for run in runs:
        if not is_judged(run, judging):
            if tell is not None:
                tell(run.name)
            judge_run(run, judging, progress)


def judge_run(run: RunDir, judging: Judging, progress: Progress | None = None) -> dict[str, float]:
    """Draw and judge; shares (0 to 1) and the likeness (-2 to 2) are kept in the run's folder. The same prompts and noise for every run.

    Raises: CheckpointError, ModelError where the weights cannot be opened.
    Cost: `pictures` + `old_pictures` pictures in every way of sampling, about .7 s each on a core for the demo's models at 20 steps with guidance.
    """
    from ..demo import things, world
    from ..families import load_model
    from ..look.revisit import load_weights, open_checkpoint

    config = config_from_flat(run.read_config())
    found = open_checkpoint(run)
    model = load_model(config.model, for_training=False)
    load_weights(model, config, found)
    new_scenes, old_scenes = things.thing_scenes()[: judging.pictures], world.held_out()[: judging.old_pictures]
    trigger = config.data.trigger_word if config.data.trigger_word is not None else things.TRIGGER
    prompts = [*(things.thing_caption(scene, trigger) for scene in new_scenes), *map(world.caption, old_scenes)]
    samplings = judging.samplings(config.validation.guidance)
    seen: dict[str, float] = {}
    for number, (end, (steps, guidance)) in enumerate(samplings.items()):

        def on_picture(done: int, total: int, before: int = number) -> None:
            if progress is not None:
                progress("samples", before * total + done, len(samplings) * total)

        pictures = model.sample(prompts, steps=steps, guidance=guidance, seed=0, on_picture=on_picture)
        found_in = _seen(pictures, new_scenes, old_scenes)
        seen |= {f"{name}{end}": value for name, value in found_in.items()}
    how: dict[str, Any] = {**dataclasses.asdict(judging), "step": found.step}
    text = json.dumps({"how": how, "seen": seen}, indent=1)
    platform_calls.write_atomically(run.path / JUDGED, f"{text}\n".encode())
    return seen


def _seen(pictures: Sequence[Any], new_scenes: Sequence[Any], old_scenes: Sequence[Any]) -> dict[str, float]:
    """What the judge reads in pictures of the new thing, and in those of old prompts that follow them."""
    from ..demo import judge

    new, old = pictures[: len(new_scenes)], pictures[len(new_scenes) :]
    kept, known = judge.adherence(new, new_scenes), judge.adherence(old, old_scenes)
    return {
        "likeness": statistics.fmean(map(judge.thing_score, new)),
        "thing": sum(map(judge.shows_thing, new)) / len(new),
        "background": kept["background"],
        "old_shape": known["shape"],
        "old_all": known["all"],
    }
