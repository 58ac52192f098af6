"""Write the texts of the page as an empty catalogue to translate: `python tools/page_texts.py > translations/de.json` (or whatever language).

These are the texts that the page is first sent with, and the option's labels and helps. Messages with values in them are added by hand, with
places: `"{0} of {1} steps": "..."`; see `core/texts.py`. An empty translation means English.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from rollout_studio.core import texts


def page_texts() -> list[str]:
    """Every text that is looked up when the page is built, in that order."""
    found: dict[str, None] = {}

    def record(text: str) -> str:
        if any(letter.isalpha() for letter in text):
            found.setdefault(text.strip())
        return text

    os.environ[texts.VARIABLE] = "recorded"
    texts._catalogue = lambda chosen: record

    from rollout_studio.app.page import build
    from rollout_studio.app.parts.watch import Watch

    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder))
        build(watch)
        watch.close()
    return list(found)


if __name__ == "__main__":
    json.dump(dict.fromkeys(page_texts(), ""), sys.stdout, ensure_ascii=False, indent=1)
    print()
