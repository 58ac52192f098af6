"""Testing a run's weights with a prompt: what can be chosen, what is requested, how it is shown, kept, refused. The worker is scripted."""

import json
import time

import gradio as gr
import pytest
from PIL import Image
from rollout_studio.app.runs.try_it.matrix import first_columns
from rollout_studio.app.runs.try_it.panel import TryPanel
from rollout_studio.app.runs.try_it.recent import Recent
from rollout_studio.app.runs.try_it.tries import KEPT, tries
from rollout_studio.app.runs.try_it.weights import weights_choices
from rollout_studio.core.look.preview.request import PreviewRequest
from rollout_studio.core.runs.folder import RunDir
from scripted_painter import scripted_watch

HOSTILE = "a <script>alert(1)</script> ${alert(2)} {{value}} cup"


@pytest.fixture
def panel(store, tmp_path):
    watch = scripted_watch(store.root, tmp_path)
    with gr.Blocks():
        panel = TryPanel(watch)
        panel.wire(gr.Radio())
    yield panel
    watch.close()


def given(
    panel,
    prompt="a cup",
    weights="lora",
    base=True,
    strength=1.0,
    others=(),
    rows="0, 0.5, 1",
    columns=("lora", "step:120"),
    **fields,
):
    held = {name: field.value for name, field in panel.fields.items()} | fields
    return {
        panel.prompt: prompt,
        panel.weights: weights,
        panel.base: base,
        panel.strength: strength,
        panel.matrix.rows: rows,
        panel.matrix.columns: columns,
        **{
            field: value
            for row, pair in zip(panel.others.rows, [*others, *[("", 1.0)] * 3], strict=False)
            for field, value in zip(row, pair, strict=True)
        },
        **{panel.fields[name]: value for name, value in held.items()},
    }


def ended(panel, run, viewer="me", until=lambda state: state.ended):
    for _ in range(600):
        state = panel.state(panel.watch.run(run), viewer)
        if state is not None and until(state):
            return panel.view(run, viewer, {})
        time.sleep(0.05)
    raise AssertionError(state)


def test_the_file_that_is_downloaded_stands_first_then_what_trains_now_then_the_checkpoints(store, write, panel):
    run = write.run(store)
    assert weights_choices(panel.watch.run("told")) == [
        ("The LoRA file, told.safetensors", "lora"),
        ("Checkpoint of step 120", "step:120"),
    ]
    with run.lock():
        run.write_state(state="running")
        panel.watch.runs(fresh=True)
        assert weights_choices(panel.watch.run("told"))[1] == ("As it trains now", "live")
    assert weights_choices(None) == []


def test_what_was_chosen_stays_chosen_while_it_is_there_and_then_the_best_comes(store, write, panel):
    run = write.run(store)
    with run.lock():
        run.write_state(state="running")
        panel.watch.runs(fresh=True)
        panel.choose_weights("told", "live", "me")
        still = panel.view("told", "me", {})[panel.weights]
        assert still._constructor_args[0].keys() == {"choices"}, "the choice is not touched"
    panel.watch.runs(fresh=True)
    best = panel.view("told", "me", {})[panel.weights]
    assert best.value == "lora" and "live" not in [value for _, value in best.choices]


def test_what_is_drawn_is_shown_beside_the_untrained_model_and_stays_with_the_run(store, write, panel):
    run = write.run(store)
    answer = panel.draw_pictures("told", given(panel, prompt=f"{HOSTILE}\ntwo", seed=7), "me")
    assert answer[panel.timer].active
    shown = ended(panel, "told")
    card = shown[panel.earlier]
    assert (
        card.count("<img") == 8
        and card.count("<b>Untrained</b>") == 2
        and card.count('class="rs-cut"') == 2
        and "LoRA of told" in card
    )
    assert (
        "seed 7" in card and "seed 8" in card and card.count("<a download") == 4 and "LoRA-of-told-seed-8-3.png" in card
    )
    assert "<script" not in card and "${" not in card and "{{" not in card
    assert shown[panel.now] == "" and not panel.redraw("told", "me")[panel.timer].active
    [folder] = tries(run.path)
    assert json.loads((folder / "samples.json").read_text())["seed"] == 7 and len(list(folder.glob("*.png"))) == 4
    another = TryPanel.view(panel, "told", "somebody else", {})  # whoever comes later, and after a restart of the page
    assert another[panel.earlier] == card


