"""Several things in one training set: each scanned by its own words and folders, then put together. With one thing nothing is added.

A thing is a place in `DataConfig.things`; an `Item` says which one it shows. Class pictures belong to a *class set*: things with the same
class prompt and class folder share one, so that two dogs need no two sets of other dogs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..config.concepts import OPTION, concepts_of, entry
from ..config.sections import DataConfig
from ..findings import Finding
from .progress import Progress
from .scanning import Item, Scan, located, scan_thing


def scan(data: DataConfig, progress: Progress | None = None) -> Scan:
    """`scan_thing` of every thing: the pictures of all, in the order of the things, and everything wrong with any of them.

    Findings about an option of one of `concepts` name the entry and the field. Names of its pictures begin with its name.
    """
    if data.concepts is None:
        return scan_thing(data, progress)
    things = data.things
    items: list[Item] = []
    class_items: list[Item] = []
    problems: list[Finding] = []
    sets = class_sets(things)
    for number, thing in enumerate(things):
        found = scan_thing(thing, progress)
        called = called_of(data, number)
        items += (of_thing(item, number, called) for item in found.items)
        problems += (about(finding, data, number) for finding in found.problems)
        if sets[number] == number:  # another thing's set otherwise, which is there already
            class_items += (of_thing(item, number, called) for item in found.class_items)
    problems += _in_two_things(items, data)
    problems += _class_folders(data, things)
    return Scan(tuple(items), tuple(class_items), tuple(dict.fromkeys(problems)))


def class_sets(things: Sequence[DataConfig]) -> tuple[int, ...]:
    """For each thing the first one with the same class pictures: the number of its class set."""
    keys = [(thing.class_prompt, thing.class_data_dir) for thing in things]
    return tuple(keys.index(key) for key in keys)


def sets_of_class_pictures(data: DataConfig) -> dict[int, DataConfig]:
    """Number of each class set -> the data section that describes it: its first thing's, with as many pictures as any that shares it wants.
    Empty without prior preservation."""
    if not data.with_prior_preservation:
        return {}
    if data.concepts is None:
        return {0: data}
    things, found = data.things, {}
    for number, of_set in enumerate(class_sets(things)):
        first = found.get(of_set, things[of_set])
        found[of_set] = replace(first, num_class_images=max(first.num_class_images, things[number].num_class_images))
    return found


def name_of(data: DataConfig, number: int) -> str:
    """What a thing is called on the page and in messages: its trigger word, else its folder's last part."""
    thing = data.things[number]
    if thing.trigger_word is not None and thing.trigger_word.strip():
        return " ".join(thing.trigger_word.split())
    return "" if thing.instance_data_dir is None else located(thing.instance_data_dir).name


def of_thing(item: Item, number: int, called: str) -> Item:
    """A picture as one of thing `number`, with that thing's name before its own; the first thing's keep theirs."""
    return replace(item, concept=number, name=f"{called}/{item.name}" if called else item.name)


def called_of(data: DataConfig, number: int) -> str:
    """What stands before the names of a thing's pictures: nothing for the first one, else its number and name, which no two share."""
    return f"{number + 1} {name_of(data, number)}".strip() if number else ""


def _entry(data: DataConfig, number: int) -> str | None:
    """How messages call a thing of `concepts`; None for the thing of the options themselves."""
    first = len(data.things) - len(concepts_of(data.concepts))
    return None if number < first else entry(number - first, concepts_of(data.concepts)[number - first])


def about(finding: Finding, data: DataConfig, number: int) -> Finding:
    """A finding about a thing's option, in words that say whose option it is; one about a file as it is."""
    where = _entry(data, number) if hasattr(data, finding.where) else None
    if where is None:
        return finding
    return replace(finding, where=OPTION, message=f"{where}, {finding.where}: {finding.message}")


def _in_two_things(items: Iterable[Item], data: DataConfig) -> Iterable[Finding]:
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(item.digest, item)
        if other.concept != item.concept:
            yield Finding(
                "warning",
                str(item.path),
                f"the same picture as {other.path.name} of {name_of(data, other.concept)}: it would teach that both things look like it.",
                "Leave it with the thing that it shows.",
                "concept-overlap",
            )


def _class_folders(data: DataConfig, things: Sequence[DataConfig]) -> Iterable[Finding]:
    """Class folders that are the folder of another thing's pictures; of its own `scan_thing` says it."""
    if not data.with_prior_preservation:
        return
    folders = {located(thing.instance_data_dir).resolve(): number for number, thing in enumerate(things) if thing.instance_data_dir is not None}  # fmt: skip
    for number, thing in enumerate(things):
        owner = None if thing.class_data_dir is None else folders.get(located(thing.class_data_dir).resolve())
        if owner is not None and owner != number:
            finding = Finding(
                "error",
                "class_data_dir",
                f"{thing.class_data_dir} holds the pictures of {name_of(data, owner)}; class pictures are others of the same kind.",
                "Give class pictures a folder of their own; it may be empty, then they are generated.",
                "class-folder-same",
            )
            yield about(finding, data, number)
