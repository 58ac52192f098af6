"""An answer while it is computed: each picture is put away and reported as soon as the model has answered, the true path before the own one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import platform_calls
from ..drift.rollouts import OnSight, Sight
from ..remembering import content_key
from .request import SO_FAR

if TYPE_CHECKING:
    from ...families.base import Model
    from ..remembering import Remembering


class PutAway:
    """Writes the single pictures of an answer into its folder, each once: what a browser has been told of is not written again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[str] = set()

    def __call__(self, pixels: np.ndarray, stem: str) -> str:
        """(H, W, 3) uint8 -> the file's name in the folder."""
        name = f"frames/{stem}.png"
        if name not in self._written:
            Image.fromarray(pixels).save(self._folder / name)
            self._written.add(name)
        return name


class Growing:
    """The filmstrips so far. `report` is called after every picture with `{"strips": [{"label", "columns", "frames"}]}`: a frame has `step`, `sigma`,
    `clean`, and `rolled` once that is there; frames stand in their order and begin at the first column.
    """

    def __init__(self, put_away: PutAway, report: Callable[[dict[str, Any]], None]) -> None:
        self._put_away, self._report = put_away, report
        self._strips: list[dict[str, Any]] = []

    def strip(self, label: str, model: "Model | Remembering") -> OnSight:
        """What `drift.measure` reports the pictures of the next strip to; `model` decodes them."""
        number = len(self._strips)
        strip: dict[str, Any] = {"label": label, "columns": 0, "frames": []}
        self._strips.append(strip)

        def see(sight: Sight) -> None:
            pixels = model.decode(sight.x0_hat[None])[0].permute(1, 2, 0)
            picture = (pixels.cpu() * 255).round().byte().numpy()
            strip["columns"] = sight.columns
            if sight.column == len(strip["frames"]):
                strip["frames"].append({"step": sight.step, "sigma": sight.sigma})
            strip["frames"][sight.column][sight.row] = self._put_away(
                picture, f"{number}-{sight.column:02d}-{sight.row}"
            )
            self._report(
                {"strips": [{**each, "frames": [dict(frame) for frame in each["frames"]]} for each in self._strips]}
            )

        return see


class Noted:
    """What there is of an answer so far, in a file of its folder, for a reader in another process: `{"growing", "part", "curves"}`, as far as
    each is there."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / SO_FAR
        self._known: dict[str, Any] = {}

    def keep(self, name: str) -> Callable[[dict[str, Any]], None]:
        """What notes this part of it."""

        def note(result: dict[str, Any]) -> None:
            self._known[name] = result
            platform_calls.write_atomically(self._file, json.dumps(self._known, allow_nan=False).encode())

        return note

    def end(self) -> None:
        """The answer itself is there."""
        self._file.unlink(missing_ok=True)


class DecodedOnce:
    """A model that decodes each latent once: what was reported while it grew costs nothing when the strip is drawn. The pictures stay in main
    memory; everything else is the model's own."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._known: dict[bytes, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self, latents: Tensor) -> Tensor:
        """As `Model.decode`; the pixels are on the CPU."""
        keys = [content_key(one) for one in latents]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if new:
            for place, pixels in zip(new, self._model.decode(latents[torch.tensor(new)]).cpu(), strict=True):
                self._known[keys[place]] = pixels
        return torch.stack([self._known[key] for key in keys])
