"""The samples of one run: each prompt from before training to now."""

from typing import Any

from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog
from ..parts.watch import Watch
from ..parts.words import text
from .shared import picture

_MOST_COLUMNS = 12


def chosen_steps(steps: list[int], most: int = _MOST_COLUMNS) -> list[int]:
    """At most `most` of the steps, the first and the last among them, evenly spread."""
    if len(steps) <= most:
        return steps
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


def glance(run: RunSummary, log: RunLog, watch: Watch, most: int = 4) -> str:
    """The first prompts before training and now."""
    if len(log.samples) < 2:
        return ""
    first, last = min(log.samples), max(log.samples)
    before = {(image.get("prompt"), image.get("seed")): image for image in log.samples[first]}
    cells = []
    for image in log.samples[last]:
        old = before.get((image.get("prompt"), image.get("seed")))
        if old is not None and len(cells) < most:
            both = "".join(picture(run, each, step, watch) for each, step in ((old, first), (image, last)))
            cells.append(
                f'<figure><div class="rs-twin">{both}</div><figcaption>{text(image.get("prompt", ""))}</figcaption></figure>'
            )
    if not cells:
        return ""
    began = "before training" if first == 0 else f"at step {first}"
    return (
        f'<div class="rs-card"><h3>So far</h3><p class="rs-quiet">Each pair: {began}, and at step {last}. All of them are on Samples and drift.</p>'
        f'<div class="rs-glance">{"".join(cells)}</div></div>'
    )


def samples_grid(run: RunSummary, log: RunLog, watch: Watch) -> str:
    """Samples: a row for each prompt, a column for each step, step 0 first."""
    if not log.samples:
        return ""
    steps = chosen_steps(sorted(log.samples))
    rows: dict[tuple[str, Any], dict[int, str]] = {}
    for step in steps:
        for image in log.samples[step]:
            rows.setdefault((str(image.get("prompt", "")), image.get("seed")), {})[step] = picture(
                run, image, step, watch
            )
    head_cells = "".join(f"<th scope='col'>{'before' if step == 0 else f'step {step}'}</th>" for step in steps)
    body = "".join(
        f'<tr><th scope="row">{text(prompt)}</th>'
        + "".join(f"<td>{cells.get(step, '')}</td>" for step in steps)
        + "</tr>"
        for (prompt, _), cells in rows.items()
    )
    return (
        '<div class="rs-card"><h3>Samples</h3><p class="rs-quiet">Each row is one prompt with the same starting noise all the way: read it from left '
        f'(before training) to right.</p><div class="rs-scroll" tabindex="0" aria-label="Samples by prompt and step"><table class="rs-samples"><thead><tr><th></th>{head_cells}</tr></thead><tbody>{body}</tbody></table></div></div>'
    )
