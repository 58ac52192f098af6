"""The preview worker as the page uses it: a real process on the demo model; a scripted one for what is hard to time."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from rollout_studio.app.drift.growing import pictures_in
from rollout_studio.app.parts.preview_client import PreviewClient
from rollout_studio.app.parts.preview_jobs import LIVE_POLL_S
from rollout_studio.core import platform_calls
from rollout_studio.core.adapters import read_header
from rollout_studio.core.demo import FLOW
from rollout_studio.core.look.preview.request import showcase

PATIENCE_S = 600  # a busy machine is slow; a broken worker never answers
STRIP = {"image": showcase()[0], "offset": 3, "columns": 3}


def wait(client: PreviewClient, ticket: str, until=lambda state: state.ended):
    """The state of a ticket when `until` says so."""
    deadline = time.monotonic() + PATIENCE_S
    while not until(state := client.state(ticket)):
        assert time.monotonic() < deadline and not state.ended, state
        time.sleep(0.02)
    return state


def done(client: PreviewClient, record: dict, viewer: str = "") -> dict:
    state = wait(client, client.request(record, viewer))
    assert state.status == "done", state
    return state.result


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    client = PreviewClient(tmp_path_factory.mktemp("previews"))
    yield client
    process = client._worker.current
    client.close()
    assert process is None or process.poll() is not None


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA file of the demo model with random weights in the first layer's attention."""
    import torch
    from safetensors.torch import save_file

    tensors, draws = {}, torch.Generator().manual_seed(0)
    header = read_header(FLOW / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, entry in header.items():
        if name.startswith("layers.0.attn.to_") and name.endswith(".weight"):
            rows, columns = entry["shape"]
            stem = "transformer." + name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, columns, generator=draws)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 2, generator=draws) * 0.3
    assert len(tensors) == 8
    file = tmp_path_factory.mktemp("lora") / "random.safetensors"
    save_file(tensors, file)
    return file


# The real worker -----------------------------------------------------------------------------------------------------


def test_the_page_needs_no_torch_for_it():
    import subprocess

    code = "import sys, rollout_studio.app.parts.preview_client; print('torch' in sys.modules, 'gradio' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


@pytest.mark.timeout(PATIENCE_S)
def test_a_cold_request_gives_pictures_and_numbers_and_reports_its_progress(client):
    warm = client.warm_up()
    assert client.warm_up() == warm
    ticket, seen = client.request(STRIP), set()
    state = wait(client, ticket, lambda state: seen.add((state.share, state.what)) or state.ended)
    assert state.status == "done" and client.state(warm).status == "done", state
    assert len(seen) > 1 and all(0 <= share <= 1 for share, _ in seen)
    (strip,) = state.result["strips"]
    assert [frame["step"] for frame in strip["frames"]] == [0, 2, 3] and strip["frames"][0]["difference"] == 0
    for frame in strip["frames"]:
        for row in ("clean", "rolled", "heat"):
            assert Image.open(frame[row]).size == (64, 64)
    assert Image.open(strip["filmstrip"]).width > 600
    assert state.result["walked"][0]["steps"] == 3 and state.result["numbers"]["base"]["distance"] > 0
    assert "after 3 grid steps" in state.result["words"][0]
    assert {"report", "csv"} <= set(state.result) and "curves" not in state.result


@pytest.mark.timeout(PATIENCE_S)
def test_the_same_again_is_there_at_once_and_another_solver_soon(client):
    first = done(client, STRIP)
    ticket = client.request(dict(reversed(STRIP.items())), viewer="another")
    again = client.state(ticket)
    assert again.status == "done" and again.cached and again.result == first
    other = done(client, {**STRIP, "sampler": "euler"})
    assert other["folder"] != first["folder"]
    assert other["numbers"]["base"]["distance"] != first["numbers"]["base"]["distance"]


