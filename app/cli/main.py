"""The command line: `rollout-studio ui | train | drift | sample | runs | options | presets | graph`.

Every option of a run is a flag here because it is declared in `core/config/sections.py`; nothing is declared twice. Torch, diffusers and
Gradio are imported only by the command that needs them, so that help and the reference answer at once.

Exit codes: 0 done, or stopped and saved; 2 the command itself is not understood; 70 a crash; 75 interrupted, resume me; 78 a config
or a request that cannot be honoured.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ... import __version__
from ...core import platform_calls
from ...core.before.cost import expected_cost, plain_step_in_forwards
from ...core.config import (
    OPTIONS,
    RunConfig,
    config_from_flat,
    config_to_flat,
    differences,
    preset_names,
    read_flat,
    read_preset,
    with_changes,
)
from ...core.config.options import ConfigError, Fault, did_you_mean, shown
from ...core.config.own_presets import find_preset, own_presets
from ...core.config.reference import as_data, as_markdown, as_text, default_of, values_of
from ...core.families.source import ModelError
from ...core.findings import format_findings, has_errors
from ...core.memory import is_out_of_memory, memory_message
from ...core.runs.run_log import PHASES
from ...core.runs.store import COMMANDS, RunError, RunStore, StorageError
from . import graph as graph_cli

DONE, USAGE, CRASH, PREEMPTED, BAD_CONFIG = 0, 2, 70, 75, 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A person's mistake is told in one message, without a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower() not in ("utf-8", "utf8") and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # a Windows pipe: config files and reports are UTF-8
    parser = _parser()
    try:
        given, unknown = parser.parse_known_args(arguments)
    except SystemExit as leave:  # argparse has printed the help or what it did not understand
        return int(leave.code or 0)
    try:
        if unknown:
            raise ConfigError(_unknown_faults(unknown))
        platform_calls.sleep_while_waiting()  # before any command imports torch: train, sample, drift and graph compute here
        code = given.run(given)
        sys.stdout.flush()  # here, where a reader that has left is dealt with
        return code
    except (ConfigError, RunError, ModelError) as error:
        _say(str(error))
        return BAD_CONFIG
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    except BrokenPipeError:
        # the reader of our output left (`| head`): nothing to tell anybody, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:  # noqa: BLE001 - the last line of defence: told with its traceback, and an exit code of its own
        traceback.print_exc()
        if is_out_of_memory(error):
            _say(f"{memory_message(error)} Close other programs that hold memory, or ask for fewer or smaller pictures (--width, --height), "
                 "base_model_precision bfloat16, or device cpu.")  # fmt: skip
        else:
            _say(f"Crashed: {type(error).__name__}: {error}")
        return CRASH


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _unknown_faults(unknown: Sequence[str]) -> list[Fault]:
    faults = []
    for word in unknown:
        if not word.startswith("--"):
            continue  # the value of an unknown flag: told with the flag
        name = word[2:].partition("=")[0]
        near = did_you_mean(name.replace("-", "_"), OPTIONS)
        faults.append(
            Fault(f"Unknown option '{name}'.{near if near else ' All names: rollout-studio options.'}", (name,))
        )
    return faults if faults else [Fault(f"Not understood: {' '.join(unknown)}. See: rollout-studio --help.")]


# ---- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "rollout-studio",
        description="See how a diffusion model drifts on its own output, and train with rollout and ReflexFlow.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rollout-studio {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str, usage: str | None = None) -> Any:
        # argparse's own usage would list every option before each message
        made = commands.add_parser(name, help=help, description=help, usage=usage, allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    ui = command("ui", _ui, "Start the page and open it in the browser.")
    ui.add_argument(
        "--port", type=int, default=None, help="port on this machine (default 7860); taken = the next free one"
    )
    ui.add_argument("--no-browser", action="store_true", help="do not open a browser")
    _add_runs_dir(ui)

    train = command(
        "train",
        _train,
        "Train a model, here and now, with progress bars; closing the terminal stops it.",
        "rollout-studio train [--preset NAME | --config FILE] [--set KEY=VALUE ...] [--OPTION VALUE ...] [--run-name NAME]\n"
        "                            [--runs-dir DIR] [--dry-run]\n"
        "       rollout-studio train --resume RUN [--runs-dir DIR]",
    )
    _add_config_source(train)
    train.add_argument("--run-name", metavar="NAME", help="name of the run (default: the preset and the time)")
    train.add_argument(
        "--resume", metavar="RUN", help="go on with an interrupted run, exactly where its last checkpoint is"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, print the resolved config, train nothing"
    )
    _add_runs_dir(train)
    _add_options(train)

    drift = command(
        "drift",
        _drift,
        "Measure how far a model drifts on its own output; writes report.json and pictures.",
        "rollout-studio drift (--run RUN [--checkpoint STEP] | --preset NAME | --config FILE) [--OPTION VALUE ...] --out DIR",
    )
    _add_config_source(drift)
    drift.add_argument("--run", dest="run_name", metavar="RUN", help="the model, data and settings of this run")
    drift.add_argument("--checkpoint", type=int, metavar="STEP", help="with --run: this checkpoint, not the last one")
    drift.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the report (must be new or empty)"
    )
    _add_runs_dir(drift)
    _add_options(drift)

    sample = command("sample", _sample, "Draw pictures with a model, with or without a LoRA; writes PNGs.")
    sample.add_argument("--run", dest="run_name", metavar="RUN", help="the model and the weights of this run")
    sample.add_argument("--checkpoint", type=int, metavar="STEP", help="with --run: this checkpoint, not the last one")
    sample.add_argument("--model", metavar="M", help="demo-flow, demo-epsilon, a folder or a hub id")
    sample.add_argument("--lora", type=Path, metavar="FILE", help="a LoRA file in the diffusers layout")
    sample.add_argument(
        "--prompt", action="append", required=True, metavar="TEXT", help="what to draw; may be given again"
    )
    sample.add_argument("--negative-prompt", default="", metavar="TEXT")
    sample.add_argument("--steps", type=int, default=None, help="sampling steps (default: the run's, or 30)")
    sample.add_argument("--guidance", type=float, default=None, help="default: the run's, or the pipeline's own")
    sample.add_argument("--seed", type=int, default=42)
    sample.add_argument("--width", type=int, default=None, metavar="PX", help="default: the pipeline's own")
    sample.add_argument("--height", type=int, default=None, metavar="PX")
    sample.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    _add_runs_dir(sample)

    runs = command("runs", _runs, "List runs, show one, delete one, or send one a command.")
    runs.add_argument("action", nargs="?", default="list", choices=("list", "show", "log", "delete", *COMMANDS), metavar="ACTION",
                      help=f"list (default), show, log, delete, or a command: {', '.join(COMMANDS)}")  # fmt: skip
    runs.add_argument("name", nargs="?", metavar="RUN")
    runs.add_argument("--yes", action="store_true", help="delete without asking")
    runs.add_argument("--json", action="store_true", help="list or show as JSON")
    _add_runs_dir(runs)

    options = command("options", _options, "Print the reference of all options.")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list")
    form.add_argument("--markdown", action="store_true", help="as Markdown: the text of docs/options.md")

    presets = command("presets", _presets, "List the presets, your own among them, or print one.")
    presets.add_argument("name", nargs="?", metavar="NAME")
    _add_runs_dir(presets)

    graph_cli.register(command)
    return parser


def _add_runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs-dir", type=Path, metavar="DIR", help="folder of the runs (default: runs, or $ROLLOUT_STUDIO_RUNS)"
    )


def _add_config_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", metavar="NAME", help="start from a preset, also one of your own; see: rollout-studio presets")
    source.add_argument(
        "--config", type=Path, metavar="FILE", help="start from a config.json; absent keys have their defaults"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one option; may be given again"
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Every option as a flag. Values stay text here: reading and refusing is the config's, and collects all faults."""
    groups: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        if option.section not in groups:
            groups[option.section] = parser.add_argument_group(f"{option.section} options")
        about = f"{option.help} ({values_of(option)}; default {default_of(option)})".replace("%", "%%")
        how: dict[str, Any] = {
            "metavar": "VALUE",
            "help": about,
            "dest": f"option:{name}",
            "default": argparse.SUPPRESS,
        }
        if option.type == "bool":
            how |= {"nargs": "?", "const": "true"}
        elif option.type.startswith("list"):
            how |= {"nargs": "*"}
        groups[option.section].add_argument(f"--{name}", **how)


