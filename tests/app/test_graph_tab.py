"""What the Graph tab does without a browser: starting and following graph runs, reading files, answering requests made by hand."""

import base64
import hashlib
import json
import re
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from rollout_studio.app.graph import runs as graph_runs
from rollout_studio.app.graph.runs import Busy, GraphRuns
from rollout_studio.app.graph.tab import SOURCE, WORKFLOWS, GraphTab, read_dropped, workflows
from rollout_studio.app.parts.previews import Previews
from rollout_studio.core import platform_calls
from rollout_studio.nodes.execute import pictures
from rollout_studio.nodes.execute.execute import provenance_of
from rollout_studio.nodes.graph.compile import config_of
from rollout_studio.nodes.graph.graph import Graph, GraphError, Link, Node, to_json
from rollout_studio.nodes.reading import read_file

RAMP = Graph({
    "rollout": Node("RolloutStudioScheduledSampling", {"max_step_offset": 2}),
    "ramp": Node("RolloutStudioProbabilityRampPlot", {"rollout": Link("rollout", 0)}),
    "note": Node("RolloutStudioNote", {"text": "never run"}),
})  # fmt: skip
SLEEPER = (sys.executable, "-c", "import time; print('told', flush=True); time.sleep(60)")


@pytest.fixture
def runs(store):
    """Makes the runs of graphs over one store; what is still alive at the end is ended."""
    made, previews = [], Previews()

    def make(command=None):
        made.append(GraphRuns(store, previews, command))
        return made[-1]

    yield make
    for each in made:
        for child in each._children.values():
            child.kill()
            child.wait()


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "not within the time"
        time.sleep(0.05)


def ended(runs):
    wait_for(lambda: runs.status()["state"] not in ("waiting", "running", "stopping"))
    return runs.status()


def node(status, id):
    return next(each for each in status["nodes"] if each["id"] == id)


def node_states(runs):
    return {each["id"]: each["state"] for each in runs.status()["nodes"]}


