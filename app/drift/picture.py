"""Drift as pictures and charts in HTML: the filmstrip of a preview with its scrubber, the numbers, the curves of a report.

Everything is drawn from a preview's result (`core.look.preview.show.show`) or a report's record; whatever is text in them goes through `words.text`.
`js/drift.js` moves the scrubber and the before/after slider; without it the last step is shown large.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.look.drift.report import Curve, DriftReport, Point, Spectrum
from ..parts.charts import Line, chart, y_name
from ..parts.words import quantity, text
from .rows import ROWS, Address, axis, farthest_apart, group, key_of, most_apart, percent, what_to_look_at

_TILES = {"clean": "should see", "rolled": "own rollout", "heat": "the difference"}

NUMBERS = {
    "distance": ("Its noisy picture is away from the true one by", "% of its length", 100.0),
    "picture_difference": ("What it sees differs by, on average", "% of full brightness", 100.0),
    "cos_clean": ("Its answer points the same way as at the true picture", "cosine: 1 = the same", 1.0),
    "cos_truth": ("Its answer points to the picture itself", "cosine: 1 = straight at it", 1.0),
    "noise_shift": ("It looks noisier (+) or cleaner (−) than it is by", "noise levels, 0 to 1", 1.0),
    "snr_shift_db": ("Signal against noise, more or less than in the true one", "dB: −3 = half", 1.0),
    "std_ratio": ("Spread of its values, own over true", "times", 1.0),
    "norm_ratio": ("Strength of its answer, own over true", "times", 1.0),
    "low_db": ("Coarse shapes, own over true", "dB of power: 3 = double", 1.0),
    "mid_db": ("Middle details, own over true", "dB of power", 1.0),
    "high_db": ("Fine details, own over true", "dB of power", 1.0),
}
"""Measure -> (what it is, its unit, what it is multiplied by to be shown in it)."""


def _steps(count: Any) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


# The filmstrip -------------------------------------------------------------------------------------------------------


def film(result: Mapping[str, Any], address: Address, request: Mapping[str, Any]) -> str:
    """The answer in one picture: a sentence with the measured fact, the filmstrip, one step of it large.

    Args:
        result: as `core.look.preview.show.show` gives it, its files by their paths.
        address: of such a file, for the browser.
        request: what the result answers; for the fields that the result does not repeat.
    """
    strips = result["strips"]
    shared = len(request.get("checkpoints", ())) == 1  # one model, several solvers: one row of what it should see
    columns = len(strips[0]["frames"])
    start = farthest_apart(strips)
    groups = "".join(
        group(
            number, strip, address, start=start, rows=tuple(ROWS)[1:] if shared and number else tuple(ROWS),
            title=_name(strip, strips) if len(strips) > 1 else "", most=most_apart(strips),
        )
        for number, strip in enumerate(strips)
    )  # fmt: skip
    return (
        f'<div class="rs-look" style="--n:{columns}">{_fact(result, request, address)}'
        f'<div class="rs-scroll rs-film" tabindex="0" role="region" aria-label="Filmstrip: noise goes away from left to right">'
        f'<div class="rs-reel">{axis(strips[0]["frames"], start)}{groups}</div></div>'
        f"{close_up(strips, start, address)}</div>"
    )


def _name(strip: Mapping[str, Any], strips: Sequence[Mapping[str, Any]]) -> str:
    """What a strip is called, with the colour of its curve where base stands against tuned."""
    pair = sorted(each["weights"] for each in strips) == ["base", "tuned"]
    return (key_of(strip["weights"]) if pair else "") + text(strip["label"])


def _fact(result: Mapping[str, Any], request: Mapping[str, Any], address: Address) -> str:
    """The head: the picture itself and what was measured, in one sentence."""
    strips, walked, numbers, chips = result["strips"], result["walked"][0], result["numbers"], ""
    steps, wanted = walked["steps"], request.get("offset")
    alone = f"After <b>{text(_steps(steps))} on its own</b>"
    if len(strips) == 1:
        found = numbers[strips[0]["label"]]
        who = "the model" if strips[0]["weights"] == "base" else text(strips[0]["label"])
        fact = f"{alone}, {who} is <b>{percent(found['distance'])} off the true path</b>."
        more = f"What it sees there differs by {percent(found['picture_difference'])} of full brightness."
    else:
        fact = alone.replace("its own", "their own") + ", this far <b>off the true path</b>:"
        more = (
            "What they see there differs by "
            + " and ".join(percent(numbers[strip["label"]]["picture_difference"]) for strip in strips)
            + " of full brightness."
        )
        chips = "".join(
            f"<span>{_name(strip, strips)} <b>{percent(numbers[strip['label']]['distance'])}</b></span>"
            for strip in strips
        )
    if request.get("start") == "noise":
        floor = "This rollout began in pure noise and knows nothing of your picture: nearly all of the difference is that, and no fault of the model."
    else:
        floor = "Part of it no model can avoid: a rollout cannot recover what the first column does not show."
    fewer = (
        f" {text(_steps(wanted))} were requested; the schedule has {text(steps)} before this level."
        if request.get("start") != "noise" and isinstance(wanted, int) and wanted > steps else ""
    )  # fmt: skip
    step = result.get("step")
    when = f" Weights of training step {text(step)}." if isinstance(step, int) else ""
    known = " · a picture that it trained on" if request.get("role") == "training" else ""
    looked = f'<p class="rs-look-at"><b>What to look at.</b> {text(what_to_look_at(strips))}</p>'
    diverged = any(numbers[strip["label"]]["distance"] is None for strip in strips)
    broken = (
        '<p class="rs-warn">The model answers with what is not a number: its training has diverged.</p>'
        if diverged
        else ""
    )
    return (
        f'<div class="rs-fact"><figure><img src="{text(address(strips[0]["truth"]))}" alt="The picture itself"><figcaption>the picture</figcaption></figure>'
        f'<div><h3>{fact}</h3>{f"""<div class="rs-fact-chips">{chips}</div>""" if chips else ""}{looked}<p>{text(more)} {text(floor)}{fewer}{when}</p>{broken}'
        f'<p class="rs-quiet">“{text(result["caption"])}” · {text(result["model"])} · from noise level {quantity(walked["source_sigma"], 2)} '
        f'to {quantity(walked["target_sigma"], 2)} · one picture, one noise{known}</p></div></div>'
    )  # fmt: skip


def close_up(strips: Sequence[Mapping[str, Any]], start: int, address: Address) -> str:
    """One step of filmstrips with the same columns large: the three pictures of it, and two of them under a before/after slider."""
    first = strips[0]["frames"][start]

    def source(path: str) -> str:
        found = address(path)
        return "" if found is None else text(found)

    who = "".join(f'<option value="{at}">{text(strip["label"])}</option>' for at, strip in enumerate(strips))
    pick = (
        f'<label class="rs-pick">of <select class="rs-who" aria-label="Whose pictures are shown large">{who}</select></label>'
        if len(strips) > 1
        else ""
    )
    tiles = "".join(
        f'<figure class="rs-is-{row}"><img data-big="{row}" src="{source(first[row])}" alt="{text(ROWS[row][0])}, large"><figcaption>{words}</figcaption></figure>'
        for row, words in _TILES.items()
    )
    pairs = _pairs(strips)
    options = "".join(f'<option value="{value}">{text(words)}</option>' for words, value in pairs)
    (av, arow), (bv, brow) = (side.split(".") for side in pairs[0][1].split("|"))
    a, b = (source(strips[int(v)]["frames"][start][row]) for v, row in ((av, arow), (bv, brow)))
    wipe = (
        '<figure class="rs-wipe"><div class="rs-wipe-box" style="--cut:50%">'
        f'<img data-wipe="a" src="{a}" alt="Left of the line: {text(ROWS[arow][0])}"><img data-wipe="b" class="rs-over" src="{b}" alt="Right of the line: {text(ROWS[brow][0])}">'
        '<input type="range" class="rs-cut" min="0" max="100" value="50" aria-label="Before and after: how much of the left picture is shown">'
        '<i class="rs-line-between" aria-hidden="true"></i></div>'
        f'<figcaption><label>left | right: <select class="rs-sides" aria-label="The two pictures under the slider">{options}</select></label></figcaption></figure>'
    )  # fmt: skip
    return (
        f'<section class="rs-close" aria-label="One step, large"><h4>Look closer {pick} <span class="rs-where" aria-live="polite">step {text(first["step"])} · noise level '
        f'{quantity(first["sigma"], 2)} · {percent(first["difference"])} apart</span></h4><div class="rs-tiles">{tiles}{wipe}</div></section>'
    )


def _pairs(strips: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(words, "variant.row|variant.row") of what the before/after slider can show."""
    several = len(strips) > 1
    found = [
        (f"own rollout: {strips[0]['label']} | {strip['label']}", f"0.rolled|{at}.rolled")
        for at, strip in enumerate(strips[1:], 1)
    ]
    for at, strip in enumerate(strips):
        found.append(
            ("should see | own rollout" + (f", {strip['label']}" if several else ""), f"{at}.clean|{at}.rolled")
        )
    return found


