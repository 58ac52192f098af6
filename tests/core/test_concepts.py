"""Several things in one run: declared with every fault named, drawn equally often, each with its own words; one thing is what it was."""

import json
from collections import Counter
from fractions import Fraction

import pytest
from rollout_studio.core.adapters.header import lora_metadata, published_config
from rollout_studio.core.adapters.model_card import model_card
from rollout_studio.core.adapters.placing import sidecar_text
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import config_from_flat, config_to_flat, idle_remarks
from rollout_studio.core.config.concepts import LARGEST_FILE, read_concepts
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.data import prepare, scan, split_holdout
from rollout_studio.core.data.several import BalancedSchedule, PairedCarousel, times_of
from rollout_studio.core.families import load_model
from rollout_studio.core.train.loop import train
from rollout_studio.nodes.execute.fingerprints import of_flat
from rollout_studio.nodes.graph.declaration import NODES
from rollout_studio.nodes.graph.validate import value_faults
from tiny_run import ROLLOUT, draw_pictures, events, losses

CAT = {"instance_data_dir": "cat", "instance_prompt": "a photo of qrx cat", "trigger_word": "qrx"}


def faults_of(concepts, **more) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_flat({"instance_data_dir": "dog", "concepts": concepts, **more})
    assert all(fault.options for fault in caught.value.faults)
    return str(caught.value)


# Declaring them ----------------------------------------------------------------------------------------------------------


def test_a_list_json_text_and_a_file_are_the_same_option_and_come_back(tmp_path):
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps([CAT]), encoding="utf-8-sig")
    wanted = read_concepts([CAT])
    for given in (
        json.dumps([CAT]),
        str(file),
        [json.dumps(CAT)],
        json.dumps(CAT),
        [{**CAT, "_note": "mine", "class_prompt": None}],
    ):
        config = config_from_flat({"concepts": given})
        assert config.data.concepts == wanted
        assert config_from_flat(config_to_flat(config)) == config
    assert (
        config_from_flat({"concepts": []}).data.concepts is None is config_from_flat({"concepts": "none"}).data.concepts
    )


@pytest.mark.parametrize(
    ("concepts", "words"),
    [
        ([CAT, {"trigger_word": "x"}], "concepts, entry 2: needs instance_data_dir"),
        ([{"instance_data_dir": "a", "triger_word": "x"}], "concepts, entry 1: unknown field 'triger_word'. Did you mean 'trigger_word'?"),
        ([{"instance_data_dir": "a", "repeats": 0}], "concepts, entry 1, repeats = 0: must be at least 1"),
        ([{"instance_data_dir": "a", "caption_strategy": "files"}], 'concepts, entry 1, caption_strategy = "files": must be one of'),
        ([CAT, 3], "concepts, entry 2 = 3: must be a table"),
        (3, "concepts = 3: must be a list of tables"),
        ("nowhere.json", 'concepts = "nowhere.json": is neither a JSON list nor a file'),
        ("[{,}]", "broken JSON (line 1, column 3"),
        ("//host/share/c.json", "names another machine"),
        ([{"instance_data_dir": "dog"}], 'concepts, entry 1 (dog), instance_data_dir = "dog": is also that of instance_data_dir'),
        ([CAT, CAT], 'concepts, entry 2 (qrx), instance_data_dir = "cat": is also that of concepts, entry 1 (qrx)'),
        ([{"instance_data_dir": "a", "caption_strategy": "instanceprompt"}], 'entry 1 (a): caption_strategy "instanceprompt" needs instance_prompt'),
        ([{"instance_data_dir": f"{n}"} for n in range(101)], "has 101 entries; at most 100"),
    ],
)  # fmt: skip
def test_each_fault_names_the_entry_and_the_field(concepts, words):
    assert words in faults_of(concepts)


def test_all_faults_of_all_entries_come_together_and_each_thing_needs_its_class_prompt():
    both = faults_of([{"repeats": "many"}, {"instance_data_dir": "b", "num_class_images": 0}])
    assert all(words in both for words in ("entry 1, repeats", "entry 1: needs", "entry 2, num_class_images"))
    prior = {"with_prior_preservation": True, "class_prompt": "a dog"}
    assert "concepts, entry 1 (qrx): with_prior_preservation = true needs class_prompt" in faults_of([CAT], **prior)
    config_from_flat({"instance_data_dir": "dog", "concepts": [{**CAT, "class_prompt": "a cat"}], **prior})


