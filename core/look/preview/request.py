"""What is shown of a model's drift: one record for the page, the graph, the preview worker and the trainer.

No torch: the page builds and checks requests, and knows by `PreviewRequest.key` when two of them are the same
picture. `answer.py` answers them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...config import OPTIONS, RunConfig, config_from_flat, config_to_flat
from ...config.options import Checked, ConfigError, Fault, Option, did_you_mean, option, options_of, shown
from ...data.beside import crop_path, is_beside
from ...data.captions import BadCaption
from ...data.captions import decode as decode_caption
from ...data.pictures import SUFFIXES
from ...data.scanning import located
from ...errors import Trouble
from ..drift.correction import CORRECTION_OPTIONS, SamplingCorrection, correction_of
from ..drift.report import Role

KINDS = ("strip", "curves", "spectrum")
"""What can be requested: the filmstrip, the curves (with report.json and CSV), the map of frequencies."""

SHOWCASE = "demo-dreambooth-heldout"
"""The built-in pictures that the page offers before one is chosen."""

SO_FAR = "so-far.json"
"""In the folder of an answer that a running run makes: what there is of it (`growing.Noted`)."""

_PLACES = ("resolution", "aspect_buckets", "bucket_step", "center_crop")
_ROLLOUT = tuple("scheduled_sampling_" + name for name in ("sampler", "order", "grid", "grid_steps"))
_MEASURE = ("drift_guidance", "drift_seed", "drift_fine_factor")
RELEVANT = (
    *(name for name, each in OPTIONS.items() if each.section == "model"),
    "flow_schedule_shift",
    *_PLACES,
    *_ROLLOUT,
    *_MEASURE,
)
"""The options that a preview depends on. All others of a config may be there, even wrong ones, and change nothing."""

_SHORT = {name.removeprefix("scheduled_sampling_").removeprefix("drift_"): name for name in (*_ROLLOUT, *_MEASURE)}
"""`sampler`, `guidance`, `seed` and so on of a request -> the option that they stand for; they win over the config's."""

MOST_CHECKPOINTS, MOST_SAMPLERS, MOST_VARIANTS = 4, 4, 6
MOST_LORAS, LARGEST_STRENGTH = 4, 4.0
"""LoRAs that act at once; how strongly one may act: 0 = not at all, 1 = as trained, below 0 = the other way."""
SAME_MODEL = ("pretrained_model_name_or_path", "revision", "variant", "pretrained_components")
"""What must be equal in the configs of a run and of the request that shows its checkpoint."""


class PreviewError(Trouble):
    """A preview cannot be made: `message`: the reason, `remedy`: what to do. The worker goes on."""


@dataclass(frozen=True, kw_only=True)
class View(Checked):
    """Which part of the path is shown, and how closely. Declared like options, so that a form can be made of it."""

    prefix: ClassVar[str] = ""

    target: float = option(
        0.2,
        "Noise level at which the rollout ends: 0 = the picture, 1 = noise. For a flow model this is sigma.",
        label="Noise level where the rollout ends",
        ge=0.01,
        le=0.99,
    )
    offset: int = option(
        10,
        "The rollout starts so many grid steps noisier than it ends, from the true picture with its noise. Less where the "
        "schedule begins before.",
        label="Steps the model takes alone",
        unit="grid steps",
        ge=1,
        le=1000,
    )
    start: Literal["picture", "noise"] = option(
        "picture",
        "From the true picture with noise on it, as in training, or from pure noise, as in use.",
        label="Where the rollout starts",
    )
    columns: int = option(
        9, "Pictures in the filmstrip, at most.", label="Pictures in the filmstrip", unit="pictures", ge=2, le=31
    )
    samples: int = option(
        4, "Noises that the curves are averaged over.", label="Noises averaged over", unit="noises", ge=1, le=64
    )


VIEW_OPTIONS: dict[str, Option] = {each.name: each for each in options_of(View, "view")} | CORRECTION_OPTIONS
"""The fields of `View` and `SamplingCorrection`, as options: for a form's sliders, their bounds and their help."""


