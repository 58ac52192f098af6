"""Which pictures are kept out of training, to measure drift and clean loss on."""

import hashlib

from .scanning import Item, Scan, scan_instance_folder

FEWEST = 3
"""A set with fewer pictures than this gives none away."""


def split_holdout(scan: Scan, drift) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """(pictures to train on, pictures held out), both in the scan's order.

    Held out are `holdout_images` different pictures, drawn from their content and the drift seed: adding or renaming
    others changes little. At least two different ones stay, sets of fewer than three give none, and copies of a
    held-out picture are not trained on either. With `drift.data_dir` nothing is held out: the probe pictures are there. Of several things
    each gives as many: every thing is measured.
    """
    held: set[tuple[int, str]] = set()  # of a thing: another one may train on the same picture
    for concept in dict.fromkeys(item.concept for item in scan.items):
        of_thing = {item.digest for item in scan.items if item.concept == concept}
        digests = sorted(of_thing, key=lambda digest: _rank(digest, drift.seed))
        if drift.data_dir is None and len(digests) >= FEWEST:
            held |= {(concept, digest) for digest in digests[: min(drift.holdout_images, len(digests) - 2)]}
    if not held:
        return scan.items, ()
    probe, seen = [], set()
    for item in scan.items:
        if (item.concept, item.digest) in held and item.digest not in seen:
            probe.append(item)
            seen.add(item.digest)
    return tuple(item for item in scan.items if (item.concept, item.digest) not in held), tuple(probe)


def scan_probe(data, drift, progress=None):
    """(pictures, findings) of the folder `drift.data_dir`, captioned by the data section's rules; ((), []) where it is
    not set."""
    if drift.data_dir is None:
        return (), []
    return scan_instance_folder(drift.data_dir, "drift_data_dir", data, progress)


def _rank(digest: str, seed: int) -> bytes:
    return hashlib.blake2b(f"holdout {seed} {digest}".encode(), digest_size=16).digest()
