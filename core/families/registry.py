"""All families: every folder here that states `FACTS`. Needs no torch."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from .facts import FamilyFacts, PartConfigs, Refusal, Unsuitable


def _found() -> dict[str, FamilyFacts]:
    folders = sorted(module.name for module in iter_modules([str(Path(__file__).parent)]) if module.ispkg)
    facts = [import_module(f".{name}", __package__).FACTS for name in folders]
    return {each.name: each for each in facts}


FAMILIES: Mapping[str, FamilyFacts] = _found()
"""Name -> facts, by name."""

PIPELINES = tuple(dict.fromkeys(pipeline for facts in FAMILIES.values() for pipeline in facts.pipelines))
"""Pipeline classes that some family covers."""


def family_of(index: Mapping[str, Any], configs: PartConfigs) -> FamilyFacts | None:
    """The family of a checkpoint, or None where there is none for it.

    Args:
        index: its `model_index.json`.
        configs: asked only where one pipeline class serves several families.
    """
    possible = [facts for facts in FAMILIES.values() if str(index.get("_class_name")) in facts.pipelines]
    if len(possible) < 2:
        return possible[0] if possible else None
    return next((facts for facts in possible if facts.claims is not None and facts.claims(configs)), None)


def refused_class(pipeline: str) -> Unsuitable | None:
    """What a pipeline class is that some family knows and refuses; None for others."""
    kinds = (kind for facts in FAMILIES.values() for kind in facts.unsuitable)
    return next((kind for kind in kinds if pipeline in kind.pipelines), None)


def refused_name(name: str) -> Refusal | None:
    """Why a checkpoint of this name cannot be trained, where its name alone tells; nothing of it is read."""
    return next(filter(None, (facts.refuse({}, name) for facts in FAMILIES.values())), None)
