"""What a run will take: time, memory and disk, estimated before it starts. No torch; nothing is trained or measured for it.

Time comes from what was measured: earlier runs of the same kind in the runs folder, else for the demo models the figure in
`MEASURED`; else it is not known until the first steps. Memory is computed from the shapes of the weights with the formula below and is
an estimate with its range. Disk is `disk.disk_estimate`. docs/training.md compares all three with what runs reported.
"""

import math
import statistics
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..config import OPTIONS, ModelConfig, RunConfig, config_from_flat, config_to_flat
from ..data import Scan, scan
from ..data.scanning import located
from ..families.blocks import blocks_of
from ..families.index_files import index_file
from ..runs.errors import RunError
from ..runs.folder import RunDir
from ..sizes import off_by, size
from .activations import activations
from .cost import PRESERVATION_CALLS, plain_step_in_forwards, preservation_in_forwards, preserved_share, remedy_cost
from .disk import DiskEstimate, disk_estimate, moment_numbers, trained_shapes
from .held import held_weights
from .installation import device_of
from .model_files import NEVER_LOADED, ModelFacts, model_findings, safetensors_shapes
from .probes import read_probe
from .text_encoders import encoder_load

WORKER_BYTES = 480 * 2**20
"""Resident memory of a worker on a CPU beside its model: the interpreter and the libraries."""
MEMORY_RANGE, WORKER_RANGE = (0.55, 1.7), (0.9, 1.1)
"""How far what a step takes beside the weights, and the process, may lie from the estimate, as factors. All of these numbers:
measured, docs/training.md."""

PROBE_RANGE = (0.95, 1.0, 1.1)
"""How far a run may lie from what a probe of its config measured, as factors."""
_WHOSE_MEMORY = {"cpu": "main memory of the training process", "cuda": "graphics memory", "mps": "shared memory"}

MEASURED = {"demo-flow": 0.119, "demo-epsilon": 0.075}
"""Median seconds of a plain LoRA step of `MEASURED_ROWS` rows (the presets') at 64 px in float32, on the machine `MEASURED_ON`."""
MEASURED_ROWS = 8
MEASURED_ON = "two cores of a server processor (AMD EPYC, 2 threads)"
MEASURED_RANGE = (0.5, 4.0)

_SAME_WORK = (
    "pretrained_model_name_or_path", "revision", "variant", "model_type", "resolution", "train_batch_size", "num_processes", "gradient_accumulation_steps",
    "with_prior_preservation", "gradient_checkpointing", "mixed_precision", "base_model_precision", "base_model_quantization", "streamed_blocks",
    "compile", "device", "lora_rank", "lora_targets", "lora_type", "lora_rank_pattern", "lora_lokr_factor", "train_text_encoder", "new_tokens", "shard_weights",
)  # fmt: skip
"""Options that a plain step's time depends on: an earlier run counts when all of them are the same. So does whether there is output
preservation."""
_TAIL_BYTES = 256 * 1024
_FEWEST_STEPS = 5
_RUNS_COMPARED = 3
_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Span:
    """A number with the range in which the truth is expected."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> "Span":
        return Span(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class TimeEstimate:
    """`steps_s`: the training steps of the whole run; `plain_step_s`: one plain step; None where nothing was measured. `beside_s`:
    what a like run spent beside its steps (opening the model, pictures, samples, drift), where one recorded it. `explanation`: the source, as text."""

    steps_s: Span | None
    plain_step_s: float | None
    beside_s: float | None
    explanation: str


@dataclass(frozen=True)
class MemoryEstimate:
    """`parts`: bytes by what they are for. `device`: whose memory. `total` is None where the model's shapes are not known here."""

    total: Span | None
    parts: Mapping[str, float]
    device: str
    explanation: str


@dataclass(frozen=True)
class Estimate:
    """What a run will take. `disk` is None where the model is not on this computer, since its checkpoints cannot be sized."""

    time: TimeEstimate
    memory: MemoryEstimate
    disk: DiskEstimate | None
    disk_explanation: str


def estimate(config: RunConfig, runs_dir: Path, scan_pictures: bool = True) -> Estimate:
    """Time, memory and disk of a run. A few milliseconds when called again for the same model and pictures.

    Args:
        runs_dir: the folder of all runs, whose step times are used.
        scan_pictures: also scan pictures that were not scanned yet, each of which is opened once. Without it their disk is not known.
    """
    facts = known_facts(config.model)
    found = _pictures(config, scan_pictures)
    disk = None if facts is None or found is None else disk_estimate(config, found, facts)
    disk_explanation = "from the pictures, the limits and the shapes of the weights; an upper estimate"
    if facts is None:
        disk_explanation = (
            "the model is not on this computer, so the size of its checkpoints is not known; the download adds to it"
        )
    elif found is None:
        disk_explanation = "not known before the pictures are scanned; Check scans them"
    memory = expected_memory(config, facts, Path(runs_dir))
    return Estimate(time_estimate(config, Path(runs_dir)), memory, disk, disk_explanation)


