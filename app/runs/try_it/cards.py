"""Pictures drawn with a run's weights, as HTML: the request in progress, and the tries before it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
        return f'<div class="rs-card rs-bad" role="alert"><h3>Nothing was drawn</h3>{reason}</div>'
    if state.status == "cancelled":
        return '<div class="rs-card rs-quiet">Cancelled.</div>'
    if state.status == "done":
        return ""
    share = round(100 * state.share)
    bar = f'<div class="rs-bar" role="progressbar" aria-valuenow="{share}" aria-valuemin="0" aria-valuemax="100"><i style="width:{share}%"></i></div>'
    status = f'<p class="rs-quiet">{text(state.what)} · {share} % · {duration(state.seconds)}</p>'
    drawn = "" if state.result is None else _drawn(state.result, previews.folder, previews)
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
        drawn = _drawn({**answer, "pictures": pictures}, folder, previews)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return f'<div class="rs-card rs-bad">The try {text(folder.name)} cannot be read: {text(error)}</div>'
    mark = ' data-testid="newest-try"' if newest else ""
    wide = " rs-whole" if answer.get("matrix") else ""
    return f'<div class="rs-card rs-try-card{wide}"{mark}>{drawn}<p class="rs-quiet">{text(words)}{text(negative)}</p></div>'


def _drawn(answer: Mapping[str, Any], inside: Path, previews: Previews) -> str:
    """The pictures of an answer, or of what there is of it so far."""
    matrix, pictures = answer.get("matrix"), answer["pictures"]
    return _pictures(pictures, inside, previews) if matrix is None else _matrix(matrix, pictures, inside, previews)


@dataclass(frozen=True)
class _Shown:
    """One picture. `address` None: its file is gone."""

    address: str | None
    save: str
    label: str
    alt: str
    is_base: bool

    @classmethod
    def of(cls, each: Mapping[str, Any], number: int, inside: Path, previews: Previews) -> "_Shown":
        source = Path(str(each["file"]))
        address, save = previews.address(source, inside), ""
        if address is not None:
            save = previews.named(source, f"{_file_words(str(each['label']))}-seed-{int(each['seed'])}-{number}.png")
        alt = f"{each['prompt']}, {each['label']}, seed {each['seed']}"
        return cls(address, save, str(each["label"]), alt, each["kind"] == "base")

    @property
    def markup(self) -> str:
        """The picture, which opens in full."""
        if self.address is None:
            return '<div class="rs-gone">gone</div>'
        return f'<a href="{text(self.address)}" target="_blank" rel="noopener"><img src="{text(self.address)}" alt="{text(self.alt)}"></a>'

    @property
    def save_link(self) -> str:
        return f'<a download href="{text(self.save)}" aria-label="Save: {text(self.alt)}">save</a>' if self.save else ""


def _pictures(pictures: list[Mapping[str, Any]], inside: Path, previews: Previews) -> str:
    """The pictures of one request: for each prompt the base and the tuned one with a slider between them, and each by itself."""
    rows: dict[str, list[_Shown]] = {}
    for number, each in enumerate(pictures):
        title = f"{text(each['prompt'])} <span>seed {text(each['seed'])}</span>"
        rows.setdefault(title, []).append(_Shown.of(each, number, inside, previews))
    return "".join(
        f'<p class="rs-try-prompt">{title}</p>{_slider(shown)}<div class="rs-try-pair">{"".join(_figure(each) for each in shown)}</div>'
        for title, shown in rows.items()
    )


def _figure(each: _Shown) -> str:
    kind = "clean" if each.is_base else "rolled"
    words = "Untrained" if each.is_base else text(each.label)
    caption = f"<figcaption><b>{words}</b> {each.save_link}</figcaption>" if each.address is not None else ""
    return f'<figure class="rs-try-{kind}">{each.markup}{caption}</figure>'


def _slider(shown: list[_Shown]) -> str:
    """The base at the left of a line that can be moved, the tuned picture at its right (`js/try.js`); "" where one of them is not there."""
    base = next((each for each in shown if each.is_base and each.address), None)
    tuned = next((each for each in shown if not each.is_base and each.address), None)
    if base is None or tuned is None:
        return ""
    return (
        f'<div class="rs-wipe-box rs-try-wipe" style="--cut:50%"><img src="{text(str(base.address))}" alt="Left of the line: {text(base.alt)}">'
        f'<img class="rs-over" src="{text(str(tuned.address))}" alt="Right of the line: {text(tuned.alt)}">'
        '<input type="range" class="rs-cut" min="0" max="100" value="50" step="any" aria-label="Untrained beside tuned: how much of the untrained picture is shown">'
        f'<i class="rs-line-between" aria-hidden="true"></i></div><p class="rs-quiet rs-try-sides"><span>Untrained</span><span>{text(tuned.label)}</span></p>'
    )


def _matrix(matrix: Mapping[str, Any], pictures: list[Mapping[str, Any]], inside: Path, previews: Previews) -> str:
    """A table for each prompt: weights down, checkpoints across; what is not drawn yet is an empty cell."""
    drawn = {
        (str(each["prompt"]), int(each["row"]), int(each["column"])): _Shown.of(each, number, inside, previews)
        for number, each in enumerate(pictures)
    }
    head = "".join(f'<th scope="col">{text(label)}</th>' for label in matrix["columns"])
    tables = []
    for prompt in matrix["prompts"]:
        rows = "".join(
            f'<tr><th scope="row">weight {quantity(float(strength))}</th>'
            + "".join(
                f"<td>{_cell(drawn.get((str(prompt), row, column)))}</td>" for column in range(len(matrix["columns"]))
            )
            + "</tr>"
            for row, strength in enumerate(matrix["rows"])
        )
        tables.append(
            f'<p class="rs-try-prompt">{text(prompt)}</p><div class="rs-scroll" tabindex="0" role="region" aria-label="Pictures by weight and checkpoint">'
            f'<table class="rs-samples"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return "".join(tables)


def _cell(shown: _Shown | None) -> str:
    return '<div class="rs-try-empty">…</div>' if shown is None else f"{shown.markup}{shown.save_link}"


def _file_words(label: str) -> str:
    return (
        "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-") else "-" for letter in label).strip(
            "-."
        )
        or "picture"
    )
