"""Configs of other tools: every key is in exactly one list, values and units are right, odd ones never crash, and SimpleTuner's way there and back."""

import copy
import json
import random
import re

import pytest
import yaml
from foreign_configs import (
    AI_TOOLKIT,
    AI_TOOLKIT_CASES,
    DIFFUSERS,
    DIFFUSERS_CASES,
    KOHYA,
    KOHYA_CASES,
    ONETRAINER,
    ONETRAINER_CASES,
    SCRIPTS,
    SIMPLETUNER,
    SIMPLETUNER_CASES,
)
from PIL import Image
from rollout_studio.core.config import OPTIONS, config_to_flat, load_preset, preset_names, with_changes
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.foreign import (
    ai_toolkit,
    diffusers_scripts,
    kohya,
    onetrainer,
    sheet,
    simpletuner,
    simpletuner_export,
)
from rollout_studio.core.foreign.contract import Near, leaves, settled
from rollout_studio.core.foreign.families import name_in
from rollout_studio.core.foreign.importing import IMPORTERS, import_file, import_files

TOOLS = {
    "kohya_ss": (kohya, KOHYA, KOHYA_CASES, ""),
    "ai-toolkit": (ai_toolkit, AI_TOOLKIT, AI_TOOLKIT_CASES, "config.process[0]."),
    "OneTrainer": (onetrainer, ONETRAINER, ONETRAINER_CASES, ""),
    "diffusers": (diffusers_scripts, DIFFUSERS, DIFFUSERS_CASES, ""),
    "SimpleTuner": (simpletuner, SIMPLETUNER, SIMPLETUNER_CASES, ""),
}
CASES = [(tool, case) for tool, (_, _, cases, _) in TOOLS.items() for case in cases]


def changed(base, changes, tool):
    """A copy of a base config with some keys changed; None takes one away, dots and [n] lead inside."""
    out = copy.deepcopy(base)
    root = out["config"]["process"][0] if tool == "ai-toolkit" else out
    for key, value in changes.items():
        inner, names = root, re.findall(r"[^.\[\]]+", key) if key not in root else [key]
        for name in names[:-1]:
            inner = inner[int(name)] if isinstance(inner, list) else inner.setdefault(name, {})
        last = names[-1]
        if isinstance(inner, list):
            inner.append(value)
        elif value is None and tool != "SimpleTuner":
            inner.pop(last, None)
        else:
            inner[last] = copy.deepcopy(value)
    return out


def config_of(tool, case):
    _, base, cases, _ = TOOLS[tool]
    return changed(base, cases[case][0], tool)


def write(path, data):
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
    else:
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def each_key_once(read, data):
    """The contract: every key of the data is in exactly one list, and what was carried is in the config."""
    assert sorted(read.keys) == sorted(key for key, _ in leaves(data))
    config, read = settled(read)
    assert sorted(read.keys) == sorted(key for key, _ in leaves(data))
    flat = config_to_flat(config)
    for each in read.carried:
        value = OPTIONS[each.option].read(each.value, text=True)
        assert flat[each.option] == (list(value) if isinstance(value, tuple) else value), each
    for each in read.changed:
        assert each.how and set(each.options) <= set(read.flat), each
        assert all(read.flat[name] == value for name, value in each.options.items()), each
    assert all(each.why for each in read.left)
    assert not set(read.assumed) & {each.option for each in read.carried}
    return config


@pytest.mark.parametrize("tool", TOOLS)
def test_there_are_at_least_twenty_configs_of_each_tool(tool):
    assert len(TOOLS[tool][2]) >= 20


