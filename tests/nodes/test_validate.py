"""Broken workflows: everything wrong is reported at once, by node and input, in ComfyUI's words; never a traceback, never a partial run."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from rollout_studio.core.config import load_preset, rollout_level, with_changes
from rollout_studio.nodes.execute.execute import execute
from rollout_studio.nodes.graph.bypass import passed_through
from rollout_studio.nodes.graph.compile import config_of, graph_of
from rollout_studio.nodes.graph.graph import Graph, GraphError, Link, Node, to_data, to_json
from rollout_studio.nodes.graph.validate import as_comfy, faults
from rollout_studio.nodes.reading import read

P = "RolloutStudio"
ROLLED = with_changes(load_preset("demo"), rollout_level("gentle", 300))


def whole() -> dict:
    return to_data(graph_of(ROLLED))


def problems_of(data) -> list:
    """Everything wrong with a workflow, from text as a person would give it."""
    text = data if isinstance(data, str) else json.dumps(data)
    try:
        graph, problems = read(text)
    except GraphError as error:
        return list(error.problems)
    return [*problems, *faults(graph)]


def broken(change) -> dict:
    data = whole()
    change(data["prompt"])
    return data


def put(id, **inputs):
    return lambda prompt: prompt[id]["inputs"].update(inputs)


def chain(number, close=False):
    """A chain of ReflexFlow nodes; closed, it is one circle."""
    nodes = {str(i): {"class_type": P + "ReflexFlow", "inputs": {"rollout": [str(i - 1), 0]}} for i in range(1, number)}
    nodes["0"] = {"class_type": P + "ReflexFlow", "inputs": {"rollout": [str(number - 1), 0]}} if close else {
        "class_type": P + "ScheduledSampling", "inputs": {}}  # fmt: skip
    nodes["plot"] = {"class_type": P + "ProbabilityRampPlot", "inputs": {"rollout": [str(number - 1), 0]}}
    return nodes


BROKEN = {
    "an unknown kind of node": (broken(lambda p: p["model"].update(class_type=P + "Modle")), "missing_node_type", "model", "Did you mean"),
    "python's own names": (broken(lambda p: p["model"].update(class_type="__class__")), "missing_node_type", "model", ""),
    "a kind that is no text": (broken(lambda p: p["model"].update(class_type=["x"])), "missing_node_type", "model", ""),
    "an unknown input": (broken(put("rollout", max_step_offsett=1)), "custom_validation_failed", "rollout", "Did you mean 'max_step_offset'"),
    "a dunder input": (broken(put("rollout", __class__=1)), "custom_validation_failed", "rollout", "no such input"),
    "a missing input": (broken(lambda p: p["train"]["inputs"].pop("model")), "required_input_missing", "train", "ROLLOUT_MODEL"),
    "a wrong link": (broken(put("train", model=["dataset", 0])), "return_type_mismatch", "train", "ROLLOUT_DATASET"),
    "a slot out of range": (broken(put("train", model=["model", 7])), "bad_linked_input", "train", "output 7"),
    "a negative slot": (broken(put("train", model=["model", -1])), "bad_linked_input", "train", "output -1"),
    "a link to nowhere": (broken(put("train", model=["ghost", 0])), "bad_linked_input", "train", "not there"),
    "a value for a socket": (broken(put("train", model="demo-flow")), "invalid_input_type", "train", "takes a link"),
    "a link that is half": (broken(put("train", model=["model"])), "invalid_input_type", "train", "takes a link"),
    "too small": (broken(put("rollout", prob_end=-0.5)), "value_smaller_than_min", "rollout", "at least 0"),
    "too large": (broken(put("rollout", max_step_offset=10**6)), "value_bigger_than_max", "rollout", "at most 1000"),
    "not on the list": (broken(put("rollout", sampler="heun")), "value_not_in_list", "rollout", "must be one of"),
    "text for a number": (broken(put("optimizer", learning_rate="fast")), "invalid_input_type", "optimizer", "must be a number"),
    "a number for a switch": (broken(put("dataset", random_flip=1)), "invalid_input_type", "dataset", "true or false"),
    "a nested value": (broken(put("optimizer", learning_rate={"__value__": {"__value__": [1]}})), "invalid_input_type", "optimizer", ""),
    "a circle": (chain(5, close=True), "dependency_cycle", "0", "circle"),
    "a circle of one": (broken(lambda p: p.update(r={"class_type": P + "ReflexFlow", "inputs": {"rollout": ["r", 0]}})), "dependency_cycle", "r", ""),
    "a rule between options": (broken(put("rollout", sampler="dpm", order=3)), "custom_validation_failed", "train", "dpm has order 1 or 2"),
    "reflexflow on an epsilon model": (
        broken(lambda p: (put("model", model="demo-epsilon")(p), put("reflexflow", reflexflow=True)(p))), "custom_validation_failed", "train", "flow model"),
    "nothing to look at": ({"n": {"class_type": P + "Note", "inputs": {}}}, "prompt_no_outputs", None, ""),
    "an empty file": ({}, "prompt_no_outputs", None, ""),
    "a path out of the folder": (
        {"s": {"class_type": P + "SaveImage", "inputs": {"images": ["l", 0], "name": "../../evil"}},
         "l": {"class_type": P + "LoadImage", "inputs": {"path": "x.png"}}}, "custom_validation_failed", "s", "letters, digits"),
    "another machine's share": (broken(put("folder", path="\\\\evil\\share")), "custom_validation_failed", "folder", "another machine"),
    "a NUL in a text": (broken(put("folder", path="a\0b")), "invalid_input_type", "folder", "NUL"),
    "a newer version": ({**whole(), "version": 99}, "invalid_prompt", None, "99"),
    "another format": ({**whole(), "format": "else"}, "invalid_prompt", None, "else"),
    "a list of nodes": ([1, 2], "invalid_prompt", None, "one JSON object"),
    "a node that is text": (broken(lambda p: p.update(x="text")), "invalid_prompt", "x", "object"),
    "not a number": ('{"a": {"class_type": "x", "inputs": {"v": NaN}}}', "invalid_prompt", None, "NaN"),
    "a comma too many": ('{"a": 1,}', "invalid_prompt", None, "Broken JSON"),
    "a key twice": ('{"a": {"class_type": "x"}, "a": {"class_type": "y"}}', "invalid_prompt", None, "twice"),
    "half a character": ('{"a": {"class_type": "\\ud800"}}', "invalid_prompt", None, "surrogate"),
    "a number of 5000 digits": ('{"a": ' + "9" * 5000 + "}", "invalid_prompt", None, "JSON"),
    "deep nesting": ("[" * 100_000 + "]" * 100_000, "invalid_prompt", None, "deep"),
    "deep objects": ('{"a":' * 500 + "1" + "}" * 500, "invalid_prompt", None, "deeper"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_workflow_is_reported_with_its_node(name):
    data, type_, node, words = BROKEN[name]
    problems = problems_of(data)
    assert any(p.type == type_ and p.node == node and words in p.message for p in problems), [
        f"{p.type} {p}" for p in problems
    ]


def test_everything_wrong_is_reported_at_once():
    data = broken(lambda p: [
        put("rollout", prob_end=2, nonsense=1)(p), put("optimizer", learning_rate="x")(p), put("train", model=["ghost", 0])(p),
        p["lora"].update(class_type="Nope"),
    ])  # fmt: skip
    problems = problems_of(data)
    assert {(p.node, p.type) for p in problems} >= {
        ("rollout", "value_bigger_than_max"), ("rollout", "custom_validation_failed"), ("optimizer", "invalid_input_type"),
        ("train", "bad_linked_input"), ("lora", "missing_node_type"),
    }  # fmt: skip


def test_control_characters_of_a_stranger_do_not_reach_the_terminal():
    problems = problems_of(
        broken(lambda p: p.update({"\x1b[31mred": {"class_type": "\x1b]0;title\x07", "inputs": {}}}))
    )
    assert problems and not any("\x1b" in str(problem) for problem in problems)


def test_a_broken_workflow_runs_nothing(store, tmp_path, events):
    """Even where only one of two branches is wrong."""
    data = whole()
    data["prompt"]["bad"] = {"class_type": P + "ProbabilityRampPlot", "inputs": {}}
    graph, _ = read(data)
    with pytest.raises(GraphError):
        execute(graph, store, tmp_path / "out", listen=events)
    assert not events and not store.list() and not (tmp_path / "out").exists()


def test_a_training_without_pictures_is_refused_before_anything_runs(store, tmp_path, events):
    data = whole()
    data["prompt"]["folder"]["inputs"]["path"] = str(tmp_path / "nowhere")
    with pytest.raises(GraphError, match="nowhere"):
        execute(read(data)[0], store, tmp_path / "out", listen=events)
    assert not events and not store.list()


def test_a_chain_of_thousands_is_fine():
    assert problems_of(chain(4900)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
def test_hostile_sizes_are_refused_in_no_time(tmp_path):
    """200 MB and 100,000 nodes: at most 2 s of this process, and no 200 MB of memory. Measured in a process of its own."""
    (tmp_path / "many.json").write_text(json.dumps({str(i): {"class_type": "x", "inputs": {}} for i in range(100_000)}))
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(200 * 2**20)
    wide = {"a": {"class_type": "x", "inputs": {"v": {"__value__": [[]] * 690_000}}}}
    (tmp_path / "wide.json").write_text(json.dumps(wide, separators=(",", ":")))
    code = (
        "import sys, time, re\n"
        "from rollout_studio.nodes.reading import load\nfrom rollout_studio.nodes.graph.graph import GraphError\n"
        "start = time.process_time()\n"
        "try: load(sys.argv[1])\nexcept GraphError as error: print(len(error.problems))\n"
        "print(time.process_time() - start, int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    )
    for name in ("many", "huge", "wide"):
        answer = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{name}.json")], capture_output=True, text=True, check=True
        )
        problems, numbers = answer.stdout.splitlines()
        seconds, mib = map(float, numbers.split())
        assert int(problems) >= 1 and seconds <= 2 and mib <= 200, (name, seconds, mib)


def test_problems_take_the_form_of_comfyuis_answer():
    answer = as_comfy(problems_of(broken(put("rollout", prob_end=2))))
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    error = answer["node_errors"]["rollout"]["errors"][0]
    assert error["type"] == "value_bigger_than_max" and error["extra_info"] == {"input_name": "prob_end"}


def test_the_whole_workflow_is_right():
    assert problems_of(whole()) == [] and problems_of(copy.deepcopy(whole())["prompt"]) == []


def test_what_a_bypassed_node_was_given_goes_on_and_where_nothing_was_the_link_is_gone():
    def graph(bypassed, sampling=("sampling", 0)):
        linked = {} if sampling is None else {"rollout": Link(*sampling)}
        return Graph({
            "sampling": Node("RolloutStudioScheduledSampling", {"max_step_offset": 2}),
            "reflexflow": Node("RolloutStudioReflexFlow", linked, bypassed=bypassed),
            "plot": Node("RolloutStudioProbabilityRampPlot", {"rollout": Link("reflexflow", 0)}),
        })  # fmt: skip

    assert passed_through(graph(False)) == graph(False)
    assert passed_through(graph(True)).nodes == {
        "sampling": graph(True).nodes["sampling"],
        "plot": Node("RolloutStudioProbabilityRampPlot", {"rollout": Link("sampling", 0)}),
    }
    assert not faults(graph(True))
    [missing] = faults(graph(True, sampling=None))
    assert (missing.type, missing.node, missing.input) == ("required_input_missing", "plot", "rollout")
    assert faults(graph(True, sampling=("reflexflow", 0)))  # it feeds itself: no hang, and the link is gone
    again, problems = read(to_json(graph(True)))
    assert not problems and again == graph(True)


def test_a_bypassed_training_is_no_training_for_the_form():
    def graph(second):
        one = graph_of(ROLLED)
        train = next(id for id, node in one.nodes.items() if node.kind == "RolloutStudioTrain")
        return (
            one.with_node("other", replace(one.nodes[train], bypassed=True))
            if second
            else one.with_node(train, replace(one.nodes[train], bypassed=True))
        )

    assert config_of(graph(second=True)) == ROLLED
    with pytest.raises(GraphError, match="Name one Train node"):
        config_of(graph(second=False))
