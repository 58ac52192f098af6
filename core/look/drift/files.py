"""A drift report as files: strict JSON, which is also read again, and a long table as CSV. No torch."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...formats import FORMATS, refusal
from .report import Curve, DriftReport, Measure, Point, ReportError, Spectrum, rounded
from .words import summary, words

FORMAT = "rollout_studio.drift"
VERSION = FORMATS["drift report"]
REPORT_FILE = "report.json"
LARGEST_BYTES = 500_000


# JSON -----------------------------------------------------------------------------------------------------------------


def report_to_json(report: DriftReport) -> str:
    """The report as strict JSON (numbers are finite or null), with its words. Raises ReportError beyond 500 kB."""
    record = {"format": FORMAT, "version": VERSION, **rounded(report), "network_rows": report.network_rows}
    record |= {"words": words(report), "summary": rounded(summary(report))}
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > LARGEST_BYTES:
        raise ReportError(
            f"The report has {len(text.encode()):,} bytes: at most {LARGEST_BYTES:,} are kept; choose fewer "
            "levels or offsets."
        )
    return text


def report_from_json(text: str) -> DriftReport:
    """The report that `report_to_json` wrote, without its pictures. Raises ReportError for anything else."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(
            f"Not JSON ({error.msg} at line {error.lineno}); give the report.json of a drift folder."
        ) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ReportError("This JSON is not a drift report; give the report.json of a drift folder.")
    newer = refusal("drift report", record.get("version", 0))
    if newer is not None:
        raise ReportError(f"The drift report {newer.what}", newer.remedy)
    try:
        curves = tuple(_curve(curve) for curve in record["curves"])
        keys = [f.name for f in dataclasses.fields(DriftReport) if f.name not in ("curves", "strips")]
        return DriftReport(**{key: record[key] for key in keys}, curves=curves)
    except (KeyError, TypeError) as error:
        raise ReportError(f"The drift report is damaged ({error!r}); measure again.") from error


def curves_record(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Curves by themselves as JSON, while they are measured: numbers are finite or null."""
    return rounded(list(curves))


def curves_of(record: Sequence[dict[str, Any]]) -> tuple[Curve, ...]:
    """The curves of `curves_record`."""
    return tuple(_curve(curve) for curve in record)


def read_report(path: Path | str) -> DriftReport:
    """The report of a drift folder, or of its report.json."""
    path = Path(path)
    return report_from_json((path / REPORT_FILE if path.is_dir() else path).read_text(encoding="utf-8"))


def _curve(record: dict[str, Any]) -> Curve:
    kinds = {kind: tuple(_point(point) for point in record[kind]) for kind in ("short", "trajectory", "clean_loss")}
    spectrum = record["spectrum"]
    if spectrum is not None:
        spectrum = Spectrum(**{key: _tuples(value) for key, value in spectrum.items()})
    return Curve(**{**record, **kinds, "spectrum": spectrum})


def _point(record: dict[str, Any]) -> Point:
    measures = {name: Measure(m["value"], m["error"], _tuples(m["values"])) for name, m in record["measures"].items()}
    return Point(**{**record, "measures": measures})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


# CSV ------------------------------------------------------------------------------------------------------------------


COLUMNS = (
    "step",
    "label",
    "weights",
    "pictures",
    "kind",
    "t",
    "sigma",
    "log_snr",
    "offset",
    "steps",
    "measure",
    "value",
    "error",
    "samples",
)


def rows(report: DriftReport) -> Iterator[tuple]:
    """The report as a long table, one number a row, in the order of COLUMNS. `kind`: short, trajectory, clean_loss or
    spectrum."""
    for curve in report.curves:
        head = (report.step, curve.label, curve.weights, curve.role)
        sizes = {"short": curve.samples, "trajectory": curve.trajectory_samples, "clean_loss": curve.samples}
        for kind, samples in sizes.items():
            for point in getattr(curve, kind):
                where = (point.t, point.sigma, point.log_snr, point.offset, point.steps)
                for name, measure in point.measures.items():
                    fine = kind == "short" and name in ("solver", "floor_model", "floor", "model")
                    yield (
                        *head,
                        kind,
                        *where,
                        name,
                        measure.value,
                        measure.error,
                        curve.fine_samples if fine else samples,
                    )
        if curve.spectrum is not None:
            for point, powers in zip(curve.trajectory, curve.spectrum.db, strict=True):
                where = (point.t, point.sigma, point.log_snr, point.offset, point.steps)
                for frequency, power in zip(curve.spectrum.frequencies, powers, strict=True):
                    name = f"power_db at {frequency:.3f} of Nyquist"
                    yield (*head, "spectrum", *where, name, power, None, curve.trajectory_samples)


def report_to_csv(report: DriftReport) -> str:
    """The long table as CSV text (comma, point, header; text cells that a spreadsheet would run as a formula are quoted
    by ')."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(report):
        writer.writerow(
            ""
            if cell is None
            else f"{cell:.6g}"
            if isinstance(cell, float)
            else f"'{cell}"
            if isinstance(cell, str) and cell[:1] in "=+-@"
            else cell
            for cell in row
        )
    return out.getvalue()