@dataclass(frozen=True)
class Weights:
    """Which weights to show: the base model's, a LoRA file's, a run's checkpoint, or those of a run that trains now.

    `path`: of the LoRA file or the run's folder; `step`: of the checkpoint. `label` names the curve and the strip.
    `strength`: what the LoRA's change is multiplied by. `beside`: LoRAs that act at the same time, each with its own strength.
    """

    kind: Literal["base", "lora", "run", "live"]
    path: Path | None
    step: int | None
    label: str
    strength: float = 1.0
    beside: tuple["Weights", ...] = ()

    @property
    def checkpoint(self) -> Path:
        """The folder of a run's checkpoint."""
        return self.path / "checkpoints" / f"step-{self.step:06d}"

    @property
    def is_base(self) -> bool:
        return self.kind == "base"

    @property
    def together(self) -> tuple["Weights", ...]:
        """Everything that acts at once: none for the base."""
        return () if self.is_base else (self, *self.beside)

    @property
    def is_plain(self) -> bool:
        """One LoRA or checkpoint as it was trained, or the base."""
        return self.strength == 1 and not self.beside


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """A checked request. `resolution` None: the size of picture that the model makes by default. `prompt` None: the
    caption beside the picture.
    """

    config: RunConfig
    resolution: int | None
    by_solver: tuple[RunConfig, ...]  # one for each solver compared: `config` with that solver
    weights: tuple[Weights, ...]
    image: str
    prompt: str | None
    view: View
    correction: SamplingCorrection
    what: tuple[str, ...]
    role: Role

    proof: ClassVar[str] = "report.json"
    """The file without which an answer in a folder is not whole."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "PreviewRequest":
        """The request that a JSON object describes.

        Keys: `config` (flat options; only `RELEVANT` ones matter), `checkpoints` (list of "base", {"lora": file},
        {"run": folder, "step": n}, {"run": folder, "live": true}, each with an optional "label", "strength" (a number) and
        "beside" (a list of LoRAs and checkpoints that act at the same time)), `image` (a file, a
        folder, or a built-in name with an optional "/stem"), `prompt`, the fields of `View` and of `SamplingCorrection` (each rollout is
        shown without and with it), `sampler`, `order`, `grid`,
        `grid_steps`, `guidance`, `seed`, `fine_factor`, `samplers` (list of {"sampler", "order"}: solver against
        solver), `what` (one or more of `KINDS`), `role`.

        Raises: ConfigError with every fault.
        """
        faults: list[Fault] = []
        known = {"config", "checkpoints", "image", "prompt", "samplers", "what", "role", *_SHORT, *VIEW_OPTIONS}
        for name in sorted(set(record) - known):
            faults.append(Fault(f"Unknown key '{name}' of a preview.{did_you_mean(name, known)}", (name,)))

        given = record.get("config", {})
        if not isinstance(given, Mapping):
            faults.append(Fault("config: must be an object of flat options.", ("config",)))
            given = {}
        # Unknown names go through, so that they are reported; other options of a training do not matter here.
        flat = {
            name: value for name, value in given.items() if name in RELEVANT or name.removeprefix("--") not in OPTIONS
        }
        flat |= {_SHORT[name]: record[name] for name in _SHORT if record.get(name) is not None}
        configs = faults_of(faults, lambda: _configs(flat, record.get("samplers")))
        view = faults_of(
            faults, lambda: View(**{f.name: record[f.name] for f in fields(View) if record.get(f.name) is not None})
        )
        correction = faults_of(faults, lambda: correction_of(record))
        weights = faults_of(faults, lambda: read_weights(record.get("checkpoints", ["base"])))
        ways = () if correction is None else correction.ways
        if configs and weights and len(configs) * len(weights) * len(ways) > MOST_VARIANTS:
            also = ", each without and with the correction" if len(ways) > 1 else ""
            faults.append(
                Fault(
                    f"{len(weights)} checkpoints x {len(configs)} solvers{also}: at most {MOST_VARIANTS} together; leave some out.",
                    ("checkpoints", "samplers"),
                )
            )
        what = record.get("what", ["strip"])
        what = [what] if isinstance(what, str) else what
        if not isinstance(what, list | tuple) or not what or set(map(str, what)) - set(KINDS):
            faults.append(Fault(f"what = {shown(what)}: must be one or more of {', '.join(KINDS)}.", ("what",)))
        image, prompt, role = record.get("image"), record.get("prompt"), record.get("role", "held-out")
        if not isinstance(image, str) or not image.strip() or "\0" in image:
            faults.append(Fault("image: no picture is chosen. Choose a file, or a built-in picture.", ("image",)))
        if prompt is not None and not isinstance(prompt, str):
            faults.append(Fault(f"prompt = {shown(prompt)}: must be text.", ("prompt",)))
        if role not in ("held-out", "training"):
            faults.append(Fault(f"role = {shown(role)}: must be held-out or training.", ("role",)))
        if faults:
            raise ConfigError(faults)
        resolution = configs[0].data.resolution if flat.get("resolution") is not None else None
        return cls(
            config=configs[0], resolution=resolution, by_solver=tuple(configs), weights=weights, image=image,
            prompt=prompt, view=view, correction=correction, what=tuple(kind for kind in KINDS if kind in what), role=role,
        )  # fmt: skip

    @property
    def live(self) -> Weights | None:
        """The running run that must answer this itself; None when the worker can."""
        return next((each for each in self.weights if each.kind == "live"), None)

    @cached_property
    def picture(self) -> Path:
        """The picture's file. Raises PreviewError where there is none."""
        return find_picture(self.image)

    def text(self) -> str:
        """The prompt: as given, else the caption in the text file beside the picture. Raises PreviewError for neither."""
        if self.prompt is not None and self.prompt.strip():
            return self.prompt.strip()
        file = self.picture.with_suffix(".txt")
        try:
            caption, _ = decode_caption(file.read_bytes())
        except FileNotFoundError:
            caption = ""
        except (OSError, BadCaption) as error:
            raise PreviewError(f"The caption {file} cannot be used: {error}.", "Write a prompt.") from error
        if not caption:
            raise PreviewError(f"{self.picture.name} has no caption beside it.", "Write a prompt for it.")
        return caption

    def key(self) -> str:
        """Equal for two requests that show the same: the settings, and the files (by place, size and time) behind them.

        Raises: PreviewError where the picture is missing. A missing checkpoint is reported by the worker.
        """
        flat = config_to_flat(self.config)
        parts = [
            {name: flat[name] for name in RELEVANT}, self.resolution,
            [[each.rollout.sampler, each.rollout.order] for each in self.by_solver],
            [weights_mark(each) for each in self.weights],
            _stamp(self.picture), _stamp(crop_path(self.picture)), self.text(), {f.name: getattr(self.view, f.name) for f in fields(self.view)},
            self.correction.record, self.what, self.role,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]


