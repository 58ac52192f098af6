"""What a part of a model is, read from its files and not from its place: so that what was made with it is found again without opening it.

No torch. Of weights the header and a few values of every tensor are read, of other files everything: milliseconds on a warm disk, where
opening a text encoder takes seconds to minutes. Another training of a network changes practically all of its values.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .index_files import cached_index
from .source import SingleFileSource

if TYPE_CHECKING:
    from .source import Source

WINDOWS, WINDOW_BYTES = 4, 256
"""Of each tensor so many stretches of so many bytes are read: its first, its last, and some between."""
_SMALL = 64 * 2**20
_LARGEST_HEADER = 100 * 2**20


def part_fingerprint(source: "Source", part: str) -> str | None:
    """A sha256 of what the part holds; None where it has no safetensors files on this computer.

    Args:
        source: the model; of one on the hub the files must have been fetched. part: "text_encoder", "tokenizer_2" ...
    Raises: OSError where a file cannot be read.
    """
    if isinstance(source, SingleFileSource):
        if part not in source.parts_in_file:
            return part_fingerprint(source.frame, part)
        digest = hashlib.sha256(json.dumps(source.configs[part], sort_keys=True, default=str).encode())
        _weights(digest, Path(source.location), source.checkpoint.starts[part])
        return digest.hexdigest()
    folder = _folder(source)
    folder = None if folder is None else folder / part
    if folder is None or not folder.is_dir():
        return None
    digest, weights = hashlib.sha256(repr(source.variant).encode()), 0
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            weights += 1
            _name(digest, folder, path)
            _weights(digest, path)
        elif path.is_file() and not path.name.startswith(".") and path.stat().st_size <= _SMALL:
            _name(digest, folder, path)
            digest.update(path.read_bytes())
    return digest.hexdigest() if weights or not part.startswith("text_encoder") else None


def _folder(source: "Source") -> Path | None:
    """Where the model's files lie on this computer."""
    if source.is_folder:
        return Path(source.location)
    found = cached_index(source.location, source.revision)
    return None if found is None else found.parent


def _name(digest: Any, folder: Path, path: Path) -> None:
    digest.update(f"\n{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())


def _weights(digest: Any, path: Path, start: str = "") -> None:
    """The tensors of a file whose names begin with `start`."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _LARGEST_HEADER))
        if not start:
            digest.update(header)
        try:
            entries = {name: entry for name, entry in json.loads(header).items() if name[:2] != "__"}
            tensors = {name: entry["data_offsets"] for name, entry in entries.items() if name.startswith(start)}
        except (ValueError, KeyError, TypeError):  # a broken file: whoever opens it says so; here its bytes count
            return
        if start:  # other parts of the file do not count, nor where the part lies in it
            digest.update(
                repr([(name, entries[name]["dtype"], entries[name]["shape"]) for name in sorted(tensors)]).encode()
            )
        for _, (first, last) in sorted(tensors.items()):
            _tensor(digest, file, 8 + length + first, 8 + length + last)


def _tensor(digest: Any, file: BinaryIO, first: int, last: int) -> None:
    """The bytes from `first` to `last` where they are few, else stretches of them."""
    if last - first <= WINDOWS * WINDOW_BYTES:
        places = [(first, last - first)]
    else:
        room = last - first - WINDOW_BYTES
        places = [(first + room * index // (WINDOWS - 1), WINDOW_BYTES) for index in range(WINDOWS)]
    for place, count in places:
        file.seek(place)
        digest.update(file.read(count))
