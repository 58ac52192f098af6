"""Families by the names that other tools give them; each family's facts say its own (`FamilyFacts.elsewhere`)."""

from ..families.registry import FAMILIES


def words_of(tool: str) -> dict[str, list[str]]:
    """A tool's words -> the families that they may mean. A word that is longer than another comes first."""
    found: dict[str, list[str]] = {}
    for facts in FAMILIES.values():
        for word in facts.elsewhere.get(tool, ()):
            found.setdefault(word, []).append(facts.name)
    return {word: found[word] for word in sorted(found, key=len, reverse=True)}


def family_called(tool: str, word: object, checkpoint: object = "") -> str | None:
    """The family that a tool's word means; None where it means none of ours.

    Args:
        checkpoint: the model's name, which decides where one word means several families: the one of whose name the last part
            occurs in it, as near to the end as it may; else the first.
    """
    candidates = words_of(tool).get(word, []) if isinstance(word, str) else []
    called = str(checkpoint).lower()
    found = [(called.rfind(name.rpartition("_")[2]), -place, name) for place, name in enumerate(candidates)]
    return max(found)[2] if found else None


def name_in(tool: str, family: str) -> str | None:
    """What a tool calls a family; None where it has no word for it."""
    words = FAMILIES[family].elsewhere.get(tool, ()) if family in FAMILIES else ()
    return words[0] if words else None
