"""How an option is declared, read and refused."""

from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar, Literal

import pytest
from rollout_studio.core.config import OPTIONS, SECTIONS, config_from_flat
from rollout_studio.core.config.options import Checked, ConfigError, Fault, option, options_of, shown
from rollout_studio.core.config.reference import as_data, as_markdown, as_text


@dataclass(frozen=True, kw_only=True)
class Sample(Checked):
    """One option of every kind."""

    prefix: ClassVar[str] = "sample_"

    flag: bool = option(False, "A flag.")
    maybe: bool | None = option(None, "A flag or nothing.")
    count: int = option(3, "A count.", unit="steps", ge=1, le=10)
    rate: float = option(0.5, "A rate.", ge=0, le=1)
    limit: float | None = option(None, "A limit or nothing.", ge=0)
    kind: Literal["plain", "fancy"] = option("plain", "A kind.")
    name: str = option("x", "A name.")
    sizes: tuple[int, ...] = option((1, 2), "Sizes.", ge=1)
    lines: tuple[str, ...] = option((), "Lines.", split="\n")


SAMPLE = {each.field: each for each in options_of(Sample, "sample")}


def fault_of(name, value, *, text=False) -> str:
    with pytest.raises(ConfigError) as caught:
        SAMPLE[name].read(value, text=text)
    return str(caught.value)


def test_a_declaration_becomes_a_record():
    count = SAMPLE["count"]
    assert (count.name, count.field, count.section, count.type) == ("sample_count", "count", "sample", "int")
    assert (count.default, count.minimum, count.maximum, count.unit, count.choices) == (3, 1, 10, "steps", None)
    assert SAMPLE["kind"].choices == ("plain", "fancy")
    assert SAMPLE["sizes"].type == "list[int]"
    assert [each.field for each in SAMPLE.values() if each.optional] == ["maybe", "limit"]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("flag", True, True),
        ("count", 7, 7),
        ("count", 7.0, 7),
        ("rate", 1, 1.0),
        ("limit", None, None),
        ("maybe", False, False),
        ("sizes", [4, 5], (4, 5)),
        ("lines", ["a, b"], ("a, b",)),
    ],
)
def test_a_value_is_read_into_its_own_type(name, value, read):
    got = SAMPLE[name].read(value)
    assert got == read
    assert type(got) is type(read)


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("flag", "false", False),
        ("flag", "YES", True),
        ("maybe", "null", None),
        ("maybe", "true", True),
        ("count", "1e1", 10),
        ("rate", " 1e-4 ", 1e-4),
        ("limit", "none", None),
        ("limit", "0.0", 0.0),
        ("sizes", "1, 3,5", (1, 3, 5)),
        ("sizes", "[1, 3]", (1, 3)),
        ("sizes", "", ()),
        ("lines", "a, b\n\nc", ("a, b", "c")),
        ("lines", '["a", "b"]', ("a", "b")),
        ("lines", "[V] dog", ("[V] dog",)),
        ("name", "none", "none"),  # an option that cannot be unset keeps the word
        ("name", "1e-4", "1e-4"),
    ],
)
def test_text_is_understood_where_it_is_allowed(name, text, read):
    assert SAMPLE[name].read(text, text=True) == read


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", 0, "sample_count = 0: must be at least 1 step; the default is 3."),
        ("count", 11, "sample_count = 11: must be at most 10 steps; the default is 3."),
        ("count", True, "whole number, not true or false"),
        ("count", 2.5, "must be a whole number"),
        ("count", None, "must have a value; leave the key out for the default, 3."),
        ("count", "3", "must be a whole number, not text"),
        ("rate", float("nan"), "must be a finite number"),
        ("rate", float("inf"), "must be a finite number"),
        ("rate", True, "not true or false"),
        pytest.param("rate", 10**400, "must be at most 1", id="huge"),
        ("limit", -1, "must be at least 0; the default is unset."),
        ("flag", 1, "must be true or false"),
        ("kind", "fanzy", "must be one of plain, fancy. Did you mean 'fancy'?"),
        ("kind", 3, "must be one of plain, fancy."),
        ("name", 3, "must be text"),
        ("name", "a\0b", "NUL"),
        ("sizes", [1, 0], "must be at least 1"),
        ("sizes", [1, True], "not true or false"),
        ("sizes", 3, "must be a list"),
        ("lines", "a", "must be a list"),
    ],
)
def test_a_wrong_value_is_refused_with_value_and_rule(name, value, words):
    reported = fault_of(name, value)
    assert reported.startswith(f"sample_{name} = ")
    assert words in reported


@pytest.mark.parametrize(
    ("name", "text"), [("count", "many"), ("flag", "maybe"), ("sizes", "[1, 2,]"), ("rate", "nan"), ("rate", "")]
)
def test_text_that_means_nothing_is_refused(name, text):
    assert fault_of(name, text, text=True)


