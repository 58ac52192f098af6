"""What nothing in this repository does, and what names and headers from strangers cannot do. The page's own guard: `app/test_access.py`."""

import ast
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from rollout_studio.core.adapters.header import ExportError, read_header
from rollout_studio.core.families.source import ModelError, locate

ROOT = Path(__file__).parents[1]
SOURCES = [file for name in ("app", "core", "nodes", "tools", "benchmarks") for file in (ROOT / name).rglob("*.py")]
SOURCES += [ROOT / "launch.py", ROOT / "__init__.py"]

ALLOWED = {
    ("app/page.py", "gr.HTML(_BRAND)"): "a constant",
    (
        "app/train/rollout_panel.py",
        """gr.HTML(f'<div class="rs-part"><span>4{letter}</span>{text(title)}<small>{text(about)}</small></div>', padding=False)""",
    ): "texts of the sources, escaped",
    (
        "tools/demo_training/autoencoder.py",
        "torch.load(state_file)",
    ): "its own checkpoint, and torch's default is weights alone",
    ("tools/demo_training/denoiser.py", "torch.load(file)"): "the same",
}
"""Calls that look dangerous, with the reason why they are not."""
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load",
                   "numpy.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "marshal.loads", "shelve.open", "dill.load"}  # fmt: skip
FORBIDDEN_ENDS = {"extractall", "read_pickle", "load_module", "unpack_archive"}
FORBIDDEN_VALUES = {("trust_remote_code", True), ("weights_only", False), ("shell", True), ("allow_pickle", True), ("sanitize_html", False),
                    ("share", True), ("use_safetensors", False)}  # fmt: skip


_WORDS = [
    "eval",
    "exec",
    "__import__",
    "system",
    "popen",
    "Unpickler",
    "read_pickle",
    "load_module",
    "extractall",
    "unpack_archive",
    "shelve",
]
_WORDS += [name for name, _ in FORBIDDEN_VALUES if name != "share"]
_MAYBE = re.compile(rf"\b({'|'.join(_WORDS)})\b|\bshare\s*=\s*True|(?<![.\w])compile\s*\(|\bHTML\b")
_LOADS = re.compile(r"\b(load|loads|full_load|unsafe_load)\b")
_LOADERS = re.compile(r"\b(torch|numpy|pickle|yaml|joblib|marshal|dill)\b")


def may_be_dangerous(source: str) -> bool:
    """Whether the words of a source leave it open: only then it is parsed, which takes most of the time. No alias hides a word: it must be
    imported by its name."""
    return bool(_MAYBE.search(source) or (_LOADS.search(source) and _LOADERS.search(source)))


def dangers(source: str) -> list[tuple[int, str]]:
    """(line, code) of every call that could run a stranger's code or markup."""
    if not may_be_dangerous(source):
        return []
    calls, names = [], {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            calls.append(node)
        elif isinstance(node, ast.Import):
            names |= {each.asname or each.name: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    found = []
    for call in calls:
        first, dot, rest = dotted(call.func).partition(".")
        called = names.get(first, first) + dot + rest
        values = {(each.arg, each.value.value) for each in call.keywords if isinstance(each.value, ast.Constant)}
        formatted = called == "gradio.HTML" and any(isinstance(each, ast.JoinedStr) for each in call.args)
        if (
            called in FORBIDDEN_CALLS
            or called.split(".")[-1] in FORBIDDEN_ENDS
            or values & FORBIDDEN_VALUES
            or formatted
        ):
            found.append((call.lineno, ast.unparse(call)))
    return found


def dotted(node: ast.AST) -> str:
    """ "a.b.c" of such an expression; of any other only its last name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_nothing_here_runs_a_strangers_code_or_markup():
    """S23. No pickle, no remote code, no shell, no eval, no unpacking of archives, no formatted markup."""
    found = [(file.relative_to(ROOT).as_posix(), line, code) for file in SOURCES for line, code in dangers(file.read_text(encoding="utf-8"))]  # fmt: skip
    wrong = [each for each in found if (each[0], each[2]) not in ALLOWED]
    assert len(SOURCES) > 300 and not wrong, "\n".join(map(str, wrong))


def test_every_word_that_is_looked_for_is_one_that_has_a_file_parsed():
    for called in FORBIDDEN_CALLS:
        module, _, name = called.rpartition(".")
        assert may_be_dangerous(f"from {module} import {name} as harmless\nharmless(x)" if module else f"{name}(x)"), (
            called
        )
        assert not module or may_be_dangerous(f"import {module} as harmless\nharmless.{name}(x)"), called
    assert all(may_be_dangerous(f"x.{name}(y)") for name in FORBIDDEN_ENDS)
    assert all(may_be_dangerous(f"f({name}={value})") for name, value in FORBIDDEN_VALUES)


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)", "import torch as t\nt.load(x)", "from pickle import loads as l\nl(x)", "f(weights_only=False)", "import gradio as gr\ngr.HTML(f'<b>{x}')",
        "z.extractall(p)", "from_pretrained(x, trust_remote_code=True)", "import subprocess\nsubprocess.run(x, shell=True)",
    ],
)  # fmt: skip
def test_the_scan_sees_every_way_to_write_it(code):
    assert dangers(code) and not dangers("model.eval()\nimport json\njson.load(x)\nf(weights_only=True)")


@pytest.mark.parametrize(
    "name",
    ["http://169.254.169.254/latest/meta-data", "https://user:pass@example.org/x", "file:///etc/passwd", "//127.0.0.1/x", "http://2130706433/", "../../etc",
     "a/../../etc", "a/b/c", "%2e%2e/etc", "a\0b/c", "-rf/x", "$(x)/y", "a/b?x=y", "a/b@c", "\u202eb/a", ""],
)  # fmt: skip
def test_a_models_name_leads_to_no_address_and_no_folder_above(name, monkeypatch):
    """S7. Only a folder or file that is here, or a hub id; nothing is asked for anywhere."""

    def asked(*where, **how):
        raise AssertionError(f"the network was asked: {where}")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)
    with pytest.raises(ModelError):
        locate(name, None, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04\x95", (2**60).to_bytes(8, "little") + b"{}", (17 * 2**20).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]",
     (200_000).to_bytes(8, "little") + b"[" * 200_000, (10).to_bytes(8, "little") + b"{"],
)  # fmt: skip
def test_a_hostile_header_is_refused_at_once(tmp_path, content):
    """S2, S3: pickles by another name, headers that claim to be huge, nesting without end."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with open(file, "r+b") as sparse:
        sparse.truncate(max(len(content), 20 * 2**20))
    began = time.process_time()
    with pytest.raises(ExportError, match="not a safetensors file"):
        read_header(file)
    assert time.process_time() - began < 1.0


def test_no_secret_is_in_the_repository():
    """Nothing that looks like a token or a private key."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    marks = ["hf" + "_" + "[A-Za-z0-9]{30}", "-----BEGIN [A-Z ]*PRIVATE" + " KEY", "AKIA" + "[0-9A-Z]{16}"]
    if not listed:
        pytest.skip("not a checkout")
    found = subprocess.run(["git", "grep", "-lIE", "|".join(marks)], cwd=ROOT, capture_output=True, check=False)
    assert found.returncode == 1, found.stdout.decode()
