"""Set Rollout Studio up, and start it. Needs Python 3.11 or newer and nothing else.

    python launch.py                       the page, in your browser
    python launch.py train --preset demo   any command of rollout-studio
    python launch.py test                  all checks of the sources (ruff, mypy), then the tests; with arguments only pytest with those

The first start makes `.venv` beside this file and installs into it; a later start installs again only when constraints.txt,
pyproject.toml or the Python version has changed.

ROLLOUT_STUDIO_TORCH_INDEX names the wheel index to take torch from ("none" = only what pip is configured with).
"""

# This file must parse on any Python 3, to report that Python is too old: no f-strings with nesting, no `match`, no `X | Y` types.

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys

OLDEST = (3, 11)
HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(HERE, ".venv")
STAMP = os.path.join(VENV, "rollout-studio.json")

TORCH_WHEELS = "https://download.pytorch.org/whl/"
CUDA_BUILDS = (((12, 6), (5, 0), (9, 0)), ((13, 0), (7, 5), (99, 0)))
"""Stable CUDA builds of torch 2.13: (CUDA version, oldest and newest compute capability of a card), oldest build first.

A driver runs every build up to the CUDA version that it names. Source: torch's release compatibility matrix.
"""

COMMANDS_FOR_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Trouble(Exception):
    """Something that a person must correct; the text gives the reason and the remedy."""


def main(arguments):
    """Run one command; returns the exit code."""
    if sys.version_info < OLDEST:
        report(too_old(sys.version_info, sys.executable))
        return 1
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if arguments[:1] == ["test"]:
            return test(arguments[1:])
        python = install()
        command = arguments if arguments and not arguments[0].startswith("-") else ["ui"] + arguments
        return replace_by([python, "-m", "rollout_studio.app"] + command)
    except Trouble as trouble:
        report(str(trouble))
        return 1
    except KeyboardInterrupt:
        report("Interrupted. Nothing is broken: the same command continues.")
        return 130


def report(text):
    """Print to stderr: a command's own output stays alone on stdout."""
    print(text, file=sys.stderr)
    sys.stderr.flush()


def too_old(version, executable):
    """The message for a Python that is too old."""
    return (
        f"Rollout Studio needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {version[0]}.{version[1]} ({executable}).\n"
        f"Install a newer one (python.org, or your system's packages), then start with it, for example: python{OLDEST[0]}.{OLDEST[1]} launch.py"
    )


# ---- the environment


def venv_python():
    """Path of the environment's interpreter."""
    return venv_python_in(VENV, os.name == "nt")


def venv_python_in(venv, windows):
    """Path of the interpreter in an environment. Pure."""
    return os.path.join(venv, "Scripts", "python.exe") if windows else os.path.join(venv, "bin", "python")


def install(extra=None):
    """Make the environment ready and return its interpreter; does nothing when it is. `extra`: "test" or None."""
    make_venv()
    python = venv_python()
    stamp = read_stamp()
    wanted = fingerprint()
    extras = stamp.get("extras", []) if stamp.get("fingerprint") == wanted else []
    if stamp.get("fingerprint") == wanted and (extra is None or extra in extras):
        return python
    extras = sorted(set(extras + ([extra] if extra else [])))
    source, why = torch_source(
        nvidia_smi(),
        cards(),
        platform.system(),
        platform.machine(),
        pip_sources(python),
        os.environ.get("ROLLOUT_STUDIO_TORCH_INDEX"),
    )
    report(f"Installing into {VENV} (the first time this takes some minutes and about 3 GB). {why}")
    what = HERE + ("[" + ",".join(extras) + "]" if extras else "")
    command = (
        [python, "-m", "pip", "install", "--constraint", os.path.join(HERE, "constraints.txt")]
        + source
        + ["--editable", what]
    )
    # stdout is the command's own: `options --json` is read by programs
    code = subprocess.call(command, stdout=sys.stderr.fileno())
    if code != 0:
        raise Trouble(pip_failed(code, command))
    with open(STAMP, "w", encoding="utf-8") as file:
        json.dump({"fingerprint": wanted, "extras": extras}, file)
    return python


def pip_failed(code, command):
    """The message when pip fails."""
    return (
        "pip could not install what Rollout Studio needs (it ended with {}). The reason is in its last lines above. Usual causes:\n"
        "  no network, or a proxy: set HTTPS_PROXY, or install once on another network\n"
        "  no space: about 3 GB are needed for the CPU build of torch, about 8 GB for a CUDA build\n"
        "  no build of torch for this Python: use Python 3.11, 3.12 or 3.13, 64 bit\n"
        "Then start again with the same command. The command was:\n  {}"
    ).format(code, " ".join(command))


