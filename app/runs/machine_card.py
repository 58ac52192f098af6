"""What the machine does while a run is looked at: memory, utilisation, temperature and power of each card, or CPU and RAM.

The browser asks for it, every few seconds and only while it can be seen: a reading is no Gradio event, so an untouched page stays idle.
"""

import math
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.machine import reading
from ...core.texts import translated
from ..parts.translation import translated_markup, with_words

EVERY_S = 3.0
_SCRIPT = (Path(__file__).parents[1] / "js" / "machine.js").read_text(encoding="utf-8")
_TEMPLATE = '<div class="rs-machine rs-card" hidden><h3>The machine now</h3><div data-part="parts"></div></div>'
_WORDS = ("{0} of {1}",)


class _Shared:
    """One reading for all viewers, at most a second old."""

    def __init__(self) -> None:
        self._lock, self._at, self._last = threading.Lock(), -math.inf, list[dict[str, Any]]()

    def of_now(self) -> list[dict[str, Any]]:
        with self._lock:
            if time.monotonic() - self._at > 1.0:
                self._last = [
                    {"name": translated(part.name), "meters": [
                        {"name": translated(meter.name), "used": _number(meter.used), "total": _number(meter.total), "unit": meter.unit}
                        for meter in part.meters if math.isfinite(meter.used)
                    ]}
                    for part in reading()
                ]  # fmt: skip
                self._at = time.monotonic()
            return self._last


def _number(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def machine_card() -> gr.HTML:
    """The card in the current layout. Hidden until the first reading."""
    shared = _Shared()

    def machine(_: Any) -> list[dict[str, Any]]:
        """What the machine does now: parts with their meters."""
        return shared.of_now()

    return gr.HTML(html_template=translated_markup(_TEMPLATE), js_on_load=with_words(_SCRIPT.replace("EVERY_MS", str(round(1000 * EVERY_S))), _WORDS), apply_default_css=False,
                   server_functions=[machine], elem_id="run-machine", container=False)  # fmt: skip
