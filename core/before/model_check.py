"""One model checked before a training: what it is, where it is, the size of its download, what prevents its use.

`check_model` answers for a built-in name, a folder and a hub id alike, and never raises, whatever was typed. It imports no
torch. A folder costs a few small files; a hub id that is not downloaded yet costs three or four short requests, each with a time limit.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .. import platform_calls
from ..config import ModelConfig
from ..demo import BUILT_IN, MODELS
from ..families.index_files import NAMES as INDEXES
from ..families.registry import FAMILIES
from ..families.source import ModelError, Source, hub_error, locate
from ..findings import Finding
from ..sizes import size
from .model_files import NEVER_LOADED, ModelFacts, facts_of, model_findings, offline_variable

OPTION = "pretrained_model_name_or_path"
_TIMEOUT_S = 10.0
_CONFIGS = ("unet", "transformer", "vae")


@dataclass(frozen=True)
class ModelReport:
    """What `check_model` found; None where it is not known.

    `place`: "built-in", "folder", "file", "hub", or None for a name that is none of them. `downloaded`: whether all of it is on this
    computer. `bytes_`: of the weights, on the disk or to be downloaded. `gated`: whether its owner demands an agreement first.
    Of a single file also `precision`, in which most of its network's weights are stored; `holds`: the parts that are in it; `lender`: the
    folder or hub id that the rest comes from, None where it comes along, and `to_download` its bytes that are not here yet.
    """

    name: str
    place: Literal["built-in", "folder", "file", "hub"] | None
    family: str | None = None
    prediction_type: str | None = None
    resolution: int | None = None
    bytes_: int | None = None
    downloaded: bool | None = None
    gated: bool | None = None
    precision: str | None = None
    holds: tuple[str, ...] = ()
    lender: str | None = None
    to_download: int | None = None
    findings: tuple[Finding, ...] = field(default=())

    @property
    def usable(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)


def check_model(model: ModelConfig) -> ModelReport:
    """Check the model that a config names.

    Findings' codes beside preflight's own: "model-gated" (an agreement is needed), "model-offline" (the hub cannot be reached).
    """
    name = model.pretrained_model_name_or_path
    facts, found = model_findings(model)
    if Path(name).expanduser().is_file():
        return _from_file(name, facts, found, model)
    to_come = next((finding for finding in found if finding.code in ("model-offline", "model-download")), None)
    if to_come is None:
        place = "built-in" if name in BUILT_IN else "hub" if facts is not None and not _is_folder(name) else "folder"
        report = ModelReport(name, None if facts is None else place, findings=tuple(found))
        return report if facts is None else _from_folder(report, facts, model)
    if to_come.code == "model-offline":
        remedy = f"Check the spelling. To download it: a network, and {offline_variable()} unset. {works_offline()}"
        return ModelReport(name, "hub", downloaded=False, findings=(replace(to_come, remedy=remedy),))
    return _from_hub(ModelReport(name, "hub", downloaded=False), model)


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _from_folder(report: ModelReport, facts: ModelFacts, model: ModelConfig) -> ModelReport:
    try:
        source = locate(str(facts.folder), None, model.variant)
        family = source.family
        predicts = prediction_of(family, _read_or_nothing(source, "scheduler/scheduler_config.json"))
    except ModelError as error:
        wrong = Finding("error", OPTION, error.message, error.remedy, "model-broken")
        known = any(finding.message == error.message for finding in report.findings)
        return replace(report, downloaded=True, findings=report.findings if known else (*report.findings, wrong))
    weights = [path for path in facts.folder.glob("*/*.safetensors") if path.parent.name not in NEVER_LOADED]
    sizes = {path.relative_to(facts.folder).as_posix(): path.stat().st_size for path in weights}
    return replace(
        report, family=family, prediction_type=predicts, resolution=facts.native_resolution,
        bytes_=sum(sizes[name] for name in chosen_weights(sizes, model.variant)), downloaded=True,
    )  # fmt: skip


def _from_file(name: str, facts: ModelFacts | None, found: list[Finding], model: ModelConfig) -> ModelReport:
    """Of a checkpoint in one file; a hub id that lends parts and is not here yet is asked for at the hub."""
    report = ModelReport(name, "file", findings=tuple(found))
    if facts is None or facts.checkpoint is None:
        return report
    checkpoint = facts.checkpoint
    lender = checkpoint.frame(model.pretrained_components)
    starts = [checkpoint.starts[part] for part in checkpoint.parts[1:]]
    others = {each for each in checkpoint.contents.shapes if each.startswith(tuple(starts))}
    network = set(checkpoint.network_names)
    said = checkpoint.kind.says(checkpoint.contents).get("scheduler", {})
    usual = {} if facts.scheduler is None else facts.scheduler
    report = replace(
        report, family=checkpoint.facts.name, prediction_type=prediction_of(checkpoint.facts.name, {**usual, **said}),
        resolution=facts.native_resolution, bytes_=sum(checkpoint.bytes_[each] for each in others | network), downloaded=True,
        precision=checkpoint.precision, holds=checkpoint.parts, lender=None if checkpoint.shipped is not None and lender == str(checkpoint.shipped) else lender,
    )  # fmt: skip
    if not any(finding.code == "model-download" for finding in found):
        return report
    there = replace(model, pretrained_model_name_or_path=lender, revision=None, model_family=checkpoint.facts.name)
    asked = _from_hub(ModelReport(lender, "hub", downloaded=False), there, checkpoint.parts)
    kept = tuple(finding for finding in found if finding.code != "model-download" or asked.usable)
    worse = tuple(replace(each, where="pretrained_components") for each in asked.findings if each.level == "error")
    return replace(report, findings=(*worse, *kept), to_download=asked.bytes_)


def prediction_of(family: str, scheduler: Mapping[str, Any]) -> str:
    """What the network predicts, by the checkpoint's own files: flow families always a velocity, the others by their scheduler."""
    return "flow_matching" if FAMILIES[family].is_flow else str(scheduler.get("prediction_type", "epsilon"))