def make_venv():
    """Make `.venv`, or make it again when it belongs to another Python or is broken."""
    if os.path.realpath(sys.prefix) == os.path.realpath(VENV):  # started with the environment's own Python
        return
    if os.path.exists(venv_python()):
        version = version_of(venv_python())
        if version is not None and version[:2] == list(sys.version_info[:2]):
            return
        found = "does not start" if version is None else "is of Python " + ".".join(str(part) for part in version[:2])
        report(f"The environment in {VENV} {found}; making it again.")
        shutil.rmtree(VENV)
    else:
        report(f"Making an environment in {VENV}")
    made = subprocess.run(
        [sys.executable, "-m", "venv", VENV], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)  # half an environment would be taken for a whole one
        raise Trouble(
            "Python could not make an environment in {}:\n{}\nOn Debian and Ubuntu this is cured by: apt install python{}.{}-venv".format(
                VENV, made.stdout.decode(errors="replace").strip(), sys.version_info[0], sys.version_info[1]
            )
        )


def version_of(python):
    """[major, minor, micro] of an interpreter, or None when it does not run."""
    try:
        answer = subprocess.run(
            [python, "-c", "import sys, json; print(json.dumps(sys.version_info[:3]))"],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    return json.loads(answer.stdout.decode()) if answer.returncode == 0 else None


def fingerprint(folder=HERE, version=None):
    """Changes when what must be installed changes: constraints, pyproject, Python's version, where torch comes from."""
    digest = hashlib.sha256()
    for name in ("constraints.txt", "pyproject.toml"):
        with open(os.path.join(folder, name), "rb") as file:
            digest.update(file.read() + b"\0")
    version = sys.version_info[:3] if version is None else version
    digest.update(repr((tuple(version), platform.machine(), os.environ.get("ROLLOUT_STUDIO_TORCH_INDEX"))).encode())
    return digest.hexdigest()


def read_stamp(path=None):
    """What was installed last: {"fingerprint": ..., "extras": [...]}; empty when nothing was."""
    try:
        with open(STAMP if path is None else path, encoding="utf-8") as file:
            stamp = json.load(file)
    except (OSError, ValueError):  # never installed, or interrupted while writing: install again
        return {}
    return stamp if isinstance(stamp, dict) else {}


# ---- which torch


def nvidia_smi(*arguments):
    """What nvidia-smi prints, or None where there is none or it finds no card."""
    program = shutil.which("nvidia-smi")
    if program is None and os.name == "nt":
        program = os.path.join(os.environ.get("SystemRoot", "C:\\Windows"), "System32", "nvidia-smi.exe")
    if program is None or not os.path.exists(program):
        return None
    try:
        answer = subprocess.run(
            [program] + list(arguments), check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else None


def cards():
    """Compute capabilities of the NVIDIA cards, [(8, 6), ...]; empty where nvidia-smi does not report them (old drivers)."""
    listed = nvidia_smi("--query-gpu=compute_cap", "--format=csv,noheader") or ""
    return [(int(major), int(minor)) for major, minor in re.findall(r"^\s*(\d+)\.(\d+)\s*$", listed, re.MULTILINE)]


def pip_sources(python):
    """Kinds of package source that pip is configured with, from files and PIP_*: of "find-links", "index-url", "extra-index-url"."""
    answer = subprocess.run(
        [python, "-m", "pip", "config", "list"], check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout.decode(errors="replace")
    return {kind for kind in ("find-links", "index-url", "extra-index-url") if re.search(r"\." + kind + "=", answer)}


def torch_source(smi, capabilities, system, machine, sources, override):
    """Where torch is to come from: (arguments for pip, a sentence for people). Pure.

    Args:
        smi: what nvidia-smi printed, None without an NVIDIA card.
        capabilities: `cards()`; a build must have code for every card.
        system, machine: as `platform` names them ("Linux", "Windows", "Darwin"; "x86_64", "AMD64", "arm64").
        sources: `pip_sources`. Wheels in a folder of their own (find-links) are trusted to be the right ones.
        override: ROLLOUT_STUDIO_TORCH_INDEX: a URL, "none", or None when it is not set.
    """
    if override is not None:
        if override.strip().lower() in ("", "none"):
            return [], "torch: as pip is configured (ROLLOUT_STUDIO_TORCH_INDEX=none)."
        return ["--extra-index-url", override.strip()], "torch: from ROLLOUT_STUDIO_TORCH_INDEX."
    if system == "Darwin":
        return [], "torch: the build for macOS."
    if "find-links" in sources:
        return [], "torch: from where pip is configured to find wheels."
    if smi is not None:
        driver = cuda_version(smi)
        fitting = [
            version
            for version, oldest, newest in CUDA_BUILDS
            if driver is not None and version <= driver and all(oldest <= card <= newest for card in capabilities)
        ]
        if fitting:
            build = "cu" + "".join(str(part) for part in fitting[-1])
            return (
                ["--extra-index-url", TORCH_WHEELS + build],
                "torch: CUDA build {} (the driver takes CUDA {}.{}).".format(build, *driver),
            )
        support = "does not report which CUDA it supports" if driver is None else "supports CUDA {}.{}".format(*driver)
        why = f"torch: CPU build, because no CUDA build fits this card and its driver (which {support}); try a newer driver."
        return cpu_source(system, sources, why)
    return cpu_source(system, sources, "torch: CPU build (no NVIDIA card found).")


def cpu_source(system, sources, why):
    """On Linux torch's usual build is the CUDA one, several GB larger: take the CPU build's index, unless pip was given its own."""
    if system == "Linux" and not sources:
        return ["--extra-index-url", TORCH_WHEELS + "cpu"], why
    return [], why


def cuda_version(smi):
    """(major, minor) that the driver takes, as nvidia-smi prints it in its first lines; None where it does not."""
    found = re.search(r"CUDA(?: UMD)? Version\s*:\s*(\d+)\.(\d+)", smi)
    return (int(found.group(1)), int(found.group(2))) if found else None


# ---- tests


CHECKS = (
    ("ruff check", ["ruff", "check", "."], "mend what it names; `ruff check --fix .` mends some of it"),
    ("ruff format", ["ruff", "format", "--check", "--output-format", "concise", "."], "run `ruff format .`"),
    ("mypy", ["mypy"], "mend the types that it names"),
)
"""What the sources must pass before the tests: (name, module and its arguments, the cure)."""


def check(python):
    """Run every check of the sources. Raises Trouble that names all that are not clean, each with its cure."""
    unclean = []
    for name, command, cure in CHECKS:
        report(f"{name} ...")
        if subprocess.call([python, "-m"] + command, cwd=HERE) != 0:
            unclean.append(f"  {name}: {cure}")
    if unclean:
        raise Trouble(
            "Not clean, so no test was run:\n{}\nThe tools lie in {}. `python launch.py test tests` runs the tests all the same.".format(
                "\n".join(unclean), os.path.dirname(python)
            )
        )


def test(arguments):
    """Install what the tests need and run them; returns pytest's exit code. Without arguments the sources are checked first."""
    python = install("test")
    if not arguments:
        check(python)
    environment = dict(os.environ)
    browser = find_browser() or get_browser(python)
    if browser is not None:
        environment["ROLLOUT_STUDIO_CHROMIUM"] = browser
    command = [python, "-m", "pytest", "-m", "not slow and not gpu", "--durations=20"]
    # A file's tests stay in one process, because they share what is slow to make (tiny models, runs, the page). One process more
    # than cores: browser tests, and tests of pauses, wait for much of their time. More than four would need more memory than
    # they save time: each holds torch and its models, about 1.2 GB.
    processes = min((os.cpu_count() or 1) + 1, 4)
    command += arguments or ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"]
    return subprocess.call(command, cwd=HERE, env=environment)


def find_browser():
    """Path of a Chromium or Chrome on this machine, or None."""
    named = os.environ.get("ROLLOUT_STUDIO_CHROMIUM")
    if named:
        if not os.path.exists(named):
            raise Trouble(f"ROLLOUT_STUDIO_CHROMIUM={named}: there is no such file.")
        return named
    for command in COMMANDS_FOR_CHROMIUM:
        path = shutil.which(command)
        if path is not None:
            return path
    usual = [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ]
    for root in ("ProgramFiles", "ProgramFiles(x86)", "LocalAppData"):
        if os.environ.get(root):
            usual.append(os.path.join(os.environ[root], "Google", "Chrome", "Application", "chrome.exe"))
    return next((path for path in usual if os.path.exists(path)), None)


def get_browser(python):
    """Get a Chromium for the browser tests; its path, or None for playwright's own or none at all (with a message)."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and shutil.which("apt-get") is not None:
        report("Installing Chromium for the browser tests (apt-get) ...")
        if subprocess.call(["apt-get", "update", "-qq"]) == 0:
            subprocess.call(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])
        path = find_browser()
        if path is not None:
            return path
    else:
        report("Getting playwright's Chromium for the browser tests ...")
        if subprocess.call([python, "-m", "playwright", "install", "chromium"]) == 0:
            return None
    report(
        "There is no Chromium, so the browser tests cannot run (they are skipped, or fail under ROLLOUT_STUDIO_REQUIRE_BROWSER=1).\n"
        "Install Chromium or Chrome (Debian: apt-get install chromium), or name one: ROLLOUT_STUDIO_CHROMIUM=/path/to/chrome"
    )
    return None


def replace_by(command):
    """Become `command`, so that signals reach it; on Windows, which cannot, wait for it. Returns its exit code."""
    if os.name != "nt":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], command)
    child = subprocess.Popen(command)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child got it too, and saves before it ends


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
