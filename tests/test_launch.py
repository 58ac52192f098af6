"""The launcher: which torch, when to install again, and clear words. No environment is made here; that is what .ci/run does."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CPU = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """The launcher as a module, with its environment in an empty folder."""
    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "STAMP", str(tmp_path / ".venv" / "rollout-studio.json"))
    return module


def smi(cuda, label="CUDA Version"):
    """What nvidia-smi prints, as far as we read it."""
    return f"""
Thu Jan  1 00:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.65.06              Driver Version: 580.65.06      {label}: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
|   0  NVIDIA GeForce RTX 4090        Off |   00000000:01:00.0 Off |                  Off |
+-----------------------------------------------------------------------------------------+
"""


def cuda(build):
    return ["--extra-index-url", f"https://download.pytorch.org/whl/cu{build}"]


@pytest.mark.parametrize("system", ["Linux", "Windows"])
@pytest.mark.parametrize(
    ("driver", "cards", "build"),
    [
        ("13.0", [(8, 9)], "130"),
        ("13.2", [(12, 0)], "130"),
        ("14.1", [], "130"),
        ("12.8", [(8, 9)], "126"),
        ("12.6", [], "126"),
        ("13.0", [(6, 1)], "126"),  # CUDA 13 has no code for cards before Turing
        ("13.0", [(6, 1), (8, 6)], "126"),
    ],
)
def test_an_nvidia_card_gets_the_newest_cuda_build_that_driver_and_card_take(launch, system, driver, cards, build):
    arguments, why = launch.torch_source(smi(driver), cards, system, "x86_64", set(), None)
    assert arguments == cuda(build)
    assert f"cu{build}" in why


@pytest.mark.parametrize(
    ("printed", "cards"),
    [
        (smi("11.8"), []),  # a driver older than every build
        (smi("N/A"), []),
        (smi("12.8"), [(12, 0)]),  # CUDA 12.6 has no code for this card, and the driver takes no more
    ],
)
def test_a_card_that_no_build_fits_gets_the_cpu_build_and_is_reported(launch, printed, cards):
    arguments, why = launch.torch_source(printed, cards, "Linux", "x86_64", set(), None)
    assert arguments == CPU
    assert "driver" in why
    assert launch.torch_source(printed, cards, "Windows", "AMD64", set(), None)[0] == []


def test_without_a_card_linux_takes_the_cpu_index_and_others_the_usual_build(launch):
    assert launch.torch_source(None, [], "Linux", "x86_64", set(), None)[0] == CPU
    assert launch.torch_source(None, [], "Windows", "AMD64", set(), None)[0] == []
    assert launch.torch_source(None, [], "Darwin", "arm64", set(), None)[0] == []


def test_wheels_that_pip_is_reported_to_find_win(launch):
    for printed in (None, smi("13.0")):
        assert launch.torch_source(printed, [], "Linux", "x86_64", {"find-links"}, None)[0] == []
    assert launch.torch_source(None, [], "Linux", "x86_64", {"index-url"}, None)[0] == []
    # a mirror of the usual index has no CUDA builds for Windows
    assert launch.torch_source(smi("13.0"), [], "Windows", "AMD64", {"index-url"}, None)[0] == cuda("130")


def test_the_override_wins_over_everything(launch):
    url = "https://example.invalid/whl/rocm"
    assert launch.torch_source(smi("13.0"), [], "Linux", "x86_64", {"find-links"}, url)[0] == ["--extra-index-url", url]
    assert launch.torch_source(smi("13.0"), [], "Linux", "x86_64", set(), "none")[0] == []


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        (smi("12.8"), (12, 8)),
        (smi("13.1", "CUDA UMD Version"), (13, 1)),
        (smi("N/A"), None),
        ("No devices were found", None),
    ],
)
def test_the_cuda_version_is_read_from_what_nvidia_smi_prints(launch, printed, version):
    assert launch.cuda_version(printed) == version


def test_capabilities_are_read_one_card_a_line(launch, monkeypatch):
    monkeypatch.setattr(launch, "nvidia_smi", lambda *arguments: "8.6\n12.0\n")
    assert launch.cards() == [(8, 6), (12, 0)]
    monkeypatch.setattr(launch, "nvidia_smi", lambda *arguments: None)
    assert launch.cards() == []


def test_what_pip_is_configured_with_is_read_from_pip_itself(launch, monkeypatch):
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul")
    assert "find-links" not in launch.pip_sources(sys.executable)
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    assert "find-links" in launch.pip_sources(sys.executable)


def test_the_interpreter_is_where_each_system_puts_it(launch):
    assert Path(launch.venv_python_in("x", False)).parts == ("x", "bin", "python")
    assert Path(launch.venv_python_in("x", True)).parts == ("x", "Scripts", "python.exe")


# ---- installing once


@pytest.fixture
def installed(launch, monkeypatch):
    """The launcher with an environment and a pip that only notes what it is asked; returns the notes."""
    commands = []
    monkeypatch.setattr(launch, "make_venv", lambda: Path(launch.VENV).mkdir(exist_ok=True))
    monkeypatch.setattr(launch, "nvidia_smi", lambda *arguments: None)
    monkeypatch.setattr(launch, "pip_sources", lambda python: {"find-links"})
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **how: commands.append(command) or 0)
    return commands


def test_a_second_start_installs_nothing(launch, installed):
    launch.install()
    assert len(installed) == 1
    assert "--constraint" in installed[0]
    launch.install()
    assert len(installed) == 1


def test_pip_writes_to_stderr_so_that_the_first_command_has_stdout_for_itself(launch, monkeypatch, capfd):
    """`python launch.py options --json | python -m json.tool` works on the very first start."""
    monkeypatch.setattr(launch, "make_venv", lambda: Path(launch.VENV).mkdir(exist_ok=True))
    monkeypatch.setattr(launch, "nvidia_smi", lambda *arguments: None)
    monkeypatch.setattr(launch, "pip_sources", lambda python: {"find-links"})
    monkeypatch.setattr(launch, "venv_python", lambda: sys.executable)
    real = subprocess.call
    talk = [sys.executable, "-c", "print('Collecting torch')"]
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **how: real(talk, **how))
    monkeypatch.setattr(launch.sys, "stderr", sys.__stderr__)
    launch.install()
    written = capfd.readouterr()
    assert "Collecting torch" in written.err and written.out == ""


def test_the_test_extra_is_installed_once_and_kept(launch, installed):
    launch.install()
    launch.install("test")
    assert installed[-1][-1].endswith("[test]")
    launch.install("test")
    launch.install()
    assert len(installed) == 2


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml", "python"])
def test_a_change_of_what_is_wanted_installs_again(launch, installed, monkeypatch, tmp_path, changed):
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text("before")
    version = (3, 11, 4)
    before = launch.fingerprint(str(tmp_path), version)
    if changed == "python":
        version = (3, 12, 1)
    else:
        (tmp_path / changed).write_text("after")
    assert launch.fingerprint(str(tmp_path), version) != before
    launch.install()
    monkeypatch.setattr(launch, "fingerprint", lambda: "another")
    launch.install()
    assert len(installed) == 2


def test_a_failed_install_is_reported_and_tried_again(launch, installed, monkeypatch):
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **how: 1)
    with pytest.raises(launch.Trouble, match="pip could not install"):
        launch.install()
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **how: installed.append(command) or 0)
    launch.install()
    assert len(installed) == 1


def test_a_damaged_stamp_means_install_again(launch, installed):
    launch.install()
    Path(launch.STAMP).write_text("{")
    launch.install()
    assert len(installed) == 2


# ---- words


def test_the_file_parses_on_an_old_python_and_says_so(launch):
    source = (ROOT / "launch.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    output = launch.too_old((3, 8, 10), "/usr/bin/python3")
    assert "needs Python 3.11 or newer; this is 3.8" in output
    assert "python3.11 launch.py" in output


def test_main_reports_it_instead_of_failing_later(launch, monkeypatch, capsys):
    monkeypatch.setattr(
        launch, "sys", type("Old", (), {"version_info": (3, 9, 1), "executable": "py", "stderr": sys.stderr})
    )
    assert launch.main([]) == 1
    assert "needs Python 3.11" in capsys.readouterr().err


def test_only_the_standard_library_is_imported():
    tree = ast.parse((ROOT / "launch.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= set(sys.stdlib_module_names)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], ["ui"]),
        (["--port", "7000"], ["ui", "--port", "7000"]),
        (["train", "--preset", "demo"], ["train", "--preset", "demo"]),
    ],
)
def test_anything_else_goes_to_the_command_line(launch, monkeypatch, arguments, command):
    monkeypatch.setattr(launch, "install", lambda: "python")
    monkeypatch.setattr(launch, "replace_by", lambda command: command)
    assert launch.main(arguments) == ["python", "-m", "rollout_studio.app", *command]


def test_a_venv_that_cannot_be_made_is_reported_with_the_cure(launch, monkeypatch):
    refused = subprocess.CompletedProcess([], 1, stdout=b"ensurepip is not available")
    monkeypatch.setattr(launch.subprocess, "run", lambda *command, **how: refused)
    with pytest.raises(launch.Trouble, match=r"ensurepip is not available[\s\S]*apt install python3"):
        launch.make_venv()


def test_an_environment_of_another_python_is_made_anew(launch, monkeypatch):
    python = Path(launch.venv_python())
    python.parent.mkdir(parents=True)
    python.write_text("")
    monkeypatch.setattr(launch, "version_of", lambda python: [3, 4, 0])
    made = []
    done = subprocess.CompletedProcess([], 0, stdout=b"")
    monkeypatch.setattr(launch.subprocess, "run", lambda command, **how: made.append(command) or done)
    launch.make_venv()
    assert made
    assert not python.exists()


@pytest.fixture
def tools(launch, monkeypatch):
    """The launcher with tools that only note that they were called, and end with the code in `tools.codes`."""
    monkeypatch.setattr(launch, "install", lambda extra: "python")
    monkeypatch.setattr(launch, "find_browser", lambda: "/usr/bin/chromium")
    launch.called, launch.codes = [], {}

    def call(command, **how):
        assert command[:2] == ["python", "-m"] and how["cwd"] == str(ROOT)
        name = " ".join(command[2:4]) if command[2] == "ruff" else command[2]
        launch.called.append(name)
        return launch.codes.get(name, 0)

    monkeypatch.setattr(launch.subprocess, "call", call)
    return launch


def test_the_sources_are_checked_before_the_tests(tools):
    assert tools.main(["test"]) == 0
    assert tools.called == ["ruff check", "ruff format", "mypy", "pytest"]


def test_a_run_with_arguments_for_pytest_checks_nothing_else(tools):
    tools.codes = {"ruff check": 1}
    assert tools.main(["test", "-k", "one"]) == 0
    assert tools.called == ["pytest"]


def test_all_that_is_not_clean_is_named_with_its_cure_and_no_test_is_run(tools, capsys):
    tools.codes = {"ruff format": 1, "mypy": 2}
    assert tools.main(["test"]) == 1
    assert tools.called == ["ruff check", "ruff format", "mypy"]
    output = capsys.readouterr().err
    assert "Not clean, so no test was run:\n  ruff format: run `ruff format .`\n  mypy: " in output
    assert "  ruff check:" not in output


def test_the_checks_call_what_is_installed_for_the_tests(launch):
    """A tool that the extra does not name would be missing on a fresh machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {line.partition(">=")[0] for line in project["optional-dependencies"]["test"]}
    assert {command[0] for _, command, _ in launch.CHECKS} <= named


