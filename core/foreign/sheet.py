"""The working sheet of an importer: each key of the foreign file is placed exactly once, whatever the importer does.

`carry`, `change` and `leave` place a key; a second placing of the same key is a mistake of ours and raises KeyError. `done` leaves what was
not placed, by name. A value that our option refuses is left with the option's own sentence, and an option that this version does not have
leaves the key with that reason: so a table may name options that are still to come.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..config import OPTIONS
from ..config.options import ConfigError, did_you_mean
from .contract import Carried, Changed, ImportedConfig, Left, leaves

NEEDED = ("pretrained_model_name_or_path", "instance_data_dir", "max_train_steps")
_OFF_WORDS = {"", "none", "null", "false", "no", "off", "never", "disabled"}


def is_off(value: Any) -> bool:
    """Whether a setting of another tool is unset or switched off."""
    if isinstance(value, str):
        return value.strip().lower() in _OFF_WORDS or number(value) == 0
    return value is None or value is False or value == 0 or (isinstance(value, list | dict) and not value)


def is_on(value: Any) -> bool:
    """Whether a switch is on: true, a number other than 0, or a word that is not one for off."""
    return not is_off(value)


def number(value: Any) -> float | None:
    """A finite number, also written as text; None for anything else, and for true and false."""
    try:
        found = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found is not None and found - found == 0 else None


def whole(value: Any) -> int | None:
    """A whole number, also written as text or as 4.0; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


