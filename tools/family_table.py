"""Print docs/families.md: each family beside its stock diffusers pipeline, measured now on tiny models of the real classes.

    python tools/family_table.py > docs/families.md

Takes some minutes on one core; needs neither a network nor a graphics card.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

import diffusers
import torch
from cards import table
from recipes import RECIPES, script_difference
from released import as_diffusers_reads, drawn, released
from rollout_studio.core import adapters
from rollout_studio.core.adapters import kohya
from rollout_studio.core.adapters.lora_layers import Layout
from rollout_studio.core.adapters.matrices import difference, shapes_of
from rollout_studio.core.before.disk import trained_weights
from rollout_studio.core.before.model_files import model_findings
from rollout_studio.core.config import config_from_flat, preset_names, read_preset
from rollout_studio.core.families import FAMILIES, load_model
from rollout_studio.core.families.facts import Unsuitable
from rollout_studio.core.families.lora_facts import KohyaLayout, kohya_layout
from stock import Recorded, differences, open_model, over_white, rows_asked
from tiny import FAMILY_OF, ONE_PER_FAMILY, PROMPTS, build

SCALES = (1.0, 3.0)


@dataclass(frozen=True)
class Measured:
    """One family's row of each table."""

    label: str
    alone: dict[
        float, float
    ]  # largest difference of an output, by guidance: one prompt a call, with the pipeline's own padding
    together: dict[float, float]  # two prompts a call, as training has them
    largest: float  # output of the stock pipeline
    pixels: float
    lora: str
    lora_difference: float
    lora_effect: float
    weights: dict[str, tuple[int, int]]  # kind of training -> estimated, trained
    rows: dict[float, tuple[int, int, int]]  # guidance -> promised, got by the network, counted by a run's log
    parts: str
    kohya: str  # the row about the other layout, without the family


def measured(name: str, folder: Path) -> Measured:
    model = open_model(folder)
    alone, together, largest = {}, {}, 0.0
    for scale in SCALES:
        for found, prompts, padded in ((alone, PROMPTS[:1], True), (together, PROMPTS, False)):
            stock = Recorded(folder, scale, prompts=prompts)
            pairs = differences(model, stock, scale, padded=padded)
            found[scale] = max(float((ours - output).abs().max()) for ours, output in pairs)
            largest = max(largest, *(float(output.abs().max()) for _, output in pairs))
    pixels = float((model.decode(stock.latents) - over_white(stock.call(output_type="pt"))).abs().max())
    lora = exported(folder)
    return Measured(
        model.facts.label, alone, together, largest, pixels, f"{lora.used} of {lora.total}", lora.max_difference, lora.effect,
        {kind: weights(folder, kind) for kind in ("lora", "full")},
        {scale: (3 * model.facts.guidance.evaluations(scale), *rows_asked(model, scale)) for scale in SCALES},
        f"{type(model.codec).__name__} | {type(model.layout).__name__} | {type(model.guidance).__name__} | {', '.join(model.facts.text_encoders)}",
        other_layout(model.facts, folder),
    )  # fmt: skip


def other_layout(facts, folder: Path) -> str:
    """Its names; its keys at the released size as diffusers' converter reads them; a file of the tiny pipeline, loaded by the stock one."""
    if not isinstance(facts.kohya, KohyaLayout):
        return f"none: it {facts.kohya.why} | - | - | - | -"
    network = released(facts.name)
    layers, shapes = drawn(network, facts.lora_targets), shapes_of(network)
    tensors = kohya.written(layers, facts.kohya, network.config, shapes, torch.float32)
    read = as_diffusers_reads(facts.name, network, tensors)
    apart = max(difference(one, read[layer]) for layer, one in layers.items())
    keys = len(tensors.keys() & kohya.keys(facts.kohya, network.config, list(layers)))
    row = f"{facts.kohya.about} | {keys} of {len(tensors)} | {number(apart)}"
    if kohya_layout(facts.kohya, load_model(config_of(folder, "lora").model).network_config)[0] is None:
        return f"{row} | only at that size | -"
    check = exported(folder, "kohya")
    return f"{row} | {check.used} of {check.total} | {number(check.max_difference)} of {check.effect:.2f}"