def test_the_tests_exit_with_the_code_of_pytest(launch, monkeypatch):
    called = {}
    monkeypatch.setattr(launch, "install", lambda extra: "python")
    monkeypatch.setattr(launch, "find_browser", lambda: "/usr/bin/chromium")
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **how: called.update(command=command, **how) or 5)
    assert launch.main(["test", "-k", "one"]) == 5
    assert called["command"] == ["python", "-m", "pytest", "-m", "not slow and not gpu", "--durations=20", "-k", "one"]
    assert called["env"]["ROLLOUT_STUDIO_CHROMIUM"] == "/usr/bin/chromium"


def test_without_arguments_the_tests_of_a_file_share_one_of_several_processes(launch, monkeypatch):
    called = {}
    monkeypatch.setattr(launch, "install", lambda extra: "python")
    monkeypatch.setattr(launch, "check", lambda python: None)
    monkeypatch.setattr(launch, "find_browser", lambda: "/usr/bin/chromium")
    monkeypatch.setattr(launch.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(launch.subprocess, "call", lambda command, **how: called.update(command=command) or 0)
    assert launch.main(["test"]) == 0
    assert called["command"][-5:] == ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]


def test_the_matrix_of_systems_runs_the_readmes_command_with_what_ci_run_sets():
    import yaml

    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["python launch.py test"] and commands[0] in (ROOT / "README.md").read_text("utf-8")
    assert {each.split("-")[0] for each in job["strategy"]["matrix"]["os"]} == {"ubuntu", "windows", "macos"}
    least = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == least, "the oldest Python that is promised is tried"
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert all(f"{name}=" in ci for name in job["env"])
