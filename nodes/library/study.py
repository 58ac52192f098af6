"""Studies: trainings that differ in a few options, with their seeds and controls, measured alike and compared. The work is `core/study`'s."""

from typing import Any

from ...core.config import OPTIONS, ROLLOUT_LEVELS, config_to_flat
from ...core.config.options import ConfigError, did_you_mean
from ..graph import values
from ..graph.declaration import Output, Socket, local, node
from ..graph.parts import config_from_parts
from ..graph.values import NodeError, Settings, Variants, settings
from .training import PART_SOCKETS

CHANGED = ("adapter", "rollout", "optimizer", "settings")
"""The parts in which variants may differ; of the pictures and the drift probe they are compared on the same ones."""


def _changes(lines: tuple[str, ...]) -> Settings:
    """The options of lines `name = value`. Raises ConfigError with the first fault; ValueError for a line that is none."""
    found: dict[str, Any] = {}
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        name = name.removeprefix("--")
        if not equals or name not in OPTIONS:
            raise ValueError(f"{line!r:.80} is no line `option = value`.{did_you_mean(name, OPTIONS)}")
        found[name] = OPTIONS[name].read(value, text=True)
    return settings(found)


def _changes_fault(lines: tuple[str, ...]) -> str | None:
    try:
        _changes(lines)
    except (ConfigError, ValueError) as error:
        return str(error)
    return None


@node(
    "StudyVariant", "Study Variant", "Study",
    inputs=(
        Socket("variants", values.VARIANTS, "The variants before this one.", True),
        *(Socket(name, PART_SOCKETS[name].type, "What this variant has in place of the study's own.", True) for name in CHANGED),
        local("name", "str", "variant", "What it is called in the table.", rule=lambda text: None if text.strip() else "must be a name."),
        local("level", "str", None, "A level of rollout, in place of its numbers.", choices=ROLLOUT_LEVELS),
        local("changes", "list[str]", (), "Further options that differ, one `option = value` a line.", split="\n", rule=_changes_fault),
    ),
    outputs=(Output("variants", values.VARIANTS, "The variants so far."),),
    aliases=("compare", "ablation"),
)  # fmt: skip
def study_variant(context, variants, name, level, changes, **parts):
    """One row of a study: what it has in place of the study's own settings. Variants are chained; the plain training without any remedy and the controls
    need no variant."""
    flat: dict[str, Any] = {} if level is None else {"level": level}
    for part in CHANGED:
        flat |= {} if parts[part] is None else parts[part].flat
    own = (name.strip(), settings({**flat, **_changes(changes).flat}))
    return (Variants((*(() if variants is None else variants.items), own)),)


@node(
    "Study", "Study", "Study",
    inputs=(
        *PART_SOCKETS.values(),
        Socket("variants", values.VARIANTS, "What differs between the trainings."),
        local("name", "str", "study", "Beginning of the study's name. With the same name and settings it goes on where it was."),
        local("seeds", "list[int]", (1, 2, 3), "Each variant trains once with each of them; below three no verdict is given.", ge=0, le=99_999),
        local("controls", "bool", True, "Also train the controls of each remedy: plain training at equal steps, at equal time, and at its noise levels."),
        local("judge", "bool", False, "Let the demo's judge look at each run's pictures; for the demo's models alone."),
        local("similarity", "bool", False, "Compare the samples of each run with its training pictures: near copies, and similarity by CLIP and DINO where these are on this computer."),
        local("deciding", "list[str]", (), "Measures that get an interval and a verdict, by name (clean_loss ...); empty = all. Each further one widens every interval."),
    ),
    outputs=(
        Output("table", values.STRING, "What was measured, and the differences with their intervals."),
        Output("path", values.STRING, "study.json with every number; the Runs tab writes the report to share from it."),
    ),
    lane="run",
    shows=True,
    effect=True,  # the store decides what is left to train; a finished study answers at once
    aliases=("compare", "does it help", "ablation"),
)  # fmt: skip
def study(context, variants, name, seeds, controls, judge, similarity, deciding, **parts):
    """Does it help? Trains every variant with every seed, one run after the other, with the controls that a fair comparison needs, and compares them seed by
    seed. What is trained already is used; stopped, the run that trains saves a checkpoint, and the study goes on from there."""
    from ..execute import studies  # what it reads opens pictures

    flat = config_to_flat(config_from_parts(parts))
    named = dict(variants.items)
    if len(named) < len(variants.items):
        twice = next(each for each, _ in variants.items if sum(each == other for other, _ in variants.items) > 1)
        raise NodeError(f"Two variants are called {twice}.", "Give each a name of its own.")
    written = {
        "study": studies.name_of(name, flat),
        "config": flat,
        "variants": {each: changes.flat for each, changes in named.items()},
        "seeds": list(seeds),
        "controls": controls,
        "judge": judge,
        "similarity": similarity,
        "deciding": list(deciding) if deciding else None,
    }
    table, path = studies.study(context, written)
    return table, str(path)
