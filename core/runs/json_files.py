"""Strict JSON, in which a run's files are written, and which any reader can read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import RunError


def jsonable(value: Any) -> Any:
    """`value` as strict JSON can hold it: paths as text with forward slashes, NaN and infinities as the strings "nan", "inf", "-inf".

    Raises: TypeError for what has no plain form (a tensor with more than one element, an object).
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy or torch; more than one element raises there
        return jsonable(value.item())
    raise TypeError(
        f"An event or state cannot hold {type(value).__name__}: {value!r:.80}. Give numbers, text, lists or mappings."
    )


def dump(value: Any, **options: Any) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False, **options)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file that is written atomically; None when the file does not exist. Raises RunError for anything else there."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({error.strerror}). Make it a readable file, or move it away to go on."
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5000 digits; nested without end
        raise RunError(f"{path} is damaged ({error}). Move it away to go on.") from error
    if not isinstance(value, dict):
        raise RunError(
            f"{path} is damaged: it must hold a JSON object, and holds {text.strip():.80}. Move it away to go on."
        )
    return value
