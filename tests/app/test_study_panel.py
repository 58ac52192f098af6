"""Studies from the page: what the form says, what it refuses, and (slow) one of learning rate x rank in a real browser, to its report."""

import re
import time

import pytest
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.runs.study_panel import LEVEL, StudyPanel, plan_words, values_of, variable_options
from rollout_studio.core import platform_calls
from rollout_studio.core.config import OPTIONS
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.config.own_presets import find_preset
from rollout_studio.core.study import begun
from rollout_studio.core.study.expected import study_time
from rollout_studio.core.study.plan import StudyError, study_of

TINY = {
    "max_train_steps": 3, "validation_step_interval": 0, "checkpoint_step_interval": 0, "drift_step_interval": 0,
    "validation_num_inference_steps": 2, "drift_num_images": 1, "scheduled_sampling_max_step_offset": 0,
}  # fmt: skip


@pytest.fixture
def panel(tmp_path):
    import gradio as gr

    watch = Watch(tmp_path / "runs")
    with gr.Blocks():
        panel = StudyPanel(watch)
    yield panel
    watch.close()


def given(panel, **changes):
    values = {"name": "mine", "base": "preset: demo", "first": "learning_rate", "first_values": "0.0005, 1e-3", "second": "lora_rank",
              "second_values": "8, 16", "seeds": 3, "controls": True, "judge": False, **changes}  # fmt: skip
    return {getattr(panel, name): value for name, value in values.items()}


def test_the_form_is_a_study_file_with_every_combination(panel):
    written = panel.written(given(panel))
    assert written["grid"] == {"learning_rate": [0.0005, 0.001], "lora_rank": [8, 16]} and written["seeds"] == [1, 2, 3]
    root = panel.watch.store.root
    study = study_of(written, "study", root, root)
    words = plan_words(study, study_time(study, root))
    own = len([each for each in study.variants if each.control is None])
    assert f"{len(study.cells())} runs: {own} variants" in words and "3 seeds" in words
    assert len({variant.name for variant in study.variants}) == len(study.variants) >= 4


def test_a_runs_settings_are_the_base_and_levels_can_be_varied(panel):
    panel.watch.store.create({"resolution": 64, **TINY}, "mine-1", preset="demo")
    written = panel.written(
        given(panel, base="run: mine-1", first=LEVEL, first_values="off, gentle", second="", second_values="")
    )
    root = panel.watch.store.root
    study = study_of(written, "study", root, root)
    assert study.base["max_train_steps"] == 3
    assert {"level off", "level gentle"} <= {variant.name for variant in study.variants}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_values": ""}, "no value"),
        ({"first_values": "0.1, quick"}, "learning_rate"),
        ({"second": "learning_rate"}, "chosen twice"),
        ({"first": LEVEL, "first_values": "gentel"}, "Did you mean 'gentle'"),
        ({"base": "run: gone"}, "gone"),
        ({"name": "a name with blanks"}, "must be a name"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(panel, changes, words):
    root = panel.watch.store.root
    with pytest.raises(Exception, match=words) as caught:
        study_of(panel.written(given(panel, **changes)), "study", root, root)
    assert isinstance(caught.value, StudyError | ConfigError) or "RunError" in type(caught.value).__name__


def test_every_option_with_one_value_can_be_varied_and_only_once():
    keys = [key for _, key in variable_options()]
    assert len(set(keys)) == len(keys) and "learning_rate" in keys and "validation_prompts" not in keys
    assert values_of("scheduled_sampling_sampler", "unipc, dpm") == ["unipc", "dpm"]
    assert set(keys) - {LEVEL} <= set(OPTIONS)


def test_a_study_begun_twice_is_refused_and_one_that_ended_goes_on(panel, monkeypatch):
    started = []

    class Child:
        pid = 4_000_000

        def poll(self):
            return 0

    monkeypatch.setattr(platform_calls, "start_detached", lambda command, *_, **__: started.append(command) or Child())
    store, written = panel.watch.store, panel.written(given(panel))
    study = begun.begin(written, store)
    assert [str(each) for each in started[0]][3:] == [
        "study", str(store.root / ".studies" / "mine" / begun.STUDY_FILE), "--runs-dir", str(store.root),
    ]  # fmt: skip
    with pytest.raises(StudyError, match="already"):
        begun.begin(written, store)
    [row] = begun.begun_studies(store, panel.watch.runs(fresh=True))
    assert (row.name, row.alive, row.ended, row.total, row.report) == ("mine", False, 0, len(study.cells()), None)
    begun.go_on("mine", store)
    assert len(started) == 2
    for name in ("other", "../mine"):
        with pytest.raises(StudyError, match="There is no study"):
            begun.go_on(name, store)


def test_stopping_takes_the_waiting_runs_out_and_leaves_the_one_that_trains(panel, monkeypatch):
    store = panel.watch.store
    monkeypatch.setattr(begun, "go_on", lambda *_: None)
    study = begun.begin(panel.written(given(panel, second="", seeds=1)), store)
    from rollout_studio.core.study.work import advance

    advance(study, store)
    assert {run.state for run in store.list()} == {"queued"}
    begun.stop("mine", store)
    assert {run.state for run in store.list()} == {"created"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_of_learning_rate_and_rank_takes_few_clicks_and_ends_in_a_report(visit, served, tab, browser):
    store = served[1]
    store.create({**find_preset("demo", store.root).changes, **TINY}, "base", preset="demo")
    page, clicks = visit(), 0
    tab(page, "Runs")
    page.locator("#study > button").click()
    page.locator("#study-base input").click()
    page.get_by_role("option", name="run: base").click()
    page.locator("#study-first-values input, #study-first-values textarea").fill("0.0005, 0.001")
    page.locator("#study-second input").click()
    page.get_by_role("option", name=re.compile(r"\(lora_rank\)")).click()
    page.locator("#study-second-values input, #study-second-values textarea").fill("4, 8")
    clicks = 1 + 1 + 2 + 1 + 2 + 1  # tab, fold, base, values, option, values
    page.get_by_text("runs: 4 variants").wait_for()
    page.locator("#study-begin").click()
    clicks += 1
    assert clicks < 10
    card = page.locator("[data-study=study-1]")
    card.get_by_text("running").wait_for()
    until = time.monotonic() + 1000
    while time.monotonic() < until and card.locator("a.rs-file").count() == 0:
        page.wait_for_timeout(500)
    with page.expect_download() as download:
        card.locator("a.rs-file").click()
    path = download.value.path().with_suffix(".html")
    download.value.save_as(path)
    context = browser.new_context(offline=True)
    opened = context.new_page()
    opened.goto(path.as_uri())
    words = opened.locator("body").inner_text()
    context.close()
    assert "learning_rate 0.0005, lora_rank 4" in words and "Study study-1" in words
    assert len([run for run in store.list() if run.state == "done"]) >= 4
