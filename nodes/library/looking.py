"""Looking at what was trained: pictures, drift, comparisons."""

import shutil
from pathlib import Path
from typing import Any

from ...core.config import OPTIONS, RunConfig, config_from_flat, config_to_flat, with_changes
from ...core.config.options import ConfigError
from ...core.look.drift import words as in_words
from ...core.look.drift.comparison import compare
from ...core.look.drift.correction import CORRECTION_OPTIONS, UNCORRECTED, SamplingCorrection, correction_of
from ...core.look.drift.files import REPORT_FILE, read_report
from ...core.look.drift.report import DriftReport
from ...core.runs.folder import RunDir
from ...core.runs.run_log import PHASES
from ..execute import following, pictures
from ..graph import values
from ..graph.declaration import Output, Socket, Widget, local, node, of_option
from ..graph.values import Images, NodeError, Report

LETTERS = ("a", "b", "c", "d")


def _needs_one(first: str, second: str, why: str):
    """A check: at least one of two sockets is linked."""
    return lambda inputs, linked: () if linked & {first, second} else ((first, f"link {first} or {second}: {why}"),)


def refusals() -> tuple[type[Exception], ...]:
    """What the parts that need torch refuse: a person's to mend."""
    from ...core.data import DatasetError
    from ...core.families import ModelError
    from ...core.runs.checkpoint import CheckpointError

    return CheckpointError, DatasetError, ModelError, ConfigError


CORRECTED = tuple(Widget(name, option) for name, option in CORRECTION_OPTIONS.items())


def _measured(
    context, config: RunConfig, checkpoint, folder: Path, correction: SamplingCorrection = UNCORRECTED
) -> DriftReport:
    from ...core.look.revisit import measure_drift, open_checkpoint

    try:
        found = None if checkpoint is None else open_checkpoint(RunDir(checkpoint.run), checkpoint.step)
        # the measurement itself names the model that it measures, which is no phase
        return measure_drift(
            config, folder, context.cache, found,
            lambda what, done, total: context.progress(done, total, PHASES.get(what, what)), correction,
        )  # fmt: skip
    except refusals() as error:
        raise NodeError(str(error)) from None


PREVIEWED = local(
    "offset", "int", 3, "Grid steps of the short rollouts.", unit="grid steps", ge=1, le=OPTIONS["drift_offsets"].maximum
)  # fmt: skip


def preview_flat(offset: int, seed: int) -> dict[str, Any]:
    """The options of a measurement of which only the filmstrip of one picture is shown."""
    return {
        "drift_offsets": [offset],
        "drift_num_images": 1,
        "drift_fine_factor": OPTIONS["drift_fine_factor"].minimum,
        "drift_seed": seed,
    }


@node(
    "RolloutPreview", "Rollout Preview", "Look",
    inputs=(
        Socket("model", values.MODEL, "The untrained model; or link a checkpoint.", True),
        Socket("dataset", values.DATASET, "Whose pictures the rollout leads to; with a checkpoint: the run's own.", True),
        Socket("checkpoint", values.CHECKPOINT, "Trained weights, shown beside the model they started from.", True),
        Socket("rollout", values.ROLLOUT, "Solver and grid of the rollout; without it: the run's, or the defaults.", True),
        PREVIEWED,
        of_option("drift_seed"),
        *CORRECTED,
    ),
    outputs=(Output("pictures", values.IMAGE, "The filmstrips: the true path above, the model's own below, their difference."),),
    lane="device",
    shows=True,
    check=lambda inputs, linked: () if "checkpoint" in linked or {"model", "dataset"} <= linked else (
        ("checkpoint", "link a checkpoint, or a model and a dataset."),
    ),
)  # fmt: skip
def rollout_preview(context, model, dataset, checkpoint, rollout, offset, seed, **given):
    """One picture, sampled from pure noise by the model itself, against the path it should have taken. With a correction the model's own path is corrected
    while it samples; a second node without it shows what that changes."""
    flat: dict[str, Any] = {} if checkpoint is None else config_to_flat(following.config_of(checkpoint.run))
    for part in (model, dataset, rollout):
        flat |= {} if part is None else part.flat
    flat |= preview_flat(offset, seed)
    folder = context.work / "preview"
    correction = correction_of(given)
    _measured(context, config_from_flat(flat), checkpoint, folder, correction)
    files = sorted(folder.glob("filmstrip*.png"))
    return (
        Images(
            tuple(map(values.file_at, files)),
            tuple(
                ", ".join(
                    filter(None, ("base" if "base" in f.stem or checkpoint is None else "tuned", correction.label))
                )
                for f in files
            ),
        ),
    )