def _read_or_nothing(source: Source, path: str) -> dict[str, Any]:
    folder = path.split("/")[0]
    return source.read_json(path) if folder in source.index and folder not in source.absent else {}


# The hub --------------------------------------------------------------------------------------------------------------


def _from_hub(report: ModelReport, model: ModelConfig, without: Iterable[str] = ()) -> ModelReport:
    """`without`: parts that will not be downloaded."""
    from huggingface_hub import HfApi, errors

    name = report.name
    try:
        api = HfApi()
        info = api.model_info(name, revision=model.revision, files_metadata=True, timeout=_TIMEOUT_S)
        report = replace(report, gated=info.gated not in (None, False))
        if report.gated:
            api.auth_check(name)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        return _unreached(report, error)
    except errors.GatedRepoError:
        return _gated(report)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        wrong = hub_error(name, name, model.revision, "model_index.json", error)
        return replace(report, findings=(Finding("error", OPTION, wrong.message, wrong.remedy, "model-missing"),))
    except errors.HTTPError as error:  # of the hub's own client, whichever it is: no answer came
        return _unreached(report, error)

    files = {each.rfilename: each.size for each in info.siblings or ()}
    try:
        source = locate(name, model.revision, model.variant)
        family = source.family
        configs = {part: _read_or_nothing(source, f"{part}/config.json") for part in _CONFIGS}
        scheduler = _read_or_nothing(source, "scheduler/scheduler_config.json")
    except ModelError as error:
        if isinstance(error.__cause__, errors.GatedRepoError):
            return _gated(report)
        if isinstance(error.__cause__, errors.LocalEntryNotFoundError):
            return _unreached(report, error.__cause__)
        return replace(report, findings=(Finding("error", OPTION, error.message, error.remedy, "model-broken"),))
    weights = [path for path in chosen_weights(files, model.variant) if path.split("/")[0] in source.index]
    sizes = [files[path] for path in weights if path.split("/")[0] not in without]
    whole = None if not sizes or None in sizes else sum(sizes)
    known = {part: values for part, values in {**configs, "scheduler": scheduler}.items() if values}
    known |= {"pipeline": source.index}
    report = replace(
        report, family=family, prediction_type=prediction_of(family, scheduler), bytes_=whole,
        resolution=facts_of(Path(name), known, {}, FAMILIES[family]).native_resolution,
    )  # fmt: skip
    findings = list(_hub_findings(report, model, files, weights))
    refusal = FAMILIES[family].refuse(known, name)
    if refusal is not None:
        findings.insert(0, Finding("error", OPTION, f"{name} {refusal.why}", refusal.remedy, "model-broken"))
    return replace(report, findings=tuple(findings))


def chosen_weights(files: Iterable[str], variant: str | None) -> list[str]:
    """Of a model's files those weights that are loaded: .safetensors inside its parts, of the variant where there is one."""
    parts: dict[str, list[str]] = {}
    for path in files:
        part, _, name = path.partition("/")
        if name.endswith(".safetensors") and "/" not in name and part not in NEVER_LOADED:
            parts.setdefault(part, []).append(path)
    chosen = []
    for paths in parts.values():
        plain = [path for path in paths if path.rpartition("/")[2].count(".") == 1]
        named = [path for path in paths if variant is not None and f".{variant}" in path.rpartition("/")[2]]
        chosen += named if named else plain
    return chosen


