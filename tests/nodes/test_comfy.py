"""The classes keep ComfyUI's V1 contract: its facts only, no ComfyUI needed."""

import ast
import inspect
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rollout_studio.nodes.comfy.bridges import ALL
from rollout_studio.nodes.comfy.pack import mappings

CLASSES, NAMES = mappings()
KINDS = {"INT", "FLOAT", "STRING", "BOOLEAN"}


@pytest.fixture(params=CLASSES)
def node(request):
    return CLASSES[request.param]


def inputs_of(node):
    types = node.INPUT_TYPES()
    return {**types["required"], **types["optional"]}


def test_every_node_is_there_under_one_prefix():
    assert set(CLASSES) == set(ALL) == set(NAMES) and all(key.startswith("RolloutStudio") for key in CLASSES)
    assert len(CLASSES) >= 28


def test_inputs_of_the_first_version_keep_their_places(root):
    """A workflow saved by ComfyUI names widget values by position: one input in their middle shifts all that follow, silently."""
    before = json.loads(
        (root / "tests" / "fixtures" / "version-0.1" / "comfyui_inputs.json").read_text(encoding="utf-8")
    )
    assert {key: list(inputs_of(CLASSES[key]))[: len(names)] for key, names in before.items()} == before


def test_a_class_has_what_the_contract_asks(node):
    types = node.INPUT_TYPES()
    assert set(types) <= {"required", "optional", "hidden"}
    assert isinstance(node.RETURN_TYPES, tuple) and len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(
        node.OUTPUT_TOOLTIPS
    )
    assert callable(getattr(node(), node.FUNCTION)) and node.CATEGORY.startswith("Rollout Studio/") and node.DESCRIPTION
    assert isinstance(node.OUTPUT_NODE, bool)
    assert set(types.get("hidden", {}).values()) <= {"UNIQUE_ID", "PROMPT", "EXTRA_PNGINFO", "DYNPROMPT"}


def test_a_widget_is_one_that_the_page_can_draw(node):
    for name, entry in inputs_of(node).items():
        kind, options = entry
        if isinstance(kind, list):
            assert all(isinstance(choice, str) for choice in kind) and options["default"] in kind, name
        elif kind in KINDS:
            assert isinstance(options["default"], {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}[kind]), (
                name
            )
        else:
            assert kind == kind.upper() and "default" not in options, name
        if kind in ("INT", "FLOAT"):
            assert options["step"] > 0 and options["min"] <= options["default"] <= options["max"] <= 2**53 - 1, name
        if kind == "FLOAT":
            assert options["round"] is False, "else the page rounds 0.25 to 0.3"
        if kind == "INT":
            assert options["control_after_generate"] is False, (
                "else a seed is drawn anew after every run, and it trains again"
            )


def test_numbers_can_be_reached_by_their_step(node):
    """The page snaps to min + n * step when dragged; the default must survive."""
    for name, (kind, options) in inputs_of(node).items():
        if kind == "FLOAT":
            assert options["step"] <= max(abs(options["default"]), 0.01) or options["default"] == 0, (name, options)


@pytest.mark.parametrize("name", ["compare-two-rollouts", "demo-training", "rollout-preview"])
def test_numbers_of_the_examples_are_shown_as_they_are(root, name):
    """The page shows as many digits as the step has: with 0.1, 0.25 looked like 0.3."""
    for node in json.loads((root / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))["nodes"]:
        for field, (kind, options) in inputs_of(CLASSES[node["type"]]).items():
            if kind == "FLOAT":
                value, digits = node["widgets_values_named"][field], max(0, -math.floor(math.log10(options["step"])))
                assert round(value, digits) == value, (node["type"], field, value)


