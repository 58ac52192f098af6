"""Own pictures replace the demo's words: what a preset says about the demo's pictures is taken out when a person's own take their place.

Otherwise a newcomer trains a cat as "a zwx shape", draws samples of a candy, and measures drift on it. Only values that are still the
preset's are touched; what a person typed stays. Nothing is remembered here: what the page says follows from the form and its preset, so
that it is the same after a reload. Pure functions but for `fitting_resolution`, which may look into a model's folder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...core.before.estimate import known_facts
from ...core.config import OPTIONS, ModelConfig, RunConfig, config_to_flat
from ...core.data.scanning import located
from ...core.demo import ASSETS, MODELS
from ...core.findings import printable
from ..parts.forms import label
from ..parts.words import text
from .model_panel import is_here, shipped_with

MOST_PROMPTS = 4
_RESOLUTION = "resolution"
_CLASS_PROMPT = "class_prompt"
_OF_CLASS = ("with_prior_preservation", "class_data_dir", "num_class_images")
WORDS = {
    "trigger_word": "a rare word for your thing, or leave it empty",
    "instance_prompt": "needed for every picture without a caption of its own",
    _CLASS_PROMPT: "only prior preservation and output preservation need one, and both are off now",
    "validation_prompts": "what is drawn while it trains; empty = no samples",
}
"""The options that hold words about the pictures, and what to write there."""
_CLEARED = (*WORDS, *_OF_CLASS, "drift_data_dir")
_DEFAULTS = config_to_flat(RunConfig())


def is_built_in(folder: str | None) -> bool:
    """Whether an option names pictures that come along."""
    try:
        return folder is not None and located(folder).resolve().is_relative_to(ASSETS.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no disk can hold, or a home folder that does not exist
        return False


def is_own(folder: str | None) -> bool:
    """Whether an option names pictures that do not come along."""
    return folder is not None and not is_built_in(folder)


def changes(config: RunConfig, preset: RunConfig, before: str | None, prompts: Iterable[str] = ()) -> dict[str, Any]:
    """Flat keys that change because the pictures did; empty where they stay with their owner.

    Args:
        config: what the form holds, with the new pictures.
        preset: the config of the chosen preset.
        before: the pictures that the form held before, as the option names them.
        prompts: validation prompts that suit the own pictures, whether they come or go.
    """
    now = config.data.instance_data_dir
    if is_own(now) and not is_own(before):
        return cleared(config, preset, prompts)
    if is_own(before) and is_built_in(now):
        return put_back(config, preset, prompts)
    return {}


def cleared(config: RunConfig, preset: RunConfig, prompts: Iterable[str] = ()) -> dict[str, Any]:
    """Flat keys that take what the preset says about its built-in pictures out of `config`, with `prompts` in place of its own.

    Prior preservation and output preservation go with their class prompt, without which they cannot be. The resolution follows the model: the built-in models
    keep their 64 px.
    """
    now, its = config_to_flat(config), config_to_flat(preset)
    if not is_built_in(its["instance_data_dir"]):
        return {}
    new = {name: _DEFAULTS[name] for name in _CLEARED if now[name] == its[name]}
    if "validation_prompts" in new:
        new["validation_prompts"] = list(prompts)
    if new.get(_CLASS_PROMPT, now[_CLASS_PROMPT]) is None:
        new["with_prior_preservation"], new["output_preservation_weight"] = False, 0.0
    else:  # the person's own class prompt: class pictures stay on, but not the demo's
        new = {
            name: value for name, value in new.items() if name not in ("with_prior_preservation", "num_class_images")
        }
    if now[_RESOLUTION] == its[_RESOLUTION]:
        new[_RESOLUTION] = fitting_resolution(config.model, preset)
    return {name: value for name, value in new.items() if value != now[name]}


def put_back(config: RunConfig, preset: RunConfig, prompts: Iterable[str] = ()) -> dict[str, Any]:
    """Flat keys that undo `cleared`, where nothing else was typed since."""
    now, its = config_to_flat(config), config_to_flat(preset)
    if not is_built_in(its["instance_data_dir"]):
        return {}
    left = {**_DEFAULTS, "validation_prompts": list(prompts)}
    class_typed = now[_CLASS_PROMPT] is not None and now[_CLASS_PROMPT] != its[_CLASS_PROMPT]
    names = [name for name in _CLEARED if not (class_typed and name in _OF_CLASS)]
    return {name: its[name] for name in names if now[name] != its[name] and now[name] in (_DEFAULTS[name], left[name])}


def fitting_resolution(model: ModelConfig, preset: RunConfig) -> int:
    """The resolution for pictures of one's own with this model: the preset's for its own model, else what the model was made for."""
    name = model.pretrained_model_name_or_path
    if name == preset.model.pretrained_model_name_or_path:
        return preset.data.resolution
    known = shipped_with(name)
    if known is not None:
        return known.config().data.resolution
    facts = known_facts(model) if is_here(name) else None
    return _DEFAULTS[_RESOLUTION] if facts is None or facts.native_resolution is None else facts.native_resolution


def prompts_from(captions: Iterable[str], instance_prompt: str | None) -> list[str]:
    """Validation prompts for own pictures: their first different captions, else the caption for all; empty where there is neither."""
    different = list(dict.fromkeys(caption for caption in captions if caption))
    return (different if different else [instance_prompt] if instance_prompt else [])[:MOST_PROMPTS]


@dataclass(frozen=True)
class Message:
    """What stands by the pictures: markup ("" = nothing), and which of the three buttons are of use."""

    markup: str = ""
    clear: bool = False
    back: bool = False
    prompts: bool = False


def message(config: RunConfig, preset: RunConfig) -> Message:
    """What to say about the words of a form with own pictures, while some are empty or still the demo's."""
    now, its = config_to_flat(config), config_to_flat(preset)
    if not (is_own(now["instance_data_dir"]) and is_built_in(its["instance_data_dir"])):
        return Message()
    left = cleared(config, preset)
    empty = [name for name in WORDS if now[name] == _DEFAULTS[name] != its[name]]
    if not left and not empty:
        return Message()
    title = (
        "Your own pictures, but some settings are still the demo's"
        if left
        else "Your own pictures: the demo's texts are cleared"
    )
    why = "They describe the demo's pictures, so your pictures would be trained as something that they are not."
    lines = [_line(name, f"{_written(its[name])}, as in the demo") for name in left]
    for name, hint in WORDS.items():
        if name not in left and now[name] != its[name]:
            lines.append(
                _line(
                    name,
                    f"was {_written(its[name])}, is now {_written(now[name])}" + (f": {hint}" if name in empty else ""),
                )
            )
    lines += _about_numbers(config, left, its)
    markup = f'<div class="rs-card rs-mild" role="status"><h3>{text(title)}</h3><p>{text(why)}</p><ul>{"".join(lines)}</ul></div>'
    return Message(markup, bool(left), any(name not in left for name in empty), "validation_prompts" in empty)


