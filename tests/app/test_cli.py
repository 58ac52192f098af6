"""The command line: every option a flag, exit codes, what a dry run prints, words instead of tracebacks."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
from rollout_studio.app.cli import answers, flags
from rollout_studio.app.cli import main as cli
from rollout_studio.app.cli import train as cli_train
from rollout_studio.app.cli.progress import Progress, human_time
from rollout_studio.core.config import OPTIONS, config_from_flat, config_to_flat
from rollout_studio.core.config import presets as presets_module
from rollout_studio.core.findings import Finding
from rollout_studio.core.runs.store import RunStore


def resolved(*arguments):
    """The config that a command line asks for."""
    given, unknown = cli._parser().parse_known_args(["train", *arguments])
    assert not unknown
    return flags.resolve(given)[0]


@pytest.fixture
def run(capsys):
    """Run a command; gives (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def healthy(monkeypatch):
    """A preflight without findings, so that what is tested is the command line."""
    from rollout_studio.core.before import preflight

    calls = []
    monkeypatch.setattr(preflight, "preflight", lambda config, **where: calls.append((config, where)) or [])
    return calls


# ---- options as flags


def test_every_option_is_a_flag():
    flags = {
        action.option_strings[0] for action in cli._parser()._subparsers._group_actions[0].choices["train"]._actions
    }
    assert {f"--{name}" for name in OPTIONS} <= flags


def test_flags_are_understood_as_people_write_them():
    config = resolved(
        "--scheduled_sampling_max_step_offset", "10", "--scheduled_sampling_reflexflow=false", "--prediction_type", "flow_matching",
        "--learning_rate", "1e-3", "--lora_alpha", "none", "--use_ema", "--scheduled_sampling_probability=1",
        "--validation_prompts", "a, b", "c", "--drift_offsets", "1,3", "--lora_targets", "to_q", "to_k",
    )  # fmt: skip
    assert (config.rollout.max_step_offset, config.rollout.reflexflow, config.model.prediction_type) == (
        10,
        False,
        "flow_matching",
    )
    assert (config.training.learning_rate, config.lora.alpha, config.training.use_ema) == (1e-3, None, True)
    assert config.validation.prompts == ("a, b", "c")
    assert (config.drift.offsets, config.lora.targets) == ((1, 3), ("to_q", "to_k"))


@pytest.mark.parametrize(("word", "value"), [("null", None), ("none", None), ("true", True), ("false", False)])
def test_reflexflow_can_be_set_and_unset(word, value):
    assert resolved("--scheduled_sampling_reflexflow", word).rollout.reflexflow is value


def test_flags_win_over_set_and_set_over_the_preset(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"--seed": 1, "lora_rank": 2, "max_train_steps": 3}')
    config = resolved(
        "--config", str(file), "--set", "lora_rank=4", "--set", "max_train_steps=5", "--max_train_steps", "6"
    )
    assert (config.training.seed, config.lora.rank, config.training.max_train_steps) == (1, 4, 6)
    assert resolved("--preset", "demo", "--set=--seed=9").training.seed == 9


def test_all_faults_of_preset_set_and_flags_come_together(run):
    code, out, err = run(
        "train", "--preset", "demo", "--learning_rate", "nan", "--set", "seed=1.5", "--scheduled_sampling_order", "9"
    )
    assert (code, out) == (78, "")
    assert len(err.splitlines()) == 3
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--scheduled_sampling_gird", "3"],
            "Unknown option 'scheduled_sampling_gird'. Did you mean 'scheduled_sampling_grid'?",
        ),
        (["--learning-rate", "3"], "Did you mean 'learning_rate'?"),
        (["--set", "gird=3"], "Unknown option 'gird'"),
        (["--set", "seed"], "must be KEY=VALUE"),
        (["--preset", "dmeo"], "Did you mean 'demo'?"),
        (["--config", "nowhere.json"], "there is no such file"),
        (["--scheduled_sampling_max_step_offset", "-1"], "must be at least 0 grid steps"),
        (["--run-name", "../up"], "cannot name a run"),
        (["--resume", "nobody"], "There is no run 'nobody'"),
        (["--resume", "nobody", "--seed", "3"], "goes on with its own config"),
    ],
)
def test_a_mistake_is_reported_in_words_and_ends_with_78(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", *arguments)
    assert code == 78
    assert words in err
    assert "Traceback" not in err


def test_a_command_that_is_none_ends_with_2(run):
    assert run("fly")[0] == 2
    assert run()[0] == 2
    assert run("train", "--preset", "demo", "--config", "x.json")[0] == 2


def test_help_and_version_end_with_0(run):
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert out
    # percent signs of help texts survive argparse
    assert "100 %" not in run("train", "--help")[1].replace("100 %%", "")


# ---- dry run


def test_a_dry_run_prints_the_resolved_config_and_makes_nothing(run, healthy, tmp_path):
    gentle = ("--preset", "demo", "--level", "gentle", "--seed", "7")
    code, out, err = run("train", *gentle, "--dry-run", "--runs-dir", tmp_path / "runs")
    assert code == 0
    assert config_from_flat(json.loads(out)) == resolved(*gentle)
    assert list(json.loads(out)) == list(OPTIONS)
    assert "  seed = 7" in err
    assert "Cost of a step: up to 3 extra forwards per row" in err
    assert not (tmp_path / "runs").exists()
    assert len(healthy) == 1


def test_what_a_dry_run_prints_is_a_config_file_again(run, healthy, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(run("train", "--preset", "demo", "--dry-run")[1])
    assert resolved("--config", str(file)) == resolved("--preset", "demo")


def test_preflight_errors_forbid_the_start_and_are_all_reported(run, monkeypatch, tmp_path):
    from rollout_studio.core.before import preflight

    found = [
        Finding("error", "a.png", "is broken.", "Remove it."),
        Finding("warning", "b.txt", "is empty.", "Write it."),
    ]
    monkeypatch.setattr(preflight, "preflight", lambda *what, **where: found)
    code, _, err = run("train", "--preset", "demo", "--runs-dir", tmp_path / "runs")
    assert code == 78
    for words in ("a.png: is broken.", "Remove it.", "b.txt: is empty."):
        assert words in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "no extra forwards"),
        (
            ["--scheduled_sampling_max_step_offset", "10", "--scheduled_sampling_probability", "1"],
            "up to 11 extra forwards",
        ),
        (
            [
                "--scheduled_sampling_max_step_offset",
                "10",
                "--scheduled_sampling_probability",
                "1",
                "--model_family",
                "sd1x",
            ],
            "up to 10 extra forwards",
        ),
    ],
)
def test_the_cost_of_the_rollout_is_printed(flags, words):
    assert words in answers.cost_sentence(resolved(*flags))


