"""The drift picture that stands there before the first click: measured once (`tools/demo_drift.py`), shipped with its request."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.look.preview.request import located_in
from ..parts.forms import label
from ..parts.previews import Previews
from ..parts.words import text
from .fields import FIELDS
from .picture import film

EXAMPLE = Path(__file__).parents[2] / "presets" / "demo" / "drift"
_NOTE = (
    '<p class="rs-quiet">An example that comes along: the demo\'s base model, measured with the settings as they stand at first. '
    "Move along the strip with the mouse, a finger or the arrow keys. <b>Show the drift</b> measures it on this computer, with your picture or your LoRA.</p>"
)


def example_film(previews: Previews) -> str:
    """The shipped filmstrip as HTML. Its files are copied into the folder that the page may show."""
    told = json.loads((EXAMPLE / "result.json").read_text(encoding="utf-8"))
    folder = previews.folder / "example"
    if not folder.exists():
        shutil.copytree(EXAMPLE, folder)
    result = located_in(told["result"], folder)
    drawn = film(result, lambda path: previews.own(Path(path)), told["request"])
    return f'<div class="rs-example">{_NOTE}{drawn}{_settings(told["request"])}</div>'


def _settings(request: Mapping[str, Any]) -> str:
    """The settings that made it, by the names that the controls have."""
    rows = "".join(
        f'<tr><th scope="row">{text(label(option))}</th><td>{text(request[name])}</td></tr>'
        for name, option in FIELDS.items()
        if name in request
    )
    return f'<details class="rs-made-with"><summary>The settings that made it</summary><table class="rs-drift-numbers"><tbody>{rows}</tbody></table></details>'
