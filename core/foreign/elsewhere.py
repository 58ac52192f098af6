"""Files that people bring along with good reason and that hold no settings of a training: which tool wrote them, and what to bring instead."""

from collections.abc import Mapping
from typing import Any

from .simpletuner_data import is_backend_file


def recognised(data: Any) -> str:
    """A sentence that says what the data is and what to do; empty where it is not known."""
    if isinstance(data, list):
        return _of_list(data)
    if not isinstance(data, Mapping):
        return ""
    keys = set(data)
    for sign, words in _SIGNS:
        if sign <= keys:
            return words
    entries = [each for each in data.values() if isinstance(each, Mapping)]
    if entries and all("class_type" in each for each in entries):
        return _SIGNS[0][1]
    if (
        entries
        and len(entries) == len(keys)
        and all({"caption", "tags", "train_resolution"} & set(each) for each in entries)
    ):
        return "is a list of captions of kohya_ss; bring the config that names it, and write the captions into .txt files beside the pictures."
    sets = data.get("datasets")
    if isinstance(sets, list) and any(
        isinstance(each, Mapping) and {"image_directory", "video_directory", "image_jsonl_file"} & set(each)
        for each in sets
    ):
        return "is a dataset file of musubi-tuner, which is not read here; fill in the folder with your pictures: instance_data_dir."
    return ""


_SIGNS: tuple[tuple[set[str], str], ...] = (
    ({"nodes", "links"}, "is a workflow of ComfyUI, which holds no settings of a training; open it in ComfyUI."),
    ({"_class_name", "_diffusers_version"}, "is part of a model in the diffusers layout; name the model's folder as the model instead."),
    ({"compute_environment", "distributed_type"}, "is how accelerate starts programs, and holds no settings of a training; bring the command line that starts the script."),
    ({"base_model_name_or_path", "peft_type"}, "describes an adapter of PEFT, not its training; bring the config that it was trained with."),
    ({"concepts_list", "model_name", "lifetime_revision"}, "is of A1111's DreamBooth extension, which is not read here; fill in its values by hand."),
    ({"micro_batch_size_per_gpu", "dataset"}, "is of diffusion-pipe, which is not read here; fill in its values by hand."),
    ({"architectures", "model_type", "torch_dtype"}, "is part of a model; name the model's folder as the model instead."),
    ({"weight_map", "metadata"}, "is the index of a model's files; name the model's folder as the model instead."),
)  # fmt: skip
"""Keys that a file has together -> what it is."""


def _of_list(data: list[Any]) -> str:
    if not data or not all(isinstance(each, Mapping) for each in data):
        return ""
    if is_backend_file(data):
        return "is SimpleTuner's list of data sets; bring its config.json, with this file along."
    if all({"path", "text"} <= set(each) or {"path", "balancing"} <= set(each) for each in data):
        return "is OneTrainer's list of concepts; bring its config, with this file along."
    if all("prompt" in each for each in data):
        return "is a list of samples, such as OneTrainer's; bring the config, with this file along."
    return ""


_HEADERS = (
    ("ss_network_module", "sd-scripts (kohya_ss)"), ("ss_output_name", "sd-scripts (kohya_ss), or a tool that writes as it does"), ("software", ""), ("ot_config", "OneTrainer"),
    ("simpletuner_version", "SimpleTuner"), ("modelspec.sai_model_spec", "another tool"),
)  # fmt: skip


def writer_of(metadata: Mapping[str, Any]) -> str:
    """The tool that wrote a LoRA file, by its header's metadata; empty where that does not say."""
    for key, tool in _HEADERS:
        value = metadata.get(key)
        if value is None:
            continue
        if tool:
            return tool
        if "ostris" in str(value) or "ai-toolkit" in str(value):
            return "ai-toolkit"
    return ""