def _changes(given: argparse.Namespace) -> dict[str, Any]:
    """What the flags and `--set` change, flags last; every value still text."""
    changes: dict[str, Any] = {}
    faults = []
    for each in given.set:
        key, equals, value = each.partition("=")
        if not equals:
            faults.append(Fault(f"--set {each}: must be KEY=VALUE, for example --set learning_rate=1e-4."))
        changes[key.strip().removeprefix("--")] = value
    if faults:
        raise ConfigError(faults)
    for key, value in vars(given).items():
        if key.startswith("option:"):
            changes[key.removeprefix("option:")] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return changes


def _resolve(given: argparse.Namespace, base: Mapping[str, Any] | None = None) -> tuple[RunConfig, str | None]:
    """(the config that the command line asks for, the preset's name). Faults of file, --set and flags come together."""
    if base is None:
        base = {}
        if given.preset is not None:
            base = find_preset(given.preset, _runs_dir(given)).changes
        elif given.config is not None:
            # Bare keys, so that a flag replaces the key of the file however it is written there.
            written = read_flat(given.config)
            base = {str(key).removeprefix("--"): value for key, value in written.items()}
            if len(base) < len(written):
                config_from_flat(written)  # the same key bare and with dashes: refused there, with its name
    return config_from_flat({**base, **_changes(given)}), given.preset