def _about_numbers(config: RunConfig, left: dict[str, Any], its: dict[str, Any]) -> list[str]:
    """The lines about what is no word: where drift is measured, and the resolution."""
    lines, model = [], config.model.pretrained_model_name_or_path
    if its["drift_data_dir"] is not None and config.drift.data_dir is None:
        lines.append(
            _line("drift_data_dir", "your own: one is held out for the drift probe where there are three or more")
        )
    if _RESOLUTION in left:
        return lines
    size = config.data.resolution
    if model in MODELS and size == its[_RESOLUTION]:
        lines.append(
            _line(
                _RESOLUTION,
                f"stays {size} px, because the small model {model} draws no larger; a model of full size wants more",
            )
        )
    elif size != its[_RESOLUTION]:
        lines.append(_line(_RESOLUTION, f"was {its[_RESOLUTION]} px for the demo's model, is now {size} px"))
    return lines


def _line(name: str, words: str) -> str:
    return f"<li><b>{text(label(OPTIONS[name]))}</b>: {text(words)}</li>"


def _written(value: Any) -> str:
    """A value for people."""
    if value is None or value == []:
        return "empty"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return f"“{printable(value[0])}”" + (f" and {len(value) - 1} more" if len(value) > 1 else "")
    return f"“{printable(value)}”" if isinstance(value, str) else str(value)
