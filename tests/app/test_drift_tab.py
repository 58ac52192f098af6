"""The Drift tab below the browser: what can be chosen, the request that the controls describe, who is answered when, and the drawing."""

import json
import math
import random
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import drift_worker
import gradio as gr
import pytest
from PIL import Image
from rollout_studio.app.drift import choices, measured, rows
from rollout_studio.app.drift import picture as drift_picture
from rollout_studio.app.drift import tab as drift_tab
from rollout_studio.app.drift.answer import progress_card
from rollout_studio.app.drift.example import EXAMPLE
from rollout_studio.app.drift.fields import FIELDS
from rollout_studio.app.drift.lab import DriftLab
from rollout_studio.app.drift.scene import Scene
from rollout_studio.app.drift.strips import strips_side_by_side
from rollout_studio.app.drift.viewers import Viewers
from rollout_studio.app.parts.forms import label
from rollout_studio.app.parts.preview_client import PreviewClient
from rollout_studio.app.parts.preview_jobs import PreviewState
from rollout_studio.app.parts.watch import Watch
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.look.drift.files import report_from_json, report_to_csv
from rollout_studio.core.look.preview.request import PreviewRequest
from rollout_studio.core.runs.run_log import RunLog

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{x}}`"


@pytest.fixture
def finished(store, write):
    """A run that has ended, with a checkpoint of step 120 and a LoRA."""
    return write.run(store)


@pytest.fixture(scope="module")
def whole_lab(tmp_path_factory):
    """The laboratory over a runs folder, answered by a worker that measures nothing."""
    watch = Watch(tmp_path_factory.mktemp("runs"))
    watch._preview_client = PreviewClient(
        watch.previews.folder / "drift", worker=[sys.executable, drift_worker.__file__]
    )
    with gr.Blocks():
        made = DriftLab(watch)
    yield made
    watch.close()


@pytest.fixture
def lab(whole_lab):
    """The same, as viewers and runs of this test find it: nothing has been requested."""
    whole_lab.watch.preview_client.close()
    whole_lab.watch._preview_client = PreviewClient(
        whole_lab.watch.previews.folder / "drift", worker=[sys.executable, drift_worker.__file__]
    )
    yield whole_lab
    for name in ("v", "another"):
        whole_lab.viewers.leave(name)
    for run in whole_lab.watch.store.list():
        whole_lab.watch.store.delete(run.name)
    whole_lab.watch.runs(fresh=True)


def given(lab, applied=0, **changes):
    """What the browser sends: every control as it stands at the first visit, but for the changes; and the last answer that it has applied."""
    values = {name: component.value for name, component in lab.fields.components.items()} | changes
    return {lab.shown: applied, **{lab.fields.components[name]: value for name, value in values.items()}}


def viewer(name="v"):
    return SimpleNamespace(session_hash=name)


def until(lab, ready, first=None):
    """The updates of a handler (`first`) and of the ticks after it, put together, until they make `ready` true."""
    deadline, seen = time.monotonic() + 60, dict(first) if first is not None else {}
    while not ready(seen):
        assert time.monotonic() < deadline, seen
        out = lab.on_tick(seen.get(lab.shown, 0), viewer())
        seen |= out if lab.timer in out or lab.answer.progress in out else {}
        time.sleep(0.02)
    return seen


def shown(lab, **changes):
    """Ask and wait for the filmstrip; all updates. The browser had applied everything before."""
    applied = lab.viewers.session("v").scene.number
    return until(
        lab,
        lambda seen: lab.answer.film in seen and lab.answer.export in seen,
        lab.on_show(given(lab, applied, **changes), viewer()),
    )


# What can be chosen --------------------------------------------------------------------------------------------------


def test_weights_are_the_base_models_and_what_every_run_has_left(store, finished):
    values = [value for _, value in choices.weights_choices(store.list(), choices.Shelf())]
    assert "base/demo" in values and values[-2:] == ["run/told/lora", "run/told/120"]
    with finished.lock():
        assert "run/told/now" in [value for _, value in choices.weights_choices(store.list(), choices.Shelf())]
    assert choices.weights_choices(store.list(), choices.Shelf(), keep="run/told/now")[-1] == (
        "told · now (it has ended)",
        "run/told/now",
    )


def test_a_new_checkpoint_is_offered_without_reading_every_folder_again(finished, monkeypatch):
    shelf = choices.Shelf()
    assert shelf.checkpoints(finished.path) == [120]
    monkeypatch.setattr(choices, "_steps", lambda folder: pytest.fail("read again"))
    assert shelf.checkpoints(finished.path) == [120]
    monkeypatch.undo()
    (finished.checkpoints_path / "step-000200").mkdir()
    (finished.checkpoints_path / "step-000200" / "manifest.json").write_text("{}")
    assert choices.Shelf().checkpoints(finished.path) == [200, 120] and shelf.reports(finished.path) == [0, 120]


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        3,
        "base/nothing",
        "base/../x",
        "run/gone/1",
        "run/told/now",
        "run/told/x",
        "run/told/",
        "run/../../etc/1",
        "run/told/-1",
    ],
)
def test_weights_written_by_hand_are_refused(store, finished, value):
    with pytest.raises(ConfigError) as error:
        choices.chosen(value, store.list())
    assert error.value.faults[0].options == ("checkpoints",)


def test_base_stands_before_a_run_and_weights_of_two_models_are_refused(store, finished):
    runs = store.list()
    checkpoints, config = choices.pair("run/told/120", "base", runs)
    assert checkpoints == ["base", {"run": str(finished.path), "step": 120}]
    assert config["pretrained_model_name_or_path"] == finished.read_config()["pretrained_model_name_or_path"]
    for weights, against, why in (
        ("base/demo", "base", "base model's weights already"),
        ("run/told/120", "run/told/120", "same weights"),
        ("base/sd15", "run/told/120", "compare weights of one model"),
        ("run/told/120", "run/gone/1", "no run 'gone'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(why)) as error:
            choices.pair(weights, against, runs)
        assert error.value.faults[0].options == ("against",)


def test_every_solver_to_compare_with_is_one_that_the_config_takes(lab):
    solvers = [value for _, value in choices.solver_choices() if value not in (choices.NOTHING, "unipc/2")]
    assert {"unipc/1", "unipc/3", "dpm/1", "euler/2", "rk4/2"} <= set(solvers) and "dpm/3" not in solvers
    for value in solvers:
        record = lab.record(given(lab, solver=value), lab.viewers.session("v"))
        assert [each.rollout.sampler for each in PreviewRequest.from_json(record).by_solver] == [
            "unipc",
            value.partition("/")[0],
        ]


def test_a_runs_pictures_are_distinguished_by_whether_it_trained_on_them():
    from rollout_studio.core.config import config_to_flat, load_preset

    found = choices.pictures_of_run("mine", config_to_flat(load_preset("demo")))
    assert {(picture.role, picture.group) for picture in found} == {
        ("held-out", "Held out of mine"),
        ("training", "Trained on by mine"),
    }
    assert all(picture.caption for picture in found)
    # the demo's held-out ones are the built-in ones
    assert len(choices.without_copies([*found, *choices.built_in()])) == len(found)


# The request ---------------------------------------------------------------------------------------------------------


def test_the_first_visit_needs_no_choice(lab):
    request = PreviewRequest.from_json(lab.record(given(lab), lab.viewers.session("v")))
    assert (
        request.text()
        and request.picture.is_file()
        and request.what == ("strip",)
        and [each.label for each in request.weights] == ["base"]
    )


OTHER = {"target": 0.4, "offset": 7, "start": "noise", "sampler": "dpm", "order": 1, "grid": "training", "grid_steps": 12, "guidance": 3.0, "seed": 5,
         "columns": 4, "samples": 2, "fine_factor": 3, "correction": "shifted_time", "epsilon_scale": 1.1, "time_window": 0.1, "time_cutoff": 0.25}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_every_control_reaches_the_request(lab, name):
    record = lab.record(given(lab, **{name: OTHER[name]}), lab.viewers.session("v"))
    request = PreviewRequest.from_json(record)
    flat = {**vars(request.view), **vars(request.correction), **{key: getattr(request.config.rollout, key) for key in ("sampler", "order", "grid", "grid_steps")},
            **{key: getattr(request.config.drift, key) for key in ("guidance", "seed", "fine_factor")}}  # fmt: skip
    assert flat[name] == OTHER[name]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("grid_steps", 1, "at least 2"), ("target", math.nan, "finite"), ("offset", 0, "at least 1"), ("seed", None, "must have a value"),
     ("sampler", "magic", "must be one of"), ("order", 9, "at most 3"), ("prompt", "  ", "Write what the picture shows"),
     ("against", "run/gone/3", "There is no run"), ("solver", "dpm/9", "from the list"), ("solver", "unipc/2", "twice")],
)  # fmt: skip
def test_a_bad_value_is_reported_at_its_field_and_nothing_is_requested(lab, name, value, why):
    out = lab.on_show(given(lab, **{name: value}), viewer())
    assert why in out[lab.fields.components[name]]["info"] and out[lab.fields.components[name]]["elem_classes"] == [
        "rs-wrong"
    ]
    assert (
        why in out[lab.answer.progress]
        and lab.viewers.status("v").ticket is None
        and lab.watch.preview_client.pid is None
    )
    mended = lab.on_edit(given(lab), viewer())
    assert "⚠" not in mended[lab.fields.components[name]]["info"] and mended[lab.answer.progress] == ""


def test_a_solver_without_an_order_is_requested_without_one(lab):
    assert "order" not in lab.record(given(lab, sampler="euler", order=3), lab.viewers.session("v"))
    assert lab.on_edit(given(lab, sampler="euler"), viewer())[lab.fields.components["order"]]["interactive"] is False
    assert lab.on_edit(given(lab, sampler="unipc"), viewer())[lab.fields.components["order"]]["interactive"] is True
    assert lab.on_edit(given(lab, grid_steps=12), viewer())[lab.fields.components["offset"]]["maximum"] == 12


def test_choosing_a_run_compares_it_with_its_base_and_offers_its_pictures(lab):
    from rollout_studio.core.config import config_to_flat, load_preset

    lab.watch.store.create(config_to_flat(load_preset("demo")), "demo-run")
    lab.watch.runs(fresh=True)
    out = lab.on_weights(given(lab, weights="run/demo-run/5"), viewer())
    assert out[lab.against] == choices.BASE and "Trained on by demo-run" in out[lab.pictures]
    back = lab.on_weights(given(lab, weights="base/demo", against="base"), viewer())
    assert back[lab.against] == choices.NOTHING and "Trained on by" not in back[lab.pictures]


def test_a_picture_fills_the_prompt_and_only_offered_ones_can_be_picked(lab, tmp_path):
    picture = choices.built_in()[2]
    out = lab.on_pick(given(lab), SimpleNamespace(_data={"key": picture.key}), viewer())
    assert out[lab.prompt]["value"] == picture.caption
    assert lab.record(given(lab), lab.viewers.session("v"))["image"] == str(picture.path)
    lab.on_pick(given(lab), SimpleNamespace(_data={"key": str(tmp_path / "secret.png")}), viewer())
    assert lab.record(given(lab), lab.viewers.session("v"))["image"] == str(picture.path)


def test_a_picture_of_ones_own_asks_for_a_prompt_and_a_broken_one_is_refused(lab, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert lab.pictures not in lab.on_upload({**given(lab), lab.upload: str(tmp_path / "broken.png")}, viewer())
    Image.new("RGB", (80, 60)).save(tmp_path / "mine.png")
    out = lab.on_upload({**given(lab), lab.upload: str(tmp_path / "mine.png")}, viewer())
    assert (
        "Yours" in out[lab.pictures]
        and out[lab.prompt]["value"] == ""
        and "Write what the picture shows" in out[lab.prompt]["info"]
    )
    assert lab.record(given(lab, prompt="a cup"), lab.viewers.session("v"))["image"] == str(tmp_path / "mine.png")
    assert lab.record(given(lab), lab.viewers.session("another"))["image"] != str(tmp_path / "mine.png")


# Who is answered when ------------------------------------------------------------------------------------------------


class Played:
    """A client that answers when the test says so."""

    def __init__(self):
        self.asked, self.states, self.cancelled = [], {}, []

    def request(self, record, viewer):
        self.asked.append((record["seed"], viewer))
        ticket = f"t{len(self.asked)}"
        self.states[ticket] = PreviewState("working")
        return ticket

    def state(self, ticket):
        return self.states[ticket]

    def cancel(self, ticket):
        self.cancelled.append(ticket)


@pytest.fixture
def viewers():
    played = Played()
    viewers = Viewers(lambda: played, clock=lambda: viewers.now)
    viewers.now, viewers.played = 0.0, played
    return viewers


def test_of_quick_edits_only_the_last_is_requested_when_its_time_has_come(viewers):
    for seed in range(5):
        viewers.plan("v", {"seed": seed}, 0.25)
        viewers.now += 0.1
        assert viewers.status("v").busy and viewers.played.asked == []
    viewers.now += 0.2
    assert viewers.status("v").state.status == "working" and viewers.played.asked == [(4, "v")]


def test_a_click_takes_the_place_of_a_planned_edit_and_a_wrong_field_forgets_it(viewers):
    viewers.plan("v", {"seed": 1}, 0.25)
    viewers.ask("v", {"seed": 2})
    viewers.plan("w", {"seed": 3}, 0.25)
    viewers.plan("w", None, 0)
    viewers.now = 9
    viewers.status("v"), viewers.status("w")
    assert viewers.played.asked == [(2, "v")]


def test_an_edit_waits_until_a_running_run_has_answered(viewers):
    live = {"seed": 1, "checkpoints": [{"run": "x", "live": True}]}
    viewers.ask("v", live)
    viewers.plan("v", {**live, "seed": 2}, 0.1)
    viewers.now = 5
    assert viewers.status("v").busy and len(viewers.played.asked) == 1
    viewers.played.states["t1"] = PreviewState("done", result={})
    assert viewers.status("v").ticket == "t2"


def test_a_closed_session_is_waited_for_no_longer(viewers):
    viewers.ask("v", {"seed": 1})
    viewers.leave("v")
    assert viewers.played.cancelled == ["t1"] and not viewers.status("v").busy


def test_the_filmstrip_comes_then_an_edit_asks_again_and_a_tick_without_news_sends_nothing(lab):
    out = shown(lab)
    assert (
        "off the true path" in out[lab.answer.film]
        and out[lab.answer.film].count("rs-cell") == 9
        and "3.8 %" in out[lab.answer.film]
    )
    assert out[lab.answer.progress] == "" and out[lab.answer.measure].visible is True
    quiet = lab.on_tick(out[lab.shown], viewer())
    assert set(quiet) == {lab.timer} and quiet[lab.timer].active is False
    assert lab.beat("v", "base/demo", "nothing", {"look-lists": lab_lists(lab)}, out[lab.shown]) == {}
    edited = lab.on_edit(given(lab, seed=7), viewer())
    assert edited[lab.timer].active is True
    again = until(lab, lambda seen: lab.answer.film in seen, {lab.shown: out[lab.shown]})
    assert again[lab.answer.export] != out[lab.answer.export]


def test_an_answer_that_came_while_nothing_drew_is_still_news(lab):
    """The quick timer may be stopped for the answer before, just after an edit had started it: the page's own timer starts it again."""
    applied = shown(lab)[lab.shown]
    lab.on_tick(applied, viewer())
    assert not lab.waits("v", applied)
    lab.on_edit(given(lab, applied, seed=7), viewer())
    deadline = time.monotonic() + 60
    while lab.viewers.status("v").busy:  # as `has_news` asks, which draws nothing
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert lab.waits("v", applied)
    assert lab.beat("v", "base/demo", "nothing", {"look-lists": lab_lists(lab)}, applied)[lab.timer].active is True


def lab_lists(lab):
    runs = lab.watch.runs()
    return repr(
        (choices.weights_choices(runs, lab.shelf, "base/demo"), choices.against_choices(runs, lab.shelf, "nothing"))
    )


def test_before_the_first_picture_an_edit_asks_nothing(lab):
    assert lab.timer not in lab.on_edit(given(lab, seed=7), viewer()) and not lab.viewers.status("v").busy


def test_the_curves_come_on_request_and_leave_the_filmstrip_alone(lab):
    first = shown(lab, solver="euler/2")
    out = until(lab, lambda seen: "<svg" in seen.get(lab.answer.curves, ""), lab.on_measure(first[lab.shown], viewer()))
    assert (
        out.get(lab.answer.film, first[lab.answer.film]) == first[lab.answer.film]
        and out[lab.answer.measure].visible is False
    )
    assert {"Curves, PNG", "Spectrum, PNG", "Report, JSON", "Numbers, CSV"} <= set(
        re.findall(r">([^<]+)</a>", out[lab.answer.export])
    )
    # three charts and two maps, each with how to read it
    assert out[lab.answer.curves].count("<svg") == out[lab.answer.curves].count("rs-quiet") == 5
    lab.on_edit(given(lab, out[lab.shown], seed=8), viewer())
    # the picture may come in parts before the curves of the old settings go
    gone = lambda seen: lab.answer.film in seen and seen.get(lab.answer.curves) == ""
    edited = until(lab, gone, {lab.shown: out[lab.shown]})
    assert edited[lab.answer.measure].visible is True


def test_a_failure_is_reported_with_its_remedy_and_the_picture_stays(lab):
    first = shown(lab)
    out = until(
        lab,
        lambda seen: "No picture" in seen.get(lab.answer.progress, ""),
        lab.on_show(given(lab, first[lab.shown], seed=13), viewer()),
    )
    assert "No &lt;luck&gt;." in out[lab.answer.progress] and "Take another seed." in out[lab.answer.progress]
    assert out.get(lab.answer.film, first[lab.answer.film]) == first[lab.answer.film]
    assert shown(lab, seed=3)[lab.answer.progress] == ""


def test_what_is_wrong_stays_reported_until_it_is_mended(lab):
    applied = shown(lab)[lab.shown]
    refused = lab.on_show(given(lab, applied, grid_steps=1), viewer())
    assert (
        "at least 2" in refused[lab.answer.progress]
        and "at least 2" in lab.on_tick(applied, viewer())[lab.answer.progress]
    )
    assert (
        lab.answer.progress not in lab.beat("v", "base/demo", "nothing", {})
        and lab.on_edit(given(lab), viewer())[lab.answer.progress] == ""
    )


def test_stop_stops(lab):
    first = lab.on_show(given(lab, seed=14), viewer())
    assert first[lab.stop].visible is True and 'role="progressbar"' in first[lab.answer.progress]
    until(lab, lambda seen: "Rollout" in seen.get(lab.answer.progress, ""), first)
    out = lab.on_stop(0, viewer())
    assert out[lab.answer.progress] == "" and out[lab.stop].visible is False and not lab.viewers.status("v").busy


def test_a_filmstrip_stands_there_picture_by_picture_and_what_was_there_before_comes_back_when_it_is_stopped(lab):
    first = shown(lab)
    begun = until(lab, lambda seen: "rs-growing" in seen.get(lab.answer.film, ""), lab.on_show(given(lab, first[lab.shown], seed=16), viewer()))  # fmt: skip
    film = begun[lab.answer.film]
    assert (
        film.count("<img") == 3 + 1 and film.count("rs-yet") == 2 and 'role="progressbar"' in begun[lab.answer.progress]
    )
    for name in re.findall(r'gradio_api/file=([^"]+)', film):
        assert Image.open(name).size == (64, 64)
    stopped = until(lab, lambda seen: "off the true path" in seen.get(lab.answer.film, ""), lab.on_stop(begun[lab.shown], viewer()))  # fmt: skip
    assert stopped[lab.answer.film] == first[lab.answer.film]
    # and a whole one takes the place of a growing one, also the one that stood there before
    until(lab, lambda seen: "rs-growing" in seen.get(lab.answer.film, ""), lab.on_show(given(lab, seed=16), viewer()))
    again = until(lab, lambda seen: "off the true path" in seen.get(lab.answer.film, ""), lab.on_show(given(lab), viewer()))  # fmt: skip
    assert again[lab.answer.film] == first[lab.answer.film]


class Browser:
    """What a browser shows after the answers that it applied, in the order in which they came."""

    def __init__(self, lab):
        self.lab, self.page = lab, {lab.shown: 0}

    def apply(self, answer):
        self.page |= {
            part: update
            for part, update in answer.items()
            if part in [*self.lab.answer.parts, self.lab.shown, self.lab.timer]
        }

    def rest(self):
        """Its timers go on until they are told to end."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.apply(self.lab.on_tick(self.page[self.lab.shown], viewer()))
            if self.page[self.lab.timer].active is False:
                self.apply(self.lab.beat("v", "base/demo", "nothing", {}, self.page[self.lab.shown]))
                if self.page[self.lab.timer].active is False:
                    return self
        raise AssertionError(self.page)


def test_a_tick_that_is_overtaken_by_the_curves_does_not_bring_back_their_bar(lab):
    browser = Browser(lab)
    browser.apply(shown(lab, seed=15))
    late = lab.on_measure(browser.page[lab.shown], viewer())
    assert "progressbar" in late[lab.answer.curves]
    (lab.watch.previews.folder / "drift" / "go").touch()
    browser.apply(until(lab, lambda seen: "<svg" in seen.get(lab.answer.curves, "")))
    browser.apply(late)
    assert "progressbar" in browser.page[lab.answer.curves]
    assert "<svg" in browser.rest().page[lab.answer.curves] and browser.page[lab.stop].visible is False


def test_the_curves_are_drawn_as_they_come_under_their_bar(lab):
    browser = Browser(lab)
    (lab.watch.previews.folder / "drift" / "go").unlink(missing_ok=True)
    browser.apply(shown(lab, seed=17))
    browser.apply(lab.on_measure(browser.page[lab.shown], viewer()))
    seen = until(lab, lambda seen: "The curves so far" in seen.get(lab.answer.curves, ""))
    begun = seen[lab.answer.curves]
    assert "progressbar" in begun and begun.count("<svg") == 2, "the distance and its parts; no loss, no map yet"
    browser.apply(seen)
    (lab.watch.previews.folder / "drift" / "go").touch()
    whole = browser.rest().page[lab.answer.curves]
    assert "so far" not in whole and "progressbar" not in whole and whole.count("<svg") == 4


def test_a_tick_that_is_overtaken_by_stop_leaves_no_bar(lab):
    browser = Browser(lab)
    late = lab.on_show(given(lab, seed=14), viewer())
    stopped = lab.on_stop(0, viewer())
    browser.apply(stopped)
    browser.apply(late)
    assert "progressbar" in browser.page[lab.answer.progress]
    browser.rest()
    assert browser.page[lab.answer.progress] == "" and browser.page[lab.stop].visible is False


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_in_which_answers_come_the_newest_stands_at_the_end(seed):
    """Requests are answered in the order of asking, their answers arrive in any; ticks wait for one another."""
    rng, scene, page, applied = random.Random(seed), Scene(), {}, 0
    under_way = []

    def arrive(answer):
        nonlocal applied
        number, parts = answer
        page.update(parts)
        applied = number

    for moment in range(60):
        scene.put({part: (part, moment) for part in "abc" if rng.random() < 0.4})
        under_way.append(scene.news(applied))
        while under_way and rng.random() < 0.5:
            arrive(under_way.pop(rng.randrange(len(under_way))))
    rng.shuffle(under_way)
    final = None
    while (applied, final) != (scene.number, scene.number):
        answer = scene.whole()
        final = answer[0]
        under_way.insert(rng.randrange(len(under_way) + 1), answer)
        while under_way:
            arrive(under_way.pop(0))
    assert page == scene.whole()[1]


def test_the_weights_of_now_are_answered_by_the_run_and_its_end_is_reported(lab):
    from rollout_studio.core.config import config_to_flat, load_preset

    run = lab.watch.store.create(config_to_flat(load_preset("demo")), "trains")
    with run.lock():
        lab.watch.runs(fresh=True)
        out = lab.on_show(given(lab, weights="run/trains/now", against="base"), viewer())
        assert (
            "Waiting for trains to finish its step" in out[lab.answer.progress]
            and "between two training steps" in out[lab.answer.progress]
        )
        (command,) = run.take_commands()
        result = drift_worker.write_answer(run.drift_path / "previews" / command.id, command.args["request"], step=40)
        assert [strip["label"] for strip in result["strips"]] == ["base", "trains, now"]
        run.emit("preview", id=command.id, step=40, path=f"drift/previews/{command.id}/result.json")
        assert "Weights of training step 40" in until(lab, lambda seen: lab.answer.film in seen)[lab.answer.film]
        again = lab.on_show(given(lab, weights="run/trains/now"), viewer())
    assert (
        "ended before it answered"
        in until(lab, lambda seen: "No picture" in seen.get(lab.answer.progress, ""), again)[lab.answer.progress]
    )
    lab.watch.runs(fresh=True)
    assert "has ended" in lab.on_show(given(lab, weights="run/trains/now"), viewer())[lab.weights]["info"]


# Drawing -------------------------------------------------------------------------------------------------------------


def result(tmp_path, **changes):
    record = {"checkpoints": ["base", {"run": "/x/tuned", "step": 5, "label": HOSTILE}], "prompt": HOSTILE, "image": "a.png", "target": 0.2,
              "what": ["strip"], "offset": 9} | changes  # fmt: skip
    return drift_worker.write_answer(tmp_path, record), record


def test_text_of_people_and_runs_is_inert(tmp_path):
    answer, record = result(tmp_path)
    answer["model"], answer["words"] = HOSTILE, [HOSTILE]
    drawn = (
        drift_picture.film(answer, str, record)
        + drift_picture.numbers_table(answer)
        + drift_picture.words_list(answer["words"])
    )
    drawn += drift_picture.downloads([(HOSTILE, HOSTILE, HOSTILE)]) + progress_card(
        PreviewState("failed", message=HOSTILE, remedy=HOSTILE), record
    )
    drawn += progress_card(PreviewState("working", what=HOSTILE), record)
    report = json.loads((tmp_path / "report.json").read_text())
    drawn += drift_picture.report_charts(report_from_json(json.dumps(report)))
    assert (
        "<img src=x" not in drawn
        and "${" not in drawn
        and "{{" not in drawn
        and "`" not in drawn
        and drawn.count("onerror") > 8
    )


