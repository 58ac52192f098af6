"""The report of a problem, and S19: canary words in the environment, the form, the pictures' names and texts are in nothing that is handed on."""

import json
import re
import zipfile

import pytest
from rollout_studio.app.cli.main import main
from rollout_studio.app.parts import access
from rollout_studio.app.parts.problem import write_problem
from rollout_studio.core.private_text import Private
from rollout_studio.core.runs.store import RunStore

CANARY = "canary7Zq"
PAGE_TOKEN = "C4nary" * 7 + "x"


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    """Canaries wherever a secret may be, by the place."""
    found = {
        "HF_TOKEN": f"hf_{CANARY}aaaaaaaaaaaaaaaaaaaaaaaaa", "WANDB_API_KEY": f"{CANARY}-wandb", "AWS_SECRET_ACCESS_KEY": f"{CANARY}/aws+x",
        "DISCORD_WEBHOOK_URL": f"https://discord.example/api/webhooks/{CANARY}", "MY_SERVICE_PASSWORD": f"{CANARY} with a blank",
    }  # fmt: skip
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(access, "own_folder", lambda: tmp_path / "own")
    (tmp_path / "own" / "pages").mkdir(parents=True)
    access.write_private(tmp_path / "own" / "pages" / "a", PAGE_TOKEN.encode())
    return [*found.values(), PAGE_TOKEN]


@pytest.fixture
def run(tmp_path, write, secrets):
    """A run that failed, of a person whose folders, words and pictures have names, and whose log quotes what it should not."""
    pictures = tmp_path / f"{CANARY} pictures"
    pictures.mkdir()
    (pictures / f"{CANARY} ada.png").write_bytes(b"x")
    run = write.run(RunStore(tmp_path / "runs"), "mine", config={
        "instance_data_dir": str(pictures), "instance_prompt": f"a photo of {CANARY} dog", "trigger_word": f"{CANARY}w",
        "validation_prompts": [f"{CANARY} at the sea", "b"], "pretrained_model_name_or_path": "owner/model",
    })  # fmt: skip
    trace = f'Traceback (most recent call last):\n  File "{json.__file__}", line 3, in load\n  File "{pictures}/{CANARY}.py", line 1\n'
    run.emit(
        "error",
        message=f"cannot read {pictures / f'{CANARY} ada.png'} ({secrets[0]})",
        remedy="try again",
        traceback=trace,
    )
    run.emit("sample", step=121, images=[{"prompt": f"{CANARY} at the sea", "seed": 1, "path": "samples/a.png"}])
    lines = [f"C:\\Users\\{CANARY}\\pics\\a.png", f"\\\\server\\{CANARY}\\x", f"~/{CANARY}/x.png", f"https://me:{CANARY}@hub.example/x?sig={CANARY}",
             f"api_key={CANARY}", f'"password": "{CANARY}"', f"Authorization: Bearer {CANARY}abcdef", f"file://{pictures}/a.png",
             f"{CANARY}@example.org wrote", f"opened {CANARY} ada.png", "-----{0} RSA PRIVATE {2}-----\n{1}\n-----END RSA PRIVATE {2}-----".format("BEGIN", CANARY, "KEY"), *secrets]  # fmt: skip
    run.log_path.write_text("CUDA out of memory at step 7\n" + "\n".join(lines) + trace)
    return run


def inside(path):
    with zipfile.ZipFile(path) as packed:
        return {name.partition("/")[2]: packed.read(name).decode() for name in packed.namelist()}


