"""The config as a whole: flat form, files, rules between options, presets, the ramp and the named levels."""

import dataclasses
import json
import math
import random

import pytest
from rollout_studio.core.before.remarks import remarks
from rollout_studio.core.config import (
    OPTIONS,
    ROLLOUT_LEVELS,
    SECTIONS,
    RolloutConfig,
    RunConfig,
    config_from_flat,
    config_to_flat,
    differences,
    load_preset,
    preset_names,
    probability_at,
    read_config,
    read_flat,
    read_preset,
    rollout_level,
    rollout_level_of,
    with_changes,
)
from rollout_studio.core.config.options import ConfigError

P = "scheduled_sampling_"


def faults_of(flat) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_flat(flat)
    return str(caught.value)


def other_value(option):
    """Some allowed value that is not the default."""
    if option.type == "bool":
        return option.default is not True
    if option.choices is not None:
        return next(choice for choice in reversed(option.choices) if choice != option.default)
    if option.type in ("int", "float"):
        least = option.minimum
        candidates = (least, option.maximum, 1)
        value = next(each for each in candidates if each != option.default and least <= each <= option.maximum)
        return int(value) if option.type == "int" else float(value)
    return {"str": "something", "list[str]": ["to_q", "to_k"], "list[int]": [2, 4]}[option.type]