def test_the_head_says_what_was_measured_and_that_fewer_steps_were_possible(tmp_path):
    answer, record = result(tmp_path, checkpoints=["base"])
    drawn = drift_picture.film(answer, str, record)
    assert (
        "After <b>4 steps on its own</b>, the model is <b>28.7 % off the true path</b>" in drawn
        and "9 steps were requested" in drawn
    )
    assert "knows nothing of your picture" in drift_picture.film(answer, str, {**record, "start": "noise"})
    answer["numbers"]["base"]["distance"] = None
    assert "has diverged" in drift_picture.film(answer, str, record)


def test_solvers_of_one_model_share_the_row_of_what_it_should_see(tmp_path):
    answer, record = result(
        tmp_path, checkpoints=["base"], samplers=[{"sampler": "unipc", "order": 2}, {"sampler": "euler"}]
    )
    drawn = drift_picture.film(answer, str, record)
    assert [drawn.count(f">{name}</b>") for name, _ in drift_picture.ROWS.values()] == [1, 2, 2]
    answer, record = result(tmp_path)
    drawn = drift_picture.film(answer, str, record)
    assert [drawn.count(f">{name}</b>") for name, _ in drift_picture.ROWS.values()] == [2, 2, 2]


def test_every_number_has_its_unit_and_what_is_no_number_a_dash(tmp_path):
    answer, _ = result(tmp_path, checkpoints=["base"])
    drawn = drift_picture.numbers_table(answer)
    assert "<td>28.7</td>" in drawn and "% of its length" in drawn and "<td>–</td>" in drawn
    assert drawn.count('scope="row"') == 4 and all(unit for _, unit, _ in drift_picture.NUMBERS.values())


