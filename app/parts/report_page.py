"""One HTML file to share: everything that it shows is inside it, in at most `MOST_BYTES`, without a script or a network."""

import base64
import functools
import io
import re
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ... import __version__
from ...core import platform_calls
from ...core.data.pictures import MAX_BYTES, BadPicture, decode
from ...core.inside import open_inside
from .words import text

NAME = "report.html"
"""The file's name in the folder that it is about."""
MOST_BYTES = 5_000_000
_SIDES = (1600, 1024, 640, 384, 256)
"""Pictures are made smaller, from side to side, until the file keeps its limit."""
_CSS = Path(__file__).parents[1] / "css"
# Gradio's variables, which the style sheets of the page use; its theme is not there.
_LIGHT = """--body-background-fill: #faf9f6; --body-text-color: #24292c; --body-text-color-subdued: #5d6468; --input-background-fill: #fdfcfa;
--border-color-primary: #dcd7cd; --font-mono: ui-monospace, Menlo, Consolas, monospace;"""
_DARK = """--body-background-fill: #16181a; --body-text-color: #e8e6e1; --body-text-color-subdued: #a5abaf; --input-background-fill: #16181a;
--border-color-primary: #3a4045; color-scheme: dark;"""
_OWN = """body { margin: 0; background: var(--body-background-fill); color: var(--body-text-color);
  font-family: ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; line-height: 1.5; }
main { max-width: 1180px; margin: 0 auto; padding: 8px clamp(12px, 3vw, 28px) 40px; display: grid; gap: 16px; }
main > * { min-width: 0; } h1 { font-size: 26px; margin: 6px 0 0; overflow-wrap: anywhere; } footer { font-size: 13px; color: var(--body-text-color-subdued); }
.gradio-container { max-width: none !important; }"""


class Inline:
    """In place of the page's `Previews`: a picture's address is the picture itself."""

    def __init__(self, side: int) -> None:
        self._side = side

    def address(self, path: Path, inside: Path) -> str | None:
        """A data address; None for what is no picture inside the folder."""
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(inside.resolve()):
                return None
            with open_inside(real, inside) as file:
                picture = decode(file.read(MAX_BYTES))
        except (OSError, BadPicture):
            return None
        picture.thumbnail((self._side, self._side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "WEBP", quality=90)
        return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def page(title: str, *parts: str) -> str:
    # A picture opens in full on the page; here its link would hold it a second time.
    body = re.sub(r'<a href="data:[^"]*"[^>]*>', "<a>", "\n".join(part for part in parts if part))
    body = body.replace('<img loading="lazy"', "<img")  # a printed page shows what was never scrolled to
    made = f"Made by Rollout Studio {__version__} on {time.strftime('%Y-%m-%d')}. This file needs no network and holds no script."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_style()}</style></head>\n"
        f'<body class="gradio-container"><main><h1>{text(title)}</h1>\n{body}\n<footer>{text(made)}</footer></main></body></html>\n'
    )


@functools.cache
def _style() -> str:
    """The page's style sheets; dark where the reader's system is."""
    sheets = "\n".join((_CSS / f"{name}.css").read_text(encoding="utf-8") for name in ("base", "runs", "drift"))
    dark = " ".join(re.findall(r"^\.dark \{([^}]*)\}", sheets, re.MULTILINE))
    return (
        f":root {{ {_LIGHT} }}\n{sheets}\n{_OWN}\n@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} {dark} }} }}"
    )


def written(path: Path, made: Callable[[int], str]) -> Path:
    """The page with the largest pictures that keep it within its limit."""
    for side in _SIDES:
        content = made(side).encode("utf-8")
        if len(content) < MOST_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    platform_calls.write_atomically(path, content)
    return path
