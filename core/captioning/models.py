"""Captioning models: which kinds there are, where one lies, what it weighs, and what is refused. Needs no torch.

Only weights in safetensors are opened (a tagger's graph in ONNX), and never a model's own code. Nothing is asked of the network unless a
person allows it (`hub_listing`, `download`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import platform_calls
from ..errors import Trouble
from ..names import is_hub_id
from ..sizes import size


class CaptionError(Trouble):
    """Captions cannot be written as asked. `message`: what is the case; `remedy`: what to do."""


@dataclass(frozen=True)
class Kind:
    """A kind of model: its name for people, the class that its config.json names ("" = it is no model of transformers)."""

    label: str
    class_name: str


KINDS = {
    "florence2": Kind("Florence-2", "Florence2ForConditionalGeneration"),
    "blip": Kind("BLIP", "BlipForConditionalGeneration"),
    "tagger": Kind("a tagger", ""),
}


@dataclass(frozen=True)
class Recommended:
    """A model to choose. `bytes_`: about what is downloaded, by its repository's listing or its number of weights."""

    name: str
    label: str
    bytes_: float
    licence: str
    about: str


RECOMMENDED = (
    Recommended("florence-community/Florence-2-base", "Florence-2 base", 0.47e9, "MIT", "a sentence or a paragraph"),
    Recommended("florence-community/Florence-2-large", "Florence-2 large", 1.6e9, "MIT", "the same, more reliable, slower"),
    Recommended("Salesforce/blip-image-captioning-large", "BLIP large", 1.88e9, "BSD 3-clause", "one short sentence"),
    Recommended("SmilingWolf/wd-vit-tagger-v3", "WD ViT tagger v3", 0.38e9, "Apache 2.0", "tags, for drawn pictures; needs onnxruntime"),
)  # fmt: skip

TAGGER_FILES = ("model.onnx", "selected_tags.csv")
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_WORDS = ("tokenizer.json", "vocab.txt", "vocab.json")
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Found:
    """A model that is on this computer, whole. `folder`: where its files lie; `bytes_`: of the weights that will be read."""

    name: str
    kind: str
    folder: Path
    bytes_: int

    def __str__(self) -> str:
        return f"{self.name}: {KINDS[self.kind].label}, {size(self.bytes_)} to load, from {self.folder}"


@dataclass(frozen=True)
class Listed:
    """What the hub has of a model: the files that are needed, with their sizes, and of these the ones that are not on this computer."""

    name: str
    files: dict[str, int]
    absent: tuple[str, ...]

    @property
    def bytes_(self) -> int:
        """What would be downloaded."""
        return sum(self.files[name] for name in self.absent)


def find(name: str, revision: str | None = None) -> Found:
    """The model on this computer: a folder, or a hub id that is in the cache. Asks nothing of the network.

    Raises: CaptionError where it is not here, incomplete, of no kind that is known, or unsafe to open.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CaptionError(
                f"caption_revision = {revision!r} was given with the folder '{name}'; only a hub id has revisions.",
                "Leave it unset.",
            )
        return _examined(name, folder)
    if not is_hub_id(name):
        raise CaptionError(
            f"'{name}': there is no such folder.",
            f"Name a folder with a captioning model, or a hub id (owner/model), for example {RECOMMENDED[0].name}.",
        )
    cached = _cached_folder(name, revision)
    if cached is None:
        known = next(
            (f"about {size(each.bytes_)}" for each in RECOMMENDED if each.name == name and revision is None),
            "an amount that the hub tells",
        )
        raise NotHere(
            f"'{name}' is not on this computer; {known} would be downloaded.",
            "Allow the download (--download, or its box on the page), or name a folder that holds the model.",
        )
    try:
        return _examined(name, cached)
    except NotHere as part:
        raise NotHere(
            f"'{name}' is only partly on this computer. {part.message}",
            "Allow the download (--download, or its box on the page); it goes on where it was.",
        ) from part


class NotHere(CaptionError):
    """A hub's model is not, or not wholly, on this computer."""