@pytest.mark.timeout(PATIENCE_S)
def test_base_and_lora_differ_in_what_their_rollouts_reach_and_start_alike(client, lora):
    asked = {**STRIP, "checkpoints": ["base", {"lora": str(lora)}], "what": ["strip", "curves", "spectrum"], "samples": 1,
             "fine_factor": 2}  # fmt: skip
    ticket = client.request(asked)
    early = wait(client, ticket, lambda state: state.result is not None)
    assert early.status == "working" and "curves" not in early.result and len(early.result["strips"]) == 2
    result = wait(client, ticket).result
    base, tuned = result["strips"]
    assert (base["label"], tuned["label"]) == ("base", "random") and base["scale"] == tuned["scale"]
    assert result["numbers"]["base"]["distance"] != result["numbers"]["random"]["distance"]
    assert Path(base["truth"]).read_bytes() == Path(tuned["truth"]).read_bytes()
    assert Path(base["frames"][0]["clean"]).read_bytes() != Path(tuned["frames"][0]["clean"]).read_bytes()
    assert Image.open(result["curves"]).width > 1000 and Image.open(result["spectrum"]).width > 600
    assert any("base against tuned" in sentence for sentence in result["words"])
    # and the base is still the base after the LoRA was on it
    assert (
        done(client, {**STRIP, "seed": 43})["numbers"]
        == done(client, {**STRIP, "seed": 43, "checkpoints": ["base"]})["numbers"]
    )
    assert result["numbers"]["base"] == done(client, STRIP)["numbers"]["base"]


@pytest.mark.timeout(PATIENCE_S)
def test_what_is_missing_or_broken_is_reported_with_a_remedy_and_the_worker_lives(client, tmp_path, lora):
    done(client, STRIP)
    pid = client.pid
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "cut.safetensors").write_bytes(lora.read_bytes()[:100])
    run = {"run": str(tmp_path / "no-run"), "step": 7}
    wrong = {
        "no such picture": {"image": "nowhere.png", "prompt": "a"},
        "broken.png": {"image": str(tmp_path / "broken.png"), "prompt": "a"},
        "does not exist": {"checkpoints": [{"lora": str(tmp_path / "none.safetensors")}]},
        "cut off": {"checkpoints": [{"lora": str(tmp_path / "cut.safetensors")}]},
        "no checkpoint of step 7": {"checkpoints": [run]},
        "does not fit demo-epsilon": {"checkpoints": [{"lora": str(lora)}], "config": {"pretrained_model_name_or_path": "demo-epsilon"}},
        "no such folder": {"config": {"pretrained_model_name_or_path": "/no/such/model"}},
        "no room for a step": {"target": 0.99},
    }  # fmt: skip
    for what, changes in wrong.items():
        state = wait(client, client.request({**STRIP, **changes}))
        expected = "There is no picture" if what == "no such picture" else what
        assert state.status == "failed" and expected in state.message and state.remedy, (what, state)
    state = client.state(client.request({**STRIP, "offset": 0}))
    assert state.status == "failed" and state.faults[0].options == ("offset",)
    assert client.pid == pid and done(client, {**STRIP, "seed": 2})


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.slow
def test_a_newer_request_of_a_viewer_cancels_the_older_but_not_that_of_another(client):
    long = {**STRIP, "what": ["curves"], "samples": 64, "offset": 9}
    old = client.request(long, viewer="a")
    begun = wait(client, old, lambda state: state.curves)
    assert begun.what.startswith("curves") and begun.share < 1 and not begun.ended
    assert len({point["sigma"] for point in begun.curves[0]["short"]}) < 5, "level by level, as they come"
    other = client.request({**STRIP, "seed": 3}, viewer="b")
    new = client.request({**STRIP, "seed": 4}, viewer="a")
    assert wait(client, new).status == "done" and wait(client, other).status == "done"
    assert client.state(old).status == "cancelled"


@pytest.mark.timeout(PATIENCE_S)
def test_after_its_worker_was_killed_a_request_says_so_and_the_next_one_works(client):
    ticket = client.request({**STRIP, "what": ["curves"], "samples": 64, "offset": 9, "seed": 5})
    wait(client, ticket, lambda state: state.what.startswith("curves"))
    pid = client.pid
    assert platform_calls.kill(platform_calls.identity(pid))
    state = wait(client, ticket)
    assert state.status == "failed" and "ended unexpectedly" in state.message and "Ask again" in state.remedy
    assert done(client, {**STRIP, "seed": 6}) and client.pid not in (None, pid)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_S)
def test_an_idle_worker_gives_its_model_back_and_works_again(tmp_path):
    client = PreviewClient(tmp_path / "previews", idle_s=0.5)
    done(client, STRIP)
    deadline = time.monotonic() + PATIENCE_S
    while "given back" not in client.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert done(client, {**STRIP, "seed": 2})
    client.close()


# A scripted worker: what happens around it ---------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, time
for line in sys.stdin:
    message = json.loads(line)
    if "cancel" in message:
        continue
    seed = message["ask"].get("seed", 0)
    if seed == 99 and not os.path.exists("{mark}"):
        open("{mark}", "w").close()
        print("no memory left", file=sys.stderr, flush=True)
        os._exit(3)
    time.sleep(0.05)
    os.makedirs(message["folder"], exist_ok=True)
    open(os.path.join(message["folder"], "report.json"), "w").close()
    print(json.dumps({{"id": message["id"], "status": "done", "result": {{"strips": [], "seed": seed}}}}), flush=True)
