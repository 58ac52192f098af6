"""What the check of a model found, in a person's words."""

from ...core.before.model_check import ModelReport, hub_address, login_command
from ...core.families.registry import FAMILIES
from ...core.findings import Finding, by_severity, printable
from ...core.sizes import size
from ..parts.words import text

_PREDICTS = {
    "epsilon": "the noise in a picture (epsilon)",
    "v_prediction": "a mix of noise and picture (v)",
    "sample": "the clean picture",
    "flow_matching": "the way from picture to noise (flow)",
}


def model_card(report: ModelReport) -> str:
    """The report as a card: its facts, what stands in the way, and for a gated model the steps that open it."""
    gated = any(finding.code == "model-gated" for finding in report.findings)
    offline = any(finding.code == "model-offline" for finding in report.findings)
    name = printable(report.name)
    if gated:
        title = f"{name} asks for your agreement first"
    elif offline:
        title = f"{name} cannot be checked without a network"
    elif not report.usable:
        title = f"{name} cannot be used as it is"
    else:
        title = f"{name} can be used"
    colour = "rs-good" if report.usable else "rs-mild" if gated or offline else "rs-bad"
    facts = "".join(f"<tr><td>{text(key)}</td><td>{text(value)}</td></tr>" for key, value in _facts(report))
    table = f'<table class="rs-changes">{facts}</table>' if facts else ""
    body = _gated_steps(report) if gated else _findings(report.findings)
    return f'<div class="rs-card {colour}" role="status"><h3>{text(title)}</h3>{table}{body}</div>'


def _facts(report: ModelReport) -> list[tuple[str, str]]:
    facts = []
    if report.family is not None:
        facts.append(("Kind of model", f"{FAMILIES[report.family].label} ({report.family})"))
    if report.prediction_type is not None:
        facts.append(("Its network predicts", _PREDICTS.get(report.prediction_type, report.prediction_type)))
    if report.resolution is not None:
        facts.append(("Made for pictures of", f"{report.resolution} × {report.resolution} px"))
    if report.bytes_ is not None:
        facts.append(("Size", size(report.bytes_) + ("" if report.downloaded else " to download")))
    if report.precision is not None:
        facts.append(("Its weights are stored as", report.precision))
    if report.holds:
        facts.append(("The file holds", ", ".join(report.holds)))
        facts.append(
            (
                "The rest comes from",
                printable(report.lender) if report.lender else "this program (configs and tokenizers)",
            )
        )
    if report.to_download is not None:
        facts.append(("To download", f"{size(report.to_download)} from {printable(report.lender or '')}"))
    where = {
        "built-in": "built in: works offline",
        "folder": "a folder on this computer: works offline",
        "file": "a file on this computer" + (": works offline" if report.lender is None else ""),
    }.get(report.place)  # type: ignore[arg-type]
    if report.place == "hub" and report.downloaded is not None:
        where = "downloaded already: works offline" if report.downloaded else "not on this computer yet"
    if where is not None:
        facts.append(("Where it is", where))
    if report.gated is not None and report.usable:
        facts.append(("Access", "gated, and this computer has access" if report.gated else "open to everybody"))
    return facts


def _findings(findings: tuple[Finding, ...]) -> str:
    rows = "".join(
        f'<li class="rs-check-{finding.level}">{text(printable(finding.message))} <span class="rs-quiet">{text(printable(finding.remedy))}</span></li>'
        for finding in by_severity(findings)
    )
    return f"<ul>{rows}</ul>" if rows else ""


def _gated_steps(report: ModelReport) -> str:
    page, tokens = hub_address(report.name), hub_address("settings/tokens")
    return (
        "<p>Its owner gives it only to people who have accepted its licence (a <em>gated</em> model). Once for this computer:</p><ol>"
        f"<li>Open {_link(page)} in your browser, log in or make an account, read the licence and accept it. Some owners answer at once, some after days.</li>"
        f"<li>Make an access token at {_link(tokens)}: the kind “Read” is enough. It stands for your password.</li>"
        f"<li>In a terminal on this computer: <code>{text(login_command())}</code>, and paste the token when it asks.</li>"
        "<li>Press “Check this model” again.</li></ol>"
    )


def _link(address: str) -> str:
    return f'<a href="{text(address)}" target="_blank" rel="noopener noreferrer">{text(address)}</a>'