def test_what_the_page_sends_is_read_and_gives_the_defaults(node):
    """Every widget at its default, as a page would send it."""
    given = defaults_of(node)
    for widget in node.declared.widgets:
        assert widget.read(given[widget.name]) == widget.read(widget.default)
    to_be_filled_in = {
        "RolloutStudioImageFolder": ["path"],
        "RolloutStudioLoadImage": ["path"],
        "RolloutStudioSampleImages": ["prompts"],
    }
    assert [name for name, _ in host_faults(node, given)] == to_be_filled_in.get(node.declared.key, [])


def host_faults(node, given):
    """(field, what is wrong) as ComfyUI tells before it runs a prompt: choices and bounds of each field that the node does not validate
    itself, then the node's one answer at every field that it does."""
    validate = getattr(node, "VALIDATE_INPUTS", None)
    own = [] if validate is None else inspect.getfullargspec(validate).args[1:]
    assert validate is None or inspect.getfullargspec(validate).varkw is None, "all checks of the host would be off"
    faults = []
    for name, (kind, options) in inputs_of(node).items():
        value = given.get(name)
        if name in own or value is None:
            continue
        if isinstance(kind, list):
            faults += [] if value in kind else [(name, f"{value} not in {kind}")]
        elif "min" in options and value < options["min"]:
            faults.append((name, "Value {} smaller than min of {}".format(value, options["min"])))
        elif "max" in options and value > options["max"]:
            faults.append((name, "Value {} bigger than max of {}".format(value, options["max"])))
    answer = validate(**{name: given[name] for name in own if name in given}) if own else True
    return faults + [(name, answer) for name in own if answer is not True and name in given]


