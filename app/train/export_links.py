"""Links that save the settings in the form as files of another tool."""

from urllib.parse import quote

from ...core.config import RunConfig
from ...core.config.options import ConfigError
from ...core.foreign.simpletuner_export import export
from ..parts.words import text


def address_of(content: str) -> str:
    """JSON text as an address that a link can save."""
    return "data:application/json;charset=utf-8," + quote(content + "\n")


def for_simpletuner(config: RunConfig) -> str:
    """The files that SimpleTuner trains these settings from, or why there are none."""
    try:
        exported = export(config)
    except ConfigError as error:
        return f'<p class="rs-quiet">{text(f"Not for SimpleTuner: {error.faults[0].message}")}</p>'
    links = ", ".join(
        f'<a download="{name}" href="{address_of(content)}">{name}</a>' for name, content in exported.texts().items()
    )
    told = "".join(f"<li>{text(each.key)}: {text(each.how)}</li>" for each in exported.changed) + "".join(
        f"<li>{text(each.key)}: {text(each.why)}</li>" for each in exported.left
    )
    more = (
        f"<details><summary>What is different there ({len(exported.changed) + len(exported.left)})</summary><ul>{told}</ul></details>"
        if told
        else ""
    )
    return f"<p>for SimpleTuner: {links}</p>{more}"
