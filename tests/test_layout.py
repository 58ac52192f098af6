"""Rules about the repository as a whole: who imports whom, what a wheel contains, what starts without torch, how large things are."""

import ast
import importlib.util
import json
import os
import re
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
SKIPPED = {
    ".git",
    ".hypothesis",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
}


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


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name under the package -> file, of all layers."""
    files = [file for layer in LAYERS for file in sorted((root / layer).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported_modules(file: Path, known: dict[str, Path], root: Path = ROOT) -> Iterator[str]:
    """The package's own modules that a file imports: at the top, inside functions and for type checking alike."""
    folder = file.relative_to(root).parent.parts
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - (node.level - 1)], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                names = (".".join([*base, alias.name]), ".".join(base))
                yield from [name for name in names if name in known][:1]


@cache
def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the modules that it imports. The package around a module is there before it and is no edge."""
    known = modules(root)
    return {
        name: {each for each in imported_modules(file, known, root) if not f"{name}.".startswith(f"{each}.")}
        for name, file in known.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each can be reached from each other one by imports."""

    def reached_from(start: str) -> set[str]:
        seen, waiting = set(), list(graph[start])
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                waiting += graph[here]
        return seen

    reach = {name: reached_from(name) for name in graph}
    groups = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("layer", LAYERS)
def test_no_imports_go_round_in_a_circle(layer):
    """A reader can start at a module that needs no other, and go on outward. An import inside a function or for types counts."""
    found = [group for group in circles(import_graph()) if any(name.split(".")[0] == layer for name in group)]
    assert not found, "\n".join(" <-> ".join(group) for group in found)


WINGS = (  # of core, from the ground up; each may import those on the floors before its own
    ("errors",),
    ("texts",),
    (
        "findings",
        "formats",
        "machine",
        "memory",
        "names",
        "platform_calls",
        "private_text",
        "randomness",
        "sizes",
        "demo",
        "facts",
    ),
    ("inside",),
    ("config", "maths"),
    ("families", "runs"),
    ("data", "adapters", "remedies"),
    ("before", "captioning", "foreign"),
    ("look",),
    ("train", "study"),
)
NEIGHBOURS = {("maths", "config")}
"""(a, b): a may import b on its own floor. The mathematics takes the options that it is about as the records that declare them."""


FACTS = (
    {f"core.families.{name}" for name in ("registry", "guidance")}
    | {f"core.families.{file.stem}" for file in (ROOT / "core" / "families").glob("*facts.py")}
    | {f"core.families.{file.parent.name}" for file in (ROOT / "core" / "families").glob("*/__init__.py")}
    | {f"core.families.{file.parent.name}.{file.stem}" for file in (ROOT / "core" / "families").glob("*/*facts.py")}
)


def wing(module: str) -> str:
    """core.look.drift.report -> look; core itself, which only documents -> "". What is known of the families is a wing of its own, on
    the ground: it needs nothing, and the config reads there which families there are."""
    if module in FACTS:
        return "facts"
    return [*module.split("."), ""][1]


def against_the_order(graph: dict[str, set[str]]) -> list[str]:
    floor = {name: i for i, names in enumerate(WINGS) for name in names}
    edges = [(a, b) for a, targets in graph.items() for b in targets if a.startswith("core.") and b.startswith("core.")]
    return [
        f"{a} imports {b}"
        for a, b in sorted(edges)
        if wing(a) != wing(b) and (wing(a), wing(b)) not in NEIGHBOURS and floor[wing(b)] >= floor[wing(a)]
    ]