@node(
    "DriftReport", "Drift Report", "Look",
    inputs=(
        Socket("checkpoint", values.CHECKPOINT, "The weights to measure."),
        Socket("drift", values.DRIFT, "What to measure; without it: the report that the run made at that step, or its settings.", True),
        *CORRECTED,
    ),
    outputs=(
        Output("report", values.REPORT, "The report."),
        Output("pictures", values.IMAGE, "Curves, spectrum and filmstrips."),
        Output("words", values.STRING, "The finding in sentences."),
    ),
    lane="device",
    shows=True,
)  # fmt: skip
def drift_report_node(context, checkpoint, drift, **given):
    """How far the trained model strays when it is fed its own output, against the model it started from. With a correction both are corrected while they
    sample; a second report without it, and Compare Drift, show what that changes."""
    folder = context.work / "drift"
    theirs = RunDir(checkpoint.run).drift_path / f"step-{checkpoint.step:06d}"
    correction = correction_of(given)
    if drift is None and correction.correction == "none" and (theirs / REPORT_FILE).is_file():
        shutil.copytree(theirs, folder)  # a copy: the run may be deleted
    else:
        flat = config_to_flat(following.config_of(checkpoint.run)) | ({} if drift is None else drift.flat)
        _measured(context, config_from_flat(flat), checkpoint, folder, correction)
    found = read_report(folder)
    report = Report(str(folder), values.sha256(folder / REPORT_FILE), checkpoint)
    return report, pictures_of(folder), "\n".join(in_words.words(found))


def pictures_of(folder: Path) -> Images:
    """The pictures of a drift report's folder: curves, spectrum and filmstrips."""
    names = ["curves.png", "spectrum.png", *sorted(path.name for path in folder.glob("filmstrip*.png"))]
    files = tuple(values.file_at(folder / name) for name in names if (folder / name).is_file())
    return Images(files, tuple(Path(file.path).stem for file in files))


@node(
    "CompareDrift", "Compare Drift", "Look",
    inputs=(
        Socket("report_a", values.REPORT, "The first report."),
        Socket("report_b", values.REPORT, "The second report."),
        Socket("report_c", values.REPORT, "A third report.", True),
        Socket("report_d", values.REPORT, "A fourth report.", True),
        *(local(f"label_{letter}", "str", letter.upper(), f"What report {letter.upper()} is called.") for letter in LETTERS),
        local("judge_by", "str", "clean_loss", "Which number makes a report the better one: drift alone rewards blur.", choices=("clean_loss", "drift")),
    ),
    outputs=(
        Output("picture", values.IMAGE, "One picture: the curves of all, and the filmstrip of each."),
        Output("better", values.CHECKPOINT, "The weights with the lower number on held-out pictures."),
        Output("words", values.STRING, "What each report found."),
    ),
    lane="files",
    shows=True,
    check=lambda inputs, linked: _label_faults(inputs, linked),
)  # fmt: skip
def compare_drift(context, judge_by, **given):
    """Reports side by side: every curve under its label, the filmstrips below each other, the finding in words."""
    from io import BytesIO

    from PIL import Image

    from ...core.look.pictures.curves import curves_figure
    from ...core.look.pictures.panels import figure_png

    chosen = [
        (given[f"label_{letter}"], given[f"report_{letter}"])
        for letter in LETTERS
        if given[f"report_{letter}"] is not None
    ]
    read = [(label, read_report(report.path)) for label, report in chosen]
    try:
        joined = compare(read)
    except ValueError as error:
        raise NodeError(str(error), "Compare reports of one kind of model, each under its own label.") from None
    lines, scores, parts = [], [], []
    for (label, report), (_, found) in zip(chosen, read, strict=True):
        summary = in_words.summary(found)
        numbers = ", ".join(
            f"{name.replace('_', ' ')} {summary[name]:.4g}"
            for name in ("clean_loss", "drift")
            if summary[name] is not None
        )
        lines.append(f"{label}: {numbers}. {' '.join(summary['words'])}")
        if report.checkpoint is not None and summary[judge_by] is not None:
            scores.append((summary[judge_by], label, report.checkpoint))
    if not scores:
        raise NodeError(
            f"No report has a finite {judge_by}, so none is the better one.", "Look at each report by itself."
        )
    _, best, better = min(scores, key=lambda score: score[0])
    lines.append(f"Lower {judge_by.replace('_', ' ')}: {best}.")
    parts = [("Drift compared", Image.open(BytesIO(figure_png(curves_figure(joined)))))]
    parts += [(line, None) for line in lines]
    for label, report in chosen:
        strip = Path(report.path) / "filmstrip.png"
        if strip.is_file():
            parts.append((label, pictures.opened(strip)))
    path = pictures.saved(pictures.stacked(parts), context.work / "comparison.png")
    context.show(path)
    return Images((values.file_at(path),), ("drift compared",)), better, "\n".join(lines)


