"""A notification of the browser when a run ends: off until asked for, and kept by each browser for itself."""

from typing import Any

import gradio as gr

from ...core.runs.rows import RunSummary
from ...core.texts import translated
from ..parts.pulse import NOTIFY_KEY
from ..parts.watch import Watch

_WORDS = {"done": "{name} is done.", "stopped": "{name} has stopped at step {step}.", "failed": "{name} has failed: {message}",
          "crashed": "{name} has crashed: {message}"}  # fmt: skip
_TEMPLATE = '<label class="rs-notify"><input type="checkbox"> <span>Tell me when a run ends</span> <small role="status"></small></label>'
_SCRIPT = """
const box = element.querySelector('input'), told = element.querySelector('small');
const there = 'Notification' in window;
box.checked = there && localStorage.getItem('KEY') === 'on' && Notification.permission === 'granted';
box.disabled = !there;
if (!there) told.textContent = 'This browser shows no notifications.';
box.addEventListener('change', async () => {
  const granted = box.checked && (await Notification.requestPermission()) === 'granted';
  told.textContent = box.checked && !granted ? 'The browser does not allow it: allow notifications for this page in its settings.' : '';
  box.checked = granted;
  localStorage.setItem('KEY', granted ? 'on' : 'off');
});
"""


def notify_box() -> gr.HTML:
    """The checkbox."""
    return gr.HTML(_TEMPLATE, js_on_load=_SCRIPT.replace("KEY", NOTIFY_KEY), elem_id="notify", apply_default_css=False)


def endings(watch: Watch, known: Any) -> tuple[int, list[str]]:
    """(how many runs have ended since the page was started; in words, those after the first `known`, as far as they are remembered)."""
    newest = watch.ended
    new = newest - known if isinstance(known, int) and 0 <= known <= newest else 0
    return newest, [_words(run) for run in watch.endings[-new:]] if new else []


def _words(run: RunSummary) -> str:
    return translated(_WORDS[run.state]).format(name=run.name, step=run.step, message=run.message or "see its page")
