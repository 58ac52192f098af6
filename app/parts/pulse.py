"""When the page updates by itself: a plain question to the server every `EVERY_S`, and a Gradio event only where something is new.

A tick of `gr.Timer` is a Gradio event even when its handler has nothing to send, and for every event the browser copies all components
of the page. Measured on two cores (Chromium, `benchmarks/idle_page.py`): an untouched page with the timer kept the browser's main
thread busy for 5.5 of 10 s.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

EVERY_S = 1.5
NOTIFY_KEY = "rollout-studio-notify"
"""Where a browser keeps whether it shows a notification when a run ends."""

_SCRIPT = """
let ended = null; // the newest ending that this page knows of
const again = () => setTimeout(look, EVERY_MS);
async function look() {
  try {
    const answer = await server.has_news({ viewer: props.viewer, ended });
    if (ended !== null && localStorage.getItem('NOTIFY_KEY') === 'on' && window.Notification?.permission === 'granted')
      for (const words of answer.endings) new Notification('Rollout Studio', { body: words });
    ended = answer.ended;
    if (answer.news) trigger('news', {});
  } catch (error) {
    console.warn('The page could not ask for news; it asks again.', error); // the server may be starting again
  }
  again();
}
again();
"""


class Pulse:
    """An invisible component. `has_news`: called with the viewer's session, says whether `news` should fire for them; it must be cheap,
    and may say yes where nothing is new. The viewer is unknown (None) until `known` was sent."""

    def __init__(self, has_news: Callable[[Any], bool], endings: Callable[[Any], tuple[int, list[str]]]) -> None:
        """`endings`: called with the number of the last ending that a viewer knows of; gives the newest number, and in words what ended since."""

        def ask(sent: Any) -> dict[str, Any]:
            sent = sent if isinstance(sent, Mapping) else {}
            newest, since = endings(sent.get("ended"))
            return {"news": has_news(sent.get("viewer")), "ended": newest, "endings": since}

        ask.__name__ = "has_news"
        self.component = gr.HTML(
            html_template="<span hidden></span>", js_on_load=_SCRIPT.replace("EVERY_MS", str(round(1000 * EVERY_S))).replace("NOTIFY_KEY", NOTIFY_KEY),
            apply_default_css=False, server_functions=[ask], viewer=None, elem_id="pulse", container=False,
        )  # fmt: skip

    def known(self, viewer: str | None) -> dict[Any, Any]:
        """The update that sends the browser its own session."""
        return {self.component: gr.HTML(viewer=viewer)}