# ---- ui


def _ui(given: argparse.Namespace) -> int:
    if given.port is not None and not 1 <= given.port <= 65535:
        raise ConfigError([Fault(f"--port {given.port}: must be 1 to 65535.")])
    from ..page import serve  # imports Gradio: seconds

    return serve(port=given.port, runs_dir=given.runs_dir, open_browser=not given.no_browser)


# ---- train


def _train(given: argparse.Namespace) -> int:
    store_root = given.runs_dir
    if given.resume is not None:
        return _resume(given)
    config, preset = _resolve(given)
    store = None
    run_dir = None
    if given.run_name is not None:
        from ...core.runs.store import check_name

        check_name(given.run_name)
        run_dir = (Path(store_root) if store_root is not None else default_runs_dir()) / given.run_name
    if given.dry_run:
        print(json.dumps(config_to_flat(config), indent=2, ensure_ascii=False))
    _tell(config)
    if not _preflight(config, run_dir, store_root):
        return BAD_CONFIG
    if given.dry_run:
        _say("Dry run: everything above is in order; nothing was trained.")
        return DONE
    store = RunStore(store_root)
    run = store.create(config, given.run_name, preset)
    _say(f"Run {run.name} in {run.path}")
    return _follow(run, resume=False)


def _resume(given: argparse.Namespace) -> int:
    extra = [name for name in ("preset", "config", "run_name") if getattr(given, name) is not None]
    extra += list(_changes(given))
    if extra:
        raise ConfigError([
            Fault(f"--resume {given.resume}: a run goes on with its own config, so {', '.join(extra)} cannot be given; start a new run for that.")
        ])  # fmt: skip
    store = RunStore(given.runs_dir)
    run = store.get(given.resume)
    summary = store.summary(run)
    if summary.alive:
        raise RunError(f"Run {run.name} is running already.")
    if summary.last_checkpoint is None:
        raise RunError(f"Run {run.name} has no checkpoint to go on from. Start it anew under another name.")
    config = config_from_flat(run.read_config())
    if given.dry_run:
        print(json.dumps(config_to_flat(config), indent=2, ensure_ascii=False))
        _tell(config)
        _say(f"Dry run: {run.name} would go on from step {summary.last_checkpoint}; nothing was trained.")
        return DONE
    _say(f"Run {run.name} in {run.path}, from step {summary.last_checkpoint}")
    return _follow(run, resume=True)


def _runs_dir(given: argparse.Namespace) -> Path:
    return default_runs_dir() if given.runs_dir is None else given.runs_dir


def default_runs_dir() -> Path:
    """Where runs are kept when nobody says otherwise."""
    from ...core.runs.store import DEFAULT_ROOT, ROOT_VARIABLE

    return Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT))


def _tell(config: RunConfig) -> None:
    changed = differences(config)
    _say("Differences from the defaults:" if changed else "Everything is at its default.")
    for name, value in changed.items():
        _say(f"  {name} = {shown(value)}")
    _say(cost_sentence(config))