def _cached_folder(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", TAGGER_FILES[1]):
        path = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _examined(name: str, folder: Path) -> Found:
    names = {path.name for path in folder.iterdir() if path.is_file()}

    def read(file: str) -> dict[str, Any]:
        return read_json(name, folder / file)

    kind = kind_of(name, names, read)
    if kind == "tagger":
        return Found(name, kind, folder, (folder / TAGGER_FILES[0]).stat().st_size)
    weights = weight_names(name, names, read)
    gone = [file for file in weights if file not in names]
    if gone:
        raise NotHere(
            f"'{name}' is incomplete in {folder}: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} missing.",
            "Download it again: allow the download (--download, or its box on the page), or copy the missing files there.",
        )
    return Found(name, kind, folder, sum((folder / file).stat().st_size for file in weights))


def kind_of(name: str, names: set[str], read: Callable[[str], dict[str, Any]]) -> str:
    """The kind of model that files of these names are; `read` gives a JSON file. Raises CaptionError for none, or an incomplete one."""
    tagger = [file for file in TAGGER_FILES if file in names]
    if len(tagger) == len(TAGGER_FILES):
        return "tagger"
    if tagger:
        lacking = next(file for file in TAGGER_FILES if file not in names)
        raise NotHere(
            f"'{name}' has {tagger[0]} and no {lacking}: a tagger needs both.", "Download it again, with both files."
        )
    if "config.json" not in names:
        raise CaptionError(
            f"'{name}' has no config.json: it is no captioning model.",
            "Name a folder that transformers' save_pretrained wrote (config.json, model.safetensors, tokenizer and processor files), or a tagger's "
            f"({' and '.join(TAGGER_FILES)}).",
        )
    config = read("config.json")
    written = class_of(config)
    kind = next((key for key, each in KINDS.items() if each.class_name == written), None)
    if kind is None:
        raise CaptionError(
            f"'{name}' holds a {written}; captions are written by {', '.join(each.class_name for each in KINDS.values() if each.class_name)}, or a tagger in ONNX.",
            f"Choose one of them, for example {', '.join(each.name for each in RECOMMENDED[:3])}.",
        )
    if "auto_map" in config:
        raise CaptionError(
            f"'{name}' asks to run code of its own (auto_map in its config.json), which is never done here.",
            f"Take the same model in the form that transformers has built in, for example {RECOMMENDED[0].name}.",
        )
    for group, what in ((_PROCESSOR, "how pictures are prepared"), (_WORDS, "its words")):
        if not names.intersection(group):
            raise NotHere(
                f"'{name}' does not say {what}: none of {', '.join(group)} is there.",
                "Download it again, or save the processor beside the model: AutoProcessor.from_pretrained(...).save_pretrained(FOLDER).",
            )
    return kind


def class_of(config: Mapping[str, Any]) -> str:
    """The class that a config.json of transformers names; else its kind of model."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else str(config.get("model_type", "unknown"))


def weight_names(name: str, names: set[str], read: Callable[[str], dict[str, Any]]) -> list[str]:
    """The names of the files with a model's weights, also of those that are not there. Raises CaptionError where there are only pickled ones."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    if _INDEX in names:
        return sorted({str(file) for file in read(_INDEX).get("weight_map", {}).values()})
    pickled = sorted(file for file in names if file.lower().endswith(_PICKLED))
    if pickled:
        raise CaptionError(
            f"'{name}' has its weights only in {', '.join(pickled)}, which are not opened: such files can run any code.",
            'Convert it where you trust it, then name the new folder: python -c "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P; '
            f"M.from_pretrained('{name}').save_pretrained('FOLDER'); P.from_pretrained('{name}').save_pretrained('FOLDER')\"",
        )
    raise NotHere(
        f"'{name}' has no weights (model.safetensors).",
        "Download it again: allow the download (--download, or its box on the page).",
    )


def read_json(name: str, file: Path) -> dict[str, Any]:
    """A JSON object in the folder of the model `name`. Raises CaptionError where it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaptionError(
            f"{file.name} of '{name}' cannot be read ({error}).", "Download or save the model again."
        ) from error
    if not isinstance(content, dict):
        raise CaptionError(f"{file.name} of '{name}' holds no JSON object.", "Download or save the model again.")
    return content


# The hub, where a person allows it ---------------------------------------------------------------------------------------


def hub_listing(name: str, revision: str | None) -> Listed:
    """Ask the hub which files the model needs, and which of them are not here. Fetches nothing of any size.

    Raises: CaptionError where the hub does not answer, has no such model, or the model is refused.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    def read(file: str) -> dict[str, Any]:
        return read_json(name, Path(hf_hub_download(name, file, revision=revision)))

    with _refusing(name, revision):
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or () if "/" not in each.rfilename}
        wanted = _wanted(name, set(sizes), read)
    lost = [file for file in wanted if file not in sizes]
    if lost:
        raise CaptionError(f"'{name}' names {', '.join(lost)}, and the hub has no such file.", "Choose another model.")
    absent = [file for file in wanted if not isinstance(try_to_load_from_cache(name, file, revision=revision), str)]
    return Listed(name, {file: sizes[file] for file in wanted}, tuple(absent))


