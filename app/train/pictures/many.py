"""Editing many captions at once: find and replace, tags added and removed. It only proposes: nothing is written before "Save captions"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....core.data.captions import clean, mentions, replaced, with_tag, without_tag
from ....core.data.captions import with_trigger as trigger_in_front
from .captions import Draft, Refused

_LONGEST = 4000


@dataclass(frozen=True)
class Caption:
    """The caption of a picture as an edit finds it: `saved` on the disk, `draft` typed over it, `fallback` what is trained on without either."""

    saved: str
    draft: Draft | None
    fallback: str

    @property
    def own(self) -> str:
        return self.saved if self.draft is None else clean(self.draft.text)

    @property
    def used(self) -> str:
        return self.own if self.own else self.fallback


@dataclass(frozen=True)
class ManyEdit:
    """What is asked for. act: trigger, replace, front, end or remove; `names`: the pictures it is for, None = all."""

    act: str
    text: str = ""
    replacement: str = ""
    match_case: bool = False
    names: frozenset[str] | None = None


@dataclass(frozen=True)
class Proposal:
    """New captions by picture: `text`; `was`, what the file holds; `before`, what stood in the field. And what to tell the person."""

    texts: Mapping[str, Mapping[str, str]]
    message: str
    label: str = ""


def read_edit(sent: Any) -> ManyEdit:
    """What the browser asks for, checked. Raises Refused, with what is missing."""
    if not isinstance(sent, dict) or "act" not in sent:
        return ManyEdit("trigger")
    act, text, other, names = sent["act"], sent.get("text", ""), sent.get("replacement", ""), sent.get("names")
    listed = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
    if (
        act not in ("replace", "front", "end", "remove")
        or not isinstance(text, str)
        or not isinstance(other, str)
        or not listed
    ):
        raise Refused("The edit arrived in a form that cannot be read. Reload the page.")
    if max(len(text), len(other)) > _LONGEST:
        raise Refused(f"The text is longer than {_LONGEST} characters.")
    if names is not None and not names:
        raise Refused("No picture is selected. Select some, or choose all pictures.")
    if not (text if act == "replace" else clean(text.replace(",", " "))):
        raise Refused("Write what to find first." if act == "replace" else "Write a tag first.")
    return ManyEdit(act, text, other, sent.get("exact") is True, None if names is None else frozenset(names))


def proposed(edit: ManyEdit, captions: Mapping[str, Caption], trigger: str) -> Proposal:
    """The captions that the edit changes. Raises Refused where it can do nothing."""
    if edit.act == "trigger" and not trigger:
        raise Refused("Write a trigger word first.")
    texts: dict[str, Mapping[str, str]] = {}
    occurrences = 0
    for name, caption in captions.items():
        if edit.names is not None and name not in edit.names:
            continue
        before, after, found = _edited(edit, caption, trigger)
        if after != before:
            texts[name] = {
                "text": after,
                "was": caption.saved if caption.draft is None else caption.draft.was,
                "before": caption.own,
            }
            occurrences += found
    return Proposal(texts, *_words(edit, len(texts), occurrences, trigger))


def _edited(edit: ManyEdit, caption: Caption, trigger: str) -> tuple[str, str, int]:
    """(what is edited, what becomes of it, how often something was replaced). Adding begins with what is trained on, the others with the own text."""
    if edit.act == "trigger":
        return caption.used, trigger_in_front(caption.used, trigger), 1
    if edit.act == "replace":
        after, count = replaced(caption.own, edit.text, edit.replacement, match_case=edit.match_case)
        return caption.own, after, count
    if edit.act == "remove":
        return caption.own, without_tag(caption.own, edit.text), 1
    return caption.used, with_tag(caption.used, edit.text, "front" if edit.act == "front" else "end"), 1


def _words(edit: ManyEdit, captions: int, occurrences: int, trigger: str) -> tuple[str, str]:
    """(message, label of the undo button)."""
    many, check = f"{captions} caption{'' if captions == 1 else 's'}", "Check them, then save."
    if edit.act == "trigger":
        return (
            f'"{trigger}" now stands in front of {many}. {check}'
            if captions
            else f'Every caption has "{trigger}" already.'
        ), f'"{trigger}" put in'
    if edit.act == "replace":
        found = f'"{edit.text}" replaced {occurrences} time{"" if occurrences == 1 else "s"} in {many}. {check}'
        return (found if captions else f'No caption has "{edit.text}".'), f'"{edit.text}" replaced'
    tag = clean(edit.text)
    if edit.act == "remove":
        return (
            f'"{tag}" removed from {many}. {check}' if captions else f'No caption has the tag "{tag}".'
        ), f'"{tag}" removed'
    return (
        f'"{tag}" added to {many}. {check}' if captions else f'Every caption has "{tag}" already.'
    ), f'"{tag}" added'


def without_trigger(captions: Mapping[str, Caption], trigger: str) -> list[str]:
    """The pictures whose caption, as it is trained on, lacks the trigger word."""
    return [
        name for name, caption in captions.items() if trigger and caption.used and not mentions(caption.used, trigger)
    ]