@pytest.mark.parametrize(("tool", "case"), CASES)
def test_a_config_is_recognised_and_each_key_is_carried_changed_or_left(tmp_path, tool, case):
    importer, _, cases, at = TOOLS[tool]
    _, expected, left = cases[case]
    data = config_of(tool, case)
    found = import_file(write(tmp_path / ("config.yaml" if tool == "ai-toolkit" else "config.json"), data))
    assert found.program == importer.NAME == tool
    assert sorted(each.key for each in (*found.carried, *found.changed, *found.left)) == sorted(
        key for key, _ in leaves(data)
    )
    flat = config_to_flat(found.config)
    assert {name: flat[name] for name in expected} == expected
    said = {key for key, _, _ in found.left_out}
    placed = {each.key for each in (*found.carried, *found.changed)}
    for words in left:
        key, _, option = words.partition("|")
        option, _, choice = option.partition("=")
        known = option in OPTIONS and (not choice or choice in OPTIONS[option].choices)
        assert f"{at}{key}" in (placed if known else said), words
    each_key_once(importer.read(data, Near()), data)


ODD = [None, "", "x", -1, 0, 10**30, 1e400, True, [], {}, ["a"], [[1]], {"a": {"b": [1]}}, "\ud800", "\0", "1" * 5000]


@pytest.mark.parametrize("tool", TOOLS)
def test_odd_values_are_left_or_refused_and_never_crash(tool):
    importer, base, _, _ = TOOLS[tool]
    random.seed(tool)
    keys = [key for key, _ in leaves(base)]
    for key in keys:
        for odd in random.sample(ODD, 3):
            data = copy.deepcopy(base)
            inner, names = data, re.findall(r"[^.\[\]]+", key)
            for name in names[:-1]:
                inner = inner[int(name)] if isinstance(inner, list) else inner[name]
            inner[int(names[-1]) if isinstance(inner, list) else names[-1]] = odd
            if not importer.looks_like(data):
                continue
            try:
                each_key_once(importer.read(data, Near()), data)
            except ConfigError as error:
                assert error.faults and tool == "ai-toolkit", (key, odd)  # its kind of job may be gone


def test_a_key_is_placed_once_whatever_an_importer_does():
    made = sheet.Sheet("test", {"a": 1, "b": {"c": 2}, "d": "off", "lora_rank": 3})
    made.carry("a", "seed")
    made.leave("a", "again")
    made.change("a", {"seed": 5}, "again")
    made.carry("b.c", "an_option_to_come")
    made.carry("lora_rank", "lora_rank", value=10**9)
    read = made.done()
    assert sorted(read.keys) == ["a", "b.c", "d", "lora_rank"] and read.flat == {"seed": 1}
    why = {each.key: each.why for each in read.left}
    assert "an_option_to_come" in why["b.c"] and "at most 1024" in why["lora_rank"]


def test_an_option_that_comes_later_is_carried_by_the_same_table(monkeypatch):
    data = {**KOHYA, "noise_offset": 0.05}
    assert "noise_offset" not in OPTIONS and "noise_offset" not in kohya.read(data, Near()).flat
    monkeypatch.setitem(OPTIONS, "noise_offset", OPTIONS["input_perturbation_gamma"])
    assert kohya.read(data, Near()).flat["noise_offset"] == 0.05


# -- kohya's folders, TOML and command lines ---------------------------------------------------------------------------------


def pictures(folder, number):
    folder.mkdir(parents=True)
    for index in range(number):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    return folder


def test_kohyas_folder_names_are_repeats_and_prompt_and_epochs_become_steps(tmp_path):
    mine = pictures(tmp_path / "img" / "10_sks dog", 7)
    theirs = pictures(tmp_path / "reg" / "1_dog", 4)
    data = {
        **KOHYA,
        "train_data_dir": "img",
        "reg_data_dir": "./reg",
        "max_train_steps": 0,
        "epoch": 3,
        "save_every_n_epochs": 1,
        "prior_loss_weight": 0.7,
    }
    found = import_file(write(tmp_path / "config.json", data))
    flat = config_to_flat(found.config)
    assert (flat["instance_data_dir"], flat["repeats"], flat["instance_prompt"]) == (str(mine), 10, "sks dog")
    assert (
        flat["class_data_dir"],
        flat["class_prompt"],
        flat["with_prior_preservation"],
        flat["prior_loss_weight"],
    ) == (str(theirs), "dog", True, 0.7)
    # 70 rows at 2 a step are 35 steps an epoch; 10 per cent of 105 steps are warm-up
    assert (flat["max_train_steps"], flat["checkpoint_step_interval"], flat["lr_warmup_steps"]) == (105, 35, 10)
    pictures(tmp_path / "img" / "5_rex cat", 2)
    found = import_file(tmp_path / "config.json")
    words = "Further things of the run: 5_rex cat" if "concepts" in OPTIONS else "Not taken: 5_rex cat"
    assert any(words in remark for remark in found.remarks)
    assert found.config.data.instance_data_dir == str(mine)