def faults_of(faults: list[Fault], action: Callable[[], Any]) -> Any:
    """What `action` gives; its faults are put to the others, and then None."""
    try:
        return action()
    except ConfigError as error:
        faults += error.faults
        return None


def _configs(flat: Mapping[str, Any], samplers: Any) -> list[RunConfig]:
    """The config for each solver that is compared."""
    if samplers is None:
        return [config_from_flat(flat)]
    if not isinstance(samplers, list | tuple) or not 1 <= len(samplers) <= MOST_SAMPLERS:
        raise ConfigError([Fault(f"samplers: must be a list of 1 to {MOST_SAMPLERS} solvers.", ("samplers",))])
    found: list[RunConfig] = []
    faults: list[Fault] = []
    for each in samplers:
        each = {"sampler": each} if isinstance(each, str) else each
        if not isinstance(each, Mapping) or set(each) - {"sampler", "order"}:
            faults.append(Fault(f'samplers: {shown(each)} must be {{"sampler": name, "order": n}}.', ("samplers",)))
            continue
        bare = {name: value for name, value in flat.items() if name not in (_SHORT["sampler"], _SHORT["order"])}
        config = faults_of(
            faults, lambda bare=bare, each=each: config_from_flat(bare | {_SHORT[n]: v for n, v in each.items()})
        )
        if config is not None and config in found:
            faults.append(Fault(f"samplers: {shown(each)} is named twice.", ("samplers",)))
        elif config is not None:
            found.append(config)
    if faults:
        raise ConfigError(faults)
    return found


