"""Texts in another language: a catalogue replaces them, whole or around their values, and a wrong one is refused."""

import json

import pytest
from rollout_studio.core import texts
from rollout_studio.core.errors import Trouble
from rollout_studio.core.texts import catalogue, translated


@pytest.fixture
def language(tmp_path, monkeypatch):
    """Sets a catalogue for the test."""

    def put(content):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        monkeypatch.setenv(texts.VARIABLE, str(path))

    return put


def test_without_a_language_a_text_is_itself(monkeypatch):
    monkeypatch.delenv(texts.VARIABLE, raising=False)
    assert translated("Training steps") == "Training steps"


def test_a_text_is_replaced_and_one_that_is_missing_stays(language):
    language({"Seed": "Startwert"})
    assert translated("Seed") == "Startwert" and translated(" Seed\n") == " Startwert\n"
    assert translated("Batch size") == "Batch size"


def test_an_empty_translation_means_english(language):
    language({"Seed": ""})
    assert translated("Seed") == "Seed"


def test_values_keep_their_place_or_change_it():
    german = catalogue(
        {"{0} of {1} steps": "{1} Schritte, davon {0}", "{0} = {1}: must be at most {2}.": "{0} = {1}: höchstens {2}."}
    )
    assert german("3 of 10 steps") == "10 Schritte, davon 3"
    assert german("learning_rate = 50: must be at most 10.") == "learning_rate = 50: höchstens 10."
    assert german("3 of 10 rows") == "3 of 10 rows"


def test_of_two_templates_the_more_literal_one_counts_and_a_whole_text_before_both():
    german = catalogue({"{0} steps": "{0} Schritte", "{0} of 10 steps": "{0} von 10", "5 of 10 steps": "die Hälfte"})
    assert [german(each) for each in ("4 of 10 steps", "5 of 10 steps", "6 steps")] == [
        "4 von 10",
        "die Hälfte",
        "6 Schritte",
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read"),
        (["Seed"], "not an object"),
        ({"Seed": 3}, "not an object"),
        ({"{0} of {0}": "{0}"}, "a place twice"),
        ({"{0} steps": "{1} Schritte"}, "does not have"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_its_path_and_a_remedy(language, content, why):
    language(content)
    with pytest.raises(Trouble, match=why) as caught:
        translated("Seed")
    assert caught.value.remedy


def test_a_language_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv(texts.VARIABLE, "xx")
    with pytest.raises(Trouble, match="xx"):
        translated("Seed")
