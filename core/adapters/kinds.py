"""The kinds of adapter, and what each consists of on a layer: names, shapes, numbers. No torch.

    lora    W + scale B A                                               (arXiv 2106.09685)
    dora    the rows of W + scale B A, each at a trained length         (arXiv 2402.09353)
    loha    W + scale (w1_a w1_b) * (w2_a w2_b), element by element     (FedPara, arXiv 2108.06098; LyCORIS, 2309.14859)
    lokr    W + scale w1 (x) w2, or w1 (x) (w2_a w2_b), Kronecker       (LyCORIS, arXiv 2309.14859)

scale = alpha / rank, with rsLoRA alpha / sqrt(rank) (arXiv 2312.03732).
"""

import math
from typing import Literal

Kind = Literal["lora", "dora", "loha", "lokr"]
NAMES = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}
LYCORIS = ("loha", "lokr")
"""Kinds without matrices A and B: other files, other readers."""

PARTS = {
    "hada_w1_a": "loha", "hada_w1_b": "loha", "hada_w2_a": "loha", "hada_w2_b": "loha", "hada_t1": "loha", "hada_t2": "loha",
    "lokr_w1": "lokr", "lokr_w1_a": "lokr", "lokr_w1_b": "lokr", "lokr_w2": "lokr", "lokr_w2_a": "lokr", "lokr_w2_b": "lokr", "lokr_t2": "lokr",
}  # fmt: skip
"""Names of tensors that only one kind has, in peft's layers as in files."""
MAGNITUDE, DORA_SCALE = "lora_magnitude_vector", "dora_scale"
"""The lengths of a DoRA's rows: in peft and diffusers, and in the other layout."""


def tensor_shapes(
    kind: Kind, weight: tuple[int, ...], rank: int, factor: int | None = None
) -> dict[str, tuple[int, ...]]:
    """What trains on a layer, by peft's names; compared with peft's own layers in `tests/core/test_lora_kinds.py`.

    Args:
        weight: its shape, (outputs, inputs, kernel ...). factor: `lora_lokr_factor`.
    """
    outputs, inputs, *kernel = weight
    columns = inputs * math.prod(kernel)
    if kind == "loha":
        a, b = (outputs, rank), (rank, columns)
        return {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b}
    if kind == "lokr":
        (rows, wide), (left, deep) = (factors(each, factor) for each in (outputs, inputs))
        whole: dict[str, tuple[int, ...]] = {"lokr_w1": (rows, left)}
        if rank >= max(wide, deep) / 2:
            return whole | {"lokr_w2": (wide, deep, *kernel)}
        return whole | {"lokr_w2_a": (wide, rank), "lokr_w2_b": (rank, deep * math.prod(kernel))}
    one = [1] * len(kernel)
    found = {"lora_A": (rank, inputs, *kernel), "lora_B": (outputs, rank, *one)}
    if kind == "dora":
        found[MAGNITUDE] = (1, outputs, *one) if kernel else (outputs,)
    return found


def factors(size: int, wanted: int | None) -> tuple[int, int]:
    """Two numbers with the product `size`, the first of w1 and the other of w2. `wanted`: the first where it divides the size; else the
    largest divisor up to it, and unset the pair nearest to the square root. As LyCORIS and peft split."""
    if wanted is not None and size % wanted == 0:
        return wanted, size // wanted
    most = min(math.isqrt(size), size if wanted is None else wanted)
    first = max(each for each in range(1, most + 1) if size % each == 0)
    return first, size // first


def scale_of(rank: int, alpha: float, rank_stabilised: bool) -> float:
    """What the change is multiplied by."""
    return alpha / math.sqrt(rank) if rank_stabilised else alpha / rank


def network_words(kind: Kind, factor: int | None) -> tuple[str, dict[str, str]]:
    """(`ss_network_module`, `ss_network_args`): which trainer of other tools makes such a file, with which arguments."""
    if kind == "lora":
        return "networks.lora", {}
    if kind == "dora":
        return "lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}
    return "lycoris.kohya", {"algo": kind} | ({"factor": str(factor)} if kind == "lokr" and factor is not None else {})


def tuner(kind: Kind) -> str:
    """Kinds of the same tuner stand beside each other in one model's layers."""
    return kind if kind in LYCORIS else "lora"
