"""All pictures of a drift report, into a folder."""

from pathlib import Path

from PIL import Image

from ..drift.report import DriftReport
from .curves import curves_figure
from .filmstrip import filmstrip, heat
from .panels import figure_png
from .spectrum import spectrum_figure
from .strips import write_strips


def draw(report: DriftReport, folder: Path, *, frames: bool = False) -> list[str]:
    """Write the report's pictures into `folder`; their names, curves.png first. The filmstrips also as small single pictures (`strips.py`); with
    `frames` these in full size, too: `frames/<strip>-<step>-<row>.png`."""
    names = ["curves.png"]
    (folder / names[0]).write_bytes(figure_png(curves_figure(report)))
    if any(curve.spectrum is not None for curve in report.curves):
        names.append("spectrum.png")
        (folder / names[-1]).write_bytes(figure_png(spectrum_figure(report)))
    first = next((strip.weights for strip in report.strips), None)
    numbers: dict[str, int] = {}
    for strip in report.strips:
        numbers[strip.weights] = numbers.get(strip.weights, 0) + 1
        stem = "filmstrip" + ("" if strip.weights == first else f"-{strip.weights}")
        stem += "" if numbers[strip.weights] == 1 else f"-{numbers[strip.weights]}"
        filmstrip(strip).save(folder / f"{stem}.png")
        names.append(f"{stem}.png")
        if frames:
            (folder / "frames").mkdir(exist_ok=True)
            for frame in strip.frames:
                for row, pixels in (
                    ("clean", frame.clean),
                    ("rolled", frame.rolled),
                    ("difference", heat(frame.difference)),
                ):
                    names.append(f"frames/{stem}-{frame.step:03d}-{row}.png")
                    Image.fromarray(pixels).save(folder / names[-1])
    return [*names, *(write_strips(report.strips, folder) if report.strips else ())]
