"""A file of another tool, as data: JSON, TOML, YAML, or the command line in a shell script. Nothing in a file is ever run.

YAML is read with the safe loader, so that a tag cannot make an object; a pickle is refused by its first bytes, before anything reads it.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from ..config.flat import read_flat
from ..config.options import ConfigError, Fault
from ..sizes import size
from .contract import DEEPEST, MOST_KEYS

LARGEST = 512 * 1024  # bytes; a config with long prompts has some ten thousand
TEXT_KINDS = (".json", ".toml", ".yaml", ".yml", ".sh", ".bat", ".cmd", ".ps1", ".txt", ".args")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
SCRIPT = "_script"
"""The key under which the name of a command line's script stands beside its arguments."""


def refused(name: str, message: str) -> ConfigError:
    return ConfigError([Fault(f"{name}: {message}")])


def read_file(path: Path, name: str) -> Any:
    """The data in a file. `name`: as people know it, for the messages. Raises ConfigError, with line and column where there are any."""
    kind = Path(name).suffix.lower()
    if kind in _PICKLES:
        raise refused(name, "is a pickle, which could run anything, and is not opened; bring the tool's config file.")
    if kind not in TEXT_KINDS:
        raise refused(
            name,
            f"is neither a config nor a LoRA file; choose one that ends in {', '.join((*TEXT_KINDS, '.safetensors'))}.",
        )
    try:
        count = path.stat().st_size
        start = path.read_bytes() if count <= LARGEST else b""
    except OSError as error:
        raise refused(name, f"cannot be read ({error.strerror}).") from None
    except ValueError:  # a zero byte, or half of a character pair
        raise refused(name, "cannot be read: no file can have this name.") from None
    if count > LARGEST:
        raise refused(name, f"has {size(count)}, and a config at most {size(LARGEST)}; this is another kind of file.")
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        raise refused(name, "is not text, whatever its name says; bring the tool's config file.")
    if kind == ".json":
        return _json(path, name, start)
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(name, f"is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    if kind == ".toml":
        return _toml(text, name)
    if kind in (".yaml", ".yml"):
        return _yaml(text, name)
    return _command(text, name)


def _json(path: Path, name: str, start: bytes) -> Any:
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":  # a list: a data-backend file, OneTrainer's concepts
        try:
            return json.loads(start.decode("utf-8-sig"))
        except RecursionError:
            raise refused(name, "is nested too deeply.") from None
        except UnicodeDecodeError as error:
            raise refused(name, f"is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
        except json.JSONDecodeError as error:
            raise refused(name, f"line {error.lineno}, column {error.colno}: broken JSON: {error.msg}.") from None
        except ValueError:
            raise refused(name, "holds a number with thousands of digits; no option takes one.") from None
    try:
        return read_flat(path, unwrap=False)
    except ConfigError as error:
        # The path is where the page put the upload; people know the file by its name.
        raise ConfigError(
            [Fault(fault.message.replace(str(path), name), fault.options) for fault in error.faults]
        ) from None


def _toml(text: str, name: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refused(name, f"broken TOML: {error}. A Windows path needs 'single quotes' around it.") from None
    except (RecursionError, ValueError):
        raise refused(name, "is nested too deeply, or holds a number that nothing takes.") from None


def _yaml(text: str, name: str) -> Any:
    import yaml  # only here: no other file needs it

    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):  # before PyYAML, whose time grows with the square of the depth
        depth += 1 if bracket in "[{" else -1
        if depth > 8 * DEEPEST:
            raise refused(name, "is nested too deeply; this is no tool's training config.")
    try:
        found = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise refused(name, f"{where}broken YAML: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise refused(name, f"broken YAML: {type(error).__name__}.") from None
    try:
        return _plain(found)
    except ConfigError as error:
        raise refused(name, error.faults[0].message) from None


def _plain(data: Any, depth: int = 0, budget: list[int] | None = None) -> Any:
    """Keys as text, dates as text: what JSON could hold. Depth and count end what names itself or a thousandfold of itself."""
    budget = [MOST_KEYS] if budget is None else budget
    budget[0] -= 1
    if depth > DEEPEST or budget[0] < 0:
        raise ConfigError(
            [Fault("is nested too deeply, or repeats itself too often; this is no tool's training config.")]
        )
    if isinstance(data, dict):
        return {str(key): _plain(value, depth + 1, budget) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(each, depth + 1, budget) for each in data]
    return data if data is None or isinstance(data, bool | int | float | str) else str(data)


_JOINED = re.compile(r"[\\`^][ \t]*\r?\n")
_ASSIGNED = re.compile(r"""^\s*(?:export\s+|set\s+|\$)?"?([A-Za-z_]\w*)\s*=\s*(.*?)"?\s*$""")
_USED = re.compile(r"\$\{?(\w+)\}?|%(\w+)%")


def _command(text: str, name: str) -> dict[str, Any]:
    """The arguments of the first command in the text that has any, and the script that it starts.

    Variables that the text itself assigns are put in; others stay as they are written. A flag without a value is true.
    """
    lines = _JOINED.sub(" ", text).splitlines()
    assigned: dict[str, str] = {}
    for line in lines:
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "rem ", "REM ", "::")):
            continue
        match = _ASSIGNED.match(stripped)
        if match is not None and not stripped.startswith("-"):
            assigned[match[1]] = match[2].strip().strip("\"'")
            continue
        filled = _USED.sub(lambda used: assigned.get(used[1] if used[1] else used[2], used[0]), stripped)
        if "--" in filled:
            return _arguments(_split(filled, name))
    raise refused(name, "holds no command with arguments (--name value).")


def _split(line: str, name: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if re.search(r"[A-Za-z]:\\", line):
        lexer.escape = ""  # Windows' paths
    try:
        return list(lexer)
    except ValueError as error:
        raise refused(name, f"its command cannot be read: {error}; check the quotation marks.") from None


def _arguments(words: list[str]) -> dict[str, Any]:
    script = next((index for index, word in enumerate(words) if word.lower().endswith(".py")), None)
    out: dict[str, Any] = {}
    if script is not None:  # before it: the launcher's own arguments
        out[SCRIPT] = re.split(r"[\\/]", words[script])[-1]
        words = words[script + 1 :]
    key = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            out[key] = value if equals else True
            key = None if equals else key
        elif key is not None:
            held = out[key]
            out[key] = word if held is True else [*(held if isinstance(held, list) else [held]), word]
        elif word in ("&&", ";", "|"):
            break
    return out