def test_a_part_is_shown_while_the_rest_is_drawn_and_can_be_cancelled(store, write, panel):
    write.run(store)
    panel.draw_pictures("told", given(panel, prompt="wait"), "me")
    shown = ended(panel, "told", until=lambda state: state.result is not None)
    assert (
        'aria-valuenow="50"' in shown[panel.now] and shown[panel.now].count("<img") == 1 and shown[panel.stop].visible
    )
    panel.cancel("me")
    assert "Cancelled" in ended(panel, "told")[panel.now]
    assert tries(store.get("told").path) == []


def test_nothing_is_sent_twice_to_a_viewer(store, write, panel):
    write.run(store)
    seen = {}
    assert panel.view("told", "me", seen)
    assert panel.view("told", "me", seen) == {}


def test_of_viewers_only_those_who_came_last_are_remembered():
    recent = Recent(most=2)
    for viewer in ("one", "two", "one", "three"):
        recent[viewer] = viewer.upper()
    assert (recent.get("one"), recent.get("two"), recent.get("three")) == ("ONE", None, "THREE")
    recent.discard("one")
    recent.discard("one")
    assert "one" not in recent and "three" in recent


def test_the_last_twelve_are_kept(store, write, panel):
    run = write.run(store)
    for seed in range(KEPT + 2):
        panel.draw_pictures("told", given(panel, seed=seed), "me")
        ended(panel, "told")
    panel.view("told", "me", {})  # looked at again: nothing comes back
    kept = [json.loads((folder / "samples.json").read_text())["seed"] for folder in tries(run.path)]
    assert kept == list(range(KEPT + 1, 1, -1))


def test_the_same_again_is_answered_at_once_and_stands_first(store, write, panel):
    run = write.run(store)
    for seed in (1, 2):
        panel.draw_pictures("told", given(panel, seed=seed), "me")
        ended(panel, "told")
    panel.draw_pictures("told", given(panel, seed=1), "me")
    assert [json.loads((folder / "samples.json").read_text())["seed"] for folder in tries(run.path)] == [1, 2]


def test_a_new_run_of_the_same_name_does_not_get_the_old_ones_pictures(store, write, panel):
    write.run(store)
    panel.draw_pictures("told", given(panel), "me")
    store.delete("told")
    run = write.run(store)
    panel.watch.runs(fresh=True)
    assert panel.view("told", "me", {})[panel.now] == "" and tries(run.path) == []


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [({"prompt": " \n "}, "prompt", "1 to 8 texts"), ({"weights": "step:7"}, "weights", "no such weights"), ({"weights": "step:../../x"}, "weights", "no such weights"),
     ({"weights": "live"}, "weights", "no such weights"), ({"weights": None}, "weights", "no such weights"), ({"seed": -1}, "seed", "at least 0"),
     ({"seed": float("nan")}, "seed", "finite"), ({"guidance": "much"}, "guidance", "a number"), ({"steps": 1.5}, "steps", "whole number"),
     ({"width": "10"}, "width", "at least 32"), ({"prompt": "\n".join("abcdefghi")}, "prompt", "1 to 8 texts")],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_shown_at_its_field_and_nothing_is_requested(store, write, panel, wrong, field, words):
    write.run(store)
    answer = panel.draw_pictures("told", given(panel, **wrong), "me")
    place = panel.fields[field] if field in panel.fields else getattr(panel, field)
    assert words in answer[place]["info"] and answer[place]["elem_classes"] == ["rs-wrong"]
    assert "Please mend this first" in answer[panel.now]
    assert panel.watch.preview_client.pid is None
    mended = panel.fault_marks([])
    assert mended[place]["elem_classes"] == []


def test_without_a_run_it_says_so(panel):
    assert "Choose a run first" in panel.draw_pictures(None, given(panel), "me")[panel.now]
    assert panel.view(None, "me", {})[panel.earlier] == ""


def test_a_full_fine_tune_that_trains_has_no_untrained_model_beside_it_and_says_so(store, panel):
    run = store.create({"model_type": "full"}, "full")
    with run.lock():
        run.write_state(state="running")
        panel.watch.runs(fresh=True)
        assert "take the tick away" in panel.draw_pictures("full", given(panel, weights="live"), "me")[panel.now]


