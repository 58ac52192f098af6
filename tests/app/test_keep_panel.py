"""Presets of one's own, and settings brought in from a file or a run: what is kept, taken, left out, refused, and said."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from rollout_studio.app.cli import flags
from rollout_studio.app.cli import main as cli
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train.model_panel import preset_choices
from rollout_studio.app.train.tab import TrainTab
from rollout_studio.core.adapters.header import published_config, read_header
from rollout_studio.core.config import (
    OPTIONS,
    RunConfig,
    config_from_flat,
    config_to_flat,
    differences,
    load_preset,
    preset_names,
    read_preset,
    with_changes,
)
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.config.own_presets import (
    Exists,
    delete_preset,
    find_preset,
    folder_of,
    own_presets,
    save_preset,
)
from rollout_studio.core.foreign.importing import import_file, summary

MINE = with_changes(load_preset("demo"), {"max_train_steps": 77, "validation_prompts": ["a <b>cup</b>", "two, words"]})


# -- presets of one's own ----------------------------------------------------------------------------------------------------


def test_a_kept_preset_is_the_same_config_and_a_small_file_like_the_shipped_ones(tmp_path):
    kept = save_preset(tmp_path, "mine", "My cup", MINE)
    assert load_preset(kept.key) == MINE
    assert json.loads(kept.file.read_text())["_metadata"]["title"] == "My cup"
    assert dict(kept.changes) == differences(MINE)
    assert [preset.name for preset in own_presets(tmp_path)[0]] == ["mine"]
    assert preset_choices(tmp_path)[-1] == ("★ My cup\nYour own", kept.key)
    delete_preset(tmp_path, "mine")
    assert own_presets(tmp_path) == ([], {})


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_can_be_kept_under_another_name_and_is_the_same(tmp_path, name):
    assert load_preset(save_preset(tmp_path, f"my-{name}", "Mine", load_preset(name)).key) == load_preset(name)


@pytest.mark.parametrize(
    "name", ["demo", "DEMO", "sd15", "con", "com1.x", "../up", "a/b", "", ".hidden", "dot.", "x" * 65, "a b", "näme"]
)
def test_a_name_that_cannot_be_a_file_everywhere_or_is_taken_is_refused(tmp_path, name):
    with pytest.raises(ConfigError):
        save_preset(tmp_path, name, "Title", MINE)
    assert not folder_of(tmp_path).exists() or not list(folder_of(tmp_path).iterdir())


@pytest.mark.parametrize("title", ["", "  ", "x" * 81, "two\nlines", "half \ud800"])
def test_a_title_is_one_short_line(tmp_path, title):
    with pytest.raises(ConfigError, match="title"):
        save_preset(tmp_path, "mine", title, MINE)


def test_an_own_preset_is_replaced_only_when_asked_also_where_only_the_case_differs(tmp_path):
    save_preset(tmp_path, "mine", "First", MINE)
    with pytest.raises(Exists, match="Replace it"):
        save_preset(tmp_path, "Mine", "Second", RunConfig())
    save_preset(tmp_path, "Mine", "Second", RunConfig(), replace=True)
    [only] = own_presets(tmp_path)[0]
    assert (only.name, only.title, only.config()) == ("Mine", "Second", RunConfig())


def test_what_is_brought_in_chooses_the_card_of_its_model_or_marks_the_chosen_one(train, tmp_path):
    held = given(
        train, load_preset("demo"), file=str(write(tmp_path / "config.json", load_preset("sd35-medium").to_json()))
    )
    updates = train.keep.on_file(train, held)
    assert updates[train.model.preset]["value"] == "sd35-medium"
    assert (
        "24 GB" in updates[train.model.about]
        and "No download" not in updates[train.note]
        and "Nothing changed from the preset" in updates[train.side]
    )
    own = with_changes(load_preset("demo"), {"pretrained_model_name_or_path": "somebody/else", "seed": 5})
    updates = train.keep.on_file(train, {**held, train.keep.file: str(write(tmp_path / "config.json", own.to_json()))})
    assert updates[train.model.preset]["value"] == "demo"
    assert (
        "With another model: somebody/else"
        in updates[train.model.preset]["choices"][
            [key for _, key in updates[train.model.preset]["choices"]].index("demo")
        ][0]
    )


def test_an_edit_does_not_choose_again_the_level_and_the_tier_that_are_chosen(train):
    """Its answer would land over a level that is clicked meanwhile."""
    held = given(train, load_preset("sdxl"))
    held |= {train.model.preset: "sdxl", train.model.tier: 12, train.rollout.level: "off"}
    updates = train.on_edit(held)
    assert train.rollout.level not in updates and train.side in updates
    assert "choices" in updates[train.model.tier] and "value" not in updates[train.model.tier]
    now = train.on_edit({**held, train.rollout.level: "strong"})  # what the numbers say counts
    assert now[train.rollout.level] == "off"


def test_another_model_takes_away_what_was_checked_of_the_one_before_and_other_edits_do_not(train):
    held = given(train, load_preset("demo"))
    assert not {train.findings, train.model.checked} & set(train.on_edit({**held, train.form.components["seed"]: 7}))
    for wrong in ({}, {train.form.components["seed"]: -1}):  # whether or not something else in the form is wrong
        updates = train.on_edit({**held, train.form.components["pretrained_model_name_or_path"]: "a/b", **wrong})
        assert updates[train.findings] == updates[train.takes] == updates[train.model.checked] == ""
        assert "a/b" in updates[train.model.about]


@pytest.mark.parametrize("content", ["{", '{"learning_rate": 50}', '{"sead": 1}', "[]", '{"_metadata": {"title": 5}}', '{"_metadata": 5}', "[" * 100_000,
                                     '{"seed": ' + "9" * 5000 + "}", '{"trigger_word": "\\ud800"}'], ids=lambda content: content[:24])  # fmt: skip
def test_a_broken_preset_file_is_reported_and_takes_nothing_with_it(tmp_path, content):
    save_preset(tmp_path, "good", "Good", MINE)
    (folder_of(tmp_path) / "bad.json").write_text(content)
    found, broken = own_presets(tmp_path)
    assert [preset.name for preset in found] == ["good"]
    assert [path.name for path in broken] == ["bad.json"] and "bad.json" in next(iter(broken.values()))


def test_a_file_with_a_shipped_name_cannot_take_its_place(tmp_path):
    folder_of(tmp_path).mkdir()
    (folder_of(tmp_path) / "demo.json").write_text("{}")
    assert find_preset("demo", tmp_path).file is None
    assert own_presets(tmp_path)[0] == []


def test_the_command_line_sees_the_same_presets(tmp_path, capsys):
    save_preset(tmp_path, "mine", "My cup", MINE)
    (folder_of(tmp_path) / "bad.json").write_text("{")
    assert cli.main(["presets", "--runs-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "mine: My cup (yours)" in said.out and "bad.json" in said.err
    given, _ = cli._parser().parse_known_args(["train", "--preset", "mine", "--runs-dir", str(tmp_path), "--seed", "5"])
    assert flags.resolve(given) == (with_changes(MINE, {"seed": 5}), "mine")
    for name, words in (("mnie", "Did you mean 'mine'"), ("bad", "broken JSON")):
        assert cli.main(["presets", name, "--runs-dir", str(tmp_path)]) == cli.BAD_CONFIG
        assert words in capsys.readouterr().err


# -- bringing settings in ------------------------------------------------------------------------------------------------------


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lora(path, metadata):
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.mark.parametrize("name", preset_names())
def test_a_downloaded_config_brought_in_again_is_the_same(tmp_path, name):
    config = load_preset(name)
    found = import_file(write(tmp_path / "config.json", config.to_json()))
    assert found.config == config
    assert (found.left_out, found.fill_in) == ((), ())
    assert summary(found).startswith(f"{len(config_to_flat(config))} settings imported from config.json. ")


def test_unknown_keys_are_reported_with_the_nearest_name_and_the_rest_is_taken(tmp_path):
    found = import_file(write(tmp_path / "config.json", {"learning_rte": 1, "--seed": 7, "_note": "x"}))
    assert found.config.training.seed == 7 and found.taken == ("seed",)
    [(key, value, why)] = found.left_out
    assert (key, value) == ("learning_rte", 1) and "Did you mean 'learning_rate'?" in why


def test_a_lora_file_restores_the_settings_and_says_what_to_fill_in_again(tmp_path):
    config = with_changes(MINE, {"instance_data_dir": "/home/me/cups", "class_data_dir": "demo-class", "data_cache_dir": "/big/cache",
                                 "pretrained_model_name_or_path": "/models/mine"})  # fmt: skip
    path = lora(tmp_path / "cup.safetensors", {"rollout_studio_config": json.dumps(published_config(config))})
    found = import_file(path)
    assert found.fill_in == ("pretrained_model_name_or_path", "instance_data_dir")
    assert {key for key, _, _ in found.left_out} == {"instance_data_dir", "data_cache_dir"}
    restored = with_changes(
        config, {"instance_data_dir": None, "data_cache_dir": None, "pretrained_model_name_or_path": "mine"}
    )
    assert found.config == restored
    own = import_file(
        lora(tmp_path / "demo.safetensors", {"rollout_studio_config": json.dumps(published_config(MINE))})
    )
    assert own.config == MINE and own.fill_in == ()


NESTED = '{"a":' * 50_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("config.json", "{,}", "broken JSON"), ("config.json", '{"learning_rate": NaN, "seed": 1}', "finite"), ("config.json", NESTED, "nested"),
     ("config.json", '{"seed": ' + "9" * 5000 + "}", "digits"), ("config.json", '{"seed": {"a": [1]}}', "seed"), ("config.json", "[1]", "object"),
     ("config.json", '{"trigger_word": "\\ud800"}', "half of a character"), ("config.json", '{"hello": 1}', "none of the"), ("config.json", "{}", "none of the"),
     ("config.json", '{"trigger_word": "' + "x" * 600_000 + '"}', "KiB"), ("config.json", '{"learning_rate": 50, "lora_rank": -1}', "lora_rank"),
     ("picture.png", "x", "neither"), ("a.safetensors", "short", "not a safetensors file"), ("config.json", '{"seed": 1, "--seed": 2}', "twice")],
    ids=lambda value: value[:18],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_in_words(tmp_path, name, content, words):
    with pytest.raises(ConfigError, match=words) as caught:
        import_file(write(tmp_path / name, content))
    assert str(tmp_path) not in str(caught.value)  # where the page put the upload tells nobody anything


@pytest.mark.parametrize("metadata", [{}, {"rollout_studio_config": "{"}, {"rollout_studio_config": "[1]"}, {"rollout_studio_config": "[" * 100_000},
                                      {"rollout_studio_config": 5}, "text"], ids=str)  # fmt: skip
def test_a_lora_file_without_readable_settings_is_refused(tmp_path, metadata):
    with pytest.raises(ConfigError, match=r"cup\.safetensors"):
        import_file(lora(tmp_path / "cup.safetensors", metadata))


# -- SimpleTuner's config.json -----------------------------------------------------------------------------------------------

THEIRS = {
    "model_family": "sd3", "model_type": "lora", "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium",
    "data_backend_config": "config/backend.json", "max_train_steps": 800, "validation_prompt": "a cup", "lora_type": "standard",
    "scheduled_sampling_max_step_offset": 10, "scheduled_sampling_probability": 1.0, "scheduled_sampling_ramp_steps": 100,
    "checkpointing_steps": 200, "optimizer": "adamw_bf16", "output_dir": "out", "use_dora": True, "gradient_checkpointing": "false",
    "instance_prompt": "{env:PROMPT}", "learning_rate": "1e-4", "lerning_rate": 2,
}  # fmt: skip


def test_simpletuners_file_is_read_with_its_own_defaults_and_meaning(tmp_path):
    found = import_file(
        write(
            tmp_path / "config.json", {key: value for key, value in THEIRS.items() if key != "gradient_checkpointing"}
        )
    )
    flat = config_to_flat(found.config)
    assert {name: flat[name] for name in ("learning_rate", "max_train_steps", "validation_prompts", "checkpoint_step_interval", "optimizer")} == {
        "learning_rate": 1e-4, "max_train_steps": 800, "validation_prompts": ["a cup"], "checkpoint_step_interval": 200, "optimizer": "adamw"}  # fmt: skip
    # Absent there means its default, not ours.
    assert (flat["lora_dropout"], flat["train_batch_size"], flat["resolution"], flat["flow_schedule_shift"]) == (
        0.1,
        4,
        1024,
        3.0,
    )
    assert flat["gradient_checkpointing"] is True and flat["mixed_precision"] == "bf16"
    # Its rollout counts the training table, keeps the old target, steps with Euler and divides by l1.
    rollout = found.config.rollout
    assert (rollout.grid, rollout.target, rollout.sampler, rollout.reflexflow_norm) == (
        "training",
        "original",
        "euler",
        "l1",
    )
    assert any("there it ran from 1 to 0.5" in remark for remark in found.remarks)
    assert {"learning_rate", "max_train_steps"} <= set(found.taken) and "lora_dropout" in found.assumed
    assert {key for key, _, _ in found.left_out} == {
        "data_backend_config",
        "output_dir",
        *(() if "lora_type" in OPTIONS else ("use_dora",)),
        "instance_prompt",
        "lerning_rate",
    }
    assert found.fill_in == ("instance_data_dir",)
    assert "Did you mean 'learning_rate'" in next(why for key, _, why in found.left_out if key == "lerning_rate")


def test_the_text_false_is_dropped_as_it_is_there_and_said(tmp_path):
    found = import_file(write(tmp_path / "config.json", THEIRS))
    assert found.config.training.gradient_checkpointing is True
    assert any(key == "gradient_checkpointing" and "without quotes" in why for key, _, why in found.left_out)


def test_a_model_that_is_not_trained_here_is_left_out_and_to_be_filled_in(tmp_path):
    found = import_file(
        write(
            tmp_path / "config.json",
            {
                "model_family": "hidream",
                "pretrained_model_name_or_path": "a/hidream",
                "lora_type": "lycoris",
                "lora_rank": 8,
            },
        )
    )
    assert found.config.lora.rank == 8 and found.config.model == RunConfig().model
    assert "pretrained_model_name_or_path" in found.fill_in
    assert {"model_family", "pretrained_model_name_or_path", "lora_type"} <= {key for key, _, _ in found.left_out}


def test_a_file_with_only_keys_of_both_is_ours_with_our_defaults(tmp_path):
    found = import_file(
        write(
            tmp_path / "config.json", {"scheduled_sampling_max_step_offset": 3, "scheduled_sampling_probability": 0.5}
        )
    )
    assert found.config == config_from_flat(
        {"scheduled_sampling_max_step_offset": 3, "scheduled_sampling_probability": 0.5}
    )
    assert found.assumed == ()


# What `vars(args)` of diffusers' SD 3 DreamBooth script holds, with some of what a person changes.
SCRIPT = {
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3-medium-diffusers", "revision": None, "instance_data_dir": "dog",
    "instance_prompt": "a photo of sks dog", "class_prompt": None, "validation_prompt": "a photo of sks dog in a bucket", "validation_epochs": 25,
    "rank": 8, "with_prior_preservation": False, "output_dir": "out", "seed": 0, "resolution": 512, "train_batch_size": 1, "num_train_epochs": 10,
    "max_train_steps": 500, "checkpointing_steps": 250, "gradient_accumulation_steps": 4, "learning_rate": 1e-4, "scale_lr": False,
    "lr_scheduler": "constant", "lr_warmup_steps": 0, "weighting_scheme": "logit_normal", "logit_mean": 0.5, "logit_std": 0.8,
    "mode_scale": 1.29, "precondition_outputs": 1, "optimizer": "AdamW", "use_8bit_adam": False, "adam_weight_decay": 1e-3,
    "max_grad_norm": 1.0, "push_to_hub": True, "report_to": "comet_ml", "mixed_precision": "fp16", "local_rank": -1,
}  # fmt: skip


def test_the_arguments_of_diffusers_script_are_read_with_their_own_meaning_and_the_sign_of_logit_mean_is_turned(
    tmp_path,
):
    found = import_file(write(tmp_path / "args.json", SCRIPT))
    training = found.config.training
    assert (training.timestep_sampling, training.logit_mean, training.logit_std) == ("logit_normal", -0.5, 0.8)
    assert training.precondition_outputs and training.loss_weighting == "none" and training.weight_decay == 1e-3
    assert (found.config.lora.rank, training.model_type, training.optimizer) == (8, "lora", "adamw")
    assert (
        found.config.validation.prompts == ("a photo of sks dog in a bucket",)
        and found.config.saving.checkpoint_step_interval == 250
    )
    assert any("logit_mean 0.5 is -0.5 here" in remark for remark in found.remarks)
    assert {"output_dir", "push_to_hub", "report_to", "validation_epochs"} <= {key for key, _, _ in found.left_out}
    assert (found.assumed, found.fill_in) == ((), ()) and "diffusers' args.json" in summary(found)


@pytest.mark.parametrize(("scheme", "sampling", "weighting"), [("mode", "mode", "none"), ("sigma_sqrt", "uniform", "sigma_sqrt"),
                                                              ("cosmap", "uniform", "cosmap"), ("none", "uniform", "none")])  # fmt: skip
def test_a_weighting_scheme_is_how_times_are_drawn_and_how_the_loss_is_weighed(tmp_path, scheme, sampling, weighting):
    training = import_file(
        write(tmp_path / "args.json", {**SCRIPT, "weighting_scheme": scheme, "precondition_outputs": 0})
    ).config.training
    assert (training.timestep_sampling, training.loss_weighting, training.precondition_outputs) == (
        sampling,
        weighting,
        False,
    )
    assert training.logit_mean == 0  # it is not used by these


def test_absent_arguments_have_the_scripts_own_defaults(tmp_path):
    found = import_file(write(tmp_path / "args.json", {"weighting_scheme": "mode", "rank": 4}))
    training = found.config.training
    assert (training.train_batch_size, training.mode_scale, training.weight_decay, training.precondition_outputs) == (
        4,
        1.29,
        1e-4,
        True,
    )
    assert {"train_batch_size", "precondition_outputs", "weight_decay"} <= set(found.assumed)
    assert found.fill_in == ("pretrained_model_name_or_path", "instance_data_dir", "max_train_steps")


def test_lumina_2s_script_turns_its_table_round_so_its_logit_mean_keeps_its_sign(tmp_path):
    theirs = {**SCRIPT, "pretrained_model_name_or_path": "Alpha-VLLM/Lumina-Image-2.0"}
    del theirs["precondition_outputs"]
    found = import_file(write(tmp_path / "args.json", theirs))
    assert found.config.training.logit_mean == 0.5 and not found.config.training.precondition_outputs
    assert any("1 / the checkpoint's" in remark for remark in found.remarks)


def test_a_logit_mean_of_our_own_file_keeps_its_sign(tmp_path):
    assert import_file(write(tmp_path / "config.json", {"logit_mean": 0.5})).config.training.logit_mean == 0.5


@pytest.mark.parametrize("changes", [{"optimizer": ["x"]}, {"lr_scheduler": 5}, {"weighting_scheme": []}, {"weighting_scheme": "own"}, {"logit_mean": "half"},
                                     {"logit_mean": 99}, {"precondition_outputs": "maybe"}, {"rank": "many"}, {"lr_warmup_steps": "x"}], ids=str)  # fmt: skip
def test_odd_values_in_a_scripts_arguments_are_refused_or_left_out_never_a_crash(tmp_path, changes):
    try:
        found = import_file(write(tmp_path / "args.json", {**SCRIPT, **changes}))
    except ConfigError as error:
        assert error.faults
    else:
        assert found.left_out


@pytest.mark.parametrize("changes", [{"optimizer": ["x"]}, {"lr_scheduler": 5}, {"model_family": []}, {"validation_prompt": 5}, {"flow_sigmoid_scale": float("inf")},
                                     {"lora_type": {}}, {"scheduled_sampling_max_step_offset": "many"}], ids=str)  # fmt: skip
def test_odd_values_in_simpletuners_file_are_refused_or_left_out_never_a_crash(tmp_path, changes):
    path = write(tmp_path / "config.json", {**THEIRS, **changes})
    try:
        found = import_file(path)
    except ConfigError as error:
        assert error.faults
    else:
        assert set(changes) <= {key for key, _, _ in found.left_out}


# -- the panel: nothing changes unless everything is readable --------------------------------------------------------------------


@pytest.fixture
def train(store):
    with gr.Blocks():
        train = TrainTab(Watch(store.root))
        train.wire(gr.Tabs(), gr.Radio())
    return train


def given(train, config, **more):
    """What a handler gets: the page as it opens, with `config` in the form and `more` in the panel."""
    held = {**{each: each.value for each in train.inputs}, **train.form.show(config)}
    return {**held, **{getattr(train.keep, name): value for name, value in more.items()}}


def values(train, updates):
    """What the handler sets the option fields to."""
    updates = {
        field: update["value"] if isinstance(update, dict) else update
        for field, update in updates.items()
        if not isinstance(update, dict) or "value" in update
    }
    return {name: updates[field] for name, field in train.form.components.items() if field in updates}


def test_a_dropped_file_fills_the_whole_form_and_is_reported(train, tmp_path):
    path = write(tmp_path / "config.json", MINE.to_json())
    updates = train.keep.on_file(train, given(train, load_preset("sd15"), file=str(path)))
    assert (
        train.form.read(
            {**given(train, RunConfig()), **{train.form.components[n]: v for n, v in values(train, updates).items()}}
        )
        == MINE
    )
    assert f"{len(config_to_flat(MINE))} settings imported from config.json" in updates[train.keep.report]


def test_a_config_of_another_tool_dropped_with_the_file_it_names_fills_the_form(train, tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.png").write_bytes(b"only counted")
    dataset = (
        f"[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = '{tmp_path / 'cats'}'\nnum_repeats = 4\n"
    )
    main = 'network_module = "networks.lora"\nnetwork_dim = 8\ndataset_config = "data.toml"\nmax_train_epochs = 5\n'
    paths = [str(write(tmp_path / "data.toml", dataset)), str(write(tmp_path / "train.toml", main))]
    updates = train.keep.on_file(train, given(train, load_preset("sdxl"), file=paths))
    found = values(train, updates)
    assert (found["lora_rank"], found["resolution"], found["repeats"], found["max_train_steps"]) == (8, 768, 4, 20)
    assert "Changed in meaning" in updates[train.keep.report] and "kohya_ss" in updates[train.keep.report]


@pytest.mark.parametrize(
    "content", ["{", '{"seed": -1, "max_train_steps": 5}', '{"<script>${alert(1)}": 1}', '{"\\ud800": 1}']
)
def test_a_bad_file_is_refused_and_the_form_stays(train, tmp_path, content):
    updates = train.keep.on_file(train, given(train, MINE, file=str(write(tmp_path / "config.json", content))))
    assert values(train, updates) == {}
    said = updates[train.keep.report]
    assert "Nothing was imported from config.json" in said and "<script" not in said and "${" not in said
    said.encode()  # it can be sent to the browser


def test_the_settings_of_a_run_come_back_whole(train, store):
    store.create(MINE, "earlier")
    updates = train.keep.on_run(train, given(train, RunConfig(), run="earlier"))
    assert len(values(train, updates)) == len(config_to_flat(MINE))
    assert "the run earlier" in updates[train.keep.report]
    refused = train.keep.on_run(train, given(train, RunConfig(), run="../earlier"))
    assert values(train, refused) == {} and "cannot name a run" in refused[train.keep.report]


def test_saving_makes_a_card_and_chooses_it_and_asks_before_replacing(train, store):
    updates = train.keep.on_save(train, given(train, MINE, title="My cup", name="", mine=None), False)
    [mine] = own_presets(store.root)[0]
    assert (mine.name, updates[train.model.preset]["value"]) == ("My-cup", mine.key)
    again = train.keep.on_save(train, given(train, MINE, title="My cup", name="", mine=None), False)
    assert again[train.keep.replace]["visible"] and train.model.preset not in again
    train.keep.on_save(train, given(train, RunConfig(), title="My cup", name="", mine=None), True)
    assert load_preset(mine.key) == RunConfig()
    wrong = train.keep.on_save(
        train, {**given(train, MINE, title="x", name="", mine=None), train.form.components["seed"]: -1}, False
    )
    assert "cannot be kept" in wrong[train.keep.saved] and len(own_presets(store.root)[0]) == 1


def test_deleting_the_chosen_preset_leaves_the_form_and_goes_back_to_the_first(train, store):
    kept = save_preset(store.root, "mine", "Mine", MINE)
    updates = train.keep.on_delete(
        train, {**given(train, MINE, title="", name="", mine="mine"), train.model.preset: kept.key}
    )
    assert values(train, updates) == {} and updates[train.model.preset]["value"] == preset_names()[0]
    assert own_presets(store.root)[0] == []


def test_a_preset_that_is_gone_meanwhile_is_reported_and_the_page_lives_on(train, store):
    kept = save_preset(store.root, "mine", "Mine", MINE)
    held = {**given(train, MINE), train.model.preset: kept.key}
    assert "Changed from the preset" in train.on_edit(held)[train.side]
    delete_preset(store.root, "mine")
    said = train.on_edit(held)[train.side]
    assert "choose a preset again" in said and "there is no such file" in said


def test_a_run_from_an_own_preset_bears_its_name_not_its_path(train, store, monkeypatch):
    from rollout_studio.core import platform_calls

    monkeypatch.setattr(platform_calls, "start_detached", lambda *args, **more: SimpleNamespace(pid=1, poll=lambda: 0))
    kept = save_preset(store.root, "mine", "Mine", MINE)
    train.shown_run = lambda name: {}
    train.on_start({**given(train, MINE), train.model.preset: kept.key})
    [run] = store.list()
    assert run.preset == "mine" and run.name.startswith("mine-")


def test_a_hand_written_preset_needs_no_words_about_itself(tmp_path):
    path = write(tmp_path / "plain.json", {"seed": 3})
    assert (read_preset(str(path)).title, read_preset(str(path)).config().training.seed) == ("plain", 3)


# -- a LoRA that stays where it is ---------------------------------------------------------------------------------------------


def test_a_header_that_the_browser_read_restores_what_the_whole_file_would(train, tmp_path):
    path = lora(tmp_path / "cup.safetensors", {"rollout_studio_config": json.dumps(published_config(MINE))})
    sent = json.dumps({"__metadata__": read_header(path)["__metadata__"]})
    held = given(train, load_preset("demo"))
    updates = train.keep.on_header(train, held, {"name": "cup.safetensors", "header": sent})
    assert values(train, updates) == values(train, train.keep.on_file(train, {**held, train.keep.file: str(path)}))
    assert "the LoRA file cup.safetensors" in updates[train.keep.report]


@pytest.mark.parametrize("sent", [None, "text", {}, {"name": "cup.safetensors"}, {"name": "cup.safetensors", "header": ""}, {"name": 5, "header": "{}"},
                                  {"name": "cup.safetensors", "header": "{"}, {"name": "cup.safetensors", "header": "[1]"},
                                  {"name": "<b>x</b>" * 99, "header": "[" * 100_000}], ids=str)  # fmt: skip
def test_what_a_browser_sends_is_checked_and_changes_nothing_where_it_is_no_header(train, sent):
    updates = train.keep.on_header(train, given(train, load_preset("demo")), sent)
    assert updates.keys() == {train.keep.report} and "Nothing was imported" in updates[train.keep.report]
    assert "<b>x" not in updates[train.keep.report]


def test_a_file_of_this_computer_is_read_by_its_path(train, tmp_path):
    path = lora(tmp_path / "my cup.safetensors", {"rollout_studio_config": json.dumps(published_config(MINE))})
    for typed in (str(path), f'  "{path}" '):
        updates = train.keep.on_path(train, given(train, load_preset("demo"), path=typed))
        assert values(train, updates)["max_train_steps"] == 77
    for typed, words in (
        ("", "Enter the path"),
        (str(tmp_path), "is a folder"),
        (str(tmp_path / "no.json"), "no such file"),
    ):
        updates = train.keep.on_path(train, given(train, load_preset("demo"), path=typed))
        assert updates.keys() == {train.keep.report} and words in updates[train.keep.report]


def test_a_file_that_names_no_folders_says_that_they_must_be_filled_in(tmp_path):
    config = with_changes(
        MINE,
        {
            "instance_data_dir": "/home/me/cups",
            "pretrained_model_name_or_path": "/models/mine",
            "publish_folders": False,
        },
    )
    found = import_file(
        lora(tmp_path / "cup.safetensors", {"rollout_studio_config": json.dumps(published_config(config))})
    )
    assert found.fill_in == ("pretrained_model_name_or_path", "instance_data_dir")


@pytest.mark.parametrize(("kept", "held"), [("", None), ("", ""), ("mine", "mine")])
def test_a_reload_says_nothing_of_a_name_that_stands_there_as_it_was_kept(train, kept, held):
    """In a closed step it would be heard when the step opens, and take what is typed there with it."""
    asked = given(train, MINE) | dict([train.draft.kept(MINE, "demo", kept).popitem(), (train.name, held)])
    assert train.name not in train.restored(asked)
    assert train.restored({**asked, train.name: "another"})[train.name] == kept
