"""What a field can hold is taken, and nothing else reaches a handler."""

import asyncio
import math

import gradio as gr
import pytest
from rollout_studio.app.parts.given import check, is_of_its_kind
from rollout_studio.app.parts.translation import TranslatedBlocks

TAKEN = {
    gr.Textbox: ["", "x", None, 3], gr.Number: [1, 2.5, -3, None, 10**30], gr.Slider: [1, 0.5], gr.Checkbox: [True, False, None],
    gr.Dropdown: ["a", 1, None, True], gr.Radio: ["a", None], gr.CheckboxGroup: [["a"], [], None], gr.HTML: ["x", {"any": "thing"}],
}  # fmt: skip
REFUSED = {
    gr.Textbox: [[], {}, ["x"], {"a": 1}], gr.Number: ["1", True, [1], {}, math.nan, math.inf], gr.Slider: ["x", []], gr.Checkbox: ["true", 1, []],
    gr.Dropdown: [["a"], {}, [[1]]], gr.Radio: [["a"], {}], gr.CheckboxGroup: ["a", [["a"]], {}],
}  # fmt: skip


@pytest.mark.parametrize("kind", TAKEN)
def test_a_field_takes_what_it_can_hold_and_nothing_else(kind):
    with gr.Blocks():
        field = kind()
    assert all(is_of_its_kind(field, value) for value in TAKEN[kind])
    assert not any(is_of_its_kind(field, value) for value in REFUSED.get(kind, ()))


def test_a_choice_of_many_is_a_list_and_a_wrong_value_is_an_answer_without_a_traceback():
    with gr.Blocks():
        many = gr.Dropdown(multiselect=True)
    assert is_of_its_kind(many, ["a"]) and not is_of_its_kind(many, "a")
    check([many], [["a"]])
    with pytest.raises(gr.Error) as refused:
        check([many, many], [["a"], "a"])
    assert refused.value.print_exception is False and "Reload" in str(refused.value)


def test_the_page_checks_what_its_handlers_get_and_takes_no_update_for_none():
    with TranslatedBlocks() as page:
        one, two = gr.Textbox(), gr.Textbox()
        one.change(lambda given: {}, one, [one, two])
    handler = page.fns[0]
    assert asyncio.run(page.preprocess_data(handler, ["x"], None)) == ["x"]
    with pytest.raises(gr.Error, match="another kind"):
        asyncio.run(page.preprocess_data(handler, [["x"]], None))
    sent = asyncio.run(page.postprocess_data(handler, {}, None))
    assert [each["__type__"] for each in sent] == ["update", "update"] and not any("value" in each for each in sent)
