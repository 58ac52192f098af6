"""Whether the pictures and captions suit the settings."""

import math
from collections.abc import Iterable

from ...data import bucket_counts, scan_probe
from ...data.captions import clean
from ...data.class_record import record_findings
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
    size, repeats = config.training.train_batch_size, config.data.repeats
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
    missing = data.num_class_images - len(situation.scan.class_items)
    if missing > 0:
        where = "the cache" if data.class_data_dir is None else str(located(data.class_data_dir))
        yield Finding(
            "note",
            "num_class_images",
            f'up to {missing} pictures of "{data.class_prompt}" are generated into {where} before the training '
            f"({data.class_sample_steps} sampling steps each).",
            "",
            "class-generated",
        )
    if data.class_data_dir is not None:
        yield from record_findings(located(data.class_data_dir), situation.config, max(0, missing))
    if data.class_data_dir is not None and missing > 0:
        yield from writable(located(data.class_data_dir), "class_data_dir")


def class_prompt(situation: Situation) -> Iterable[Finding]:
    """Whether the class prompt names the very thing that is learnt."""
    data = situation.config.data
    uses = data.with_prior_preservation or data.output_preservation_weight > 0
    if not uses or data.class_prompt is None or data.trigger_word is None or not clean(data.trigger_word):
        return
    if f" {clean(data.trigger_word).casefold()} " in f" {clean(data.class_prompt).casefold()} ":
        yield Finding(
            "warning",
            "class_prompt",
            f'"{clean(data.class_prompt)}" holds the trigger word "{clean(data.trigger_word)}": what is kept there as the untrained model has it is '
            "what the pictures are to change.",
            "Name the ordinary kind of thing alone, without the trigger word.",
            "class-prompt-trigger",
        )
