"""A training as one SkyPilot task file: the config, the data folders to send along, the versions of every package, and how to go on.

SkyPilot starts such a file on Kubernetes, Slurm, machines over SSH and many clouds. Only text is made here: no network, and none of its code.
Values are written as JSON, which is YAML. Source of the format: docs.skypilot.co, "SkyPilot YAML".
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..config import RunConfig, config_to_flat
from ..config.options import ConfigError, Fault
from ..demo import BUILT_IN

HOME = "~/rollout-studio"
"""Where everything lies on the rented machine. The config names its folders from here."""
PROGRAM = "rollout-studio"
PORT = 29400
"""Where the processes of several machines meet."""
PREEMPTED = 75
"""The exit code of a run that a signal ended after a checkpoint: SkyPilot starts it again."""
FOLDERS = (
    "instance_data_dir",
    "class_data_dir",
    "drift_data_dir",
    "pretrained_model_name_or_path",
    "pretrained_components",
)
"""Options that may name something on this computer."""
OF_THIS_COMPUTER = ("data_cache_dir", "lora_folder")
"""Options that are unset there."""


@dataclass(frozen=True)
class Machine:
    """What is rented. `gpu`: SkyPilot's name of it, one for each process; `infra`: where, None = wherever it is cheapest; `bucket`: the URL of
    what keeps the runs, None = the machine's own disk; `on_demand`: no spot machine, which may be taken away at any time; `nodes`: the machines
    among which the processes are divided; `volume`: SkyPilot's name of one that keeps the runs in a bucket's place, and that all of them share."""

    gpu: str
    infra: str | None = None
    bucket: str | None = None
    on_demand: bool = False
    nodes: int = 1
    volume: str | None = None

    def faults(self, config: RunConfig) -> list[Fault]:
        """What of it cannot train this config."""
        found, count = [], config.training.num_processes
        if self.bucket is None and self.volume is None and not self.on_demand:
            found.append(
                Fault("--bucket: a spot machine may be taken away at any time, and its disk with it; name a bucket (or --volume) that keeps the runs, or take --on-demand.")
            )  # fmt: skip
        if self.bucket is not None and self.volume is not None:
            found.append(Fault("--bucket and --volume: one place keeps the runs; name one of the two."))
        if self.nodes < 1 or count % self.nodes:
            found.append(
                Fault(f"--nodes {self.nodes}: the {count} processes of num_processes cannot be divided among so many machines; take a divisor of {count}.")
            )  # fmt: skip
        if self.nodes > 1 and self.volume is None:
            found.append(
                Fault(f"--nodes {self.nodes}: several machines read and write one folder of runs at the same time, which a bucket does not allow; name a --volume that all of them can mount.")
            )  # fmt: skip
        return found


def task(config: RunConfig, name: str, machine: Machine, source: Path) -> str:
    """The task file of a run `name`. `source`: the folder of this program, which is sent along.

    Raises: ConfigError for folders that are not here, and for machines that cannot train this (`Machine.faults`).
    """
    flat, mounts = _portable(config)
    if faults := machine.faults(config):
        raise ConfigError(faults)
    file_mounts: dict[str, Any] = {f"{HOME}/{there}": str(here) for there, here in mounts.items()}
    if machine.bucket is not None:
        file_mounts[f"{HOME}/runs"] = {"source": machine.bucket, "mode": "MOUNT_CACHED"}
    resources: dict[str, Any] = {} if machine.infra is None else {"infra": machine.infra}
    if config.model.device != "cpu":
        resources["accelerators"] = f"{machine.gpu}:{config.training.num_processes // machine.nodes}"
    resources |= {"use_spot": not machine.on_demand, "job_recovery": {"recover_on_exit_codes": [PREEMPTED]}}
    fields: dict[str, Any] = {"name": name, "workdir": str(source), "num_nodes": machine.nodes, "resources": resources}
    fields |= {"envs": {"ROLLOUT_STUDIO_ARGS": ""}, "file_mounts": file_mounts}
    if machine.volume is not None:
        fields["volumes"] = {f"{HOME}/runs": machine.volume}
    lines = [
        "# Start it with: sky jobs launch FILE (add --secret HF_TOKEN for a model that asks for one). Launched again, the run goes on.",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()),
        "setup: |",
        *_indented(_setup(flat)),
        "run: |",
        *_indented(_run(name) if machine.nodes == 1 else _run_on_each(name, config, machine)),
    ]
    return "\n".join(lines) + "\n"


def _portable(config: RunConfig) -> tuple[dict[str, Any], dict[str, Path]]:
    """(the flat config as it holds on the rented machine, what is sent there: name -> folder or file here)."""
    flat, mounts, faults = config_to_flat(config), {}, []

    def sent(option: str, name: str) -> str:
        here, is_model = Path(name).expanduser(), option.startswith("pretrained")
        if name in BUILT_IN or (is_model and not here.exists()):
            return name  # it comes along; or a hub id
        if not here.exists():
            faults.append(
                Fault(f"{option} = {name}: is not on this computer, so it cannot be sent; mend the path.", (option,))
            )
        there = f"sent/{len(mounts)}-{here.name}"
        mounts[there] = here.absolute()
        return there

    for option in FOLDERS:
        if flat[option] is not None:
            flat[option] = sent(option, flat[option])
    if flat["concepts"] is not None:
        things = json.loads(flat["concepts"])
        for thing in things:
            thing |= {
                key: sent("concepts", value) for key, value in thing.items() if key in FOLDERS and value is not None
            }
        flat["concepts"] = json.dumps(things, ensure_ascii=False)
    if flat["device"].startswith("cuda:"):
        flat["device"] = "cuda"  # the number was this computer's
    if faults:
        raise ConfigError(faults)
    return {**flat, **dict.fromkeys(OF_THIS_COMPUTER)}, mounts


def _setup(flat: dict[str, Any]) -> list[str]:
    """Shell lines, in the folder of this program: the bundle's files, and the packages in the versions that are installed here."""
    return [
        f"mkdir -p {HOME}/runs",
        *_file(f"{HOME}/config.json", json.dumps(flat, indent=1, ensure_ascii=False).splitlines()),
        *_file(f"{HOME}/requirements.lock", locked()),
        "# --- packages",
        "command -v uv > /dev/null || python3 -m pip install uv",
        f"uv venv --allow-existing --python 3.11 {HOME}/venv",
        f"uv pip install --python {HOME}/venv/bin/python --constraint {HOME}/requirements.lock .",
    ]


