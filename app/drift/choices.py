"""What can be looked at on the Drift tab (pictures, weights, solvers), and the preview request that a choice stands for.

No components here: values in, choices and `core.look.preview.request` records out. A value comes back from the browser, where a
person may have written it by hand, so it is looked up again in what is there now.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.config import OPTIONS, RunConfig, config_from_flat, config_to_flat, load_preset, preset_names, read_preset
from ...core.config.options import ConfigError, Fault
from ...core.data import scan, split_holdout
from ...core.data.captions import BadCaption
from ...core.data.captions import decode as decode_caption
from ...core.data.holdout import scan_probe
from ...core.data.scanning import located
from ...core.look.drift.report import Role
from ...core.look.preview.request import RELEVANT, SHOWCASE, pictures_in
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary

BASE, NOTHING, NOW, EXPORTED = "base", "nothing", "now", "lora"
FIRST_MODEL = "demo"
MOST_PICTURES = 12  # shown of one kind
_SAME_MODEL = ("pretrained_model_name_or_path", "revision", "variant", "pretrained_components")
_SAMPLER, _ORDER = OPTIONS["scheduled_sampling_sampler"], OPTIONS["scheduled_sampling_order"]


# Pictures ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """One picture to look at. `role`: whether the run it comes from trained on it."""

    path: Path
    caption: str
    role: Role
    group: str

    @property
    def key(self) -> str:
        """How the browser names it."""
        return hashlib.blake2b(str(self.path).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def caption_beside(path: Path) -> str:
    """The caption in the text file beside a picture; "" where there is none that can be read."""
    try:
        return decode_caption(path.with_suffix(".txt").read_bytes())[0]
    except (OSError, BadCaption):
        return ""  # the prompt's field is then empty, and asks for one


def built_in() -> list[Picture]:
    """The pictures that come along: held out of the demo's training."""
    return [
        Picture(path, caption_beside(path), "held-out", "Built in, never trained on")
        for path in pictures_in(located(SHOWCASE))
    ]


def pictures_of_run(name: str, flat: Mapping[str, Any]) -> list[Picture]:
    """A run's held-out pictures and those it trained on, as far as they are still there. Reads the folders."""
    try:
        config = config_from_flat(flat)
    except ConfigError:
        return []  # a run of another version; its weights can be looked at with other pictures
    trained, held_out = split_holdout(scan(config.data), config.drift)
    probe, _ = scan_probe(config.data, config.drift)
    found = []
    for items, role, group in (
        ((*probe, *held_out), "held-out", f"Held out of {name}"),
        (trained, "training", f"Trained on by {name}"),
    ):
        found += [Picture(item.path, item.caption, role, group) for item in items[:MOST_PICTURES]]
    return found


def without_copies(pictures: Iterable[Picture]) -> list[Picture]:
    """Each file once, where it stands first."""
    found: dict[str, Picture] = {}
    for picture in pictures:
        found.setdefault(picture.key, picture)
    return list(found.values())


# Weights -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """Weights that were chosen: as a request names them, and the flat config that they belong to."""

    checkpoint: Any
    config: dict[str, Any]
    label: str
    run: str | None = None
    live: bool = False


class Shelf:
    """The checkpoints and exported LoRAs of runs, looked at again only when their folders changed."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, list[Any]]] = {}

    def checkpoints(self, run: Path) -> list[int]:
        """Steps of which there is a whole checkpoint, the newest first."""
        return self._listed(run / "checkpoints", _steps)

    def loras(self, run: Path) -> list[Path]:
        return self._listed(run / "lora", lambda folder: sorted(folder.glob("*.safetensors")))

    def reports(self, run: Path) -> list[int]:
        """Steps at which the run measured its drift."""
        return self._listed(
            run / "drift",
            lambda folder: sorted(_step(path) for path in folder.glob("step-*") if _step(path) is not None),
        )

    def _listed(self, folder: Path, look: Any) -> list[Any]:
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            self._seen.pop(folder, None)
            return []
        seen = self._seen.get(folder)
        if seen is None or seen[0] != changed:
            seen = self._seen[folder] = (changed, look(folder))
        return seen[1]


def _step(path: Path) -> int | None:
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _steps(folder: Path) -> list[int]:
    found = [_step(path.parent) for path in folder.glob("step-*/manifest.json")]
    return sorted((step for step in found if step is not None), reverse=True)


def bases() -> list[tuple[str, str]]:
    """(title, value) of the base models of the presets."""
    return [(f"Base model · {read_preset(name).title.partition(':')[0]}", f"{BASE}/{name}") for name in preset_names()]


def base_of(config: RunConfig) -> str | None:
    """The value of the base model that this config starts from; None where no preset has it."""
    flat = config_to_flat(config)
    return next(
        (value for _, value in bases() if same_model(flat, config_to_flat(load_preset(value.partition("/")[2])))), None
    )


def preset_of(config: RunConfig, otherwise: str) -> str:
    """The preset that has this config's model; `otherwise` where none has it."""
    base = base_of(config)
    return otherwise if base is None else base.partition("/")[2]


