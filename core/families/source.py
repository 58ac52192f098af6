"""Where a model comes from: a built-in name, a folder, a single file or a hub id. Needs no torch: the page and the preflight ask too.

Every failure is a `ModelError` that says what was asked for, what is wrong and what to do.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..names import is_hub_id, not_a_path
from .checkpoint_file import Checkpoint, ModelError, recognise
from .facts import PartConfigs
from .index_files import MODULAR, PLAIN, index_file, plain
from .registry import FAMILIES, PIPELINES, family_of, refused_class
from .single_file_facts import TEXT_WIDTHS

__all__ = ["ModelError", "SingleFileSource", "Source", "hub_error", "is_component", "locate"]


_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""That a part may come from; the last is diffusers' own, of a safety checker, which is never opened here."""
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]{1,99}")


def is_component(entry: Any) -> bool:
    """Whether an entry of a pipeline's index is [library, class] of a component; settings may be lists too (of numbers, say)."""
    return isinstance(entry, list) and len(entry) == 2 and all(each is None or isinstance(each, str) for each in entry)


@dataclass(frozen=True)
class Source:
    """A model that was found. `location` is what `from_pretrained` gets: a folder's path or a hub id."""

    name: str
    location: str
    revision: str | None
    variant: str | None
    index: dict[str, Any] = field(repr=False)

    @property
    def is_folder(self) -> bool:
        return Path(self.location).is_dir()

    @property
    def pipeline_name(self) -> str:
        """The pipeline class that the index names."""
        return str(self.index.get("_class_name"))

    @property
    def absent(self) -> tuple[str, ...]:
        """Components that were saved as "none": they must be handed to `from_pretrained` as None."""
        return tuple(
            key
            for key, value in self.index.items()
            if isinstance(value, list) and len(value) == 2 and value == [None, None]
        )

    @property
    def family(self) -> str:
        """The family's name, from `model_index.json` and, where one class serves several, the parts' own configs.

        Raises ModelError for a pipeline that no family covers.
        """
        facts = family_of(self.index, self.configs)
        if facts is None:
            unsuitable = refused_class(self.pipeline_name)
            if unsuitable is not None:
                raise ModelError(f"'{self.name}' {unsuitable.why}: it is a {self.pipeline_name}.", unsuitable.remedy)
            raise ModelError(
                f"'{self.name}' holds a {self.pipeline_name}, which no family here covers.",
                f"Choose a model of one of these classes: {', '.join(PIPELINES)}.",
            )
        return facts.name

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the pipeline's components, also of those that were saved as "none"; the index has settings beside them."""
        return tuple(key for key, value in self.index.items() if is_component(value))

    @property
    def configs(self) -> PartConfigs:
        """The configs of the parts, each read when it is asked for; ModelError where it cannot be."""
        return _Configs(self)

    def read_json(self, path: str) -> dict[str, Any]:
        """One JSON file of the model, by its path inside it ("unet/config.json")."""
        return _read_json(self.name, self.location, self.revision, path)

    def weight_files(self, part: str) -> list[Path]:
        """The files on this computer that hold a part's weights, by name; none for a hub id."""
        return sorted((Path(self.location) / part).glob("*.safetensors")) if self.is_folder else []


@dataclass(frozen=True)
class SingleFileSource(Source):
    """A checkpoint in one file. `location`: the file. `index`: of the pipeline that it becomes.

    `frame`: the pipeline that lends what the file has not: config files, tokenizers, scheduler, and whole parts.
    """

    checkpoint: Checkpoint = field(repr=False)
    frame: Source = field(repr=False)

    @property
    def is_folder(self) -> bool:
        return False

    @property
    def parts_in_file(self) -> tuple[str, ...]:
        """The parts whose weights the file holds, as far as the pipeline has them."""
        return tuple(part for part in self.checkpoint.parts if part in self.index and part not in self.absent)

    @property
    def said(self) -> PartConfigs:
        """What the file's names, shapes and metadata say of the parts' configs."""
        return self.checkpoint.kind.says(self.checkpoint.contents)

    def read_json(self, path: str) -> dict[str, Any]:
        found = self.frame.read_json(path)
        part, _, name = path.partition("/")
        return {**found, **self.said.get(part, {})} if name in ("config.json", "scheduler_config.json") else found

    def weight_files(self, part: str) -> list[Path]:
        return [Path(self.location)] if part in self.parts_in_file else self.frame.weight_files(part)


