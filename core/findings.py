"""What a check found, before anything starts: one record for the command line, the page and the graph."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .texts import translated

LEVELS = ("error", "warning", "note")
"""From worst to mildest. An error stops the run before it starts; a warning is for a person to weigh; a note only
informs."""


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know before training.

    `where` is an option's flat name or a file; `message` says what is the case and, where one is broken, the rule;
    `remedy` what to do about it. `code` names the kind of finding: findings of one kind are shown together, and a page
    can link its help by it.
    """

    level: Literal["error", "warning", "note"]
    where: str
    message: str
    remedy: str = ""
    code: str = ""

    @property
    def sentence(self) -> str:
        """Message and remedy as running text."""
        return f"{self.message} {self.remedy}".rstrip()


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether anything among the findings forbids a start."""
    return any(finding.level == "error" for finding in findings)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; within a level kinds stay together, in the order in which they were first
    found."""
    findings = list(findings)
    first_seen: dict[str, int] = {}
    for finding in findings:
        first_seen.setdefault(finding.code, len(first_seen))
    return sorted(findings, key=lambda finding: (LEVELS.index(finding.level), first_seen[finding.code]))


def format_findings(findings: Iterable[Finding], limit: int = 8) -> str:
    """The findings as text for a terminal, worst first, at most `limit` of a kind, and a last line that counts them
    all."""
    findings = by_severity(findings)
    if not findings:
        return "No problems found."
    lines: list[str] = []
    groups: dict[tuple[str, str], list[Finding]] = {}
    for number, finding in enumerate(findings):
        # without a code a finding is of its own kind
        groups.setdefault((finding.level, finding.code if finding.code else str(number)), []).append(finding)
    for group in groups.values():
        for number, finding in enumerate(group[:limit]):
            where = f"{printable(finding.where)}: " if finding.where else ""
            lines.append(f"{finding.level:8} {where}{printable(translated(finding.message))}")
            following = group[number + 1] if number + 1 < min(limit, len(group)) else None
            if finding.remedy and (following is None or following.remedy != finding.remedy):
                lines.append(f"{'':8} -> {printable(translated(finding.remedy))}")
        if len(group) > limit:
            lines.append(f"{'':8} ... and {len(group) - limit} more of this kind.")
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    lines.append(
        ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items() if count) + "."
    )
    return "\n".join(lines)


def printable(text: str, limit: int = 1000) -> str:
    """`text` made safe to show in a terminal or a log: control characters (line breaks, ANSI escapes, text direction
    overrides) and lone surrogates as escapes, cut at `limit` characters. File names and captions come from
    strangers."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else f"\\u{ord(character):04x}"
        for character in cut
    )
