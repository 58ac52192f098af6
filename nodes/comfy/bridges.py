"""Nodes between ComfyUI's own types and ours: its MODEL, CLIP and VAE into our measurements, our LoRA onto its MODEL and CLIP.

They stand in a table of their own, because they mean nothing outside ComfyUI: the page's graph and `graph run` do not know them.
"""

import sys
from pathlib import Path
from typing import Any

from ...core.config import config_from_flat
from ..execute import following, pictures
from ..graph import values
from ..graph.declaration import NODES, Declaration, Output, Socket, local, node, of_option
from ..graph.values import Images, NodeError, Report
from ..library.looking import PREVIEWED, pictures_of, preview_flat, refusals
from ..library.training import copy_embedding, exported
from .host import FOLDER, Host
from .values import outside_inference_mode

MODEL, CLIP, VAE = "MODEL", "CLIP", "VAE"  # ComfyUI's names of its own types
HOST_NODES: dict[str, Declaration] = {}
"""Key -> declaration of the nodes that only ComfyUI has."""
LOADED = (
    Socket("model", MODEL, "A model that ComfyUI has loaded, with the LoRAs and patches that are on it."),
    Socket("clip", CLIP, "The text encoder that belongs to it."),
    Socket("vae", VAE, "The autoencoder that belongs to it."),
    Socket("dataset", values.DATASET, "Whose pictures and captions it is measured on."),
)
SCHEDULE = local(
    "schedule", "str", "pipeline",
    "Whose noise levels a rollout steps along: those of the stock diffusers pipeline, as this pack's other nodes measure, or one of "
    "ComfyUI's schedulers.",
    choices=("pipeline", "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal"),
)  # fmt: skip


@node(
    "ComfyRolloutPreview", "Rollout Preview of a ComfyUI Model", "ComfyUI",
    inputs=(
        *LOADED,
        Socket("rollout", values.ROLLOUT, "Solver and grid of the rollout; without it: the defaults.", True),
        PREVIEWED,
        of_option("drift_seed"),
        SCHEDULE,
    ),
    outputs=(Output("pictures", values.IMAGE, "The filmstrip: the true path above, the model's own below, their difference."),),
    lane="host",
    shows=True,
    into=HOST_NODES,
)  # fmt: skip
def rollout_preview(context, model, clip, vae, dataset, rollout, offset, seed, schedule):
    """One picture, sampled from pure noise by a model that ComfyUI has loaded, against the path it should have taken. For SD 1.x, SD 2.x,
    SDXL and SD 3 models."""
    flat = dataset.flat | ({} if rollout is None else rollout.flat) | preview_flat(offset, seed)
    folder = context.work / "preview"
    _measured(context, config_from_flat(flat), folder, clip, vae, schedule, model)
    files = sorted(folder.glob("filmstrip*.png"))
    return (Images(tuple(map(values.file_at, files)), ("ComfyUI's model",) * len(files)),)


@node(
    "ComfyDriftReport", "Drift Report of a ComfyUI Model", "ComfyUI",
    inputs=(
        *LOADED,
        Socket("base", MODEL, "A second model to measure beside it, such as the same one before a LoRA.", True),
        Socket("rollout", values.ROLLOUT, "Solver and grid of the rollouts; without it: the defaults.", True),
        Socket("drift", values.DRIFT, "What to measure; without it: the defaults.", True),
        SCHEDULE,
    ),
    outputs=(
        Output("report", values.REPORT, "The report."),
        Output("pictures", values.IMAGE, "Curves, spectrum and filmstrips."),
        Output("words", values.STRING, "The finding in sentences."),
    ),
    lane="host",
    shows=True,
    into=HOST_NODES,
)  # fmt: skip
def drift_report(context, model, clip, vae, dataset, base, rollout, drift, schedule):
    """How far a model that ComfyUI has loaded strays when it is fed its own output; with a second model, against that one. For SD 1.x,
    SD 2.x, SDXL and SD 3 models, with everything that is patched on them."""
    from ...core.look.drift import words as in_words
    from ...core.look.drift.files import REPORT_FILE, read_report

    flat = dataset.flat
    for part in (rollout, drift):
        flat |= {} if part is None else part.flat
    folder = context.work / "drift"
    unheeded = _measured(context, config_from_flat(flat), folder, clip, vae, schedule, model, base)
    words = in_words.words(read_report(folder))
    if unheeded:
        words = [*words, f"Left out, because it only acts on ComfyUI's guidance: {', '.join(unheeded)}."]
    report = Report(str(folder), values.sha256(folder / REPORT_FILE), None)
    return report, pictures_of(folder), "\n".join(words)


def _measured(
    context, config: Any, folder: Path, clip: Any, vae: Any, schedule: str, model: Any, base: Any = None
) -> tuple[str, ...]:
    """Measure ComfyUI's model, and a base beside it, into `folder`; returns which patches a measurement leaves out.

    Prepared pictures and texts are kept for this call only: a text encoder's patches are in no file by whose content they could be found
    again.
    """
    from ...core.look.drift import measure as drift
    from ...core.look.drift.settings import Settings
    from ...core.look.revisit import beside, for_measuring, in_rows, probe_sets
    from .host_model import HostModel

    def progress(what: str, done: int, total: int) -> None:
        context.progress(done, total, what)

    try:
        config = for_measuring(config)
        opened = HostModel(model, clip, vae, schedule=schedule)
        other = None if base is None else HostModel(base, clip, vae, schedule=schedule)
        if other is not None and other.name != opened.name:
            raise NodeError(
                f"base is a {other.facts.label} model, model is {opened.facts.label}.", "Compare models of one family."
            )
        sets, settings = probe_sets(opened, config, context.work / "prepared", progress), Settings.from_config(config)
        kind = "base" if other is None else "tuned"
        report = drift.measure(opened, sets, settings, weights=kind, progress=in_rows(progress))
        if other is not None:
            report = beside(report, drift.measure(other, sets, settings, weights="base", progress=in_rows(progress)))
    except refusals() as error:
        raise NodeError(str(error)) from None
    drift.save(report, folder)
    return opened.unheeded


