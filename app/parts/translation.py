"""The page in another language: every text of a component comes through `translated` where it leaves for the browser, on the first sending
of the page and at every update. So a panel writes English, and what it writes needs no wrapping.

What is composed of several texts (a label with its unit) translates its pieces where it composes them. Names of runs, captions and other
data pass unchanged, unless the catalogue has exactly their text; markup around data may say `translate="no"`.
"""

import html
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from ...core.texts import VARIABLE, translated
from .given import check
from .words import text

TEXTS = ("label", "info", "placeholder")
"""Properties that are plain text in every component."""

_VALUE_IS_TEXT = {"button", "markdown"}
_INLINE = "b|i|em|strong|small|code|sub|sup|br|abbr|mark"
_TAG = re.compile(r"(<[^>]*>)")
_BETWEEN_BLOCKS = re.compile(rf"(<(?!/?(?:{_INLINE})\b)[^>]*>)")
_ATTRIBUTE = re.compile(r'(?<=\s)(title|alt|aria-label|placeholder)="([^"]*)"')
_SAID = re.compile(r"\bsay\(\s*'((?:[^'\\]|\\.)+)'")
_NAME = re.compile(r"</?\s*([a-zA-Z0-9-]+)")


class TranslatedBlocks(gr.Blocks):
    """A page of which every text is sent in the language that is set, and whose handlers get values of the kinds that its fields have."""

    def get_config_file(self) -> Any:
        config = super().get_config_file()
        for each in config["components"]:
            each["props"] = translated_properties(each["type"], each["props"])
        return config

    async def preprocess_data(self, block_fn: Any, inputs: Any, *how: Any, **named: Any) -> Any:
        if not block_fn.component_prop_inputs:
            check(block_fn.inputs, inputs)
        return await super().preprocess_data(block_fn, inputs, *how, **named)

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        if (
            predictions == {} and len(block_fn.outputs) > 1
        ):  # no update at all; Gradio takes an empty mapping for one value
            predictions = [gr.skip()] * len(block_fn.outputs)
        sent = await super().postprocess_data(block_fn, predictions, state)
        if not os.environ.get(VARIABLE):
            return sent
        return [
            translated_update(block.get_block_name(), each) for block, each in zip(block_fn.outputs, sent, strict=True)
        ]


def translated_update(kind: str, update: Any) -> Any:
    """What is sent to a component of this kind: its new properties, or its new value."""
    if isinstance(update, Mapping) and update.get("__type__") == "update":
        return translated_properties(kind, update)
    return translated_properties(kind, {"value": update})["value"]


def translated_properties(kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of a component, with the texts among them in the language that is set. `kind`: Gradio's name of the component."""
    out = dict(properties)
    if not os.environ.get(VARIABLE):
        return out
    for name in TEXTS:
        if isinstance(out.get(name), str):
            out[name] = translated(out[name])
    value = out.get("value")
    if isinstance(value, str) and kind in _VALUE_IS_TEXT:
        out["value"] = translated(value)
    elif isinstance(value, str) and kind == "html":
        out["value"] = translated_markup(value)
    if isinstance(out.get("choices"), list | tuple):
        out["choices"] = [
            (translated(words) if isinstance(words, str) else words, each) for words, each in out["choices"]
        ]
    return out


def with_words(script: str, words: Iterable[str] | None = None) -> str:
    """A script of the page with its own texts: in it, `say("{0} of {1}", 3, 5)` is that text in the language that is set, with the values in its places.
    `words`: the texts; None = every text that stands in it as `say('...')`."""
    words = words_said(script) if words is None else words
    table = json.dumps({each: translated(each) for each in words}, ensure_ascii=False)
    return f"const say = (text, ...values) => values.reduce((words, value, place) => words.replaceAll(`{{${{place}}}}`, value), ({table})[text] ?? text);\n{script}"


def words_said(script: str) -> list[str]:
    """The texts of a script: what stands in it as `say('...')`, each once."""
    return list(dict.fromkeys(found.replace("\\'", "'") for found in _SAID.findall(script)))


def translated_markup(markup: str) -> str:
    """Markup of ours with the texts between its tags, and those in attributes that a person reads, in the language that is set.

    What stands between two block elements is one text, with its inline tags in it; where the catalogue lacks that, its pieces are looked up.
    """
    out: list[str] = []
    skipped: list[str] = []  # names of open elements, from one that is not translated on
    for piece in _BETWEEN_BLOCKS.split(markup):
        if not _TAG.fullmatch(piece):
            out.append(piece if skipped else _segment(piece))
            continue
        name = _NAME.match(piece)
        if name is not None and piece.startswith("</"):
            if skipped and skipped[-1] == name[1]:
                skipped.pop()
        elif name is not None and not piece.endswith("/>") and (skipped or _is_kept(name[1], piece)):
            skipped.append(name[1])
        out.append(piece if skipped else _ATTRIBUTE.sub(_attribute, piece))
    return "".join(out)


def _is_kept(name: str, tag: str) -> bool:
    return name in ("style", "script") or 'translate="no"' in tag


def _segment(piece: str) -> str:
    if not piece.strip():
        return piece
    if "<" not in piece:
        return _plain(piece)
    whole = translated(piece)
    if whole != piece:
        return whole
    return "".join(each if _TAG.fullmatch(each) else _plain(each) for each in _TAG.split(piece))


def _plain(piece: str) -> str:
    """A text of markup, without tags in it."""
    english = html.unescape(piece)
    other = translated(english)
    return piece if other == english else text(other)


def _attribute(found: re.Match[str]) -> str:
    return f'{found[1]}="{_plain(found[2])}"'
