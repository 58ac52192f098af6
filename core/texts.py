"""Every text that a person reads comes through `translated`: English as it stands in the source, or what a catalogue has for it.

`ROLLOUT_STUDIO_LANGUAGE` names the catalogue: `de` for `translations/de.json` of this package, or the path of a JSON file. Without it texts
stay as they are, at no cost. A catalogue is one JSON object, English text -> its translation. Where a text carries values, both have the
places `{0}`, `{1}` and so on: `"{0} of {1} steps": "{0} von {1} Schritten"`; a place stands for one character or more. A text that the
catalogue lacks, or has an empty translation for, stays English. `tools/page_texts.py` writes an empty catalogue. Files (journals, reports, logs) are written in English: translation is for the moment of showing.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import Trouble

VARIABLE = "ROLLOUT_STUDIO_LANGUAGE"
_FOLDER = Path(__file__).parents[1] / "translations"
_PLACE = re.compile(r"\{(\d+)\}")


def translated(text: str) -> str:
    """A text in the language that is set. Blanks around it are kept. Raises Trouble where the catalogue cannot be read."""
    chosen = os.environ.get(VARIABLE, "")
    if not chosen or not text or text.isspace():
        return text
    return _catalogue(chosen)(text)


def catalogue(texts: Mapping[str, str]) -> Callable[[str], str]:
    """The translation by a table of texts, whole ones before those with places, and of those the one with most letters of its own."""
    texts = {english: other for english, other in texts.items() if other}
    templates = []
    for english in sorted((each for each in texts if _PLACE.search(each)), key=lambda each: -len(_PLACE.sub("", each))):
        pieces = _PLACE.split(english)  # text, number of a place, text, ...
        pattern = "".join(re.escape(piece) if i % 2 == 0 else f"(?P<p{piece}>.+?)" for i, piece in enumerate(pieces))
        templates.append((re.compile(pattern, re.DOTALL), texts[english]))

    @functools.lru_cache(maxsize=4096)
    def translate(text: str) -> str:
        core = text.strip()
        found = texts.get(core)
        if found is None:
            for pattern, template in templates:
                match = pattern.fullmatch(core)
                if match is not None:
                    found = _PLACE.sub(lambda place, match=match: match[f"p{place[1]}"], template)
                    break
        return text if found is None else text.replace(core, found)

    return translate


@functools.cache
def _catalogue(chosen: str) -> Callable[[str], str]:
    path = Path(chosen) if chosen.endswith(".json") else _FOLDER / f"{chosen}.json"
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Trouble(
            f"{VARIABLE} = {chosen}: {path} cannot be read as a catalogue of texts ({error}).",
            f"Unset {VARIABLE} for English, or name a language of the folder translations, or a JSON file.",
        ) from None
    wrong = _problem(texts)
    if wrong is not None:
        raise Trouble(f"{path}: {wrong}", 'A catalogue is one JSON object, {"English text": "its translation"}.')
    return catalogue(texts)


def _problem(texts: object) -> str | None:
    """What is wrong with a catalogue; None when it can be used."""
    if not isinstance(texts, dict) or not all(isinstance(each, str) for each in texts.values()):
        return "is not an object of texts."
    for english, other in texts.items():
        places = _PLACE.findall(english)
        if len(set(places)) < len(places):
            return f"{english!r} has a place twice; number each anew."
        if set(_PLACE.findall(other)) - set(places):
            return f"{english!r} is translated with a place that it does not have."
    return None
