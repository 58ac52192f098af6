"""One run of one node inside ComfyUI.

What there is to see is also sent to ComfyUI's page as `ui`: pictures as files of the host's temp or output folder, words as text.
Training is a process of its own, so ComfyUI's inference mode never reaches it. An interrupt lets the run save a checkpoint and is then
passed on to ComfyUI.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError
from ...core.runs.errors import RunError
from ...core.runs.root import ROOT_VARIABLE
from ..execute import cache
from ..execute.cache import Cache
from ..execute.context import Context, open_store
from ..graph.declaration import Declaration, Widget
from ..graph.validate import value_faults
from ..graph.values import Images, Interrupted, NodeError, to_json
from .host import FOLDER, Host
from .values import images_of, inward, of_list, outside_inference_mode, outward


def run(declared: Declaration, given: Mapping[str, Any], prompt: Any, extra_pnginfo: Any) -> Any:
    """Run a node for ComfyUI; served from the disk where it has run with the same inputs before."""
    host = Host()
    out = host.output_folder() / FOLDER
    store = open_store(os.environ.get(ROOT_VARIABLE, out / "runs"))
    if declared.takes_lists:
        given = {name: of_list(declared.input(name), value) for name, value in given.items() if value is not None}
    inputs = _refusals_as_errors(lambda: _inputs(declared, given, out / "inputs"))
    if declared.lane == "instant":
        return _results(declared, _refusals_as_errors(lambda: declared.function(None, **inputs)), host)
    if declared.lane == "host":
        return _results(declared, _on_host(declared, inputs, store, out, host), host)
    kept, key = Cache(store.root / cache.FOLDER), _key(declared, inputs)
    outputs = None if declared.effect else kept.get(key)
    if outputs is None:
        folder = kept.folder(key)
        # What only draws is done at once: a live picture, small, would stand where the page shows the result.
        show = host.show if declared.lane in ("run", "device") else host.shown.append
        context = Context(
            store, folder, out, _provenance(prompt, extra_pnginfo), report=host.report, show=show, stop=host.stop
        )
        if declared.lane in ("run", "device"):
            host.make_room()
        try:
            with outside_inference_mode() if declared.lane == "device" else nullcontext():
                outputs = _refusals_as_errors(lambda: declared.function(context, **inputs))
        except Interrupted:
            raise host.interrupt from None  # what was worth saving is saved
        if not declared.effect:
            kept.put(key, outputs, folder)
    return _results(declared, outputs, host)


def _on_host(declared: Declaration, inputs: Mapping[str, Any], store: Any, out: Path, host: Host) -> tuple:
    """Run a node that uses ComfyUI's own models: in its inference mode, with its models left where they are. Whether it has run before
    the host knows, since its models have no address that we could keep a result under."""
    folder = host.temp_folder() / FOLDER / uuid.uuid4().hex[:12]
    folder.mkdir(parents=True)
    context = Context(store, folder, out, {}, report=host.report, show=host.show, stop=host.stop)
    try:
        return _refusals_as_errors(lambda: declared.function(context, **inputs))
    except Interrupted:
        raise host.interrupt from None


def _refusals_as_errors(work: Callable[[], tuple]) -> tuple:
    """The result of `work`; what it refuses becomes a RuntimeError, which ComfyUI shows as one message."""
    try:
        return work()
    except (NodeError, ConfigError, RunError) as error:
        raise RuntimeError(str(error)) from None


def _inputs(declared: Declaration, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A node's inputs, read and checked. Raises NodeError with everything that is wrong and was not known before."""
    inputs: dict[str, Any] = {}
    problems = []
    for each in declared.inputs:
        value = given.get(each.name)
        if isinstance(each, Widget):
            value = each.default if value is None else inward(each, value)
            faults = value_faults(each, value)
            problems += [problem.message for problem in faults]
            inputs[each.name] = None if faults else each.read(value)
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
    """The cache's address by the values that came in; here the host has evaluated the graph up to the node."""
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


def _results(declared: Declaration, outputs: tuple, host: Host) -> Any:
    """The outputs as ComfyUI's types; of a node that shows something, pictures and words also for the node itself."""
    result = tuple(outward(output.type, value) for output, value in zip(declared.outputs, outputs, strict=True))
    if not declared.shows:
        return result
    given = [Path(file.path) for value in outputs if isinstance(value, Images) for file in value.files]
    if given and host.shown and declared.lane in ("run", "device"):
        host.show_result(given)
    images = [host.on_canvas(path) for path in given or host.shown]
    texts = [value for output, value in zip(declared.outputs, outputs, strict=True) if output.type == "STRING"]
    for text in texts:
        host.show_text(text)
    ui = {
        name: values
        for name, values in (("images", [each for each in images if each is not None]), ("text", texts))
        if values
    }
    return {"ui": ui, "result": result} if ui else result