TOML = """
[model_arguments]
pretrained_model_name_or_path = "stabilityai/stable-diffusion-xl-base-1.0"
[network]
network_module = "networks.lora"
network_dim = 8
[training]
learning_rate = 1e-4
optimizer_type = "AdamW8bit"
dataset_config = "dataset.toml"
max_train_epochs = 4
"""
DATASET = """
[general]
flip_aug = true
caption_extension = ".txt"
[[datasets]]
resolution = [1024, 1024]
batch_size = 3
  [[datasets.subsets]]
  image_dir = 'pictures'
  num_repeats = 5
  class_tokens = 'sks dog'
  [[datasets.subsets]]
  image_dir = 'class'
  is_reg = true
  class_tokens = 'dog'
  [[datasets.subsets]]
  image_dir = 'more'
"""


def test_sd_scripts_toml_is_read_with_its_dataset_file_beside_it_or_given_along(tmp_path):
    pictures(tmp_path / "pictures", 6)
    pictures(tmp_path / "class", 2)
    main, dataset = write(tmp_path / "train.toml", TOML), write(tmp_path / "dataset.toml", DATASET)
    (tmp_path / "away").mkdir()
    away = write(tmp_path / "away" / "train.toml", TOML)
    for found in (import_file(main), import_files({"dataset.toml": dataset, "train.toml": main}, beside=True)):
        flat = config_to_flat(found.config)
        assert (
            flat["lora_rank"],
            flat["lora_alpha"],
            flat["optimizer"],
            flat["resolution"],
            flat["train_batch_size"],
        ) == (8, 1, "adamw_8bit", 1024, 3)
        assert (flat["repeats"], flat["instance_prompt"], flat["class_prompt"], flat["random_flip"]) == (
            5,
            "sks dog",
            "dog",
            True,
        )
        assert flat["max_train_steps"] == 40  # 30 rows at 3 a step, 4 times
        assert "datasets[0].subsets[2].image_dir" in {key for key, _, _ in found.left_out}
        assert "training.learning_rate" in {each.key for each in found.carried}
    alone = import_file(away)
    assert {"training.dataset_config", "training.max_train_epochs"} <= {
        key for key, _, _ in alone.left_out
    } and "max_train_steps" in alone.fill_in
    assert import_file(dataset).config.data.repeats == 5  # a dataset file alone is settings too
    broken = write(tmp_path / "broken.toml", "a = ")
    found = import_files({"broken.toml": broken, "dataset.toml": dataset}, beside=True)
    assert any("broken.toml: broken TOML" in remark for remark in found.remarks)  # nothing is passed over silently
    with pytest.raises(ConfigError, match="broken TOML"):
        import_files({"broken.toml": broken, "also.toml": broken})


@pytest.mark.parametrize("line", SCRIPTS)
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("a.sh", "#!/bin/bash\n# a comment\naccelerate launch --num_cpu_threads_per_process 2 ", ""),
        ("a.bat", "@echo off\npython ", ""),
        ("a.txt", "", "\n"),
    ],
)
def test_a_command_line_of_sd_scripts_is_read(tmp_path, line, name, before, after):
    wrapped = line.replace(" --", " ^\r\n --" if name == "a.bat" else " \\\n --")
    found = import_file(write(tmp_path / name, before + wrapped + after))
    flat = config_to_flat(found.config)
    assert found.program == "kohya_ss" and {option: flat[option] for option in SCRIPTS[line]} == SCRIPTS[line]


