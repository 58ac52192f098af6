"""A checkpoint in one file: its header, read without torch, and what is refused before anything is opened.

A safetensors file begins with the header's length (8 bytes, little endian) and the header, a JSON object: name -> dtype, shape, place.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import Trouble
from ..names import is_model_file
from .facts import FamilyFacts
from .registry import FAMILIES
from .single_file_facts import Contents

FOLDER = Path(__file__).parent
"""Of the families' own folders."""
LARGEST_HEADER = 100 * 2**20
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
PRECISIONS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LORA = (
    ".lora_down.",
    ".lora_up.",
    ".lora_A.",
    ".lora_B.",
    ".lora.down.",
    ".lora.up.",
    ".hada_w1_a",
    ".lokr_w1",
    ".lora_mid.",
)
_QUANTISED = (".absmax", ".quant_state.", ".weight_scale", ".scale_weight", "scaled_fp8", ".qweight", ".comfy_quant")


class ModelError(Trouble, RuntimeError):
    """A model cannot be opened or used as asked. `message`: value and rule; `remedy`: what to do."""


@dataclass(frozen=True)
class Header:
    """`tensors`: name -> (dtype as the file says it, shape). `metadata`: text by key."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (_, shape) in self.tensors.items()}


def read_header(path: Path) -> Header:
    """The header, checked against the file's length. Reads no weights.

    Raises: ValueError saying what is wrong with the file; OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"version "):
            raise ValueError("it is a git-lfs pointer (run `git lfs pull`)")
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"cut off or no safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            tensors = {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries.items()}
            numbers = [end, *(side for _, shape in tensors.values() for side in shape)]
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError("an offset or a shape that is no number")
            metadata = {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise ValueError("its header is damaged") from None
    if size != 8 + length + end:
        raise ValueError(f"it has {size} bytes and should have {8 + length + end}; it is cut off or damaged")
    return Header(tensors, metadata)


@dataclass(frozen=True)
class Checkpoint:
    """A file that was recognised. `precision`: the number format of most of the network's weights."""

    path: Path
    facts: FamilyFacts
    contents: Contents
    precision: str
    bytes_: Mapping[str, int]
    """Bytes of each tensor, by name."""

    @property
    def kind(self) -> Any:
        """The family's `SingleFile`."""
        return self.facts.single_file

    @property
    def network_names(self) -> tuple[str, ...]:
        """The names of the network's tensors, as the file has them."""
        start, others = self.contents.start, tuple(self.starts[part] for part in self.kind.inside)
        return tuple(name for name in self.contents.shapes if name.startswith(start) and not name.startswith(others))

    @property
    def starts(self) -> Mapping[str, str]:
        """Part -> the beginning of its tensors' names."""
        return self.kind.starts(self.contents)

    @property
    def parts(self) -> tuple[str, ...]:
        """The pipeline's parts that the file holds, the network first."""
        return (self.facts.component, *self.kind.within(self.contents))

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts that a pipeline needs and the file lacks."""
        return tuple(part for part in self.lacking if part not in self.kind.optional)

    @property
    def lacking(self) -> tuple[str, ...]:
        """VAE and text encoders that are not in the file."""
        return tuple(part for part in ("vae", *self.facts.text_encoders) if part not in self.parts)

    @property
    def shipped(self) -> Path | None:
        """The folder with config files that this program brings, where the family has one and the file needs no more."""
        if self.missing or not self.kind.ships_configs:
            return None
        return FOLDER / self.facts.name / "single_file"

    def frame(self, components: str | None) -> str:
        """Where the rest of the pipeline comes from: what is named, else our own configs, else the family's official pipeline."""
        if components is not None:
            return components
        return self.kind.official if self.shipped is None else str(self.shipped)


def recognise(path: Path) -> Checkpoint:
    """What a file is, by its header.

    Raises: ModelError for one that cannot be a base: pickled, cut off, quantised, a LoRA, of no family here. Cost: the header.
    """
    header = _header(path)
    names = header.tensors
    if any(mark in name for name in names for mark in _LORA):
        raise ModelError(
            f"'{path.name}' is a LoRA (or another adapter), not a model.",
            "Name the model that it was trained on. To look at a LoRA, drop it on the page or use `rollout-studio sample --lora`.",
        )
    contents = Contents(header.shapes, header.metadata)
    facts = next(
        (each for each in FAMILIES.values() if each.single_file and each.single_file.recognised(contents)), None
    )
    _refuse_quantised(path, header)
    if facts is None:
        raise ModelError(f"'{path.name}' {_what_it_is(contents)}", _elsewhere())
    bytes_ = {name: _bytes(*entry) for name, entry in names.items()}
    checkpoint = Checkpoint(path, facts, contents, "float32", bytes_)
    formats = Counter(names[name][0] for name in checkpoint.network_names)
    return replace(checkpoint, precision=PRECISIONS.get(formats.most_common(1)[0][0], "float32"))


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count * {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(dtype, 1)


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() == ".gguf" or start == b"GGUF":
        raise ModelError(
            f"'{path.name}' is a GGUF file: its weights are quantised for inference, and training needs them whole.",
            "Take the float16, bfloat16 or float32 .safetensors of the same model.",
        )
    if path.suffix.lower() in PICKLED or start[:2] in (b"PK", b"\x80\x02"):
        raise ModelError(
            f"'{path.name}' is a pickled file ({path.suffix.lower() or 'no ending'}): it can run code when it is opened, so it is not opened here.",
            "Take the .safetensors of the same model. If there is none, and you trust the file: in Python, `import torch, safetensors.torch as s; "
            "d = torch.load(FILE, weights_only=True); d = d.get('state_dict', d); s.save_file({k: v.contiguous() for k, v in d.items() "
            "if hasattr(v, 'shape')}, FILE + '.safetensors')`, then name the new file.",
        )
    if not is_model_file(path.name):
        raise ModelError(
            f"'{path.name}' is no .safetensors file.",
            "Name a .safetensors checkpoint, a folder in the diffusers layout (with model_index.json), or a hub id.",
        )
    try:
        return read_header(path)
    except ValueError as error:
        raise ModelError(f"'{path}' is broken: {error}.", "Download or copy the file again, whole.") from error


def _refuse_quantised(path: Path, header: Header) -> None:
    found = Counter(dtype for dtype, shape in header.tensors.values() if len(shape) > 1)
    strange = sorted(dtype for dtype in found if dtype not in (*PRECISIONS, "F64", "I64", "I32"))
    marked = next((mark for name in header.tensors for mark in _QUANTISED if mark in name), None)
    if strange or marked:
        kind = "fp8" if any(each.startswith("F8") for each in strange) else "quantised"
        raise ModelError(
            f"'{path.name}' is {kind} ({', '.join(strange) if strange else f'it has tensors named *{marked}*'}): its weights were rounded for inference.",
            "Take the float16, bfloat16 or float32 file of the same model.",
        )


def _what_it_is(contents: Contents) -> str:
    names = contents.shapes
    if any(name.startswith(("control_model.", "controlnet_blocks.", "input_hint_block.")) for name in names):
        return "is a control network, not a model for text to image."
    if any(name.startswith(("down_blocks.", "transformer_blocks.", "text_model.")) for name in names):
        return "is one part of a model in the diffusers layout (its tensors are named as diffusers names them)."
    if names and all(
        name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "first_stage_model."))
        for name in names
    ):
        return "is a VAE alone, not a model."
    first = next(iter(names), "none")
    return f"is a checkpoint that no family here recognises ({len(names)} tensors; the first is named {first!r})."


def _elsewhere() -> str:
    known = ", ".join(facts.label for facts in FAMILIES.values() if facts.single_file)
    return (
        f"Single files are opened of: {known}. Of another model name the folder in the diffusers layout that holds model_index.json, "
        "or its hub id."
    )