# Time -----------------------------------------------------------------------------------------------------------------------


def time_estimate(config: RunConfig, runs_dir: Path) -> TimeEstimate:
    """From the newest runs that did the same work per plain step, else the demo's measured figure, else unknown."""
    ratio, steps = remedy_cost(config).mean_ratio, config.training.max_train_steps
    paces = _paces(config, runs_dir)
    if paces:
        # The newest run's pace is the likely one; the spread is that of all of them.
        plain = Span(min(p.low for p in paces), paces[0].median, max(p.high for p in paces))
        beside = next((pace.beside_s for pace in paces if pace.beside_s is not None), None)
        names = ", ".join(pace.run for pace in paces)
        explanation = f"from the step times of {names}, which did the same work per plain step on this computer"
        return TimeEstimate(plain.times(ratio * steps), paces[0].median, beside, explanation)
    measured = _demo_step(config)
    if measured is not None:
        explanation = f"measured on {MEASURED_ON}; another computer may take half of it or several times as long"
        return TimeEstimate(
            Span(*(measured * f for f in (MEASURED_RANGE[0], 1.0, MEASURED_RANGE[1]))).times(ratio * steps),
            measured,
            None,
            explanation,
        )
    return TimeEstimate(
        None,
        None,
        None,
        "not known until the first steps: nothing like it has run here yet, and Check measures nothing",
    )


def _demo_step(config: RunConfig) -> float | None:
    training, data = config.training, config.data
    seconds = MEASURED.get(config.model.pretrained_model_name_or_path)
    if (
        seconds is None
        or data.resolution != 64
        or training.model_type != "lora"
        or training.mixed_precision != "no"
        or training.gradient_checkpointing
    ):
        return None
    more = 1 + preservation_in_forwards(config) / plain_step_in_forwards("lora", False)
    return seconds * more * _rows(config) / MEASURED_ROWS


def _rows(config: RunConfig) -> int:
    """Rows that go through the network in one optimizer step."""
    return (
        config.training.train_batch_size
        * config.training.gradient_accumulation_steps
        * (2 if config.data.with_prior_preservation else 1)
    )


@dataclass(frozen=True)
class Pace:
    """Seconds of a plain step of one run: the median, and the quarter of the steps that were fastest and slowest."""

    run: str
    low: float
    median: float
    high: float
    beside_s: float | None


def _paces(config: RunConfig, runs_dir: Path) -> list[Pace]:
    """Of the newest runs that did the same work per plain step, newest first."""
    if not runs_dir.is_dir():
        return []
    wanted = config_to_flat(config)
    wanted, preserves = {name: wanted[name] for name in _SAME_WORK}, config.data.output_preservation_weight > 0
    usual = config_to_flat(RunConfig())  # what a run had of options that came later
    folders = []
    for folder in runs_dir.iterdir():
        config_stamp, events_stamp = _stamp(folder / "config.json"), _stamp(folder / "events.jsonl")
        if config_stamp and events_stamp:
            folders.append((config_stamp[0], folder, config_stamp, events_stamp))
    paces: list[Pace] = []
    for _, folder, config_stamp, events_stamp in sorted(folders, key=lambda each: each[0], reverse=True):
        flat = _run_config(folder, config_stamp)
        if flat is None or bool(flat.get("output_preservation_weight", 0.0)) != preserves:
            continue
        if all(flat.get(name, usual[name]) == value for name, value in wanted.items()):
            try:
                pace = pace_of(folder, events_stamp)
            except FileNotFoundError:  # deleted this moment
                continue
            if pace is not None:
                paces.append(pace)
                if len(paces) == _RUNS_COMPARED:
                    break
    return paces


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=512)
def _run_config(folder: Path, stamp: tuple[int, int]) -> dict | None:
    """A run's config as written; None when it is damaged (the list of runs reports that)."""
    try:
        flat = RunDir(folder).read_config()
    except (RunError, OSError, ValueError):
        return None
    return flat if isinstance(flat, dict) else None


