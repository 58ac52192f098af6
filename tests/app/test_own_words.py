"""Own pictures replace the demo's words: which values go, which stay, and what is said about it. No browser here."""

import gradio as gr
import pytest
from PIL import Image
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train import own_words
from rollout_studio.app.train.tab import TrainTab
from rollout_studio.core.config import config_to_flat, load_preset, preset_names, with_changes
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.demo import DREAMBOOTH, resolve

DEMO = load_preset("demo")
HOSTILE = "<script>alert(1)</script>${alert(2)}"


def own(**changes):
    """The demo's form with pictures of a person's own in it."""
    return with_changes(DEMO, {"instance_data_dir": "/home/me/cups", **changes})


def after(config, changes):
    return config_to_flat(with_changes(config, changes))


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("demo")])
def test_own_pictures_take_every_word_of_the_demo_out_and_leave_a_form_that_can_be_kept(name):
    preset = load_preset(name)
    config = with_changes(preset, {"instance_data_dir": "/home/me/cups"})
    new = after(config, own_words.changes(config, preset, "demo-dreambooth"))
    assert {key: new[key] for key in ("trigger_word", "instance_prompt", "class_prompt", "class_data_dir", "drift_data_dir", "validation_prompts")} == {
        "trigger_word": None, "instance_prompt": None, "class_prompt": None, "class_data_dir": None, "drift_data_dir": None, "validation_prompts": [],
    }  # fmt: skip
    assert not new["with_prior_preservation"], "it cannot be without a class prompt"
    assert "zwx" not in str(new) and new["instance_data_dir"] == "/home/me/cups"
    assert (new["resolution"], new["max_train_steps"], new["lora_targets"]) == (
        64,
        preset.training.max_train_steps,
        config_to_flat(preset)["lora_targets"],
    ), "the model's own stay"


@pytest.mark.parametrize(
    "typed", [{"trigger_word": "qrx"}, {"instance_prompt": "a cup"}, {"validation_prompts": ["a cup on a table"]}, {"resolution": 96},
              {"class_prompt": "a cup"}, {"drift_data_dir": "/home/me/other cups"}],
)  # fmt: skip
def test_what_a_person_typed_stays(typed):
    new = after(own(**typed), own_words.changes(own(**typed), DEMO, "demo-dreambooth"))
    assert {name: new[name] for name in typed} == typed
    assert new["with_prior_preservation"] == ("class_prompt" in typed), (
        "class pictures of one's own are drawn; the demo's are not taken for them"
    )
    assert new["class_data_dir"] is None


def test_class_pictures_that_a_person_turned_on_go_off_with_the_demos_class_prompt():
    """Else the form would be no config, and a reload would lose it."""
    preset = with_changes(DEMO, {"with_prior_preservation": False})
    assert not after(own(), own_words.cleared(own(), preset))["with_prior_preservation"]


@pytest.mark.parametrize("before", ["demo-dreambooth", str(DREAMBOOTH), None])
def test_words_go_when_own_pictures_come_and_not_with_other_own_pictures(before):
    assert own_words.changes(own(), DEMO, before)
    assert own_words.changes(own(), DEMO, "/home/me/cats") == {}, "the words there now are wanted, or were put back"
    assert own_words.changes(DEMO, DEMO, before) == {}


def test_a_preset_without_the_demos_pictures_has_no_words_to_lose():
    mine = own(instance_prompt="a cup")
    assert (
        own_words.changes(mine, mine, "demo-dreambooth") == {} and own_words.message(mine, mine) == own_words.Message()
    )
    plain = load_preset("sd15")
    assert own_words.changes(with_changes(plain, {"instance_data_dir": "/home/me/cups"}), plain, None) == {}


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/cups", "/home/me/" + "x" * 5000])
def test_a_folder_that_no_disk_can_hold_is_no_built_in_one_and_refused(folder):
    assert own_words.is_own(folder)
    with pytest.raises(ConfigError, match="no account has that name|at most 255"):
        own(instance_data_dir=folder)


def test_a_folder_with_almost_a_built_in_ones_name_is_ones_own():
    assert own_words.message(own(instance_data_dir="demo-dreambooth-2"), DEMO).clear


def test_what_was_cleared_is_put_back_whole_and_what_was_typed_since_stays():
    prompts = ["a cup on a table"]
    cleared = with_changes(own(), own_words.cleared(own(), DEMO, prompts))
    assert config_to_flat(cleared)["validation_prompts"] == prompts
    assert with_changes(cleared, own_words.put_back(cleared, DEMO, prompts)) == own()
    typed = with_changes(cleared, {"trigger_word": "qrx", "class_prompt": "a cup"})
    new = after(typed, own_words.put_back(typed, DEMO, prompts))
    assert (new["trigger_word"], new["class_prompt"], new["class_data_dir"], new["instance_prompt"]) == (
        "qrx",
        "a cup",
        None,
        "a zwx shape",
    )
    again = with_changes(cleared, {"instance_data_dir": "demo-dreambooth"})
    assert with_changes(again, own_words.changes(again, DEMO, "/home/me/cups", prompts)) == DEMO, (
        "with the demo's pictures come its words"
    )


