"""What a scan found about a set of pictures, in a person's words: one line for each kind, and a short mark at each picture."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ....core.config import OPTIONS
from ....core.findings import Finding, by_severity, printable
from ....core.texts import translated
from ...parts.forms import label
from ...parts.words import text

_NAMES_SHOWN = 4
_MORE_NAMES = 200

KINDS = {
    "picture-bad": ("Cannot be used", "unreadable"),
    "picture-small": ("Too small", "too small"),
    "picture-cropped": ("Much is cut off", "cut off"),
    "picture-blurred": ("Blurred", "blurred"),
    "crop-bad": ("The crop does not fit", "crop does not fit"),
    "near-duplicate": ("Nearly the same picture", "nearly twice"),
    "near-duplicate-many": ("Nearly the same pictures", ""),
    "duplicate-picture": ("The same picture more than once", "twice"),
    "exif-bad": ("Which side is up is not known", "which side is up?"),
    "class-overlap": ("Both a class picture and one of yours", "also a class picture"),
    "caption-missing": ("No caption", "no caption"),
    "caption-empty": ("Empty caption file", "empty caption file"),
    "caption-bad": ("Caption cannot be read", "caption unreadable"),
    "caption-encoding": ("Caption with doubtful letters", "check the accents"),
    "caption-orphan": ("Caption without a picture", ""),
    "caption-default": ("The caption for all is used", ""),
    "duplicate-stem": ("One caption for several pictures", "shares its caption"),
    "caption-trigger": ("Without the trigger word", ""),
    "trigger-inserted": ("The trigger word is added", ""),
    "sub-folder": ("Sub-folders are not read", ""),
    "other-files": ("Other files", ""),
    "mask-bad": ("Mask cannot be used", "mask"),
    "mask-size": ("Mask of another size than its picture", "mask"),
    "mask-empty": ("Mask that leaves nothing", "mask"),
    "mask-unused": ("Masks that are off", ""),
    "folder-missing": ("The folder", ""),
    "folder-empty": ("The folder", ""),
    "class-folder-same": ("The class folder", ""),
    "class-prompt-missing": ("No class prompt", ""),
}
"""Kind of finding -> its title in the list, its mark at a picture ("" = none)."""


_REMEDIES = {"caption-missing": "Write one under the picture, or fill in instance_prompt for all pictures without one."}
"""Where the page offers a nearer remedy than the one that is written for the command line."""


def checks_card(
    findings: Iterable[Finding], pictures: int, all_well: str, places: Mapping[str, int] | None = None
) -> str:
    """The findings, worst first, one line for each kind with the files that it concerns; `all_well` where there are none.

    `places`: file of a picture or of its caption -> the picture's number in the set; a name that is in it is a button (`js/captions.js`).
    """
    places = {} if places is None else places
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for number, finding in enumerate(by_severity(findings)):
        groups.setdefault(
            (finding.level, finding.code if finding.code in KINDS else str(number), _pattern(finding)), []
        ).append(finding)
    if not groups:
        return f'<div class="rs-quiet rs-checks-well">✓ {text(all_well)}</div>' if pictures else ""
    rows = "".join(_row(level, group, places) for (level, _, _), group in groups.items())
    levels = {level for level, _, _ in groups}
    colour = "rs-bad" if "error" in levels else "rs-mild" if "warning" in levels else ""
    title = (
        "Checks: this must be mended before training"
        if "error" in levels
        else "Checks: worth a look"
        if "warning" in levels
        else "Checks: good to know"
    )
    return f'<div class="rs-card rs-checks {colour}"><h3>{title}</h3><ul>{rows}</ul></div>'


def _pattern(finding: Finding) -> str:
    """Findings of a kind about files are listed together, those about an option each by itself, unusable files by what to do about them."""
    if finding.where in OPTIONS or not finding.where:
        return finding.where
    return finding.remedy if finding.code in ("picture-bad", "caption-bad") else ""


def _row(level: str, group: list[Finding], places: Mapping[str, int]) -> str:
    first = group[0]
    title = KINDS.get(first.code, ("", ""))[0]
    if not title:
        title = label(OPTIONS[first.where]) if first.where in OPTIONS else Path(first.where).name
    about_files = first.where not in OPTIONS and first.where != ""
    files = rest_of = ""
    names = [_name(finding, places) for finding in group] if about_files else []
    if names:
        more = names[_NAMES_SHOWN : _NAMES_SHOWN + _MORE_NAMES]
        rest = len(names) - _NAMES_SHOWN - len(more)
        files = f" ({', '.join(names[:_NAMES_SHOWN])})"
        if more:
            last = f" and {rest} further" if rest > 0 else ""
            files = f" ({', '.join(names[:_NAMES_SHOWN])} and {len(more) + max(0, rest)} more)"
            rest_of = f'<details class="rs-more"><summary>The others</summary>{", ".join(more)}{last}</details>'
    remedy = _REMEDIES.get(first.code, first.remedy)
    hint = f' <span class="rs-quiet">{text(_labelled(printable(remedy)))}</span>' if remedy else ""
    example = f"{text(printable(Path(first.where).name))}: " if len(names) > 1 else ""
    count = f"{len(names)} × " if len(names) > 1 else ""
    return f'<li class="rs-check-{level}"><b>{count}{text(title)}</b>{files}: {example}{text(_labelled(printable(first.message)))}{hint}{rest_of}</li>'


def _name(finding: Finding, places: Mapping[str, int]) -> str:
    """The file's name; where it is a picture of the set, or belongs to one, as a button that leads there."""
    name, at = text(printable(Path(finding.where).name)), places.get(finding.where)
    return (
        name
        if at is None
        else f'<button type="button" class="rs-link" data-picture-at="{at}" translate="no">{name}</button>'
    )


def _labelled(message: str) -> str:
    """A message with the labels that the options have on the page, in place of their keys."""
    return re.sub(
        r"[a-z]+(?:_[a-z0-9]+)+",
        lambda key: f"“{translated(OPTIONS[key[0]].label)}”" if key[0] in OPTIONS else key[0],
        message,
    )


def marks_of(findings: Iterable[Finding], files: set[str]) -> list[dict[str, Any]]:
    """The marks of one picture: the findings about any of `files` (the picture, its caption file)."""
    marks = []
    for finding in by_severity(findings):
        short = KINDS.get(finding.code, ("", ""))[1]
        if short and finding.where in files:
            marks.append(
                {
                    "level": finding.level,
                    "short": short,
                    "full": _labelled(
                        printable(f"{finding.message} {_REMEDIES.get(finding.code, finding.remedy)}".strip())
                    ),
                }
            )
    return marks
