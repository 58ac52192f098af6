"""List what is larger than a reader can hold at once: `python tools/sizes.py`, in the project's root.

Limits: a class 250 lines, a function 60, a file 500, among core, nodes, app, tools and launch.py. Every entry needs a reason in
`docs/architecture.md`, section "Large parts, with the reason"; `tests/test_layout.py` compares the two. Standard library only.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FILE, CLASS, FUNCTION = 500, 250, 60


class Part(NamedTuple):
    """A file, or a class or function in it: `core/a.py`, `core/a.py:Thing`, `core/a.py:Thing.method`."""

    name: str
    lines: int


def sources(root: Path = ROOT) -> list[Path]:
    """Every Python file that the limits apply to, sorted."""
    files = [file for folder in ("core", "nodes", "app", "tools") for file in sorted((root / folder).rglob("*.py"))]
    return [file for file in (*files, root / "launch.py") if file.is_file() and "node_modules" not in file.parts]


def definitions(
    node: ast.AST, inside: str = ""
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(dotted name, definition) of every class and function below `node`, nested ones too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield inside + child.name, child
            yield from definitions(child, f"{inside}{child.name}.")
        else:
            yield from definitions(child, inside)


def large_parts(root: Path = ROOT) -> list[Part]:
    """Everything above its limit, the largest first. Decorators do not count, docstrings and comments do."""
    found = []
    for file in sources(root):
        name, text = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > FILE:
            found.append(Part(name, lines))
        for inner, node in definitions(ast.parse(text)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > (CLASS if isinstance(node, ast.ClassDef) else FUNCTION):
                found.append(Part(f"{name}:{inner}", lines))
    return sorted(found, key=lambda part: (-part.lines, part.name))


if __name__ == "__main__":
    for part in large_parts():
        print(f"{part.lines:5}  {part.name}")