def read_weights(chosen: Any, most: int = MOST_CHECKPOINTS) -> tuple[Weights, ...]:
    """The checkpoints of a request, each with its own label. Raises ConfigError."""
    if not isinstance(chosen, list | tuple) or not 1 <= len(chosen) <= most:
        raise ConfigError([Fault(f"checkpoints: must be a list of 1 to {most}.", ("checkpoints",))])
    faults: list[Fault] = []
    found = [each for choice in chosen for each in [faults_of(faults, lambda choice=choice: _one(choice))] if each]
    labels = [each.label for each in found]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        faults.append(Fault(f"checkpoints: {label!r} is named twice; leave one out, or label them.", ("checkpoints",)))
    if any(each.kind == "live" for each in found) and sum(not each.is_base for each in found) > 1:
        faults.append(
            Fault(
                "checkpoints: the current weights of a running run are shown alone or against the base; request other "
                "checkpoints separately.",
                ("checkpoints",),
            )
        )
    if faults:
        raise ConfigError(faults)
    return tuple(found)


def read_strength(given: Any) -> float:
    """How strongly a LoRA acts. Raises ConfigError for what is no number from -4 to 4."""
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not -LARGEST_STRENGTH <= given <= LARGEST_STRENGTH
    ):
        raise ConfigError(
            [
                Fault(
                    f"strength = {shown(given)}: must be a number from {-LARGEST_STRENGTH:g} to {LARGEST_STRENGTH:g} "
                    "(0 = without the LoRA, 1 = as trained).",
                    ("strength",),
                )
            ]
        )
    return float(given)


def _one(choice: Any) -> Weights:
    rule = (
        'must be "base", {"lora": file}, {"run": folder, "step": number} or {"run": folder, "live": true}, with an '
        'optional "label", "strength" and "beside".'
    )
    wrong = ConfigError([Fault(f"checkpoints: {shown(choice)} {rule}", ("checkpoints",))])
    if choice == "base":
        return Weights("base", None, None, "base")
    if not isinstance(choice, Mapping):
        raise wrong
    label, keys = choice.get("label"), set(choice) - {"label", "strength", "beside"}
    if label is not None and (not isinstance(label, str) or not label.strip() or len(label) > 80):
        raise ConfigError([Fault("checkpoints: a label must be text of 1 to 80 characters.", ("checkpoints",))])
    strength, beside = read_strength(choice.get("strength", 1.0)), _beside(choice)
    if keys == {"lora"} and isinstance(choice["lora"], str) and choice["lora"].strip():
        path = Path(choice["lora"]).expanduser()
        return Weights("lora", path, None, path.stem if label is None else label, strength, beside)
    if not isinstance(choice.get("run"), str) or not choice["run"].strip():
        raise wrong
    path, step = Path(choice["run"]).expanduser(), choice.get("step")
    if keys == {"run", "step"} and isinstance(step, int) and not isinstance(step, bool) and step >= 0:
        name = f"{path.name}, step {step}" if label is None else label
        return Weights("run", path, step, name, strength, beside)
    if keys == {"run", "live"} and choice["live"] is True:
        return Weights("live", path, None, f"{path.name}, now" if label is None else label, strength, beside)
    raise wrong


