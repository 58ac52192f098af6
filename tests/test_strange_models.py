"""S6, S8: a model's folder and a path from a stranger. What a folder says of itself opens only known classes, and runs none of its code."""

import json
import shutil
import sys

import pytest
from rollout_studio.core.config import ConfigError, config_from_flat
from rollout_studio.core.demo import FLOW
from rollout_studio.core.families.source import ModelError, locate
from rollout_studio.core.names import not_a_path

EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: pass\nFlow = Model = Pipeline = Evil\n"


def spoil(folder, index=None, parts=None):
    """A copy of the demo's flow model with changed files, and a file of code wherever one might be looked for."""
    shutil.copytree(FLOW, folder)
    for name, changes in {"model_index.json": index, **(parts or {})}.items():
        if changes is not None:
            path = folder / name
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for place in (folder, folder / "transformer", folder / "text_encoder", folder / "scheduler", folder / "tokenizer"):
        for name in ("evil", "pipeline", "flow", "modeling_evil"):
            (place / f"{name}.py").write_text(EVIL)
    return folder


REFUSED = {
    "code beside the network": ({"transformer": ["evil", "Evil"]}, "evil.Evil"),
    "any module that is installed": ({"text_encoder": ["antigravity", "Fly"]}, "antigravity.Fly"),
    "a module of the standard library": ({"scheduler": ["subprocess", "Popen"]}, "subprocess.Popen"),
    "one of ours": ({"scheduler": ["rollout_studio.core.train.worker", "Main"]}, "worker.Main"),
    "a class that asks for code": ({"text_encoder": ["transformers", "AutoModel"]}, "AutoModel"),
    "a dunder": ({"vae": ["diffusers", "__loader__"]}, "__loader__"),
    "a way through attributes": ({"vae": ["diffusers", "utils.os.system"]}, "utils.os.system"),
    "a pipeline in a file of its own": ({"_class_name": ["pipeline", "Pipeline"]}, "pipeline.Pipeline"),
    "an odd class": ({"_class_name": "os.system"}, "no family here covers"),
    "markup for a class": ({"_class_name": "<script>alert(1)</script>"}, "no family here covers"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_folder_that_names_other_classes_is_refused_before_anything_is_opened(kind, tmp_path):
    index, words = REFUSED[kind]
    with pytest.raises(ModelError, match=words.replace(".", r"\.")) as refused:
        locate(str(spoil(tmp_path / "model", index))).family  # noqa: B018 - the family is looked up when it is asked for
    assert refused.value.remedy and not list(tmp_path.rglob("ran"))


def test_every_class_that_a_family_here_is_saved_with_may_be_opened(root):
    indexes = [
        *root.glob("presets/demo/*/model_index.json"),
        *root.glob("core/families/*/single_file/model_index.json"),
    ]
    assert len(indexes) > 5
    for path in indexes:
        locate(str(path.parent))


class Watched:
    """What Python itself reports while the block lasts. A hook cannot be taken off again, so it sleeps outside."""

    def __init__(self, folder):
        self.folder, self.seen, self._awake = str(folder), [], False
        sys.addaudithook(self._hook)

    def __enter__(self):
        self._awake = True
        return self.seen

    def __exit__(self, *_):
        self._awake = False

    def _hook(self, event, arguments):
        if not self._awake:
            return
        first = str(getattr(arguments[0], "co_filename", arguments[0])) if arguments else ""
        ours = first.startswith(self.folder)
        code = ours and first.endswith((".py", ".pyc", ".bin", ".ckpt", ".pkl"))
        strange = event == "import" and first.split(".")[0] in (
            "evil",
            "modeling_evil",
            "pipeline",
            "flow",
            "antigravity",
        )
        always = ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "pickle.find_class")
        if (event == "exec" and ours) or (event == "open" and code) or strange or event in always:
            self.seen.append((event, first))


def test_a_folder_that_offers_code_of_its_own_opens_and_none_of_it_is_read_or_run(tmp_path):
    """With an audit hook: `auto_map` in every config, a pipeline's file, and files of code everywhere."""
    from rollout_studio.core.families import load_model

    own = {
        "auto_map": dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer"), "modeling_evil.Model"),
        "trust_remote_code": True,
    }
    parts = {
        f"{part}/{name}.json": own
        for part, name in (("text_encoder", "config"), ("transformer", "config"), ("tokenizer", "tokenizer_config"))
    }
    folder = spoil(tmp_path / "model", {"custom_pipeline": "pipeline"}, parts)
    section = config_from_flat({"pretrained_model_name_or_path": str(folder), "device": "cpu"}).model
    with Watched(folder) as seen:
        (folder / "evil.py").read_text()  # the hook hears
        assert len(seen) == 1
        model = load_model(section)
        model.text.encode(["a red circle"], False)
        assert model.denoiser is not None
        assert seen == [("open", str(folder / "evil.py"))]
    assert not list(tmp_path.rglob("ran"))


# Paths that no disk can hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "x" * 300,
        "a/" + "b" * 256 + "/c",
        "~no-such-account-here/x",
        "a/" * 3000,
        "\u00e9" * 128 + "/x" * (sys.platform == "linux") + "y" * 256,
    ],
)
def test_a_path_that_no_disk_can_hold_is_refused_with_the_rule_and_never_an_error_of_the_system(path):
    assert not_a_path(path) is not None
    with pytest.raises(ModelError):
        locate(path)
    for option in (
        "pretrained_model_name_or_path",
        "pretrained_components",
        "instance_data_dir",
        "class_data_dir",
        "data_cache_dir",
        "drift_data_dir",
        "lora_folder",
    ):
        with pytest.raises(ConfigError) as refused:
            config_from_flat({option: path})
        assert refused.value.faults[0].options == (option,) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "path", ["demo-flow", "owner/model", "~/models/x", "C:\\models\\x", "x" * 255, "/a/b/" + "c" * 200, ""]
)
def test_other_paths_may_be_looked_for(path):
    assert not_a_path(path) is None
