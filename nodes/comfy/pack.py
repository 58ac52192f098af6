"""The nodes as ComfyUI's V1 classes. Imports nothing of ComfyUI, torch or Pillow until a node runs.

At the border values change their clothes: pictures become IMAGE tensors (B, H, W, C) in 0..1 and back, a LoRA a state dict, losses
`{"loss": [...]}`; everything else passes as the immutable value that it is. What there is to look at is also told to the page as
`ui`: pictures as files of the host's temp or output folder, words as text. Training is a process of its own, so ComfyUI's
inference mode never reaches it. An interrupt lets the run save a checkpoint and is then passed on to ComfyUI.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from importlib.util import find_spec
from inspect import Parameter, Signature
from math import ceil, sqrt
from pathlib import Path
from typing import Any, ClassVar, Self

from ...core import platform_calls
from ...core.config.options import ConfigError, shown
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.root import ROOT_VARIABLE
from ..execute import cache
from ..execute.cache import Cache
from ..execute.context import Context, open_store
from ..graph.declaration import LARGEST_INT, NODES, Declaration, Socket, Widget
from ..graph.graph import Node
from ..graph.validate import read_widgets, value_faults
from ..graph.values import Images, Interrupted, Lora, Losses, NodeError, file_at, sha256, to_json

MENU = "Rollout Studio"
FOLDER = "rollout-studio"  # in the host's output and temp folders
NEEDED = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "PIL",
    "matplotlib",
    "numpy",
    "psutil",
    "prodigyopt",
)
INTERRUPT = "InterruptProcessingException"  # ComfyUI's; a BaseException in some versions, so it is known by its name
PREVIEW_PX = 512


def missing() -> list[str]:
    """Packages that a training needs and this ComfyUI's Python lacks."""
    return [name for name in NEEDED if not _there(name)]


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # hidden by an import hook, or half-removed
        return False


def mappings() -> tuple[dict[str, type], dict[str, str]]:
    """(NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS). Says in one line which packages are missing, if any; the nodes are there
    all the same, and a workflow that has them opens.
    """
    lacking = missing()
    if lacking:
        print(
            f"[{MENU}] needs {', '.join(lacking)}: install the pack's requirements.txt into ComfyUI's Python, then restart.",
            file=sys.stderr,
        )
    return {key: _class(declared) for key, declared in NODES.items()}, {
        key: f"{declared.title} ({MENU})" for key, declared in NODES.items()
    }


# ---- the class of a node


class _Base:
    """What all classes share. One instance is kept between runs; it holds nothing."""

    declared: ClassVar[Declaration]
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict]:
        required = {each.name: _input(each) for each in cls.declared.sockets if not each.optional}
        optional = {each.name: _input(each) for each in cls.declared.inputs if each.name not in required}
        types = {"required": required, "optional": optional}
        if cls.declared.effect:
            types["hidden"] = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
        return types

    @classmethod
    def IS_CHANGED(cls, **given) -> str | float:
        """What the node reads from the disk. Effect nodes always run: their own folder decides what is to be done."""
        if cls.declared.effect:
            return float("nan")
        if cls.declared.fingerprint is None:
            return ""
        widgets = read_widgets(
            cls.declared, Node(cls.declared.key, {name: value for name, value in given.items() if value is not None})
        )
        return "" if widgets is None else cls.declared.fingerprint(widgets)

    def run(self, prompt=None, extra_pnginfo=None, **given):
        return _run(self.declared, given, prompt, extra_pnginfo)


def _class(declared: Declaration) -> type:
    asked = [widget.name for widget in declared.widgets if widget.names_path or widget.rule is not None]
    more = {"VALIDATE_INPUTS": _validation(declared, asked)} if asked else {}
    return type(declared.key, (_Base,), {
        **more,
        "declared": declared, "CATEGORY": f"{MENU}/{declared.category}", "DESCRIPTION": declared.help, "OUTPUT_NODE": declared.shows,
        "RETURN_TYPES": tuple(output.type for output in declared.outputs), "RETURN_NAMES": tuple(output.name for output in declared.outputs),
        "OUTPUT_TOOLTIPS": tuple(output.help for output in declared.outputs), "SEARCH_ALIASES": list(declared.aliases),
        "__doc__": declared.help, "__module__": __name__,
    })  # fmt: skip


