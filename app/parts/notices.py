"""Short notices at the edge of the page, in the language that is set. Gradio shows them as HTML, and they may name what a stranger wrote."""

from html import escape
from typing import Any

import gradio as gr

from ...core.texts import translated


def warn(message: str, **how: Any) -> None:
    """Something could not be done as asked. `how`: Gradio's own arguments, such as `duration`."""
    gr.Warning(escape(translated(message), quote=False), **how)


def inform(message: str, **how: Any) -> None:
    """Something has been done."""
    gr.Info(escape(translated(message), quote=False), **how)
