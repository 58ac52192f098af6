"""The nodes as ComfyUI's V1 classes. Imports nothing of ComfyUI, torch or Pillow until a node runs."""

import sys
from importlib.util import find_spec
from inspect import Parameter, Signature
from typing import ClassVar

from ..graph.declaration import Declaration
from ..graph.graph import Node
from ..graph.validate import read_widgets, value_faults
from . import bridges, running
from .fields import input_type

MENU = "Rollout Studio"
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
    nodes = bridges.ALL
    return {key: _class(declared) for key, declared in nodes.items()}, {
        key: f"{declared.title} ({MENU})" for key, declared in nodes.items()
    }


class _Base:
    """What all classes share. One instance is kept between runs; it holds nothing."""

    declared: ClassVar[Declaration]
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict]:
        required = {each.name: input_type(each) for each in cls.declared.sockets if not each.optional}
        optional = {each.name: input_type(each) for each in cls.declared.inputs if each.name not in required}
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
        return running.run(self.declared, given, prompt, extra_pnginfo)


def _class(declared: Declaration) -> type:
    # One: the host's one answer stands at every field that is asked for. The others are checked when the node runs (`running`).
    fields = [widget.name for widget in declared.widgets if widget.names_path or widget.rule is not None][:1]
    more = {"VALIDATE_INPUTS": _validation(declared, fields)} if fields else {}
    return type(declared.key, (_Base,), {
        **more,
        "declared": declared, "CATEGORY": f"{MENU}/{declared.category}", "DESCRIPTION": declared.help, "OUTPUT_NODE": declared.shows, "INPUT_IS_LIST": declared.takes_lists,
        "RETURN_TYPES": tuple(output.type for output in declared.outputs), "RETURN_NAMES": tuple(output.name for output in declared.outputs),
        "OUTPUT_TOOLTIPS": tuple(output.help for output in declared.outputs), "SEARCH_ALIASES": list(declared.aliases),
        "__doc__": declared.help, "__module__": __name__,
    })  # fmt: skip


def _validation(declared: Declaration, fields: list[str]) -> classmethod:
    """What bounds and choices cannot express about the `fields`: paths, and texts with a rule of their own.

    ComfyUI takes the fields from the signature, checks no bound of theirs, and shows the message at every one of them.
    """

    def validate(cls, **given) -> bool | str:
        values = {name: value for name, value in given.items() if value is not None}  # None: linked, known later
        for name, value in values.items():
            if problems := value_faults(declared.input(name), value):
                return problems[0].message
        if declared.absent is not None and len(values) == len(fields):
            read = {name: declared.input(name).read(value) for name, value in values.items()}
            return next((message for _, message in declared.absent(read)), True)
        return True

    parameters = [Parameter("cls", Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in fields]
    validate.__signature__ = Signature(parameters)
    return classmethod(validate)
