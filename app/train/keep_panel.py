"""Save these settings as an own preset, and import settings from a config.json, a LoRA file, or another run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import preset_names, read_preset
from ...core.config.options import ConfigError, Fault
from ...core.config.own_presets import Exists, delete_preset, folder_of, name_for, own_presets, save_preset
from ...core.foreign.importing import (
    Imported,
    import_files,
    import_header,
    import_path,
    import_run,
)
from ...core.foreign.reading import TEXT_KINDS
from ...core.runs.errors import RunError
from ..parts.cards import problems
from ..parts.forms import Form
from ..parts.panel import QUICK, SLOW, FormPage
from ..parts.watch import Watch
from ..parts.words import text
from .import_card import import_card
from .model_panel import is_other, preset_choices, shipped_with

_READS_HEADERS = (Path(__file__).parents[1] / "js" / "lora_header.js").read_text(encoding="utf-8")


class KeepPanel:
    """Builds the panel in the current layout. `preset`: the component that chooses the preset, on which the own ones appear."""

    def __init__(self, form: Form, watch: Watch, preset: gr.components.Component) -> None:
        self.form, self.watch, self.preset = form, watch, preset
        runs_dir = watch.store.root
        with gr.Accordion("Import settings, or save these", open=False, elem_id="keep") as self.fold:
            with gr.Row(elem_classes="rs-keep"):
                with gr.Column(min_width=280):
                    gr.HTML("<h3>Save as a preset of your own</h3>", padding=False)
                    with gr.Row():
                        self.title = gr.Textbox(label="Title", placeholder="My cat, strong rollout", max_lines=1, elem_id="keep-title", min_width=160,
                                                info="What its card above will say.")  # fmt: skip
                        self.name = gr.Textbox(label="Short name", placeholder="made from the title", max_lines=1, elem_id="keep-name", min_width=160,
                                               info="For the file and the command line: letters, digits, dots, hyphens, underscores.")  # fmt: skip
                    with gr.Row(elem_classes="rs-buttons"):
                        self.save = gr.Button("Save preset", elem_id="keep-save")
                        self.replace = gr.Button("Replace it", variant="stop", visible=False, elem_id="keep-replace")
                    self.saved = gr.HTML(elem_id="keep-saved", elem_classes="rs-maybe")
                    with gr.Row(elem_classes="rs-keep-line", visible=bool(_mine(runs_dir))) as self.own:
                        self.mine = gr.Dropdown(choices=_mine(runs_dir), value=None, label="Your presets", filterable=False, elem_id="keep-mine",
                                                info=f"They lie in {folder_of(runs_dir)}.")  # fmt: skip
                        self.delete = gr.Button("Delete", elem_id="keep-delete", min_width=90, interactive=False)
                        self.sure = gr.Button(
                            "Yes, delete", variant="stop", visible=False, elem_id="keep-sure", min_width=110
                        )
                    self.broken = gr.HTML(_broken_card(runs_dir), elem_id="keep-broken", elem_classes="rs-maybe")
                with gr.Column(min_width=280):
                    gr.HTML("<h3>Import settings</h3>", padding=False)
                    self.file = gr.File(
                        label="A config or a LoRA file",
                        type="filepath",
                        height=160,
                        elem_id="import-file",
                        file_count="multiple",
                        file_types=[*TEXT_KINDS, ".safetensors"],
                    )
                    gr.HTML('<p class="rs-quiet">A config of Rollout Studio, SimpleTuner, kohya_ss (JSON or TOML), ai-toolkit (YAML) or OneTrainer, the command line of a diffusers or '
                            "sd-scripts training in a shell script, or a LoRA file that was trained here. Files that a config names (data sets, concepts) can be dropped together with it. "
                            "It fills the form; nothing starts. Of a LoRA only the settings are read; its weights stay where they are.</p>")  # fmt: skip
                    self.header = gr.HTML(html_template="<span hidden></span>", js_on_load=_READS_HEADERS, apply_default_css=False, container=False,
                                          elem_id="import-header")  # fmt: skip
                    with gr.Row(elem_classes="rs-keep-line"):
                        self.path = gr.Textbox(label="Or its path on this computer", placeholder="runs/my-cat/lora/my-cat.safetensors", max_lines=1,
                                               elem_id="import-path", min_width=160)  # fmt: skip
                        self.read = gr.Button("Read", elem_id="import-read", min_width=110)
                    with gr.Row(elem_classes="rs-keep-line"):
                        self.run = gr.Dropdown(
                            choices=_runs(watch),
                            value=None,
                            label="Or the settings of a run",
                            filterable=False,
                            elem_id="import-run",
                        )
                        self.take = gr.Button("Import", elem_id="import-take", min_width=110, interactive=False)
            self.report = gr.HTML(elem_id="import-report", elem_classes="rs-maybe")

    @property
    def inputs(self) -> list[Any]:
        return []

    @property
    def outputs(self) -> list[Any]:
        return [self.title, self.name, self.save, self.replace, self.saved, self.own, self.mine, self.delete, self.sure, self.broken, self.file, self.run, self.take,
                self.report]  # fmt: skip

    def drawn(self, config: Any, preset: str) -> dict[Any, Any]:
        return {}

    def reread(self, config: Any) -> dict[Any, Any]:
        return {}

    # -- events ---------------------------------------------------------------------------------------------------------

    def wire(self, page: FormPage) -> None:
        named = {*page.inputs, self.title, self.name, self.mine}

        def keep(replace: bool) -> Callable[[Mapping[Any, Any]], dict[Any, Any]]:
            return lambda given: self.on_save(page, given, replace)

        self.save.click(keep(False), named, page.outputs, **QUICK)
        self.replace.click(keep(True), named, page.outputs, **QUICK)
        gr.on(
            [self.title.input, self.name.input],
            lambda: {self.replace: gr.update(visible=False), self.saved: ""},
            None,
            [self.replace, self.saved],
            **QUICK,
        )
        self.mine.change(_chosen_one, self.mine, [self.delete, self.sure], **QUICK)
        self.delete.click(
            lambda: (gr.update(visible=False), gr.update(visible=True)), None, [self.delete, self.sure], **QUICK
        )
        self.sure.click(lambda given: self.on_delete(page, given), named, page.outputs, **QUICK)
        self.run.change(lambda run: gr.update(interactive=run is not None), self.run, self.take, **QUICK)
        slow = {"show_progress_on": [self.report], **SLOW}
        self.file.upload(lambda given: self.on_file(page, given), {*page.inputs, self.file}, page.outputs, **slow)
        self.take.click(lambda given: self.on_run(page, given), {*page.inputs, self.run}, page.outputs, **slow)
        gr.on(
            [self.read.click, self.path.submit],
            lambda given: self.on_path(page, given),
            {*page.inputs, self.path},
            page.outputs,
            **slow,
        )

        def on_header(given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            return self.on_header(page, given, event._data)

        self.header.submit(on_header, page.inputs, page.outputs, **slow)
        # On every arrival (`TrainTab.restored`) and whenever the fold is opened: other viewers and the command line keep presets and make runs too.
        lists = [self.preset, self.own, self.mine, self.broken, self.run]
        model = self.form.components["pretrained_model_name_or_path"]
        self.fold.expand(self.lists, [self.preset, model], lists, **QUICK)

    def lists(self, preset: str, model: Any) -> dict[Any, Any]:
        """The presets, one's own, the broken ones and the runs as they are now; what is chosen stays chosen. `model`: the one in the form."""
        runs_dir = self.watch.store.root
        mine = _mine(runs_dir)
        return {
            self.preset: gr.update(choices=preset_choices(runs_dir, preset, model)),
            self.own: gr.update(visible=bool(mine)),
            self.mine: gr.update(choices=mine),
            self.broken: _broken_card(runs_dir),
            self.run: gr.update(choices=_runs(self.watch)),
        }

    def chosen(self, preset: str, model: Any) -> dict[Any, Any]:
        """The update that chooses a preset, also one of the person's own that the page did not show yet. `model`: the one in the form."""
        return {self.preset: gr.update(choices=preset_choices(self.watch.store.root, preset, model), value=preset)}

    def on_save(self, page: FormPage, given: Mapping[Any, Any], replace: bool) -> dict[Any, Any]:
        runs_dir = self.watch.store.root
        title = _one_line(given[self.title])
        name = _one_line(given[self.name])
        try:
            config = page.form.read(given)
        except ConfigError as error:
            return {
                self.saved: problems(error.faults, "These settings cannot be kept yet"),
                **page.refused(given, error),
            }
        try:
            if not title:
                raise ConfigError([Fault("The preset needs a title: what its card will say.")])
            kept = save_preset(runs_dir, name if name else name_for(title), title, config, replace=replace)
        except Exists as error:
            return {self.saved: problems(error.faults, "There is one already"), self.replace: gr.update(visible=True)}
        except (ConfigError, OSError) as error:
            return {self.saved: problems(_faults(error), "Not kept"), self.replace: gr.update(visible=False)}
        words = f"Kept as <b>{text(kept.title)}</b>: a card above, and <code>--preset {text(kept.name)}</code> on the command line."
        return {
            **page.filled(given, config, [], preset=kept.key),
            **self.lists(kept.key, config.model.pretrained_model_name_or_path),
            **self.chosen(kept.key, config.model.pretrained_model_name_or_path),
            self.saved: f'<div class="rs-card rs-good" role="status">{words}</div>',
            self.replace: gr.update(visible=False),
            self.title: "",
            self.name: "",
        }

    def on_delete(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        runs_dir, name, model = (
            self.watch.store.root,
            given[self.mine],
            given[self.form.components["pretrained_model_name_or_path"]],
        )
        back = {self.delete: gr.update(visible=True, interactive=False), self.sure: gr.update(visible=False)}
        try:
            delete_preset(runs_dir, str(name))
        except (ConfigError, OSError) as error:
            return {
                self.saved: problems(_faults(error), "Not deleted"),
                **self.lists(given[self.preset], model),
                **back,
            }
        gone = {
            **self.lists(given[self.preset], model),
            self.mine: gr.update(choices=_mine(runs_dir), value=None),
            self.saved: "",
            **back,
        }
        if Path(given[self.preset]).stem != name or given[self.preset] in preset_names():
            return gone
        # The one that was chosen: the form stays as it is, and the differences are shown against the first preset.
        first = preset_names()[0]
        gone |= self.chosen(first, model)
        try:
            return {**page.filled(given, page.form.read(given), [], preset=first), **gone}
        except ConfigError as error:
            return {**page.refused(given, error), **gone}

    def on_file(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        held = given[self.file]
        paths = {Path(each).name: Path(each) for each in (held if isinstance(held, list) else [held])}
        return {**self._brought(page, given, lambda: import_files(paths), " and ".join(paths)), self.file: None}

    def on_path(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        typed = _one_line(given[self.path])
        return self._brought(page, given, lambda: import_path(typed), typed)

    def on_header(self, page: FormPage, given: Mapping[Any, Any], sent: Any) -> dict[Any, Any]:
        """`sent`: a LoRA's name and the text of its header, which the browser read (`js/lora_header.js`)."""
        sent = sent if isinstance(sent, dict) else {}
        name, header = sent.get("name"), sent.get("header")
        return self._brought(page, given, lambda: import_header(header, name), str(name)[:200])

    def on_run(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.take_run(page, given, str(given[self.run]))

    def take_run(self, page: FormPage, given: Mapping[Any, Any], name: str) -> dict[Any, Any]:
        """The settings of a run in the form."""
        return self._brought(page, given, lambda: import_run(self.watch.store.get(name)), f"the run {name}")

    def _brought(
        self, page: FormPage, given: Mapping[Any, Any], read: Callable[[], Imported], source: str
    ) -> dict[Any, Any]:
        """The whole form changes, or nothing of it."""
        try:
            imported = read()
        except (ConfigError, RunError, OSError) as error:
            return {self.report: problems(_faults(error), f"Nothing was imported from {source}")}
        # The card that is chosen must be about what was brought in: where another one is about its model, that one.
        chosen, model = given[self.preset], imported.config.model.pretrained_model_name_or_path
        known = shipped_with(model)
        try:
            stays = known is None or not is_other(read_preset(chosen), model)
        except ConfigError:  # one of the person's own that was deleted or broken meanwhile
            chosen, stays = preset_names()[0], known is None
        chosen = chosen if stays else known.key
        return {
            **page.filled(given, imported.config, preset=chosen),
            **self.chosen(chosen, model),
            self.report: import_card(imported),
        }


def _mine(runs_dir: Path) -> list[tuple[str, str]]:
    """(what is shown, the file's name) of every own preset, the broken ones too, because they can be deleted."""
    found, broken = own_presets(runs_dir)
    return [
        *((f"{preset.title} ({preset.name})", preset.name) for preset in found),
        *((f"{path.stem} (broken)", path.stem) for path in broken),
    ]


def _broken_card(runs_dir: Path) -> str:
    broken = own_presets(runs_dir)[1]
    return (
        problems([Fault(wrong) for wrong in broken.values()], "Presets of yours that cannot be used") if broken else ""
    )


def _runs(watch: Watch) -> list[tuple[str, str]]:
    return [(f"{run.name} ({run.state})", run.name) for run in watch.runs()]


def _chosen_one(name: str | None) -> tuple[Any, Any]:
    return gr.update(visible=True, interactive=name is not None), gr.update(visible=False)


def _one_line(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _faults(error: Exception) -> tuple[Fault, ...] | list[Fault]:
    return error.faults if isinstance(error, ConfigError) else [Fault(str(error))]
