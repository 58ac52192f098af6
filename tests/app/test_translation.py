"""The page in another language: with a catalogue that puts brackets around every text, no text of the page is without them."""

import asyncio
import json
import re

import gradio as gr
import pytest
from rollout_studio.app.page import build
from rollout_studio.app.parts import notices
from rollout_studio.app.parts.translation import TranslatedBlocks, translated_markup, words_said
from rollout_studio.app.parts.watch import Watch
from rollout_studio.core import texts

NOT_TEXT = {"elem_id", "elem_classes", "name", "type", "_selectable", "css", "js_on_load", "html_template", "css_template", "component_class_name",
            "variant", "size", "value", "choices", "id", "key", "file_types", "buttons", "scale", "link_target", "text_align", "secret", "storage_key", "file_count", "alignment", "overflow_behavior", "visible"}  # fmt: skip
"""Properties that no person reads; `value` and `choices` are looked at by themselves. A new one must be placed here or in `TEXTS`."""

DATA = {"Rollout", "Studio", "PNG", "JSON", "CSV"}
"""Texts that are the same in every language."""


def bracketed(text):
    """Once: what is composed of translated pieces is not translated again."""
    return text if "⟦" in text or not re.search("[A-Za-z]{2}", text) else f"⟦{text}⟧"


@pytest.fixture
def brackets(monkeypatch):
    monkeypatch.setenv(texts.VARIABLE, "brackets")
    monkeypatch.setattr(texts, "_catalogue", lambda chosen: bracketed)


@pytest.fixture
def page(brackets, tmp_path):
    watch = Watch(tmp_path / "runs")
    yield build(watch)
    watch.close()


def is_translated(text):
    return "⟦" in text or not re.search("[A-Za-z]{2}", text) or text in DATA


def texts_in(markup):
    """The texts between block elements, as a catalogue would have them."""
    inner = re.sub(r"(?s)<(style|script|svg).*?</\1>", "", markup)
    pieces = re.split(r"<(?!/?(?:b|i|em|strong|small|code|sub|sup|br|abbr|mark)\b)[^>]*>", inner)
    return [piece.strip() for piece in pieces if piece.strip()]


def test_no_text_of_the_page_stays_untranslated(page):
    left = set()
    for each in page.config["components"]:
        properties = each["props"]
        for name, value in properties.items():
            if isinstance(value, str) and name not in NOT_TEXT and not is_translated(value):
                left.add((each["type"], name, value))
        value = properties.get("value")
        if isinstance(value, str) and each["type"] in ("button", "markdown") and not is_translated(value):
            left.add((each["type"], "value", value))
        if isinstance(value, str) and each["type"] == "html":
            left |= {("html", "value", piece) for piece in texts_in(value) if not is_translated(piece)}
        left |= {
            ("choice", each["type"], words) for words, _ in properties.get("choices") or () if not is_translated(words)
        }
    assert not left, "\n".join(map(str, sorted(left)))


def test_the_page_has_texts_of_every_kind(page):
    """Else the test above could pass over an empty page."""
    kinds = {each["type"] for each in page.config["components"]}
    assert {"tabitem", "accordion", "button", "textbox", "dropdown", "radio", "html", "markdown"} <= kinds
    labels = {each["props"].get("label") for each in page.config["components"]}
    assert {"⟦Training steps⟧", "⟦Warm-up⟧ (⟦steps⟧)", "⟦All settings⟧", "⟦Drift⟧"} <= labels


def test_the_scripts_of_the_page_say_everything_in_the_language_that_is_set(page):
    """Each has a table of what it says; what it makes of a text is no literal of its own."""
    scripts = [each["props"]["js_on_load"] for each in page.config["components"] if each["props"].get("js_on_load")]
    tables = [re.match(r"const say = .*?\((\{.*\})\)\[text\]", script) for script in scripts]
    spoken = [(json.loads(found[1]), script) for found, script in zip(tables, scripts, strict=True) if found]
    for table, script in spoken:
        said = words_said(script.split("\n", 1)[1])
        assert set(said) <= table.keys() and all(is_translated(other) for other in table.values())
    known = " ".join(text for table, _ in spoken for text in table)
    for text in (
        "No setting has these words.",
        "Caption of {0}",
        "Edit many captions",
        "Use this folder",
        "Saving …",
        "{2} apart",
    ):
        assert text in known
    literal = re.compile(r"""(?:make|button)\((?:'[^']*', ){0,2}['"`]([A-Z][^'"`]+)['"`]""")
    left = [found for _, script in spoken for found in literal.findall(script) if found.upper() != found]
    assert not left


def updated(block, update):
    """What the browser is sent when a handler gives this for the component."""
    with TranslatedBlocks() as demo:
        made = block()
        button = gr.Button("Press")
        button.click(lambda: update, None, made)
    [fn] = [fn for fn in demo.fns.values() if fn.fn is not None]
    return asyncio.run(demo.postprocess_data(fn, update, None))[0]


def test_an_update_is_translated_too(brackets):
    assert updated(gr.Textbox, gr.update(info="must be above 0"))["info"] == "⟦must be above 0⟧"
    assert updated(gr.Textbox, "a photo of a dog") == "a photo of a dog", "what a person wrote"
    assert updated(gr.Button, gr.update(value="Start"))["value"] == "⟦Start⟧"
    assert updated(gr.HTML, "<p>Nothing yet</p>") == "<p>⟦Nothing yet⟧</p>"
    assert updated(gr.Radio, gr.update(choices=[("Off", "off")]))["choices"] == [("⟦Off⟧", "off")]


def test_without_a_language_nothing_is_changed(monkeypatch):
    monkeypatch.delenv(texts.VARIABLE, raising=False)
    assert updated(gr.HTML, "<p>Nothing yet</p>") == "<p>Nothing yet</p>"


def test_markup_keeps_its_tags_and_a_translation_cannot_break_them(monkeypatch):
    monkeypatch.setenv(texts.VARIABLE, "some")
    table = {
        "Run": "<Lauf>",
        "No & yes": "Nein & ja",
        "a <b>bold</b> word": "ein <b>fettes</b> Wort",
        "Title": 'Der "Titel"',
    }
    monkeypatch.setattr(texts, "_catalogue", lambda chosen: texts.catalogue(table))
    assert translated_markup("<td>Run</td>") == "<td>&lt;Lauf&gt;</td>"
    assert translated_markup("<p>No &amp; yes</p>") == "<p>Nein &amp; ja</p>"
    assert translated_markup("<li>a <b>bold</b> word</li>") == "<li>ein <b>fettes</b> Wort</li>"
    assert translated_markup("<li><b>Run</b> other</li>") == "<li><b>&lt;Lauf&gt;</b> other</li>"
    assert translated_markup('<img alt="Title" class="Run">') == '<img alt="Der &quot;Titel&quot;" class="Run">'


def test_style_and_data_are_left_alone(brackets):
    kept = '<style>.rs-a{color:red}</style><span translate="no"><i>my run</i> of mine</span>'
    assert translated_markup(f"{kept}<p>Done</p>") == f"{kept}<p>⟦Done⟧</p>"


def test_a_notice_is_translated(brackets, monkeypatch):
    shown = []
    monkeypatch.setattr(gr, "Warning", lambda message, **how: shown.append((message, how)))
    monkeypatch.setattr(gr, "Info", lambda message, **how: shown.append((message, how)))
    notices.warn("This cannot start yet", duration=None)
    notices.inform("Queued")
    assert shown == [("⟦This cannot start yet⟧", {"duration": None}), ("⟦Queued⟧", {})]