def _hub_findings(
    report: ModelReport, model: ModelConfig, files: Mapping[str, int | None], weights: list[str]
) -> Iterable[Finding]:
    if model.model_family not in ("auto", report.family):
        yield Finding(
            "error",
            "model_family",
            f"model_family is {model.model_family}, but {report.name} is a {report.family} model.",
            f"Set model_family = {report.family} or auto.",
            "model-broken",
        )
    variant = model.variant
    if variant is not None and not any(f".{variant}" in path.rpartition("/")[2] for path in weights):
        yield Finding(
            "error",
            "variant",
            f"{report.name} has no weights of the variant {variant}.",
            f"Set variant to one that it has ({', '.join(have)})."
            if (have := _variants(files))
            else "Leave variant out.",
            "model-broken",
        )
    network = {path.split("/")[0] for path in weights} & {"unet", "transformer"}
    if not network:
        pickled = any(path.startswith(("unet/", "transformer/")) and path.endswith((".bin", ".ckpt")) for path in files)
        yield Finding(
            "error",
            OPTION,
            f"{report.name} has "
            + (
                "its weights only as pickles (.bin), which can run code and are not opened."
                if pickled
                else "no plain weights (.safetensors) of its network."
            ),
            "Choose a repository with .safetensors files"
            + (", or set variant to one that it has." if not pickled else "."),
            "model-broken",
        )
    if report.bytes_ is not None:
        place = _cache_folder()
        free = platform_calls.free_bytes(place)
        if free < 1.1 * report.bytes_:
            yield Finding(
                "error",
                OPTION,
                f"no space: the model has {size(report.bytes_)}, and the disk of {place} {size(free)} free.",
                "Free some space, or set HF_HOME to a folder on another disk before starting.",
                "no-space",
            )
    yield Finding(
        "note", OPTION, "it is not on this computer yet and is downloaded when the run starts.", "", "model-download"
    )


def _variants(files: Iterable[str]) -> list[str]:
    """The variants of which there are weights, by name."""
    names = [path.rpartition("/")[2] for path in files if path.count("/") == 1 and path.endswith(".safetensors")]
    return sorted({re.sub(r"-\d{5}-of-\d{5}$", "", name.split(".")[1]) for name in names if name.count(".") > 1})


def _gated(report: ModelReport) -> ModelReport:
    from huggingface_hub import get_token

    logged_in = get_token() is not None
    finding = Finding(
        "error",
        OPTION,
        f"{report.name} is gated: its owner gives access only to people who agreed to its licence, and "
        + (
            "the account of this computer's token has no access yet."
            if logged_in
            else "this computer is not logged in."
        ),
        "Accept the licence on its page"
        + (" with that account (some owners answer after days)." if logged_in else ", then log in on this computer."),
        "model-gated",
    )
    return replace(report, gated=True, findings=(finding,))


def _unreached(report: ModelReport, error: Exception) -> ModelReport:
    finding = Finding(
        "error",
        OPTION,
        f"the hub could not be reached ({type(error).__name__}), so {report.name} could not be checked; it is not on this computer.",
        f"Check the network and try again. {works_offline()}",
        "model-offline",
    )
    return replace(report, findings=(finding,))


def works_offline() -> str:
    """What needs no network, in one sentence."""
    here = downloaded_models()
    models = f"; downloaded already: {', '.join(here[:6])}{' and more' if len(here) > 6 else ''}" if here else ""
    return f"Without a network work the built-in models ({', '.join(MODELS)}) and any folder with a model{models}."


def downloaded_models() -> list[str]:
    """Hub ids of the diffusers models in the local cache, whole or not; by name."""
    found = []
    try:
        with os.scandir(_cache_setting()) as entries:
            folders = [Path(entry.path) for entry in entries if entry.name.startswith("models--")]
    except OSError:
        return []  # there is no cache yet: nothing was downloaded
    for folder in folders:
        if any(any(folder.glob(f"snapshots/*/{index}")) for index in INDEXES):
            found.append("/".join(folder.name.split("--")[1:]))
    return sorted(found, key=str.casefold)


def hub_address(name: str) -> str:
    """The page of a hub id."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def login_command() -> str:
    """How this installation logs in at the hub: `hf auth login`, with the program's place where the shell would not find it."""
    if shutil.which("hf") is not None:
        return "hf auth login"
    beside = Path(sys.executable).parent / ("hf.exe" if platform_calls.WINDOWS else "hf")
    return f'"{beside}" auth login' if beside.exists() else "hf auth login"


def _cache_setting() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cache_folder() -> Path:
    """The nearest folder to the cache that exists."""
    folder = _cache_setting().absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())