def test_what_runs_measured_can_be_taken_away_as_png_json_and_csv(store, finished):
    watch, log = Watch(store.root), RunLog(finished).update()
    drawn = measured.curves(store.summary(finished), log, log.drifts[120], watch)
    links = dict(re.findall(r'download="([^"]+)" href="gradio_api/file=([^"]+)"', drawn))
    assert {Path(name).suffix for name in links} == {".png", ".json", ".csv", ".html"}
    report = (finished.drift_path / "step-000120" / "report.json").read_text()
    assert Path(links["told-drift-step-120.json"]).read_text() == report
    page = Path(links["told-drift-step-120.html"]).read_text(encoding="utf-8")
    assert page.count('<img src="data:image/webp') == 18 and "In words" in page and str(store.root) not in page
    assert Path(links["told-drift-step-120.csv"]).read_text() == report_to_csv(report_from_json(report))
    assert all(Path(link).is_relative_to(watch.previews.folder) for link in links.values())


def test_a_runs_report_shows_base_and_tuned_in_pictures_that_can_be_read(store, finished):
    """Each picture by itself, the base above the tuned model; a report of an earlier version has one picture of all."""
    watch, log = Watch(store.root), RunLog(finished).update()
    drawn = measured.filmstrip(store.summary(finished), log.drifts[120], watch)
    titles = re.findall(r'rs-variant"><i class="rs-key rs-of-(\w+)"></i>([^<]+)<', drawn)
    assert titles == [("base", "Base model, before training"), ("tuned", "After training, step 120")]
    assert drawn.count("<img") == 2 * 3 * 3 and drawn.count("rs-axis-head") == 1 and "rs-scrub" not in drawn
    for name in re.findall(r'gradio_api/file=([^"]+)', drawn):
        assert Image.open(name).size == (8, 12)
    for step in (0, 120):
        (finished.drift_path / f"step-{step:06d}" / "strips.json").unlink()
    drawn = measured.filmstrip(store.summary(finished), log.drifts[120], watch)
    assert drawn.count("<img") == 1 and "rs-variant" not in drawn