def cost_sentence(config: RunConfig) -> str:
    """What the rollout of a config costs at its highest chance, in words."""
    training = config.training
    # unset: on for a flow model; where only the checkpoint can say, the dearer case is told
    reflexflow = config.rollout.reflexflow is not False and config.model.is_flow() is not False
    plain = plain_step_in_forwards(training.model_type, training.gradient_checkpointing)
    return f"Cost of a step: {expected_cost(config.rollout, plain, reflexflow)}."


def _preflight(config: RunConfig, run_dir: Path | None, runs_dir: Path | None) -> bool:
    """Print every finding; False when one of them forbids to start."""
    from ...core.before.preflight import preflight

    findings = preflight(config, run_dir=run_dir, runs_dir=runs_dir if runs_dir is not None else default_runs_dir())
    if findings:
        _say(format_findings(findings))
    return not has_errors(findings)


def _follow(run: Any, *, resume: bool) -> int:
    from ...core.train.trainer import train  # imports torch: seconds

    _use_all_cores()
    progress = Progress(sys.stderr)
    try:
        return train(run, resume=resume, listen=progress)
    finally:
        progress.close()


class Progress:
    """Shows a run's events as they come: bars on a terminal, a line every few seconds elsewhere. Call it with an event."""

    EVERY_S = 10.0  # between two lines where there is no terminal

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._bar: Any = None
        self._bar_name: str | None = None
        self._total_steps: int | None = None
        self._last_line = float("-inf")

    def __call__(self, event: Mapping[str, Any]) -> None:
        handler = getattr(self, f"_on_{event['event'].replace('-', '_')}", None)
        if handler is not None:
            handler(event)

    def phase(self, name: str, done: int, total: int) -> None:
        """Show how far a phase is, outside a run."""
        self({"event": "phase", "name": name, "done": done, "total": total})

    def close(self) -> None:
        """Finish the bar that is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = self._bar_name = None

    def _advance(self, name: str, done: int, total: int | None, note: str = "") -> None:
        if not self._terminal:
            now, last = self._clock(), total is not None and done >= total
            if now - self._last_line >= self.EVERY_S or last or name != self._bar_name:
                self._last_line, self._bar_name = now, name
                print(
                    f"{name}: {done}{f'/{total}' if total is not None else ''}{f'  {note}' if note else ''}",
                    file=self._stream,
                    flush=True,
                )
            return
        if name != self._bar_name:
            self.close()
            from tqdm import tqdm

            # Of a training the run's own speed and time left stand in the note; tqdm's would be others beside them.
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}" if name == "training" else None
            self._bar = tqdm(total=total, desc=name, file=self._stream, dynamic_ncols=True, initial=done, bar_format=form)
            self._bar_name = name
        self._bar.n = done
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.refresh()

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self._total_steps = event.get("total_steps")
        resumed = event.get("resumed_from")
        self._line(
            f"Training on {event.get('device')}{f', resumed from step {resumed}' if resumed is not None else ''}."
        )

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        name = str(event["name"])
        self._advance(PHASES.get(name, name), event.get("done", 0), event.get("total"))

    def _on_step(self, event: Mapping[str, Any]) -> None:
        loss = event["loss"]  # NaN and infinities arrive as text
        note = f"loss {loss:.4f}" if isinstance(loss, int | float) else f"loss {loss}"
        if event.get("rolled_rows"):
            note += f", {event['rolled_rows']} rolled"
        if isinstance(event.get("step_s"), int | float):
            note += f", {event['step_s']:.3g} s a step"
        if event.get("eta_s") is not None:
            note += f", {human_time(event['eta_s'])} left"
        self._advance("training", event["step"], self._total_steps, note)

    def _on_sample(self, event: Mapping[str, Any]) -> None:
        images = event["images"]
        where = f" in {Path(images[0]['path']).parent.as_posix()}" if images else ""
        self._line(f"Step {event['step']}: {len(images)} samples{where}")

    def _on_drift(self, event: Mapping[str, Any]) -> None:
        self._line(f"Step {event['step']}: drift report {event['path']}")

    def _on_saved(self, event: Mapping[str, Any]) -> None:
        self._line(f"Step {event['step']}: checkpoint {event['path']}")

    def _on_exported(self, event: Mapping[str, Any]) -> None:
        check = event.get("check")
        told = ""
        if isinstance(check, Mapping) and "used" in check and "total" in check:
            told = f" (loaded again: {check['used']} of {check['total']} tensors used)"
        self._line(f"Step {event['step']}: exported {event['path']}{told}")

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self._line(f"Warning: {event['message']} {event.get('remedy') or ''}".rstrip())

    def _on_error(self, event: Mapping[str, Any]) -> None:
        self._line(f"Error: {event['message']} {event.get('remedy') or ''}".rstrip())

    def _on_paused(self, event: Mapping[str, Any]) -> None:
        self._line("Paused.")

    def _on_resumed(self, event: Mapping[str, Any]) -> None:
        self._line("Going on.")

    def _on_end(self, event: Mapping[str, Any]) -> None:
        self.close()
        self._line(f"{str(event['state']).capitalize()} at step {event['step']}.")


def human_time(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    if not isinstance(seconds, int | float):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# ---- sample, drift


def _empty_folder(folder: Path) -> Path:
    """`folder` itself, not made yet. Raises ConfigError when something lies in it: a result never overwrites another."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Fault(f"--out {folder}: exists and is not an empty folder; name a new one.")])
    return folder


