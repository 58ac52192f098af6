"""Texts for other people's eyes: secrets, a person's folders and words taken out, what helps to find a fault left in.

Used for what a person hands on by choice (`app/parts/problem.py`). It errs on the side of taking out too much; it cannot know everything, so
whoever hands a file on reads it first.
"""

import getpass
import os
import re
import socket
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|COOKIE|LOGIN|WEBHOOK|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH|DSN|_KEY$|_PAT$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are secrets."""
_SECRETS = [
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "<secret>"),
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|r8_|xox[abprs]-|AIza|npm_|dop_v1_)[A-Za-z0-9_-]{10,}"), "<secret>"),
    (re.compile(r"\bAKIA[0-9A-Z]{12,}"), "<secret>"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"), "<secret>"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._=-]{8,}"), r"\1 <secret>"),
    (re.compile(r"(\w://)[^\s/@]+@"), r"\1<secret>@"),
    (re.compile(r"(https?://[^\s\"'?]+)\?[^\s\"']+"), r"\1?<secret>"),
    (re.compile(r"(https?://hooks\.[^\s\"'<>/]+)/[^\s\"'<>]+"), r"\1/<secret>"),
    (re.compile(r"(?i)([\w-]*(?:token|password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|authorization|cookie)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{4,}"), r"\1<secret>"),
    (re.compile(r"(?<![\w-])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*\d)[A-Za-z0-9_-]{40,}(?![\w-])"), "<secret>"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<mail>"),
]  # fmt: skip
_REST = r"(?:[\\/]+(?:[^\"'<>|:\n]*?\.[A-Za-z0-9]{1,12}(?![\w.])|[^\s\"'<>|:,;)]*))?"
"""What follows a private folder: to the next ending of a file, blanks included, or to the next blank."""
_PART = r"[^\s\"'<>|:,;()\[\]{}\\/]+"
_ANY_PATH = re.compile(
    rf"(?<![\w<>.~/\\-])(?!(?<=:)//)(?:(?:~|[A-Za-z]:)[\\/]+{_PART}(?:[\\/]+{_PART})*|[\\/]{{1,4}}{_PART}(?:[\\/]+{_PART})+)[\\/]?"
)
"""Any other full path: of two parts or more, or from ~ or a drive."""
_FILE_ADDRESS = re.compile(r"file:/[^\s\"'<>]*", re.IGNORECASE)
_KEYS = frozenset({"prompt", "prompts", "caption", "captions", "negative_prompt", "note"})
"""Of a mapping: what a person wrote."""


class Private:
    """What is taken out.

    Args:
        secrets: words that must not be there, whatever they look like.
        folders: a private folder or file -> its label. texts: what a person wrote -> its label. names: names of a person's files.
    """

    def __init__(
        self,
        secrets: Iterable[str] = (),
        folders: Mapping[str, str] | None = None,
        texts: Mapping[str, str] | None = None,
        names: Iterable[str] = (),
    ) -> None:
        self._secrets = _any_of((word for word in {*secrets, *_environment_secrets()} if len(word) >= 4), whole=False)
        self._public = [(_path_pattern(path), f"<{label}>") for label, path in _public_folders()]
        private = sorted({**_own_folders(), **(folders or {})}.items(), key=lambda pair: -len(pair[0]))
        self._private = [(re.compile(_path_pattern(path).pattern + _REST, re.IGNORECASE), f"<{label}>") for path, label in private if len(path) > 1]  # fmt: skip
        written = sorted((texts or {}).items(), key=lambda pair: -len(pair[0]))
        self._texts = [(re.compile(rf"(?<!\w){re.escape(text)}(?!\w)"), f"<{label}>") for text, label in written if len(text) >= 2]  # fmt: skip
        self._names = _any_of((name for name in names if len(name) >= 3), whole=True)
        self._people = _any_of(_people(), whole=True)

    def text(self, text: str) -> str:
        """The text without them."""
        if self._secrets is not None:
            text = self._secrets.sub("<secret>", text)
        for pattern, label in (*self._texts, *self._public, *self._private):
            text = pattern.sub(lambda _, label=label: label, text)
        for pattern, label in _SECRETS:
            text = pattern.sub(label, text)
        text = _ANY_PATH.sub("<path>", _FILE_ADDRESS.sub("<path>", text))
        for pattern, label in ((self._names, "<file>"), (self._people, "<name>")):
            text = text if pattern is None else pattern.sub(label, text)
        return text

    def value(self, value: Any) -> Any:
        """The same of every text in JSON data; of what a person wrote only its length is left."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): _length(each) if key in _KEYS and each else self.value(each)
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value


def _length(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"<{len(value)} texts>"
    return f"<text of {len(str(value))} characters>"


def _any_of(words: Iterable[str], *, whole: bool) -> re.Pattern[str] | None:
    """A pattern of all the words, longer ones first; None without any. `whole`: not as a part of a longer word."""
    found = "|".join(re.escape(word) for word in sorted(set(words), key=lambda word: (-len(word), word)))
    if not found:
        return None
    return re.compile(rf"(?<![\w-])(?:{found})(?![\w-])" if whole else found)


def _environment_secrets() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value) >= 6 and not value.isdigit()
    ]


def _path_pattern(path: str) -> re.Pattern[str]:
    """A path however it is written: with either separator, and each of them doubled, as in JSON and in Python's own quotes."""
    parts = [re.escape(part) for part in re.split(r"[\\/]+", path.rstrip("\\/"))]
    return re.compile(r"[\\/]+".join(parts) + r"(?![\w-])", re.IGNORECASE)


def _public_folders() -> list[tuple[str, str]]:
    """Folders of programs, whose files everybody has: what follows them stays. The deepest first."""
    found = {"rollout-studio": str(Path(__file__).resolve().parents[1])}
    found |= {f"packages{number}" if number else "packages": path for number, path in enumerate(dict.fromkeys(path for path in sys.path if path.endswith("-packages")))}  # fmt: skip
    found |= {"python": sysconfig.get_paths()["stdlib"], "environment": sys.prefix}
    return sorted(found.items(), key=lambda pair: -len(pair[1]))


def _own_folders() -> dict[str, str]:
    return {str(Path.home()): "home", str(Path.cwd()): "here"}


def _people() -> list[str]:
    """The account's and the machine's name, where they are names."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError, ImportError):
        account = ""
    host = socket.gethostname()
    usual = {"root", "user", "admin", "administrator", "localhost", "runner", "ubuntu", "home"}
    return [
        name
        for name in {account, Path.home().name, host, host.partition(".")[0]}
        if len(name) >= 3 and name.lower() not in usual
    ]
