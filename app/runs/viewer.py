"""The full-screen viewer of sample pictures: it opens where a picture in a table of samples is pressed, and knows the table by what is on the page."""

from pathlib import Path

import gradio as gr

from ..parts.translation import translated_markup, with_words

_SCRIPT = (Path(__file__).parents[1] / "js" / "viewer.js").read_text(encoding="utf-8")
_WORDS = ("nothing", "before", "step {0}")
_TEMPLATE = """<dialog class="rs-viewer" aria-label="Sample in full size">
<div class="rs-viewer-head"><p data-part="caption" aria-live="polite"></p><button type="button" class="rs-small" data-part="close">Close</button></div>
<div class="rs-viewer-box" data-part="box" style="--cut:50%"><img data-part="first" alt=""><img class="rs-over" data-part="second" alt="">
<input type="range" class="rs-cut" min="0" max="100" value="50" step="any" data-part="cut" aria-label="Side by side: how much of the first picture is shown">
<span class="rs-line-between" aria-hidden="true"></span></div>
<div class="rs-viewer-row"><button type="button" class="rs-small" data-part="left" aria-label="Earlier step">←</button>
<button type="button" class="rs-small" data-part="right" aria-label="Later step">→</button>
<button type="button" class="rs-small" data-part="up" aria-label="Row above">↑</button>
<button type="button" class="rs-small" data-part="down" aria-label="Row below">↓</button>
<label data-part="beside-row"><span>With a slider beside</span> <select data-part="beside"></select></label></div></dialog>"""


def sample_viewer() -> gr.HTML:
    """The viewer; once on the page. It serves `#run-samples`, `#run-glance`, `#compare-samples` and the matrix of Try it."""
    return gr.HTML(html_template=translated_markup(_TEMPLATE), js_on_load=with_words(_SCRIPT, _WORDS), apply_default_css=False, elem_id="sample-viewer", container=False)  # fmt: skip
