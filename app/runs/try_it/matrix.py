"""The fields of a matrix: weights down, checkpoints across, every picture from the same noise."""

from collections.abc import Sequence

import gradio as gr

ROWS, MOST_FIRST = "0, 0.5, 1", 4
ROWS_HELP = "One row for each, with commas between them: 0 = the untrained model, 1 = as trained."
COLUMNS_HELP = "One column for each."


class Matrix:
    """The fields, in the current layout."""

    def __init__(self) -> None:
        with gr.Accordion("Matrix: weight × checkpoint", open=False, elem_id="try-matrix"):
            with gr.Row(elem_classes="rs-try-row"):
                self.rows = gr.Textbox(
                    value=ROWS, label="Weights", info=ROWS_HELP, max_lines=1, min_width=180, elem_id="try-matrix-rows"
                )
                self.columns = gr.Dropdown(
                    choices=[], value=[], multiselect=True, label="Checkpoints", info=COLUMNS_HELP, scale=2, min_width=240, elem_id="try-matrix-columns"
                )  # fmt: skip
            self.draw = gr.Button("Draw the matrix", elem_id="try-matrix-draw")


def first_columns(values: Sequence[str], most: int = MOST_FIRST) -> list[str]:
    """What is chosen at first: at most `most` checkpoints, evenly spread, the last among them, in the order of training."""
    steps = sorted((each for each in values if each.startswith("step:")), key=lambda each: int(each[5:]))
    if len(steps) > most:
        steps = [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]
    return steps or [each for each in values if each == "lora"]