def test_a_file_that_is_too_large_or_no_text_is_refused_unread(tmp_path):
    file = tmp_path / "c.json"
    file.write_bytes(b"\xff\xfe\x80")
    assert "is not UTF-8" in faults_of(str(file))
    file.write_bytes(b" " * (LARGEST_FILE + 1))
    assert "has more than 1 MiB" in faults_of(str(file))


def test_a_thing_has_its_own_words_and_folders_and_the_rest_from_the_run():
    flat = {"instance_data_dir": "dog", "trigger_word": "zwx", "instance_prompt": "a zwx dog", "repeats": 3, "resolution": 96,
            "concepts": [CAT, {"instance_data_dir": "cup", "repeats": 5}]}  # fmt: skip
    data = config_from_flat(flat).data
    dog, cat, cup = data.things
    assert (dog.trigger_word, cat.trigger_word, cup.trigger_word) == (
        "zwx",
        "qrx",
        None,
    ) and cup.instance_prompt is None
    assert (dog.repeats, cat.repeats, cup.repeats) == (3, 3, 5) and cup.resolution == 96
    assert data.trigger_words == ("zwx", "qrx")


def test_without_a_folder_of_their_own_the_options_words_do_nothing():
    said = " ".join(idle_remarks(config_from_flat({"concepts": [CAT], "trigger_word": "zwx"})))
    assert "trigger_word" in said and "concepts" in said
    assert len(config_from_flat({"concepts": [CAT]}).data.things) == 1


def test_one_trigger_word_for_two_things_is_remarked():
    said = idle_remarks(config_from_flat({"instance_data_dir": "dog", "trigger_word": "qrx", "concepts": [CAT]}))
    assert any('trigger_word "qrx" is that of 2 things' in each for each in said)


# Drawing them ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "repeats"),
    [
        ((5, 8), (1, 1)),
        ((5, 8), (3, 1)),
        ((3, 4, 17), (1, 2, 1)),
        ((1000, 999), (1, 1)),
        ((4, 4), (7, 7)),
        ((2, 61), (1, 5)),
    ],
)
def test_things_come_as_often_as_their_repeats_say_whatever_their_number_of_pictures(counts, repeats):
    counts, repeats = dict(enumerate(counts)), dict(enumerate(repeats))
    times = times_of(counts, repeats)
    shares = {thing: Fraction(times[thing] * counts[thing], repeats[thing]) for thing in counts}
    assert max(shares.values()) / min(shares.values()) <= Fraction(102, 100)
    assert sum(times[thing] * counts[thing] for thing in counts) <= 64 * 8 * sum(counts.values())


def test_every_batch_mixes_the_things_as_the_epoch_does_and_follows_from_its_number():
    square, tall = (32, 32), (16, 48)
    shapes = [square] * 5 + [square] * 6 + [tall] * 2
    things = [0] * 5 + [1] * 8
    made = [BalancedSchedule(shapes, things, {0: 1, 1: 1}, batch_size=2, seed=3) for _ in range(2)]
    rows = [made[0].rows(number) for number in range(2 * made[0].batches_per_epoch)]
    assert [made[1].rows(number) for number in reversed(range(len(rows)))] == rows[::-1]
    epoch = rows[: made[0].batches_per_epoch]
    seen = Counter(row for batch in epoch for row in batch)
    assert {seen[row] for row in range(5)} == {8} and {seen[row] for row in range(5, 13)} == {5}
    assert all(len({shapes[row] for row in batch}) == 1 for batch in rows)
    of_square = [sorted(things[row] for row in batch) for batch in epoch if shapes[batch[0]] == square]
    assert sum(batch == [0, 1] for batch in of_square) > 0.6 * len(of_square)
    assert rows[: len(epoch)] != rows[len(epoch) :]


def test_class_rows_are_of_the_things_own_set_and_all_of_them_come():
    carousel = PairedCarousel([0, 0, 0, 2, 2], [0, 0, 2], batch_size=4, seed=1)
    assert carousel.count == 5
    seen = Counter()
    for number in range(60):
        chosen = [number % 3, 2, 0, 2]
        rows = carousel.beside(number, chosen)
        assert [row >= 3 for row in rows] == [row == 2 for row in chosen]
        assert rows == PairedCarousel([0, 0, 0, 2, 2], [0, 0, 2], batch_size=4, seed=1).beside(number, chosen)
        seen.update(rows)
    assert set(seen) == set(range(5)) and min(seen.values()) > 15


