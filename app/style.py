"""The page's look: one theme and one style sheet, from system fonts and Gradio's own variables, so that dark mode comes with it.

Gradio puts the style sheet on the page twice: as it is, and with a prefix before each selector; rules inside @media only with the prefix, so
those must not name `.gradio-container` themselves.

Two colours carry meaning everywhere: teal is the clean path, orange what the model rolled out by itself.
"""

import gradio as gr

_FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif")
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


CSS = """
:root { --rs-clean: #0f766e; --rs-rolled: #c2570c; --rs-accent: #0f766e; --rs-quiet: #8a8f93; --rs-ink: #3a4145; --rs-line: #e4e0d8;
  --rs-bad: #b42318; --rs-bad-bg: #fdf1ef; --rs-mild-bg: #fbf6e9; --rs-good-bg: #edf7f4; --rs-card: #ffffff; }
.dark { --rs-clean: #2dd4bf; --rs-rolled: #fb923c; --rs-accent: #2dd4bf; --rs-quiet: #8f969b; --rs-ink: #dcdad5; --rs-line: #32373b;
  --rs-bad: #ff9a8d; --rs-bad-bg: #321c1a; --rs-mild-bg: #2b271a; --rs-good-bg: #16291f; --rs-card: #1e2124; }
.gradio-container { width: 100% !important; max-width: min(1360px, 100vw) !important; min-width: 0 !important; margin: 0 auto !important; padding: 0 !important; overflow: clip !important; }
.gradio-container .main.fillable { padding: 4px clamp(10px, 2vw, 24px) 32px !important; max-width: none !important; }
.gradio-container main, .gradio-container .column, .gradio-container .row { min-width: 0; max-width: 100%; }
.gradio-container .html-container { padding: 0 !important; }
.gradio-container .rs-brand { display: flex; align-items: baseline; gap: 12px; padding: 14px 0 2px; }
.gradio-container .rs-brand b { font-size: 20px; letter-spacing: -.01em; }
.gradio-container .rs-brand b i { font-style: normal; color: var(--rs-rolled); }
.gradio-container .rs-brand span { color: var(--body-text-color-subdued); font-size: 14px; }
.gradio-container .rs-hero h2 { font-size: clamp(22px, 3vw, 30px); line-height: 1.2; margin: 10px 0 8px; letter-spacing: -.015em;
  font-weight: 700; max-width: 24em; text-wrap: balance; }
.gradio-container .rs-hero p { font-size: 16px; line-height: 1.55; margin: 0; max-width: 44em; color: var(--body-text-color); }
.gradio-container .rs-small h2 { font-size: 22px; }
.gradio-container .rs-hero-row { align-items: center; margin-bottom: 4px; }
.gradio-container .rs-hero-start { align-self: center; gap: 6px !important; }
.gradio-container #start-hero { font-size: 18px; padding: 16px 24px; }
.gradio-container .rs-note { font-size: 13px; color: var(--body-text-color-subdued); margin: 2px 0 0; text-align: center; text-wrap: balance; }
.gradio-container .rs-step { display: flex; align-items: center; gap: 10px; font-size: 18px; font-weight: 650; margin: 18px 0 4px; }
.gradio-container .rs-step span { display: inline-flex; width: 28px; height: 28px; border-radius: 50%; align-items: center;
  justify-content: center; background: var(--rs-accent); color: white; font-size: 15px; flex: none; }
.dark .gradio-container .rs-step span, .gradio-container.dark .rs-step span { color: #10201e; }
.gradio-container .rs-cards .wrap { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 8px; }
.gradio-container .rs-cards label { margin: 0; padding: 12px 14px; align-items: flex-start; line-height: 1.35; background: var(--rs-card);
  white-space: normal; overflow-wrap: anywhere; }
.gradio-container .rs-cards label.selected { border-color: var(--rs-accent) !important; box-shadow: inset 0 0 0 1px var(--rs-accent); background: var(--rs-good-bg); color: var(--body-text-color); }
.gradio-container .rs-cards label.selected span { color: var(--body-text-color); }
.gradio-container .rs-runs .wrap { grid-template-columns: 1fr; max-height: 76vh; overflow: auto; }
.gradio-container .rs-runs label { padding: 9px 12px; font-size: 14px; }
.gradio-container .rs-about { font-size: 14px; color: var(--body-text-color-subdued); padding: 0 2px; }
.gradio-container .rs-about p { margin: 2px 0; }
.gradio-container .rs-quiet, .gradio-container .rs-quiet p { font-size: 13.5px; color: var(--body-text-color-subdued); line-height: 1.5; margin: 4px 0; }
.gradio-container .rs-card { border: 1px solid var(--rs-line); background: var(--rs-card); border-radius: 10px; padding: 14px 16px; line-height: 1.5; margin: 0 0 4px; }
.gradio-container .rs-card h4 { margin: 0 0 6px; font-size: 16px; font-weight: 650; }
.gradio-container .rs-card h5 { margin: 14px 0 4px; font-size: 13px; font-weight: 650; }
.gradio-container .rs-card h5 a { float: right; font-weight: 500; }
.gradio-container .rs-card p { margin: 4px 0; }
.gradio-container .rs-card ul { margin: 4px 0; padding-left: 18px; list-style: disc; }
.gradio-container .rs-card li { margin: 4px 0; }
.gradio-container .rs-card a, .gradio-container .rs-quiet a { color: var(--rs-clean); text-decoration: underline; }
.gradio-container .rs-bad { background: var(--rs-bad-bg); border-color: var(--rs-bad); }
.gradio-container .rs-bad h4, .gradio-container li.rs-error b { color: var(--rs-bad); }
.gradio-container .rs-mild { background: var(--rs-mild-bg); }
.gradio-container .rs-good { background: var(--rs-good-bg); }
.gradio-container .rs-warn { color: var(--rs-bad); font-weight: 600; margin: 8px 0 0; }
.gradio-container li.rs-error { background: none; border: 0; }
.gradio-container .rs-changes { width: 100%; font-size: 13px; border-collapse: collapse; }
.gradio-container .rs-changes, .gradio-container .rs-changes tr { border: 0 !important; }
.gradio-container .rs-changes td { padding: 3px 6px 3px 0 !important; border: 0 !important; border-top: 1px solid var(--rs-line) !important; overflow-wrap: anywhere; }
.gradio-container .rs-changes s { color: var(--body-text-color-subdued); }
.gradio-container .rs-remarks { font-size: 13.5px; }
.gradio-container .rs-json { font-family: var(--font-mono); font-size: 12px; line-height: 1.5; max-height: 420px; overflow: auto; margin: 4px 0 0;
  padding: 10px; border: 1px solid var(--rs-line); border-radius: 8px; white-space: pre; background: var(--input-background-fill); }
.gradio-container .rs-json .rs-set { color: var(--rs-clean); } .gradio-container .rs-json .rs-own { color: var(--rs-rolled); font-weight: 700; }
.gradio-container .rs-pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 10px; margin: 6px 0; }
.gradio-container .rs-pictures figure { margin: 0; min-width: 0; }
.gradio-container .rs-pictures img { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 8px; border: 1px solid var(--rs-line); background: var(--rs-card); margin: 0; }
.gradio-container .rs-pictures figcaption { font-size: 12px; line-height: 1.3; color: var(--body-text-color-subdued); display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; margin-top: 3px; }
.gradio-container .rs-gone, .gradio-container .rs-empty { display: flex; align-items: center; justify-content: center; color: var(--body-text-color-subdued); font-size: 13px; min-height: 64px; border: 1px dashed var(--rs-line); border-radius: 8px; padding: 12px; }
.gradio-container .rs-chart-head { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; font-size: 14px; }
.gradio-container .rs-legend { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: 13px; color: var(--body-text-color-subdued); }
.gradio-container .rs-key { display: inline-block; width: 14px; height: 3px; border-radius: 2px; background: var(--k); margin-right: 5px; vertical-align: middle; }
.gradio-container .rs-plot { position: relative; margin: 8px 4px 0 52px; }
.gradio-container .rs-plot svg { width: 100%; height: 100%; display: block; overflow: visible; border-left: 1px solid var(--rs-line); border-bottom: 1px solid var(--rs-line); margin: 0; }
.gradio-container .rs-grid { stroke: var(--rs-line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.gradio-container .rs-line { fill: none; stroke: var(--k); stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
.gradio-container .rs-faint { opacity: .35; stroke-width: 1; } .gradio-container .rs-dashed { stroke-dasharray: 6 4; }
.gradio-container .rs-y span { position: absolute; right: calc(100% + 6px); transform: translateY(-50%); font-size: 12px; color: var(--body-text-color-subdued); white-space: nowrap; }
.gradio-container .rs-x { position: relative; height: 18px; margin: 2px 4px 0 52px; }
.gradio-container .rs-x span { position: absolute; transform: translateX(-50%); font-size: 12px; color: var(--body-text-color-subdued); }
.gradio-container .rs-x-name { text-align: center; font-size: 12px; color: var(--body-text-color-subdued); }
.gradio-container .rs-charts { border: 1px solid var(--rs-line); background: var(--rs-card); border-radius: 10px; padding: 14px 16px; }
.gradio-container .rs-pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 16px; margin-top: 14px; }
.gradio-container .rs-grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 22px; }
.gradio-container .rs-run { border: 1px solid var(--rs-line); background: var(--rs-card); border-radius: 10px; padding: 14px 16px; }
.gradio-container .rs-run-name { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; }
.gradio-container .rs-run-name h3 { margin: 0; font-size: 18px; font-weight: 650; overflow-wrap: anywhere; }
.gradio-container .rs-chip { font-size: 13px; padding: 2px 10px; border-radius: 99px; background: var(--rs-line); }
.gradio-container .rs-is-running, .gradio-container .rs-is-starting, .gradio-container .rs-is-done { background: var(--rs-good-bg); color: var(--rs-clean); font-weight: 600; }
.gradio-container .rs-is-failed, .gradio-container .rs-is-crashed { background: var(--rs-bad-bg); color: var(--rs-bad); font-weight: 600; }
.gradio-container .rs-is-paused, .gradio-container .rs-is-queued, .gradio-container .rs-is-stopping { background: var(--rs-mild-bg); font-weight: 600; }
.gradio-container .rs-bar { height: 10px; border-radius: 5px; background: var(--rs-line); margin: 10px 0 6px; overflow: hidden; }
.gradio-container .rs-bar i { display: block; height: 100%; background: var(--rs-accent); border-radius: 5px; transition: width .6s; }
.gradio-container .rs-facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(108px, 1fr)); gap: 8px; margin-top: 10px; }
.gradio-container .rs-facts span { display: block; font-size: 12px; color: var(--body-text-color-subdued); }
.gradio-container .rs-facts b { font-size: 16px; font-weight: 600; font-variant-numeric: tabular-nums; }
.gradio-container .rs-buttons { gap: 8px; } .gradio-container .rs-buttons button { flex: 0 1 auto !important; min-width: 0 !important; padding: 8px 14px; }
.gradio-container .rs-scroll { overflow-x: auto; }
.gradio-container .rs-samples { border-collapse: separate !important; border-spacing: 6px 6px !important; font-size: 13px; width: auto; }
.gradio-container .rs-samples, .gradio-container .rs-samples tr, .gradio-container .rs-samples th, .gradio-container .rs-samples td { border: 0 !important; padding: 0 !important; }
.gradio-container .rs-card img, .gradio-container .rs-pictures img { margin: 0 !important; display: block; }
.gradio-container .rs-card a:has(img) { display: block; padding: 0 !important; margin: 0; }
.gradio-container .rs-whole { grid-column: 1 / -1; }
.gradio-container .rs-samples th { font-weight: 500; text-align: left; color: var(--body-text-color-subdued); background: none; }
.gradio-container .rs-samples tbody th { max-width: 170px; min-width: 110px; padding-right: 10px !important; position: sticky; left: 0; background: var(--rs-card); white-space: normal; }
.gradio-container .rs-samples td { background: none; }
.gradio-container .rs-samples img { width: 112px; height: 112px; min-width: 112px; object-fit: contain; border-radius: 6px; border: 1px solid var(--rs-line); margin: 0; }
.gradio-container .rs-strip { min-width: 760px; width: 100%; border-radius: 6px; background: white; margin: 0; }
.gradio-container .rs-wide { width: 100%; border-radius: 6px; background: white; margin: 6px 0 0; }
.gradio-container .rs-file { display: inline-flex; gap: 8px; padding: 8px 14px; margin: 0 8px 6px 0; border-radius: 8px; border: 1px solid var(--rs-clean); text-decoration: none !important; overflow-wrap: anywhere; }
.gradio-container .rs-log { font-family: var(--font-mono); font-size: 12px; line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; padding: 8px; max-height: 320px; overflow: auto; background: none; }
.gradio-container .rs-maybe:not(:has(div)) , .gradio-container .rs-maybe:has(.prose:empty) { display: none; }
.gradio-container .tab-container button.selected { color: var(--rs-clean); font-weight: 600; }
.gradio-container #all-settings .tab-container button { padding: 6px 9px; font-size: 14px; }
.gradio-container .form > .block > label { display: flex; flex-direction: column; height: 100%; }
.gradio-container .form > .block > label > :last-child { margin-top: auto; }
.gradio-container .rs-wrong { border-color: var(--rs-bad) !important; background: var(--rs-bad-bg) !important; }
.gradio-container .rs-wrong [class*=info], .gradio-container .rs-wrong [class*=info] * { color: var(--rs-bad) !important; font-weight: 600; }
.gradio-container summary { cursor: pointer; }
.gradio-container .info code, .gradio-container code { font-size: 12px; background: none; padding: 0; border: 0; opacity: .75; overflow-wrap: anywhere; }
@media (min-width: 1000px) {   .rs-side { position: sticky; top: 12px; align-self: flex-start; max-height: calc(100vh - 24px); overflow: auto; } }
@media (max-width: 640px) {
  .rs-brand span { display: none; }
  .rs-runs .wrap { max-height: 212px !important; }
  .rs-samples img { width: 88px; height: 88px; min-width: 88px; }
  .rs-samples tbody th { min-width: 84px; max-width: 84px; font-size: 12px; }
}
@media (prefers-reduced-motion: reduce) { .rs-bar i { transition: none; } }
"""