def config_of(folder: Path, kind: str):
    flat = {
        "pretrained_model_name_or_path": str(folder),
        "device": "cpu",
        "model_type": kind,
        "lora_rank": 4,
        "lora_alpha": 7.0,
    }
    return config_from_flat(flat if kind == "lora" else {name: flat[name] for name in list(flat)[:3]})


def attached(folder: Path, kind: str):
    config = config_of(folder, kind)
    model = load_model(config.model)
    adapters.attach(model, config)
    return model, config


def exported(folder: Path, layout: Layout = "diffusers") -> adapters.ExportCheck:
    """A LoRA moved away from its start, written, and loaded by the stock pipeline's own `load_lora_weights`."""
    model, config = attached(folder, "lora")
    draws = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in adapters.trainable_parameters(model):
            parameter += 0.1 * torch.randn(parameter.shape, generator=draws)
    with tempfile.TemporaryDirectory() as place:
        path = adapters.export_lora(model, Path(place) / "lora.safetensors", config, layout=layout)
        return adapters.check_export(path, config, model)


def weights(folder: Path, kind: str) -> tuple[int, int]:
    model, config = attached(folder, kind)
    facts, _ = model_findings(config.model)
    assert facts is not None
    return trained_weights(config, facts), sum(each.numel() for each in adapters.trainable_parameters(model))


def number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


SCRIPTS = """
## The loss beside diffusers' own scripts

The largest relative difference of a row's loss to the formulas of diffusers' training scripts, at the same pictures, posterior, noise,
noise levels, prompts and weighting (`tests/recipes.py`, `tests/core/test_recipes.py`). The scripts draw their noise levels from another
table where a shift depends on the picture's size or has another name: the value of `flow_schedule_shift` in the last column makes ours
theirs; - means that it is the same already.

| family | script in diffusers' examples | weightings compared | difference | shift of the script's table |
|---|---|---|---|---|
"""
DIFFERENCES = """
Different on purpose: latents are the posterior's mode, which can be cached (most scripts draw from the posterior; those of FLUX.2 and
Z-Image take the mode, too); T5 texts of Stable Diffusion 3 have the 256 tokens that the pipeline draws with (77 in the script); prompts
of Sana have the instruction before them that a bare `pipe(prompt)` puts there (none in the script); FLUX.1 and FLUX.2 dev are trained at
guidance 1 (3.5 in the scripts); Min-SNR of a v-prediction is that of the text-to-image scripts (the DreamBooth script of SDXL adds 1);
with prior preservation a batch's loss is the mean over all rows, half of the scripts' sum of two means; flow times are drawn from
`logit_normal` unless another is chosen (uniform in most scripts: `timestep_sampling = uniform`).

No script exists for the other families.
"""
REFUSED = """
## What is refused

Checkpoints that belong to a family and cannot be trained here: told by their small files or their name, before weights are downloaded
or opened. A name counts as hub id, as folder, and as what a folder was saved from; "..." are the checkpoint's own values.

| family | refused | because it | told by | instead |
|---|---|---|---|---|
"""


LEFT_OUT = ROOT / "docs/left-out-families.md"
"""Of the models that diffusers knows and the trainer does not: the reasons, written by hand."""


def scripts(folders: dict[str, Path]) -> str:
    """The table of `SCRIPTS`."""
    rows = []
    for name, recipe in RECIPES.items():
        facts = FAMILIES[FAMILY_OF[name]]
        shift = "-" if recipe.shift is None else f"{recipe.shift:.3g}"
        weightings, difference = script_difference(name, folders[name])
        rows.append(f"| {facts.label} | `{recipe.file}` | {', '.join(weightings)} | {number(difference)} | {shift} |\n")
    return SCRIPTS + "".join(rows) + DIFFERENCES


