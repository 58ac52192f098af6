"""The controls of settings that do nothing now, greyed, each with its reason: from the one table of rules (`core.config.rules`)."""

from ...core.before.effects import idle_settings
from ...core.config import RunConfig
from ...core.texts import translated

_IN_CSS = str.maketrans({"\\": "\\\\", '"': '\\"', "<": "\\3c ", "\n": " "})


def idle_sheet(config: RunConfig) -> str:
    """A style sheet that greys the controls without effect, with the reason below each. (As style, it cannot disturb what a person is typing,
    where an update of the components could; and all of them stay usable, so that what waits for another setting can be prepared.)"""
    rules = "".join(
        f".gradio-container #opt-{name} > :not(.hide){{opacity:.92;filter:grayscale(1);height:auto!important}}"
        f'.gradio-container #opt-{name}::after{{content:"{_reason(why)}";display:block;'
        f"padding:4px 0 0;font-size:12.5px;font-weight:600;color:var(--rs-rolled)}}"
        for name, why in idle_settings(config).items()
    )
    return f"<style>{rules}</style>"


def _reason(why: str) -> str:
    return translated(f"No effect now: {translated(why)}.").translate(_IN_CSS)