SETS = """
[[datasets]]
resolution = 512
  [[datasets.subsets]]
  image_dir = 'a'
  class_tokens = 'sks dog'
  [[datasets.subsets]]
  image_dir = 'b'
  class_tokens = 'qrx cat'
  num_repeats = 4
"""


def shares_in(flat):
    return flat["repeats"], *(each["repeats"] for each in json.loads(flat["concepts"]))


def test_repeats_of_several_sets_become_shares_by_their_pictures_and_epochs_count_all(tmp_path):
    a, b = pictures(tmp_path / "a", 8), pictures(tmp_path / "b", 2)
    write(tmp_path / "dataset.toml", SETS)
    main = write(tmp_path / "kohya.toml", TOML.replace("epochs = 4", "epochs = 10"))
    flat = config_to_flat(import_file(main).config)
    assert (shares_in(flat), flat["max_train_steps"], flat["train_batch_size"]) == ((1, 1), 160, 1)
    concepts = [{"path": str(a), "enabled": True}, {"path": str(b), "enabled": True, "balancing": 8.0}]
    data = {**ONETRAINER, "epochs": 10, "batch_size": 1, "concepts": concepts}
    flat = config_to_flat(import_file(write(tmp_path / "onetrainer.json", data)).config)
    assert (shares_in(flat), flat["max_train_steps"]) == ((1, 2), 240)
    concepts[1] |= {"balancing": 4.0, "balancing_strategy": "SAMPLES"}  # 4 of them an epoch
    flat = config_to_flat(import_file(write(tmp_path / "onetrainer.json", data)).config)
    assert (shares_in(flat), flat["max_train_steps"]) == ((2, 1), 120)
    backend = [{"id": name, "type": "local", "instance_data_dir": str(path), "repeats": repeats} for name, path, repeats in (("a", a, 0), ("b", b, 1))]  # fmt: skip
    write(tmp_path / "multidatabackend.json", backend)
    flat = config_to_flat(import_file(write(tmp_path / "simpletuner.json", SIMPLETUNER)).config)
    assert shares_in(flat) == (2, 1)


def test_class_pictures_of_kohyas_folders_are_those_of_further_things_too(tmp_path):
    pictures(tmp_path / "img" / "10_sks dog", 4)
    pictures(tmp_path / "img" / "5_qrx cat", 4)
    pictures(tmp_path / "reg" / "1_dog", 3)
    data = {**KOHYA, "train_data_dir": "img", "reg_data_dir": "reg", "max_train_steps": 0, "epoch": 1, "train_batch_size": 1}  # fmt: skip

    def read():
        found = import_file(write(tmp_path / "config.json", data))
        flat = config_to_flat(found.config)
        assert (shares_in(flat), flat["max_train_steps"], flat["with_prior_preservation"]) == ((2, 1), 60, True)
        return flat["class_prompt"], json.loads(flat["concepts"])[0]["class_prompt"]

    assert read() == ("dog", "dog")  # one pool, as there
    pictures(tmp_path / "reg" / "1_cat", 2)
    assert read() == ("dog", "cat")


def test_class_pictures_of_a_dataset_file_are_those_of_further_things_too(tmp_path):
    for name in ("a", "b", "class"):
        pictures(tmp_path / name, 2)
    theirs = "  [[datasets.subsets]]\n  image_dir = 'class'\n  is_reg = true\n  class_tokens = 'pet'\n"
    write(tmp_path / "dataset.toml", SETS + theirs)
    flat = config_to_flat(import_file(write(tmp_path / "kohya.toml", TOML)).config)
    (thing,) = json.loads(flat["concepts"])
    assert flat["with_prior_preservation"] and flat["class_data_dir"] == str(tmp_path / "class")
    assert (thing["class_prompt"], thing["class_data_dir"]) == (flat["class_prompt"], flat["class_data_dir"])