def _beside(choice: Mapping[str, Any]) -> tuple[Weights, ...]:
    """The LoRAs that act together with this one."""
    given = choice.get("beside", [])
    if not isinstance(given, list | tuple) or len(given) >= MOST_LORAS:
        raise ConfigError([Fault(f"beside: must be a list of at most {MOST_LORAS - 1} LoRAs.", ("beside",))])
    if not given:
        return ()
    if choice.get("live") is True:
        message = (
            "beside: the weights of a running run are in its own process, where no other LoRA is loaded; choose one of its "
            "checkpoints, or leave the other LoRAs out."
        )
        raise ConfigError([Fault(message, ("beside",))])
    found = tuple(_one(each) for each in given)
    if any(each.kind not in ("lora", "run") or each.beside for each in found):
        raise ConfigError(
            [Fault('beside: each must be {"lora": file} or {"run": folder, "step": number}.', ("beside",))]
        )
    places = [(each.path, each.step) for each in found]
    own = Path(str(choice.get("lora", choice.get("run")))).expanduser(), choice.get("step")
    for place in places:
        if [own, *places].count(place) > 1:
            message = f"beside: {place[0].name if place[0] else place} is named twice; name it once, with the sum of its weights."
            raise ConfigError([Fault(message, ("beside",))])
    return found


def located_in(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A result with the paths of its files in `folder`, and the folder itself under `folder`.

    Raises: PreviewError where a name leads elsewhere (a running run's answer comes from its files).
    """
    home = folder.resolve()

    def place(name: str) -> str:
        path = (home / name).resolve()
        if not path.is_relative_to(home):
            raise PreviewError(f"The result names {name!r}, which is outside its folder.", "Try again.")
        return str(path)

    found = {**result, "folder": str(home)}
    found |= {name: place(result[name]) for name in ("report", "csv", "curves", "spectrum") if name in result}
    rows = ("clean", "rolled", "heat")
    if "pictures" in result:  # drawn ones (`sample_request.py`)
        found["pictures"] = [{**each, "file": place(each["file"])} for each in result["pictures"]]
    if "strips" in result:
        found["strips"] = [
            {
                **strip,
                **{name: place(strip[name]) for name in ("filmstrip", "truth") if name in strip},
                "frames": [
                    {**frame, **{name: place(frame[name]) for name in rows if name in frame}}
                    for frame in strip["frames"]
                ],
            }
            for strip in result["strips"]
        ]
    return found


def find_picture(name: str) -> Path:
    """The file behind a request's `image`: a path; a folder or built-in name (its first picture); either with "/stem".

    Raises: PreviewError.
    """
    path = located(name)
    if path.is_file():
        return path
    if path.is_dir():
        found = pictures_in(path)
        if found:
            return found[0]
        raise PreviewError(f"'{name}' holds no picture.", f"Choose a file of one of these kinds: {_kinds()}.")
    folder, _, stem = name.replace("\\", "/").rpartition("/")
    if folder:
        found = [each for each in pictures_in(located(folder)) if each.stem == stem]
        if found:
            return found[0]
    raise PreviewError(
        f"There is no picture '{name}'.", f"Choose a file, or a built-in one such as {SHOWCASE}/{_first_stem()}."
    )


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not is_beside(path.name) and path.is_file()
    )


def showcase() -> list[str]:
    """Names of the built-in pictures, as `image` takes them."""
    return [f"{SHOWCASE}/{path.stem}" for path in pictures_in(located(SHOWCASE))]


def _first_stem() -> str:
    return next((name.rpartition("/")[2] for name in showcase()), "")


def _kinds() -> str:
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))


def weights_mark(weights: Weights) -> list[Any]:
    """Equal for the same weights from the same files."""
    one = [[each.kind, each.step, each.strength, file_stamp(each)] for each in weights.together]
    return [weights.label, *one]


def file_stamp(weights: Weights) -> list[Any] | None:
    """The file behind the weights by its place, size and time of change; None for the base."""
    return _stamp(weights.checkpoint / "manifest.json" if weights.kind == "run" else weights.path)


def _stamp(path: Path | None) -> list[Any] | None:
    """A file by its place, size and time of change; a missing one by its place."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:  # reported when it is opened
        return [str(path.absolute())]
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]