def test_it_says_what_helps_and_no_canary_is_in_it(run, tmp_path):
    parts = inside(write_problem(run, tmp_path / "out" / "problem.zip"))
    assert set(parts) == {
        "READ-ME-FIRST.txt",
        "versions.json",
        "machine.json",
        "config.json",
        "state.json",
        "files.json",
        "events.jsonl",
        "log.txt",
    }
    for name, text in parts.items():
        hits = re.findall(".*(?i:canary7zq|c4nary).*", text)
        assert not hits, (name, hits)
    assert "NOTHING WAS SENT" in parts["READ-ME-FIRST.txt"] and "mine" in parts["READ-ME-FIRST.txt"]
    versions, config = json.loads(parts["versions.json"]), json.loads(parts["config.json"])
    assert {"rollout-studio", "python", "torch", "gradio"} <= versions.keys() and "cores" in json.loads(
        parts["machine.json"]
    )
    assert config["learning_rate"] > 0 and config["pretrained_model_name_or_path"] == "owner/model"
    assert config["instance_data_dir"] == "<instance_data_dir>" and config["instance_prompt"] == "<instance_prompt>"
    events = [json.loads(line) for line in parts["events.jsonl"].splitlines()]
    assert events[0]["event"] == "start" and sum(event["event"] == "step" for event in events) > 100
    [error] = [event for event in events if event["event"] == "error"]
    assert error["message"].startswith("cannot read <instance_data_dir>") and "json/__init__.py" in error["traceback"]
    assert "CUDA out of memory at step 7" in parts["log.txt"]
    assert {"file": "log.txt", "bytes": run.log_path.stat().st_size} in json.loads(parts["files.json"])


def test_a_run_that_is_damaged_has_a_report_too(run, tmp_path):
    run.config_path.write_text("{broken")
    run.state_path.write_text("[]")
    with run.events_path.open("ab") as file:
        file.write(b'{"half')
    parts = inside(write_problem(run, tmp_path / "problem.zip"))
    assert "damaged" in json.loads(parts["config.json"]) and "damaged" in json.loads(parts["state.json"])


def test_the_command_writes_it_and_says_that_nothing_was_sent(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report-problem", "mine", "--runs-dir", str(run.path.parent)]) == 0
    told = capsys.readouterr()
    assert (tmp_path / "mine-problem.zip").is_file() and "mine-problem.zip" in told.out
    assert "Nothing was sent" in told.err and CANARY not in told.out + told.err
    assert main(["report-problem", "nobody", "--runs-dir", str(run.path.parent)]) == 78


@pytest.mark.parametrize("harmless", [
    "step 3 of 120: loss 0.25, 1.5 s/step", "Set compile to false.", "torch 2.13.0+cpu, 16/32 GiB", "a/b", "owner/model at main", "lr=0.0001 steps=100",
    "see docs/security.md and samples/step-000040/00.png", "https://github.com/owner/project/issues", "sha256 " + "0123456789abcdef" * 4, "new_tokens=4",
])  # fmt: skip
def test_what_is_harmless_stays_as_it_is(harmless):
    assert Private().text(harmless) == harmless


def test_the_page_shows_the_end_of_the_log_with_every_bad_end_and_offers_the_report(run, tmp_path):
    from rollout_studio.app.runs.buttons import RunButtons
    from rollout_studio.app.runs.messages import messages
    from rollout_studio.core.runs.run_log import follow

    store = RunStore(run.path.parent)
    for state in ("failed", "crashed"):
        run.write_state(state=state, message="crashed at step 120, last checkpoint 120: resume goes on from there")
        run.log_path.write_text("a line long ago\n" * 50 + "Killed <b>\n")
        summary = store.summary("mine")
        shown = messages(summary, follow(run, None))
        assert "Killed &lt;b&gt;" in shown and "Report a problem" in shown and "What to try" in shown
        assert RunButtons.shown(summary, None)["problem"] == "Report a problem"
    bare = store.create({}, "bare")  # whose process said nothing at all: no event, only the state
    bare.write_state(state="crashed", message="The worker ended before training began")
    bare.log_path.write_text("Killed\n")
    assert "Killed" in messages(store.summary("bare"), follow(bare, None))
    assert "problem" not in RunButtons.shown(store.summary(store.create({}, "new").name), None)