def _wanted(name: str, names: set[str], read: Callable[[str], dict[str, Any]]) -> list[str]:
    if kind_of(name, names, read) == "tagger":
        return list(TAGGER_FILES)
    weights = weight_names(name, names, read)
    beside = {file for file in names if file.endswith(".json") or file in ("vocab.txt", "merges.txt")}
    return [*sorted(beside - set(weights)), *weights]


def download(listed: Listed, revision: str | None, say: Callable[[str, int, int], None]) -> None:
    """Bring the absent files into the hub's cache, where an interrupted download goes on. `say`: called with (file, bytes here, bytes of all)."""
    from huggingface_hub import constants, hf_hub_download

    cache = Path(constants.HF_HUB_CACHE)
    free = platform_calls.free_bytes(cache)
    if free < listed.bytes_:
        raise CaptionError(
            f"'{listed.name}' has {size(listed.bytes_)} to download, and {size(free)} are free on the disk of {cache}.",
            "Free some space there, or move the cache (HF_HUB_CACHE).",
        )
    done = 0
    for file in listed.absent:
        say(file, done, listed.bytes_)
        with _refusing(listed.name, revision):
            hf_hub_download(listed.name, file, revision=revision)
        done += listed.files[file]
    say("", done, listed.bytes_)


@contextmanager
def _refusing(name: str, revision: str | None) -> Iterator[None]:
    """A failure of the hub inside is raised as a CaptionError."""
    from huggingface_hub import errors

    at = f"'{name}'" + (f" at revision '{revision}'" if revision is not None else "")
    try:
        yield
    except errors.GatedRepoError as error:  # first: it is a RepositoryNotFoundError, too
        raise CaptionError(
            f"{at} is gated: its owner gives access only after you agreed to the licence.",
            "Accept its terms on the hub, then log in here with `hf auth login`.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise CaptionError(
            f"The hub has no model {at}, or it is private.", "Check the spelling (owner/model) and the revision."
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled) as error:
        offline = isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
        raise (_unreached(name, at) if offline else _not_fetched(at, error)) from error
    except (
        errors.HTTPError
    ) as error:  # of the HTTP library that the hub's uses, which differs by its version: no answer came
        raise _unreached(name, at) from error
    except OSError as error:
        raise _not_fetched(at, error) from error


def _unreached(name: str, at: str) -> CaptionError:
    return CaptionError(
        f"{at} is not on this computer, and the hub could not be reached.",
        f"Go online (and unset HF_HUB_OFFLINE) once, or run `hf download {name}` where there is a network, or name a folder that holds the model.",
    )


def _not_fetched(at: str, error: Exception) -> CaptionError:
    return CaptionError(
        f"{at} could not be fetched: {error}.", "Try again later, or name a folder that holds the model."
    )