class _Configs(Mapping):
    """The configs of a model's parts, each read when it is asked for."""

    def __init__(self, source: Source):
        self._source = source

    def __getitem__(self, part: str) -> dict[str, Any]:
        if part == "pipeline":
            return self._source.index
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return self._source.read_json(f"{part}/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(("pipeline", *self._source.parts))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def locate(name: str, revision: str | None = None, variant: str | None = None, components: str | None = None) -> Source:
    """Find a model and read its index (`index_files`).

    Args:
        name: "demo-flow" and the like, a folder in the diffusers layout, a .safetensors file, or a hub id ("owner/model").
        revision: branch, tag or commit; only a hub id has one.
        variant: the files' variant ("fp16"), as diffusers means it.
        components: of a single file: the folder or hub id of the pipeline that lends what the file lacks; None = configs that come
            along, or where weights are missing the family's official pipeline.

    Raises: ModelError where there is no such folder, the folder is no pipeline, or the hub's model is missing, gated or
        not cached.
    """
    from ..demo import resolve

    location = str(resolve(name))
    wrong = not_a_path(location)
    if wrong is not None:
        raise ModelError(f"'{name[:80]}': {wrong}", "Check the path, or name a model on the hub as owner/model.")
    folder = Path(location).expanduser()
    if folder.is_file():
        return _single_file(name, folder, revision, variant, components)
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"revision = {revision!r} was given with the folder '{name}'; only a model on the hub has revisions.",
                "Leave revision out, or name the hub id.",
            )
        location = str(folder)
    elif not is_hub_id(location):
        raise ModelError(
            f"'{name}': there is no such folder.",
            "Check the path, or name a model on the hub as owner/model, or one of the built-in models (demo-flow, "
            "demo-epsilon).",
        )
    index = _read_index(name, location, revision)
    _check_classes(name, index)
    return Source(name=name, location=location, revision=revision, variant=variant, index=index)


def _check_classes(name: str, index: Mapping[str, Any]) -> None:
    """What an index may have diffusers open: classes of diffusers and transformers, by their plain names. Raises ModelError.

    diffusers imports whatever library stands there, and an `Auto...` class would ask whether to run a model's own code.
    """
    own = [
        facts.own_library
        for facts in FAMILIES.values()
        if index.get("_class_name") in facts.pipelines and facts.own_library
    ]
    for part, entry in index.items():
        if not is_component(entry) or entry[0] is None:
            continue
        library, kind = entry
        well_formed = isinstance(kind, str) and _CLASS.fullmatch(kind) is not None
        if (
            library in (*_LIBRARIES, *own)
            and well_formed
            and (not kind.startswith("Auto") or kind.startswith("Autoencoder"))
        ):
            continue
        raise ModelError(
            f"'{name}' wants its {part} to be {'.'.join(str(each)[:60] for each in entry)}, and only classes of diffusers and transformers are opened.",
            "Nothing of it was run. Take the model from its own publisher, or save it anew with diffusers' save_pretrained, which names the class.",
        )


def _single_file(
    name: str, file: Path, revision: str | None, variant: str | None, components: str | None
) -> SingleFileSource:
    if revision is not None:
        raise ModelError(
            f"revision = {revision!r} was given with the file '{name}'; only a model on the hub has revisions.",
            "Leave revision out.",
        )
    checkpoint = recognise(file)
    lends = checkpoint.frame(components)
    if Path(lends).expanduser().is_file():
        raise ModelError(
            f"pretrained_components = '{lends}' is a single file, too.",
            "Name a folder in the diffusers layout (with model_index.json) or a hub id: it lends what the checkpoint's file lacks.",
        )
    try:
        frame = locate(lends, None, None if checkpoint.shipped and components is None else variant)
    except ModelError as error:
        raise ModelError(
            f"'{name}' {_lacks(checkpoint)}; that comes from '{lends}' (pretrained_components). {error.message}",
            error.remedy,
        ) from error
    if frame.family != checkpoint.facts.name:
        raise ModelError(
            f"'{name}' is a {checkpoint.facts.label} file, but pretrained_components = '{lends}' holds a {frame.family} model.",
            f"Name a pipeline of the same family ({checkpoint.kind.official}), or leave pretrained_components out.",
        )
    without = [part for part in checkpoint.missing if part in frame.absent or part not in frame.index]
    if without:
        raise ModelError(
            f"'{name}' has no {', '.join(without)}, and neither has '{lends}'.",
            f"Set pretrained_components to a whole pipeline of the family ({checkpoint.kind.official}).",
        )
    _check_widths(name, checkpoint, frame)
    return SingleFileSource(
        name=name, location=str(file), revision=None, variant=variant, index=frame.index, checkpoint=checkpoint, frame=frame
    )  # fmt: skip