COMPANIONS = {  # what an option needs beside it to be allowed at its other value
    "caption_strategy": {"caption_strategy": "filename"},
    "num_processes": {"num_processes": 2, "train_batch_size": 4},
    "shard_weights": {"model_type": "full"},
    "concepts": {"concepts": '[{"instance_data_dir": "cat", "trigger_word": "qrx"}]'},
    "with_prior_preservation": {"class_prompt": "a shape"},
    "output_preservation_weight": {"class_prompt": "a shape"},
    "lr_warmup_steps": {"lr_warmup_steps": 10, "lr_scheduler": "constant_with_warmup"},
    "base_model_quantization": {"gradient_checkpointing": True},
    "streamed_blocks": {"gradient_checkpointing": True},
    P + "min_sigma": {P + "min_sigma": 0.5},
    "lora_type": {"lora_layout": "kohya"},
    "lora_rank_pattern": {"lora_rank_pattern": ["to_q=8", "to_k=4:2"]},
    "loss_weighting": {"loss_weighting": "cosmap"},
    "dream_training": {"pretrained_model_name_or_path": "demo-epsilon"},
    "new_tokens": {"trigger_word": "qrx", "new_token_initializer": "dog"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_goes_from_its_key_to_its_field_and_back(name):
    flat = {name: other_value(OPTIONS[name]), **COMPANIONS.get(name, {})}
    config = config_from_flat(flat)
    value = getattr(getattr(config, OPTIONS[name].section), OPTIONS[name].field)
    assert value == (tuple(flat[name]) if isinstance(flat[name], list) else flat[name])
    assert differences(config) == flat
    assert config_from_flat(config_to_flat(config)) == config
    assert config_from_flat(json.loads(config.to_json())) == config


def test_flat_names_are_prefix_and_field():
    assert OPTIONS[P + "grid_steps"].field == "grid_steps"
    assert config_from_flat({P + "grid_steps": 7}).rollout.grid_steps == 7
    assert list(SECTIONS) == [
        "model",
        "data",
        "lora",
        "text_encoder",
        "training",
        "rollout",
        "input_perturbation",
        "soar",
        "mixflow",
        "dream",
        "validation",
        "drift",
        "saving",
    ]
    assert len(OPTIONS) == sum(len(dataclasses.fields(section)) for section in SECTIONS.values())


def test_the_defaults_are_a_config():
    assert config_from_flat({}) == RunConfig()
    assert differences(RunConfig()) == {}
    assert not RunConfig().rollout.is_active


def test_nothing_is_changed_in_place():
    flat = {"max_train_steps": "20", "validation_prompts": ["a"]}
    config = config_from_flat(flat)
    assert flat == {"max_train_steps": "20", "validation_prompts": ["a"]}
    changed = with_changes(config, {"max_train_steps": 30})
    assert (config.training.max_train_steps, changed.training.max_train_steps) == (20, 30)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.max_train_steps = 30


def test_all_faults_are_reported_at_once():
    message = faults_of({
        P + "gird": "inference",
        "learning_rate": math.nan,
        "seed": True,
        "max_train_steps": -1,
        "lora_rank": "sixteen",
        P + "sampler": "dpm",
        P + "order": 3,
        "with_prior_preservation": "yes",
        "wholly_unknown": 1,
    })  # fmt: skip
    for words in (
        "Unknown option 'scheduled_sampling_gird'. Did you mean 'scheduled_sampling_grid'?",
        "learning_rate = nan: must be a finite number.",
        "seed = true",
        "max_train_steps = -1: must be at least 1 step",
        'lora_rank = "sixteen"',
        "scheduled_sampling_order = 3: dpm has order 1 or 2",
        "with_prior_preservation = true: needs class_prompt",
        "Unknown option 'wholly_unknown'. All names: rollout-studio options.",
    ):
        assert words in message
    assert len(message.splitlines()) == 8


def test_a_rule_is_not_judged_by_the_default_of_a_wrong_value():
    """class_prompt is given, but wrong in itself: to call it missing too would be false."""
    message = faults_of({"with_prior_preservation": True, "class_prompt": 3})
    assert message.splitlines() == ["class_prompt = 3: must be text."]


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({P + "sampler": "euler", P + "order": 1}, "euler has no order"),
        ({P + "sampler": "rk4", P + "order": 3}, "rk4 has no order"),
        ({P + "sampler": "dpm", P + "order": 3}, "dpm has order 1 or 2"),
        ({P + "order": 4}, "must be at most 3"),
        ({P + "reflexflow_mode": "paper", P + "sampler": "euler"}, "leave scheduled_sampling_sampler at its default"),
        ({P + "reflexflow_mode": "paper", P + "order": 1}, "leave scheduled_sampling_order at its default"),
        ({P + "reflexflow_mode": "paper", P + "target": "original"}, "leave scheduled_sampling_target at its default"),
        ({P + "reflexflow_mode": "paper", P + "guidance": 2.0}, "leave scheduled_sampling_guidance at its default"),
        ({P + "min_sigma": 0.0}, "must be above 0"),
        (
            {P + "reflexflow_mode": "paper", P + "max_evaluations": 1},
            "leave scheduled_sampling_max_evaluations at its default",
        ),
        ({P + "sampler": "rk4", P + "max_evaluations": 3}, "allow at least 4"),
        ({P + "reflexflow": True, "prediction_type": "epsilon"}, "ReflexFlow needs a flow model"),
        ({P + "reflexflow": True, "model_family": "sd1x"}, "ReflexFlow needs a flow model"),
        ({P + "reflexflow": True, "pretrained_model_name_or_path": "demo-epsilon"}, "demo-epsilon is not one"),
        ({"model_family": "sd3", "prediction_type": "epsilon"}, "a sd3 model takes flow_matching"),
        ({"model_family": "sd2x", "prediction_type": "flow_matching"}, "epsilon, v_prediction or sample"),
        ({"flow_schedule_shift": 3, "model_family": "sd1x"}, "only flow models have a shift"),
        ({"with_prior_preservation": True}, "needs class_prompt"),
        ({"caption_strategy": "instanceprompt"}, "needs instance_prompt"),
        ({"loss_weighting": "cosmap", "snr_gamma": 5}, "keep one of the two"),
        ({"loss_weighting": "cosmap", "model_family": "sd1x"}, "flow models only"),
        ({"precondition_outputs": True, "loss_type": "huber"}, "take mse, or leave precondition_outputs out"),
        ({"mode_scale": 2}, "must be at most 1.75"),
        ({"lr_warmup_steps": 5}, 'take "constant_with_warmup"'),
        (
            {"compile": True, "streamed_blocks": 1, "gradient_checkpointing": True},
            "exchanges its weights inside the call",
        ),
        ({"compile": True, "base_model_quantization": "nf4"}, "set compile to false"),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 50, "max_train_steps": 20}, "the run has only 20 steps"),
        ({"drift_offsets": []}, "at least one offset"),
        ({"model_type": "full", "base_model_precision": "float16"}, "that needs float32"),
        ({"max_train_steps": None}, "must have a value"),
        ({"learning_rate": 0}, "must be at least"),
        ({"seed": 1, "--seed": 2}, "given twice"),
    ],
)
def test_contradictions_are_refused_with_the_remedy(flat, words):
    assert words in faults_of(flat)