def test_a_length_that_counts_things_which_our_rules_refuse_is_left_with_them(tmp_path):
    for name in ("a", "b"):
        pictures(tmp_path / name, 2)
    write(tmp_path / "dataset.toml", SETS.replace("'b'", "'a'"))  # one folder twice, which is no further thing here
    found = import_file(write(tmp_path / "kohya.toml", TOML))
    assert found.config.data.concepts is None and "max_train_steps" in found.fill_in
    left = {key for key, _, _ in found.left_out}
    assert {"datasets[0].subsets[1].image_dir", "training.max_train_epochs"} <= left
    assert any("further things are left out" in remark for remark in found.remarks)


SHELL = """#!/usr/bin/env bash
export MODEL_NAME="stabilityai/stable-diffusion-xl-base-1.0"
export INSTANCE_DIR="my dog"
accelerate launch train_dreambooth_lora_sdxl.py \\
  --pretrained_model_name_or_path=$MODEL_NAME \\
  --instance_data_dir="$INSTANCE_DIR" --instance_prompt="a photo of 'sks' dog" \\
  --resolution=1024 --rank=16 --use_8bit_adam --max_train_steps=500 \\
  --lr_warmup_steps=0 --output_dir=out --validation_epochs=25
"""


def test_a_shell_script_of_diffusers_is_read_and_its_variables_put_in(tmp_path):
    found = import_file(write(tmp_path / "train.sh", SHELL))
    flat = config_to_flat(found.config)
    assert found.program == "diffusers"
    expected = {"model_family": "sdxl", "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0", "instance_data_dir": "my dog", "lora_rank": 16,
                "instance_prompt": "a photo of 'sks' dog", "optimizer": "adamw_8bit", "max_train_steps": 500, "resolution": 1024, "model_type": "lora"}  # fmt: skip
    assert {name: flat[name] for name in expected} == expected
    assert found.fill_in == ()


def test_onetrainers_concepts_and_samples_lie_in_files_beside_it(tmp_path):
    pictures(tmp_path / "pictures", 6)
    concepts = [
        {
            "path": str(tmp_path / "pictures"),
            "enabled": True,
            "type": "STANDARD",
            "balancing": 2.0,
            "text": {"prompt_source": "sample"},
            "image": {"enable_random_flip": False},
        }
    ]
    (tmp_path / "training_concepts").mkdir()
    write(tmp_path / "training_concepts" / "concepts.json", concepts)
    samples = write(tmp_path / "s.json", [{"prompt": "a cat", "enabled": True}])
    data = {
        **ONETRAINER,
        "concept_file_name": "training_concepts/concepts.json",
        "sample_definition_file_name": "elsewhere/s.json",
        "save_every": 2,
        "save_every_unit": "EPOCH",
    }
    main = write(tmp_path / "config.json", data)
    found = import_file(main, along={"s.json": samples})
    flat = config_to_flat(found.config)
    assert flat["instance_data_dir"] == str(tmp_path / "pictures") and flat["validation_prompts"] == ["a cat"]
    assert (flat["max_train_steps"], flat["checkpoint_step_interval"]) == (150, 6)  # 12 rows at 4 a step, 50 times


def test_onetrainers_masks_and_conditions_beside_the_pictures_are_not_counted(tmp_path):
    folder = pictures(tmp_path / "pictures", 6)
    for index in range(6):
        Image.new("L", (8, 8), 255).save(folder / f"{index}-masklabel.png")
        Image.new("RGB", (8, 8)).save(folder / f"{index}-condlabel.png")
    data = {
        **ONETRAINER,
        "masked_training": True,
        "batch_size": 1,
        "concepts": [{"path": str(folder), "enabled": True}],
    }
    found = import_file(write(tmp_path / "config.json", data))
    flat = config_to_flat(found.config)
    assert (flat["masked_training"], flat["max_train_steps"]) == ("soft", 300)
    assert any("name-masklabel.png" in remark for remark in found.remarks)


