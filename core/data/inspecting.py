"""What is known of each picture file after it was decoded once."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import pictures
from .progress import Progress, throttled

# Results by (path, size, times): the page scans again at every change of a setting; and by content, for a picture that was copied, moved or
# touched. Bounded by starting over.
_inspected: dict[tuple, pictures.Inspection | pictures.BadPicture] = {}
_by_content: dict[str, pictures.Inspection] = {}
_MOST_INSPECTED = 300_000


def inspect_all(paths: list[Path], progress: Progress | None) -> list[pictures.Inspection | pictures.BadPicture]:
    """Decode every picture once, on a few threads; one whose name, size and times are as before is not read again, one with known content not decoded again."""
    if len(_inspected) > _MOST_INSPECTED:
        _inspected.clear()
        _by_content.clear()
    results, report = [], throttled(progress)
    # Pillow decodes outside the interpreter's lock. At most four: each may hold a picture of 64 Mpx.
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        for done, result in enumerate(pool.map(inspect_one, paths), start=1):
            results.append(result)
            report("pictures", done, len(paths))
    return results


def inspect_one(path: Path) -> pictures.Inspection | pictures.BadPicture:
    """What is known of one picture, or why it cannot be used; decoded only where its content is new."""
    try:
        status = os.stat(path)
        key = (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    except OSError:
        key = None  # a broken link: reading it gives the reason
    if key is not None and key in _inspected:
        return _inspected[key]
    try:
        data = pictures.read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        known = _by_content.get(digest)
        result: pictures.Inspection | pictures.BadPicture = (
            known if known is not None else pictures.inspect(data, digest)
        )
    except pictures.BadPicture as bad:
        result = bad
    if isinstance(result, pictures.Inspection):
        _by_content[result.digest] = result
    if key is not None:
        _inspected[key] = result
    return result
