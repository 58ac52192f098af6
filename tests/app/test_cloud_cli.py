"""`rollout-studio cloud`: the file is read back as YAML, and its commands are run here."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from rollout_studio.app.cli import cloud
from rollout_studio.app.cli import main as cli
from rollout_studio.core.config import config_from_flat

BASH = shutil.which("bash")


def cloud_file(tmp_path, *arguments):
    """(exit code, what the file says; None where none was written)."""
    path = tmp_path / "task.yaml"
    code = cli.main(["cloud", "--yaml", str(path), *map(str, arguments)])
    return code, yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


@pytest.fixture
def shell(tmp_path):
    """Run shell lines as on the rented machine, whose home is a folder here; what they print."""
    home = tmp_path / "home"
    program = home / "rollout-studio" / "venv" / "bin" / "rollout-studio"

    def install(code):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
        program.chmod(0o755)

    def run(lines, **environment):
        everything = {**os.environ, "HOME": str(home), "ROLLOUT_STUDIO_ARGS": "", **environment}
        return subprocess.run(
            [BASH, "-c", lines], check=False, capture_output=True, text=True, env=everything, cwd=tmp_path, timeout=120
        )

    run.home, run.install = home, install
    return run


def test_the_file_is_one_task_with_config_data_and_versions(tmp_path, capsys):
    code, task = cloud_file(
        tmp_path, "--preset", "demo", "--num_processes", 2, "--bucket", "s3://mine", "--gpu", "L4", "--infra", "k8s", "--run-name", "pot",
        "--data_cache_dir", tmp_path, "--device", "cuda:1", "--instance_data_dir", tmp_path, "--instance_prompt", 'a "quoted": # prompt',
    )  # fmt: skip
    assert code == 0 and "sky jobs launch" in capsys.readouterr().err
    resources = {
        "infra": "k8s", "accelerators": "L4:2", "use_spot": True, "job_recovery": {"recover_on_exit_codes": [75]},
    }  # fmt: skip
    assert task["name"] == "pot" and task["resources"] == resources
    sent = f"sent/0-{tmp_path.name}"
    assert task["file_mounts"] == {
        f"~/rollout-studio/{sent}": str(tmp_path),
        "~/rollout-studio/runs": {"source": "s3://mine", "mode": "MOUNT_CACHED"},
    }
    assert Path(task["workdir"]) == cloud.SOURCE
    written = task["setup"].split("END_OF_FILE")
    config = config_from_flat(json.loads(written[1].removeprefix("'")))
    assert (config.data.instance_data_dir, config.model.device, config.data.data_cache_dir) == (sent, "cuda", None)
    assert config.data.instance_prompt == 'a "quoted": # prompt' and config.training.num_processes == 2
    lock = written[3].removeprefix("'").split()
    assert f"torch=={metadata.version('torch').partition('+')[0]}" in lock and "safetensors" in "".join(lock)
    assert all(line.count("==") == 1 for line in lock) and not any(line.startswith("rollout-studio") for line in lock)


def test_each_thing_of_a_run_is_sent(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    things = [{"instance_data_dir": str(tmp_path / name), "instance_prompt": name} for name in ("cat", "dog")]
    code, task = cloud_file(tmp_path, "--on-demand", "--concepts", json.dumps(things))
    assert code == 0 and task["resources"]["use_spot"] is False
    assert list(task["file_mounts"].values()) == [str(tmp_path / "cat"), str(tmp_path / "dog")]
    assert "sent/0-cat" in task["setup"] and "sent/1-dog" in task["setup"] and str(tmp_path) not in task["setup"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--on-demand", "--instance_data_dir", "nowhere/at/all"],
            "instance_data_dir = nowhere/at/all: is not on this computer",
        ),
        ([], "--bucket: a spot machine may be taken away"),
        (["--on-demand", "--source", "nowhere"], "has no pyproject.toml"),
        (
            ["--on-demand", "--nodes", 2, "--volume", "pvc"],
            "--nodes 2: the 1 processes of num_processes cannot be divided",
        ),
        (
            ["--bucket", "s3://a", "--nodes", 2, "--num_processes", 2, "--train_batch_size", 2],
            "--nodes 2: several machines read and write one folder",
        ),
        (["--bucket", "s3://a", "--volume", "pvc"], "name one of the two"),
        (["--on-demand", "--run-name", "../up"], "run"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_no_file_is_written(tmp_path, capsys, arguments, said):
    code, task = cloud_file(tmp_path, *arguments)
    assert code == 78 and task is None and said in capsys.readouterr().err


def test_a_file_that_is_there_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "task.yaml").write_text("mine: 1")
    assert cloud_file(tmp_path, "--on-demand") == (78, {"mine": 1})


@pytest.mark.skipif(BASH is None, reason="the commands are bash's")
def test_a_task_begins_goes_on_from_a_checkpoint_and_hands_on_its_exit_code(tmp_path, shell):
    _, task = cloud_file(tmp_path, "--preset", "demo", "--on-demand", "--run-name", "pot")
    files, packages = task["setup"].split("# --- packages")
    assert "uv pip install" in packages and shell(files).returncode == 0
    shell.install("import sys\nprint(*sys.argv[1:])\nsys.exit(75)")
    runs = shell.home / "rollout-studio" / "runs"
    first = shell(task["run"])
    assert (first.returncode, first.stdout.split()) == (
        75,
        ["train", "--config", "config.json", "--run-name", "pot", "--runs-dir", "runs"],
    )
    (runs / "pot" / "checkpoints").mkdir(parents=True)  # it was taken away before its first checkpoint
    assert shell(task["run"]).stdout == first.stdout
    assert [path.name.startswith("pot-until-") for path in runs.iterdir()] == [True]
    (runs / "pot" / "checkpoints" / "step-000002").mkdir(parents=True)
    (runs / "pot" / "checkpoints" / "step-000002" / "manifest.json").touch()
    again = shell(task["run"], ROLLOUT_STUDIO_ARGS="--dry-run")
    assert (again.returncode, again.stdout.split()) == (
        75,
        ["train", "--resume", "pot", "--runs-dir", "runs", "--dry-run"],
    )


@pytest.mark.skipif(BASH is None, reason="the commands are bash's")
def test_several_machines_start_their_shares_and_the_first_says_whether_the_run_goes_on(tmp_path, shell):
    _, task = cloud_file(
        tmp_path, "--preset", "demo", "--volume", "my-pvc", "--run-name", "pot", "--nodes", 2, "--num_processes", 4, "--max_restarts", 3
    )  # fmt: skip
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, "A100:2")
    assert task["volumes"] == {"~/rollout-studio/runs": "my-pvc"} and task["file_mounts"] == {}
    torchrun = shell.home / "rollout-studio" / "venv" / "bin" / "torchrun"
    shell.install("")
    torchrun.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:])\n", encoding="utf-8")
    torchrun.chmod(0o755)

    def started(node):
        done = shell(task["run"], SKYPILOT_NODE_RANK=str(node), SKYPILOT_NODE_IPS="10.0.0.7\n10.0.0.8")
        return done.stdout.split() if done.returncode == 0 else done.stderr

    def meet(node):
        return (
            f"--nnodes 2 --nproc-per-node 2 --node-rank {node} --master-addr 10.0.0.7 --master-port 29400 --max-restarts 3 "
            "--no-python rollout-studio train"
        ).split()

    begin = ["--config", "config.json", "--run-name", "pot", "--runs-dir", "runs"]
    assert [started(node) for node in range(2)] == [[*meet(node), *begin] for node in range(2)]
    saved = shell.home / "rollout-studio" / "runs" / "pot" / "checkpoints" / "step-000002" / "manifest.json"
    saved.parent.mkdir(parents=True)
    saved.touch()
    assert started(0) == [*meet(0), "--resume", "pot", "--runs-dir", "runs"] and started(1) == [*meet(1), *begin]


@pytest.mark.skipif(BASH is None, reason="the commands are bash's")
@pytest.mark.slow
def test_a_dry_run_of_the_task_finds_its_pictures(tmp_path, shell, root):
    pictures = root / "presets" / "demo" / "dreambooth"
    _, task = cloud_file(
        tmp_path, "--preset", "demo", "--on-demand", "--instance_data_dir", pictures, "--device", "cpu"
    )
    assert "accelerators" not in task["resources"]
    assert shell(task["setup"].split("# --- packages")[0]).returncode == 0
    for there, here in task["file_mounts"].items():
        shutil.copytree(here, shell.home / there.removeprefix("~/"))
    shell.install("import sys\nfrom rollout_studio.app.cli.main import main\nsys.exit(main())")
    done = shell(task["run"], ROLLOUT_STUDIO_ARGS="--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["instance_data_dir"] == "sent/0-dreambooth" and "Dry run" in done.stderr
