"""The training set: pictures and captions of any kind in, batches of cached latents out.

    pictures, captions   read picture and caption files, and report what is wrong with them
    buckets, transform   the shape each picture trains in
    listing, inspecting, captioning   the names in a folder, each picture decoded once, the caption of each
    looks                how sharp a picture is, and which are nearly the same
    beside               the crop and the mask that lie beside a picture
    scanning, holdout    a thing's folders: what will be trained on, what is kept out
    concepts             several things in one set
    masks                the part of a picture that trains
    tidying              the size of the cache on disk
    cache, prompts, class_pictures, preparing   latents and encoded prompts, kept on disk by content
    batches              which rows a step trains on: a pure function of the seed and the step

The first twelve need no torch. `prepare`, `Prepared` and `Batch` do, and are imported on first use.
"""

from ..findings import Finding
from .concepts import scan
from .holdout import scan_probe, split_holdout
from .scanning import Item, Scan, bucket_counts, scan_thing

__all__ = [
    "Batch",
    "DatasetError",
    "Finding",
    "Item",
    "Prepared",
    "Scan",
    "bucket_counts",
    "prepare",
    "scan",
    "scan_probe",
    "scan_thing",
    "split_holdout",
]

_NEED_TORCH = {"prepare": "preparing", "DatasetError": "cache", "Prepared": "batches", "Batch": "batches"}


def __getattr__(name: str):
    if name in _NEED_TORCH:
        from importlib import import_module

        return getattr(import_module(f".{_NEED_TORCH[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