# Scanned and prepared ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Flat options of two things with five and four pictures of the same names, the second with captions of its own."""
    root = tmp_path_factory.mktemp("two")
    dog, cat = draw_pictures(root / "dog", 5), draw_pictures(root / "cat", 4)
    for file in cat.glob("*.png"):  # other pictures under the same names
        from PIL import Image

        Image.open(file).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file)
        file.with_suffix(".txt").unlink()
    return {"instance_data_dir": str(dog), "trigger_word": "zwx", "resolution": 32, "drift_holdout_images": 1,
            "concepts": [{"instance_data_dir": str(cat), "trigger_word": "qrx", "instance_prompt": "a cat"}]}  # fmt: skip


def test_pictures_have_the_captions_of_their_thing_and_names_of_their_own(two):
    found = scan(config_from_flat(two).data)
    assert not found.errors
    captions = {item.name: item.caption for item in found.items}
    assert (
        len(captions) == 9
        and captions["0.png"] == "zwx, a circle, number 0"
        and captions["2 qrx/0.png"] == "qrx, a cat"
    )
    assert [item.concept for item in found.items] == [0] * 5 + [1] * 4


def test_what_is_wrong_with_a_things_option_names_the_entry_and_the_field(two, tmp_path):
    lost = [{"instance_data_dir": str(tmp_path / "lost"), "trigger_word": "qrx"}]
    (problem,) = scan(config_from_flat({**two, "concepts": lost}).data).errors
    assert problem.where == "concepts" and problem.message.startswith(
        "concepts, entry 1 (qrx), instance_data_dir: the folder"
    )


def test_a_picture_of_two_things_and_a_class_folder_of_anothers_pictures_are_named(two, tmp_path):
    same = draw_pictures(tmp_path / "same", 5)
    config = config_from_flat({
        **two, "with_prior_preservation": True, "class_prompt": "a dog", "class_data_dir": str(same),
        "concepts": [{"instance_data_dir": str(same), "instance_prompt": "a cat", "class_prompt": "a cat"}],
    })  # fmt: skip
    codes = Counter(problem.code for problem in scan(config.data).problems)
    assert codes["concept-overlap"] == 5 and codes["class-folder-same"] == 1


def test_each_thing_gives_as_many_pictures_to_the_probe(two):
    config = config_from_flat({**two, "drift_holdout_images": 2})
    train_items, held = split_holdout(scan(config.data), config.drift)
    assert Counter(item.concept for item in held) == {0: 2, 1: 2} and len(train_items) == 5


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(
        config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("lumina2")), "device": "cpu"}).model
    )


def test_a_prior_batch_has_class_rows_of_each_rows_thing_drawn_where_they_are_missing(model, two, pictures, tmp_path):
    cat = {**two["concepts"][0], "class_prompt": "some cat", "num_class_images": 2}
    config = config_from_flat({
        **two, "with_prior_preservation": True, "class_prompt": "some dog", "class_data_dir": str(pictures), "num_class_images": 4,
        "concepts": [cat], "class_sample_steps": 2, "train_batch_size": 2, "drift_num_images": 2,
    })  # fmt: skip
    found = scan(config.data)
    data = prepare(model, config, found, tmp_path / "cache")
    assert data.counts.generated == 2 and len({item.concept for item in data.items}) == 2
    assert {name.split("/")[0] for name in data.probe.ids} == {
        "2 qrx",
        *(name for name in data.probe.ids if "/" not in name),
    }
    assert (
        len(data.probe.ids) == 2
        and any("/" in name for name in data.probe.ids)
        and any("/" not in name for name in data.probe.ids)
    )
    seen = Counter()
    for step in range(8):
        batch = data.batch(step)
        for name, beside in zip(batch.ids[:2], batch.ids[2:], strict=True):
            assert beside.startswith("class/2 qrx/") == name.startswith("2 qrx/")
        assert all(
            (caption == "some cat") == name.startswith("class/2 qrx/")
            for name, caption in zip(batch.ids[2:], batch.captions[2:], strict=True)
        )
        seen.update(name.startswith("2 qrx/") for name in batch.ids[:2])
    assert seen[True] == seen[False] == 8


def test_two_things_of_one_kind_share_their_class_pictures(two):
    shared = {"class_prompt": "a pet", "num_class_images": 7}
    config = config_from_flat({**two, "with_prior_preservation": True, "class_prompt": "a pet", "num_class_images": 3, "concepts": [{**two["concepts"][0], **shared}]})  # fmt: skip
    notes = [each for each in preflight(config) if each.code == "class-generated"]
    assert len(notes) == 1 and "up to 7 pictures" in notes[0].message


# One thing is what it was; two resume ------------------------------------------------------------------------------------


