"""ComfyUI around a running node, as far as it is there: its interrupt, progress bar, previews and folders. Nothing of it is imported."""

import sys
from math import ceil, sqrt
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from ...core import platform_calls
from ..graph.values import NodeError, sha256

FOLDER = "rollout-studio"  # in the host's output and temp folders
INTERRUPT = "InterruptProcessingException"  # ComfyUI's; a BaseException in some versions, so it is known by its name
PREVIEW_PX = 512


class Host:
    """The host during one run of one node. `shown`: the pictures that the node has shown so far."""

    def __init__(self) -> None:
        self.interrupt: BaseException | None = None
        self.shown: list[Path] = []
        self._bar: Any = None

    def stop(self) -> bool:
        """Has the person pressed stop? ComfyUI's exception is kept, to be raised when the run has saved."""
        check = getattr(_module("comfy.model_management"), "throw_exception_if_processing_interrupted", None)
        if self.interrupt is None and check is not None:
            try:
                check()
            except BaseException as error:
                if type(error).__name__ != INTERRUPT:
                    raise
                self.interrupt = error
        return self.interrupt is not None

    def report(self, done: int, total: int, what: str) -> None:
        """Move the progress bar; a total of 0 moves nothing."""
        if total > 0:
            self._progress(done, total, None)

    def show(self, path: Path) -> None:
        """Show a picture while the node runs."""
        from PIL import Image

        self.shown.append(path)
        with Image.open(path) as image:
            self._preview(image)

    def show_result(self, paths: list[Path]) -> None:
        """The last live picture is the result: some versions of the page go on showing it in place of the node's output."""
        from ..execute.pictures import opened, sheet

        images = [opened(path) for path in paths]
        self._preview(
            images[0] if len(images) == 1 else sheet([(image, "") for image in images], columns=ceil(sqrt(len(images))))
        )

    def _preview(self, image: Any) -> None:
        self._progress(None, None, ("JPEG", image.convert("RGB"), PREVIEW_PX))

    def _progress(self, done: int | None, total: int | None, preview: Any) -> None:
        make = getattr(_module("comfy.utils"), "ProgressBar", None)
        if make is None:
            return
        if self._bar is None:
            self._bar, self._at = make(1 if total is None else total), (0, 1 if total is None else total)
        if done is not None:
            self._at = (done, total)
        self._bar.update_absolute(*self._at, preview)

    def make_room(self) -> None:
        """Before a training or a model of ours: ComfyUI's own models leave the device."""
        unload = getattr(_module("comfy.model_management"), "unload_all_models", None)
        if unload is not None:
            unload()

    def temp_folder(self) -> Path:
        """The host's temp folder, which it empties when it starts; a folder of the system's without a host."""
        paths = _module("folder_paths")
        return Path(paths.get_temp_directory() if paths is not None else gettempdir()).absolute()

    def lora_folder(self) -> Path:
        """The first folder whose files LoraLoader lists. Raises NodeError where there is no host."""
        paths = _module("folder_paths")
        if paths is None:
            raise NodeError(
                "There is no ComfyUI in this process.", "Run this node inside ComfyUI, or take Export LoRA."
            )
        return Path(paths.get_folder_paths("loras")[0]).absolute()

    def output_folder(self) -> Path:
        """The host's output folder, absolute; `output` here without a host."""
        paths = _module("folder_paths")
        return Path(paths.get_output_directory() if paths is not None else "output").absolute()

    def on_canvas(self, path: Path) -> dict[str, str] | None:
        """A picture as the page requests it: one that was saved for good where it is, else a copy in the temp folder, which the host
        empties. None where there is no host."""
        paths = _module("folder_paths")
        if paths is None:
            return None
        if path.parent == self.output_folder() / FOLDER:
            return {"filename": path.name, "subfolder": FOLDER, "type": "output"}
        copy = Path(paths.get_temp_directory(), FOLDER, f"{sha256(path)[:16]}{path.suffix}")
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            platform_calls.write_atomically(copy, path.read_bytes())
        return {"filename": copy.name, "subfolder": FOLDER, "type": "temp"}

    def show_text(self, text: str) -> None:
        """Show a text on the node itself, in hosts that can."""
        server, running = (
            getattr(_module("server"), "PromptServer", None),
            getattr(_module("comfy_execution.utils"), "get_executing_context", None),
        )
        if (
            hasattr(server, "instance")
            and hasattr(server.instance, "send_progress_text")
            and running is not None
            and running() is not None
        ):
            server.instance.send_progress_text(text, running().node_id)


def _module(name: str) -> Any:
    """A module of the host, if this process has it; it is never imported from here."""
    return sys.modules.get(name)
