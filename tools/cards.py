"""What of each preset fits a graphics card of 8, 12, 16 and 24 GB, by the program's own estimate.

    python tools/cards.py            prints the table of docs/families.md, from the presets alone
    python tools/cards.py --write    writes into presets/*.json what is missing there: for each of the cards a tier, or why there is none

A preset's own tiers are left as they are. Where a card has none, the first of `ladder` that fits becomes one; where none fits, the
preset's `_metadata` says under `too_small` what the card lacks. Building every released network without weights takes minutes.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollout_studio.core.before.model_files import ModelFacts
from rollout_studio.core.config import preset_names, read_preset, tier_for, with_changes
from rollout_studio.core.config.presets import PRESETS, Preset, Tier
from rollout_studio.core.families.blocks import blocks_of
from tiers import RELEASED, as_text, encoding_gb, released_facts, takes

CARDS = (8, 12, 16, 24)
ROOM = 0.85
"""Share of a card's memory that a tier may take: the rest is the driver's, the desktop's and the allocator's."""
SIDES = (768, 512)
"""Resolutions that are tried below a preset's own."""


def ladder(preset: Preset, facts: ModelFacts) -> Iterator[dict[str, Any]]:
    """What may be changed so that a preset takes less, the best first: the picture's size is kept as long as anything else helps.

    At each size: the preset as it is, with gradient checkpointing, the frozen weights in 8 bits, in 4, and in 8 with half and all of the
    blocks in main memory, which costs time alone. Each step is allowed by the config's rules (8 bits and streaming want checkpointing, 4
    bits want no streaming).
    """
    own = preset.config()
    blocks = len(blocks_of(facts.shapes))
    saving: dict[str, Any] = {} if own.training.gradient_checkpointing else {"gradient_checkpointing": True}
    kept: list[dict[str, Any]] = [{}, *([saving] if saving else [])]
    kept += [saving | {"base_model_quantization": kind} for kind in ("int8", "nf4")]
    kept += [
        saving | {"base_model_quantization": "int8", "streamed_blocks": count}
        for count in dict.fromkeys((blocks // 2, blocks))
        if count
    ]
    for side in (None, *(side for side in SIDES if side < own.data.resolution)):
        yield from (({} if side is None else {"resolution": side}) | changes for changes in kept)


def fits(gb: float, card: int) -> bool:
    return gb <= ROOM * card


def missing(preset: Preset, facts: ModelFacts) -> tuple[list[Tier], dict[int, float]]:
    """(tiers that the preset lacks, card -> GB that it would need at least, for cards on which nothing fits).

    A card whose own tier would be that of a smaller one needs none: it is given that one's.
    """
    tried = [(changes, takes(preset, facts, changes)) for changes in ladder(preset, facts)]
    lacking: list[Tier] = []
    too_small: dict[int, float] = {}
    for card in CARDS:
        if any(tier.gb == card for tier in preset.tiers):
            continue
        smaller = [tier for tier in (*preset.tiers, *lacking) if tier.gb < card]
        # Of a larger card's tier, whatever it changes, is taken what fits here, too; else the ladder.
        larger = [(dict(tier.changes), tier.takes_gb) for tier in reversed(preset.tiers) if tier.gb > card]
        found = next(((changes, gb) for changes, gb in (*larger, *tried) if fits(gb, card)), None)
        if found is None:
            too_small[card] = min(gb for _, gb in tried)
        elif not any(dict(tier.changes) == found[0] for tier in smaller):
            lacking.append(Tier(card, found[0], found[1], "estimate"))
    return lacking, too_small


def filled(name: str) -> str:
    """A preset's file with what it lacks."""
    preset = read_preset(name)
    lacking, too_small = missing(preset, released_facts(preset))
    flat = json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    about = flat["_metadata"]
    written = [{"gb": tier.gb, "takes_gb": tier.takes_gb, "source": tier.source, "changes": dict(tier.changes)} for tier in lacking]  # fmt: skip
    about["tiers"] = sorted([*about["tiers"], *written], key=lambda tier: tier["gb"])
    about.pop("too_small", None)
    flat["_metadata"] = {
        key: value
        for name, entry in about.items()
        for key, value in ([(name, entry), ("too_small", _as_json(too_small))] if name == "tiers" and too_small else [(name, entry)])
    }  # fmt: skip
    return as_text(flat)


def _as_json(too_small: Mapping[int, float]) -> dict[str, float]:
    return {str(card): gb for card, gb in too_small.items()}


# The table ------------------------------------------------------------------------------------------------------------------

ABOUT = """
## What fits which card

For graphics cards of 8, 12, 16 and 24 GB: a preset's settings that fit (`--tier 12`, or *Memory of your graphics card* on the page), and the GB that
they take at the peak of encoding the captions, a training step or drawing a sample. Every number is an **estimate** of `tools/tiers.py` from
the shapes of the released networks, at most 85 % of the card, and not yet measured on one (`--probe` measures yours). "Does not fit": what the
least of all settings takes, down to 512 px, 8 or 4 bits and all blocks streamed (the ladder of `tools/cards.py`); where that is the text encoder,
which comes first and whole, no setting helps. nf4 needs bitsandbytes, int8 torchao; streamed blocks cost time, not quality. Larger cards: a preset's own line in `rollout-studio presets`.

| preset | 8 GB | 12 GB | 16 GB | 24 GB |
|---|---|---|---|---|
"""


def table() -> str:
    """The section of docs/families.md, from the presets."""
    presets = [preset for preset in map(read_preset, preset_names()) if preset.tiers]
    return ABOUT + "".join(f"| {preset.title} | {' | '.join(_cells(preset))} |\n" for preset in presets)


def _cells(preset: Preset) -> Iterator[str]:
    flat = json.loads((PRESETS / f"{preset.name}.json").read_text(encoding="utf-8"))
    too_small = flat["_metadata"].get("too_small", {})
    for card in CARDS:
        if str(card) in too_small:
            gb = too_small[str(card)]
            by_captions = gb == round(encoding_gb(RELEASED[preset.name]), 1)
            yield f"does not fit: estimate {gb:g} GB{' (text encoder)' if by_captions else ''}"
        else:
            tier = tier_for(preset, card)
            yield f"{settings(preset, tier)}: {tier.takes_gb:g} GB"


def settings(preset: Preset, tier: Tier) -> str:
    """What of a preset with a tier decides its memory, in words."""
    config = with_changes(preset.config(), tier.changes)
    words: Sequence[str | None] = (
        f"{config.data.resolution} px",
        None if config.model.base_model_quantization == "none" else config.model.base_model_quantization,
        f"{config.model.streamed_blocks} blocks streamed" if config.model.streamed_blocks else None,
        "checkpointing" if config.training.gradient_checkpointing else None,
    )
    return ", ".join(word for word in words if word)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*", help="of presets; all, where none is named")
    given = parser.parse_args()
    for name in (given.names if given.names else RELEASED) if given.write else ():
        (PRESETS / f"{name}.json").write_text(filled(name), encoding="utf-8")
    print(table(), end="")


if __name__ == "__main__":
    main()