def _sample(given: argparse.Namespace) -> int:
    if (given.run_name is None) == (given.model is None):
        raise ConfigError([Fault("sample: name either --run RUN or --model M.")])
    run = None
    if given.run_name is not None:
        if given.lora is not None:
            raise ConfigError(
                [Fault(f"--lora {given.lora}: --run draws with the run's own weights; name the model with --model.")]
            )
        run = RunStore(given.runs_dir).get(given.run_name)
        config = config_from_flat(run.read_config())
    else:
        config = config_from_flat({"pretrained_model_name_or_path": given.model})
    _only_with_run(given)
    if given.lora is not None:
        from ...core.adapters.lora_file import look

        look(given.lora)  # what its header tells is told before seconds are spent on a model
    steps = config.validation.num_inference_steps if given.steps is None else given.steps
    guidance = config.validation.guidance if given.guidance is None else given.guidance
    with_changes(
        config,
        {"validation_num_inference_steps": steps, "validation_guidance": guidance, "validation_seed": given.seed},
    )
    out = _empty_folder(given.out)

    from ...core.families import load_model  # what follows imports torch and diffusers: seconds

    height, width = given.height, given.width
    found = None
    if run is not None:
        from ...core.look.revisit import open_checkpoint, put_on

        with _core_refusals():
            found = open_checkpoint(run, given.checkpoint)
    _use_all_cores()
    model = load_model(config.model, for_training=False)
    if found is not None:
        put_on(model, config, found)
        side = config.data.resolution // model.size_multiple * model.size_multiple
        height, width = side if height is None else height, side if width is None else width
    if given.lora is not None:
        from ...core.adapters.loading import load_lora

        _say(f"{given.lora}: {load_lora(model, given.lora, 'given')}.")
    progress = Progress(sys.stderr)
    try:
        pictures = model.sample(
            given.prompt, steps=steps, guidance=guidance, negative_prompt=given.negative_prompt, seed=given.seed, height=height,
            width=width, on_picture=lambda done, total: progress.phase("samples", done, total),
        )  # fmt: skip
    finally:
        progress.close()
    out.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        path = out / f"{number:03d}.png"
        picture.save(path)
        print(path)
    return DONE


def _only_with_run(given: argparse.Namespace) -> None:
    if given.checkpoint is not None and given.run_name is None:
        raise ConfigError([Fault(f"--checkpoint {given.checkpoint}: only a run has checkpoints; name it with --run.")])


def _drift(given: argparse.Namespace) -> int:
    run = None
    _only_with_run(given)
    if given.run_name is not None:
        if given.preset is not None or given.config is not None:
            raise ConfigError([Fault("drift: --run brings its own config; leave --preset and --config out.")])
        run = RunStore(given.runs_dir).get(given.run_name)
        config, _ = _resolve(given, run.read_config())
    else:
        config, _ = _resolve(given)
    if not _preflight(config, None, given.runs_dir):
        return BAD_CONFIG
    out = _empty_folder(given.out)

    from ...core.before.preflight import cache_folder
    from ...core.look.drift.report import words
    from ...core.look.revisit import measure_drift, open_checkpoint  # imports torch: seconds

    cache = cache_folder(config, given.runs_dir if given.runs_dir is not None else default_runs_dir())
    progress = Progress(sys.stderr)
    _use_all_cores()
    try:
        with _core_refusals():
            found = None if run is None else open_checkpoint(run, given.checkpoint)
            report = measure_drift(config, out, cache.absolute(), found, progress.phase)
    finally:
        progress.close()
    for line in words(report):
        print(line)
    print(out / "report.json")
    return DONE


