"""`rollout-studio lora merge | resize | convert | upload`: what can be done with a finished LoRA. The work is in `core/adapters`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError, Fault
from ...core.platform_calls import use_all_cores
from ...core.runs.store import RunStore
from .answers import DONE, print_message
from .computing import empty_folder
from .flags import add_runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    lora = command("lora", _lora, "Merge a LoRA into its base, lower its rank, change its layout, or upload it.")
    actions = lora.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help, description=help, allow_abbrev=False)
        made.set_defaults(action=name)
        return made

    merge = action(
        "merge", "Write the base model with the LoRA merged in, as a folder for from_pretrained, and compare both."
    )
    _add_file(merge)
    _add_model(merge)
    merge.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the model (must be new or empty)"
    )
    merge.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="strength of the LoRA (default: 1, as trained)"
    )
    merge.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="of the written weights"
    )
    merge.add_argument("--device", default="cpu", help="where both are computed for the comparison (default: cpu)")
    resize = action("resize", "Write the LoRA with a smaller rank, and say how much of each layer's change is kept.")
    _add_file(resize)
    _add_model(resize)
    _add_out(resize)
    resize.add_argument("--rank", type=int, required=True, metavar="N", help="the new rank, below the LoRA's")
    resize.add_argument("--layers", action="store_true", help="list the share that each layer keeps")
    convert = action("convert", "Write the LoRA in the other layout, and read it again.")
    _add_file(convert)
    _add_model(convert)
    _add_out(convert)
    convert.add_argument("--to", choices=("diffusers", "kohya"), required=True, help="the layout to write")
    upload = action(
        "upload", "Upload a run's LoRA, or a file, to the Hugging Face hub, with a model card made from its settings."
    )
    upload.add_argument("what", metavar="RUN|FILE", help="a run, or a .safetensors file that was trained here")
    upload.add_argument(
        "--repo",
        required=True,
        metavar="OWNER/NAME",
        help="the repository; it is made, private unless --public is given",
    )
    upload.add_argument("--public", action="store_true", help="make the repository public")
    upload.add_argument(
        "--replace", action="store_true", help="add to a repository that is there, and replace its card"
    )
    add_runs_dir(upload)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the LoRA, a .safetensors file of either layout")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write (must be new)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="M", help="its base: a folder, a hub id or demo-flow (default: the one that the file names)"
    )
    parser.add_argument("--revision", metavar="R", help="with a hub id: branch, tag or commit")
    parser.add_argument("--variant", metavar="V", help="the variant of the base's files, for example fp16")
    parser.add_argument(
        "--components",
        metavar="M",
        help="of a base in one file: the folder or hub id with what is not in it (as pretrained_components in training; default: the one that "
        "the LoRA names with its base, else the official model where weights are missing)",
    )


def _lora(given: argparse.Namespace) -> int:
    return {"merge": _merge, "resize": _resize, "convert": _convert, "upload": _upload}[given.action](given)


def _merge(given: argparse.Namespace) -> int:
    out, source = empty_folder(given.out), _source(given)
    if out.exists():
        out.rmdir()  # empty; the finished folder takes its place as a whole
    use_all_cores()

    from ...core.adapters.merge import merge

    done = merge(given.file, source, out, precision=given.precision, scale=given.scale, device=given.device)
    return _told(done.path, str(done))


def _resize(given: argparse.Namespace) -> int:
    out, source = _new_file(given.out), _source(given)

    from ...core.adapters.resize import resize

    done = resize(given.file, out, given.rank, source)
    if given.layers:
        for layer, share in done.kept.items():
            print(f"{100 * share:6.2f} %  {layer}")
    return _told(done.path, str(done))


def _convert(given: argparse.Namespace) -> int:
    out, source = _new_file(given.out), _source(given)

    from ...core.adapters.convert import convert

    done = convert(given.file, out, given.to, source)
    return _told(done.path, str(done))


def _upload(given: argparse.Namespace) -> int:
    from ...core.adapters.upload import run_files, upload

    path = Path(given.what)
    files = [path] if path.suffix == ".safetensors" else run_files(RunStore(given.runs_dir).get(given.what).lora_path)
    if not files:
        raise ConfigError(
            [Fault(f"lora upload: the run {given.what} has no LoRA file; it is written when the training is done.")]
        )
    address = upload(files, given.repo, private=not given.public, replace=given.replace)
    print_message(f"Uploaded {', '.join(file.name for file in files)} ({'public' if given.public else 'private'}).")
    print(address)
    return DONE


def _told(path: Path, words: str) -> int:
    print_message(f"{words[:1].upper()}{words[1:]}.")
    print(path)
    return DONE


def _source(given: argparse.Namespace) -> Any:
    """The base: the one that was named, else the one that the file names. What the file's header shows is refused before it is looked for."""
    from ...core.adapters.header import read_lora_config
    from ...core.adapters.lora_file import read_lora_header
    from ...core.families.source import ModelError, locate
    from ...core.names import is_model_file

    read_lora_header(given.file)
    name, components = given.model, given.components
    if name is None:
        flat = read_lora_config(given.file)
        name = None if flat is None else flat.get("pretrained_model_name_or_path")
        if not isinstance(name, str):
            raise ConfigError([Fault(f"{given.file}: does not name its base model; name it with --model.")])
        named = flat.get("pretrained_components")
        if components is None and is_model_file(name) and isinstance(named, str):
            components = named
    if given.components is not None and not is_model_file(name):
        raise ConfigError(
            [
                Fault(
                    f"--components {given.components}: only a base in one .safetensors file lacks parts, and {name} is none; leave it out."
                )
            ]
        )
    try:
        return locate(name, given.revision, given.variant, components)
    except ModelError as error:
        if given.model is not None:
            raise
        where = "--model, and what it lacks with --components" if is_model_file(name) else "--model"
        raise ConfigError(
            [
                Fault(
                    f"{given.file} names its base model {name}, which is not found here ({error.message}) Name it with {where}."
                )
            ]
        ) from error


def _new_file(path: Path) -> Path:
    """The path itself. Raises ConfigError where something is there, or it is no name of a LoRA: a result never overwrites another."""
    if path.suffix != ".safetensors":
        raise ConfigError([Fault(f"--out {path}: must end in .safetensors.")])
    if path.exists():
        raise ConfigError([Fault(f"--out {path}: exists already; name a new file.")])
    return path