def write_events(runs, name, *events):
    """Write events as a graph run would."""
    with (runs.root / name / "events.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


# ---- a run of a graph


def test_a_graph_is_run_by_a_process_of_its_own_and_followed_by_its_files(runs, store):
    mine = runs()
    name = mine.start(RAMP.with_node("other", RAMP.nodes["ramp"]), only=["ramp"])
    assert mine.status()["state"] == "running"
    with pytest.raises(Busy, match="one runs at a time"):
        runs().start(RAMP)  # another page over the same runs folder
    status = ended(mine)
    assert status["state"] == "done" and status["run"] == name
    assert [each["id"] for each in status["nodes"]] == [
        "rollout",
        "ramp",
    ]  # not the note, and not what was not wanted
    [picture] = node(status, "ramp")["pictures"]
    assert picture["whole"].startswith("gradio_api/file=") and picture["width"] > 100
    assert mine.graph_of(name).nodes.keys() == {*RAMP.nodes, "other"}
    assert runs().status() == status  # somebody who comes later reads the same
    assert (store.root / ".graphs" / name / "results" / "result.json").is_file()
    assert not store.list()


def test_a_missing_folder_is_reported_while_one_edits_at_the_node_that_names_it(ask, runs, tmp_path):
    graph, _ = read_file(WORKFLOWS / "preset-demo.json")

    def faults_of(id, path):
        changed = graph.with_node(id, graph.nodes[id].with_input("path", path))
        return [
            (each["node"], each["input"], each["message"])
            for each in ask["graph_check"]({"graph": to_json(changed)})["problems"]
        ]

    (tmp_path / "a.txt").touch()
    nowhere = str(tmp_path / "nowhere")
    [(node, field, message)] = faults_of("folder", nowhere)
    assert (node, field) == ("folder", "path") and nowhere in message and "there is no such folder" in message
    assert "is a file" in faults_of("folder", str(tmp_path / "a.txt"))[0][2]
    assert "name the folder with your pictures" in faults_of("folder", None)[0][2]
    assert faults_of("class_folder", nowhere) == []  # made when class pictures are generated
    assert faults_of("folder", str(tmp_path)) == []
    # to the form
    assert (
        config_of(graph.with_node("folder", graph.nodes["folder"].with_input("path", nowhere))).data.instance_data_dir
        == nowhere
    )
    with pytest.raises(GraphError, match="no such folder"):
        runs().start(graph.with_node("folder", graph.nodes["folder"].with_input("path", nowhere)))


def test_a_graph_with_problems_is_not_started(runs):
    mine = runs()
    with pytest.raises(GraphError):
        mine.start(Graph({"ramp": Node("RolloutStudioProbabilityRampPlot")}))
    assert mine.newest() is None and mine.status() is None


def test_what_only_shows_when_it_starts_is_reported_at_its_node(runs, tmp_path):
    """A training without pictures is refused by the process, before anything runs."""
    graph, _ = read_file(WORKFLOWS / "preset-demo.json")
    folder = graph.nodes["folder"]
    (tmp_path / "empty").mkdir()
    mine = runs()
    mine.start(graph.with_node("folder", folder.with_input("path", str(tmp_path / "empty"))))
    status = ended(mine)
    assert status["state"] == "refused" and status["problems"][0]["node"] == "train"


def test_stopping_leaves_a_file_and_a_process_that_vanished_has_crashed(runs):
    mine = runs(SLEEPER)
    name = mine.start(RAMP)
    mine.stop(name)
    assert (mine.root / name / "stop").exists() and mine.status()["state"] == "stopping"
    write_events(mine, name, {"event": "node", "node": "ramp", "state": "running", "title": "Ramp", "lane": "files"})
    wait_for(lambda: (mine.root / name / "log.txt").read_text() == "told\n")
    platform_calls.kill(json.loads((mine.root / name / "process.json").read_text()))
    status = ended(mine)
    assert status["state"] == "crashed" and status["message"] == "told"
    assert node(status, "ramp")["state"] == "interrupted"  # nothing runs any more
    assert runs(SLEEPER).start(RAMP) != name  # and another one may start


def test_run_right_after_stop_waits_for_the_stopping_graph(runs):
    slow, mine = runs(SLEEPER), runs()
    first = slow.start(RAMP)
    slow.stop(first)
    second = mine.start(RAMP)
    assert mine.status()["run"] == second != first and mine.status()["state"] == "waiting"
    wait_for(lambda: "Waiting for the graph" in (mine.root / second / "log.txt").read_text())
    assert node_states(mine) == {}  # nothing of it runs yet
    with pytest.raises(Busy):
        mine.start(RAMP)
    platform_calls.kill(json.loads((mine.root / first / "process.json").read_text()))
    assert ended(mine)["state"] == "done"


def test_a_waiting_graph_can_be_stopped(runs):
    slow, mine = runs(SLEEPER), runs()
    slow.stop(slow.start(RAMP))
    mine.stop(mine.start(RAMP))
    assert ended(mine)["state"] == "interrupted"


def test_stop_and_run_at_once_goes_on_from_the_checkpoint(runs, store):
    """As in the editor: two graphs, one run of the store."""
    graph, _ = read_file(WORKFLOWS / "preset-demo.json")
    for id, name, value in (("optimizer", "learning_rate", 0.5), ("settings", "max_train_steps", 12)):
        graph = graph.with_node(id, graph.nodes[id].with_input(name, value))
    mine = runs((sys.executable, str(Path(__file__).with_name("quick_graph.py"))))
    first = mine.start(graph)
    wait_for(lambda: node_states(mine).get("train") == "running" and node(mine.status(), "train")["done"] >= 2)
    mine.stop(first)
    mine.start(graph)
    assert ended(mine)["state"] == "done"
    [summary] = store.list()
    start, resumed = (
        event["resumed_from"] for event in store.get(summary.name).events()[0] if event["event"] == "start"
    )
    assert start is None and 2 <= resumed < 12


def test_events_are_folded_as_they_come_half_a_line_waits_and_a_broken_one_is_passed_over(runs):
    mine = runs(SLEEPER)
    name = mine.start(RAMP)
    write_events(mine, name, {"event": "node", "node": "ramp", "state": "running", "title": "Ramp", "lane": "files"})
    file = mine.root / name / "events.jsonl"
    with file.open("a") as events:
        events.write('{"event": "progress", "node": "ramp", "done": 1, ')
    assert node(mine.status(), "ramp")["done"] == 0
    with file.open("a") as events:
        events.write('"total": 4, "what": "steps"}\nnonsense\n[1]\n{"event": "node"}\n')
    assert node(mine.status(), "ramp")["done"] == 1
    same = mine.status()
    assert mine.status() is same  # nothing new: nothing is drawn
    write_events(mine, name, {"event": "node", "node": "ramp", "state": "failed", "message": "No.", "remedy": "Try.", "title": "Ramp", "lane": "files"},
         {"event": "end", "states": {"ramp": "failed"}, "ok": False, "time": 5.0})  # fmt: skip
    platform_calls.kill(json.loads((mine.root / name / "process.json").read_text()))
    status = ended(mine)
    assert status["state"] == "failed" and node(status, "ramp")["message"] == "No." and status["ended"] == 5.0


def test_a_node_that_trains_shows_the_loss_and_the_newest_samples_of_its_run(runs, store, write):
    training = store.create({"max_train_steps": 100}, "mine-1")
    write.samples(training, 0)
    write.steps(training, 1, 30, 100)
    mine = runs(SLEEPER)
    name = mine.start(RAMP)
    write_events(mine, name, {"event": "node", "node": "ramp", "state": "running", "title": "Train", "lane": "run"},
                 {"event": "trains", "node": "ramp", "run": "mine-1"}, {"event": "trains", "node": "note", "run": "../../etc"})  # fmt: skip
    shown = node(mine.status(), "ramp")
    assert shown["loss"]["steps"][-1] == 30 and len(shown["loss"]["values"]) == 30
    assert [each["caption"].split(":")[0] for each in shown["pictures"]] == ["step 0", "step 0"]
    assert node(mine.status(), "note")["loss"] is None
    same = mine.status()
    assert mine.status() is same
    write.steps(training, 31, 40, 100)
    write.samples(training, 40)
    shown = node(mine.status(), "ramp")
    assert shown["loss"]["steps"][-1] == 40 and shown["pictures"][0]["caption"].startswith("step 40: a large zwx")


def test_only_pictures_inside_the_runs_folder_are_shown(runs, store, tmp_path):
    mine = runs(SLEEPER)
    name = mine.start(RAMP)
    secret, gone = pictures.saved(Image.new("RGB", (8, 8)), tmp_path / "secret.png"), store.root / "gone.png"
    shown = pictures.saved(Image.new("RGB", (30, 20)), store.root / "shown.png")
    files = [{"is": "File", "path": str(path), "digest": ""} for path in (secret, gone, shown)]
    outputs = [{"is": "Images", "files": files, "captions": ["one", "two", "three"]}, "words", None]
    write_events(
        mine,
        name,
        {"event": "node", "node": "ramp", "state": "done", "title": "Ramp", "lane": "files", "outputs": outputs},
    )
    state = node(mine.status(), "ramp")
    assert [each["caption"] for each in state["pictures"]] == ["three"] and state["texts"] == ["words"]


def test_a_page_that_was_restarted_finds_the_process_by_its_file(runs):
    mine = runs(SLEEPER)
    name = mine.start(RAMP)
    assert platform_calls.is_alive(json.loads((mine.root / name / "process.json").read_text()))
    assert runs(SLEEPER).status()["state"] == "running"


@pytest.mark.parametrize("name", ["..", "../x", "", None, 3, "a/b", ["x"], "a" * 5000, "20260101-000000-00"])
def test_a_name_from_outside_names_no_folder(runs, name):
    mine = runs(SLEEPER)
    mine.stop(name)
    assert mine.graph_of(name) is None


# ---- files


def test_a_picture_and_a_loras_head_bring_their_graph(tmp_path):
    picture = pictures.saved(Image.new("RGB", (8, 8)), tmp_path / "x.png", provenance_of(RAMP))
    header = json.dumps({"__metadata__": {"workflow": to_json(RAMP)}}).encode()
    for name, content in (
        ("x.PNG", picture.read_bytes()),
        ("x.safetensors", len(header).to_bytes(8, "little") + header),
    ):
        graph, problems = read_dropped({"name": name, "bytes": base64.b64encode(content).decode()})
        assert graph == RAMP and not problems
    assert read_dropped({"name": "x.json", "text": to_json(RAMP)}) == (RAMP, [])


@pytest.mark.parametrize("file", [
    None, 3, [], {}, {"name": "x"}, {"name": 3, "bytes": 4}, {"name": "x.png", "bytes": "no base 64!"}, {"name": "x.png", "bytes": ""},
    {"name": "x.png", "bytes": base64.b64encode(b"no picture").decode()}, {"name": "x.safetensors", "bytes": base64.b64encode(b"\xff" * 8).decode()},
    {"name": "x.exe", "bytes": ""}, {"name": "x.json", "text": "{"}, {"name": "x.json", "text": "[]"},
])  # fmt: skip
def test_a_file_that_holds_no_graph_says_so(file):
    with pytest.raises(GraphError) as refusal:
        read_dropped(file)
    assert refusal.value.problems


def test_the_shipped_workflows_are_listed_and_free_of_problems():
    listed = workflows()
    assert {each["name"] for each in listed} == {path.stem for path in WORKFLOWS.glob("*.json")}
    assert [each["kind"] for each in listed].index("preset") == 3


# ---- requests made by hand


@pytest.fixture
def ask(store):
    """The server functions by name, as the page offers them."""
    import gradio as gr

    with gr.Blocks():
        tab = GraphTab(SimpleNamespace(store=store, previews=Previews()))
    return {function.__name__: function for function in tab._functions()}


@pytest.mark.parametrize("sent", [None, 3, "x", [], {}, {"graph": None}, {"graph": 3}, {"graph": "{"}, {"graph": "[" * 5000}, {"graph": {}}, {"graph": "{}"},
                                   {"graph": '{"format": "rollout_studio.graph", "version": 1, "prompt": {"a": {"class_type": "X"}}}', "only": ["b"]}])  # fmt: skip
def test_a_request_made_by_hand_gets_problems_never_a_traceback_or_a_run(ask, sent, store):
    for name in ("graph_check", "graph_run"):
        assert ask[name](sent)["problems"]
    assert (
        "fault" in ask["graph_read"](sent)
        and "fault" in ask["graph_of_run"](sent)
        and "fault" in ask["graph_shipped"](sent)
    )
    assert ask["graph_stop"](sent) == {"run": None}
    assert not (store.root / graph_runs.FOLDER).exists()


def test_the_menu_is_data_and_a_shipped_workflow_has_no_problems(ask):
    menu = json.loads(json.dumps(ask["graph_menu"](None)))
    assert len(menu["nodes"]) >= 28 and menu["run"] is None
    types = {each["type"] for node in menu["nodes"] for each in (*node["inputs"], *node["outputs"])}
    assert {kind for kind in types if kind.startswith("ROLLOUT_")} <= set(menu["colours"])
    for each in menu["workflows"]:
        answer = ask["graph_shipped"](each["name"])
        problems = ask["graph_check"]({"graph": json.dumps(answer["graph"])})["problems"]
        # Presets for models that do not come along have no pictures of yours yet: the one thing to fill in.
        assert not answer["problems"] and {(each["node"], each["input"]) for each in problems} <= {("folder", "path")}
        assert not problems or "demo" not in each["name"]


# ---- the bundle


def test_the_bundle_is_made_of_its_sources_and_names_no_download_address():
    """Else: in app/editor, npm ci && npm run build"""

    def digest(path):
        return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()

    made = json.loads((SOURCE / "vendor" / "made.json").read_text(encoding="utf-8"))
    assert made["from"] == {name: digest(SOURCE / name) for name in made["from"]}
    assert made["to"] == {name: digest(SOURCE / "vendor" / name) for name in made["to"]}
    lock = json.loads((SOURCE / "package-lock.json").read_text(encoding="utf-8"))
    assert not [name for name, each in lock["packages"].items() if "resolved" in each]
    licences = (SOURCE / "vendor" / "LICENSES.txt").read_text(encoding="utf-8")
    assert all(
        name in licences for name in ("react ", "@xyflow/react ", "@dagrejs/dagre ", "htm ", "zustand ", "d3-zoom ")
    )


def test_everything_of_the_editor_is_package_data_and_the_build_is_not_published(root):
    patterns = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]["rollout_studio.app"]
    packed = {path for pattern in patterns for path in (root / "app").glob(pattern)}
    files = {path for path in SOURCE.rglob("*") if path.is_file() and "node_modules" not in path.parts}
    assert files <= packed
    previews = Previews()
    previews.publish(SOURCE, "editor")
    published = {path.name for path in (previews.folder / "editor").rglob("*") if path.is_file()}
    assert "mount.js" in published and not published & {"package.json", "package-lock.json", "build.mjs", "README.md"}


def test_the_editor_never_reads_text_as_markup_or_code():
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|\beval\(|new Function|document\.write"
    )
    own = [path for path in SOURCE.glob("*.js") if path.name != "vendor.js"]
    assert len(own) >= 9
    assert not [path.name for path in own if banned.search(path.read_text(encoding="utf-8"))]
