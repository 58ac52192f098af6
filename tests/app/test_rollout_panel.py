"""The Scheduled sampling panel: what it draws and says is what the config does, for every option."""

import re

import pytest
from oracles import flow_times
from rollout_studio.app.parts.forms import Form
from rollout_studio.app.train import idle_marks
from rollout_studio.app.train import rollout_panel as panel
from rollout_studio.app.train.grid_picture import described, grid_picture
from rollout_studio.app.train.idle_marks import idle_sheet
from rollout_studio.core.before.cost import offset_distribution, rollout_cost
from rollout_studio.core.before.effects import (
    CAUTION,
    blur_table,
    example_row,
    idle_settings,
    longest_rollout,
)
from rollout_studio.core.before.loss_share import bands
from rollout_studio.core.before.remarks import remarks, rollout_remarks
from rollout_studio.core.config import (
    OPTIONS,
    RunConfig,
    config_from_flat,
    load_preset,
    with_changes,
)
from rollout_studio.core.config.rules import PREFIX, ROLLOUT_OPTIONS

ON = {"max_step_offset": 3, "probability": 0.5, "ramp_steps": 0}


def config(model="demo-flow", **rollout):
    return config_from_flat(
        {
            "pretrained_model_name_or_path": model,
            "max_train_steps": 200,
            **{PREFIX + name: value for name, value in rollout.items()},
        }
    )


def shown(config):
    """Everything that the panel says of a config."""
    return panel.picture(config) + panel.ramp_panel(config) + panel.learning(config)


def unstyled(html):
    return re.sub(r"<style>.*?</style>", "", html)