def same_model(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two flat configs start from the same checkpoint."""
    return all(first.get(name) == second.get(name) for name in _SAME_MODEL)


def weights_choices(runs: Sequence[RunSummary], shelf: Shelf, keep: str | None = None) -> list[tuple[str, str]]:
    """(words, value) of all weights: base models, then of each run those of now, the exported ones and its checkpoints.

    `keep`: a value that stays in the list even when it is gone, so that a choice does not disappear while it is shown.
    """
    found = bases()
    for run in runs:
        if run.alive:
            found.append((f"{run.name} · now, while it trains", f"run/{run.name}/{NOW}"))
        if (run.path / "lora" / f"{run.name}.safetensors") in shelf.loras(run.path):
            found.append((f"{run.name} · exported LoRA", f"run/{run.name}/{EXPORTED}"))
        found += [(f"{run.name} · step {step}", f"run/{run.name}/{step}") for step in shelf.checkpoints(run.path)]
    return _keeping(found, keep)


def against_choices(runs: Sequence[RunSummary], shelf: Shelf, keep: str | None = None) -> list[tuple[str, str]]:
    """What the weights can be compared with."""
    of_runs = [each for each in weights_choices(runs, shelf) if each[1].startswith("run/")]
    return _keeping([("nothing", NOTHING), ("its base model", BASE), *of_runs], keep)


def _keeping(choices: list[tuple[str, str]], keep: str | None) -> list[tuple[str, str]]:
    if keep is None or keep in [value for _, value in choices]:
        return choices
    _, _, rest = keep.partition("/")
    name, _, what = rest.partition("/")
    gone = f"{name} · now (it has ended)" if what == NOW else f"{name} · {what} (gone)"
    return [*choices, (gone, keep)]


def chosen(value: Any, runs: Sequence[RunSummary]) -> Chosen:
    """The weights behind a value of `weights_choices`. Raises ConfigError, with a fault of `checkpoints`."""

    def wrong(message: str) -> ConfigError:
        return ConfigError([Fault(message, ("checkpoints",))])

    kind, _, rest = value.partition("/") if isinstance(value, str) else ("", "", "")
    if kind == BASE and rest in preset_names():
        return Chosen(BASE, _relevant(config_to_flat(load_preset(rest))), "base")
    name, _, what = rest.partition("/")
    run = next((run for run in runs if run.name == name), None) if kind == "run" else None
    if run is None:
        raise wrong(
            f"There is no run '{name}' any more; choose other weights." if name else "Choose the weights to look at."
        )
    try:
        flat = _relevant(RunDir(run.path).read_config())
    except RunError as error:
        raise wrong(str(error)) from error
    path = str(run.path)
    if what == NOW:
        if not run.alive:
            raise wrong(
                f"{name} has ended, so it has no weights of now; choose its exported LoRA or its last checkpoint."
            )
        return Chosen({"run": path, "live": True}, flat, f"{name}, now", name, live=True)
    if what == EXPORTED:
        label = f"{name}, exported"
        return Chosen({"lora": str(run.path / "lora" / f"{name}.safetensors"), "label": label}, flat, label, name)
    if what.isascii() and what.isdigit():
        return Chosen({"run": path, "step": int(what)}, flat, f"{name}, step {int(what)}", name)
    raise wrong(f"'{what}' are no weights of {name}; choose from the list.")


def pair(weights: Any, against: Any, runs: Sequence[RunSummary]) -> tuple[list[Any], dict[str, Any]]:
    """The checkpoints of a request and the config they share. Raises ConfigError; faults of the second choice are `against`'s."""
    first = chosen(weights, runs)
    if against == NOTHING:
        return [first.checkpoint], first.config

    def wrong(message: str) -> ConfigError:
        return ConfigError([Fault(message, ("against",))])

    if against == BASE:
        if first.checkpoint == BASE:
            raise wrong("These are the base model's weights already; choose a run to compare them with, or nothing.")
        return [BASE, first.checkpoint], first.config
    try:
        second = chosen(against, runs)
    except ConfigError as error:
        raise ConfigError([Fault(fault.message, ("against",)) for fault in error.faults]) from error
    if second.checkpoint == first.checkpoint:
        raise wrong("The same weights stand on both sides; choose other ones, or nothing.")
    other = [name for name in _SAME_MODEL if first.config.get(name) != second.config.get(name)]
    if other:
        here, there = (each.config.get(_SAME_MODEL[0]) for each in (first, second))
        raise wrong(
            f"{second.label} belongs to the model {there}, {first.label} to {here}: compare weights of one model."
        )
    return [first.checkpoint, second.checkpoint], (first if first.run is not None else second).config


def _relevant(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What a preview takes from a run's config: the model and the shape of its pictures. Solver and grid are the tab's own fields."""
    return {
        name: value
        for name, value in flat.items()
        if name in RELEVANT and not name.startswith(("scheduled_sampling_", "drift_"))
    }


# Solvers -------------------------------------------------------------------------------------------------------------


def has_order(sampler: str) -> bool:
    """Whether the option's `order` means something for this solver: whether another one than the default is taken."""
    return len(_orders(sampler)) > 1


def solver_choices() -> list[tuple[str, str]]:
    """(words, value) of every solver to compare with, each with every order it has."""
    found = [("nothing", NOTHING)]
    for sampler in _SAMPLER.choices:
        orders = _orders(sampler)
        for order in orders:
            found.append((f"{sampler}, order {order}" if len(orders) > 1 else sampler, f"{sampler}/{order}"))
    return found


def solver(value: str) -> dict[str, Any]:
    """The solver behind a value of `solver_choices`, as a request names it. Raises ConfigError with a fault of `samplers`."""
    if value not in [each for _, each in solver_choices()]:
        raise ConfigError([Fault("Choose the second solver from the list.", ("samplers",))])
    name, _, order = value.partition("/")
    return {"sampler": name, "order": int(order)}


def _orders(sampler: str) -> list[int]:
    return _ORDERS[sampler]


def _valid_orders(sampler: str) -> list[int]:
    found = []
    for order in range(_ORDER.minimum, _ORDER.maximum + 1):
        try:
            config_from_flat({_SAMPLER.name: sampler, _ORDER.name: order})
        except ConfigError:
            continue  # the config's own rule: this solver has no such order
        found.append(order)
    return found


_ORDERS = {sampler: _valid_orders(sampler) for sampler in _SAMPLER.choices}