def test_the_wings_of_core_stand_on_each_other():
    known = {wing(name) for name in modules() if name.startswith("core.")}
    assert known <= {name for names in WINGS for name in names}, "a new wing: give it a place in WINGS"
    wrong = against_the_order(import_graph())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "from ..look import preview",
        "from ..look.preview import show",
        "def f():\n    from ..look.preview import show",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..look.preview import show",
    ],
)
def test_the_rules_of_order_see_every_way_to_import(tmp_path, line):
    texts = {"core/look/preview.py": "from ..config.sections import X", "core/config/sections.py": line}
    for name in ("core/__init__.py", "core/look/__init__.py", "core/config/__init__.py"):
        texts[name] = ""
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = import_graph(tmp_path)
    assert circles(graph) == [["core.config.sections", "core.look.preview"]]
    assert against_the_order(graph) == ["core.config.sections imports core.look.preview"]


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
        "core.families",
        "core.families.schedule",
        "core.maths.grid",
        "core.maths.solvers",
        "core.before.estimate",
        "app.train.model_card",
        "core.captioning.job",
    ],
)
def test_starts_without_the_heavy_libraries(module):
    """The page and the command line import these: they must be there at once, and stay small."""
    heavy = ["torch", "diffusers", "transformers", "peft", "accelerate", "gradio", "matplotlib"]
    code = f"import sys, json, {PACKAGE}.{module}; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []


def named_families(text: str) -> set[str]:
    """Families' names and pipeline classes that stand in a text, as whole words."""
    from rollout_studio.core.families.registry import FAMILIES

    words = {word for facts in FAMILIES.values() for word in (facts.name, *facts.pipelines)}
    return words & set(re.findall(r"[A-Za-z_]\w*", text))


def test_nothing_outside_its_folder_names_a_family():
    """So that one is added by a folder. What differs is asked of its facts, or done by its `Model`."""
    families = ROOT / "core" / "families"
    wrong = [
        f"{file.relative_to(ROOT)} names {word}"
        for layer in LAYERS
        for file in sources(layer)
        for word in named_families(file.read_text(encoding="utf-8"))
        if file.parent not in [families / name for name in families_with(word)]
    ]
    assert not wrong, "\n".join(wrong)


def families_with(word: str) -> list[str]:
    """The families that a name or a pipeline class belongs to."""
    from rollout_studio.core.families.registry import FAMILIES

    return [facts.name for facts in FAMILIES.values() if word in (facts.name, *facts.pipelines)]


def test_a_family_is_noticed_wherever_it_is_named():
    assert named_families('if family == "sd3": StableDiffusion3Pipeline') == {"sd3", "StableDiffusion3Pipeline"}
    assert not named_families("train_dreambooth_sd3.py")


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


def load_sizes():
    """`tools/sizes.py`, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("sizes", ROOT / "tools" / "sizes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_large_part_is_listed_with_its_reason_and_nothing_else_is():
    """docs/architecture.md, "Large parts, with the reason". Split what is new on the list, or say why it stays."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Large parts, with the reason")[2].partition("\n## ")[0]
    reasons = dict(re.findall(r"^\| `([^`]+)` \|(.*)\|$", section, re.MULTILINE))
    large = {part.name: part.lines for part in load_sizes().large_parts()}
    wrong = [
        f"no reason for {name}, {lines} lines" for name, lines in large.items() if not reasons.get(name, "").strip()
    ]
    wrong += [f"{name} is listed and not large" for name in reasons if name not in large]
    assert not wrong, "\n".join(wrong)


def test_the_sizes_of_files_classes_and_functions_are_seen_wherever_they_are_nested(tmp_path):
    def lines(number):
        return "".join(f"    x{i} = {i}\n" for i in range(number - 1))

    inner = "".join("    " + line + "\n" for line in ("def method(self):\n" + lines(61)).splitlines())
    texts = {
        "core/a.py": "def at_the_limit():\n" + lines(60) + "async def above():\n" + lines(61),
        "nodes/b.py": "if True:\n    class Small:\n" + "".join("    " + line + "\n" for line in inner.splitlines()),
        "app/c/d.py": "class Limit:\n" + lines(250) + "class Above:\n" + lines(251),
        "tests/e.py": "def elsewhere():\n" + lines(61),
        "launch.py": "x = 1\n" * 501,
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load_sizes().large_parts(tmp_path) == [
        ("app/c/d.py", 501),
        ("launch.py", 501),
        ("app/c/d.py:Above", 251),
        ("core/a.py:above", 61),
        ("nodes/b.py:Small.method", 61),
    ]
