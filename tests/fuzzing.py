"""What strangers may write, drawn by hypothesis; and what must hold of it: an answer, or an error of the kinds that say what to do."""

import json
import math
import struct
import tempfile
from collections import Counter
from pathlib import Path

import foreign_configs
from hypothesis import strategies as st
from rollout_studio.core.adapters.header import ExportError, read_header, read_lora_config
from rollout_studio.core.adapters.lora_file import read_lora_header
from rollout_studio.core.config import OPTIONS, config_from_flat, config_to_flat, idle_remarks, load_preset
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.errors import Trouble
from rollout_studio.core.families.checkpoint_file import recognise
from rollout_studio.core.families.source import locate
from rollout_studio.core.foreign.importing import import_file, import_header
from rollout_studio.core.look.preview.request import showcase
from rollout_studio.core.look.sample_request import read_request
from rollout_studio.core.names import BadName, check, is_hub_id, not_a_path, slug
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.study.plan import KEYS, study_of
from rollout_studio.nodes.graph.compile import graph_of
from rollout_studio.nodes.graph.graph import GraphError, to_data
from rollout_studio.nodes.graph.validate import faults
from rollout_studio.nodes.reading import read

REFUSALS = (ConfigError, Trouble, GraphError)
"""What may be raised: each of them says what is wrong, and is shown as it is."""
ODD = [None, True, "", " ", "\0", "\ud800", "../..", "/etc/passwd", "~nobody", "C:\\x", "<script>", "${1}", "{{1}}", "x" * 300, "a/" * 2000, "\u202e", "nan", "1e400", "-0",
       0, -1, 10**30, -(2**63), 2**64, math.nan, math.inf, -0.0, 1e-320, [], {}, [[]], {"a": [1]}, "CON", "demo-flow", "none", "0x1f", "\x1b[31m", "\u0660"]  # fmt: skip
FOREIGN_KEYS = ["network_dim", "pretrained_model_name_or_path", "train_data_dir", "resolution", "config", "process", "job", "model", "train", "concepts", "__version", "optimizer",
                "learning_rate", "model_family", "model_type", "data_backend_config", "datasets", "subsets", "general", "instance_prompt", "max_train_steps", "_metadata", "name_or_path",
                "training_method", "base_model_name", "concept_file_name", "lora_rank", "output_dir", "--seed", "seed", "network", "save", "sample", "prompts", "folder_path"]  # fmt: skip

words = st.one_of(st.sampled_from([each for each in ODD if isinstance(each, str)]), st.text(max_size=40))
scalars = st.one_of(st.sampled_from(ODD), st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.none())
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


def _value(option):
    """A value of the option's own kind, mostly inside its bounds."""
    low = -(10**6) if option.minimum is None else option.minimum
    high = 10**6 if option.maximum is None else option.maximum
    kinds = {
        "bool": st.booleans(), "int": st.integers(math.ceil(low), math.floor(high)), "float": st.floats(low, high),
        "str": st.sampled_from(option.choices) if option.choices else words,
        "list[str]": st.lists(words, max_size=3), "list[int]": st.lists(st.integers(0, 30), max_size=4),
    }  # fmt: skip
    return st.one_of(kinds[option.type], kinds[option.type], kinds[option.type], junk)


options = st.lists(st.sampled_from(sorted(OPTIONS)), max_size=12, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: _value(OPTIONS[name]) for name in names})
)
flat_configs = st.one_of(
    options, options, st.dictionaries(st.one_of(words, st.sampled_from(sorted(OPTIONS))), junk, max_size=6)
)


def config(flat):
    """A config is right and comes back the same, or is refused with every fault."""
    found = config_from_flat(flat)
    assert (
        config_from_flat(config_to_flat(found)) == found
        and config_from_flat(config_to_flat(found)).hash() == found.hash()
    )
    idle_remarks(found)
    json.dumps(config_to_flat(found), allow_nan=False).encode()


_WORKFLOW = to_data(graph_of(load_preset("demo")))