# ---- train


@pytest.fixture
def trainer(monkeypatch):
    """A trainer that notes what it is given; `code` is what it returns."""
    import types

    noted = types.SimpleNamespace(calls=[], code=0)

    def train(run, *, resume=False, listen=None, interrupt=None):
        noted.calls.append((run, resume))
        listen({"event": "start", "device": "cpu", "total_steps": 2, "resumed_from": None})
        listen({"event": "step", "step": 1, "loss": 0.5, "rolled_rows": 1, "eta_s": 61})
        listen({"event": "step", "step": 2, "loss": "nan", "eta_s": None})
        listen({"event": "end", "state": "done", "step": 2})
        return noted.code

    monkeypatch.setattr(cli_train, "use_all_cores", lambda: None)
    monkeypatch.setitem(sys.modules, "rollout_studio.core.train.loop", types.SimpleNamespace(train=train))
    return noted


@pytest.mark.parametrize("code", [0, 70, 75, 78])
def test_train_creates_a_run_and_ends_with_the_trainers_code(run, healthy, trainer, tmp_path, code):
    trainer.code = code
    got, _, err = run("train", "--preset", "demo", "--run-name", "mine", "--runs-dir", tmp_path)
    assert got == code
    assert trainer.calls[0][1] is False
    made = RunStore(tmp_path).get("mine")
    assert config_from_flat(made.read_config()) == resolved("--preset", "demo")
    assert "Run mine in" in err
    assert "loss 0.5000, 1 rolled, 1 min 1 s left" in err
    assert "loss nan" in err
    assert "Done at step 2." in err