# The numbers ---------------------------------------------------------------------------------------------------------


def numbers_table(result: Mapping[str, Any]) -> str:
    """What was measured at the last column, for each variant, with its unit."""
    numbers = result["numbers"]
    names = [name for name in NUMBERS if any(name in found for found in numbers.values())]
    head = "".join(f'<th scope="col">{text(label)}</th>' for label in numbers)
    rows = "".join(
        f'<tr><th scope="row">{NUMBERS[name][0]} <span>{NUMBERS[name][1]}</span></th>'
        + "".join(f"<td>{_number(found.get(name), NUMBERS[name][2])}</td>" for found in numbers.values())
        + "</tr>"
        for name in names
    )
    return f'<div class="rs-scroll" tabindex="0" role="region" aria-label="All numbers"><table class="rs-drift-numbers"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _number(value: Any, factor: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    return quantity(value * factor, 3).replace("-", "−")


def words_list(sentences: Sequence[Any]) -> str:
    return f'<ul class="rs-remarks">{"".join(f"<li>{text(each)}</li>" for each in sentences)}</ul>'


def downloads(links: Sequence[tuple[str, str, str]]) -> str:
    """Download links: (what it is called, the file's name on the person's disk, address)."""
    found = "".join(
        f'<a class="rs-file" download="{text(name)}" href="{text(href)}">{text(words)}</a>'
        for words, name, href in links
    )
    return f'<div class="rs-downloads" role="group" aria-label="Downloads">{found}</div>' if found else ""


