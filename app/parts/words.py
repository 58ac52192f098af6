"""Numbers and text as people read them; and text that markup cannot break."""

import html
import math

_UNSAFE_IN_TEMPLATES = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})


def text(value: object) -> str:
    """Any value as inert text inside gr.HTML, also inside attributes in double quotes.

    Gradio's HTML component evaluates `${...}` and `{{...}}` in what it is given, so those characters are escaped too.
    """
    # Half of a character pair, as a JSON file may hold it, could not be sent to the browser.
    whole = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(whole, quote=True).translate(_UNSAFE_IN_TEMPLATES)


def duration(seconds: float | None) -> str:
    """ "8 s", "2 min 5 s", "3 h 10 min", "2 days 4 h"; "-" when unknown."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds < 1 else f"{round(seconds)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 and whole % 60 else f"{round(whole / 60)} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} day{'s' if whole >= 172800 else ''} {whole % 86400 // 3600} h"


def quantity(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, without a power of ten between 1e-4 and 1e6; "-" when unknown."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        shown = f"{value:.{decimals}f}"
        return shown.rstrip("0").rstrip(".") if "." in shown else shown
    return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")


def is_text(name: str) -> bool:
    """Whether a file's name can be sent to a browser at all; on Linux names are bytes, and some are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
