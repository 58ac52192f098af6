"""The draft of the form that the browser keeps; the reload itself is in the story of `test_page_story.py`."""

import pytest
from rollout_studio.app.train.draft import Draft
from rollout_studio.core.config import differences, load_preset, preset_names, with_changes


@pytest.mark.parametrize("name", preset_names())
def test_a_kept_config_is_read_back_as_it_was(name):
    import json

    config, draft = with_changes(load_preset(name), {"max_train_steps": 777, "lora_targets": ("to_q", "to_k")}), Draft()
    [value] = draft.kept(config, name, "mine").values()
    assert draft.read(json.loads(json.dumps(value))) == (config, name, "mine")


@pytest.mark.parametrize(
    "value",
    [None, [], "text", {}, {"changes": {}}, {"changes": [], "preset": "demo"}, {"changes": {"no_such_option": 1}, "preset": "demo"},
     {"changes": {"learning_rate": "NaN"}, "preset": "demo"}],
)  # fmt: skip
def test_what_is_no_draft_is_left_alone(value):
    assert Draft.read(value) is None


def test_only_what_differs_from_the_defaults_is_kept():
    config = load_preset("demo")
    [value] = Draft().kept(config, "demo", None).values()
    assert value["changes"] == differences(config) and "adam_beta1" not in value["changes"]