def test_an_existing_run_is_not_overwritten(run, healthy, trainer, tmp_path):
    assert run("train", "--preset", "demo", "--run-name", "mine", "--runs-dir", tmp_path)[0] == 0
    code, _, err = run("train", "--preset", "demo", "--run-name", "mine", "--runs-dir", tmp_path)
    assert code == 78
    assert "exists already" in err
    assert healthy[-1][1]["run_dir"] == tmp_path / "mine"


def test_resume_needs_a_checkpoint(run, healthy, trainer, tmp_path):
    run("train", "--preset", "demo", "--run-name", "mine", "--runs-dir", tmp_path)
    code, _, err = run("train", "--resume", "mine", "--runs-dir", tmp_path)
    assert code == 78
    assert "no checkpoint" in err


def test_resume_goes_on_with_the_runs_own_config(run, healthy, trainer, tmp_path, monkeypatch):
    run("train", "--preset", "demo", "--run-name", "mine", "--runs-dir", tmp_path)
    (tmp_path / "mine" / "checkpoints" / "step-000002").mkdir(parents=True)
    monkeypatch.setattr("rollout_studio.core.runs.folder.RunDir.last_checkpoint", lambda self: 2)
    assert run("train", "--resume", "mine", "--runs-dir", tmp_path)[0] == 0
    assert trainer.calls[-1][1] is True


def test_a_crash_ends_with_70_and_its_traceback(run, healthy, trainer, tmp_path, monkeypatch):
    def broken(*what):
        raise ValueError("an inner fault")

    monkeypatch.setattr(answers, "cost_sentence", broken)
    code, _, err = run("train", "--preset", "demo", "--runs-dir", tmp_path)
    assert code == 70
    assert "Traceback" in err
    assert "an inner fault" in err


# ---- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_bar_moves_and_closes():
    stream = Terminal()
    progress = Progress(stream)
    progress({"event": "start", "device": "cpu", "total_steps": 4, "resumed_from": 1})
    progress({"event": "phase", "name": "latents", "done": 1, "total": 5})
    progress({"event": "step", "step": 2, "loss": 0.25})
    progress({"event": "warning", "message": "Slow.", "remedy": "Wait."})
    progress({"event": "saved", "step": 2, "path": "checkpoints/step-000002"})
    progress({"event": "unheard of"})
    progress({"event": "end", "state": "stopped", "step": 2})
    shown = stream.getvalue()
    for words in (
        "resumed from step 1",
        "latents",
        "training",
        "2/4",
        "loss 0.2500",
        "Warning: Slow. Wait.",
        "step-000002",
        "Stopped at step 2.",
    ):
        assert words in shown


def test_without_a_terminal_lines_come_every_ten_seconds():
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, clock=lambda: now[0])
    progress({"event": "start", "device": "cpu", "total_steps": 100, "resumed_from": None})
    for step in range(1, 101):
        now[0] += 0.5
        progress({"event": "step", "step": step, "loss": 1.0, "step_s": 0.1234, "eta_s": 5})
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("training")]
    assert 5 <= len(lines) <= 8
    assert lines[-1] == "training: 100/100  loss 1.0000, 0.123 s a step, 5 s left"