@st.composite
def workflows(draw):
    """The demo's workflow with a few parts replaced, removed or added anywhere; or anything at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(
            st.one_of(
                junk, st.dictionaries(words, st.fixed_dictionaries({"class_type": words, "inputs": junk}), max_size=4)
            )
        )
    data = json.loads(json.dumps(_WORKFLOW))
    for _ in range(draw(st.integers(1, 4))):
        place = data
        while isinstance(place, dict | list) and len(place) and draw(st.integers(0, 3)):
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key]:
                break
            place = place[key]
        if isinstance(place, dict):
            key = draw(st.one_of(st.sampled_from(sorted(place)), words)) if place else draw(words)
            if draw(st.booleans()):
                place.pop(key, None)
            else:
                place[key] = draw(
                    st.one_of(
                        junk, st.tuples(st.sampled_from(sorted(_WORKFLOW["prompt"])), st.integers(-1, 3)).map(list)
                    )
                )
        elif place:
            place[draw(st.integers(0, len(place) - 1))] = draw(junk)
    return data


def workflow(data):
    """A workflow gives problems or a graph, as text and as data."""
    for source in (json.dumps(data), data if isinstance(data, dict) else {}):
        graph, problems = read(source)
        for problem in [*problems, *faults(graph)]:
            str(problem).encode()


def name(text):
    """A name or a path leads into the runs folder, or nowhere; and nothing of the system's own errors comes through."""
    assert check(slug(text), "run")
    not_a_path(text)
    if is_hub_id(text):
        return  # would be asked for at the hub, which tests have not
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "runs")
        try:
            path = store.path_of(text)
        except (BadName, *REFUSALS):
            pass
        else:
            assert path.parent == store.root and path.resolve().is_relative_to(store.root.resolve())
        assert [each.name for each in Path(folder).iterdir()] == ["runs"]
    if text not in OPTIONS["model_family"].choices:
        locate(text)


foreign_data = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(FOREIGN_KEYS), words), inner, max_size=6)), max_leaves=15
)  # fmt: skip
known_configs = st.sampled_from([foreign_configs.KOHYA, foreign_configs.ONETRAINER, foreign_configs.DIFFUSERS]).flatmap(
    lambda whole: st.dictionaries(st.sampled_from(sorted(whole)), junk, max_size=3).map(lambda some: {**whole, **some})
)
foreign_files = st.tuples(
    st.sampled_from([".json", ".json", ".json", ".yaml", ".toml", ".sh", ".txt"]),
    st.one_of(
        foreign_data.map(lambda data: json.dumps(data).encode()), known_configs.map(lambda data: json.dumps(data).encode()), st.binary(max_size=200),
        st.lists(st.one_of(st.sampled_from(FOREIGN_KEYS), words), max_size=8).map(lambda each: "\n".join(f"{key} = {key}" for key in each).encode("utf-8", "surrogatepass")),
        st.lists(st.one_of(st.sampled_from(["accelerate launch train.py", "--network_dim", "--seed=1", "$X", "$(rm)", "`x`", "\\\n", "'", '"', "&& x"]), words), max_size=8)
        .map(lambda each: " ".join(each).encode("utf-8", "surrogatepass")),
    ),
)  # fmt: skip


def foreign_file(given):
    """A file of another tool is read, or refused in a sentence."""
    ending, content = given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"config{ending}"
        path.write_bytes(content)
        found = import_file(path)
        assert config_from_flat(config_to_flat(found.config)) == found.config


entries = st.one_of(
    junk,
    st.fixed_dictionaries({"dtype": st.one_of(st.sampled_from(["F32", "BF16", "F8_E4M3", "I64", "X"]), junk),
                           "shape": st.one_of(st.lists(st.integers(0, 4), max_size=3), junk),
                           "data_offsets": st.one_of(st.tuples(st.integers(0, 64), st.integers(0, 64)).map(list), junk)}),
)  # fmt: skip
tensor_names = st.one_of(words, st.sampled_from(["transformer.x.lora_A.weight", "transformer.x.lora_B.weight", "lora_unet_x.alpha", "conv_in.weight", "__metadata__",
                         "model.diffusion_model.input_blocks.0.0.weight", "double_blocks.0.img_attn.qkv.weight"]))  # fmt: skip


