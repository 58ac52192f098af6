"""Requests that name what the page does not have: a component, a function, a session that Gradio looks up without checking first."""

import traceback
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse

_OURS = str(Path(__file__).resolve().parents[2])
UNKNOWN = (LookupError, TypeError, ValueError, AttributeError, AssertionError)
"""What Gradio raises for them, which would be an error of the server."""


def refuse_unknown(request: Request, error: Exception) -> PlainTextResponse:
    """400 for what was raised in Gradio. An exception in code of ours is a fault of ours: it stays an error of the server, with its traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    if last.startswith(_OURS) and "site-packages" not in last:
        raise error
    return PlainTextResponse(
        "Refused: it names something that this page does not have, or says it in another form.\n", 400
    )
