"""The form is made from the options and gives back exactly the config that it was shown."""

import math

import gradio as gr
import pytest
from rollout_studio.app.parts.forms import Form, component, from_component, info, is_slider, label, to_component
from rollout_studio.app.train.summary import plan_sentence
from rollout_studio.core.config import (
    OPTIONS,
    SECTIONS,
    RunConfig,
    config_from_flat,
    config_to_flat,
    load_preset,
    preset_names,
    with_changes,
)
from rollout_studio.core.config.options import ConfigError

# A value other than the default for every option that cannot be changed alone, or whose kind does not suggest one.
OTHER = {
    "validation_prompts": ("one, with a comma", "[two]", " kept blanks ", "line\nbreak"),
    "lora_targets": ("to_q", "to_k"),
    "lora_rank_pattern": ("to_q=8", "to_k=4:2"),
    "drift_offsets": (2, 7),
    "pretrained_model_name_or_path": "/models/mine",
    "prediction_type": "flow_matching",
    "concepts": '[{"instance_data_dir": "cat", "trigger_word": "qrx"}]',
}
TOGETHER = {
    "with_prior_preservation": {"class_prompt": "a dog"},
    "caption_strategy": {"instance_prompt": "a dog"},
    "prediction_type": {"pretrained_model_name_or_path": "/models/mine"},
    "scheduled_sampling_reflexflow_mode": {},
}


@pytest.fixture(scope="module")
def form():
    form = Form(RunConfig())
    with gr.Blocks():
        for section in SECTIONS:
            form.place(*form.missing(section))
    return form


def given(form, config):
    """What the browser would send for a form that shows `config`."""
    return form.show(config)


def other_value(option):
    if option.name in OTHER:
        return OTHER[option.name]
    if option.choices is not None:
        return next(choice for choice in option.choices if choice != option.default)
    if option.type == "bool":
        return not option.default
    if option.type == "str":
        return "something else"
    low = option.minimum if option.minimum is not None else 0
    high = option.maximum if option.maximum is not None else low + 10
    value = low + (high - low) / 4 if option.type == "float" else int(low + (high - low) // 4)
    return value if value != option.default else high


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_shown_and_read_again_is_the_same_config(form, name):
    config = load_preset(name)
    assert form.read(given(form, config)) == config


@pytest.mark.parametrize("name", OPTIONS)
def test_a_changed_option_comes_back_from_its_component_exactly(name):
    option = OPTIONS[name]
    value = option.read(other_value(option))
    assert value != option.default
    assert from_component(option, to_component(option, value)) == value
    assert from_component(option, to_component(option, option.default)) == option.read(option.default)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_change_in_the_form_reaches_the_config_and_nothing_else_moves(form, name):
    changes = {name: other_value(OPTIONS[name]), **TOGETHER.get(name, {})}
    try:
        wanted = with_changes(RunConfig(), changes)
    except ConfigError:
        pytest.skip("this value alone contradicts a default; refused by the rules between options")
    raw = given(form, RunConfig())
    for key, value in changes.items():
        raw[form.components[key]] = to_component(OPTIONS[key], value)
    assert config_to_flat(form.read(raw)) == config_to_flat(wanted)


def test_every_option_has_one_component_and_a_second_is_refused(form):
    form.check_complete()
    assert set(form.components) == set(OPTIONS)
    with pytest.raises(ValueError, match="seed"):
        form.place("seed")


def test_an_option_without_a_component_is_an_error():
    with pytest.raises(ValueError, match="learning_rate"):
        Form(RunConfig()).check_complete()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("optimizer", gr.Dropdown), ("use_ema", gr.Checkbox), ("scheduled_sampling_reflexflow", gr.Radio),
     ("scheduled_sampling_probability", gr.Slider), ("learning_rate", gr.Number), ("max_train_steps", gr.Number),
     ("ema_decay", gr.Number), ("validation_guidance", gr.Textbox), ("trigger_word", gr.Textbox), ("validation_prompts", gr.Textbox)],
)  # fmt: skip
def test_the_kind_of_an_option_decides_its_component(name, kind):
    assert isinstance(component(OPTIONS[name], OPTIONS[name].default), kind)