def _label_faults(inputs, linked):
    used = [(f"label_{letter}", inputs[f"label_{letter}"]) for letter in LETTERS if f"report_{letter}" in linked]
    labels = [label for _, label in used]
    return [
        (name, "each report needs a label of its own.") for name, label in used if not label or labels.count(label) > 1
    ]


@node(
    "SampleImages", "Sample Images", "Look",
    inputs=(
        Socket("model", values.MODEL, "The untrained model; or link a checkpoint.", True),
        Socket("checkpoint", values.CHECKPOINT, "Trained weights.", True),
        of_option("validation_prompts", rule=lambda prompts: None if prompts else "give at least one prompt, one per line."),
        of_option("validation_negative_prompt"),
        of_option("validation_num_inference_steps"),
        of_option("validation_guidance"),
        of_option("validation_seed"),
        of_option("resolution", called="side", default=None),
    ),
    outputs=(Output("images", values.IMAGE, "One picture for each prompt."),),
    lane="device",
    shows=True,
    check=_needs_one("model", "checkpoint", "something must draw."),
)  # fmt: skip
def sample_images(context, model, checkpoint, prompts, negative_prompt, num_inference_steps, guidance, seed, side):
    """Pictures by the stock pipeline, with trained weights or without, always from the same noise for the same seed."""
    from ...core.families import load_model
    from ...core.look.revisit import load_weights, open_checkpoint

    try:
        config = config_from_flat(model.flat) if checkpoint is None else following.config_of(checkpoint.run)
        if checkpoint is not None and model is not None:
            config = with_changes(config, model.flat)
        opened = load_model(config.model, for_training=False)
        if checkpoint is not None:
            load_weights(opened, config, open_checkpoint(RunDir(checkpoint.run), checkpoint.step))
            side = config.data.resolution if side is None else side
        side = None if side is None else side // opened.size_multiple * opened.size_multiple
        images = opened.sample(
            prompts, steps=num_inference_steps, guidance=guidance, negative_prompt=negative_prompt, seed=seed, height=side,
            width=side, on_picture=lambda done, total: context.progress(done, total, PHASES["samples"]),
        )  # fmt: skip
    except refusals() as error:
        raise NodeError(str(error)) from None
    files = [pictures.saved(image, context.work / f"{number:03d}.png") for number, image in enumerate(images)]
    return (Images(tuple(map(values.file_at, files)), tuple(prompts)),)


@node(
    "SampleGrid", "Sample Grid", "Look",
    inputs=(
        Socket("images_a", values.IMAGE, "The first row."),
        *(Socket(f"images_{letter}", values.IMAGE, "A further row.", True) for letter in LETTERS[1:]),
        local("labels", "list[str]", (), "What stands above each row; one per line.", split="\n"),
        local("columns", "int", 0, "Pictures in a row; 0 = each input is one row.", ge=0, le=64),
    ),
    outputs=(Output("picture", values.IMAGE, "All pictures on one."),),
    lane="files",
    shows=True,
)  # fmt: skip
def sample_grid(context, labels, columns, **images):
    """Pictures in rows, with their prompts below."""
    from PIL import Image

    rows = [images[f"images_{letter}"] for letter in LETTERS if images[f"images_{letter}"] is not None]
    wide = max(len(row.files) for row in rows) if columns == 0 else columns
    cells = []
    for row in rows:
        captions = row.captions if len(row.captions) == len(row.files) else ("",) * len(row.files)
        cells += [
            (pictures.opened(Path(file.path)), caption) for file, caption in zip(row.files, captions, strict=True)
        ]
        if columns == 0:
            cells += [(Image.new("RGB", (8, 8), pictures.PAPER), "")] * (wide - len(row.files))
    path = pictures.saved(pictures.sheet(cells, wide, labels), context.work / "grid.png")
    return (Images((values.file_at(path),)),)