def _run(name: str) -> list[str]:
    """Shell lines: the run goes on where it has a checkpoint, and begins where it has none. Its exit code is the task's."""
    return [
        f"cd {HOME}",
        'export PATH="$PWD/venv/bin:$PATH"',
        f"if ls runs/{name}/checkpoints/step-*/manifest.json > /dev/null 2>&1; then",
        f"  exec {PROGRAM} train --resume {name} --runs-dir runs $ROLLOUT_STUDIO_ARGS",
        "fi",
        f"if [ -e runs/{name} ]; then mv runs/{name} runs/{name}-until-$(date +%s); fi  # begun, and nothing was saved",
        f"exec {PROGRAM} train --config config.json --run-name {name} --runs-dir runs $ROLLOUT_STUDIO_ARGS",
    ]


def _run_on_each(name: str, config: RunConfig, machine: Machine) -> list[str]:
    """Shell lines for each of several machines: torchrun starts its share of the processes, which meet at the first one. That one alone says
    whether the run goes on; the others follow it, whatever they are started with."""
    each = config.training.num_processes // machine.nodes
    begin = f"--config config.json --run-name {name} --runs-dir runs"
    return [
        f"cd {HOME}",
        'export PATH="$PWD/venv/bin:$PATH"',
        f'train="{begin}"',
        'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then',
        f"  if ls runs/{name}/checkpoints/step-*/manifest.json > /dev/null 2>&1; then",
        f'    train="--resume {name} --runs-dir runs"',
        f"  elif [ -e runs/{name} ]; then mv runs/{name} runs/{name}-until-$(date +%s); fi  # begun, and nothing was saved",
        "fi",
        f"exec torchrun --nnodes {machine.nodes} --nproc-per-node {each} --node-rank $SKYPILOT_NODE_RANK \\",
        f'  --master-addr "$(echo "$SKYPILOT_NODE_IPS" | head -n1)" --master-port {PORT} --max-restarts {config.training.max_restarts} \\',
        f"  --no-python {PROGRAM} train $train $ROLLOUT_STUDIO_ARGS",
    ]


def _file(path: str, lines: Iterable[str]) -> list[str]:
    return [f"cat > {path} <<'END_OF_FILE'", *lines, "END_OF_FILE"]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" if line else "" for line in lines]


def locked(program: str = PROGRAM) -> list[str]:
    """`name==version` of every package that this program needs, as installed here; a build's own mark (+cpu) is left out.

    Raises: ConfigError where the program itself is not installed, so that nobody knows what it needs.
    """
    found: dict[str, str] = {}
    waiting = [program]
    while waiting:
        try:
            package = metadata.distribution(waiting.pop())
        except metadata.PackageNotFoundError:
            continue  # of another system, or optional
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        if name not in found:
            found[name] = package.version.partition("+")[0]
            needs = (each for each in package.requires or [] if "extra ==" not in each)
            waiting += [re.split(r"[^\w.-]", each.strip(), maxsplit=1)[0] for each in needs]
    if found.pop(program, None) is None:
        raise ConfigError(
            [
                Fault(
                    f"{program} is not installed as a package here, so its packages are not known: pip install -e . in its folder."
                )
            ]
        )
    return [f"{name}=={found[name]}" for name in sorted(found)]
