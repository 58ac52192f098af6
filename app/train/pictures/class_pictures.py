"""Class pictures on the page: which ones prior preservation will train on, and what the checks found about them."""

from pathlib import Path

from ....core.config import OPTIONS, DataConfig
from ....core.data import Scan
from ....core.data.captions import clean
from ....core.data.scanning import located
from ....core.findings import Finding, printable
from ...parts.previews import Previews
from ...parts.words import text
from .checks import checks_card

_OFF = '<div class="rs-quiet">Off: only your pictures are trained on. Turn it on when ordinary things of the kind begin to look like yours.</div>'


def class_card(data: DataConfig, found: Scan, problems: list[Finding], previews: Previews, most: int) -> str:
    """What prior preservation will train on, with the first `most` class pictures."""
    if not data.with_prior_preservation:
        return _OFF
    have = min(len(found.class_items), data.num_class_images)
    cards = []
    for item in found.class_items[: min(most, have)]:
        address = previews.thumbnail(item.path)
        image = (
            f'<img src="{text(address)}" alt="{text(printable(item.name))}" loading="lazy">'
            if address
            else '<div class="rs-gone">cannot be shown</div>'
        )
        cards.append(
            f'<figure title="{text(printable(item.name))}">{image}<figcaption>{text(printable(item.caption))}</figcaption></figure>'
        )
    more = f'<p class="rs-quiet">The first {len(cards)} are shown.</p>' if have > len(cards) else ""
    grid = f'<div class="rs-pictures">{"".join(cards)}</div>' if cards else ""
    sources = _sources(data, have, refused=any(finding.level == "error" for finding in problems))
    return f'<div class="rs-quiet">{text(sources)}</div>{grid}{more}' + checks_card(problems, 0, "")


def _sources(data: DataConfig, have: int, refused: bool) -> str:
    """How many class pictures there are, and how many will be drawn before the first step; nothing is drawn where the run is `refused`."""
    missing, sentences = data.num_class_images - have, []
    if have and data.class_data_dir is not None:
        plural = "" if have == 1 else "s"
        sentences.append(f"{have} class picture{plural} from {printable(str(located(data.class_data_dir)))}.")
    if missing and not refused:
        what = "more" if have else "class picture" if missing == 1 else "class pictures"
        where = (
            "and kept in the cache for later runs"
            if data.class_data_dir is None
            else f"into {printable(str(located(data.class_data_dir)))}"
        )
        prompt = clean(data.class_prompt) if data.class_prompt is not None else ""
        sentences.append(
            f'{missing} {what} of "{prompt}" will be drawn by the untrained model before the first step, {where}.'
        )
    return " ".join(sentences)


def about_class_pictures(finding: Finding, data: DataConfig) -> bool:
    """Whether a finding is about the class pictures, not about the pictures of the new thing."""
    if finding.where in ("class_prompt", "class_data_dir", "num_class_images"):
        return True
    if finding.where in OPTIONS or data.class_data_dir is None or not data.with_prior_preservation:
        return False
    folder = located(data.class_data_dir)
    return Path(finding.where) == folder or folder in Path(finding.where).parents