@lru_cache(maxsize=128)
def pace_of(folder: Path, stamp: tuple[int, int] | None = None) -> Pace | None:
    """Seconds of a plain step in a run, from its last `step` events; None with fewer than five.

    A step with rolled rows counts as `(c + n) / c` plain ones, `n` the forwards per row that it really took
    (docs/mathematics.md, "Cost of a step"). Output preservation belongs to a plain step.
    """
    run = RunDir(folder)
    flat = run.read_config()
    c = plain_step_in_forwards(flat["model_type"], flat["gradient_checkpointing"])
    share = preserved_share(flat.get("output_preservation_weight", 0.0), flat.get("with_prior_preservation", False))
    forwards, asked = c + share * (1 + c), 1 + PRESERVATION_CALLS * share  # of a plain step, per row
    size = run.events_path.stat().st_size
    events, _ = run.events(max(0, size - _TAIL_BYTES))
    steps = [
        e for e in events
        if e["event"] == "step" and all(_is_number(e.get(name)) for name in ("step", "seconds", "network_rows")) and e["step"] > _WARM_UP_STEPS
    ]  # fmt: skip
    if len(steps) < _FEWEST_STEPS:
        return None
    # what an older run, which did not record `rows`, took at its plainest step
    fewest = min(e["network_rows"] for e in steps)
    rows = [e["rows"] if _is_number(e.get("rows")) and e["rows"] > 0 else fewest for e in steps]
    if fewest <= 0:
        return None
    ratio = _of_other_remedies(flat)
    plain = [
        e["seconds"] / (1 + (e["network_rows"] / all_rows - asked) / forwards if ratio is None else ratio)
        for e, all_rows in zip(steps, rows, strict=True)
    ]
    quarters = statistics.quantiles(plain, n=4)
    return Pace(folder.name, quarters[0], statistics.median(plain), quarters[2], _beside(events))


def _of_other_remedies(flat: Mapping[str, Any]) -> float | None:
    """Steps that a step of this run takes, in plain ones, where its rows say it badly: some of them with gradient. None where they say it."""
    if not flat.get("soar_states"):
        return None
    return remedy_cost(config_from_flat({name: value for name, value in flat.items() if name in OPTIONS})).mean_ratio