@pytest.mark.parametrize(
    "flat",
    [
        {P + "sampler": "euler"},
        {P + "sampler": "dpm", P + "order": 1},
        {P + "order": 3},
        {P + "min_sigma": 0.0, P + "target": "original"},
        {P + "reflexflow_mode": "paper"},
        {P + "reflexflow": True},
        {P + "reflexflow": True, "model_family": "sd3"},
        {P + "reflexflow": False, "model_family": "sd1x"},
        {P + "reflexflow": True, "pretrained_model_name_or_path": "owner/some-model"},  # only the checkpoint knows
    ],
)
def test_what_fits_together_is_allowed(flat):
    config_from_flat(flat)


def test_a_direct_construction_is_checked_like_a_file():
    with pytest.raises(ConfigError, match="scheduled_sampling_probability = 2"):
        RolloutConfig(probability=2.0)
    with pytest.raises(ConfigError, match="ReflexFlow needs a flow model"):
        RunConfig(
            model=SECTIONS["model"](prediction_type="epsilon"),
            rollout=RolloutConfig(reflexflow=True, max_step_offset=1),
        )


def test_the_hash_follows_the_values_and_nothing_else():
    flat = {"max_train_steps": 20, "learning_rate": 1e-3, "drift_offsets": [1, 2]}
    items = list(flat.items())
    random.Random(3).shuffle(items)
    assert config_from_flat(flat).hash() == config_from_flat(dict(items)).hash()
    assert config_from_flat({**flat, "learning_rate": "0.001"}).hash() == config_from_flat(flat).hash()
    hashes = {config_from_flat(flat | {"seed": seed}).hash() for seed in range(5)}
    assert len(hashes) == 5
    assert all(len(each) == 64 for each in hashes)


# ---- files


def write(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_with_only_the_keys_of_a_rollout_reads_as_is(tmp_path):
    path = write(
        tmp_path,
        """{
        "model_family": "sd3", "prediction_type": "flow_matching",
        "scheduled_sampling_max_step_offset": 10, "--scheduled_sampling_probability": "1.0",
        "scheduled_sampling_ramp_steps": 0, "scheduled_sampling_sampler": "unipc", "scheduled_sampling_order": "2",
        "scheduled_sampling_reflexflow": null, "scheduled_sampling_reflexflow_beta1": "1e1", "--learning_rate": "1e-4"}""",
    )
    config = read_config(path)
    assert (config.rollout.max_step_offset, config.rollout.probability, config.rollout.reflexflow) == (10, 1.0, None)
    assert (config.rollout.reflexflow_beta1, config.training.learning_rate, config.model.model_family) == (
        10.0,
        1e-4,
        "sd3",
    )
    assert config.rollout.is_active


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow_matching"])
def test_a_rollout_set_up_without_a_model_reads_too(tmp_path, prediction_type):
    """Whether the checkpoint agrees is asked where it is opened."""
    path = write(
        tmp_path, json.dumps({"prediction_type": prediction_type, P + "max_step_offset": 3, P + "prob_end": 1})
    )
    assert read_config(path).model.prediction_type == prediction_type


def test_wrapped_files_and_remarks_are_understood(tmp_path):
    assert read_flat(write(tmp_path, '{"_metadata": {"a": 1}, "config": {"seed": 7}}')) == {"seed": 7}
    assert read_config(write(tmp_path, '\ufeff{"_note": "mine", "seed": 7}')).training.seed == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "seed": 7,\n}', "line 3, column 1: broken JSON"),
        ('{\n  "seed": 7,\n}', "comma after the last entry"),
        ('{"seed" 7}', "line 1, column 9"),
        ("", "line 1, column 1"),
        ("[1, 2]", "must be one JSON object"),
        ('{"seed": 1, "seed": 2}', "'seed' is given twice"),
        ('{"seed": NaN}', "seed = nan: must be a finite number"),
        ('{"sead": 1}', "config.json: Unknown option 'sead'. Did you mean 'seed'?"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=lambda value: value[:20],
)
def test_a_broken_file_is_reported_with_its_place(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_or_foreign_file_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_config(tmp_path / "none.json")
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"instance_prompt": "caf\xe9"}')
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)


