"""Cards that several tabs show: a form's faults, a check's findings."""

from ...core.config import OPTIONS
from ...core.config.options import Fault
from ...core.findings import by_severity, has_errors
from .forms import label
from .words import text


def problems(faults: list[Fault] | tuple[Fault, ...], title: str = "Please mend this first") -> str:
    items = "".join(f"<li>{_where(fault.options)}{text(fault.message)}</li>" for fault in faults)
    return f'<div class="rs-card rs-bad" role="alert"><h3>{text(title)}</h3><ul>{items}</ul></div>'


def _where(options: tuple[str, ...]) -> str:
    return f"<b>{_link(options[0])}.</b> " if options and options[0] in OPTIONS else ""


def _link(option: str) -> str:
    """The option's name, which leads to its field (`js/find_option.js`)."""
    return f'<a href="#opt-{option}" data-option="{option}">{text(label(OPTIONS[option]))}</a>'


def findings_card(findings, all_well: str = "") -> str:
    """Findings of a check, worst first."""
    if not findings:
        return f'<div class="rs-card rs-good">{text(all_well)}</div>' if all_well else ""
    rows = []
    for finding in by_severity(findings):
        where = _link(finding.where) if finding.where in OPTIONS else text(finding.where)
        rows.append(
            f'<li class="rs-{finding.level}"><b>{where}{": " if where else ""}</b>{text(finding.message)} '
            f'<span class="rs-quiet">{text(finding.remedy)}</span></li>'
        )
    blocked = has_errors(findings)
    word = "This must be mended before training can start" if blocked else (all_well if all_well else "Worth knowing")
    return (
        f'<div class="rs-card {"rs-bad" if blocked else "rs-mild"}"><h3>{text(word)}</h3><ul>{"".join(rows)}</ul></div>'
    )