def told_by(kind: Unsuitable) -> str:
    shown = re.sub(r"\{\w+(:\w+)?\}", "...", kind.shown)
    marks = [shown, ", ".join(f"`{name}`" for name in kind.pipelines), ", ".join(f"`{name}`" for name in kind.hub)]
    return "; ".join(mark for mark in marks if mark)


def refused() -> str:
    """The table of `REFUSED`, from the facts alone."""
    rows = [
        f"| {facts.label} | {kind.what} | {kind.why} | {told_by(kind)} | {kind.remedy} |\n"
        for facts in FAMILIES.values()
        for kind in facts.unsuitable
    ]
    return REFUSED + "".join(rows)


def left_out() -> str:
    """The section of `LEFT_OUT`, whose title becomes a heading here."""
    return "\n#" + LEFT_OUT.read_text(encoding="utf-8")


def page(found: list[Measured]) -> str:
    lines = [
        "# Families beside their stock pipelines",
        "",
        (
            f"Measured by `python tools/family_table.py > docs/families.md` with diffusers {diffusers.__version__} and torch "
            f"{torch.__version__.split('+')[0]} on a CPU, in float32, on tiny randomly"
        ),
        "initialised models of the real classes (`tests/tiny.py`). No released checkpoint is opened by it. The same is held by",
        "`tests/core/test_families.py`, for more variants of each family.",
        "",
        "## What the network says",
        "",
        "What the stock pipeline hands to its scheduler in each of four steps, against `Model.denoise` and the family's guidance at the same",
        "noisy latents: the largest difference of a number.",
        "",
        "| family | one prompt, guidance 1 | one prompt, guidance 3 | two prompts, guidance 1 | two prompts, guidance 3 | largest output | decoded pixels |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        values = [*each.alone.values(), *each.together.values()]
        lines.append(
            f"| {each.label} | {' | '.join(number(value) for value in values)} | {each.largest:.1f} | {number(each.pixels)} |"
        )
    lines += [
        "",
        "- *One prompt* is a call of the stock pipeline with a single prompt: bit for bit the same.",
        "- *Two prompts*: the stock pipeline encodes them in one batch; here each is encoded by itself, so that a cached embedding does not",
        "  depend on its neighbours. A text encoder's last bits depend on how many rows it is given: with both prompts encoded together the",
        "  difference is 0 here too. Prompts of Lumina (256 tokens) and Krea 2 (512) are padded there and cut to their length here, which is",
        "  exact but for the order of sums; *one prompt* has the pipeline's padding. Qwen-Image 2.1's pipeline, given texts of several lengths,",
        "  moves the pictures of the shorter ones in the network's sequence: it is called with each prompt alone.",
        "- The stock pipeline's weights are frozen for this, as ours are: torch multiplies matrices in another order where a weight could",
        "  receive a gradient, even without one (2.6e-6 for the tiny Stable Diffusion 2).",
        "",
        "## What is trained and what it costs",
        "",
        "A LoRA of rank 4 and alpha 7, moved from its start, written and loaded by the stock pipeline's own `load_lora_weights`: tensors that",
        "arrived and took part; the largest difference to the trainer's own prediction, and for comparison what the LoRA changes. Weights",
        "estimated from the files' headers and weights that train. Network rows for three rows of a rollout: promised by the family's",
        "facts (what cost and estimate count), received by the network, counted in a run's log.",
        "",
        "| family | LoRA tensors | difference | effect | LoRA weights, estimated / trained | full, estimated / trained | rows at guidance 1 | rows at guidance 3 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        trained = " | ".join(f"{estimated:,} / {real:,}" for estimated, real in each.weights.values())
        rows = " | ".join(" / ".join(map(str, row)) for row in each.rows.values())
        lines.append(
            f"| {each.label} | {each.lora} | {number(each.lora_difference)} | {each.lora_effect:.2f} | {trained} | {rows} |"
        )
    lines += [
        "",
        "## LoRA files in the other layout",
        "",
        "Every family writes the diffusers layout (above). The kohya layout beside it (see the page on LoRA files): a LoRA of rank 2 on every layer that a",
        "family trains, in a network of the released size without weights, as the stock pipeline's own converter reads it (keys of the map; largest",
        "share by which a layer's change differs); and the tiny pipeline's LoRA, loaded by the stock pipeline (keys used, difference of a prediction,",
        "effect).",
        "",
        "| family | names | keys, released size | difference | keys, tiny pipeline | difference of effect |",
        "|---|---|---|---|---|---|",
        *(f"| {each.label} | {each.kohya} |" for each in found),
        *put_together(found),
        *single_files(),
        *table().splitlines(),
    ]
    return "\n".join(lines) + "\n"


PROVEN = """
What is proven of each, at guidance 1 and 3, with prompts of different lengths: (a) noise, prediction and clean picture agree with the
pipeline's scheduler (the first table; pictures that are no squares, too), (b) an Euler rollout from the noisiest node gives the pipeline's own
latents, (c) the loss is that of diffusers' script (below; - where there is none), (d) a LoRA of two steps with rollout does in a fresh
pipeline what it does here, by the lines of a model card, (e) rows of different offsets in one rollout equal single rows. Held by
`tests/core/test_families.py`, `tests/core/test_family_proofs.py` and `tests/core/test_recipes.py`. Graphics cards in GB are the tiers of the presets.
"""


def put_together(found: list[Measured]) -> list[str]:
    """Classes, path, parts, what is proven, tiers and licence of each."""
    rows = []
    for each in found:
        facts = next(one for one in FAMILIES.values() if one.label == each.label)
        path = "rectified flow" if facts.is_flow else f"variance preserving ({', '.join(facts.predictions)})"
        proven = "a b c d e" if facts.name in {FAMILY_OF[name] for name in RECIPES} else "a b - d e"
        rows.append(
            f"| {each.label} | `{facts.pipelines[0]}` | {path} | {each.parts} | {proven} | {tiers_of(facts.name)} | {facts.licence} |"
        )
    return [
        "",
        "## What each is put together from",
        "",
        "`codec.py`, `layout.py`, `guidance.py` in `core/families/`; the text encoders are encoded with, cached and freed before the network is",
        "opened, on an accelerator always, on a CPU where they weigh more than 1 GiB.",
        *PROVEN.splitlines(),
        "",
        "| family | pipeline | path | codec | layout | guidance | text encoders | proven | cards (GB) | licence of the released weights |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def tiers_of(family: str) -> str:
    """The graphics cards that a family's presets have a tier for; several presets with their names."""
    presets = [preset for preset in map(read_preset, preset_names()) if preset.changes.get("model_family") == family]
    cards = {preset.name: ", ".join(str(tier.gb) for tier in preset.tiers) for preset in presets}
    return next(iter(cards.values())) if len(cards) == 1 else "; ".join(f"{name}: {gb}" for name, gb in cards.items())


def single_files() -> list[str]:
    """What the families say of checkpoints in one file."""
    rows = []
    for facts in FAMILIES.values():
        kind = facts.single_file
        if kind is None:
            rows.append(f"| {facts.label} | not opened | |")
            continue
        alone = "" if kind.ships_configs else "; the rest always comes from a whole pipeline"
        rows.append(
            f"| {facts.label} | {', '.join((facts.component, *kind.parts, *kind.inside))}{alone} | {kind.official} |"
        )
    return [
        "",
        "## Checkpoints in one file",
        "",
        "A `.safetensors` file in the layout of the model's release, as A1111 and ComfyUI have it:",
        "what it may hold, and the pipeline that lends what it lacks where `pretrained_components` names none. Held by",
        "`tests/core/test_single_file.py`: the pictures are, bit for bit, those of the folder.",
        "",
        "| family | parts in the file | lends the rest |",
        "|---|---|---|",
        *rows,
    ]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        folders = {name: build(name, Path(place) / name) for name in ONE_PER_FAMILY}
        text = (
            page([measured(name, folder) for name, folder in folders.items()])
            + scripts(folders)
            + refused()
            + left_out()
        )
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