def test_the_bar_of_a_training_shows_the_runs_own_speed_and_time_left_and_no_other():
    stream = Terminal()
    progress = Progress(stream)
    progress({"event": "start", "device": "cpu", "total_steps": 4, "resumed_from": None})
    for step in (1, 2):
        progress({"event": "step", "step": step, "loss": 0.25, "step_s": 7.5, "eta_s": 15.0})
    shown = stream.getvalue()
    assert "7.5 s a step, 15 s left" in shown and not re.search(r"s/it|it/s|\d\d:\d\d", shown), shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), ("nan", "unknown time")]
)
def test_times_are_human(seconds, words):
    assert human_time(seconds) == words


# ---- runs


@pytest.fixture
def store(tmp_path):
    made = RunStore(tmp_path / "runs")
    made.create(resolved("--preset", "demo"), "first", "demo")
    return made


@pytest.mark.parametrize("below", ["a file/runs", "a" * 300], ids=["below a file", "too long"])
@pytest.mark.parametrize(
    "command",
    [
        "runs",
        "runs show x",
        "train --preset demo --max_train_steps 1",
        "sample --run x --prompt a --out o",
        "ui --no-browser",
    ],
)
def test_an_impossible_runs_folder_is_a_message_of_every_command(run, tmp_path, monkeypatch, command, below):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    code, _, err = run(*command.split(), "--runs-dir", tmp_path / below)
    assert code == 78
    assert "cannot be made" in err and "Traceback" not in err


def test_presets_are_listed_whatever_the_runs_folder_is(run, tmp_path):
    code, out, _ = run("presets", "--runs-dir", tmp_path / ("a" * 300))
    assert code == 0 and "demo: " in out


def test_runs_are_listed_where_nothing_can_be_written(run, as_nobody):
    store = RunStore(as_nobody / "runs")
    store.create({}, "first")
    store.enqueue("first")
    for path in (store.root, *store.root.iterdir()):
        path.chmod(0o555)
    code, out, err = run("runs", "--runs-dir", store.root)
    for path in (store.root, *store.root.iterdir()):
        path.chmod(0o755)
    assert code == 0 and out.startswith("first ")
    assert "It cannot be started" in out and "Permission denied" in out and "Traceback" not in err


def test_runs_are_listed_where_the_queue_cannot_move_and_it_is_reported_once(run, tmp_path):
    store = RunStore(tmp_path)
    store.create({}, "first")
    store.enqueue("first")
    (tmp_path / ".queue.sqlite3").write_bytes(b"no database" * 1000)
    code, out, err = run("runs", "--runs-dir", store.root)
    assert code == 0 and out.startswith("first ")
    assert err.count("is damaged") == 1 and "no waiting run starts" in err and "Traceback" not in err


def test_runs_are_listed_shown_and_deleted(run, store):
    code, out, _ = run("runs", "--runs-dir", store.root)
    assert code == 0
    assert "first" in out
    listed = json.loads(run("runs", "--json", "--runs-dir", store.root)[1])
    assert [each["name"] for each in listed] == ["first"]
    shown = run("runs", "show", "first", "--runs-dir", store.root)[1]
    assert "preset: demo" in shown
    assert "  max_train_steps = " in shown
    assert run("runs", "delete", "first", "--yes", "--runs-dir", store.root)[0] == 0
    assert store.list() == []
    assert run("runs", "trash", "--runs-dir", store.root)[1].startswith("first ")
    assert run("runs", "restore", "first", "--runs-dir", store.root)[0] == 0
    assert [each.name for each in store.list()] == ["first"]
    assert run("runs", "delete", "first", "--yes", "--runs-dir", store.root)[0] == 0
    assert run("runs", "empty-trash", "--yes", "--runs-dir", store.root)[0] == 0
    assert (
        not store.trash()
        and "no run 'first' in the trash" in run("runs", "restore", "first", "--runs-dir", store.root)[2]
    )