def test_one_thing_trains_bit_for_bit_the_same_however_it_is_declared(tiny_run, without_drift, pictures):
    """Declared by the options or as the only one of `concepts`."""
    changes = {**ROLLOUT, "random_flip": True, "aspect_buckets": True, "trigger_word": "zwx", "repeats": 2}
    plain = tiny_run("lumina2", "plain", **changes)
    one = {"instance_data_dir": str(pictures), "trigger_word": "zwx"}
    listed = tiny_run(
        "lumina2", "listed", **{**changes, "instance_data_dir": None, "trigger_word": None, "concepts": [one]}
    )
    assert train(plain) == train(listed) == 0
    assert len(losses(plain)) == 3 and losses(plain) == losses(listed)


def test_a_run_of_two_things_resumes_bit_for_bit_and_names_both_words(tiny_run, without_drift, two):
    import shutil

    changes = {**two, "drift_holdout_images": 0, "checkpoint_step_interval": 2, "aspect_buckets": True}
    whole = tiny_run("lumina2", "whole", **changes)
    assert train(whole) == 0
    resumed = tiny_run("lumina2", "resumed", **changes)
    shutil.copytree(whole.checkpoints_path / "step-000002", resumed.checkpoints_path / "step-000002")
    assert train(resumed, resume=True) == 0
    assert losses(resumed) == losses(whole)[2:]
    from safetensors import safe_open

    with safe_open(whole.path / events(whole, "exported")[0]["path"], "pt") as file:
        assert (
            file.metadata()["modelspec.trigger_phrase"] == file.metadata()["rollout_studio_trigger_word"] == "zwx, qrx"
        )


# What is published -------------------------------------------------------------------------------------------------------

HEADER = {"ss_base_model_version": "sdxl_base_v1-0", "architecture": "x"}


def published(**changes):
    return config_from_flat({"instance_data_dir": "/home/ada/dogs", "trigger_word": "zwx",
                             "concepts": [{**CAT, "instance_data_dir": "/home/ada/secret/cats"}], **changes})  # fmt: skip


def test_a_lora_names_all_trigger_words_and_no_full_path():
    config = published()
    assert json.loads(sidecar_text(config, "sdxl_base_v1-0"))["activation text"] == "zwx, qrx"
    flat = published_config(config)
    assert (
        "/home" not in json.dumps(flat)
        and "secret" not in json.dumps(flat)
        and config_from_flat(flat).data.trigger_words == ("zwx", "qrx")
    )
    from pathlib import Path

    card = model_card([Path("a.safetensors")], {}, flat, None)
    assert "## Trigger words" in card and "- `zwx`" in card and "- `qrx`" in card and "secret" not in card


@pytest.mark.parametrize("option", ["publish_folders", "publish_texts"])
def test_further_things_stay_private_where_folders_or_texts_do(option):
    config = published(**{option: False})
    assert "concepts" not in published_config(config) and "cats" not in json.dumps(published_config(config))
    words = lora_metadata(config, HEADER, title="x", step=1).get("modelspec.trigger_phrase")
    assert words == ("zwx, qrx" if option == "publish_folders" else None)


# The graph ---------------------------------------------------------------------------------------------------------------


def test_the_dataset_node_takes_further_things_and_refuses_another_machines_folders(two):
    widget = NODES["RolloutStudioDreamBoothDataset"].input("concepts")
    assert widget.read(json.dumps([CAT])) == read_concepts([CAT]) and not value_faults(widget, json.dumps([CAT]))
    (fault,) = value_faults(widget, json.dumps([{**CAT, "class_data_dir": "//host/share"}]))
    assert "concepts, entry 1 (qrx), class_data_dir: names another machine" in str(fault)


def test_a_changed_picture_of_a_further_thing_is_noticed(two, tmp_path):
    folder = draw_pictures(tmp_path / "thing", 2)
    flat = {"concepts": read_concepts([{"instance_data_dir": str(folder)}])}
    before = of_flat(flat)
    (folder / "0.txt").write_text("another caption", encoding="utf-8")
    assert of_flat(flat) != before


@pytest.mark.parametrize(
    "changes",
    [
        {"class_prompt": "a dog", "output_preservation_weight": 1.0, "publish_texts": False},
        {"class_prompt": "a dog", "with_prior_preservation": True, "publish_texts": False},
        {
            "concepts": [{"instance_data_dir": "/a/dog/images"}, {"instance_data_dir": "/b/cat/images"}],
            "publish_folders": True,
        },
    ],
)
def test_what_a_file_tells_of_its_settings_can_be_taken_over_though_something_stays_private(changes):
    config = config_from_flat({"instance_data_dir": "/home/me/cup", **changes})
    again = config_from_flat(published_config(config))
    assert (
        again.data.output_preservation_weight == 0
        and not again.data.with_prior_preservation
        and again.data.concepts is None
    )