def test_another_run_brings_its_own_prompt_but_not_over_a_written_one(store, write, panel):
    store.create(
        {"validation_prompts": ["a zwx shape"], "validation_num_inference_steps": 12, "validation_guidance": 2.5}, "one"
    )
    store.create({"instance_prompt": "a qrx cup"}, "two")
    panel.watch.runs(fresh=True)
    first = panel.show_run("one", "", "me")
    assert (first[panel.prompt], first[panel.fields["steps"]], first[panel.fields["guidance"]]) == (
        "a zwx shape",
        12,
        "2.5",
    )
    assert panel.show_run("two", "a zwx shape", "me")[panel.prompt] == "a qrx cup"
    assert panel.prompt not in panel.show_run("two", "my own words", "me")


def test_a_damaged_try_is_reported_not_raised(store, write, panel):
    run = write.run(store)
    outside = {"pictures": [{"file": "../../../etc/passwd", "label": "x", "kind": "lora", "prompt": "p", "seed": 1}], "size": [1, 1], "seed": 1,
               "steps": 1, "guidance": 1, "model": "m", "negative_prompt": ""}  # fmt: skip
    for name, content in (("1-a", "{"), ("2-b", "{}"), ("3-c", json.dumps(outside))):
        (run.path / "tried" / name).mkdir(parents=True)
        (run.path / "tried" / name / "samples.json").write_text(content)
    card = panel.view("told", "me", {})[panel.earlier]
    assert card.count("cannot be read") == 2 and "gone" in card and "passwd" not in card


def test_its_request_is_no_drift_request(store, write, panel):
    """The two kinds share one client and one worker."""
    write.run(store)
    panel.draw_pictures("told", given(panel), "me")
    ended(panel, "told")
    assert PreviewRequest.proof == "report.json" and Image.open(
        next(tries(RunDir(store.root / "told").path)[0].glob("*.png"))
    ).size == (16, 16)


# Weights, companions, a matrix, settings from a picture ---------------------------------------------------------------


def lora_file(path, kind="lora"):
    """A file whose header says what it is."""
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"lora": ("lora_A.weight", "lora_B.weight"), "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}[
        kind
    ]
    save_file({f"transformer.layers.0.{name}": torch.zeros(2, 2) for name in names}, path)
    return path


def test_a_weight_is_asked_for_and_named(store, write, panel):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    panel.draw_pictures("told", given(panel, strength=0.6), "me")
    card = ended(panel, "told")[panel.earlier]
    assert "LoRA of told × 0.6" in card and 'aria-label="Untrained beside tuned' in card


def test_other_loras_of_the_same_model_stand_beside_each_with_its_weight(store, write, panel, tmp_path):
    run, other = write.run(store), write.run(store, "other")
    write.run(store, "foreign", config={"pretrained_model_name_or_path": "demo-epsilon"})
    panel.watch.runs(fresh=True)
    for each in (run, other):
        lora_file(each.lora_path / f"{each.name}.safetensors")
    assert panel.others.choices(panel.watch.run("told")) == [("none", ""), ("LoRA of other", "run:other")]
    file = lora_file(tmp_path / "of a friend.safetensors")
    panel.draw_pictures("told", given(panel, others=[("run:other", 0.5), (str(file), -1)]), "me")
    assert "LoRA of told + other × 0.5 + of a friend × -1" in ended(panel, "told")[panel.earlier]


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [({"strength": 9}, "strength", "from -4 to 4"), ({"strength": float("nan")}, "strength", "from -4 to 4"), ({"others": [("run:nobody", 1.0)]}, "beside", "no LoRA file"),
     ({"others": [("run:told", 1.0)]}, "beside", "named twice"), ({"others": [("FILE", None)]}, "beside", "from -4 to 4"), ({"others": [("FILE", 1.0)]}, "beside", "one kind"),
     ({"others": [("nowhere.safetensors", 1.0)]}, "beside", "does not exist")],
    ids=str,
)  # fmt: skip
def test_what_cannot_act_together_is_said_at_its_field_before_anything_starts(
    store, write, panel, tmp_path, wrong, field, words
):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    file = lora_file(tmp_path / "loha.safetensors", "loha")
    wrong = {
        name: [(str(file) if each[0] == "FILE" else each[0], each[1]) for each in value] if name == "others" else value
        for name, value in wrong.items()
    }
    answer = panel.draw_pictures("told", given(panel, **wrong), "me")
    place = {"strength": panel.strength, "beside": panel.others.files[0]}[field]
    assert words in answer[place]["info"] and answer[place]["elem_classes"] == ["rs-wrong"]
    assert panel.watch.preview_client.pid is None