@node(
    "ComfyLoRA", "Trained LoRA for ComfyUI", "ComfyUI",
    inputs=(
        Socket("checkpoint", values.CHECKPOINT, "The trained weights."),
        Socket("model", MODEL, "A model of ComfyUI that gets the LoRA.", True),
        Socket("clip", CLIP, "Its text encoder, for LoRAs that were trained on it too.", True),
        local("strength_model", "float", 1.0, "How strongly the model is changed.", ge=-20, le=20),
        local("strength_clip", "float", 1.0, "How strongly the text encoder is changed.", ge=-20, le=20),
        local("name", "str", "lora", "Beginning of the file's name: letters, digits, dots, hyphens, underscores.", rule=pictures.name_fault),
    ),
    outputs=(
        Output("model", MODEL, "The model with the LoRA on it."),
        Output("clip", CLIP, "The text encoder with the LoRA on it."),
        Output("lora_name", values.STRING, "The file as LoraLoader lists it."),
    ),
    lane="host",
    shows=True,
    into=HOST_NODES,
    aliases=("LoraLoader", "apply lora"),
)  # fmt: skip
def lora(context, checkpoint, model, clip, strength_model, strength_clip, name):
    """A trained LoRA put on a model of ComfyUI by ComfyUI's own loader, and saved where LoraLoader lists it, with its training settings
    inside. Without a model it is only saved."""
    folder = Host().lora_folder()
    with outside_inference_mode():
        file = for_loader(context, checkpoint, name, folder / FOLDER)
    listed = str(file.relative_to(folder))
    if model is None and clip is None:
        return None, None, listed
    loader, reader = sys.modules["comfy.sd"], sys.modules["comfy.utils"]
    tensors = reader.load_torch_file(str(file), safe_load=True)
    wanted = layers_in(tensors)
    changed = loader.load_lora_for_models(model, clip, tensors, strength_model, strength_clip)
    for part, before, after, fits in (
        ("model", model, changed[0], wanted["model"]),
        ("clip", None if clip is None else clip.patcher, None if clip is None else changed[1].patcher, wanted["clip"]),
    ):
        found = 0 if before is None else _patches(after) - _patches(before)
        if before is not None and fits and found < fits:
            kind = type(getattr(model.model, "model_config", None)).__name__ if model is not None else "text encoder"
            raise NodeError(
                f"{part}: {found} of the LoRA's {fits} layers fit ComfyUI's model ({kind}); it was trained on another kind.",
                "Link the model that the run started from; or draw with this pack's Sample Images node, which takes the checkpoint itself.",
            )
    return *changed, listed


def for_loader(context, checkpoint, name: str, folder: Path) -> Path:
    """The checkpoint's LoRA in a folder of the host's, in the kohya layout where its family has one.

    ComfyUI 0.3.64 (`comfy/lora.py`, `model_lora_keys_unet`) knows no name of the diffusers layout for the UNets of SD 1, SD 2 and SDXL:
    such a file is listed and changes nothing. Raises NodeError where the layout exists and the file cannot be written in it.
    """
    import shutil

    from ...core import platform_calls
    from ...core.adapters.convert import convert
    from ...core.adapters.lora_file import read_lora_header
    from ...core.families.lora_facts import KohyaLayout
    from ...core.families.registry import FAMILIES
    from ...core.families.source import ModelError, locate

    ours = exported(context, checkpoint, name, context.work)
    target = folder / ours.relative_to(context.work)  # with new tokens in a folder of its own
    if target.is_file():
        return target
    copy_embedding(ours, target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        model = following.config_of(checkpoint.run).model
        source = locate(model.pretrained_model_name_or_path, model.revision, model.variant, model.pretrained_components)
        file = read_lora_header(ours)
        diffusers = any(".lora_A." in tensor for tensor in file.tensors)
        if diffusers and isinstance(FAMILIES[source.family].kohya, KohyaLayout):
            if file.kind == "lora":
                convert(ours, target, "kohya", source)
                return target
            ours = exported(context, checkpoint, name, context.work / "kohya", "kohya")  # `convert` reads plain LoRAs
    except ModelError as error:
        raise NodeError(str(error)) from None
    with platform_calls.replacing(target) as part:
        shutil.copyfile(ours, part)
    return target


def layers_in(names: Any) -> dict[str, int]:
    """How many layers of the network, and of text encoders, a LoRA file changes."""
    ends = (".hada_w1_a", ".lokr_w1", ".lokr_w1_a")  # a layer of LoKr has one of the last two
    downs = [name for name in names if ".lora_down." in name or ".lora_A." in name or name.endswith(ends)]
    texts = [name for name in downs if name.startswith(("lora_te", "text_encoder"))]
    return {"model": len(downs) - len(texts), "clip": len(texts)}


def _patches(patcher: Any) -> int:
    """How many patches lie on a model of ComfyUI; a weight that joins several layers has one for each."""
    return sum(len(each) for each in patcher.patches.values())


ALL: dict[str, Declaration] = {**NODES, **HOST_NODES}
"""The nodes that ComfyUI has."""
