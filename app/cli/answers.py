"""What every command answers with: exit codes, messages on stderr, and what is checked and reported before something starts.

Exit codes: 0 done, or stopped and saved; 2 the command itself is not understood; 70 a crash; 75 interrupted, resume me; 78 a config
or a request that cannot be honoured.
"""

import sys
from pathlib import Path

from ...core.before.cost import (
    expected_cost,
    guidance_of,
    plain_step_in_forwards,
    preservation_in_forwards,
    remedy_sentence,
    waiting_sentence,
)
from ...core.config import RunConfig, differences
from ...core.config.options import shown
from ...core.findings import format_findings, has_errors
from ...core.texts import translated
from .flags import default_runs_dir

DONE, USAGE, CRASH, PREEMPTED, BAD_CONFIG = 0, 2, 70, 75, 78


def print_message(text: str) -> None:
    """A line on stderr, which carries all messages; stdout carries results."""
    print(translated(text), file=sys.stderr, flush=True)


def print_differences(config: RunConfig) -> None:
    """Print what a config changes, and what that costs."""
    changed = differences(config)
    print_message("Differences from the defaults:" if changed else "Everything is at its default.")
    for name, value in changed.items():
        print_message(f"  {name} = {shown(value)}")
    print_message(cost_sentence(config))


def cost_sentence(config: RunConfig) -> str:
    """What the remedy of a config costs, a rollout at its highest chance, in words."""
    training = config.training
    # unset: on for a flow model; where only the checkpoint can decide, the dearer case is given
    reflexflow = config.rollout.reflexflow is not False and config.model.is_flow() is not False
    plain = plain_step_in_forwards(training.model_type, training.gradient_checkpointing)
    beside = preservation_in_forwards(config)
    cost = expected_cost(config.rollout, plain, reflexflow, guidance=guidance_of(config), beside=beside)
    other = remedy_sentence(config)
    more = f" Output preservation makes every step {(plain + beside) / plain:.2f} times as long." if beside else ""
    if wait := waiting_sentence(config):
        more += f" {wait}"
    return f"Cost of a step: {cost}.{more}" if other is None else f"Cost of a step: {other}{more}"


def may_start(config: RunConfig, run_dir: Path | None, runs_dir: Path | None) -> bool:
    """Print every finding; False when one of them forbids to start."""
    from ...core.before.preflight import preflight

    findings = preflight(config, run_dir=run_dir, runs_dir=runs_dir if runs_dir is not None else default_runs_dir())
    if findings:
        print_message(format_findings(findings))
    return not has_errors(findings)