# ---- presets


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_valid_says_what_it_is_and_only_what_differs(name):
    preset = read_preset(name)
    assert preset.title
    assert preset.description
    assert preset.needs
    assert differences(load_preset(name)) == {
        key: value for key, value in config_to_flat(load_preset(name)).items() if key in preset.changes
    }


def test_the_demo_is_the_first_preset_and_every_preset_trains_plainly():
    """No remedy has beaten plain training in a study (docs/evidence.md)."""
    assert preset_names()[:2] == ["demo", "demo-epsilon"]
    for name in preset_names():
        config = load_preset(name)
        assert rollout_level_of(config) == "off" and (config.remedy is None or not config.remedy.acts)


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_sets_what_has_no_effect(name):
    assert not [
        remark for remark in remarks(load_preset(name)) if "not used" in remark.lower() or "without effect" in remark
    ]


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'demo'"):
        load_preset("dmeo")
    with pytest.raises(ConfigError, match="Unknown preset"):
        load_preset("../../etc/passwd")


# ---- the ramp


def rollout(**fields):
    return RolloutConfig(max_step_offset=2, **fields)


def test_without_a_ramp_the_probability_holds_from_the_first_step_on():
    config = rollout(probability=0.4, start_step=3, prob_start=0.9, prob_end=1.0)
    assert [probability_at(config, step) for step in (0, 2, 3, 1000)] == [0.0, 0.0, 0.4, 0.4]


@pytest.mark.parametrize(
    ("shape", "middle", "quarter"),
    [("linear", 0.4, 0.3), ("cosine", 0.4, 0.2 + 0.4 * (0.5 - 0.5 * math.cos(math.pi / 4)))],
)
def test_a_ramp_goes_from_start_to_end_in_its_shape(shape, middle, quarter):
    config = rollout(prob_start=0.2, prob_end=0.6, ramp_steps=8, start_step=10, ramp_shape=shape, probability=1.0)
    assert [probability_at(config, step) for step in (0, 9, 10)] == [0.2, 0.2, 0.2]
    assert probability_at(config, 12) == pytest.approx(quarter)
    assert probability_at(config, 14) == pytest.approx(middle)
    assert [config.probability_at(step) for step in (18, 19, 10**6)] == [0.6, 0.6, 0.6]


def test_a_wanted_zero_stays_zero():
    down = rollout(prob_start=0.5, prob_end=0.0, ramp_steps=4, probability=1.0)
    assert probability_at(down, 4) == 0.0
    up = rollout(prob_start=0.0, prob_end=0.5, ramp_steps=4, probability=1.0)
    assert probability_at(up, 0) == 0.0


@pytest.mark.parametrize(
    ("fields", "active"),
    [
        ({"max_step_offset": 0, "probability": 1.0}, False),
        ({"max_step_offset": 1, "probability": 0.0}, False),
        ({"max_step_offset": 1, "probability": 0.1}, True),
        ({"max_step_offset": 1, "probability": 0.0, "ramp_steps": 5}, True),
        ({"max_step_offset": 1, "probability": 1.0, "ramp_steps": 5, "prob_end": 0.0}, False),
        ({"max_step_offset": 1, "ramp_steps": 5, "prob_start": 0.1, "prob_end": 0.0}, True),
    ],
)
def test_scheduled_sampling_is_active_when_a_row_can_be_rolled(fields, active):
    assert RolloutConfig(**fields).is_active is active


# ---- levels and remarks


@pytest.mark.parametrize("name", ROLLOUT_LEVELS)
def test_a_level_replaces_another_wholly(name):
    start = with_changes(RunConfig(), rollout_level("strong", 500) | {"max_train_steps": 500, P + "sampler": "rk4"})
    config = with_changes(start, rollout_level(name, 500))
    assert rollout_level_of(config) == name
    assert config.rollout.is_active is (name != "off")
    assert {key: config_to_flat(config)[key] for key in rollout_level(name, 500)} == rollout_level(name, 500)


