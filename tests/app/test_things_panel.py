"""Further things in one run, on the page: what the small form adds, changes and removes in the option."""

import json

import gradio as gr
import pytest
from rollout_studio.app.parts.forms import Form, to_component
from rollout_studio.app.train.pictures.things import ThingsPanel
from rollout_studio.core.config import OPTIONS, config_from_flat, config_to_flat
from rollout_studio.core.config.concepts import concepts_of

POST = {"instance_data_dir": "demo-dreambooth-post", "trigger_word": "vbk", "instance_prompt": "a vbk shape"}


class Page:
    """As much of the Train tab as the panel asks for: it notes the config that was put into the form."""

    def __init__(self):
        self.config = None

    def filled(self, given, config, only=None, preset=None):
        assert tuple(only) == ("concepts",)
        self.config = config
        return {}


@pytest.fixture
def said(monkeypatch):
    texts = []
    for name in ("Warning", "Info"):
        monkeypatch.setattr(gr, name, lambda message, **how: texts.append(message))
    return texts


@pytest.fixture(scope="module")
def panel():
    config = config_from_flat({"instance_data_dir": "demo-dreambooth", "trigger_word": "zwx"})
    with gr.Blocks():
        form = Form(config)
        made = ThingsPanel(form, config)
        form.place(
            *(name for name, option in OPTIONS.items() if option.section == "data" and name not in form.components)
        )
    return made


def holding(panel, which="new", concepts=None, **typed):
    flat = config_to_flat(
        config_from_flat({"instance_data_dir": "demo-dreambooth", "trigger_word": "zwx", "concepts": concepts})
    )
    given = {field: to_component(OPTIONS[name], flat[name]) for name, field in panel.form.components.items()}
    return given | {box: typed.get(name, "") for name, box in panel.boxes.items()} | {panel.which: which}


def things(page):
    return [concept.given() for concept in concepts_of(page.config.data.concepts)]


def test_a_thing_is_added_and_its_pictures_are_counted(panel, said):
    page = Page()
    panel.on_keep(page, holding(panel, **POST, repeats=" 2 "))
    assert things(page) == [{**POST, "repeats": 2}]
    assert said == ["concepts, entry 1 (vbk): 5 pictures."]


def test_a_change_keeps_what_the_small_form_does_not_show(panel, said):
    page, two = Page(), [{"instance_data_dir": "x"}, {**POST, "class_data_dir": "pets", "caption_strategy": "filename"}]
    given = holding(panel, "1", two)
    shown = panel.on_choice(given)
    assert shown[panel.boxes["trigger_word"]] == "vbk" and shown[panel.keep] == "Save the change"
    panel.on_keep(
        page, given | {panel.boxes["instance_data_dir"]: "demo-dreambooth-post", panel.boxes["trigger_word"]: "qrx"}
    )
    assert things(page)[1] == {"instance_data_dir": "demo-dreambooth-post", "trigger_word": "qrx", "class_data_dir": "pets",
                               "caption_strategy": "filename"}  # fmt: skip
    assert things(page)[0] == two[0]


def test_the_chosen_thing_is_removed_and_the_last_one_leaves_the_option_unset(panel, said):
    page = Page()
    panel.on_remove(page, holding(panel, "0", [{"instance_data_dir": "x"}, POST]))
    assert things(page) == [POST]
    panel.on_remove(page, holding(panel, "0", [POST]))
    assert page.config.data.concepts is None
    panel.on_remove(page := Page(), holding(panel, "new", [POST]))
    assert page.config is None and said == ["Choose the thing to remove first."]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"trigger_word": "vbk"}, "needs instance_data_dir"),
        ({**POST, "repeats": "many"}, "repeats"),
        ({"instance_data_dir": "demo-dreambooth"}, "is also that of"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_put_into_the_form(panel, said, typed, words):
    page = Page()
    assert panel.on_keep(page, holding(panel, **typed)) == {} and page.config is None
    assert len(said) == 1 and words in said[0] and "concepts, entry 1" in said[0]


def test_text_that_a_person_broke_is_not_written_over(panel, said):
    page, given = Page(), holding(panel, **POST)
    given[panel.form.components["concepts"]] = '[{"instance_data_dir": }]'
    assert panel.on_keep(page, given) == {} and page.config is None and "broken JSON" in said[0]


def test_names_are_shown_as_text_and_a_choice_that_is_none_is_a_new_thing(panel):
    bad = "<img src=x onerror=alert(1)>"
    config = config_from_flat({"concepts": json.dumps([{"instance_data_dir": bad, "trigger_word": bad, "repeats": 3}])})
    drawn = panel.drawn(config)
    assert "<img" not in drawn[panel.list] and "3 times" in drawn[panel.list]
    for which in ("7", "-1", None, "x" * 9):
        assert panel.on_choice(holding(panel, which, [POST]))[panel.keep] == "Add this thing"