@pytest.mark.parametrize(
    ("differences", "where", "found"),
    [
        (
            [0, 0.02, 0.1, 0.08],
            (0.8, 0.2),
            "from step 4 on. They differ most at step 4, in the upper right of the picture",
        ),
        ([0, 0.05, 0.02], (0.5, 0.5), "from step 2 on. They differ most at step 2, in the middle of the picture"),
        ([0, 0.001], (0.1, 0.1), "hardly any drift to see"),
        ([0, None, 0.3], None, "They differ most at step 4: does"),
    ],
)
def test_a_sentence_says_where_the_drift_is_to_be_seen(differences, where, found):
    """The column at which the rows differ most, from a quarter of that on, and the place in the picture."""
    frames = [{"step": 2 * at, "sigma": 0.5, "difference": each, "where": where} for at, each in enumerate(differences)]
    assert found in rows.what_to_look_at([{"label": "base", "frames": frames}])
    both = [{"label": name, "frames": [{**frame, "difference": 0.1} for frame in frames]} for name in ("base", "mine")]
    assert "10.0 % (base) and 10.0 % (mine)" in rows.what_to_look_at(both)


def test_base_and_tuned_have_colours_of_their_own(tmp_path):
    result(tmp_path)
    drawn = drift_picture.report_charts(report_from_json((tmp_path / "report.json").read_text()))
    colors = set(re.findall(r"--rs-([a-z0-9-]+)", drawn))
    assert {"base", "tuned"} <= colors and not colors & {"clean", "rolled"}
    assert drawn.count("rs-y-name") == 5 and "share of its length" not in "".join(
        re.findall(r'rs-x-name">[^<]*', drawn)
    )


