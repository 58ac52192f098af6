"""The part of the Drift tab that shows what runs measured, without a browser."""

import gradio as gr
import pytest
from rollout_studio.app.drift.tab import DriftTab
from rollout_studio.app.parts.watch import Watch


@pytest.fixture
def tab(store, write):
    write.run(store, "measured")
    watch = Watch(store.root)
    watch.runs(fresh=True)
    with gr.Blocks():
        return DriftTab(watch)


def test_what_a_person_chose_is_not_sent_back_over_what_they_choose_next(tab):
    first = tab.view(None, None, None, None, None, {})
    assert first[tab.run].value == "measured" and first[tab.step].value == 120
    seen = {}
    tab.view("measured", 120, None, None, None, seen)
    older = tab.view("measured", 0, None, None, None, seen)
    assert "Drift before training" in older[tab.picture]
    for sent in (older[tab.run], older[tab.step]):
        assert "value" not in sent.constructor_args
