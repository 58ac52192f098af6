"""The index of a modular pipeline, read as that of any other: by whoever asks for a model, in a folder and on the hub."""

import json

import pytest
from rollout_studio.app.parts.folders import mark
from rollout_studio.core.before.model_check import downloaded_models
from rollout_studio.core.before.model_files import model_findings
from rollout_studio.core.before.run_schedule import schedule_of
from rollout_studio.core.config import ModelConfig, config_from_flat
from rollout_studio.core.families import ModelError, locate
from rollout_studio.core.families.index_files import MODULAR, NAMES, PLAIN, cached_index, index_file, plain
from rollout_studio.core.families.known import known_family


def entry(library, kind, place="somebody/elsewhere", **said):
    return [
        library,
        kind,
        {"pretrained_model_name_or_path": place, "subfolder": "", "type_hint": [library, kind], **said},
    ]


INDEX = {
    "_class_name": "Lumina2Pipeline",
    "_blocks_class_name": "SomeBlocks",
    "transformer": entry("diffusers", "Lumina2Transformer2DModel"),
    "text_encoder": [None, None, {"type_hint": ["transformers", "Gemma2Model"], "revision": None}],
    "scheduler": entry("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "safety_checker": [None, None, {"type_hint": [None, None]}],
    "sizes": [1, 2, 3],
}
"""Its class is a known one, so that the family is; of the encoder nothing was loaded when it was written."""


def folder_with(place, name, index):
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(json.dumps(index))
    return place


def test_parts_have_library_and_class_in_both_forms_and_a_setting_stays_what_it_is():
    read = plain(INDEX)
    assert read["transformer"] == ["diffusers", "Lumina2Transformer2DModel"]
    assert read["text_encoder"] == ["transformers", "Gemma2Model"] and read["safety_checker"] == [None, None]
    assert read["sizes"] == [1, 2, 3] and read["_class_name"] == "Lumina2Pipeline" and plain(read) == read
    assert plain({"odd": [None, "Kind", {}]}) == {"odd": [None, "Kind"]}


def test_a_folder_with_the_index_of_a_modular_pipeline_is_a_model_for_everybody_who_asks(tmp_path):
    folder = folder_with(tmp_path / "model", MODULAR, INDEX)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0})
    )
    source = locate(str(folder))
    assert (source.family, source.pipeline_name) == ("lumina2", "Lumina2Pipeline")
    assert source.parts == ("transformer", "text_encoder", "scheduler", "safety_checker")
    assert source.absent == ("safety_checker",) and source.configs["scheduler"]["shift"] == 6.0
    chosen = ModelConfig(pretrained_model_name_or_path=str(folder))
    assert known_family(chosen).name == "lumina2" and mark(folder, "model") == ("model", True)
    _, findings = model_findings(chosen)
    assert any("transformer/ is missing" in finding.message for finding in findings)
    config = config_from_flat({"pretrained_model_name_or_path": str(folder), "resolution": 64})
    assert "shift 6" in schedule_of(config).text
    assert index_file(folder).name == MODULAR and index_file(tmp_path).name == PLAIN


def test_a_model_with_both_is_opened_by_the_usual_index(tmp_path):
    folder = folder_with(tmp_path, MODULAR, INDEX)
    folder_with(folder, PLAIN, {"_class_name": "StableDiffusionXLPipeline"})
    assert locate(str(folder)).pipeline_name == "StableDiffusionXLPipeline" and index_file(folder).name == PLAIN


def test_the_hub_is_asked_for_the_second_where_it_lacks_the_first_alone(tmp_path, monkeypatch):
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError

    asked, there = [], {MODULAR: folder_with(tmp_path, MODULAR, INDEX) / MODULAR}
    response = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))

    def download(name, path, revision=None):
        asked.append(path)
        if isinstance(there.get(path), Exception):
            raise there[path]
        if path not in there:
            raise RemoteEntryNotFoundError("no", response=response)
        return str(there[path])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("owner/model").family == "lumina2" and asked == [PLAIN, MODULAR]
    there.clear()
    with pytest.raises(ModelError, match=f"has no {PLAIN}"):
        locate("owner/model")
    there[MODULAR] = GatedRepoError("no", response=response)
    with pytest.raises(ModelError, match="gated"):
        locate("owner/model")
    asked.clear()
    there[PLAIN] = there[MODULAR]
    with pytest.raises(ModelError, match="gated"):
        locate("owner/model")
    assert asked == [PLAIN]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_the_cache_is_found_by_either(name, tmp_path, monkeypatch):
    import huggingface_hub

    folder = folder_with(tmp_path / "models--owner--model" / "snapshots" / "abc", name, INDEX)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, file, revision=None: str(folder / file) if file == name else None
    )  # fmt: skip
    assert downloaded_models() == ["owner/model"] and cached_index("owner/model", None) == folder / name
    assert known_family(ModelConfig(pretrained_model_name_or_path="owner/model")).name == "lumina2"