def words(html):
    """The text of markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", unstyled(html)))


# Each option in a config where it does something, and another value of it.
CHANGES = {
    "max_step_offset": (ON, 4), "probability": (ON, 0.6), "strategy": (ON, "biased_late"), "sampler": (ON, "euler"), "order": (ON, 3),
    "grid": (ON, "training"), "grid_steps": (ON, 20), "target": (ON, "original"), "min_sigma": (ON, 0.1), "guidance": (ON, 2.0),
    "snr_gamma": (ON, 1.0), "control": (ON, "source_noise"), "start_step": (ON, 50), "reflexflow": (ON, False), "reflexflow_alpha": (ON, 0.5),
    "reflexflow_beta1": (ON, 2.0), "reflexflow_beta2": (ON, 0.5), "reflexflow_norm": (ON, "mean"), "reflexflow_mode": (ON, "paper"),
    "reflexflow_step_gradient": ({**ON, "reflexflow_mode": "paper"}, True),
    "prob_start": ({**ON, "ramp_steps": 100}, 0.1), "prob_end": ({**ON, "ramp_steps": 100}, 0.9), "ramp_steps": ({**ON, "ramp_steps": 100}, 50),
    "ramp_shape": ({**ON, "ramp_steps": 100}, "cosine"), "exact_share": (ON, True), "max_evaluations": ({**ON, "max_step_offset": 3, "max_evaluations": 2}, 1),
    "shared_offsets": (ON, 2),
}  # fmt: skip


def test_the_table_of_changes_names_every_rollout_option():
    assert set(CHANGES) == {name.removeprefix(PREFIX) for name in ROLLOUT_OPTIONS}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_that_does_something_changes_what_is_drawn_or_reported(name):
    base, value = CHANGES[name]
    model = "demo-epsilon" if name == "snr_gamma" else "demo-flow"
    before, after = config(model, **base), config(model, **{**base, name: value})
    assert PREFIX + name not in idle_settings(before)
    assert unstyled(shown(before)) != unstyled(shown(after))


@pytest.mark.parametrize("name", ROLLOUT_OPTIONS)
def test_an_option_that_is_marked_idle_changes_neither_cost_nor_ramp_nor_rollout(name):
    """Over configs in which something waits for something else."""
    bases = [{}, {"max_step_offset": 2}, ON, {**ON, "ramp_steps": 50, "prob_end": 0.3}, {**ON, "control": "source_noise"}, {**ON, "reflexflow_mode": "paper"},
             {**ON, "reflexflow": False}, {**ON, "grid": "training"}, {**ON, "min_sigma": 1.0}, {**ON, "start_step": 500}, {**ON, "max_step_offset": 1}]  # fmt: skip
    for base in bases:
        before = config(**base)
        if name not in idle_settings(before) or name == PREFIX + "reflexflow_mode":
            continue
        value = CHANGES[name.removeprefix(PREFIX)][1]
        try:
            after = config(**{**base, name.removeprefix(PREFIX): value})
        except ValueError:
            continue  # refused beside the others, which is more than idle
        if not before.rollout.is_active and after.rollout.is_active:
            pytest.fail(f"{name} is said to do nothing, but it starts the rollout of {base}")
        assert (
            rollout_cost(before).mean_ratio == rollout_cost(after).mean_ratio
            or highest(before) == 0
            or before.rollout.min_sigma >= 1
        )


def highest(config):
    return max(config.rollout.probability_at(step) for step in range(config.training.max_train_steps))


@pytest.mark.parametrize("base", [{"max_step_offset": 2}, {**ON, "ramp_steps": 9, "prob_end": 0.2}, {**ON, "prob_end": 0.9}, {**ON, "grid": "training", "grid_steps": 9},
                                  {**ON, "reflexflow": False, "reflexflow_alpha": 2.0}])  # fmt: skip
def test_whatever_the_remarks_call_unused_is_marked_at_its_control(base):
    chosen = config(**base)
    named = {name for remark in rollout_remarks(chosen) for part in re.findall(r"(?:without effect|[Nn]ot used[^:]*): (.*)\.", remark)
             for name in part.split(", ") if name in OPTIONS}  # fmt: skip
    assert named <= set(idle_settings(chosen))
    sheet = idle_sheet(chosen)
    assert all(f"#opt-{name}::after" in sheet for name in idle_settings(chosen))


@pytest.mark.parametrize(
    ("changes", "names", "why"),
    [
        ({}, ("class_prompt", "num_class_images"), "there is no prior preservation"),
        ({"model_type": "full"}, ("lora_rank", "lora_targets"), "all weights are trained, not an adapter"),
        ({}, ("ema_decay",), "no running mean is kept"),
        ({"loss_type": "mse"}, ("huber_delta",), "the distance is not huber"),
        ({"optimizer": "adafactor"}, ("adam_beta1",), "adafactor has its own"),
        (
            {"timestep_sampling": "uniform"},
            ("logit_mean", "logit_std", "mode_scale"),
            "noise levels are drawn another way",
        ),
    ],
)
def test_an_idle_setting_of_any_section_is_greyed_with_its_reason(changes, names, why):
    sheet = idle_sheet(config_from_flat(changes))
    for name in names:
        assert f'#opt-{name}::after{{content:"No effect now: {why}.";' in sheet
    active = config_from_flat(
        {
            "use_ema": True,
            "loss_type": "huber",
            "timestep_sampling": "mode",
            "with_prior_preservation": True,
            "class_prompt": "a dog",
        }
    )
    assert not [
        name
        for name in ("ema_decay", "huber_delta", "mode_scale", "class_prompt", "lora_rank", "adam_beta1")
        if f"#opt-{name}:" in idle_sheet(active)
    ]


def test_a_reason_cannot_leave_the_style_sheet(monkeypatch):
    monkeypatch.setattr(idle_marks, "idle_settings", lambda config: {"seed": 'a "b" </style>\\'})
    assert 'content:"No effect now: a \\"b\\" \\3c /style>\\\\.";' in idle_sheet(RunConfig())


def test_the_panel_reports_exactly_the_remarks_about_the_rollout():
    chosen = config_from_flat(
        {"pretrained_model_name_or_path": "demo-flow", PREFIX + "max_step_offset": 2, "ema_decay": 0.9}
    )
    assert any("ema_decay" in remark for remark in remarks(chosen))
    assert rollout_remarks(chosen) == [remark for remark in remarks(chosen) if PREFIX in remark]
    said = words(panel.picture(chosen))
    assert (
        re.search("Nothing will be rolled out, because Chance of a rollout +is 0", said) and "ema" not in said.lower()
    )
    assert "Chance of a rollout" in said and "Farthest start (grid steps)" in said  # the controls' names, not the keys


def test_a_rollout_without_fault_has_no_list_of_idle_settings():
    chosen = load_preset("demo")
    assert "rs-idle-list" not in panel.picture(chosen)
    assert [remark for remark in rollout_remarks(chosen) if not remark.startswith(CAUTION)] == []


def test_a_start_after_the_end_of_the_run_is_called_nothing():
    assert "Nothing will be rolled out in this run" in words(panel.picture(config(**ON, start_step=200)))
    assert "no row carries as much noise" in words(panel.picture(config(**ON, min_sigma=1.0)))


# -- the grid -----------------------------------------------------------------------------------------------------------------


def test_the_levels_of_the_example_are_those_of_the_shifted_grid():
    """Demo: 30 steps, shift 2. Between two nodes the level moves linearly, and every step is a whole one."""
    example = example_row(config(**ON))
    nodes = flow_times(30, 2.0).tolist()
    assert example.schedule.grid.nodes == pytest.approx(nodes)
    place = next(i for i in range(30) if nodes[i] >= 0.75 > nodes[i + 1])
    index = place + (nodes[place] - 0.75) / (nodes[place] - nodes[place + 1])
    for offset in example.offsets:
        left = index - offset.k
        low, high = nodes[int(left)], nodes[int(left) + 1]
        assert offset.start.sigma == pytest.approx(low + (high - low) * (left - int(left)))


@pytest.mark.parametrize("strategy", ["uniform", "biased_early", "biased_late"])
def test_the_bars_are_the_chances_of_the_offsets(strategy):
    example = example_row(config(**{**ON, "strategy": strategy, "max_step_offset": 5}))
    assert [offset.chance for offset in example.offsets] == offset_distribution(strategy, 5)
    drawn = grid_picture(example, "unipc")
    wide = drawn.split("rs-grid-picture-narrow")[0]
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="rs-w-bar0?"', wide)]
    tallest = max(offset.chance for offset in example.offsets)
    assert heights == pytest.approx([46 * offset.chance / tallest for offset in example.offsets], abs=0.06)


def test_ticks_of_the_line_stand_at_the_levels():
    wide = panel.picture(config(**ON)).split("rs-grid-picture-narrow")[0]
    places = [float(x) for x in re.findall(r"M([\d.]+) 38v12", wide)]
    begin, end = 58, 760 - 58
    assert places == pytest.approx([begin + (end - begin) * node for node in flow_times(30, 2.0).tolist()], abs=0.06)


def test_offsets_beyond_the_noise_are_drawn_as_cut():
    chosen = config(**{**ON, "max_step_offset": 12})
    example = example_row(chosen)
    assert example.farthest.actual == 10 and "cut to 10" in described(example, "unipc")
    assert panel.picture(chosen).split("rs-grid-picture-narrow")[0].count("rs-w-barcut") == 2


@pytest.mark.parametrize("offset", [1, 12, 13, 300, 1000])
@pytest.mark.parametrize("model", ["demo-flow", "demo-epsilon"])
@pytest.mark.parametrize("grid", ["inference", "training"])
def test_any_offset_is_drawn_in_numbers_that_a_browser_understands(model, grid, offset):
    drawn = shown(config(model, **{**ON, "max_step_offset": offset, "grid": grid}))
    assert "nan" not in drawn and "inf " not in drawn and len(drawn) < 60_000
    numbers = [float(n) for n in re.findall(r'(?:cx|x|width|height)="(-?[\d.]+)"', drawn)]
    assert all(-50 <= n <= 810 for n in numbers)


def test_an_epsilon_model_is_drawn_on_its_own_levels_and_has_no_reflexflow():
    said = panel.picture(config("demo-epsilon", **ON))
    assert "1000 training timesteps" in said and "ReflexFlow" not in words(said).replace(
        "ReflexFlow needs a flow model", ""
    )
    assert "ReflexFlow is off here" in panel.learning(config("demo-epsilon", **ON))


def test_the_drawing_is_spoken_and_exists_for_wide_and_narrow_windows():
    drawn = panel.picture(config(**ON))
    assert drawn.count('role="img"') == 2
    [spoken, _] = re.findall(r'aria-label="([^"]+)"', drawn)
    assert "starts up to 3 grid steps noisier" in spoken and "0 steps: 25 %" in spoken


# -- cost and blur ----------------------------------------------------------------------------------------------------------------


def test_the_cost_in_numbers_is_the_closed_form_of_it():
    """docs/mathematics.md, "Cost of a step": ten steps of euler for every row, uniform: 5 forwards on average, 3.5
    times a plain LoRA step; no ReflexFlow."""
    chosen = config(**{**ON, "max_step_offset": 10, "probability": 1.0, "sampler": "euler", "reflexflow": False})
    said = panel.cost_sentence(chosen)
    assert (
        said.startswith("+5 extra forwards per row on average")
        and "up to 10 for one row" in said
        and "about 3.5x a plain LoRA step" in said
    )
    half = with_changes(chosen, {PREFIX + "start_step": 100})
    assert "3.5x" in panel.cost_sentence(half) and "over the whole run: 2.25x" in panel.cost_sentence(half)
    assert "yours: 2.25x" in panel.picture(half)


def test_the_longest_rollout_is_what_the_cost_calls_most():
    for changes in (
        {},
        {"sampler": "rk4"},
        {"guidance": 3.0},
        {"reflexflow": False},
        {"reflexflow_mode": "paper"},
        {"control": "source_noise"},
    ):
        chosen = config(**{**ON, **changes})
        assert longest_rollout(chosen).total == rollout_cost(chosen).most_forwards


SD3 = {"model_family": "lumina2", "prediction_type": "flow_matching"}


def test_the_blur_table_is_the_one_of_the_derivation(tmp_path):
    """30 steps, shift 3, target sigma .75: k = 1 .89, 2 .78, 3 .69, 5 .52, 10 .21; original .70 at 3, .29 at 10."""
    import json

    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Lumina2Pipeline"}))
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))

    def factors(target):
        table = blur_table(config(str(tmp_path), **{**ON, "max_step_offset": 10, "target": target}))
        return {
            k: factor
            for k, (actual, factor) in next(row for row in table if row.sigma == 0.75).factors.items()
            if actual == k
        }

    found = factors("consistent")
    assert {k: round(found[k], 2) for k in (2, 3, 5, 10)} == {2: 0.78, 3: 0.69, 5: 0.52, 10: 0.21}
    assert found[1] == pytest.approx(0.89, abs=0.006)
    original = factors("original")
    assert round(original[3], 2) == 0.70 and round(original[10], 2) == 0.29


def test_the_blur_sentence_reports_the_longest_rollout():
    chosen = config(**{**ON, "max_step_offset": 2})
    row = next(row for row in blur_table(chosen) if row.sigma == 0.75)
    assert (
        f"only {100 * row.factors[2][1]:.0f} % of the contrast after a rollout of 2 steps to noise level 0.75"
        in words(panel.learning(chosen))
    )


def test_where_the_blur_is_not_known_or_does_not_apply_the_panel_says_so():
    assert "known for flow models only" in panel.learning(config("demo-epsilon", **{**ON, "target": "original"}))
    assert "In the paper's mode the ordinary error is taken where the row starts" in words(
        panel.learning(config(**{**ON, "reflexflow_mode": "paper"}))
    ).replace("&#x27;", "'")
    assert "No row is rolled out" in panel.learning(config(**{**ON, "control": "source_noise"}))
    assert "rs-blur" in panel.learning(config("demo-epsilon", **ON))


def test_the_panel_shows_the_loss_of_rolled_rows_without_and_with_its_bound():
    chosen = config("demo-epsilon", **ON)
    found, said = bands(chosen), words(panel.learning(chosen))
    [shown_shares] = re.findall(
        r"would carry ([\d.]+) % of the loss of all rolled rows; bounded at a signal-to-noise ratio of 5 they carry ([\d.]+) %",
        said,
    )
    assert [float(share) for share in shown_shares] == pytest.approx(
        [100 * found[0].unbounded, 100 * found[0].bounded], rel=0.05
    )
    assert panel.learning(chosen).split("rs-carriers")[1].count("<tr>") == 1 + len(found)
    assert "no row has less noise than sigma 0.02" in said and "are left plain" in words(panel.learning(config(**ON)))
    free = config("demo-epsilon", **ON, snr_gamma=0)
    assert "nothing bounds it" in words(panel.learning(free)) and "with the bound" not in panel.learning(free)
    assert "loss of the rolled rows, by noise level" not in panel.learning(config(**ON)) + panel.learning(
        config("demo-epsilon", **ON, target="original")
    )


def test_what_is_assumed_of_a_model_that_is_not_here_is_reported():
    said = words(shown(config("someone/unknown-model", **ON)))
    assert "cannot be read here" in said and "not known" in said and "if the model is not a flow model" in said


# -- the form ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    import gradio as gr

    chosen = load_preset("demo")
    with gr.Blocks():
        form = Form(chosen)
        return form, panel.RolloutPanel(form, chosen)


def test_every_rollout_option_stands_in_the_panel_with_its_help_source_and_key(built):
    form, _ = built
    assert form.missing("rollout") == []
    for name in ROLLOUT_OPTIONS:
        assert name in form.components[name].info and form.components[name].info.startswith(OPTIONS[name].help)


def test_a_control_that_another_puts_out_of_use_is_switched_off_and_comes_back(built):
    form, built_panel = built

    def usable(name, **rollout):
        return built_panel.drawn(config(**rollout), "demo")[form.components[PREFIX + name]]["interactive"]

    assert usable("probability", **ON) and not usable("probability", **ON | {"ramp_steps": 10})
    assert not usable("prob_end", **ON) and usable("prob_end", **ON | {"ramp_steps": 10})
    assert not usable("order", **ON, sampler="euler") and not usable("grid_steps", **ON, grid="training")
    assert all(usable(name) for name in panel.EITHER_OR)  # nothing is on: everything can be prepared
    slider = form.sliders[PREFIX + "grid_steps"]
    assert (
        built_panel.drawn(config(**ON), "demo")[slider]["interactive"]
        and not built_panel.drawn(config(**ON, grid="training"), "demo")[slider]["interactive"]
    )


def test_names_out_of_a_model_or_a_schedule_are_inert(tmp_path):
    hostile = "<script>alert(1)</script>${alert(2)}{{x}}"
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        f'{{"_class_name": "{hostile}", "timestep_spacing": "{hostile}"}}'
    )
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{hostile}"}}')
    drawn = shown(config(str(tmp_path), **ON)) + shown(config(hostile, **ON))
    assert "<script" not in drawn and "${" not in drawn and "{{" not in drawn


def test_the_default_config_draws_nothing_and_says_that_nothing_is_rolled():
    said = shown(RunConfig())
    assert "<svg" not in said and "No rollout" in said