WRONG = {
    "too large": ("ScheduledSampling", "max_step_offset", 10**9, "bigger than max of 1000"),
    "too small": ("Optimizer", "learning_rate", -1.0, "smaller than min of 1e-09"),
    "not on the list": ("ScheduledSampling", "sampler", "heun", "heun not in"),
    "a number that may be unset, too small": (
        "TrainingSettings",
        "snr_gamma",
        "0.001",
        "smaller than min of 0.01 (a number, or nothing)",
    ),
    "a number that may be unset, too large": (
        "TrainingSettings",
        "flow_schedule_shift",
        "1e3",
        "bigger than max of 100 (a number, or nothing)",
    ),
    "words for a number": ("SampleImages", "guidance", "a lot", "(a number, or nothing)"),
    "one of several numbers": (
        "DriftProbe",
        "offsets",
        "1, 5000",
        "bigger than max of 1000 (numbers, with commas between)",
    ),
    "another machine's share": ("Model", "pretrained_model_name_or_path", "//evil/share", "names another machine"),
    "a folder that is not there": ("ImageFolder", "path", "/nowhere/at all", "there is no such folder"),
    "no folder": ("ImageFolder", "path", "", "name the folder with your pictures"),
    "a picture that is not there": ("LoadImage", "path", "/nowhere/a.png", "there is no such file"),
    "a name out of the folder": ("SaveImage", "name", "../../evil", "letters, digits"),
    "no prompt": ("SampleImages", "prompts", "", "at least one prompt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_wrong_value_marks_one_field(case):
    key, name, value, words = WRONG[case]
    node = CLASSES[f"RolloutStudio{key}"]
    right = {"prompts": "a thing", "path": "demo-dreambooth"}
    [(field, message)] = host_faults(
        node, {**defaults_of(node), **{each: right[each] for each in right if each in inputs_of(node)}, name: value}
    )
    assert field == name and words in message, message


def test_every_wrong_value_is_reported_at_once_at_its_own_field():
    node = CLASSES["RolloutStudioTrainingSettings"]
    wrong = {"snr_gamma": "x", "flow_schedule_shift": "0", "max_train_steps": 0, "seed": -5, "mixed_precision": "fp7"}
    assert {name for name, _ in host_faults(node, {**defaults_of(node), **wrong})} == set(wrong)


def test_a_node_validates_at_most_one_field_itself(node):
    """Its one answer stands at every field that it asks for."""
    if hasattr(node, "VALIDATE_INPUTS"):
        [field] = inspect.getfullargspec(node.VALIDATE_INPUTS).args[1:]
        assert node.VALIDATE_INPUTS(**{field: None}) is True  # linked: known when it runs


def test_bounds_of_text_are_numbers_for_the_page():
    info = json.loads(json.dumps(CLASSES["RolloutStudioDriftProbe"].INPUT_TYPES()))
    assert info["optional"]["offsets"][1]["min"] == 1 and info["optional"]["offsets"][1]["max"] == 1000


def test_what_only_shows_when_it_runs_is_one_clear_message():
    """A rule about links; a value that came over a link."""
    with pytest.raises(RuntimeError, match="link a checkpoint, or a model and a dataset"):
        called("RolloutPreview")
    with pytest.raises(RuntimeError, match="must be at most 1000 grid steps"):
        called("ScheduledSampling", max_step_offset=10**9)


@pytest.mark.parametrize("given", ["['to_q', 'to_out.0']", '["to_q", "to_out.0"]', "to_q, to_out.0"])
def test_a_list_arrives_however_comfyui_wrote_it(given):
    """Its server makes text of the list of an API workflow by `str` (seen in 0.3.64); people type it with commas or as JSON."""
    (lora,) = called("LoRA", targets=given)
    assert list(lora.flat["lora_targets"]) == ["to_q", "to_out.0"]


def test_a_chain_of_settings_runs_as_comfyui_calls_it():
    def call(key, **given):
        node = CLASSES[key]
        filled = {name: options["default"] for name, (_, options) in inputs_of(node).items() if "default" in options}
        return getattr(node(), node.FUNCTION)(**(filled | given))

    (rollout,) = call("RolloutStudioScheduledSampling", max_step_offset=3)
    (rollout,) = call("RolloutStudioReflexFlow", rollout=rollout, reflexflow="true")
    assert (
        rollout.flat["scheduled_sampling_max_step_offset"] == 3
        and rollout.flat["scheduled_sampling_reflexflow"] is True
    )
    assert len(call("RolloutStudioPreset", preset="demo")) == 8
    hash(rollout)  # values on wires are immutable


def test_a_changed_folder_changes_the_key(tmp_path):
    node = CLASSES["RolloutStudioImageFolder"]
    before = node.IS_CHANGED(path=str(tmp_path))
    (tmp_path / "a.txt").write_text("a caption")
    assert node.IS_CHANGED(path=str(tmp_path)) != before
    assert node.IS_CHANGED(path=None) == "none" and node.IS_CHANGED(path="") == "none"
    save = CLASSES["RolloutStudioSaveImage"].IS_CHANGED()
    assert math.isnan(save)  # it always runs


def test_pictures_cross_the_border_unchanged(tmp_path):
    import torch
    from rollout_studio.nodes.comfy.values import images_of, tensor_of

    picture = torch.randint(0, 256, (2, 5, 7, 3)) / 255
    images = images_of(picture, tmp_path)
    assert torch.allclose(tensor_of(images), picture, atol=1e-6) and len(images.files) == 2
    assert images_of(picture, tmp_path) == images


@pytest.fixture
def host(tmp_path, monkeypatch, store):
    """The parts of ComfyUI that a running node asks for; gives its folders and what was written on nodes' faces."""
    from types import SimpleNamespace

    from rollout_studio.nodes.comfy import running

    folders, texts = {"output": tmp_path / "output", "temp": tmp_path / "temp"}, {}
    server = SimpleNamespace(
        instance=SimpleNamespace(send_progress_text=lambda text, node: texts.setdefault(node, text))
    )
    for name, module in {
        "folder_paths": SimpleNamespace(
            get_output_directory=lambda: str(folders["output"]), get_temp_directory=lambda: str(folders["temp"])
        ),
        "server": SimpleNamespace(PromptServer=server),
        "comfy_execution.utils": SimpleNamespace(get_executing_context=lambda: SimpleNamespace(node_id="7")),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(running, "open_store", lambda root: store)
    return SimpleNamespace(folders=folders, texts=texts)


def defaults_of(node):
    return {name: options["default"] for name, (_, options) in inputs_of(node).items() if "default" in options}


def called(key, **given):
    """What a node answers to ComfyUI."""
    node = CLASSES[f"RolloutStudio{key}"]
    return node().run(**{**dict.fromkeys(inputs_of(node)), **defaults_of(node), **given})


def on_disk(host, picture):
    return host.folders[picture["type"]] / picture["subfolder"] / picture["filename"]


def trained(**changes):
    parts = dict(
        zip(
            ("model", "adapter", "dataset", "rollout", "optimizer", "settings", "validation", "drift"),
            called("Preset"),
            strict=True,
        )
    )
    parts["settings"] = parts["settings"].with_({"max_train_steps": 3})
    return called("Train", **{**parts, **changes})


def test_what_there_is_to_look_at_is_on_the_canvas(host):
    """Sample pictures, drift pictures, the comparison and the sample grid; each from the cache too, and words as text."""
    from PIL import Image

    train = trained()
    _, checkpoint, _, _, samples = train["result"]
    assert len(train["ui"]["images"]) == samples.shape[0]
    report = called("DriftReport", checkpoint=checkpoint)
    assert (
        len(report["ui"]["images"]) == 2
        and report["ui"]["text"] == [report["result"][2]]
        and host.texts == {"7": report["result"][2]}
    )
    for _ in ("made", "cached"):
        compared = called("CompareDrift", report_a=report["result"][0], report_b=report["result"][0])
        grid = called("SampleGrid", images_a=samples)
        plot = called("ProbabilityRampPlot", rollout=called("ScheduledSampling")[0])
        assert len(compared["ui"]["text"]) == 1
        for shown in (train, report, compared, grid, plot):
            for picture in shown["ui"]["images"]:
                assert picture["type"] == "temp" and Image.open(on_disk(host, picture)).width >= 64


def test_a_saved_picture_is_shown_where_it_was_saved(host, monkeypatch):
    from types import SimpleNamespace

    import torch

    live = []
    bar = SimpleNamespace(update_absolute=lambda *state: live.append(state))
    monkeypatch.setitem(sys.modules, "comfy.utils", SimpleNamespace(ProgressBar=lambda total: bar))
    [picture] = called("SaveImage", images=torch.rand(1, 8, 8, 3), name="mine")["ui"]["images"]
    assert not live, "a small live picture would stand in its place"
    assert picture["type"] == "output" and picture["filename"].startswith("mine-") and on_disk(host, picture).is_file()


def test_the_last_live_picture_is_the_result(host, monkeypatch):
    """The page's versions of 2025 go on showing a live picture in place of the node's output."""
    from types import SimpleNamespace

    from rollout_studio.nodes.graph.values import Images, file_at

    live = []
    bar = SimpleNamespace(update_absolute=lambda done, total, preview: live.append(preview))
    monkeypatch.setitem(sys.modules, "comfy.utils", SimpleNamespace(ProgressBar=lambda total: bar))
    made = CLASSES["RolloutStudioSampleImages"].declared

    def drawn(context, **_):
        from PIL import Image

        files = []
        for number, colour in enumerate(("red", "blue", "green")):
            path = context.work / f"{number}.png"
            Image.new("RGB", (64, 64), colour).save(path)
            context.show(path)
            files.append(file_at(path))
        return (Images(tuple(files)),)

    monkeypatch.setattr(CLASSES["RolloutStudioSampleImages"], "declared", replace(made, function=drawn))
    answer = called("SampleImages", model=called("DemoModel")[0], prompts="a thing")
    assert len(answer["ui"]["images"]) == 3
    sizes = [picture.size for _, picture, _ in filter(None, live)]
    assert sizes[:3] == [(64, 64)] * 3 and min(sizes[-1]) > 200, "all three in one"


def test_every_node_with_something_to_look_at_has_pictures_or_words():
    """A root of execution whose face stays empty looks as if nothing had happened."""
    for declared in ALL.values():
        if declared.shows and declared.key != "RolloutStudioSaveImage":
            assert {output.type for output in declared.outputs} & {"IMAGE", "STRING"}, declared.key


def test_an_interrupt_lets_the_run_save_and_is_passed_on(tmp_path, monkeypatch, store):
    """ComfyUI's exception is a BaseException, known by its name."""
    from types import SimpleNamespace

    from rollout_studio.nodes.comfy import running

    class InterruptProcessingException(BaseException):
        pass

    calls = []

    def check():
        calls.append(1)
        if len(calls) > 3:
            raise InterruptProcessingException

    monkeypatch.setitem(
        sys.modules, "comfy.model_management", SimpleNamespace(throw_exception_if_processing_interrupted=check)
    )
    monkeypatch.setitem(sys.modules, "folder_paths", SimpleNamespace(get_output_directory=lambda: str(tmp_path)))
    monkeypatch.setattr(running, "open_store", lambda root: store)
    parts = dict(zip(("model", "adapter", "dataset", "rollout", "optimizer", "settings", "validation", "drift"),
                     CLASSES["RolloutStudioPreset"]().run(preset="demo"), strict=True))  # fmt: skip
    parts["optimizer"] = parts["optimizer"].with_({"learning_rate": 0.5})
    with pytest.raises(InterruptProcessingException):
        CLASSES["RolloutStudioTrain"]().run(name="x", again=0, **parts)
    [summary] = store.list()
    assert summary.state in ("created", "stopped")


HOST = """
import importlib.util, sys, types
class Hidden:                              # a Python that lacks what only training needs
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(name)
    def find_module(self, *_): ...
sys.meta_path.insert(0, Hidden())
for name in ("nodes", "app", "comfy", "utils", "server", "execution"):   # ComfyUI's own
    sys.modules[name] = types.ModuleType(name)
root = sys.argv[1]
name = root.replace(".", "_x_")            # how ComfyUI names a pack
spec = importlib.util.spec_from_file_location(name, root + "/__init__.py", submodule_search_locations=[root])
pack = importlib.util.module_from_spec(spec)
sys.modules[name] = pack
spec.loader.exec_module(pack)
assert hasattr(pack, "NODE_CLASS_MAPPINGS") and hasattr(pack, "NODE_DISPLAY_NAME_MAPPINGS")
print(len(pack.NODE_CLASS_MAPPINGS))
print([m for m in ("torch", "diffusers", "gradio", "PIL", "matplotlib", "numpy", "rollout_studio") if m in sys.modules])
assert not hasattr(pack, "WEB_DIRECTORY") and type(sys.modules["nodes"]) is types.ModuleType
"""


def as_a_pack(root, cwd, *hidden):
    """(nodes, heavy modules imported, lines on stderr) of the checkout loaded as ComfyUI loads a pack."""
    answer = subprocess.run(
        [sys.executable, "-c", HOST, str(root), *hidden], check=False, capture_output=True, text=True, cwd=cwd
    )
    assert answer.returncode == 0, answer.stderr
    number, imported = answer.stdout.splitlines()
    return int(number), imported, answer.stderr.splitlines()


def test_the_checkout_is_a_pack_in_a_process_that_owns_nodes_and_app(root, tmp_path):
    assert as_a_pack(root, tmp_path) == (len(ALL), "[]", [])


def test_missing_packages_are_one_line_and_no_crash(root, tmp_path):
    number, _, [line] = as_a_pack(root, tmp_path, "diffusers", "peft")
    # the nodes are there: a workflow that has them opens
    assert number == len(ALL) and "needs diffusers, peft" in line
    number, _, [line] = as_a_pack(root, tmp_path, "psutil")
    assert number == 0 and "psutil" in line and "requirements.txt" in line


def test_the_requirements_are_those_of_the_project(root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["project"]["dependencies"]
    assert project["tool"]["comfy"]["DisplayName"] == "Rollout Studio"


def test_the_training_process_finds_the_package_by_its_path(root, tmp_path):
    """Without an installed package, from another folder, as inside ComfyUI."""
    start = root / "nodes" / "execute" / "start_worker.py"
    code = f"import runpy; runpy.run_path({str(start)!r})['load_package'](); import rollout_studio.core.config; print(rollout_studio.__file__)"
    answer = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert Path(answer.stdout.strip()) == root / "__init__.py"


def test_nothing_of_comfyui_is_imported_anywhere(root):
    hosts = {"comfy", "folder_paths", "nodes", "server", "execution", "comfy_execution"}
    for file in (root / "nodes").rglob("*.py"):
        for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(item, ast.Import):
                assert not {alias.name.split(".")[0] for alias in item.names} & hosts, file
            if isinstance(item, ast.ImportFrom) and item.level == 0:
                assert item.module.split(".")[0] not in hosts, file


@pytest.mark.parametrize("name", ["compare-two-rollouts", "demo-training", "rollout-preview"])
def test_the_example_workflows_fit_the_classes(root, name):
    data = json.loads((root / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    ids = {node["id"]: node for node in data["nodes"]}
    for node in data["nodes"]:
        inputs = inputs_of(CLASSES[node["type"]])
        widgets = [name for name, (kind, _) in inputs.items() if isinstance(kind, list) or kind in KINDS]
        assert list(node["widgets_values_named"]) == widgets and len(node["widgets_values"]) == len(widgets)
    for _, source, slot, target, place, type_ in data["links"]:
        assert CLASSES[ids[source]["type"]].RETURN_TYPES[slot] == type_ == ids[target]["inputs"][place]["type"]


EXAMPLES = ["compare-two-rollouts", "demo-training", "rollout-preview"]


def canvas(root, name):
    """(boxes by node id, links as drawn) of an example file: places and sizes as its JSON has them, sockets where ComfyUI's page draws
    them, 20 pixels apart."""
    from rollout_studio.nodes.comfy.canvas import Box, Wire

    data = json.loads((root / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    boxes = {node["id"]: Box(*node["pos"], *node["size"]) for node in data["nodes"]}
    links = []
    for _, source, slot, target, place, _ in data["links"]:
        out, into = boxes[source], boxes[target]
        links.append(
            Wire(source, target, (out.x + out.width, out.y + 20 * (slot + 0.7)), (into.x, into.y + 20 * (place + 0.7)))
        )
    return boxes, links


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_node_of_an_example_covers_another_one(root, name):
    boxes = list(canvas(root, name)[0].values())
    assert not [(a, b) for number, a in enumerate(boxes) for b in boxes[:number] if a.overlaps(b)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_link_of_an_example_runs_behind_a_node(root, name):
    boxes, links = canvas(root, name)
    assert not [
        (link.source, link.target, id)
        for link in links
        for id, box in boxes.items()
        if any(box.covers(*at) for at in link.points())
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_node_of_an_example_has_room_for_all_that_it_shows(root, name):
    """Else the page makes it larger, over the next one: sockets 20 pixels each, fields 24, several lines 30 more, pictures 220, words 60."""
    for node in json.loads((root / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))["nodes"]:
        declared = ALL[node["type"]]
        types = [output.type for output in declared.outputs]
        needs = (
            6
            + 20 * max(len(declared.sockets), len(types))
            + 24 * len(declared.widgets)
            + 30 * sum(w.multiline for w in declared.widgets)
        )
        needs += (220 if "IMAGE" in types else 0) + (60 if "STRING" in types else 0) if declared.shows else 0
        assert node["size"][1] >= needs and node["size"][0] >= 300, node["type"]
