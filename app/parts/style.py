"""The page's look: one theme and one style sheet, from system fonts and Gradio's own variables, so that dark mode comes with it.

Gradio puts the style sheet on the page twice: as it is, and with a prefix before each selector; rules inside @media only with the prefix, so
those must not name `.gradio-container` themselves.

Two colours carry meaning everywhere: teal is the clean path, orange what the model rolled out by itself.
"""

from pathlib import Path

import gradio as gr

_FONT = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Liberation Sans",
    "Arial",
    "sans-serif",
)
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's base theme in teal and stone, larger text, soft corners."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        font=_FONT,
        font_mono=_MONO,
    ).set(
        body_background_fill="#faf9f6",
        body_background_fill_dark="#16181a",
        block_background_fill="white",
        block_background_fill_dark="#1e2124",
        background_fill_primary="white",
        background_fill_primary_dark="#1e2124",
        block_border_color="#e4e0d8",
        block_border_color_dark="#32373b",
        border_color_primary="#dcd7cd",
        border_color_primary_dark="#3a4045",
        input_background_fill="#fdfcfa",
        input_background_fill_dark="#16181a",
        body_text_color="#24292c",
        body_text_color_dark="#e8e6e1",
        body_text_color_subdued="#5d6468",
        body_text_color_subdued_dark="#a5abaf",
        block_info_text_color="#5d6468",
        block_info_text_color_dark="#a5abaf",
        block_info_text_size="13px",
        block_label_text_color="#24292c",
        block_label_text_color_dark="#e8e6e1",
        block_title_text_weight="600",
        block_title_text_color="#24292c",
        block_title_text_color_dark="#e8e6e1",
        input_border_color="#cfc9bd",
        input_border_color_dark="#454c52",
        input_border_width="1px",
        input_border_width_dark="1px",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#138a80",
        button_primary_text_color="white",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
    )


_FOLDER = Path(__file__).parents[1] / "css"
CSS = "\n".join(path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.css")))
"""The style sheets of `css/`, `base.css` first: what several tabs share lies there, the rest in one file for each tab."""
