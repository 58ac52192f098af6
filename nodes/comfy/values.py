"""Values at the border to ComfyUI: pictures as IMAGE tensors (B, H, W, C) in 0..1, a LoRA as a state dict, losses as `{"loss": [...]}`;
everything else passes as the immutable value that it is. Imports torch and Pillow only when it converts."""

import ast
import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ...core.runs.folder import RunDir
from ..graph.declaration import Socket, Widget
from ..graph.values import Images, Lora, Losses, file_at


def inward(widget: Widget, value: Any) -> Any:
    """A widget's value as the host hands it over. ComfyUI makes text of what its page types as text by `str`, so the list in a workflow
    of the API form (`{"__value__": [...]}`) arrives as Python writes it."""
    if widget.option.type.startswith("list") and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            return value  # JSON or a person's own text: the option reads it, or says what is wrong
        return found if isinstance(found, list) else value
    return value


def of_list(given: Socket | Widget, value: Any) -> Any:
    """An input of a node that takes lists, where the host hands over every input as one: pictures in a row, texts below each other."""
    if not isinstance(value, list):
        return value
    if isinstance(given, Socket):
        return [picture for batch in value for picture in batch]  # of different sizes: no tensor can hold them
    if given.option.type.startswith("list") and len(value) > 1:
        lines = [line for each in value for line in (each if isinstance(each, list | tuple) else [each])]
        return "\n".join(str(line) for line in lines)
    return value[0] if value else None


def outside_inference_mode() -> AbstractContextManager:
    """ComfyUI runs nodes in inference mode, whose tensors cannot be trained or differentiated; not so inside."""
    import torch

    return torch.inference_mode(False)


def outward(type_: str, value: Any) -> Any:
    """A node's output as the host's type."""
    if isinstance(value, Images) and type_ == "IMAGE":
        return tensor_of(value)
    if isinstance(value, Lora):
        from safetensors.torch import load_file

        return load_file(value.file.path)
    if isinstance(value, Losses):
        events = RunDir(value.run).events()[0]
        steps = {
            event["step"]: event["loss"] for event in events if event["event"] == "step"
        }  # a resumed run has some twice
        return {"loss": [float(steps[step]) for step in sorted(steps) if step <= value.step]}
    return value


def tensor_of(images: Images) -> Any:
    """Pictures as one IMAGE tensor: (B, H, W, 3), float32 in 0..1; smaller ones are laid on white."""
    import numpy
    import torch
    from PIL import Image

    from ..execute.pictures import opened

    read = [opened(Path(file.path)) for file in images.files]
    width, height = max(image.width for image in read), max(image.height for image in read)
    pages = []
    for image in read:
        page = Image.new("RGB", (width, height), "white")
        page.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        pages.append(torch.from_numpy(numpy.asarray(page, dtype=numpy.float32) / 255))
    return torch.stack(pages)


def images_of(tensor: Any, folder: Path) -> Images:
    """An IMAGE tensor (B, H, W, C) in 0..1, or a list of pictures (H, W, C), as files named by their content."""
    from PIL import Image

    from ..execute.pictures import saved

    files = []
    for picture in tensor:
        pixels = (picture.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()[..., :3]
        path = folder / f"{hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()[:16]}.png"
        if not path.is_file():
            saved(Image.fromarray(pixels), path)
        files.append(file_at(path))
    return Images(tuple(files))