def test_a_slider_reaches_every_place_between_its_bounds():
    for option in OPTIONS.values():
        if is_slider(option):
            slider = component(option, option.default)
            assert (slider.minimum, slider.maximum) == (option.minimum, option.maximum)
            assert option.type == "float" or slider.step == 1


def test_every_number_of_scheduled_sampling_has_a_slider_and_takes_what_lies_beyond_it(form):
    numbers = [option for option in OPTIONS.values() if option.section == "rollout" and option.type in ("int", "float")]
    assert len(numbers) == 16
    for option in numbers:
        field = form.components[option.name]
        if option.soft is None:
            assert isinstance(field, gr.Slider) and field.maximum == option.maximum, option.name
            continue
        slider = form.sliders[option.name]
        assert isinstance(field, gr.Number) and (field.minimum, field.maximum) == (None, None), option.name
        assert option.minimum == slider.minimum < slider.maximum < option.maximum, option.name
        raw = given(form, RunConfig()) | {field: option.maximum}
        config = form.read(raw)
        assert config_to_flat(config)[option.name] == option.maximum
        assert form.show(config, [option.name])[field] == form.slid(config)[slider]["value"] == option.maximum


def test_a_slider_reaches_as_far_as_the_grid_and_the_run_make_sense(form):
    def end(name, **changes):
        config = with_changes(
            RunConfig(),
            {"max_train_steps": 400, **{f"scheduled_sampling_{key}": value for key, value in changes.items()}},
        )
        return form.reaches(config)[form.sliders[f"scheduled_sampling_{name}"]]["maximum"]

    assert end("ramp_steps") == end("start_step") == 400
    assert (
        end("max_step_offset") == 10
        and end("max_step_offset", grid_steps=50) == 17
        and end("max_step_offset", grid="training") == 50
    )
    assert end("max_step_offset", max_step_offset=44) == 10, "a larger value is typed and does not stretch the slider"
    assert end("max_step_offset", grid_steps=2) == 1
    assert (
        end("guidance") == 10
        and end("reflexflow_alpha") == end("reflexflow_beta2") == 5
        and end("reflexflow_beta1") == 20
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 2, True, "a lot", None])
def test_no_component_lets_a_bad_number_through(form, value):
    """Sliders pass NaN, and a request can be made without the page: the handler's reading is the barrier."""
    raw = given(form, RunConfig())
    raw[form.components["scheduled_sampling_probability"]] = value
    with pytest.raises(ConfigError, match="scheduled_sampling_probability"):
        form.read(raw)


def test_a_part_of_a_step_is_refused_not_rounded(form):
    raw = given(form, RunConfig())
    raw[form.components["max_train_steps"]] = 10.5
    with pytest.raises(ConfigError, match="whole number"):
        form.read(raw)


def test_all_faults_come_at_once_each_at_its_own_field(form):
    raw = given(form, RunConfig())
    raw[form.components["learning_rate"]] = 50
    raw[form.components["with_prior_preservation"]] = True
    updates, wrong = form.marks(raw, [])
    assert set(wrong) == {"learning_rate", "class_prompt"}
    assert "at most 10" in updates[form.components["learning_rate"]]["info"]
    raw[form.components["learning_rate"]] = 0.5
    updates, wrong = form.marks(raw, wrong)  # the mended field gets its help back
    assert wrong == ["class_prompt"]
    assert updates[form.components["learning_rate"]]["info"] == info(OPTIONS["learning_rate"], full=False)


def test_labels_are_for_people_and_say_the_unit_once():
    assert label(OPTIONS["resolution"]) == "Resolution (px)"
    assert label(OPTIONS["max_train_steps"]) == "Training steps"
    assert len({label(option) for option in OPTIONS.values()}) == len(OPTIONS)


def test_the_plan_names_what_trains_beside_the_denoiser():
    tokens = {"new_tokens": 2, "trigger_word": "qrx", "new_token_initializer": "dog"}
    said = plan_sentence(config_from_flat({"train_text_encoder": True, **tokens}))
    assert "LoRA of rank 16, also of the text encoders, with 2 new tokens for the trigger word on" in said
