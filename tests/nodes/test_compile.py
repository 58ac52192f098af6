"""Form -> graph -> form, graph -> config -> graph, and graph -> JSON -> graph lose nothing."""

import json
import random

import pytest
from rollout_studio.core.config import (
    OPTIONS,
    ConfigError,
    RunConfig,
    config_from_flat,
    config_to_flat,
    load_preset,
    preset_names,
)
from rollout_studio.nodes.comfy.files import to_ui
from rollout_studio.nodes.graph import parts
from rollout_studio.nodes.graph.compile import config_of, graph_of, with_values
from rollout_studio.nodes.graph.declaration import NODES, Widget
from rollout_studio.nodes.graph.graph import GraphError, to_api, to_json
from rollout_studio.nodes.graph.validate import faults
from rollout_studio.nodes.reading import read, read_file


def other_value(option, draw):
    """A valid value that is not the default, as far as one option alone can say."""
    if option.choices is not None:
        return draw.choice([choice for choice in option.choices if choice != option.default])
    if option.type == "bool":
        return True if option.default is None else not option.default
    if option.type == "str":
        return draw.choice(["a folder", "with 'quotes' and \"more\"", "ünïcode ☃", "{}[]<b>"])
    if option.name == "lora_rank_pattern":
        return ["to_q=8", "ff.net=4:2"]
    if option.type.startswith("list"):
        return {"str": ["one, two", "three"], "int": [2, 7]}[option.type[5:-1]]
    low = 0 if option.minimum is None else option.minimum
    high = min(low + 50, option.maximum)
    return draw.randint(int(low) + 1, int(high)) if option.type == "int" else draw.uniform(low, high)


def any_config(base: RunConfig, draw: random.Random) -> RunConfig:
    """A config some options away from `base`; options that contradict the others are left."""
    flat = config_to_flat(base)
    for name in draw.sample(list(OPTIONS), 25):
        changed = flat | {name: other_value(OPTIONS[name], draw)}
        try:
            config_from_flat(changed)
        except ConfigError:
            continue
        flat = changed
    return config_from_flat(flat)


@pytest.mark.parametrize("name", preset_names())
def test_a_form_as_a_graph_gives_the_form_back(name):
    draw = random.Random(name)
    configs = [load_preset(name), *(any_config(load_preset(name), draw) for _ in range(25))]
    for config in configs:
        assert config_of(graph_of(config)) == config


@pytest.mark.parametrize("name", preset_names())
def test_a_graph_as_a_config_gives_the_graph_back(name):
    draw = random.Random(name)
    for config in [load_preset(name), *(any_config(load_preset(name), draw) for _ in range(15))]:
        graph = graph_of(config, "mine")
        assert not faults(graph)
        assert graph_of(config_of(graph), "mine") == graph


@pytest.mark.parametrize("name", preset_names())
def test_a_graph_survives_its_file(name, tmp_path):
    graph = graph_of(any_config(load_preset(name), random.Random(name)))
    (tmp_path / "graph.json").write_text(to_json(graph), encoding="utf-8")
    assert read_file(tmp_path / "graph.json") == (graph, [])
    again, problems = read(json.dumps(to_api(graph)))
    assert again.nodes == graph.nodes and not problems


@pytest.mark.parametrize("name", ["compare-two-rollouts", "demo-training", "rollout-preview"])
def test_a_graph_survives_comfyuis_own_file(workflow, name):
    """Ids are numbers there and defaults are written out, so what each node reads is compared."""
    graph = workflow(name)
    for data_ in (
        to_ui(graph),
        {**to_ui(graph), "nodes": [{**n, "widgets_values_named": None} for n in to_ui(graph)["nodes"]]},
    ):
        again, problems = read(json.dumps(data_))
        assert not problems and not faults(again)
        assert [node.kind for node in again.nodes.values()] == [node.kind for node in graph.nodes.values()]
        for id, number in zip(graph.nodes, again.nodes, strict=True):
            for widget in NODES[graph.nodes[id].kind].widgets:
                there = again.nodes[number].inputs.get(widget.name, widget.default)
                assert widget.read(there) == widget.read(graph.nodes[id].inputs.get(widget.name, widget.default))


def test_every_option_is_on_exactly_one_settings_node():
    """A new option must find its node: else forms and graphs would differ."""
    groups = [
        parts.MODEL_OPTIONS, parts.LORA_OPTIONS, parts.OPTIMIZER_OPTIONS, parts.TRAINING_OPTIONS, parts.VALIDATION_OPTIONS,
        parts.DRIFT_OPTIONS, parts.FOLDER_OPTIONS, parts.DATASET_OPTIONS, parts.CLASS_OPTIONS, parts.SAMPLING_OPTIONS,
        parts.REFLEXFLOW_OPTIONS, *(options for _, options in parts.OTHER_REMEDIES.values()), ("model_type", "class_data_dir", "drift_data_dir"),
    ]  # fmt: skip
    assert sorted(name for group in groups for name in group) == sorted(OPTIONS)


def test_the_shipped_presets_workflows_are_those_presets(workflow):
    """Else: python tools/make_workflows.py"""
    for name in preset_names():
        assert workflow(f"preset-{name}") == graph_of(load_preset(name), name)


def test_widgets_say_what_their_option_says():
    widgets = {widget.name: widget for widget in NODES["RolloutStudioScheduledSampling"].widgets}
    option = OPTIONS["scheduled_sampling_max_step_offset"]
    assert (
        widgets["max_step_offset"].option.maximum == option.maximum
        and widgets["max_step_offset"].default == option.default
    )
    assert all(
        widget.option.help for declared in NODES.values() for widget in declared.widgets if isinstance(widget, Widget)
    )


def test_fields_are_set_by_id_or_title_from_text(workflow):
    graph = with_values(workflow("compare-two-rollouts"), {
        "rollout_b.max_step_offset": "3", "B: ReflexFlow.reflexflow_beta1": "2", "validation.prompts": "one\ntwo", "drift.offsets": "1, 2",
        "model.device": "cpu",
    })  # fmt: skip
    assert graph.nodes["rollout_b"].inputs["max_step_offset"] == 3
    assert graph.nodes["reflexflow_b"].inputs["reflexflow_beta1"] == 2
    assert graph.nodes["validation"].inputs["prompts"] == ["one", "two"] and graph.nodes["drift"].inputs["offsets"] == [
        1,
        2,
    ]
    assert not faults(graph)


def test_setting_what_is_not_there_says_everything_wrong(workflow):
    with pytest.raises(GraphError) as refusal:
        with_values(
            workflow("compare-two-rollouts"),
            {"nobody.x": "1", "rollout_b.grid_stepz": "2", "rollout_b.grid_steps": "many"},
        )
    assert len(refusal.value.problems) == 3
    assert (
        "there is no such node" in str(refusal.value)
        and "there is no such field" in str(refusal.value)
        and "whole number" in str(refusal.value)
    )
