"""S4, S9, S16, S22: sizes that are far too large, archives, settings that somebody else wrote, and processes that are not ours."""

import ast
import json
import os
import struct
import time
import tracemalloc

import pytest
from rollout_studio.core import platform_calls
from rollout_studio.core.adapters.header import ExportError, read_header
from rollout_studio.core.adapters.lora_file import LARGEST_METADATA, MOST_TENSORS, LoraError, read_lora_header
from rollout_studio.core.config import OPTIONS
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.families.checkpoint_file import ModelError, recognise
from rollout_studio.core.foreign.importing import WRITTEN_TO, import_file
from rollout_studio.core.runs.store import RunStore

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def written(path, header, size=None):
    """A safetensors file with this header; `size`: what its first bytes say of the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + bytes(4))
    return path


HUGE = {
    "a header of 90 MB": lambda path: sparse(written(path, b"{}", 90 * 2**20), 91 * 2**20),
    "notes of 10 MB": lambda path: written(path, {"__metadata__": {"a": "x" * (10 * 2**20)}, "lora_A": ENTRY}),
    "20,001 tensors": lambda path: written(path, {f"t{i}": ENTRY for i in range(MOST_TENSORS + 1)}),
    "a million tensors": lambda path: written(path, b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' % i for i in range(10**6)) + b"}"),
    "a shape of 1e12": lambda path: written(path, {"x.lora_A.weight": {**ENTRY, "shape": [10**12]}}),
    "overlapping": lambda path: written(path, {"x.lora_A.weight": ENTRY, "x.lora_B.weight": ENTRY}),
}  # fmt: skip


def sparse(path, size):
    with path.open("r+b") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("kind", HUGE)
def test_a_lora_of_absurd_size_is_refused_by_its_header_in_no_time_and_little_memory(kind, tmp_path):
    assert (MOST_TENSORS, LARGEST_METADATA) == (20_000, 2**20)
    file = HUGE[kind](tmp_path / "x.safetensors")
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(LoraError) as refused:
        read_lora_header(file)
    assert time.process_time() - began < 1.0 and tracemalloc.get_traced_memory()[1] < 60 * 2**20
    tracemalloc.stop()
    assert refused.value.remedy and len(str(refused.value)) < 600


def test_markup_in_a_files_keys_is_shown_as_text(tmp_path):
    from rollout_studio.app.parts.cards import problems
    from rollout_studio.core.config.options import Fault

    evil = "<script>alert(1)</script>"
    file = written(tmp_path / "x.safetensors", {evil: ENTRY, "__metadata__": {evil: evil}})
    said = []
    for read in (read_lora_header, recognise):
        with pytest.raises(ModelError) as refused:
            read(file)
        said.append(str(refused.value))
    with pytest.raises(ConfigError) as refused:
        import_file(file)
    said.append(str(refused.value))
    assert any("script" in each for each in said)
    assert "<script" not in "".join(problems([Fault(each)], evil) for each in said)


def test_no_archive_is_ever_opened_for_reading(root):
    """S9: where nothing unpacks, there is no slip, no bomb and no link. The two that are written are the ones that people ask for."""
    found = []
    for folder in ("app", "core", "nodes"):
        for path in (root / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if not any(
                word in source for word in ("zipfile", "tarfile", "lzma", "gzip", "bz2", "zlib", "unpack_archive")
            ):
                continue
            for node in ast.walk(ast.parse(source)):
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []  # fmt: skip
                found += [(path.relative_to(root).as_posix(), name) for name in names if name in ("zipfile", "tarfile", "lzma", "gzip", "bz2", "zlib")]  # fmt: skip
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ZipFile"):
                    assert [each.value for each in node.args[1:2]] == ["w"], path
    assert sorted(found) == [("app/parts/problem.py", "zipfile"), ("core/runs/archive.py", "zipfile")]


# Settings that somebody else wrote -------------------------------------------------------------------------------------


def test_a_shared_file_cannot_say_where_to_write_or_whom_to_tell(tmp_path):
    """There is no option that sends anything or sets the environment; the ones that name a place to write to are not taken from a file."""
    words = (
        "push",
        "webhook",
        "wandb",
        "token",
        "environ",
        "command",
        "hook",
        "upload",
        "url",
        "output_dir",
        "logging_dir",
    )
    assert not [name for name in OPTIONS if any(word in name for word in words) and "new_token" not in name]
    file = tmp_path / "shared.json"
    theirs = {"max_train_steps": 7, "lora_folder": str(tmp_path), "data_cache_dir": "/somewhere", "push_to_hub": True, "hub_token": "x",
              "webhook": "https://evil.example", "environment": {"LD_PRELOAD": "x"}, "output_dir": "/etc", "report_to": "wandb"}  # fmt: skip
    for shared in (
        theirs,
        {key: value for key, value in theirs.items() if key in OPTIONS},
    ):  # posing as another tool's, and as ours
        file.write_text(json.dumps(shared))
        check_shared(shared, import_file(file))
    written_to = {name for name in OPTIONS if name.endswith(("folder", "_dir", "_path"))} - {
        "instance_data_dir",
        "class_data_dir",
        "drift_data_dir",
    }
    assert written_to - {"pretrained_model_name_or_path"} == set(
        WRITTEN_TO
    )  # every folder that is no source of something


def check_shared(theirs, brought):
    assert brought.config.training.max_train_steps == 7
    assert brought.config.lora.folder is None and brought.config.data.data_cache_dir is None
    assert brought.config.training.report_to == "none"
    assert {key.partition(".")[0] for key, _, _ in brought.left_out} == set(theirs) - {"max_train_steps"}
    assert all(why for _, _, why in brought.left_out)


def test_a_run_of_ones_own_keeps_where_it_wrote(tmp_path):
    from rollout_studio.core.foreign.importing import import_run

    run = RunStore(tmp_path / "runs").create({"data_cache_dir": str(tmp_path / "cache")})
    assert import_run(run).config.data.data_cache_dir == str(tmp_path / "cache")


# Processes that are not ours -------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="numbers of processes as POSIX has them")
@pytest.mark.parametrize(
    "who",
    ["init", "the parent of this program", "this program", "a number that was reused", "no number", "another boot"],
)
def test_a_run_folder_that_names_another_process_has_it_left_alone(who, tmp_path, monkeypatch):
    """A folder that was brought along may say anything, also the truth about a process that is none of its own."""
    store = RunStore(tmp_path / "runs")
    run = store.create({}, "brought")
    pid = {"init": 1, "the parent of this program": os.getppid(), "this program": os.getpid()}.get(who)
    named = platform_calls.identity(os.getppid() if pid is None else pid)
    named |= {
        "a number that was reused": {"process_start": 1.0},
        "no number": {"pid": "1; kill -9 -1"},
        "another boot": {"boot_id": "x"},
    }.get(who, {})
    run.process_path.write_text(json.dumps(named))
    run.write_state(state="running")
    killed = []
    monkeypatch.setattr("psutil.Process.kill", lambda self: killed.append(self.pid))
    monkeypatch.setattr("psutil.wait_procs", lambda *_, **__: None)
    assert store.kill("brought") is False and not killed
    with pytest.raises(ExportError):
        read_header(run.process_path)  # nor is it anything else
