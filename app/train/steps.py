"""The steps of the Train tab: numbered, one open at a time, and a closed one says in its title what it holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from ...core.config import RunConfig
from ..parts.forms import Form
from ..parts.panel import QUICK
from ..parts.words import quantity
from .rollout_panel import OWN, level_of

MODEL, PICTURES, SETTINGS, ROLLOUT, START = "model", "pictures", "settings", "rollout", "start"
TITLES = {MODEL: "Model", PICTURES: "Pictures", SETTINGS: "Settings", ROLLOUT: "Rollout", START: "Check and start"}

# The clicked step stays where the eye is, though what closes above it makes the page shorter.
_ALONE = """() => {
  const mine = document.querySelector('#step-NAME');
  const before = mine.getBoundingClientRect().top;
  for (const other of document.querySelectorAll('.rs-step-fold')) {
    const head = other.querySelector('button');
    if (other !== mine && head && head.classList.contains('open')) head.click();
  }
  const settle = (left) => {
    window.scrollBy(0, mine.getBoundingClientRect().top - Math.max(0, Math.min(before, 120)));
    if (left) requestAnimationFrame(() => settle(left - 1));
  };
  requestAnimationFrame(() => settle(2));
}"""


class Steps:
    """Builds each step in the current layout, in order."""

    def __init__(self, form: Form, config: RunConfig) -> None:
        self._form, self._titles = form, titles(config)
        self.folds: dict[str, gr.Accordion] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What is built within belongs to this step."""
        with gr.Accordion(
            self._titles[name], open=not self.folds, elem_id=f"step-{name}", elem_classes="rs-step-fold"
        ) as fold:
            self.folds[name] = fold
            with self._form.inside(f"#step-{name}"):
                yield

    @property
    def outputs(self) -> list[Any]:
        return list(self.folds.values())

    def drawn(self, config: RunConfig) -> dict[Any, Any]:
        """Updates of the titles."""
        return {self.folds[name]: gr.update(label=title) for name, title in titles(config).items()}

    def wire(self) -> None:
        """Opening one closes the others, in the browser."""
        for name, fold in self.folds.items():
            fold.expand(None, js=_ALONE.replace("NAME", name), **QUICK)


def titles(config: RunConfig) -> dict[str, str]:
    """What each step's title says of a config."""
    model, data, training = config.model, config.data, config.training
    words, more = data.trigger_words, len(data.things) - 1
    trigger = f", trigger word{'s' if len(words) > 1 else ''} {', '.join(words)}" if words else ""
    level, off = level_of(config), not config.rollout.is_active
    folder = data.things[0].instance_data_dir
    pictures = "none chosen" if folder is None else f"{_last(folder)}{f' and {more} more' if more else ''}{trigger}"
    told = {
        MODEL: _last(model.pretrained_model_name_or_path),
        PICTURES: pictures,
        SETTINGS: f"{training.max_train_steps} steps at {data.resolution} px, learning rate {quantity(training.learning_rate)}",
        ROLLOUT: "off" if off else "your own numbers" if level == OWN else level,
    }
    return {
        name: f"{number}  {title}" + (f": {told[name]}" if name in told else "")
        for number, (name, title) in enumerate(TITLES.items(), start=1)
    }


def _last(path: str) -> str:
    """A folder by its last part; a hub id as it is."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    return path if len(parts) <= 2 else parts[-1]
