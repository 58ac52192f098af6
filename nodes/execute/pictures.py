"""Small pictures that nodes draw: contact sheets, plots, a report's pages one above the other; and PNGs that carry their workflow.

Pillow and matplotlib are imported when something is drawn.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core import platform_calls
from ..graph.values import NodeError

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
CELL = 192  # pixels of a picture's longer side in a sheet
INK, PAPER, QUIET = "#1f2430", "#ffffff", "#6b7280"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def name_fault(name: str) -> str | None:
    """Why a text cannot begin a file's name; nothing outside the output folder can be named."""
    if _NAME.fullmatch(name):
        return None
    return "use 1 to 64 letters, digits, dots, hyphens or underscores, starting with a letter or a digit."


def in_folder(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names; masks of pictures and what else belongs to one are none."""
    from ...core.data.beside import is_beside

    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in ENDINGS and not is_beside(path.name) and path.is_file()
    )


def opened(path: Path) -> "Image":
    """A picture, RGB and upright. Raises NodeError for what is none."""
    from ...core.data.pictures import BadPicture, decode, read_bytes

    try:
        return decode(read_bytes(path))
    except BadPicture as bad:
        raise NodeError(f"{path.name}: {bad.message}.", bad.remedy) from None


def saved(image: "Image", path: Path, provenance: Mapping[str, str] | None = None) -> Path:
    """Write a PNG, whole or not at all, with text chunks (`prompt`, `workflow`) where given; returns its path."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in (provenance or {}).items():
        info.add_text(key, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(path) as part:
        image.save(part, format="PNG", pnginfo=info)
    return path


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _wrapped(text: str, font, width: float, most: int) -> list[str]:
    """`text` in lines that fit, at most `most`, the last one cut by an ellipsis."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if font.getlength(longer) <= width or not line:
                line = longer
            else:
                lines.append(line)
                line = word
        lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def sheet(cells: Sequence[tuple["Image", str]], columns: int, titles: Sequence[str] = ()) -> "Image":
    """Pictures in a grid, each with up to three lines of text below; `titles`: one above each row."""
    from PIL import Image, ImageDraw

    if not cells:
        raise NodeError("There are no pictures to lay out.", "Link a node that gives some.")
    font, bold = _font(13), _font(17)
    texts = [_wrapped(text, font, CELL, 3) if text else [] for _, text in cells]
    text_height = 18 * max(len(lines) for lines in texts)
    rows = -(-len(cells) // columns)
    head = 30 if titles else 0
    width, height = 16 + columns * (CELL + 16), 16 + rows * (CELL + text_height + 16 + head)
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    for number, (image, _) in enumerate(cells):
        column, row = number % columns, number // columns
        x, y = 16 + column * (CELL + 16), 16 + row * (CELL + text_height + 16 + head)
        if titles and column == 0 and row < len(titles):
            draw.text((x, y), _cut(titles[row], bold, width - 32), fill=INK, font=bold)
        factor = CELL / max(image.size)
        resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
        fitted = image.convert("RGB").resize([max(1, round(side * factor)) for side in image.size], resample)
        page.paste(fitted, (x + (CELL - fitted.width) // 2, y + head + (CELL - fitted.height) // 2))
        for line, text in enumerate(texts[number]):
            draw.text((x, y + head + CELL + 4 + 18 * line), text, fill=QUIET, font=font)
    return page


def stacked(parts: Iterable[tuple[str, "Image | None"]], width: int = 1584) -> "Image":
    """Titles and pictures one above the other, pictures scaled down to the width; a part without a picture is a paragraph."""
    from PIL import Image, ImageDraw

    bold, font = _font(22), _font(16)
    blocks, height = [], 20
    for title, image in parts:
        lines = _wrapped(title, bold if image is not None else font, width - 40, 4)
        if image is not None and image.width > width - 40:
            image = image.resize(
                (width - 40, round(image.height * (width - 40) / image.width)), Image.Resampling.LANCZOS
            )
        blocks.append((lines, image, height))
        height += (30 if image is not None else 22) * len(lines) + (0 if image is None else image.height) + 18
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    for lines, image, y in blocks:
        for line in lines:
            draw.text((20, y), line, fill=INK, font=font if image is None else bold)
            y += 22 if image is None else 30
        if image is not None:
            page.paste(image.convert("RGB"), (20, y))
    return page


def line_plot(xs: Sequence[float], ys: Sequence[float], path: Path, *, title: str, x_label: str, y_label: str) -> Path:
    """One curve from 0 to 1 as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(xs, ys, color="#2f9e8f", linewidth=2)
    axes.set(title=title, xlabel=x_label, ylabel=y_label, ylim=(-0.02, 1.02), xlim=(min(xs), max(max(xs), 1)))
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, format="png")
    return path