def test_the_numbers_of_the_levels_are_fixed():
    gentle, strong = rollout_level("gentle", 1000), rollout_level("strong", 1000)
    assert [gentle[P + key] for key in ("max_step_offset", "prob_start", "prob_end", "ramp_steps")] == [
        2,
        0.0,
        0.25,
        200,
    ]
    assert [strong[P + key] for key in ("max_step_offset", "prob_start", "prob_end", "ramp_steps")] == [
        4,
        0.0,
        0.5,
        200,
    ]
    assert gentle[P + "reflexflow_beta1"] == strong[P + "reflexflow_beta1"] == 1.0
    assert rollout_level("gentle", 1)[P + "ramp_steps"] == 1
    assert {key: OPTIONS[key].default for key in gentle} == rollout_level("off", 1000)
    assert rollout_level_of(with_changes(RunConfig(), {P + "max_step_offset": 7, P + "probability": 0.3})) is None


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigError, match="must be one of off, gentle, strong"):
        rollout_level("wild", 100)


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({P + "max_step_offset": 3}, "probability is 0"),
        ({P + "probability": 0.5}, "max_step_offset is 0"),
        (
            {P + "max_step_offset": 3, P + "ramp_steps": 10, P + "probability": 0.5},
            "is not used: ramp_steps is above 0",
        ),
        ({P + "max_step_offset": 3, P + "probability": 0.5, P + "prob_end": 0.9}, "prob_end"),
        ({P + "max_step_offset": 3, P + "probability": 0.5, P + "start_step": 1000}, "beyond the 1000 steps"),
        ({P + "max_step_offset": 3, P + "ramp_steps": 4000}, "the chance reaches 0.125, not 0.5"),
        (
            {P + "max_step_offset": 3, P + "probability": 0.5, P + "grid": "training", P + "grid_steps": 9},
            "grid_steps is not used",
        ),
        (
            {P + "max_step_offset": 3, P + "probability": 0.5, P + "reflexflow": False, P + "reflexflow_beta1": 1},
            "ReflexFlow is off",
        ),
        (
            {P + "max_step_offset": 3, P + "probability": 0.5, P + "reflexflow_mode": "paper", P + "grid": "training"},
            "whose step has any length",
        ),
        (
            {P + "max_step_offset": 3, P + "probability": 0.5, P + "reflexflow_step_gradient": True},
            "reflexflow_step_gradient is not used",
        ),
        ({P + "max_step_offset": 3, P + "probability": 0.5, P + "max_evaluations": 3}, "max_evaluations is not used"),
        ({P + "max_step_offset": 3, P + "probability": 1.0, P + "exact_share": True}, "exact_share is not used"),
        ({P + "max_step_offset": 3, P + "probability": 0.5}, "experimental"),
        ({"class_prompt": "a dog"}, "with_prior_preservation is false"),
        ({"model_type": "full", "lora_rank": 4}, 'model_type is "full"'),
        ({"ema_decay": 0.9}, "use_ema is false"),
        ({"huber_delta": 0.9}, "huber_delta is not used"),
        ({"optimizer": "adafactor", "adam_beta1": 0.5}, 'optimizer is "adafactor": adam_beta1'),
        ({"timestep_sampling": "uniform", "logit_std": 0.5}, "logit_std"),
        ({"timestep_sampling": "mode", "logit_mean": 0.5}, 'timestep_sampling is "mode": logit_mean'),
        ({"mode_scale": 0.5}, "mode_scale is not used"),
        ({"loss_weighting": "sigma_sqrt"}, "the few cleanest rows carry nearly all"),
        ({"loss_weighting": "sigma_sqrt", "precondition_outputs": True}, "cancel each other"),
        ({"optimizer": "prodigy"}, "1 is usual"),
        ({"model_family": "sdxl"}, "ComfyUI loads no layer"),
    ],
)
def test_what_will_do_nothing_is_reported(flat, words):
    assert any(words in remark for remark in remarks(config_from_flat(flat)))


def test_the_defaults_need_no_remark():
    assert remarks(RunConfig()) == []
