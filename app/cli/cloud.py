"""`rollout-studio cloud`: a training as one SkyPilot file, to run on rented machines."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError, Fault
from ...core.runs.folder import check_name
from .answers import DONE, print_differences, print_message
from .flags import add_config_source, add_options, add_runs_dir, resolve

SOURCE = Path(__file__).resolve().parents[2]


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    cloud = command(
        "cloud",
        _cloud,
        "Write one SkyPilot file that trains on Kubernetes, Slurm, SSH machines or a cloud; nothing is sent.",
        "rollout-studio cloud --yaml FILE [--preset NAME | --config FILE] [--OPTION VALUE ...] [--run-name NAME] [--gpu NAME] [--infra WHERE]\n"
        "                            [--bucket URL | --volume NAME | --on-demand] [--nodes N]",
    )
    cloud.add_argument("--yaml", type=Path, metavar="FILE", required=True, help="the file to write; must not exist")
    add_config_source(cloud)
    cloud.add_argument("--run-name", metavar="NAME", default="cloud", help="name of the run there (default: cloud)")
    cloud.add_argument(
        "--gpu",
        metavar="NAME",
        default="A100",
        help="SkyPilot's name of the GPU; num_processes of them (default: A100)",
    )
    cloud.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="machines; num_processes are divided among them (default: 1)"
    )
    cloud.add_argument(
        "--infra", metavar="WHERE", help="for example k8s, slurm, aws/us-east-1 (default: SkyPilot chooses)"
    )
    cloud.add_argument(
        "--bucket", metavar="URL", help="what keeps the runs, for example s3://NAME; a spot machine needs one"
    )
    cloud.add_argument(
        "--volume",
        metavar="NAME",
        help="SkyPilot's name of a volume that keeps the runs; several machines need one that all can mount",
    )
    cloud.add_argument("--on-demand", action="store_true", help="a machine that is not taken away, at its full price")
    cloud.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        default=SOURCE,
        help="the folder of this program's sources (default: where it runs)",
    )
    add_runs_dir(cloud)
    add_options(cloud)


def _cloud(given: argparse.Namespace) -> int:
    from ...core.foreign.skypilot import Machine, task

    config, _ = resolve(given)
    check_name(given.run_name)
    source = given.source.expanduser().absolute()
    faults = []
    if not (source / "pyproject.toml").is_file():
        faults.append(
            Fault(
                f"--source {source}: has no pyproject.toml; name the folder of this program's sources, which is sent along."
            )
        )
    if given.yaml.exists():
        faults.append(Fault(f"--yaml {given.yaml}: exists already; choose another file."))
    if faults:
        raise ConfigError(faults)
    machine = Machine(given.gpu, given.infra, given.bucket, given.on_demand, given.nodes, given.volume)
    text = task(config, given.run_name, machine, source)
    print_differences(config)
    try:
        given.yaml.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Fault(f"--yaml {given.yaml}: cannot be written ({error.strerror}).")]) from None
    print_message(f"Written: {given.yaml}. Start it with: sky jobs launch {given.yaml}")
    return DONE