def test_deleting_asks_and_refuses_without_a_terminal(run, store, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, _, err = run("runs", "delete", "first", "--runs-dir", store.root)
    assert code == 78
    assert "--yes" in err
    assert len(store.list()) == 1


@pytest.mark.parametrize("command", ["stop", "stop-and-save", "save", "sample", "drift", "pause", "resume"])
def test_commands_reach_a_living_run(run, store, command):
    living = store.get("first")
    with living.lock():
        assert run("runs", command, "first", "--runs-dir", store.root)[0] == 0
        assert [each.name for each in living.take_commands()] == [command]


def test_a_command_to_a_run_that_does_not_live_is_refused(run, store):
    code, _, err = run("runs", "stop", "first", "--runs-dir", store.root)
    assert code == 78
    assert "not running" in err


def test_an_empty_store_says_how_to_begin(run, tmp_path):
    code, out, _ = run("runs", "--runs-dir", tmp_path)
    assert code == 0
    assert "train --preset demo" in out
    assert run("runs", "show", "--runs-dir", tmp_path)[0] == 78


# ---- sample, drift: what is refused before torch is imported


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--prompt", "a", "--out", "o"], "either --run RUN or --model M"),
        (
            ["sample", "--run", "first", "--model", "demo-flow", "--prompt", "a", "--out", "o"],
            "either --run RUN or --model M",
        ),
        (["sample", "--run", "first", "--lora", "x.safetensors", "--prompt", "a", "--out", "o"], "own weights"),
        (
            ["sample", "--model", "demo-flow", "--lora", "x.safetensors", "--prompt", "a", "--out", "o"],
            "does not exist",
        ),
        (
            ["sample", "--model", "demo-flow", "--lora", "empty.safetensors", "--prompt", "a", "--out", "o"],
            "is empty (0 bytes)",
        ),
        (
            ["sample", "--model", "demo-flow", "--checkpoint", "3", "--prompt", "a", "--out", "o"],
            "only a run has checkpoints",
        ),
        (["sample", "--model", "demo-flow", "--steps", "0", "--prompt", "a", "--out", "o"], "num_inference_steps = 0"),
        (["sample", "--model", "demo-flow", "--prompt", "a", "--out", "full"], "not an empty folder"),
        (["drift", "--run", "first", "--preset", "demo", "--out", "o"], "brings its own config"),
        (["drift", "--preset", "demo", "--checkpoint", "4", "--out", "o"], "only a run has checkpoints"),
    ],
)
def test_what_cannot_be_drawn_or_measured_is_refused_at_once(run, store, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty.safetensors").touch()
    code, _, err = run(*arguments, "--runs-dir", store.root)
    assert code == 78
    assert words in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("spoilt", "code", "words"), [
    (None, 0, "2 of 2 tensors used, in 1 layer, whose weights it changes by"),
    ("name", 78, "0 of its 2 tensors have a place in it"),
    ("nan", 78, "1 of its 2 tensors hold NaN"),
    ("1e30", 78, "times their own size"),
])  # fmt: skip
def test_sample_says_how_much_of_a_lora_fits_and_draws_with_no_other(run, tmp_path, spoilt, code, words):
    import torch
    from safetensors.torch import save_file

    stem = "transformer.layers.0.attn.to_q" if spoilt != "name" else "transformer.blocks.0.attn.query"
    side = 160
    value = {"nan": float("nan"), "1e30": 1e30}.get(spoilt, 0.01)
    save_file(
        {f"{stem}.lora_A.weight": torch.ones(2, side), f"{stem}.lora_B.weight": torch.full((side, 2), value)},
        tmp_path / "mine.safetensors",
    )
    result = run(
        "sample",
        "--model",
        "demo-flow",
        "--lora",
        tmp_path / "mine.safetensors",
        "--prompt",
        "a",
        "--steps",
        "1",
        "--out",
        tmp_path / "o",
    )
    assert result[0] == code and words in result[2] and "Traceback" not in result[2], result
    assert (tmp_path / "o").exists() == (code == 0)


# ---- options, presets, ui


