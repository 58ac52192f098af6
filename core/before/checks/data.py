"""Whether the pictures and captions suit the settings."""

import math
from collections.abc import Iterable
from dataclasses import replace

from ...data import bucket_counts, scan_probe
from ...data.captions import clean, mentions
from ...data.class_record import record_findings
from ...data.concepts import about, sets_of_class_pictures
from ...data.holdout import FEWEST
from ...data.scanning import located
from ...findings import Finding
from .folders import writable
from .situation import Situation


def scanned_pictures(situation: Situation) -> Iterable[Finding]:
    """What the scan found about pictures, captions and their folders."""
    return situation.scan.problems


def drift_pictures(situation: Situation) -> Iterable[Finding]:
    """Which pictures the drift is measured on, and whether the training sees them too."""
    config, held_out = situation.config, situation.held_out
    if config.drift.data_dir is not None:
        probe, problems = scan_probe(config.data, config.drift)
        yield from problems
        trained = {item.digest for item in situation.scan.items}
        for item in probe:
            if item.digest in trained:
                yield Finding(
                    "warning",
                    str(item.path),
                    "a picture to measure drift on that is also trained on: the measure flatters.",
                    "Remove it from one of the two folders.",
                    "drift-overlap",
                )
    elif config.drift.holdout_images > 0 and situation.scan.items and not held_out:
        yield Finding(
            "note",
            "drift_holdout_images",
            f"fewer than {FEWEST} different pictures: none is held out, so drift is measured on pictures that are trained on.",
            "Name others of the same thing with drift_data_dir.",
            "drift-not-held-out",
        )
    elif held_out:
        names = ", ".join(item.name for item in held_out[:4]) + (", ..." if len(held_out) > 4 else "")
        yield Finding(
            "note",
            "drift_holdout_images",
            f"kept out of the training to measure drift on: {names}.",
            "",
            "drift-held-out",
        )


def batches(situation: Situation) -> Iterable[Finding]:
    """Batches that show a picture several times, or some pictures far more often than others."""
    config, train = situation.config, situation.train
    if not train:
        return
    size = config.training.train_batch_size
    # of several things the repeats are shares, and every picture comes as often as its thing needs it
    repeats = config.data.things[0].repeats if len(config.data.things) == 1 else 1
    if size > len(train) * repeats:
        yield Finding(
            "note",  # common for a handful of pictures: each row still has its own noise
            "train_batch_size",
            f"{size} rows in a batch, but only {len(train)} picture{'s' if len(train) > 1 else ''}: a batch shows the same picture "
            "several times.",
            f"Take a batch of at most {len(train) * repeats}, or raise repeats if that is what you want.",
            "batch-large",
        )
        return
    for bucket, count in bucket_counts(train).items():
        rows = count * repeats
        shown = math.ceil(rows / size) * size
        if shown >= 2 * rows:
            yield Finding(
                "warning",
                "train_batch_size",
                f"the shape {bucket[0]} x {bucket[1]} has {count} picture{'s' if count > 1 else ''} and a batch {size} rows of one shape: "
                f"{'they are' if count > 1 else 'it is'} shown {shown / rows:.3g} times as often as the others.",
                "Crop the pictures to fewer shapes, turn aspect_buckets off, or take smaller batches.",
                "bucket-small",
            )


def class_pictures(situation: Situation) -> Iterable[Finding]:
    """How many class pictures are generated first, whether their folder takes them, and whether those in it were made likewise."""
    data = situation.config.data
    if not data.with_prior_preservation:
        return
    for number, of_set in sets_of_class_pictures(data).items():
        missing = of_set.num_class_images - sum(item.concept == number for item in situation.scan.class_items)
        if of_set.class_data_dir is not None:
            own = replace(situation.config, data=of_set)
            for finding in record_findings(located(of_set.class_data_dir), own, max(0, missing)):
                yield about(finding, data, number)
        if missing <= 0:
            continue
        where = "the cache" if of_set.class_data_dir is None else str(located(of_set.class_data_dir))
        note = Finding(
            "note",
            "num_class_images",
            f'up to {missing} pictures of "{of_set.class_prompt}" are generated into {where} before the training '
            f"({data.class_sample_steps} sampling steps each).",
            "",
            "class-generated",
        )
        yield about(note, data, number)
        if of_set.class_data_dir is not None:
            for finding in writable(located(of_set.class_data_dir), "class_data_dir"):
                yield about(finding, data, number)


def class_prompt(situation: Situation) -> Iterable[Finding]:
    """Whether the class prompt of a thing names the very thing that is learnt."""
    data = situation.config.data
    if not data.with_prior_preservation and data.output_preservation_weight == 0:
        return
    for number, thing in enumerate(data.things):
        if thing.class_prompt is None or thing.trigger_word is None or not clean(thing.trigger_word):
            continue
        if mentions(clean(thing.class_prompt), clean(thing.trigger_word)):
            finding = Finding(
                "warning",
                "class_prompt",
                f'"{clean(thing.class_prompt)}" holds the trigger word "{clean(thing.trigger_word)}": what is kept there as the untrained model '
                "has it is what the pictures are to change.",
                "Name the ordinary kind of thing alone, without the trigger word.",
                "class-prompt-trigger",
            )
            yield about(finding, data, number)


def masks(situation: Situation) -> Iterable[Finding]:
    """How many pictures have a mask, where masks are on."""
    data, items = situation.config.data, situation.scan.items
    if data.masked_training == "off" or not items:
        return
    masked = sum(item.mask is not None for item in items)
    if masked == 0:
        yield Finding(
            "warning",
            "masked_training",
            "no picture has a mask: all of them train whole.",
            "Put photo-mask.png (white = train here) beside photo.jpg, use pictures with transparency, or set it to off.",
            "mask-none",
        )
    elif masked < len(items):
        yield Finding(
            "note",
            "masked_training",
            f"{masked} of {len(items)} pictures have a mask; the others train whole.",
            "",
            "mask-some",
        )