def test_a_matrix_is_a_table_with_named_rows_and_columns(store, write, panel):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    panel.draw_matrix("told", given(panel, rows="0; 0.5 1"), "me")
    card = ended(panel, "told")[panel.earlier]
    for words in ("weight 0<", "weight 0.5<", "weight 1<", "LoRA of told</th>", "step 120</th>", "rs-whole"):
        assert words in card, words
    assert card.count("<img") == 6 and card.count("<a download") == 6 and "rs-try-empty" not in card


def test_a_matrix_that_is_drawn_shows_what_is_there_and_where_the_rest_comes(store, write, panel):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    panel.draw_matrix("told", given(panel, prompt="wait"), "me")
    shown = ended(panel, "told", until=lambda state: state.result is not None)[panel.now]
    assert shown.count("<img") == 1 and shown.count("rs-try-empty") == 5 and shown.count("<th scope") == 5


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [({"rows": "a bit"}, "rows", "must be numbers"), ({"rows": ""}, "rows", "1 to 9"), ({"rows": "1, 1"}, "rows", "named twice"), ({"rows": "0, 7"}, "rows", "from -4 to 4"),
     ({"columns": []}, "columns", "at least one"), ({"columns": ["step:7"]}, "columns", "no such weights")],
    ids=str,
)  # fmt: skip
def test_a_wrong_matrix_is_refused_at_its_field(store, write, panel, wrong, field, words):
    write.run(store)
    answer = panel.draw_matrix("told", given(panel, **wrong), "me")
    assert words in answer[getattr(panel.matrix, field)]["info"] and panel.watch.preview_client.pid is None


def test_at_first_a_matrix_has_checkpoints_that_are_evenly_spread():
    steps = [f"step:{step}" for step in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)]
    assert first_columns(["lora", "live", *steps]) == ["step:1", "step:4", "step:7", "step:10"]
    assert first_columns(["lora"]) == ["lora"] and first_columns([]) == []


def drawn(panel, tmp_path, **asked):
    """A picture that was drawn and saved."""
    panel.draw_pictures("told", given(panel, **asked), "me")
    ended(panel, "told")
    newest = tries(panel.watch.run("told").path)[0]
    kept = tmp_path / "saved.png"
    kept.write_bytes((newest / json.loads((newest / "samples.json").read_text())["pictures"][-1]["file"]).read_bytes())
    return kept


def test_a_saved_picture_gives_its_settings_back(store, write, panel, tmp_path):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    picture = drawn(panel, tmp_path, prompt="a cup", seed=77, steps=11, weights="step:120", strength=1)
    answer = panel.take_picture(str(picture), "told", "me")
    fields = panel.fields
    assert (
        answer[panel.prompt],
        answer[fields["seed"]],
        answer[fields["steps"]],
        answer[fields["guidance"]],
        answer[fields["width"]],
    ) == ("a cup", 77, 11, "4", "64")
    assert (
        answer[panel.weights].value == "step:120"
        and answer[panel.keep_seed] is True
        and "settings of saved.png" in answer[panel.note]
    )
    assert panel.strength not in answer or answer[panel.strength].value == 1


def test_a_picture_of_another_run_brings_the_viewer_there(store, write, panel, tmp_path):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    write.run(store, "other", config={"validation_num_inference_steps": 9})
    picture = drawn(panel, tmp_path, seed=5, steps=7, strength=0.5)
    answer = panel.take_picture(str(picture), "other", "me")
    assert panel.weights not in answer and panel._pictures.get("me").run == "told"
    shown = panel.show_run("told", "a cup", "me")
    assert (shown[panel.fields["steps"]], shown[panel.fields["seed"]], shown[panel.strength].value) == (7, 5, 0.5)
    assert panel._pictures.get("me") is None and panel.fields["seed"] not in panel.show_run("other", "a cup", "me")


def test_of_a_run_that_is_gone_the_rest_comes_back(store, write, panel, tmp_path):
    run = write.run(store)
    lora_file(run.lora_path / "told.safetensors")
    picture = drawn(panel, tmp_path, seed=5)
    write.run(store, "other")
    store.delete("told")
    panel.watch.runs(fresh=True)
    answer = panel.take_picture(str(picture), "other", "me")
    assert answer[panel.fields["seed"]] == 5 and panel.weights not in answer and "the run told" in answer[panel.note]


def test_a_picture_without_settings_changes_nothing_and_says_why(panel, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    answer = panel.take_picture(str(tmp_path / "bare.png"), None, "me")
    assert (
        list(answer) == [panel.note]
        and "carries no settings" in answer[panel.note]
        and 'role="alert"' in answer[panel.note]
    )