def test_the_reference_is_printed_in_three_forms(run, root):
    assert "--scheduled_sampling_grid_steps" in run("options")[1]
    assert [each["name"] for each in json.loads(run("options", "--json")[1])] == list(OPTIONS)
    assert run("options", "--markdown")[1] == (root / "docs" / "options.md").read_text(encoding="utf-8")


def test_presets_are_listed_and_printed(run):
    out = run("presets")[1]
    assert all(f"{name}: " in out for name in presets_module.preset_names())
    assert "Needs: " in out
    flat = json.loads(run("presets", "demo")[1])
    assert config_to_flat(config_from_flat(flat)) == config_to_flat(resolved("--preset", "demo"))


def test_a_reader_that_leaves_early_is_no_crash():
    """`rollout-studio options | head -1`"""
    code = "import sys; from rollout_studio.app.cli.main import main; sys.exit(main(['options']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


def test_output_is_utf8_whatever_the_system_says():
    code = "from rollout_studio.app.cli.main import main; main(['train', '--set', 'instance_prompt=\u2016', '--set', 'seed=\u2016'])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert 'seed = "\u2016": must be a whole number' in answer.stderr.decode("utf-8")


def test_the_readme_names_only_what_there_is(root):
    text = (root / "README.md").read_text(encoding="utf-8") + (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    subcommands = cli._parser()._subparsers._group_actions[0].choices
    known = {flag for parser in subcommands.values() for action in parser._actions for flag in action.option_strings}
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))
    assert flags <= known, flags - known
    presets = set(re.findall(r"--preset ([a-z][\w-]*)", text))
    assert presets <= set(presets_module.preset_names())
    assert set(re.findall(r"^\| `([a-z]+)", text, re.MULTILINE)) <= set(subcommands)


def test_the_reference_answers_in_half_a_second_and_without_torch():
    code = (
        "import sys; from rollout_studio.app.cli.main import main; main(['options']); assert 'torch' not in sys.modules"
    )
    seconds = []
    for _ in range(3):
        before = os.times()  # processor time of children, because other processes share this machine
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5


UNTIL_TORCH = """
import os, sys
class Watch:
    def find_spec(self, name, *where):
        if name == "torch":
            print("waits", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
from rollout_studio.app.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "command", ["train --preset demo --runs-dir runs", "sample --model demo-flow --prompt x --out out"]
)
@pytest.mark.parametrize(("set_already", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_what_computes_in_the_terminals_own_process_has_threads_that_sleep_while_they_wait(
    tmp_path, command, set_already, policy
):
    """OpenMP reads this once, when torch is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if set_already:
        environment["OMP_WAIT_POLICY"] = set_already
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_TORCH, *command.split()],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert f"waits {policy}\n" in done.stdout, done.stderr


def test_the_page_is_started_with_the_given_flags(run, monkeypatch, tmp_path):
    import types

    calls = []
    page = types.SimpleNamespace(serve=lambda **how: calls.append(how) or 0)
    monkeypatch.setitem(sys.modules, "rollout_studio.app.page", page)
    assert run("ui", "--port", "7000", "--no-browser", "--runs-dir", tmp_path)[0] == 0
    safe = {"listening": None, "everyone": False}
    assert calls == [{"port": 7000, "open_browser": False, "runs_dir": tmp_path, **safe}]
    assert run("ui", "--port", "0")[0] == 78
    for bad in (
        ["--listen", "0.0.0.0"],  # without a login
        ["--tls-key", "k"],  # without --listen
        ["--listen", "0.0.0.0", "--let-everyone-on-this-machine-in"],
    ):
        assert run("ui", *bad)[0] == 78 and len(calls) == 1
    (tmp_path / "login").write_text("ada:correct horse")
    (tmp_path / "login").chmod(0o600)
    assert run("ui", "--listen", "0.0.0.0", "--login-file", tmp_path / "login", "--listen-name", "studio")[0] == 0
    assert calls[1]["listening"].login == "ada:correct horse" and calls[1]["listening"].names == ("studio",)
