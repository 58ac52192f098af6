"""What can be known of a LoRA file before it is used. Needs no torch: names, kinds and shapes are in its header.

`loading.load_lora` loads one into a model, and reports what fits.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..families.source import ModelError
from ..sizes import size
from .header import LARGEST_HEADER, refusal_of
from .kinds import DORA_SCALE, MAGNITUDE, PARTS, Kind

LARGEST_FILE = 8 * 2**30
LARGEST_METADATA = 2**20  # characters
MOST_TENSORS = 20_000
"""More than any LoRA needs (a rank 128 of the largest models: 1.5 GB, 3,000 tensors), and what one header may cost at most."""
_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
KINDS = ("F32", "F16", "BF16", "F64")

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's zip, and bare pickles
_AGAIN = "Copy or download it again."
_ANOTHER = "Choose a .safetensors file that holds a LoRA; what Rollout Studio exports lies in a run's lora folder."


class LoraError(ModelError):
    """A LoRA cannot be used here. `message`: what is wrong with it; `remedy`: what to do."""


@dataclass(frozen=True)
class LoraFile:
    """The tensors of a file, by name: (kind as safetensors names it, shape)."""

    path: Path
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def kind(self) -> Kind:
        """What it is, by the tensors that only one kind has."""
        ends = {name.rpartition(".")[2] for name in self.tensors}
        found = next((PARTS[part] for part in PARTS if part in ends), None)
        if found is not None:
            return "loha" if found == "loha" else "lokr"
        return "dora" if any(MAGNITUDE in name for name in self.tensors) or DORA_SCALE in ends else "lora"

    @property
    def is_read_by_diffusers(self) -> bool:
        """Does a pipeline's own loader take the whole of it? Of a DoRA in the other layout it leaves a part away, with a warning."""
        return self.kind == "lora" or (self.kind == "dora" and not any(DORA_SCALE in name for name in self.tensors))

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the matrices; without a layer's `alpha`, which is its scale."""
        return tuple(name for name in self.tensors if not name.endswith(".alpha"))


def read_lora_header(path: Path | str) -> LoraFile:
    """The names and shapes in a LoRA file, from its header alone; reads no weights and runs nothing that is in it.

    Raises: LoraError for a file that is not a LoRA in safetensors: absent, empty, pickled, cut off, damaged, too large, of another kind.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, no LoRA file" if path.is_dir() else "does not exist"
        raise LoraError(f"'{path}' {what}.", "Check the path. " + _ANOTHER)
    try:
        header, there = _header(path)
    except OSError as error:
        raise LoraError(f"'{path}' cannot be read ({error}).", "Check the file's permissions and its drive.") from error
    tensors = _tensors(path, header, there)
    if len(tensors) > MOST_TENSORS:
        raise LoraError(f"'{path}' holds {len(tensors):,} tensors; a LoRA has at most {MOST_TENSORS:,}.", _ANOTHER)
    # a layer's alpha may be named by the layer alone
    layers = {re.split(rf"[._]lora_|\.(?:{'|'.join(PARTS)})$", name)[0] for name in tensors}
    foreign = [
        name
        for name in tensors
        if "lora" not in name.lower()
        and name.rpartition(".")[2] not in PARTS
        and not (name.endswith((".alpha", f".{DORA_SCALE}")) and name.rpartition(".")[0] in layers)
    ]
    if not tensors or foreign:
        first = f" (the first of the others is {foreign[0][:80]!r})" if foreign else ""
        raise LoraError(
            f"'{path}' is not a LoRA: {len(tensors) - len(foreign)} of its {len(tensors)} tensors belong to one{first}.",
            _ANOTHER + " A whole model is opened as the model.",
        )
    wrong = [name for name, (kind, _) in tensors.items() if kind not in KINDS and not name.endswith(".alpha")]
    if wrong:
        raise LoraError(
            f"'{path}': {wrong[0][:80]!r} is of the kind {tensors[wrong[0]][0]}; a LoRA's weights must be {', '.join(KINDS)}.",
            "Get it in 16 or 32 bits.",
        )
    return LoraFile(path, tensors)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """(the entries of the header, bytes behind it)."""
    whole = path.stat().st_size
    if whole == 0:
        raise LoraError(f"'{path}' is empty (0 bytes).", _AGAIN)
    if whole > LARGEST_FILE:
        raise LoraError(f"'{path}' has {size(whole)}; a LoRA has at most {size(LARGEST_FILE)}.", _ANOTHER)
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(_PICKLES):
            raise LoraError(
                f"'{path}' is a pickled file (.pt, .ckpt, .bin), whatever its ending; opening one can run code of others, so it is not opened.",
                "Get the LoRA as .safetensors.",
            )
        if head.startswith(b"version "):
            raise LoraError(
                f"'{path}' is a git-lfs pointer, not the file itself.", "Run `git lfs pull` where it comes from."
            )
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > whole - 8:
            raise LoraError(f"'{path}' is cut off or no safetensors file ({whole:,} bytes).", _AGAIN)
        if length > LARGEST_HEADER:
            raise LoraError(
                f"'{path}' has a header of {size(length)}; a LoRA's has at most {size(LARGEST_HEADER)}.",
                _ANOTHER,
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise LoraError(f"The header of '{path}' is damaged ({str(error)[:100]}).", _AGAIN) from error
    if path.suffix != ".safetensors":
        raise LoraError(f"'{path}' must end in .safetensors.", "Rename it.")
    if not isinstance(header, dict):
        raise LoraError(f"The header of '{path}' is damaged (it is not a JSON object).", _AGAIN)
    metadata = header.pop("__metadata__", {})
    newer = refusal_of(metadata) if isinstance(metadata, dict) else None
    if newer is not None:
        raise LoraError(f"'{path}' {newer.what}", newer.remedy)
    if len(json.dumps(metadata)) > LARGEST_METADATA:
        raise LoraError(
            f"'{path}' carries more than {LARGEST_METADATA:,} characters of notes beside its weights.", _ANOTHER
        )
    return header, whole - 8 - length


def _tensors(path: Path, header: dict[str, Any], there: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    found, end, spans = {}, 0, []
    for name, entry in header.items():
        try:
            kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise LoraError(f"The header of '{path}' is damaged (at {name[:80]!r}).", _AGAIN) from error
        if (
            not isinstance(kind, str)
            or not all(type(each) is int and each >= 0 for each in (*shape, start, stop))
            or start > stop
        ):
            raise LoraError(f"The header of '{path}' is damaged (at {name[:80]!r}).", _AGAIN)
        if kind in _BYTES and math.prod(shape) * _BYTES[kind] != stop - start:
            raise LoraError(
                f"The header of '{path}' is damaged ({name[:80]!r} has {stop - start:,} bytes, and its shape needs {math.prod(shape) * _BYTES[kind]:,}).",
                _AGAIN,
            )
        found[name], end = (kind, shape), max(end, stop)
        spans.append((start, stop))
    if end != there:
        raise LoraError(
            f"'{path}' holds {there:,} bytes of weights and should hold {end:,}: it is cut off or damaged.", _AGAIN
        )
    if any(before[1] > after[0] for before, after in pairwise(sorted(spans))):
        raise LoraError(f"The header of '{path}' is damaged (two tensors lie in the same bytes).", _AGAIN)
    return found