def test_a_name_in_a_file_makes_no_connection_to_another_host(monkeypatch):
    asked = []
    monkeypatch.setattr("pathlib.Path.is_dir", lambda self: asked.append(self))
    monkeypatch.setattr("pathlib.Path.is_file", lambda self: asked.append(self))
    for name in ("\\\\host\\share", "//host/share/data.toml", "a\0b", "", None, 5):
        assert Near().find_folder(name) is None and Near().find_file(name) is None
    assert not asked


# -- files that hold no training, or are broken -------------------------------------------------------------------------------

NOT_OURS = {
    "workflow.json": ({"nodes": [], "links": []}, "ComfyUI"),
    "prompt.json": ({"3": {"class_type": "KSampler", "inputs": {}}}, "ComfyUI"),
    "model_index.json": ({"_class_name": "FluxPipeline", "_diffusers_version": "0.35"}, "name the model's folder"),
    "default_config.yaml": ({"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO"}, "accelerate"),
    "adapter_config.json": ({"peft_type": "LORA", "base_model_name_or_path": "x", "r": 8}, "PEFT"),
    "concepts.json": ([{"path": "a", "text": {}, "balancing": 1}], "OneTrainer"),
    "multidatabackend.json": ([{"id": "a", "type": "local"}], "SimpleTuner"),
    "meta_lat.json": ({"a/1.png": {"caption": "x", "train_resolution": [1, 1]}}, "kohya_ss"),
    "slider.yaml": ({"job": "train", "config": {"name": "x", "process": [{"type": "slider"}]}}, "sd_trainer"),
    "list.json": ([1, 2], "must be one object"),
    "plain.yaml": ("just text", "must be one object"),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_file_without_settings_says_which_tool_wrote_it_and_what_to_bring(tmp_path, name):
    data, words = NOT_OURS[name]
    with pytest.raises(ConfigError, match=words) as caught:
        import_file(write(tmp_path / name, data))
    assert str(caught.value).startswith(("ai-toolkit", name)) or name in str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)