def test_the_strips_of_several_runs_stand_under_one_another_with_their_base_once(store, write):
    watch, sides = Watch(store.root), []
    for name in ("one", "two", "old"):
        run = write.run(store, name)
        sides.append((f"<b>{name}</b>", store.summary(run), RunLog(run).update().drifts[120]))
    for step in (0, 120):
        (sides[2][1].path / "drift" / f"step-{step:06d}" / "strips.json").unlink()
    drawn = strips_side_by_side(sides, watch.previews.address)
    assert re.findall(r'rs-variant">(.*?)</div>', drawn) == [
        '<i class="rs-key rs-of-base"></i>Base model, before training', "<b>one</b> · step 120", "<b>two</b> · step 120",
    ]  # fmt: skip
    assert drawn.count("<img") == 3 * 2 * 3 and "without single pictures: old." in drawn
    assert drawn.count("50 % of full brightness") > 0 and "rs-is-clean" not in drawn
    assert strips_side_by_side(sides[2:], watch.previews.address) == ""


def test_a_report_outside_the_run_is_not_shown(store, finished):
    watch, log = Watch(store.root), RunLog(finished).update()
    event = {"step": 1, "path": "../../secret/report.json"}
    assert (
        "outside the run" in measured.filmstrip(store.summary(finished), event, watch)
        and measured.curves(store.summary(finished), log, event, watch) == ""
    )


