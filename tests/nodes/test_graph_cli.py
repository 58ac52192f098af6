"""`rollout-studio graph`, as a person types it."""

import json
import subprocess
import sys

import pytest
from rollout_studio.app.cli import graph_actions as graph_cli
from rollout_studio.app.cli.main import main


@pytest.fixture
def quick(monkeypatch, store):
    """Trainings of milliseconds."""
    monkeypatch.setattr(graph_cli, "open_store", lambda root: store)


def test_a_graph_runs_and_its_results_lie_in_the_folder(quick, root, tmp_path, capsys):
    file = root / "presets" / "workflows" / "compare-two-rollouts.json"
    events = tmp_path / "events.jsonl"
    call = ["graph", "run", str(file), "--set", "settings.max_train_steps=3", "--set", "rollout_b.ramp_steps=1", "--out", str(tmp_path / "out"),
            "--events", str(events)]  # fmt: skip
    assert main(call) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["nodes"]
    assert result["compare"]["state"] == "done" and result["compare"]["pictures"] == ["A-against-B.png"]
    assert (tmp_path / "out" / "A-against-B.png").is_file()
    written = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    assert written[-1]["event"] == "end" and written[-1]["ok"]
    capsys.readouterr()
    assert main(call) == 0
    assert "A: plain: cached" in capsys.readouterr().err
    assert main(["graph", "check", str(tmp_path / "out" / "A-against-B.png")]) == 0  # the picture carries its workflow


def test_a_wrong_graph_is_reported_in_full_and_refused(root, tmp_path, capsys):
    file = root / "presets" / "workflows" / "compare-two-rollouts.json"
    code = main(["graph", "check", str(file), "--set", "rollout_b.sampler=heun", "--set", "nobody.x=1"])
    printed = capsys.readouterr().err
    assert (
        code == 78
        and "must be one of" in printed
        and "no such node" in printed
        and "2 problems; nothing was run." in printed
    )
    assert main(["graph", "run", str(tmp_path / "none.json")]) == 78
    assert "no such file" in capsys.readouterr().err


def test_a_failed_node_gives_its_exit_code(quick, root, tmp_path, capsys):
    file = root / "presets" / "workflows" / "preset-demo.json"
    code = main(["graph", "run", str(file), "--set", "optimizer.learning_rate=9", "--out", str(tmp_path / "out")])
    assert code == 70 and "Lower learning_rate." in capsys.readouterr().err


def test_a_stop_file_interrupts(quick, root, tmp_path, capsys):
    file = root / "presets" / "workflows" / "preset-demo.json"
    (tmp_path / "stop").touch()
    assert (
        main(["graph", "run", str(file), "--stop-file", str(tmp_path / "stop"), "--out", str(tmp_path / "out")]) == 75
    )


def test_the_nodes_are_listed_for_people_and_for_programs(capsys):
    assert main(["graph", "nodes"]) == 0
    assert "RolloutStudioTrain" in capsys.readouterr().out
    assert main(["graph", "nodes", "--json"]) == 0
    nodes = {node["key"]: node for node in json.loads(capsys.readouterr().out)}
    offset = next(
        each for each in nodes["RolloutStudioScheduledSampling"]["inputs"] if each["name"] == "max_step_offset"
    )
    assert offset["maximum"] == 1000 and offset["default"] == 0 and offset["help"]


def test_checking_a_graph_needs_no_torch(root):
    code = "import sys; from rollout_studio.app.cli.main import main; code = main(['graph', 'check', sys.argv[1]]); print(code, 'torch' in sys.modules, 'PIL' in sys.modules)"
    file = root / "presets" / "workflows" / "compare-two-rollouts.json"
    answer = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "0 False False"
