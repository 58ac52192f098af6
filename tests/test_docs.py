"""Documents that people read: what they name exists, and what the code cites is there."""

import re
from functools import cache
from pathlib import Path

from rollout_studio.core.captioning.settings import OPTIONS as CAPTION_OPTIONS
from rollout_studio.core.config import OPTIONS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("core", "nodes", "app", "tests", "tools", "docs", "presets", "benchmarks", "example_workflows")
OTHERS = {
    "--fix",
    "--input_perturbation",
    "--nproc-per-node",
    "--nnodes",
    "--node-rank",
    "--master-addr",
    "--master-port",
    "--no-python",
    "--no_python",
    "--multi_gpu",
    "--cpu",
    "--env",
    "--secret",
}
"""Flags of other programs: ruff's, torchrun's, accelerate's, SkyPilot's, and diffusers' for what is `input_perturbation_gamma` here."""


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "app" / "editor" / "README.md"]


@cache
def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(file: Path) -> list[str]:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(file)):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (file.parent / name).resolve() if name else file
        if not target.exists() or (anchor and anchor not in anchors(text_of(target))):
            wrong.append(f"{file.relative_to(ROOT)} links to {link}")
    return wrong


def test_links_lead_to_a_file_and_a_heading_that_exist():
    wrong = [each for file in documents() for each in broken_links(file)]
    assert not wrong, "\n".join(wrong)


def test_a_link_to_a_missing_file_or_heading_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "a.md").write_text("# One heading, here\n[a](#one-heading-here) [b](b.md) [c](a.md#none)")
    assert broken_links(tmp_path / "a.md") == ["a.md links to b.md", "a.md links to a.md#none"]


def test_files_that_documents_name_exist():
    """`core/config/sections.py`, `tests/test_layout.py`; not what stands for many: `core/families/<name>/`."""
    wrong = []
    for file in documents():
        for name in re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./*<>-]+)", text_of(file)):
            path = name.rstrip(".")
            if not re.search(r"[<>*]", path) and not (ROOT / path).exists() and not (file.parent / path).exists():
                wrong.append(f"{file.relative_to(ROOT)} names {path}")
    assert not wrong, "\n".join(wrong)


def test_flags_and_options_that_documents_name_exist():
    sources = [
        *(ROOT / "app" / "cli").glob("*.py"),
        *(ROOT / "tools").glob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
    ]
    known = {f"--{name}" for name in OPTIONS} | OTHERS
    known |= {f"--{field.replace('_', '-')}" for field in CAPTION_OPTIONS}
    known |= {flag for file in sources for flag in re.findall(r"(--[a-z][\w-]*)", text_of(file))}
    wrong = [
        f"{file.relative_to(ROOT)} names {flag}"
        for file in documents()
        for flag in re.findall(r"(?<![\w-])(--[a-z][\w-]*)", text_of(file))
        if flag not in known
    ]
    prefixes = ("scheduled_sampling_", "input_perturbation_", "drift_", "validation_")
    wrong += [
        f"{file.relative_to(ROOT)} names the option {name}"
        for file in documents()
        for name in re.findall(r"`(\w+)`", text_of(file))
        if name.startswith(prefixes) and not name.endswith("_") and name not in OPTIONS
    ]
    assert not wrong, "\n".join(wrong)


def test_documents_and_sections_that_the_code_cites_exist():
    """`docs/mathematics.md, "Solvers"`: the file and its heading."""
    wrong = []
    for file in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        text = " ".join(text_of(file).split())
        for name, heading in re.findall(r'(docs/[\w-]+\.md), "([^"]+)"', text):
            if f"\n## {heading}\n" not in text_of(ROOT / name):
                wrong.append(f'{file.relative_to(ROOT)} cites "{heading}" of {name}')
        if file.parts[len(ROOT.parts)] != "tests":
            names = re.findall(r"[\w/-]+\.md\b", text)
            # a tool writes documents, whose links begin in docs
            places = (ROOT, ROOT / "docs") if file.parts[len(ROOT.parts)] == "tools" else (ROOT,)
            wrong += [
                f"{file.relative_to(ROOT)} cites {name}"
                for name in names
                if not any((place / name).exists() for place in places)
            ]
    assert not wrong, "\n".join(wrong)