def test_only_files_of_the_private_folder_have_an_address(store, tmp_path):
    previews = Watch(store.root).previews
    assert previews.own(previews.folder / "drift" / "a.png").startswith("gradio_api/file=")
    with pytest.raises(ValueError, match="not in the folder"):
        previews.own(tmp_path / "a.png")


def test_from_a_runs_report_it_is_one_click_to_its_weights(store, finished):
    shelf, summary = choices.Shelf(), store.summary(finished)
    assert drift_tab.newest(summary, 120, shelf) == "run/told/120"
    assert drift_tab.newest(summary, 0, shelf) == "run/told/lora"
    (bare,) = [store.summary(store.create({}, "bare"))]
    assert drift_tab.newest(bare, 0, shelf) is None


def test_the_spectra_that_are_compared_share_one_colour_scale(tmp_path):
    result(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    report["curves"][1]["spectrum"]["db"] = [[9.0, 9.0], [9.0, 9.0]]
    drawn = drift_picture.report_charts(report_from_json(json.dumps(report)))
    assert drawn.count("full colour: 9 dB") == 2


def test_a_finished_picture_stands_there_before_anything_is_asked(lab):
    """The one that the first click would measure: its request is the first visit's."""
    told = json.loads((EXAMPLE / "result.json").read_text(encoding="utf-8"))
    first = lab.record({k: v for k, v in given(lab).items() if k is not lab.shown}, lab.viewers.session("nobody"))
    assert told["request"] == {**first, "image": Path(first["image"]).name}
    markup = lab.answer.film.value
    assert markup.count("rs-cell") == 27 and "After <b>18 steps on its own</b>" in markup
    made_with = markup[markup.index("The settings that made it") :]
    assert all(f">{label(FIELDS[name])}</th>" in made_with for name in FIELDS) and ">unipc</td>" in made_with
    for name in re.findall(r'gradio_api/file=([^"]+)', markup):
        assert Image.open(name).size == (64, 64)


@pytest.fixture
def measured_tab(store, write):
    write.run(store, "measured")
    watch = Watch(store.root)
    watch.runs(fresh=True)
    with gr.Blocks():
        return drift_tab.DriftTab(watch)


def test_what_a_person_chose_is_not_sent_back_over_what_they_choose_next(measured_tab):
    tab = measured_tab
    first = tab.view(None, None, None, None, None, {})
    assert first[tab.run].value == "measured" and first[tab.step].value == 120
    seen = {}
    tab.view("measured", 120, None, None, None, seen)
    older = tab.view("measured", 0, None, None, None, seen)
    assert "Drift before training" in older[tab.picture]
    for sent in (older[tab.run], older[tab.step]):
        assert "value" not in sent.constructor_args
