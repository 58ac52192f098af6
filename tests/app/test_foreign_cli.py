"""`rollout-studio import` and `export`, and the links of the page: settings of other tools in and out."""

import json
import re
from urllib.parse import unquote

import pytest
from foreign_configs import AI_TOOLKIT, KOHYA
from rollout_studio.app.cli import main as cli
from rollout_studio.app.train.export_links import for_simpletuner
from rollout_studio.app.train.import_card import import_card
from rollout_studio.core.config import load_preset, read_config, with_changes
from rollout_studio.core.foreign.importing import import_file


def write(path, data):
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_an_import_lists_every_key_and_writes_a_config_that_trains(tmp_path, capsys):
    file = write(tmp_path / "kohya.json", {**KOHYA, "noise_offset": 0.05, "max_train_steps": 0, "max_train_epochs": 2})
    assert cli.main(["import", str(file), "--out", str(tmp_path / "new" / "config.json")]) == cli.DONE
    said = capsys.readouterr()
    assert not said.out and "Carried over" in said.err and "network_dim -> lora_rank = 32" in said.err
    assert (
        "noise_offset = 0.05: offset noise does not exist here" in said.err
        and "Fill in: instance_data_dir, max_train_steps" in said.err
    )
    assert read_config(tmp_path / "new" / "config.json") == import_file(file).config
    assert "xformers" not in said.err
    assert cli.main(["import", str(file), "--all"]) == cli.DONE
    said = capsys.readouterr()
    assert json.loads(said.out)["lora_rank"] == 32 and "xformers" in said.err


def test_an_export_can_be_imported_and_never_replaces_a_file(tmp_path, capsys):
    call = [
        "export",
        "--preset",
        "flux",
        "--set",
        "seed=7",
        "--set",
        "validation_prompts=a;b",
        "--out",
        str(tmp_path / "out"),
    ]
    call[6] = 'validation_prompts=["a", "b"]'
    assert cli.main(call) == cli.DONE
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "multidatabackend.json",
        "user_prompt_library.json",
    ]
    assert "3 there" in capsys.readouterr().err  # the shift that is unset here
    expected = with_changes(load_preset("flux"), {"seed": 7, "validation_prompts": ["a", "b"]})
    assert import_file(tmp_path / "out" / "config.json").config == expected
    assert cli.main(call) == cli.BAD_CONFIG and "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "call"), [("no such file", ["import", "nowhere.json"]), ("neither a config", ["import", "FILE.docx"]), ("broken YAML", ["import", "FILE.yaml"]),
                                             ("SimpleTuner's files are written for", ["export", "--preset", "demo", "--out", "FILE"])])  # fmt: skip
def test_what_cannot_be_read_or_written_is_one_message(tmp_path, capsys, words, call):
    call = [each.replace("FILE", str(tmp_path / "a")) for each in call]
    for name in ("a.docx", "a.yaml"):
        write(tmp_path / name, "a: [")
    assert cli.main(call) == cli.BAD_CONFIG
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def test_the_pages_card_has_the_three_lists_and_no_markup_of_the_file(tmp_path):
    data = json.loads(json.dumps(AI_TOOLKIT))
    data["config"]["process"][0]["train"]["<script>"] = "${alert(1)}<b>"
    card = import_card(import_file(write(tmp_path / "a.json", data)))
    for words in (
        "Changed in meaning (",
        "Left out (",
        "Carried over (",
        "Off there, or without effect on what is learned (",
        "train.steps",
    ):
        assert words in card
    assert "<script" not in card and "${alert" not in card


def test_the_pages_links_hold_simpletuners_files_or_say_why_there_are_none(tmp_path):
    config = with_changes(
        load_preset("sdxl"),
        {"instance_data_dir": "cats", "scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5},
    )
    links = dict(re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', for_simpletuner(config)))
    for name, content in links.items():
        write(tmp_path / name, unquote(content))
    assert (
        set(links) == {"config.json", "multidatabackend.json"}
        and import_file(tmp_path / "config.json").config == config
    )
    assert "Not for SimpleTuner" in for_simpletuner(load_preset("demo"))