def _beside(events: list[dict]) -> float | None:
    """Seconds between a run's start and end that were no training steps; None when it did not run through, or paused."""
    kinds = [event["event"] for event in events]
    if (
        kinds.count("start") != 1
        or kinds[0] != "start"
        or "paused" in kinds
        or kinds[-1] != "end"
        or events[-1].get("state") != "done"
    ):
        return None
    times = (events[0]["time"], events[-1]["time"])
    if not all(map(_is_number, times)):
        return None
    return max(
        0.0,
        times[1]
        - times[0]
        - sum(e["seconds"] for e in events if e["event"] == "step" and _is_number(e.get("seconds"))),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# Memory ---------------------------------------------------------------------------------------------------------------------


def expected_memory(config: RunConfig, facts: ModelFacts | None, runs_dir: Path) -> MemoryEstimate:
    """What a probe measured for a config like this on this computer; without one, the estimate from the shapes."""
    probe, device = read_probe(config, runs_dir), device_of(config.model)
    if probe is None or probe.device.partition(":")[0] != device:
        return memory_estimate(config, facts)
    low, likely, high = (probe.mib * 2**20 * factor for factor in PROBE_RANGE)
    parts = [f"{_WHOSE_MEMORY[device]}; measured by a probe on this computer"]
    if probe.estimated_mib is not None:
        parts.append(f"the estimate from the model's shapes was {off_by(probe.estimated_mib, probe.mib)}")
    parts.append(f"opening the model and encoding pictures took {size(probe.opening_mib * 2**20)} at most")
    span = Span(low, likely, max(high, probe.peak_mib * 2**20))
    return MemoryEstimate(span, {"measured": likely}, device, "; ".join(parts))


def memory_estimate(config: RunConfig, facts: ModelFacts | None) -> MemoryEstimate:
    """Bytes in use at the peak of a training step, from the shapes of the weights.

    With P weights of the network, T trained ones (LoRA: of the adapter), b bytes per computed number:
        weights     P * bytes of base_model_precision (full: 4), or as they are quantised, without blocks that stream (`held`);
                    on a CPU also text encoders and VAE, elsewhere text encoders that train
        visiting    the largest block that streams; of quantised weights those that are unpacked at one time
        trained     T * 4 * (1 + 1 gradient + 1 for EMA) and the optimizer's moments; full: without the weights themselves
        copies      P * 2 where mixed precision casts weights that are kept in another format
        activations rows * b * KEPT_PER_OUTPUT * (sum over layers of outputs * positions), times what checkpointing leaves where it is on
    and on a CPU the process itself. Weights and training are those of one of N processes that divide them (`shard_weights`), to which in turn
    three times its largest group of weights comes while it computes: the weights, those of the next group, and the gradient. b is 4, with 16-bit weights and mixed precision 2, with mixed precision alone 3 (measured: much
    stays in 32 bits). Opening a model, samples, drift pictures and preparing the pictures may take more for a moment.
    """
    device = device_of(config.model)
    if facts is None or not facts.shapes:
        return MemoryEstimate(None, {}, device, "not known: the model's files are not on this computer")
    training, full = config.training, config.training.model_type == "full"
    kept = held_weights(config.model, facts.shapes, streams=device == "cuda")
    encoders = encoder_load(config, facts)
    shapes = trained_shapes(config, facts, encoders)
    trained = sum(math.prod(shape) for shape in shapes.values())
    moments = moment_numbers(training.optimizer, shapes.values())
    shares = training.num_processes if training.shard_weights else 1
    parts = {"weights": kept.weights / shares}
    if device == "cpu":
        parts["process"] = float(WORKER_BYTES)
        beside = _weights_beside(facts.folder, facts.component) if facts.beside is None else facts.beside
        parts["weights"] += beside * (4 if config.model.base_model_precision == "float32" else 2)
    if encoders.weights and device != "cpu":  # on a CPU they stay anyway
        parts["text encoders"] = encoders.weights * (4.0 if config.model.base_model_precision == "float32" else 2.0)
    parts["training"] = 4 * (trained * ((0 if full else 1) + 1 + (1 if training.use_ema else 0)) + moments)
    mixed = training.mixed_precision != "no"
    parts["training"] /= shares
    if mixed and shares == 1 and (full or config.model.base_model_precision == "float32"):
        parts["training"] += 2.0 * kept.whole
    visiting = kept.visiting if shares == 1 else 3 * 4.0 * _largest_group(facts.shapes)
    if visiting:
        parts["visiting"] = visiting
    parts["activations"] = activations(config, facts, device, encoders)
    total = sum(parts.values())
    # the weights themselves are known
    worker, step = (
        parts.get("process", 0.0),
        parts["training"] + parts["activations"],
    )
    known = parts["weights"] + parts.get("text encoders", 0.0) + visiting
    low, high = (known + worker * w + step * s for w, s in zip(WORKER_RANGE, MEMORY_RANGE, strict=True))
    span = Span(low, total, high)
    measured = "" if device == "cpu" else ", never compared with a run on one"
    if shares > 1:
        measured += f"; the first process holds {size(kept.weights)} more while it opens the model, draws pictures and exports, the others while they open it"
    return MemoryEstimate(
        span,
        parts,
        device,
        f"{_WHOSE_MEMORY[device]}; a rough estimate from the shapes of the model, for a training step{measured}",
    )


def _largest_group(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Weights of the largest block, or of all that belong to none."""
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    blocks = [sum(numbers[name] for name in block) for block in blocks_of(shapes).values()]
    return max([sum(numbers.values()) - sum(blocks), *blocks])


# What both read, cached while the files are the same ------------------------------------------------------------


def known_facts(model: ModelConfig) -> ModelFacts | None:
    """What a model's own files say, as `model_files.model_findings` reads them; read again only when they change. None: not on this computer."""
    from ..demo import resolve

    folder = Path(resolve(model.pretrained_model_name_or_path)).expanduser()
    return _facts_of(model, _stamp(folder if folder.is_file() else index_file(folder)))


@lru_cache(maxsize=32)
def _facts_of(model: ModelConfig, stamp: tuple[int, int] | None) -> ModelFacts | None:
    return model_findings(model)[0]


@lru_cache(maxsize=32)
def _weights_beside(folder: Path, network: str | None) -> int:
    """Weights of the other parts of a model: text encoders and VAE, each part's plain files, else those of one variant."""
    total = 0
    for part in folder.iterdir():
        if part.name in (network, *NEVER_LOADED) or not part.is_dir():
            continue
        files = sorted(part.glob("*.safetensors"))
        plain = [path for path in files if path.name.count(".") == 1]
        variants = [
            path for path in files if path not in plain and path.name.split(".")[1] == files[-1].name.split(".")[1]
        ]
        for path in plain if plain else variants:
            try:
                total += sum(math.prod(shape) for shape in safetensors_shapes(path).values())
            except (OSError, ValueError):  # a broken file: Check reports it
                continue
    return total


_scanned: OrderedDict[tuple, Scan] = OrderedDict()
_KEPT_SCANS = 16


def _pictures(config: RunConfig, scan_pictures: bool) -> Scan | None:
    """The pictures of a config; without `scan_pictures` only if these folders were scanned as they are now."""
    data = config.data
    names = [name for thing in data.things for name in (thing.instance_data_dir, thing.class_data_dir)]
    key = (
        *names,
        data.with_prior_preservation,
        data.masked_training,
        *(None if name is None else _stamp(located(name)) for name in names),
    )
    if scan_pictures:
        _scanned[key] = scan(data)
        while len(_scanned) > _KEPT_SCANS:
            _scanned.popitem(last=False)
    return _scanned.get(key)
