"""What an import brought, as a card: what to fill in, what means something else there, what was left and why, and what was carried over."""

from collections.abc import Iterable

from ...core.config import OPTIONS, config_to_flat
from ...core.foreign.importing import Imported, possessive, short_key, shown_value, summary
from ..parts.forms import label
from ..parts.words import text

_MOST_SHOWN = 40


def import_card(imported: Imported) -> str:
    """The card. Lists are open where they ask for a decision, and folded where everything went as one expects."""
    fill_in = "".join(f"<li>{text(label(OPTIONS[name]))} <code>{text(name)}</code></li>" for name in imported.fill_in)
    parts = [f"<p>{text(summary(imported))}</p>"]
    if fill_in:
        parts.append(f"<h4>Fill in again</h4><ul>{fill_in}</ul>")
    changed = [f"{_given(each.key, each.given)} {text(each.how)}" for each in imported.changed]
    notes = [text(note) for note in imported.notes]
    if changed or notes:
        parts.append(_list("Changed in meaning", [*changed, *notes], len(imported.changed)))
    if imported.left_out:
        parts.append(
            _list(
                "Left out",
                [f"{_given(key, value)} {text(why)}" for key, value, why in imported.left_out],
                len(imported.left_out),
            )
        )
    if imported.carried:
        rows = (
            f"<code>{text(short_key(each.key))}</code> → {text(label(OPTIONS[each.option]))} <b>{text(shown_value(each.value))}</b>"
            for each in imported.carried
        )
        parts.append(_fold(f"Carried over ({len(imported.carried)})", rows))
    if imported.assumed:
        flat = config_to_flat(imported.config)
        names = ", ".join(f"{text(name)} {text(shown_value(flat[name]))}" for name in imported.assumed)
        parts.append(
            f"<details><summary>{text(possessive(imported.program))} defaults that were put in</summary><p>{names}</p></details>"
        )
    quiet = imported.quiet
    if quiet:
        rows = (f"{_given(each.key, each.given)} {text(each.why)}" for each in quiet)
        parts.append(_fold(f"Off there, or without effect on what is learned ({len(quiet)})", rows))
    kind = "rs-mild" if fill_in or imported.left_out else "rs-good"
    return f'<div class="rs-card {kind} rs-imported" role="status"><h3>Settings brought in</h3>{"".join(parts)}</div>'


def _given(key: str, value: object) -> str:
    return f"<code>{text(short_key(key))}</code> = {text(shown_value(value))}:"


def _list(title: str, rows: list[str], count: int) -> str:
    items = "".join(f"<li>{row}</li>" for row in rows[:_MOST_SHOWN])
    more = len(rows) - _MOST_SHOWN
    number = f" ({count})" if count else ""
    return f"<h4>{text(title)}{number}</h4><ul>{items}{f'<li>and {more} more</li>' if more > 0 else ''}</ul>"


def _fold(title: str, rows: Iterable[str]) -> str:
    return f"<details><summary>{text(title)}</summary><ul>{''.join(f'<li>{row}</li>' for row in rows)}</ul></details>"
