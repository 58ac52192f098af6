"""What everything else stands on: names of models on the hub, sizes for people, files that are whole or absent, one base of errors."""

import pytest
from rollout_studio.core import platform_calls
from rollout_studio.core.adapters.header import ExportError
from rollout_studio.core.data.pictures import BadPicture
from rollout_studio.core.errors import Trouble
from rollout_studio.core.families.source import ModelError
from rollout_studio.core.look.drift.report import ReportError
from rollout_studio.core.names import BadName, check, is_hub_id
from rollout_studio.core.platform_calls import replacing, replacing_folder
from rollout_studio.core.runs.checkpoint import CheckpointError
from rollout_studio.core.runs.errors import RunError
from rollout_studio.core.sizes import size
from rollout_studio.nodes.graph.values import NodeError


@pytest.mark.parametrize("name", ["owner/model", "black-forest-labs/FLUX.1-dev", "a/b_c.d-e"])
def test_owner_and_model_have_the_form_of_a_hub_id(name):
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["model", "", "/owner/model", "owner/model/part", "../model", "./a/b", "~/model", "owner/..", "a..b/c", "C:\\a/b", "owner/mo del", "owner/model\n"]
)  # fmt: skip
def test_a_path_or_a_single_word_has_not(name):
    assert not is_hub_id(name)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "–"),
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (10 * 1024, "10 KiB"),
        (1.2 * 2**30, "1.2 GiB"),
        (3 * 2**40, "3.0 TiB"),
    ],
)
def test_a_size_has_the_unit_that_fits(count, shown):
    assert size(count) == shown


def test_a_replaced_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with replacing(path) as partial:
        assert partial.suffix == ".json" and partial.parent == tmp_path
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as partial:
        partial.write_text("ne")
        raise OSError(28, "full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_replaced_folder_has_nothing_of_the_old_one(tmp_path):
    path = tmp_path / "step-1"
    for name in ("first", "second"):
        with replacing_folder(path) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert [each.name for each in path.iterdir()] == ["second"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_put_in_place_brings_the_old_one_back(tmp_path, monkeypatch):
    path = tmp_path / "step-1"
    path.mkdir()
    (path / "old").write_text("old")
    move = platform_calls.replace

    def refuse(source, target):
        if source.name.endswith(".part"):
            raise OSError(28, "full")
        move(source, target)

    monkeypatch.setattr(platform_calls, "replace", refuse)
    with pytest.raises(OSError, match="full"), replacing_folder(path) as partial:
        partial.mkdir()
    assert (path / "old").read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "kind", [ModelError, NodeError, RunError, CheckpointError, ExportError, ReportError, BadName, BadPicture]
)
def test_every_error_that_a_person_can_mend_carries_its_message_and_its_remedy(kind):
    error = kind("It is full.", "Empty it.")
    assert isinstance(error, Trouble) and (error.message, error.remedy) == ("It is full.", "Empty it.")
    assert str(error) == "It is full. Empty it."


def test_a_bad_name_comes_with_the_rule():
    with pytest.raises(BadName) as caught:
        check("con", "run")
    assert "Windows" in caught.value.message and "64 letters" in caught.value.remedy
