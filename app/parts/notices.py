"""Short notices at the edge of the page, in the language that is set."""

from typing import Any

import gradio as gr

from ...core.texts import translated


def warn(message: str, **how: Any) -> None:
    """Something could not be done as asked. `how`: Gradio's own arguments, such as `duration`."""
    gr.Warning(translated(message), **how)


def inform(message: str, **how: Any) -> None:
    """Something has been done."""
    gr.Info(translated(message), **how)