"""


@pytest.fixture
def scripted(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT.format(mark=(tmp_path / "crashed").as_posix()))
    client = PreviewClient(tmp_path / "previews", worker=[sys.executable, str(script)])
    yield client
    client.close()
    assert client.pid is None


def test_a_crash_fails_the_request_it_happened_in_and_no_other(scripted):
    first, second = scripted.request({**STRIP, "seed": 99}), scripted.request({**STRIP, "seed": 1})
    state = wait(scripted, first)
    assert state.status == "failed" and "exit code 3" in state.message and "no memory left" in state.message
    assert wait(scripted, second).result["seed"] == 1
    assert wait(scripted, scripted.request({**STRIP, "seed": 99})).status == "done"  # asked again, it is tried again


def test_viewers_who_ask_the_same_at_once_share_one_answer(scripted):
    tickets = []
    threads = [
        threading.Thread(target=lambda n=n: tickets.append(scripted.request({**STRIP, "seed": 5}, viewer=f"v{n}")))
        for n in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({wait(scripted, ticket).result["folder"] for ticket in tickets}) == 1
    assert len(set(tickets)) == 10


def test_only_so_many_results_stay_on_disk(scripted, monkeypatch):
    monkeypatch.setattr("rollout_studio.app.parts.preview_client.RESULTS_KEPT", 3)
    tickets = [scripted.request({**STRIP, "seed": seed}) for seed in range(6)]
    wait(scripted, tickets[-1])
    assert len([path for path in scripted.folder.iterdir() if path.is_dir()]) == 3
    assert scripted.state(tickets[0]).status == "unknown" and scripted.state(tickets[-1]).status == "done"


def test_the_answer_of_a_running_run_is_copied_out_of_its_folder(scripted, store):
    run = store.create({}, "trains")
    asked = {**STRIP, "checkpoints": [{"run": str(run.path), "live": True}]}
    state = scripted.state(scripted.request(asked))
    assert state.status == "failed" and "not running" in state.message
    with run.lock():
        ticket = scripted.request(asked)
        (command,) = run.take_commands()
        assert command.name == "drift" and command.args["request"] == asked
        assert scripted.state(ticket).status == "waiting"
        folder = run.drift_path / "previews" / command.id
        folder.mkdir(parents=True)
        # What there is of it is seen before it is whole, picture by picture, and nothing that leads outside.
        (folder / "frames").mkdir()
        run.emit("command", name="drift", id=command.id, args={})
        for number in range(2):
            (folder / f"frames/0-0{number}-clean.png").write_bytes(b"a picture")
            frames = [{"step": at, "sigma": 0.5, "clean": f"frames/0-0{at}-clean.png"} for at in range(number + 1)]
            so_far = {"growing": {"strips": [{"label": "now", "columns": 3, "frames": frames}]}}
            (folder / "so-far.json").write_text(json.dumps(so_far))
            state = wait(
                scripted, ticket, lambda state, n=number: state.growing and pictures_in(state.growing) == n + 1
            )
        copied = Path(state.growing["strips"][0]["frames"][1]["clean"])
        assert copied.is_relative_to(scripted.folder.resolve()) and copied.read_bytes() == b"a picture"
        frames[0]["clean"] = "../../../config.json"
        (folder / "so-far.json").write_text(json.dumps(so_far))
        time.sleep(2 * LIVE_POLL_S)
        assert scripted.state(ticket).growing == state.growing
        (folder / "so-far.json").unlink()
        (folder / "result.json").write_text('{"strips": [], "report": "report.json"}')
        (folder / "report.json").write_text("{}")
        run.emit("preview", id="another", step=1, message="not mine", remedy="")
        run.emit("preview", id=command.id, step=1, path=f"drift/previews/{command.id}/result.json")
        result = wait(scripted, ticket).result
        assert (
            result["report"].startswith(str(scripted.folder.resolve())) and Path(result["report"]).read_text() == "{}"
        )
        ticket = scripted.request(asked)
        (command,) = run.take_commands()
        run.emit("preview", id=command.id, step=1, path="../../../secret.json")
        assert wait(scripted, ticket).status == "failed"
        ticket = scripted.request(asked)
    assert "ended before it answered" in wait(scripted, ticket).message
