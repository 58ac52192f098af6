"""Shifts that depend on the picture's size, as diffusers' pipelines compute them (`calculate_shift`)."""

from collections.abc import Mapping
from typing import Any


def resolution_mu(config: Mapping[str, Any], tokens: int, *, max_shift: float = 1.15) -> float:
    """mu on the straight line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).

    Args:
        config: the scheduler's; absent keys have the pipeline's defaults.
        tokens: what the pipeline counts as the picture's length.
        max_shift: that pipeline's own default for the key of this name.

    Source: Esser et al., arXiv 2403.03206, section 5.3.2; the linear form is from the FLUX.1 release.
    """
    base_length, max_length = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (top - base) / (max_length - base_length)
    return tokens * slope + base - slope * base_length
