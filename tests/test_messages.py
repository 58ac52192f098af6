"""Messages: whatever goes wrong says what to do about it, and no bare exit status reaches a person."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("error_table", ROOT / "tools" / "error_table.py")
    module = sys.modules["error_table"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_error_that_a_person_can_mend_says_how(table):
    found = list(table.entries())
    assert len(found) > 300 and len({each.kind for each in found}) >= 18
    wrong = [f"{each.file}:{each.line} {each.kind}: {each.message}" for each in found if not each.says_what_to_do]
    assert not wrong, "\n".join(wrong)


def test_every_class_of_errors_is_met_in_a_test(table, root):
    """What cannot happen is no class: so each one stands in a test, as raised or as reported."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py"))
    imported = {
        name
        for line in re.findall(r"^from rollout_studio.*import (?:\([^)]*\)|.*)", tests, re.MULTILINE)
        for name in re.findall(r"\w+", line)
    }
    found = {each.kind for each in table.entries()}
    assert len(found) >= 20
    assert not sorted(kind for kind in found if kind not in imported and f".{kind}" not in tests)


def test_an_error_without_a_remedy_is_noticed_however_it_is_written(table, tmp_path):
    for folder in ("core", "nodes", "app"):
        (tmp_path / folder).mkdir()
    (tmp_path / "core" / "a.py").write_text(
        "class Trouble(Exception): ...\nclass Mine(Trouble): ...\nclass Other(ValueError): ...\n"
        "raise Mine(f'{x} is full.')\nraise Mine('It is full. Empty it.')\nraise Mine('It is full.', 'Empty it.')\nraise Other('x')\n"
        "raise errors.Mine('It is ' + 'full.')\nraise Mine(*found)\nraise Mine(str(error))\nraise Mine('Full.', remedy='')\n"
    )
    found = list(table.entries(tmp_path))
    assert [each.line for each in found if not each.says_what_to_do] == [4, 8, 11] and len(found) == 7


def test_an_exit_status_never_stands_alone(root):
    """Where a person is told of one, the last words of the process come along."""
    found = []
    for folder in ("core", "nodes", "app"):
        for path in (root / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if "exit code {" in source or "exit status {" in source or "returncode}" in source:
                texts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr)]
                found += [
                    ast.unparse(each)
                    for each in texts
                    if any(word in ast.unparse(each) for word in ("exit code {", "exit status {", "returncode}"))
                ]
    assert len(found) >= 3
    assert all("log ends" in each or "last_words" in each for each in found), found
