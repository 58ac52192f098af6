"""What a step takes on this computer, measured before a run: the probe's process, and its results, which correct the estimate. No torch.

    <runs>/.probes/<key>.json     one result for all configs whose steps take the same memory

The probe itself is `core/train/probe.py`.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import platform_calls
from ..config import OPTIONS, RunConfig, config_to_flat
from ..errors import Trouble

FOLDER = ".probes"
COMMAND = (sys.executable, "-m", "rollout_studio.core.train.probe")
LAST_WORDS = 600  # characters of a crashed probe's log that are shown

_SAME_MEMORY = {
    "data": ("resolution", "aspect_buckets", "bucket_step", "with_prior_preservation"),
    "validation": (), "saving": (), "drift": (),
}  # fmt: skip
"""Of these sections only the options named decide a step's memory."""
_NO_MEMORY = frozenset({
    "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "lr_scheduler", "lr_warmup_steps", "max_train_steps",
    "gradient_accumulation_steps", "max_grad_norm", "ema_decay", "seed", "timestep_sampling", "logit_mean", "logit_std", "mode_scale",
    "loss_weighting", "precondition_outputs", "flow_schedule_shift", "snr_gamma", "loss_type", "huber_delta", "report_to", "lora_alpha",
    "lora_rslora", "text_encoder_learning_rate", "text_encoder_steps", "new_token_initializer", "new_token_learning_rate", "new_token_steps",
    "new_token_steps_alone", "compile",
})  # fmt: skip
_FIRST = ("0.1", "0.2")
"""Versions whose options always count."""
_NO_MEMORY_OF_ROLLOUT = (
    "probability",
    "prob_",
    "ramp_",
    "start_step",
    "strategy",
    "target",
    "min_sigma",
    "snr_gamma",
    "exact_share",
    "max_evaluations",
)


class ProbeError(Trouble):
    """The step could not be taken. `message`: what happened; `remedy`: what to do."""


@dataclass(frozen=True)
class Probe:
    """What a probe measured, in MiB.

    `mib`: what a run of this config will report as `memory_mib`; `peak_mib`: the most during the steps (on an accelerator the same);
    `opening_mib`: the most before them, while the model was opened and pictures and captions were encoded. `steps`, `rolled`: how many steps
    were taken, and in how many of them rows were rolled out. `estimated_mib`: the estimate from the model's shapes; None where there was none.
    """

    mib: float
    peak_mib: float
    opening_mib: float
    device: str
    steps: int
    rolled: int
    estimated_mib: float | None


def memory_key(config: RunConfig) -> str:
    """The same for all configs whose steps take the same memory. An option that nobody has thought of counts."""
    flat, usual = config_to_flat(config), config_to_flat(RunConfig())
    counted: dict[str, Any] = {}
    for name, value in flat.items():
        section = OPTIONS[name].section
        later = (
            OPTIONS[name].since not in _FIRST and value == usual[name]
        )  # a probe from before it was there stays good
        if name in _SAME_MEMORY.get(section, (name,)) and name not in _NO_MEMORY and not later:
            counted[name] = value
    for name in list(counted):
        if OPTIONS[name].section == "rollout":
            own = name.removeprefix("scheduled_sampling_")
            if not config.rollout.is_active or own.startswith(_NO_MEMORY_OF_ROLLOUT):
                del counted[name]
    if config.data.output_preservation_weight > 0:  # only whether: and probes from before it was there stay good
        counted["output_preservation"] = True
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:32]


def read_probe(config: RunConfig, runs_dir: Path) -> Probe | None:
    """What a probe measured for a config like this; None where none did, or its file is not one."""
    try:
        return Probe(**json.loads(_path(config, runs_dir).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def keep_probe(config: RunConfig, runs_dir: Path, probe: Probe) -> None:
    """From now on estimates for configs like this are what was measured."""
    path = _path(config, runs_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    platform_calls.write_atomically(path, (json.dumps(asdict(probe)) + "\n").encode())


def _path(config: RunConfig, runs_dir: Path) -> Path:
    return Path(runs_dir) / FOLDER / f"{memory_key(config)}.json"


def run_probe(config: RunConfig, runs_dir: Path) -> Probe:
    """Take the steps in a process of their own, and keep the result. Minutes where the model must be downloaded or opened first.

    Raises: ProbeError where the model or the pictures cannot be used, or memory ran out.
    """
    with tempfile.TemporaryDirectory(prefix="rollout-studio-probe-", ignore_cleanup_errors=True) as folder:
        given, log = Path(folder) / "config.json", Path(folder) / "log.txt"
        given.write_text(config.to_json(), encoding="utf-8")
        command = [*COMMAND, str(given), str(Path(runs_dir).absolute())]
        process = platform_calls.start_helper(command, log, extra_env=platform_calls.worker_environment())
        try:
            answer = process.communicate()[0]
        finally:
            if process.poll() is None:  # interrupted
                process.kill()
                process.wait()
        probe = _answer(answer, process, log)
    keep_probe(config, runs_dir, probe)
    return probe


def _answer(answer: bytes, process: subprocess.Popen, log: Path) -> Probe:
    try:
        found = json.loads(answer.decode("utf-8").strip().splitlines()[-1])
    except (ValueError, IndexError):
        words = " ".join(log.read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:].split())
        raise ProbeError(
            f"The probe ended without an answer (exit code {process.returncode}). Its log ends: {words}",
            "The system ends a process so where main memory runs out: lower the batch size or the resolution, then try again.",
        ) from None
    if "message" in found:
        raise ProbeError(found["message"], found["remedy"])
    return Probe(**found)
