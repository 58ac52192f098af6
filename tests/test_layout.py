"""Rules of the house that no single file can keep: who imports whom, what a wheel holds, what must start without torch."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rollout_studio"
LAYERS = ("core", "nodes", "app")  # each may import only what stands before it
UI = {"gradio", "fastapi", "starlette", "uvicorn", "argparse"}
SKIPPED = {".git", ".venv", "build", "dist", "__pycache__", ".pytest_cache", ".ruff_cache"}


def sources(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path, root: Path = ROOT) -> Iterator[str]:
    """First name under the package of everything that a file imports from it, and the top-level names of what is foreign."""
    here = file.relative_to(root).with_suffix("").parts
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # one dot is the folder of the file (also for __init__.py, whose own name stands last in `here`)
            base = list(here[: len(here) - node.level]) if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            if node.level:
                module = [PACKAGE, *module]
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            yield name[1] if name[0] == PACKAGE and len(name) > 1 else name[0]


def test_imports_point_inward():
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for i, layer in enumerate(LAYERS)
        for file in sources(layer)
        for name in imports(file)
        if name in LAYERS[i + 1 :] or (layer != "app" and name in UI)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "from .. import app",
        "from ..app import cli",
        f"import {PACKAGE}.app.cli.main",
        f"def f():\n    from {PACKAGE} import app",
    ],
)
def test_the_import_rule_sees_every_way_to_import(tmp_path, line):
    file = tmp_path / "core" / "a.py"
    file.parent.mkdir()
    file.write_text(line)
    assert "app" in set(imports(file, tmp_path))


def test_imports_inside_the_package_are_relative():
    """The checkout also lies in ComfyUI's custom_nodes under any name, where the package's own name would not be found."""
    wrong = []
    for layer in LAYERS:
        for file in sources(layer):
            for node in ast.walk(tree_of(file)):
                absolute = (
                    isinstance(node, ast.ImportFrom)
                    and node.level == 0
                    and (node.module or "").split(".")[0] == PACKAGE
                )
                absolute |= isinstance(node, ast.Import) and any(a.name.split(".")[0] == PACKAGE for a in node.names)
                if absolute:
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module",
    [
        "app.cli.main",
        "core.config",
        "core.runs.store",
        "core.before.preflight",
        "core.config.reference",
        "core.before.cost",
    ],
)
def test_starts_without_the_heavy_libraries(module):
    """The page and the command line import these: they must be there at once, and stay small."""
    heavy = ["torch", "diffusers", "transformers", "peft", "accelerate", "gradio", "matplotlib"]
    code = f"import sys, json, {PACKAGE}.{module}; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []


def test_every_sub_package_is_named_in_pyproject():
    """An editable install works without; a wheel silently lacks it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {PACKAGE} | {
        ".".join((PACKAGE, *file.parent.relative_to(ROOT).parts))
        for layer in LAYERS
        for file in (ROOT / layer).rglob("__init__.py")
    }
    assert sorted(declared) == sorted(found)
    with_code = {file.parent for layer in LAYERS for file in sources(layer)}
    assert not [folder for folder in with_code if not (folder / "__init__.py").exists()]


def test_everything_under_presets_is_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ][PACKAGE]
    packed = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    missing = [
        str(path.relative_to(ROOT)) for path in (ROOT / "presets").rglob("*") if path.is_file() and path not in packed
    ]
    assert not missing


def test_there_is_no_init_in_tests():
    """With one, relative imports would load core a second time under the folder's name."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_constraints_name_every_dependency_once_and_within_its_bounds():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["test"]]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(pins) == len(lines)
    assert pins["torch"] == "2.13.0"
    wrong = [
        str(each) for each in wanted if not each.specifier.contains(pins.get(each.name.lower().replace("_", "-"), "0"))
    ]
    assert not wrong


def test_no_file_names_this_machine_or_a_package_registry():
    forbidden = [
        "py" + "pi.org",
        "python" + "hosted",
        "/wo" + "rk/main",
        "/wo" + "rk/shared",
        "/opt/" + "wheels",
        "/tmp/" + "brief",
    ]
    texts = {".py", ".md", ".json", ".toml", ".txt", ".sh", ".jsonl", ".yml", ".yaml", ".js", ".css", ""}
    wrong = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [
            name
            for name in below
            if name not in SKIPPED and not name.endswith(".egg-info") and Path(folder, name) != ROOT / "runs"
        ]
        for path in (Path(folder) / name for name in names):
            if path.suffix in texts and path.stat().st_size < 2_000_000:
                text = path.read_text(encoding="utf-8", errors="ignore")
                wrong += [f"{path.relative_to(ROOT)} names {word}" for word in forbidden if word in text]
    assert not wrong, "\n".join(wrong)


def test_the_wings_of_nodes_know_only_what_stands_before_them():
    """A graph is data, and runs, without anybody knowing which nodes there are or that ComfyUI exists."""
    wings = ("graph", "execute", "library", "comfy")
    above = {file.stem for file in (ROOT / "nodes").glob("*.py")} - {"__init__"}  # nodes/reading.py knows all wings
    wrong = []
    for i, wing in enumerate(wings):
        for file in sources(f"nodes/{wing}"):
            here = file.relative_to(ROOT).parent.parts
            for node in ast.walk(tree_of(file)):
                if not isinstance(node, ast.ImportFrom) or not node.level:
                    continue  # imports inside the package are relative: see above
                base = [*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else [])]
                for name in ([*base, alias.name][:2] for alias in node.names):
                    if name[0] == "nodes" and above.union(wings[i + 1 :]).intersection(name[1:]):
                        wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} imports {'.'.join(name)}")
    assert not wrong, "\n".join(wrong)
    assert {folder.name for folder in (ROOT / "nodes").iterdir() if (folder / "__init__.py").is_file()} == set(wings)