# The curves of a report ----------------------------------------------------------------------------------------------

_X = "noise level (0 = picture, 1 = noise)"
_MORE_COLORS = ("run-2", "run-4", "ink")
"""Of further curves; the first of each kind of weights has the colour of its kind, `base` or `tuned`."""


def report_charts(report: DriftReport) -> str:
    """Drift by noise level, its two parts, the held-out clean loss, and the map of frequencies; each with how to read it."""
    return curve_charts(report.curves)


def curve_charts(curves: Sequence[Curve]) -> str:
    """The charts of curves, also of such as are not whole yet: what is not measured is not drawn."""
    drawn = _styled(curves)
    if not drawn:
        return ""
    cells: list[tuple[str, str]] = []
    farthest = max((point.offset for curve, _, _ in drawn for point in curve.short), default=0)
    if farthest:
        lines = [_line(name, _at(curve, farthest), "distance", color, dashed) for curve, (name, color), dashed in drawn]
        cells.append((
            chart(lines, title=f"Distance from the true path after {_steps(farthest)} alone", x_label=_X, y_label="share of its length", x_range=(0, 1)),
            "Higher is farther off. Even a perfect model leaves the path a little, so compare the lines with each other, not with zero.",
        ))  # fmt: skip
        parts = [
            part
            for curve, (name, color), _ in drawn[:2]
            for part in _parts(curve, name, color, farthest, len(drawn) > 1)
        ]
        whose = f" ({drawn[0][1][0]})" if len(drawn) == 1 else ""
        cells.append((
            chart(parts, title=f"Where it comes from{whose}", x_label=_X, y_label="share of its length", x_range=(0, 1)),
            "Solver: what coarse steps lose; more steps cure it. Floor + model: what stays with very fine steps. Part of that no model can avoid.",
        ))  # fmt: skip
    losses = [
        _line(name, curve.clean_loss, "loss", color, dashed)
        for curve, (name, color), dashed in drawn
        if curve.clean_loss
    ]
    if losses:
        cells.append((
            chart(losses, title="Held-out clean loss" if all(curve.role == "held-out" for curve, _, _ in drawn) else "Clean loss", x_label=_X, y_label="mean squared error", x_range=(0, 1)),
            "How far off it is on true noisy pictures that it never trained on. If drift falls while this rises, the model has become blurry, not better.",
        ))  # fmt: skip
    maps = [
        (curve.spectrum, name) for curve, (name, _), _ in drawn if curve.spectrum is not None and curve.spectrum.sigma
    ]
    full = _full_colour([spectrum for spectrum, _ in maps])
    for spectrum, name in maps:
        cells.append((
            spectrum_map(spectrum, f"Which details drift{f' ({name})' if len(drawn) > 1 else ''}", full),
            "Red: that kind of detail came out too strong, blue: too weak, blank: as it should be. Fine detail is at the top; the rollout goes to the right.",
        ))  # fmt: skip
    spread = any(curve.samples > 1 for curve, _, _ in drawn)
    how = (
        _sentence("Shaded: within this range the truth lies with 95 % certainty, for these pictures and other noises.")
        if spread and cells
        else ""
    )
    return (
        how
        + f'<div class="rs-grid2">{"".join(f"<div>{picture}{_sentence(words)}</div>" for picture, words in cells)}</div>'
        if cells
        else ""
    )