@contextmanager
def _core_refusals() -> Iterator[None]:
    """What the parts that need torch refuse is a person's to mend too: a message, not a crash."""
    from ...core.data import DatasetError
    from ...core.runs.checkpoint import CheckpointError

    try:
        yield
    except (CheckpointError, DatasetError) as error:
        raise ConfigError([Fault(str(error))]) from error


def _use_all_cores() -> None:
    from ...core.train.worker import use_all_cores

    use_all_cores()


# ---- runs


def _runs(given: argparse.Namespace) -> int:
    store = RunStore(given.runs_dir)
    try:
        store.reconcile()
        if given.action == "list":
            store.pump()  # a queue moves whenever somebody looks
    except StorageError as error:  # a full or read-only disk: what is there can still be looked at
        _say(f"{error} Until then no waiting run starts.")
    if given.action == "list":
        return _list_runs(store, as_json=given.json)
    if given.name is None:
        raise RunError(f"rollout-studio runs {given.action} needs the name of a run; `rollout-studio runs` lists them.")
    if given.action == "show":
        return _show_run(store, given.name, as_json=given.json)
    if given.action == "log":
        print(store.get(given.name).log_tail(), end="")
    elif given.action == "delete":
        run = store.get(given.name)
        if not given.yes and not _agreed(f"Delete run {given.name} with everything in {run.path}?"):
            _say("Kept.")
            return DONE
        store.delete(given.name)
        _say(f"Deleted {given.name}.")
    else:
        store.send(given.name, given.action)
        _say(f"Sent {given.action} to {given.name}; it is heard at once, sample and drift when the current step is over.")
    return DONE


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise RunError(f"{question} There is nobody to ask here; say --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _row(summary: Any) -> dict[str, Any]:
    return {
        "name": summary.name,
        "state": summary.state,
        "step": summary.step,
        "total_steps": summary.total_steps,
        "last_checkpoint": summary.last_checkpoint,
        "preset": summary.preset,
        "message": summary.message,
        "path": str(summary.path),
    }


def _list_runs(store: RunStore, *, as_json: bool) -> int:
    summaries = store.list()
    if as_json:
        print(json.dumps([_row(summary) for summary in summaries], indent=2, ensure_ascii=False))
        return DONE
    if not summaries:
        print(f"No runs in {store.root} yet. Start one: rollout-studio train --preset demo")
    for summary in summaries:
        at = (
            ""
            if summary.step is None
            else f"step {summary.step}" + ("" if summary.total_steps is None else f" of {summary.total_steps}")
        )
        print(f"{summary.name:<32}  {summary.state:<9} {at:<20} {summary.message or ''}".rstrip())
    return DONE


def _show_run(store: RunStore, name: str, *, as_json: bool) -> int:
    run = store.get(name)
    row = _row(store.summary(run))
    changed = differences(config_from_flat(run.read_config()))
    if as_json:
        print(json.dumps({**row, "differences": changed}, indent=2, ensure_ascii=False))
        return DONE
    for key, value in row.items():
        if value is not None:
            print(f"{key}: {value}")
    print("differences from the defaults:")
    for key, value in changed.items():
        print(f"  {key} = {shown(value)}")
    failure = store.failure(name)
    if failure is not None:
        print(f"last error: {failure['message']} {failure.get('remedy') or ''}".rstrip())
    return DONE


# ---- options, presets


def _options(given: argparse.Namespace) -> int:
    if given.json:
        print(json.dumps(as_data(), indent=2, ensure_ascii=False))
    else:
        print(as_markdown() if given.markdown else as_text(), end="")
    return DONE


def _presets(given: argparse.Namespace) -> int:
    runs_dir = _runs_dir(given)
    if given.name is None:
        own, broken = own_presets(runs_dir)
        for preset in (*(read_preset(name) for name in preset_names()), *own):
            mark = "" if preset.file is None else " (yours)"
            print(f"{preset.name}: {preset.title}{mark}\n    {preset.description}\n    Needs: {preset.needs}")
        for wrong in broken.values():
            _say(f"Cannot be used: {wrong}")
        return DONE
    preset = find_preset(given.name, runs_dir)
    print(json.dumps(dict(preset.changes), indent=2, ensure_ascii=False))
    return DONE