def test_a_section_reports_all_its_faults_and_never_changes():
    with pytest.raises(ConfigError) as caught:
        Sample(count=0, rate=2.0, kind="no")
    assert [fault.options for fault in caught.value.faults] == [("sample_count",), ("sample_rate",), ("sample_kind",)]
    with pytest.raises(FrozenInstanceError):
        Sample().count = 4


def test_rules_of_a_section_are_checked_once_its_values_are_right():
    @dataclass(frozen=True, kw_only=True)
    class Ruled(Sample):
        def rules(self):
            if self.count > 5 and self.flag:
                yield Fault("count and flag do not go together.", ("sample_count", "sample_flag"))

    assert Ruled(count=6).count == 6
    with pytest.raises(ConfigError, match="do not go together"):
        Ruled(count=6, flag=True)


def test_a_declaration_that_contradicts_itself_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Checked):
        count: int = option(None, "Unset, but its type does not allow it.")

    with pytest.raises(TypeError, match="exactly when its default is None"):
        options_of(Wrong, "wrong")


def test_values_are_shown_as_they_are_written():
    assert [shown(value) for value in (1.0, 1e-4, True, None, "a", (1, 2), float("nan"))] == [
        "1", "0.0001", "true", "null", '"a"', "[1, 2]", "nan",
    ]  # fmt: skip


# ---- the options of this project


def test_every_option_helps_a_person():
    for each in OPTIONS.values():
        assert len(each.help) > 10, each.name
        assert each.help.endswith("."), each.name
        assert each.read(each.default) == each.default, each.name


def test_every_number_has_both_bounds_and_counts_of_steps_a_unit():
    for each in OPTIONS.values():
        if each.type in ("int", "float", "list[int]"):
            assert each.minimum is not None, each.name
            assert each.maximum is not None, each.name
        if each.name.endswith(("_steps", "_interval", "start_step")):
            assert each.unit, each.name


@pytest.mark.parametrize("steps", [1, 300, 10_000_000])
def test_a_soft_maximum_lies_above_the_minimum_and_within_what_is_allowed(steps):
    config = config_from_flat({"max_train_steps": steps, "scheduled_sampling_grid_steps": 2})
    soft = [each for each in OPTIONS.values() if each.soft is not None]
    assert soft
    for each in soft:
        assert each.minimum < each.slider_end(config) <= each.maximum, each.name


def test_the_defaults_of_scheduled_sampling_are_fixed():
    """docs/mathematics.md, "Options and defaults": a default that moves must move here too."""
    wanted = {
        "max_step_offset": 0, "probability": 0.0, "prob_start": 0.0, "prob_end": 0.5, "ramp_steps": 0, "start_step": 0,
        "ramp_shape": "linear", "strategy": "uniform", "sampler": "unipc", "order": 2, "grid": "inference", "grid_steps": 30,
        "target": "consistent", "min_sigma": 0.02, "guidance": 1.0, "reflexflow": None, "reflexflow_alpha": 1.0,
        "reflexflow_beta1": 10.0, "reflexflow_beta2": 1.0, "reflexflow_norm": "max", "reflexflow_mode": "single-pass",
        "control": "none", "snr_gamma": 5.0, "reflexflow_step_gradient": False, "exact_share": False, "max_evaluations": 0,
        "shared_offsets": 0,
    }  # fmt: skip
    assert {each.field: each.default for each in OPTIONS.values() if each.section == "rollout"} == wanted


def test_the_reference_as_data_has_exactly_the_promised_keys():
    keys = [
        "name",
        "label",
        "type",
        "default",
        "choices",
        "minimum",
        "maximum",
        "unit",
        "help",
        "source",
        "section",
        "level",
    ]
    assert [entry["name"] for entry in as_data()] == list(OPTIONS)
    assert all(list(entry) == keys for entry in as_data())


def test_the_reference_as_text_names_every_option():
    assert all(f"--{name} " in as_text() for name in OPTIONS)


def test_docs_options_is_current(root):
    """Made by: rollout-studio options --markdown > docs/options.md"""
    assert (root / "docs" / "options.md").read_text(encoding="utf-8") == as_markdown()


def test_labels_are_short_and_no_two_options_share_one():
    """The page names an option by its label alone: at its field, in a list of faults, in a summary of changes."""
    labels = [each.label for each in OPTIONS.values()]
    assert all(label and label == label.strip() and len(label) <= 50 for label in labels)
    assert len({label.lower() for label in labels}) == len(labels)


def test_a_label_is_made_from_the_name_unless_one_is_declared():
    assert SAMPLE["maybe"].label == "Maybe" and OPTIONS["adam_epsilon"].label == "Adam epsilon"
    assert OPTIONS["lr_warmup_steps"].label == "Warm-up"


def test_every_section_has_a_title_of_its_own():
    titles = [section.title for section in SECTIONS.values()]
    assert all(titles) and len(set(titles)) == len(titles)
