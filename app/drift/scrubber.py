"""What moves a filmstrip in the browser (`js/drift.js`): the script for a `gr.HTML` that holds one, in the language that is set."""

from pathlib import Path

from ..parts.translation import with_words

_SCRIPT = (Path(__file__).parents[1] / "js" / "drift.js").read_text(encoding="utf-8")


def scrubber() -> str:
    """For `js_on_load`."""
    return with_words(_SCRIPT)