BROKEN = [
    ("a.toml", "a = ", "broken TOML"), ("a.toml", 'path = "C:\\new"\nother = "C:\\x"', "single quotes"), ("a.toml", "a = " + "[" * 5000, "TOML|nested"), ("a.yaml", "a: [1", "broken YAML"),
    ("a.yaml", "job: x\nconfig: !!python/object/apply:os.system ['echo']", "broken YAML"), ("a.yaml", BOMB, "repeats itself"), ("a.yaml", "a: &a\n  b: *a", "nested too deeply"),
    ("a.yaml", "[" * 500_000, "nested"), ("a.yaml", "- " * 200_000, "YAML|nested"), ("a.json", "[" * 100_000, "nested"), ("a.json", "[1,", "line 1"), ("a.json", '{"a": 1, "a": 2}', "twice"), ("a.sh", "echo hello", "no command"),
    ("a.sh", "python train_network.py --x 'y", "quotation marks"), ("a.bat", "", "no command"), ("a.ckpt", "x", "pickle"), ("a.pt", "x", "pickle"), ("a.yaml", b"\x80\x04\x95", "not text"),
    ("a.json", b"PK\x03\x04", "not text"), ("a.yaml", b"\xff\xfe\x00a", "UTF-8"), ("a.toml", b"a = '\xff'", "UTF-8"), ("a.yaml", "a: " + "x" * 600_000, "KiB"), ("a.docx", "x", "neither"),
    ("a.json", '{"model_type": "Z_IMAGE", "training_method": "LORA", "train_dtype": "x", "a": ' + '{"b":' * 60 + "1" + "}" * 60 + "}", "nested"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"), BROKEN, ids=[f"{index}-{name}" for index, (name, _, _) in enumerate(BROKEN)]
)
def test_a_broken_or_hostile_file_is_refused_in_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        import_file(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_lora_of_another_tool_says_who_wrote_it(tmp_path):
    for metadata, words in (
        ({"ss_network_module": "networks.lora"}, "sd-scripts"),
        ({"software": '{"name": "ai-toolkit"}'}, "ai-toolkit"),
        ({"format": "pt"}, "only LoRA files"),
    ):
        header = json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ConfigError, match=words):
            import_file(tmp_path / "a.safetensors")


# -- SimpleTuner, there and back ---------------------------------------------------------------------------------------------

EXPORTED = [name for name in preset_names() if name_in("SimpleTuner", load_preset(name).model.model_family) is not None]


def random_config(seed):
    """A valid config: the preset of some family with a third of all options changed to something that they take."""
    rng = random.Random(seed)
    config = load_preset(rng.choice(EXPORTED))
    for option in OPTIONS.values():
        if rng.random() > 1 / 3 or option.name in ("model_family", "prediction_type"):
            continue
        low, high = (0 if option.minimum is None else option.minimum), (1 if option.maximum is None else option.maximum)
        values = {
            "bool": rng.random() < 0.5, "int": rng.randint(int(low), int(min(high, low + 5000))), "float": round(rng.uniform(low, min(high, low + 50)), 6),
            "str": rng.choice(option.choices) if option.choices else f"text {rng.randint(0, 99)} ä", "list[str]": [f"prompt {i}" for i in range(rng.randint(0, 3))],
            "list[int]": [1, rng.randint(2, 9)],
        }  # fmt: skip
        try:
            config = with_changes(config, {option.name: values[option.type]})
        except ConfigError:
            continue  # another option forbids it
    return config


def there_and_back(config, tmp_path, keep=True):
    exported = simpletuner_export.export(config)
    data = exported.config if keep else {key: value for key, value in exported.config.items() if key != "_metadata"}
    write(tmp_path / "config.json", data)
    for name, each in exported.files.items():
        write(tmp_path / name, each)
    return import_file(tmp_path / "config.json")


@pytest.mark.parametrize("name", EXPORTED)
def test_a_preset_exported_to_simpletuner_comes_back_identical(tmp_path, name):
    found = there_and_back(load_preset(name), tmp_path)
    assert found.program == "SimpleTuner" and found.config == load_preset(name)


def test_any_config_exported_to_simpletuner_comes_back_identical(tmp_path):
    for seed in range(8):
        config = random_config(seed)
        told = {} if config.training.report_to in ("none", "tensorboard") else {"report_to": "none"}
        mine = with_changes(config, {"lora_folder": None, "data_cache_dir": None, **told})  # which no file decides
        assert there_and_back(config, tmp_path).config == mine, seed


EXPRESSIBLE = {
    *simpletuner_export.SAME,
    *simpletuner_export.BACKEND_OPTIONS,
    "loss_type",
    "validation_prompts",
    "base_model_quantization",
}


def test_what_its_format_holds_comes_back_without_our_remark_too(tmp_path):
    """The remark is not what carries: the settings that its files hold are read from its own keys."""
    for seed in range(6):
        config = random_config(seed)
        flow, full = config.model.is_flow(), config.training.model_type == "full"
        flat = config_to_flat(config)
        back = config_to_flat(there_and_back(config, tmp_path, keep=False).config)
        skipped = {"validation_guidance", "flow_schedule_shift"} | (
            {"lora_rank", "lora_alpha", "lora_dropout"} if full else set()
        )  # unset here is not unset there
        if not flow:
            skipped |= {name for name in OPTIONS if "reflexflow" in name}
        if flat["lr_scheduler"] == "constant" and flat["lr_warmup_steps"]:
            skipped.add("lr_scheduler")  # its "constant" with warm-up is constant_with_warmup
        if (
            flat["base_model_quantization"] not in ("none", *simpletuner_export.QUANTISED)
            or not flat["gradient_checkpointing"]
        ):
            skipped.add("base_model_quantization")
        if flat["instance_prompt"] is None or flat["instance_data_dir"] is None:
            skipped |= set(simpletuner_export.BACKEND_OPTIONS)
        if flat["report_to"] not in ("none", "tensorboard"):
            skipped.add("report_to")  # no file decides whom this computer tells
        for name in sorted(EXPRESSIBLE - skipped):
            assert back[name] == flat[name], (seed, name)


def test_what_a_person_edited_after_the_export_holds(tmp_path):
    config = with_changes(
        load_preset("flux"),
        {"instance_data_dir": "cats", "drift_step_interval": 77, "scheduled_sampling_max_step_offset": 2},
    )
    there_and_back(config, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert (
        data["scheduled_sampling_max_step_offset"] == 67 and data["scheduled_sampling_reflexflow"] is True
    )  # 2 of 30 steps, of 1000
    data |= {"learning_rate": 5e-5, "lora_rank": 64}
    del data["seed"]
    backend = json.loads((tmp_path / "multidatabackend.json").read_text())
    backend[0]["repeats"] = 4
    write(tmp_path / "config.json", data)
    write(tmp_path / "multidatabackend.json", backend)
    assert import_file(tmp_path / "config.json").config == with_changes(
        config, {"learning_rate": 5e-5, "lora_rank": 64, "repeats": 5}
    )


def test_an_export_writes_only_keys_of_the_format_and_refuses_what_it_has_no_name_for(tmp_path):
    facts = {*simpletuner.OWN, *simpletuner_export.SAME, "model_family", "optimizer", "loss_type", "base_model_precision", "validation_step_interval", "scheduled_sampling_max_step_offset",
             "scheduled_sampling_sampler", "scheduled_sampling_order", "scheduled_sampling_reflexflow", "_metadata"}  # fmt: skip
    for seed in range(6):
        data = simpletuner_export.export(random_config(seed)).config
        assert set(data) <= facts and None not in data.values()
        assert data["num_train_epochs"] == 0 and isinstance(data["scheduled_sampling_reflexflow"], bool)
    for name in ("demo", "wan"):
        with pytest.raises(ConfigError, match="SimpleTuner's files are written for"):
            simpletuner_export.export(load_preset(name))


def test_simpletuners_wrappers_dashes_and_data_backends_are_read(tmp_path):
    backend = [{"id": "x", "disabled": True, "instance_data_dir": "/no"}, {"id": "a", "type": "local", "instance_data_dir": "/pictures", "caption_strategy": "instanceprompt", "instance_prompt": "a cat",
               "repeats": 4, "crop": True, "crop_style": "center", "crop_aspect": "square", "resolution": 1.0, "resolution_type": "area"}, {"id": "r", "type": "local", "instance_data_dir": "/reg",
               "is_regularisation_data": True}, {"id": "t", "dataset_type": "text_embeds", "default": True}]  # fmt: skip
    along = {
        "multidatabackend.json": write(tmp_path / "b.json", backend),
        "library.json": write(tmp_path / "l.json", {"one": "a dog", "two": "a cow"}),
    }
    wrapped = {
        "_metadata": {"x": 1},
        "config": {f"--{key}": value for key, value in SIMPLETUNER.items() if key != "resolution"}
        | {"--user_prompt_library": "library.json"},
    }
    found = import_file(write(tmp_path / "config.json", wrapped), along=along)
    flat = config_to_flat(found.config)
    expected = {"instance_data_dir": "/pictures", "caption_strategy": "instanceprompt", "instance_prompt": "a cat", "repeats": 5, "center_crop": True, "aspect_buckets": False, "resolution": 1000,
                "validation_prompts": ["a cat", "a dog", "a cow"], "lora_rank": 16}  # fmt: skip
    assert {name: flat[name] for name in expected} == expected
    assert {"data_backend[2].instance_data_dir", "data_backend[2].is_regularisation_data"} <= {
        key for key, _, _ in found.left_out
    }
    assert len({each.key for each in (*found.carried, *found.changed, *found.left)}) == len(found.carried) + len(
        found.changed
    ) + len(found.left)


def test_importers_do_not_take_each_others_files():
    for tool, (importer, base, _, _) in TOOLS.items():
        first = next(each for each in IMPORTERS if each.looks_like(base))
        assert first is importer, tool
    assert not any(each.looks_like(json.loads(load_preset("flux").to_json())) for each in IMPORTERS)
