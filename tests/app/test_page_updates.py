"""What the page sends by itself never lands over what a person chose or typed meanwhile."""

from types import SimpleNamespace

import gradio as gr
import pytest
from rollout_studio.app.drift.tab import DriftTab
from rollout_studio.app.graph.tab import GraphTab
from rollout_studio.app.page_updates import PageUpdates
from rollout_studio.app.parts.unchanged import without_unchanged
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.runs.tab import RunsTab
from rollout_studio.core.runs.notes import Notes, write_notes

ME = SimpleNamespace(session_hash="me")


@pytest.fixture
def updates(store, write):
    """Two finished runs and a viewer who has arrived: the newest run, "two", is shown."""
    write.run(store, "one")
    write_notes(store.get("one"), Notes(("first",), "a note"))
    write.run(store, "two")
    watch = Watch(store.root)
    with gr.Blocks():
        made = PageUpdates(watch, gr.Tabs(), RunsTab(watch), DriftTab(watch), GraphTab(watch))
    made.arrive(ME)
    yield made
    watch.close()


def chosen(updates, run="two", **others):
    """What the browser sends of the whole page."""
    held = {updates.runs.picker: run, updates.drift.run: "two", updates.drift.step: 120, updates.drift.lab.shown: 0}
    held |= {updates.drift.lab.weights: "base/demo", updates.drift.lab.against: "nothing"}
    held |= {updates.runs.trash.chosen: others.get("thrown"), updates.runs.studies.which: None}
    return [held[each] for each in updates.inputs]


def sent(updates, out):
    """All updates of a tick's answer, with those that the browser fetches then."""
    return updates.follow(ME) if updates.news in out else out


def value_of(update):
    """The value that an update brings, as a tuple; empty where it brings none."""
    changes = update.constructor_args if isinstance(update, gr.components.Component) else update
    if isinstance(changes, dict):
        return (changes["value"],) if "value" in changes else ()
    return (changes,)


def test_a_list_that_changes_does_not_choose_again_what_is_chosen(updates, store):
    sent(updates, updates.tick(ME, *chosen(updates)))
    write_notes(store.get("one"), Notes(("found",), "a note"))
    updates.watch.runs(fresh=True)
    out = sent(updates, updates.tick(ME, *chosen(updates, "one")))
    assert "#found" in str(out[updates.runs.picker].constructor_args["choices"])
    assert value_of(out[updates.runs.picker]) == ()


def test_a_run_to_which_a_button_leads_and_one_in_place_of_a_run_that_is_gone_are_chosen(updates, store):
    assert value_of(updates.view(ME, *chosen(updates), turn_to="one")[updates.runs.picker]) == ("one",)
    store.delete("one")
    updates.watch.runs(fresh=True)
    out = sent(updates, updates.tick(ME, *chosen(updates, "one")))
    assert value_of(out[updates.runs.picker]) == ("two",)


def test_tags_and_note_come_once_for_a_run_whatever_a_tick_held_meanwhile(updates, store):
    updates.tick(ME, *chosen(updates))
    out = updates.view(ME, *chosen(updates, "one"))
    assert (out[updates.runs.notes.tags], out[updates.runs.notes.note]) == ("first", "a note")
    assert updates.runs.try_it.weights in out  # what the tick held came with it, before anything could be typed ...
    assert updates.follow(ME) == gr.skip()  # ... and not after it
    store.create({}, "three")
    updates.watch.runs(fresh=True)
    later = sent(updates, updates.tick(ME, *chosen(updates, "one")))
    assert updates.runs.picker in later and updates.runs.notes.tags not in later


def test_nothing_is_sent_beside_an_arrival_that_is_under_way(updates):
    assert not updates.has_news(None)
    assert updates.has_news("me") and updates.has_news("known to an earlier server")


def test_what_is_chosen_in_the_trash_stays_chosen_as_long_as_it_is_there(updates, store):
    for name in ("a", "b", "c"):
        store.create({}, name)
    for name in ("a", "b"):
        store.delete(name)
    updates.watch.runs(fresh=True)
    first = sent(updates, updates.tick(ME, *chosen(updates)))
    [newest] = value_of(first[updates.runs.trash.chosen])
    older = next(each.name for each in store.trash() if each.name != newest)
    store.delete("c")
    updates.watch.runs(fresh=True)
    out = sent(updates, updates.tick(ME, *chosen(updates, thrown=older)))
    assert len(out[updates.runs.trash.chosen].constructor_args["choices"]) == 3
    assert value_of(out[updates.runs.trash.chosen]) == ()
    store.restore(older)
    updates.watch.runs(fresh=True)
    out = sent(updates, updates.tick(ME, *chosen(updates, thrown=older)))
    assert value_of(out[updates.runs.trash.chosen])[0] in {each.name for each in store.trash()}


def test_only_what_differs_from_what_the_browser_holds_is_left_of_a_value():
    with gr.Blocks():
        field, number, other = gr.Textbox(), gr.Number(), gr.Radio(choices=["a", "b"])
    given = {field: "typed", number: 1, other: "a"}
    same = {field: "typed", number: gr.update(value=1), other: gr.Radio(choices=["a", "c"], value="a")}
    left = without_unchanged(same, given)
    assert list(left) == [other] and left[other].constructor_args == {"choices": ["a", "c"]}
    assert without_unchanged({number: gr.update(value=1, info="a mark")}, given) == {number: gr.update(info="a mark")}
    for changed in ({field: ""}, {number: True}, {number: gr.update(value=None)}, {gr.State(0): "unknown"}):
        assert without_unchanged(changed, given) == changed
