"""Pictures drawn with a run's weights, as HTML: the request in progress, and the tries before it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....core.look.sample_request import SampleRequest
from ...parts.preview_client import PreviewState
from ...parts.previews import Previews
from ...parts.words import duration, quantity, text


def now_card(state: PreviewState, previews: Previews) -> str:
    """How far the request is and what is drawn so far, or why it failed; "" when it is done: it then stands among the tries."""
    if state.status == "failed":
        faults = "".join(f"<li>{text(fault.message)}</li>" for fault in state.faults)
        reason = f"<ul>{faults}</ul>" if faults else f"<p>{text(state.message)} {text(state.remedy)}</p>"
        return f'<div class="rs-card rs-bad" role="alert"><h4>Nothing was drawn</h4>{reason}</div>'
    if state.status == "cancelled":
        return '<div class="rs-card rs-quiet">Cancelled.</div>'
    if state.status == "done":
        return ""
    share = round(100 * state.share)
    bar = f'<div class="rs-bar" role="progressbar" aria-valuenow="{share}" aria-valuemin="0" aria-valuemax="100"><i style="width:{share}%"></i></div>'
    status = f'<p class="rs-quiet">{text(state.what)} · {share} % · {duration(state.seconds)}</p>'
    drawn = "" if state.result is None else _pictures(state.result["pictures"], previews.folder, previews)
    return f'<div class="rs-card">{bar}{status}{drawn}</div>'


def tries_card(folders: list[Path], previews: Previews) -> str:
    """The tries of a run, in the order of their folders."""
    cards = [_try_card(folder, folder == folders[0], previews) for folder in folders]
    return (
        f'<div class="rs-tries">{"".join(cards)}</div>'
        if cards
        else '<p class="rs-quiet">Nothing drawn yet with this run. The first picture takes some seconds longer: the model is loaded.</p>'
    )


def _try_card(folder: Path, newest: bool, previews: Previews) -> str:
    try:
        answer = json.loads((folder / SampleRequest.proof).read_text(encoding="utf-8"))
        pictures = [{**each, "file": str(folder / str(each["file"]))} for each in answer["pictures"]]
        size, seed = answer["size"], answer["seed"]
        words = f"seed {seed} · {answer['steps']} steps · guidance {quantity(answer['guidance'])} · {size[0]} × {size[1]} px · {answer['model']}"
        negative = f" · not: {answer['negative_prompt']}" if answer["negative_prompt"] else ""
        drawn = _pictures(pictures, folder, previews)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return f'<div class="rs-card rs-bad">The try {text(folder.name)} cannot be read: {text(error)}</div>'
    mark = ' data-testid="newest-try"' if newest else ""
    return f'<div class="rs-card rs-try-card"{mark}>{drawn}<p class="rs-quiet">{text(words)}{text(negative)}</p></div>'


def _pictures(pictures: list[Mapping[str, Any]], inside: Path, previews: Previews) -> str:
    """The pictures of one request: a row for each prompt, one beside the other for the weights."""
    rows: dict[str, list[str]] = {}
    for number, each in enumerate(pictures):
        source = Path(str(each["file"]))
        address = previews.address(source, inside)
        label, prompt, seed = text(each["label"]), text(each["prompt"]), text(each["seed"])
        if address is None:
            shown = '<div class="rs-gone">gone</div>'
        else:
            save = text(
                previews.named(source, f"{_file_words(str(each['label']))}-seed-{int(each['seed'])}-{number}.png")
            )
            shown = (
                f'<a href="{text(address)}" target="_blank" rel="noopener"><img src="{text(address)}" alt="{prompt}, {label}, seed {seed}"></a>'
                f'<figcaption><b>{"Untrained" if each["kind"] == "base" else label}</b> <a download href="{save}">save</a></figcaption>'
            )
        kind = "clean" if each["kind"] == "base" else "rolled"
        rows.setdefault(f"{prompt} <span>seed {seed}</span>", []).append(
            f'<figure class="rs-try-{kind}">{shown}</figure>'
        )
    return "".join(
        f'<p class="rs-try-prompt">{prompt}</p><div class="rs-try-pair">{"".join(figures)}</div>'
        for prompt, figures in rows.items()
    )


def _file_words(label: str) -> str:
    return (
        "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-") else "-" for letter in label).strip(
            "-."
        )
        or "picture"
    )