def _validation(declared: Declaration, asked: list[str]) -> classmethod:
    """What bounds and choices cannot say of the fields `asked`: paths, and texts with a rule of their own.

    ComfyUI takes the fields from the signature, checks no bound of theirs, and puts the answer at every one of them.
    """

    def validate(cls, **given) -> bool | str:
        values = {name: value for name, value in given.items() if value is not None}  # None: linked, known later
        for name, value in values.items():
            if problems := value_faults(declared.input(name), value):
                return problems[0].message
        if declared.absent is not None and len(values) == len(asked):
            read = {name: declared.input(name).read(value) for name, value in values.items()}
            return next((message for _, message in declared.absent(read)), True)
        return True

    parameters = [Parameter("cls", Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in asked]
    validate.__signature__ = Signature(parameters)
    return classmethod(validate)


class TextBound(float):
    """The bound of numbers that stand in a text field, because it may be empty or hold several.

    ComfyUI compares a field's value with `min` and `max` as it is; here the text is read first. An empty field that may be empty is
    within every bound; text that is no number is below the smallest.
    """

    def __new__(cls, widget: Widget, bound: float) -> Self:
        made = super().__new__(cls, bound)
        made.widget = widget
        return made

    def __format__(self, spec: str) -> str:
        several = self.widget.option.type.startswith("list")
        words = (
            "numbers, with commas between"
            if several
            else "a number" + (", or nothing" if self.widget.option.optional else "")
        )
        return f"{shown(float(self))} ({words})"

    def _wrong(self, text: str) -> str | None:
        faults = value_faults(self.widget, text)
        return faults[0].type if faults else None

    def __gt__(self, text: str) -> bool:
        """As `min`: is the text below?"""
        return self._wrong(text) not in (None, "value_bigger_than_max")

    def __lt__(self, text: str) -> bool:
        """As `max`: is the text above?"""
        return self._wrong(text) == "value_bigger_than_max"


def _input(given: Socket | Widget) -> tuple[Any, dict[str, Any]]:
    """One entry of INPUT_TYPES."""
    if isinstance(given, Socket):
        return given.type, {"tooltip": given.help}
    option = given.option
    unit = f" ({option.unit})" if option.unit else ""
    options: dict[str, Any] = {"tooltip": f"{option.help}{unit}", "default": given.in_field(given.default)}
    if option.level == "advanced":
        options["advanced"] = True
    if given.kind == "COMBO":
        return list(given.choices), options
    if given.kind in ("INT", "FLOAT"):
        options |= {"step": given.step}
        options |= {
            name: bound for name, bound in (("min", option.minimum), ("max", option.maximum)) if bound is not None
        }
    if given.kind == "INT":
        # the page would draw a new seed after every run, and that would be another training
        options |= {"max": min(options.get("max", LARGEST_INT), LARGEST_INT), "control_after_generate": False}
    if given.kind == "FLOAT":
        options["round"] = False  # else the page rounds a value to its step
        # The page shows as many digits as the step has: 0.25 looked like 0.3, and 0.999 like 1.0.
        options["step"] = float(
            f"{min(given.step / 10, 10.0 ** Decimal(repr(option.default)).as_tuple().exponent):.0e}"
        )
    if given.kind == "STRING":
        options["multiline"] = given.multiline
        options |= {
            name: TextBound(given, bound)
            for name, bound in (("min", option.minimum), ("max", option.maximum))
            if bound is not None
        }
    return given.kind, options


# ---- running one


class _Host:
    """ComfyUI around us, as far as it is there: its interrupt, progress bar and output folder."""

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

    def tell(self, done: int, total: int, what: str) -> None:
        if total > 0:
            self._progress(done, total, None)

    def show(self, path: Path) -> None:
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

    def output_folder(self) -> Path:
        paths = _module("folder_paths")
        return Path(paths.get_output_directory() if paths is not None else "output").absolute()

    def on_canvas(self, path: Path) -> dict[str, str] | None:
        """A picture as the page asks for it: one that was saved for good where it is, else a copy in the temp folder, which the host
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

    def say(self, text: str) -> None:
        """Words on the node's own face, in hosts that can show some."""
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


def _run(declared: Declaration, given: Mapping[str, Any], prompt: Any, extra_pnginfo: Any) -> Any:
    """Run a node for ComfyUI; served from the disk where it has run with the same inputs before."""
    host = _Host()
    out = host.output_folder() / FOLDER
    store = open_store(os.environ.get(ROOT_VARIABLE, out / "runs"))
    inputs = _said(lambda: _inputs(declared, given, out / "inputs"))
    if declared.lane == "instant":
        return _told(declared, _said(lambda: declared.function(None, **inputs)), host)
    kept, key = Cache(store.root / cache.FOLDER), _key(declared, inputs)
    outputs = None if declared.effect else kept.get(key)
    if outputs is None:
        folder = kept.folder(key)
        # What only draws is done at once: a live picture, small, would stand where the page shows the result.
        show = host.show if declared.lane in ("run", "device") else host.shown.append
        context = Context(store, folder, out, _provenance(prompt, extra_pnginfo), host.tell, show, host.stop)
        if declared.lane in ("run", "device"):
            host.make_room()
        try:
            with _outside_inference_mode() if declared.lane == "device" else nullcontext():
                outputs = _said(lambda: declared.function(context, **inputs))
        except Interrupted:
            raise host.interrupt from None  # what was worth saving is saved
        if not declared.effect:
            kept.put(key, outputs, folder)
    return _told(declared, outputs, host)


def _said(work: Callable[[], tuple]) -> tuple:
    """A refusal as one message for the page."""
    try:
        return work()
    except (NodeError, ConfigError, RunError) as error:
        raise RuntimeError(str(error)) from None


def _inputs(declared: Declaration, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A node's inputs, read and checked. Raises NodeError with everything that is wrong and could not be told before."""
    inputs: dict[str, Any] = {}
    problems = []
    for each in declared.inputs:
        value = given.get(each.name)
        if isinstance(each, Widget):
            value = each.default if value is None else value
            told = value_faults(each, value)
            problems += [problem.message for problem in told]
            inputs[each.name] = None if told else each.read(value)
        elif value is not None and each.type == "IMAGE" and not isinstance(value, Images):
            inputs[each.name] = images_of(value, folder)
        else:
            inputs[each.name] = value
    if not problems and declared.check is not None:
        linked = frozenset(socket.name for socket in declared.sockets if inputs[socket.name] is not None)
        problems = [f"{name}: {message}" for name, message in declared.check(inputs, linked)]
    if problems:
        raise NodeError(" ".join(problems))
    return inputs


def _key(declared: Declaration, inputs: Mapping[str, Any]) -> str:
    """The cache's address by the values that came in; here the host has walked the graph."""
    ancestors = {
        socket.name: (hashlib.sha256(json.dumps(to_json(inputs[socket.name]), sort_keys=True).encode()).hexdigest(), 0)
        for socket in declared.sockets if inputs[socket.name] is not None
    }  # fmt: skip
    folders = [value.path for value in inputs.values() if type(value).__name__ == "Folder"]
    flats = [value.flat for value in inputs.values() if type(value).__name__ == "Settings"]
    from ..execute import fingerprints

    read = " ".join([*map(fingerprints.of_folder, folders), *map(fingerprints.of_flat, flats)])
    return hashlib.sha256(f"{cache.key_of(declared, inputs, ancestors)} {read}".encode()).hexdigest()


def _provenance(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    found = {} if prompt is None else {"prompt": json.dumps(prompt)}
    if isinstance(extra_pnginfo, Mapping) and "workflow" in extra_pnginfo:
        found["workflow"] = json.dumps(extra_pnginfo["workflow"])
    return found


def _outside_inference_mode() -> AbstractContextManager:
    import torch

    return torch.inference_mode(False)


# ---- values at the border


def _told(declared: Declaration, outputs: tuple, host: _Host) -> Any:
    """The outputs as ComfyUI's types; of a node with something to look at, pictures and words also for its own face."""
    result = tuple(_outward(output.type, value) for output, value in zip(declared.outputs, outputs, strict=True))
    if not declared.shows:
        return result
    given = [Path(file.path) for value in outputs if isinstance(value, Images) for file in value.files]
    if given and host.shown and declared.lane in ("run", "device"):
        host.show_result(given)
    images = [host.on_canvas(path) for path in given or host.shown]
    said = [value for output, value in zip(declared.outputs, outputs, strict=True) if output.type == "STRING"]
    for text in said:
        host.say(text)
    ui = {
        name: values
        for name, values in (("images", [each for each in images if each is not None]), ("text", said))
        if values
    }
    return {"ui": ui, "result": result} if ui else result


def _outward(type_: str, value: Any) -> Any:
    if isinstance(value, Images) and type_ == "IMAGE":
        return tensor_of(value)
    if isinstance(value, Lora):
        from safetensors.torch import load_file

        return load_file(value.file.path)
    if isinstance(value, Losses):
        events = RunDir(value.run).events()[0]
        steps = {
            event["step"]: event["loss"] for event in events if event["event"] == "step"
        }  # a resumed run tells some twice
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
    """An IMAGE tensor (B, H, W, C) in 0..1 as files, named by their content."""
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