def _file(header, body, off):
    """A safetensors file; `off`: by how much it lies about the length of its header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", (len(text) + off) % 2**64) + text + body


_LORA = {
    f"transformer.x.lora_{letter}.weight": {"dtype": "F32", "shape": [1], "data_offsets": [place, place + 4]}
    for letter, place in (("A", 0), ("B", 4))
}
headers = st.one_of(
    st.dictionaries(tensor_names, entries, max_size=1).map(lambda some: _file({**_LORA, **some}, bytes(8), 0)),
    st.binary(max_size=80),
    st.builds(_file, st.dictionaries(tensor_names, entries, max_size=5), st.binary(max_size=70), st.sampled_from([0, 0, 0, 1, -1, 2**60])),
)  # fmt: skip


def header(content):
    """A file that says it is safetensors is read or refused by every reader of headers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        for reader in (read_header, read_lora_header, recognise, read_lora_config, import_file):
            try:
                reader(path)
            except (ExportError, *REFUSALS) as error:
                assert len(str(error)) < 5000
    import_header(content.decode("latin-1"), "x")


_STUDY = {
    "study": "mine",
    "preset": "demo",
    "seeds": [0, 1],
    "variants": {
        "plain": {"scheduled_sampling_max_step_offset": 0},
        "strong": {"scheduled_sampling_max_step_offset": 3},
    },
}
study_data = st.one_of(
    st.dictionaries(st.one_of(st.sampled_from(sorted(KEYS)), words), junk, max_size=6),
    st.dictionaries(st.sampled_from(sorted(KEYS)), junk, max_size=2).map(lambda some: {**_STUDY, **some}),
    st.dictionaries(words, options, max_size=3).map(lambda variants: {**_STUDY, "variants": variants}),
    options.map(lambda changes: {**_STUDY, "variants": {"one": changes}}),
)  # fmt: skip


def study(written):
    """A study is planned, or refused."""
    with tempfile.TemporaryDirectory() as folder:
        study_of(written, "study.yaml", Path(folder), Path(folder))


_PICTURE = showcase()[0]
request_keys = st.sampled_from(["config", "checkpoints", "image", "prompt", "sampler", "order", "grid", "grid_steps", "guidance", "seed", "fine_factor", "samplers", "what", "role",
                                "prompts", "width", "height", "steps", "strengths", "kind", "t", "offset"])  # fmt: skip
requests = st.one_of(
    st.dictionaries(st.one_of(request_keys, request_keys, words), st.one_of(junk, options), max_size=8),
    st.dictionaries(request_keys, junk, max_size=2).map(lambda some: {"image": _PICTURE, **some}),
    options.map(lambda changes: {"image": _PICTURE, "config": changes}),
    st.fixed_dictionaries({"image": st.just(_PICTURE)}, optional={"seed": st.integers(0, 9), "guidance": st.floats(1, 9), "grid_steps": st.integers(2, 60), "prompt": words}),
)  # fmt: skip


def request(record):
    """A request to the preview worker is read, or refused with every fault."""
    read_request(record)


run_files = st.fixed_dictionaries({}, optional={
    name: st.one_of(st.binary(max_size=60), junk.map(lambda data: json.dumps(data).encode()),
                    st.dictionaries(st.sampled_from(["state", "step", "event", "pid", "process_start", "boot_id", "message", "created", "total_steps", "preset"]), junk, max_size=5)
                    .map(lambda data: json.dumps(data).encode() + b"\n"))
    for name in ("config.json", "state.json", "events.jsonl", "run.lock", "process.json", "notes.json", "commands/a.json", "checkpoints/step-000003/manifest.json", "log.txt")
})  # fmt: skip


def run_folder(files):
    """A runs folder that anybody may have written is listed, whatever is in it."""
    from rollout_studio.core.runs.run_log import follow

    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder))
        run = store.create({}, "mine")
        for name, content in files.items():
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            (run.path / name).write_bytes(content)
        store.reconcile()
        [row] = store.list()
        row.message and row.message.encode("utf-8", "replace")
        follow(run, None)
        run.take_commands()


WHAT = {
    "configs": (flat_configs, config), "workflows": (workflows(), workflow), "names and paths": (words, name), "files of other tools": (foreign_files, foreign_file),
    "safetensors headers": (headers, header), "studies": (study_data, study), "requests": (requests, request), "runs folders": (run_files, run_folder),
}  # fmt: skip
"""What is drawn -> (its strategy, what must hold of it)."""

tried: Counter[str] = Counter()
refused: Counter[str] = Counter()


def holds(what, given):
    """Whether it holds of one input: an answer, or a refusal that says why. Anything else that is raised is a fault of ours."""
    tried[what] += 1
    try:
        WHAT[what][1](given)
    except REFUSALS as error:
        refused[what] += 1
        assert str(error).strip()