@pytest.mark.parametrize(
    ("model", "resolution"),
    [("demo-flow", 64), ("demo-epsilon", 64), ("stable-diffusion-v1-5/stable-diffusion-v1-5", 512), ("stabilityai/stable-diffusion-3.5-medium", 1024),
     ("somebody/model", 512), (resolve("demo-flow"), 64)],
)  # fmt: skip
def test_the_resolution_is_what_the_chosen_model_was_made_for(model, resolution):
    config = own(pretrained_model_name_or_path=model)
    assert after(config, own_words.cleared(config, DEMO))["resolution"] == resolution


def test_validation_prompts_are_the_first_different_captions_else_the_caption_for_all():
    assert own_words.prompts_from(["a", "b", "a", "", "c", "d", "e"], "for all") == ["a", "b", "c", "d"]
    assert own_words.prompts_from(["", ""], "for all") == ["for all"] and own_words.prompts_from([], None) == []


def test_what_was_cleared_is_reported_with_the_reason_until_the_words_are_written():
    config = with_changes(own(), own_words.cleared(own(), DEMO))
    message = own_words.message(config, DEMO)
    assert "the demo&#x27;s texts are cleared" in message.markup and "was “zwx”, is now empty" in message.markup
    assert "stays 64 px, because the small model demo-flow" in message.markup
    assert (message.clear, message.back, message.prompts) == (False, True, True)
    partly = own_words.message(with_changes(config, {"trigger_word": HOSTILE}), DEMO)
    assert "&lt;script&gt;alert(1)" in partly.markup and "${" not in partly.markup and "<script" not in partly.markup
    written = with_changes(
        config,
        {
            "trigger_word": "qrx",
            "instance_prompt": "a qrx cup",
            "class_prompt": "a cup",
            "validation_prompts": ["a qrx cup"],
        },
    )
    assert own_words.message(written, DEMO) == own_words.Message()
    assert own_words.message(DEMO, DEMO) == own_words.Message()


def test_words_of_the_demo_that_are_there_still_are_reported_and_can_be_cleared():
    """As after an old draft, or a change of the model after the pictures."""
    message = own_words.message(own(), DEMO)
    assert message.clear and not message.back and "“zwx”, as in the demo" in message.markup
    config = with_changes(own(), {**own_words.cleared(own(), DEMO), "pretrained_model_name_or_path": "somebody/model"})
    message = own_words.message(config, DEMO)
    assert message.clear and "64, as in the demo" in message.markup


# -- in the tab -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path):
    with gr.Blocks():
        return TrainTab(Watch(tmp_path / "runs"))


@pytest.fixture
def given(train):
    """What the browser holds of the demo."""
    held = {each: getattr(each, "value", None) for each in train.inputs}
    return {
        **held,
        **train.form.show(DEMO),
        train.marked: [],
        train.pictures.held: "demo-dreambooth",
        train.pictures.editor: "",
    }


def cups(folder, captions):
    folder.mkdir()
    for number, caption in enumerate(captions):
        Image.new("RGB", (96, 80), (40 * number, 90, 200)).save(folder / f"cup-{number}.png")
        if caption:
            (folder / f"cup-{number}.txt").write_text(caption)
    return str(folder)


def held(given, updates):
    """What the browser holds after an answer."""
    now = dict(given)
    for each, new in updates.items():
        update = isinstance(new, dict) and "__type__" in new
        if update and "value" in new:
            now[each] = new["value"]
        elif not update and not isinstance(new, gr.components.Component):
            now[each] = new
    return now


def test_own_pictures_without_any_caption_do_not_start_and_the_field_says_why(train, given, tmp_path):
    fields = train.form.components
    given = {**given, fields["instance_data_dir"]: cups(tmp_path / "cups", ["a cup", "", ""])}
    given = held(given, train.pictures.on_folder(train, given))
    assert (given[fields["instance_prompt"]], given[fields["validation_prompts"]]) == ("", "a cup")
    assert given[train.draft.state]["changes"]["instance_data_dir"] == str(tmp_path / "cups"), (
        "a reload finds the form so"
    )
    for press in (train.on_check, train.on_start):
        answer = press(given)
        assert "2 pictures have no caption of their own" in answer[fields["instance_prompt"]]["info"]
        assert "rs-bad" in answer[train.findings] and not train.watch.store.list()
    given = {**held(given, answer), fields["instance_prompt"]: "a cup"}
    assert "⚠" not in train.on_edit(given)[fields["instance_prompt"]]["info"], "mended, the mark goes"


def test_a_chosen_word_that_needs_a_cleared_one_is_reported_at_its_field(train, given, tmp_path):
    fields = train.form.components
    given = {
        **given,
        fields["instance_data_dir"]: cups(tmp_path / "cups", [""]),
        fields["caption_strategy"]: "instanceprompt",
    }
    answer = train.pictures.on_folder(train, given)
    assert (
        "needs instance_prompt" in answer[fields["instance_prompt"]]["info"]
        and answer[fields["instance_prompt"]]["value"] == ""
    )


def test_a_fault_elsewhere_lets_the_words_wait_until_the_form_can_be_read(train, given, tmp_path):
    fields = train.form.components
    wrong = {**given, fields["instance_data_dir"]: cups(tmp_path / "cups", [""]), fields["learning_rate"]: 50}
    answer = train.pictures.on_folder(train, wrong)
    assert fields["instance_prompt"] not in answer and train.pictures.held not in answer
    mended = {**held(wrong, answer), fields["learning_rate"]: 0.001}
    assert train.on_edit(mended)[train.pictures.words.clear]["visible"]
    assert held(mended, train.pictures.on_folder(train, mended))[fields["instance_prompt"]] == ""