def _styled(given: Sequence[Curve]) -> list[tuple[Curve, tuple[str, str], bool]]:
    """(curve, (its name, its colour), dashed) of those that are drawn: held-out ones where there are any, the base first."""
    held_out = [curve for curve in given if curve.role == "held-out"]
    curves = sorted(held_out if held_out else given, key=lambda curve: curve.weights != "base")[:4]
    found, more = [], iter(_MORE_COLORS)
    for curve in curves:
        taken = [color for _, (_, color), _ in found]
        color = curve.weights if curve.weights not in taken else next(more)
        found.append((curve, (curve.label, color), curve.weights == "base" and len(curves) > 1))
    return found


def _at(curve: Curve, offset: int) -> list[Point]:
    return [point for point in curve.short if point.offset == offset]


def _parts(curve: Curve, name: str, color: str, offset: int, several: bool) -> list[Line]:
    of = f"{name}: " if several else ""
    points = _at(curve, offset)
    return [
        _line(f"{of}floor + model", points, "floor_model", color),
        _line(f"{of}solver (dashed)", points, "solver", "quiet" if not several else color, True),
    ]


def _line(name: str, points: Sequence[Point], measure: str, color: str, dashed: bool = False) -> Line:
    """The measure over the noise level, with its 95 % interval where more than one sample was measured."""
    points = sorted((point for point in points if measure in point.measures), key=lambda point: point.share)
    found = [point.measures[measure] for point in points]
    values = [math.nan if each.value is None else each.value for each in found]
    spread = [math.nan if each.error is None else 1.96 * each.error for each in found]
    band = {} if all(math.isnan(each) for each in spread) else {
        "low": [value - each for value, each in zip(values, spread, strict=True)], "high": [value + each for value, each in zip(values, spread, strict=True)],
    }  # fmt: skip
    return Line(name, [point.share for point in points], values, color, dashed=dashed, dots=True, **band)


def _full_colour(spectra: Sequence[Spectrum]) -> float:
    """The decibels of the fullest colour, one for all maps that are compared: what 19 of 20 cells stay below, at least 3."""
    found = sorted(
        abs(value)
        for spectrum in spectra
        for powers in spectrum.db
        for value in powers
        if value is not None and math.isfinite(value)
    )
    return max(3.0, found[int(0.95 * (len(found) - 1))]) if found else 3.0


def spectrum_map(spectrum: Spectrum, title: str, full: float, height: int = 190) -> str:
    """Power by frequency along the rollout, own over true: red too much, blue too little. `full`: decibels of the full colour."""
    columns, rows = len(spectrum.sigma), len(spectrum.frequencies)
    most = max(
        (abs(value) for powers in spectrum.db for value in powers if value is not None and math.isfinite(value)),
        default=0.0,
    )
    cells = "".join(
        f'<rect x="{x * 1000 / columns:.1f}" y="{(rows - 1 - y) * 1000 / rows:.1f}" width="{1000 / columns + 0.5:.1f}" height="{1000 / rows + 0.5:.1f}" '
        f'class="rs-{"too-much" if value > 0 else "too-little"}" fill-opacity="{min(1.0, abs(value) / full):.2f}"/>'
        for x, powers in enumerate(spectrum.db) for y, value in enumerate(powers)
        if value is not None and math.isfinite(value) and abs(value) >= 0.01 * full
    )  # fmt: skip
    shown = sorted({0, columns // 2, columns - 1})
    ticks = "".join(
        f'<span style="left:{(at + 0.5) * 100 / columns:.1f}%">{quantity(spectrum.sigma[at], 2)}</span>' for at in shown
    )
    legend = f'<span><i class="rs-key rs-blue"></i>too weak</span><span><i class="rs-key rs-red"></i>too strong (full colour: {quantity(full, 2)} dB)</span>'
    return (
        f'<div class="rs-chart rs-spectrum"><div class="rs-chart-head"><b>{text(title)}</b><span class="rs-legend">{legend}</span></div>{y_name("size of the details")}'
        f'<div class="rs-plot" style="height:{height}px"><div class="rs-y"><span style="top:6%">fine</span><span style="top:94%">coarse</span></div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{text(title)}: power by frequency along the rollout, at most {quantity(most, 2)} dB off">{cells}</svg></div>'
        f'<div class="rs-x">{ticks}</div><div class="rs-x-name">noise level along the rollout (1 = noise)</div></div>'
    )  # fmt: skip


def _sentence(words: str) -> str:
    return f'<p class="rs-quiet">{text(words)}</p>'