def _check_widths(name: str, checkpoint: Checkpoint, frame: Source) -> None:
    """The text encoders must be those of the file's network: one family has them in several sizes. Raises ModelError."""
    part = checkpoint.facts.component
    said, usual = checkpoint.kind.says(checkpoint.contents).get(part, {}), frame.configs[part]
    for key in TEXT_WIDTHS:
        if key in said and said[key] != usual.get(key, said[key]):
            raise ModelError(
                f"'{name}': its {part} takes text of width {said[key]} ({key}), and that of '{frame.name}' {usual[key]}.",
                f"Set pretrained_components to a pipeline of the same size ({', '.join(dict.fromkeys((*checkpoint.facts.examples, checkpoint.kind.official)))}).",
            )


def _lacks(checkpoint: Checkpoint) -> str:
    return f"has no {', '.join(checkpoint.missing)}" if checkpoint.missing else "has no configs"


def _read_index(name: str, location: str, revision: str | None) -> dict[str, Any]:
    """The index of a folder, or of a hub id, which is asked for a modular pipeline's where it has no other."""
    if Path(location).is_dir():
        return plain(_read_json(name, location, revision, index_file(Path(location)).name))
    from huggingface_hub import errors

    try:
        return plain(_read_json(name, location, revision, PLAIN))
    except ModelError as missing:
        if not isinstance(missing.__cause__, errors.EntryNotFoundError):
            raise
        try:
            return plain(_read_json(name, location, revision, MODULAR))
        except ModelError as error:
            raise (missing if isinstance(error.__cause__, errors.EntryNotFoundError) else error) from error.__cause__


def _read_json(name: str, location: str, revision: str | None, path: str) -> dict[str, Any]:
    folder = Path(location)
    if folder.is_dir():
        file = folder / path
        if not file.is_file():
            raise ModelError(
                f"'{name}' has no {path}.",
                "Name the folder that holds model_index.json (what diffusers' save_pretrained writes); if it is that "
                "folder, it is incomplete: save or download it again.",
            )
    else:
        file = Path(_from_hub(name, location, revision, path))
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8; nested without end
        raise ModelError(
            f"{path} of '{name}' is not valid JSON ({error}).", "Download or save the model again."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of '{name}' holds no JSON object.", "Download or save the model again.")
    return content


def _from_hub(name: str, location: str, revision: str | None, path: str) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.hf_hub_download(location, path, revision=revision)
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:
        raise hub_error(name, location, revision, path, error) from error


def hub_error(name: str, location: str, revision: str | None, path: str, error: Exception) -> ModelError:
    """What a failure of the hub means for the user."""
    from huggingface_hub import errors

    at = f"'{location}'" + (f" at revision '{revision}'" if revision is not None else "")
    if isinstance(error, errors.GatedRepoError):  # first, because to the library it is a RepositoryNotFoundError too
        return ModelError(
            f"{at} is gated: its owner gives access only after you agreed to the licence.",
            f"Open the page of {location} on the hub, accept the terms, then log in here with `hf auth login`.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"'{location}' has no revision '{revision}'.", "Leave revision out to take the main one, or correct it."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return ModelError(
            f"{path} of {at} is not in this machine's cache, and the hub could not be reached.",
            f"Go online (and unset HF_HUB_OFFLINE) once, or run `hf download {location}` where there is a network, or "
            "name a folder that holds the model.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"The hub has no model {at}, or it is private.",
            "Check the spelling (owner/model); for a private model log in with `hf auth login`.",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return ModelError(
            f"{at} has no {path}: it is not in the diffusers layout.",
            "Look for a repository that has model_index.json (often the same name with '-diffusers').",
        )
    return ModelError(
        f"{path} of {at} could not be fetched: {error}.",
        "Check the network and the name, or name a folder that holds the model.",
    )
