"""Step 2 of the Train tab: pictures of the new thing, dropped or in a folder, with their captions and checks."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ..core import platform_calls
from ..core.config import RunConfig
from ..core.dataset import scan
from ..core.options import ConfigError
from .cards import findings_card, problems
from .forms import Form
from .panel import QUICK, SLOW, FormPage
from .watch import Watch
from .words import text

_PICTURES_SHOWN = 24
_UPLOADS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".txt"}
_LARGEST_UPLOAD_NAME = 80


class PicturesPanel:
    """Builds the panel in the current layout."""

    def __init__(self, form: Form, config: RunConfig, watch: Watch) -> None:
        self.watch = watch
        self.form = form
        with gr.Row():
            with gr.Column(scale=3, min_width=260):
                self.files = gr.File(
                    file_count="multiple", type="filepath", height=150, elem_id="drop",
                    label="Your pictures",
                    file_types=sorted(_UPLOADS),
                )  # fmt: skip
                gr.HTML('<p class="rs-quiet">5 to 20 pictures of one thing, from different sides and on different backgrounds. A caption may lie '
                        "beside a picture: photo.txt for photo.png.</p>")  # fmt: skip
            with gr.Column(scale=4, min_width=260):
                form.place("instance_data_dir", "trigger_word", "instance_prompt")
        self.pictures = gr.HTML(self.shown(config), elem_id="pictures")

    @property
    def inputs(self) -> list[Any]:
        return []

    @property
    def outputs(self) -> list[Any]:
        return [self.pictures]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        return {}  # reading the folder is not for every keystroke

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        return {self.pictures: self.shown(config)}

    def wire(self, page: FormPage) -> None:
        folder = self.form.components["instance_data_dir"]

        def look(given: Mapping[Any, Any]) -> dict[Any, Any]:
            return {self.pictures: self._looked(given)}

        def on_upload(given: Mapping[Any, Any]) -> dict[Any, Any]:
            """Dropped files become a folder of their own beside the runs, and that folder the pictures of the run."""
            kept, refused = self._keep(given[self.files])
            if refused:
                gr.Warning(f"Left out, because they are neither pictures nor captions: {', '.join(refused[:5])}.")
            if kept is None:
                return {self.pictures: gr.skip()}
            given = {**given, folder: str(kept)}
            try:
                config = self.form.read(given)
            except ConfigError as error:  # something else in the form is wrong; the pictures are kept all the same
                return {**page.refused(given, error), folder: str(kept), self.pictures: problems(error.faults)}
            return page.filled(given, config, ["instance_data_dir"])

        gr.on([folder.blur, folder.submit], look, page.inputs, self.pictures, **QUICK)
        self.files.upload(on_upload, {*page.inputs, self.files}, page.outputs, show_progress_on=[self.pictures], **SLOW)

    def _looked(self, given: Mapping[Any, Any]) -> str:
        try:
            return self.shown(self.form.read(given))
        except ConfigError as error:
            return problems(error.faults)

    def _keep(self, paths: list[str] | None) -> tuple[Path | None, list[str]]:
        kept, refused = [], []
        for path in map(Path, paths if paths is not None else []):
            (kept if path.suffix.lower() in _UPLOADS else refused).append(path)
        if not kept:
            return None, [path.name for path in refused]
        folder = self.watch.store.root / ".pictures" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        for path in kept:
            stem = path.stem[:_LARGEST_UPLOAD_NAME]
            # Gradio has cleaned the name; this keeps a picture and its caption together under the same cut name.
            platform_calls.write_atomically(folder / f"{stem}{path.suffix.lower()}", path.read_bytes())
        return folder, [path.name for path in refused]

    def shown(self, config: RunConfig) -> str:
        if config.data.instance_data_dir is None:
            return '<p class="rs-quiet">No pictures yet. Drop some on the left, or name a folder on this computer.</p>'
        found = scan(config.data)
        cards = []
        for item in found.items[:_PICTURES_SHOWN]:
            address = self.watch.previews.thumbnail(Path(item.path))
            image = f'<img src="{text(address)}" alt="{text(item.caption)}" loading="lazy">' if address else '<div class="rs-gone">unreadable</div>'
            caption = f"<figcaption>{text(item.caption)}</figcaption>"
            cards.append(f'<figure title="{text(item.name)}, {item.width} × {item.height} px">{image}{caption}</figure>')
        more = len(found.items) - len(cards)
        head = f"{len(found.items)} picture{'' if len(found.items) == 1 else 's'}" + (f", the first {len(cards)} shown" if more > 0 else "")
        return f'<div class="rs-quiet">{head}</div><div class="rs-pictures">{"".join(cards)}</div>' + findings_card(found.problems)
