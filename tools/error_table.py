"""The catalogue of errors that a person can do something about: what happened and why, what to try, and where it is raised.

    python tools/error_table.py

Read from the sources: every place that makes an error of the base `Trouble` (`core/errors.py`). A test holds that each of them has a remedy.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "Trouble"


@dataclass(frozen=True)
class Entry:
    """One place. `message`, `remedy`: their texts, values as {...}; None where they come from elsewhere (another error's, a function's)."""

    file: str
    line: int
    kind: str
    message: str | None
    remedy: str | None

    @property
    def says_what_to_do(self) -> bool:
        """A remedy of its own, or a second sentence in the message; of what comes from elsewhere that is asked there."""
        if self.remedy is None or self.remedy.strip():
            return True
        return self.message is None or len(re.split(r"(?<=[.;:!?])\s+", self.message.strip())) > 1


_CLASS = re.compile(r"^\s*class (\w+)\(([^)]*)\)", re.MULTILINE)


def kinds(sources: Iterable[str]) -> set[str]:
    """The names of all classes on the base."""
    classes = [(name, set(re.findall(r"\w+", bases))) for source in sources for name, bases in _CLASS.findall(source)]
    found: set[str] = set()
    more = {BASE}
    while more - found:
        found |= more
        more = {name for name, bases in classes if bases & found}
    return found


def entries(root: Path = ROOT) -> Iterator[Entry]:
    """Every place, in the order of files and lines. Only files that name such a class are parsed, which takes most of the time."""
    files = [path for name in ("core", "nodes", "app") for path in sorted((root / name).rglob("*.py"))]
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    known = kinds(sources.values())
    made = re.compile(rf"\b({'|'.join(sorted(known))})\(")
    for path, source in sources.items():
        if not made.search(source):
            continue
        # another class of the same name: the caption editor's `Refused` is a part of a sentence, shown at its picture
        others = {name for name, bases in _CLASS.findall(source) if not set(re.findall(r"\w+", bases)) & known}
        others |= {"Refused"} if "pictures" in path.parts and "outcome" not in source else set()
        for node in ast.walk(ast.parse(source)):
            kind = _name(node.func) if isinstance(node, ast.Call) else None
            if kind not in known or kind in others:
                continue
            given = [*node.args, *(each.value for each in node.keywords if each.arg == "remedy")]
            passed_on = any(isinstance(each, ast.Starred) for each in given)
            message = None if passed_on or not given else _text(given[0])
            remedy = None if passed_on else _text(given[1]) if len(given) > 1 else ""
            yield Entry(path.relative_to(root).as_posix(), node.lineno, kind, message, remedy)


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _text(node: ast.expr) -> str | None:
    """A text with {...} for its values; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "{...}" for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_text(node.left), _text(node.right)]
        return None if None in parts else "".join(filter(None, parts))
    return None


def main() -> int:
    for each in entries():
        print(f"{each.file}:{each.line} {each.kind}\n    {each.message or '(passed on)'}")
        if each.remedy:
            print(f"    -> {each.remedy}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