class Sheet:
    """A foreign config on its way. `values`: key -> value, of all keys; `flat`: ours, so far.

    Args:
        program: the tool's name.
        data: its data, nested as it likes.
        known: names of keys that the importer knows, for "did you mean".
        written: key -> how the file writes it, where the importer calls it otherwise; the lists name keys as the file does.
    """

    def __init__(
        self, program: str, data: Any, known: Iterable[str] = (), written: Mapping[str, str] | None = None
    ) -> None:
        self.program = program
        self._written = {} if written is None else dict(written)
        self.values: dict[str, Any] = dict(leaves(data))
        self.flat: dict[str, Any] = {}
        self.known = set(known)
        self._open = set(self.values)
        self._carried: list[Carried] = []
        self._changed: list[Changed] = []
        self._left: list[Left] = []
        self._assumed: set[str] = set()
        self._notes: list[str] = []

    # -- looking --------------------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether the file has the key and it is not placed yet."""
        return key in self._open

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, placed or not; `default` where the file lacks it or leaves it empty."""
        value = self.values.get(key)
        return default if value is None or value == "" else value

    def open(self, prefix: str = "") -> list[str]:
        """The keys that are not placed yet, in the order of the file."""
        return [key for key in self.values if key in self._open and key.startswith(prefix)]

    def gave(self, option: str) -> bool:
        """Whether a key of the file, not a default of the tool, set this option."""
        return option in self.flat and option not in self._assumed

    # -- placing --------------------------------------------------------------------------------------------------------

    def carry(self, key: str, option: str, absent: str = "", **as_: Any) -> None:
        """The key is `option` here: its own value, or `value=`. `absent`: why it is left where this version lacks the option."""
        if not self.has(key):
            return
        value = as_.get("value", self.values[key])
        if self._can(key, {option: value}, absent):
            self._carried.append(Carried(self._name(key), self.values[key], option, value))
            self._set(key, {option: value})

    def change(self, key: str, options: Mapping[str, Any], how: str) -> None:
        """The key is something else here: `options`, which may be none, and the sentence `how`."""
        if self.has(key) and self._can(key, options):
            self._changed.append(Changed(self._name(key), self.values[key], dict(options), how))
            self._set(key, options)

    def leave(self, key: str, why: str, *, quiet: bool = False) -> None:
        """The key is not carried over."""
        if self.has(key):
            self._left.append(Left(self._name(key), self.values[key], why, quiet))
            self._open.remove(key)

    def assume(self, option: str, value: Any) -> None:
        """The tool's default for what the file leaves out, unless the file gave the option."""
        if option in OPTIONS and option not in self.flat and not _refusal(option, value):
            self.flat[option] = value
            self._assumed.add(option)

    def note(self, sentence: str) -> None:
        """A sentence about the whole."""
        if sentence not in self._notes:
            self._notes.append(sentence)

    def _name(self, key: str) -> str:
        return self._written.get(key, key)

    def _can(self, key: str, options: Mapping[str, Any], absent: str = "") -> bool:
        given = self.values[key]
        for option, value in options.items():
            if option not in OPTIONS:
                why = absent if absent else f"there is no option for it here yet ({option})"
                self.leave(key, "is off there" if is_off(given) else why, quiet=is_off(given))
                return False
            if given is None or given == "":
                self.leave(key, "is not set there", quiet=True)
                return False
            refusal = _refusal(option, value)
            if refusal:
                self.leave(key, refusal)
                return False
            if self.gave(option) and self.flat[option] != value:
                self.leave(key, f"{option} is set by another key of the file")
                return False
        return True

    def _set(self, key: str, options: Mapping[str, Any]) -> None:
        self._open.remove(key)
        self._assumed -= set(options)
        self.flat |= options

    # -- tables ---------------------------------------------------------------------------------------------------------

    def rows(self, table: Mapping[str, str], prefix: str = "") -> None:
        """key -> option, with the same values."""
        for key, option in table.items():
            self.carry(prefix + key, option)

    def words(self, key: str, option: str, table: Mapping[Any, Any], why: str = "") -> None:
        """A choice whose words differ. A word that is not in the table is left; letters may be large or small."""
        if not self.has(key):
            return
        given = self.get(key)
        ours = table.get(given.strip().lower() if isinstance(given, str) else str(given).lower())
        if given is None:
            self.leave(key, "is not set there", quiet=True)
        elif ours is None:
            self.leave(
                key, why if why else f"is not here; there are: {', '.join(map(str, OPTIONS[option].choices or table))}"
            )
        else:
            self.carry(key, option, value=ours)

    def reasons(self, table: Mapping[str, str], prefix: str = "") -> None:
        """key -> why it is left; where it is off there, quietly."""
        for key, why in table.items():
            off = is_off(self.get(prefix + key))
            self.leave(prefix + key, "is off there" if off else why, quiet=off)

    def silent(self, keys: Iterable[str], prefix: str = "", why: str = "changes nothing of what is learned") -> None:
        """Keys that are not worth a word."""
        for key in keys:
            self.leave(prefix + key, why, quiet=True)

    def silent_at(self, table: Mapping[str, Iterable[Any]], prefix: str = "") -> None:
        """key -> the values at which it does nothing there; others are not placed by this."""
        for key, usual in table.items():
            if self.has(prefix + key) and (self.values[prefix + key] in usual or is_off(self.values[prefix + key])):
                self.leave(prefix + key, "does nothing there at this value", quiet=True)

    # -- the end --------------------------------------------------------------------------------------------------------

    def done(self) -> ImportedConfig:
        """What was read; keys that nothing placed are left by name."""
        for key in self.open():
            last = key.rpartition(".")[2]
            if key.startswith("_") or is_off(self.values[key]):
                self.leave(key, "is a remark, not a setting" if key.startswith("_") else "is off there", quiet=True)
            else:
                self.leave(key, f"is not known to this import.{did_you_mean(last, self.known - {last})}")
        return ImportedConfig(
            self.program, self.flat, tuple(self._carried), tuple(self._changed), tuple(self._left),
            tuple(name for name in OPTIONS if name in self._assumed), tuple(self._notes),
            tuple(name for name in NEEDED if name not in self.flat),
        )  # fmt: skip


def _refusal(option: str, value: Any) -> str:
    """Why our option does not take a value; empty where it does."""
    try:
        OPTIONS[option].read(value, text=True)
    except ConfigError as error:
        return error.faults[0].message
    return ""
