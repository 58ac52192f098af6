"""Every preset with every level of rollout and for every graphics card: it resolves, may start, and fits by the estimate it names."""

import importlib
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rollout_studio.core.before.checks import computing
from rollout_studio.core.before.estimate import memory_estimate
from rollout_studio.core.before.model_files import facts_of, model_findings
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import (
    ROLLOUT_LEVELS,
    ConfigError,
    idle_remarks,
    load_preset,
    preset_names,
    read_preset,
    rollout_level,
    rollout_level_of,
    tier_changes,
    tier_for,
    tier_of,
    with_changes,
)
from rollout_studio.core.config.presets import SOURCES
from rollout_studio.core.families.registry import FAMILIES
from rollout_studio.core.findings import format_findings, has_errors
from tiny import BY_FAMILY

PRESETS = [read_preset(name) for name in preset_names()]
ON_CARDS = [preset for preset in PRESETS if not preset.name.startswith("demo")]
ROOM = 0.85
"""Share of a card's memory that a tier may take: the rest is the driver's, the desktop's and the allocator's."""


def named(preset):
    return preset.name


@pytest.mark.parametrize("level", ROLLOUT_LEVELS)
@pytest.mark.parametrize("preset", PRESETS, ids=named)
def test_every_preset_may_start_with_every_level_on_every_tier(preset, level, tiny_folder, pictures, tmp_path):
    """On a tiny model of its family: all checks before a start, as `train --dry-run` makes them."""
    for tier in preset.tiers if preset.tiers else (None,):
        changes = {} if tier is None else tier_changes(preset, tier)
        config = with_changes(preset.config(), changes)
        config = with_changes(config, rollout_level(level, config.training.max_train_steps))
        assert rollout_level_of(config) == level
        assert tier is None or tier_of(preset, config).changes == tier.changes
        assert config.rollout.is_active == (level != "off")
        here = {"device": "cpu", "base_model_quantization": "none", "streamed_blocks": 0}  # 4 bits need a card
        if tier is not None:
            tiny = BY_FAMILY[config.model.model_family][0].__name__
            here |= {"pretrained_model_name_or_path": str(tiny_folder(tiny)), "instance_data_dir": str(pictures),
                     "resolution": config.data.resolution // 16}  # fmt: skip
        found = preflight(with_changes(config, here), tmp_path / "run", tmp_path)
        assert not has_errors(found), format_findings(found)


@pytest.mark.parametrize("preset", PRESETS, ids=named)
def test_every_preset_names_its_models_licence_how_to_get_it_and_the_source_of_its_settings(preset):
    assert preset.licence and preset.gate
    assert preset.source.split(":")[0].split()[0] in SOURCES
    if preset in ON_CARDS:
        family = FAMILIES[preset.changes["model_family"]]
        assert preset.licence.split(" (")[0].split(";")[0] in family.licence, "the licence is the family's"


def test_every_family_has_a_preset():
    assert {preset.changes["model_family"] for preset in ON_CARDS} == set(FAMILIES)


@pytest.mark.parametrize("preset", ON_CARDS, ids=named)
def test_tiers_fit_their_cards_and_change_only_what_takes_memory(preset):
    assert preset.tiers
    assert [tier.changes for tier in preset.tiers].count({}) == 1, "the preset itself is one of them"
    for smaller, tier in zip((None, *preset.tiers), preset.tiers, strict=False):
        assert tier.takes_gb <= ROOM * tier.gb
        assert smaller is None or (smaller.gb < tier.gb and smaller.takes_gb <= tier.takes_gb)
    on = {
        "resolution",
        "train_batch_size",
        "gradient_checkpointing",
        "base_model_precision",
        "optimizer",
        "lora_rank",
        "lora_alpha",
        "base_model_quantization",
        "streamed_blocks",
    }
    assert {key for tier in preset.tiers for key in tier.changes} <= on
    assert f"{tier_own(preset).gb} GB" in preset.needs


def tier_own(preset):
    return next(tier for tier in preset.tiers if not tier.changes)


def test_a_card_between_two_tiers_gets_the_smaller_and_one_below_all_is_refused():
    preset = read_preset("sdxl")
    assert [tier_for(preset, gb).gb for gb in (8, 11, 12, 23.9, 24, 80)] == [8, 8, 12, 12, 24, 24]
    with pytest.raises(ConfigError, match="no tier for 6 GB: its smallest is 8 GB"):
        tier_for(preset, 6)
    with pytest.raises(ConfigError, match="has no tiers"):
        tier_for(read_preset("demo"), 24)


def test_choosing_a_tier_replaces_another_and_numbers_of_ones_own_are_no_tier():
    preset = read_preset("sdxl")
    small, own, large = preset.tiers
    config = with_changes(preset.config(), tier_changes(preset, small))
    assert config.data.resolution == 512 and tier_of(preset, config) == small
    config = with_changes(config, tier_changes(preset, large))
    assert (config.data.resolution, config.training.gradient_checkpointing) == (1024, False)
    assert tier_of(preset, config) == large
    assert with_changes(config, tier_changes(preset, own)) == load_preset("sdxl")
    assert tier_of(preset, with_changes(config, {"resolution": 640})) is None


@pytest.mark.parametrize("tiers", [
    [{"gb": 8}], "8 GB", [{"gb": 8, "takes_gb": 5, "source": "a guess", "changes": {}}], [{"gb": "x", "takes_gb": 5, "source": "estimate", "changes": {}}],
])  # fmt: skip
def test_broken_tiers_are_named_with_their_file(tmp_path, tiers):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"_metadata": {"title": "Mine", "tiers": tiers}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="mine.json: _metadata.tiers"):
        read_preset(str(path))


# Where the numbers come from ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool(root):
    return tool_of(root, "tiers")


@pytest.fixture(scope="module")
def cards(root):
    return tool_of(root, "cards")


def tool_of(root, name):
    if str(root / "tools") not in sys.path:
        sys.path.append(str(root / "tools"))
    return importlib.import_module(name)


def test_every_model_of_a_tier_is_in_the_tool(tool):
    assert set(tool.RELEASED) == {preset.name for preset in ON_CARDS}


@pytest.mark.parametrize("name", [
    "flux2-klein", *(pytest.param(preset.name, marks=pytest.mark.slow) for preset in ON_CARDS if preset.name != "flux2-klein")
])  # fmt: skip
def test_a_tiers_number_is_the_estimate_for_the_released_network(tool, name):
    """Slow ones: half a minute for SD 3.5's table of positions."""
    preset = read_preset(name)
    facts = tool.released_facts(preset)
    for tier in preset.tiers:
        assert tool.takes_gb(preset, facts, tier) == tier.takes_gb
    path = tool.PRESETS / f"{name}.json"
    assert tool.as_text(json.loads(path.read_text(encoding="utf-8"))) == path.read_text(encoding="utf-8")


def test_every_preset_says_of_each_card_what_fits_or_that_nothing_does_and_the_page_shows_it(cards, root):
    """And a card for which there is a tier is given one that fits it, whatever the number of its own."""
    for preset in ON_CARDS:
        about = json.loads((cards.PRESETS / f"{preset.name}.json").read_text(encoding="utf-8"))["_metadata"]
        small = {int(card): gb for card, gb in about.get("too_small", {}).items()}
        assert small.keys() == {card for card in cards.CARDS if card < preset.tiers[0].gb}
        assert all(gb > cards.ROOM * card for card, gb in small.items())
        for card in set(cards.CARDS) - small.keys():
            assert cards.fits(tier_for(preset, card).takes_gb, card)
    page = (root / "docs" / "families.md").read_text(encoding="utf-8")
    assert cards.table() in page
    for preset in ON_CARDS:
        [row] = [line for line in cards.table().splitlines() if line.startswith(f"| {preset.title} |")]
        assert row.count("GB") == len(cards.CARDS)


ADDED = {"krea2": (12,), "auraflow": (8, 16), "cogview4": ()}
"""Of some presets the cards whose tier the tool added."""


@pytest.mark.parametrize("name", [
    *ADDED, *(pytest.param(preset.name, marks=pytest.mark.slow) for preset in ON_CARDS if preset.name not in ADDED),
])  # fmt: skip
def test_the_tool_finds_nothing_to_add_to_a_preset_and_finds_again_what_it_added(cards, name):
    path, preset = cards.PRESETS / f"{name}.json", read_preset(name)
    assert cards.filled(name) == path.read_text(encoding="utf-8")
    for tier in [tier for tier in preset.tiers if tier.gb in ADDED.get(name, ())]:
        bare = replace(preset, tiers=tuple(other for other in preset.tiers if other != tier))
        assert cards.missing(bare, cards.released_facts(preset))[0] == [tier]


@pytest.mark.parametrize("preset", ON_CARDS, ids=named)
def test_what_a_tier_combines_is_refused_by_no_rule_and_no_check_of_a_card(preset, monkeypatch, tmp_path):
    """On a card that has the packages for it."""
    monkeypatch.setattr(computing, "why_not", lambda kind, device: None)
    monkeypatch.setattr(computing.installation, "device_of", lambda model: "cuda")
    for tier in preset.tiers:
        config = with_changes(preset.config(), {"device": "cuda", **tier_changes(preset, tier)})
        assert list(computing.frozen_weights(SimpleNamespace(config=config))) == []
        assert not [remark for remark in idle_remarks(config) if any(name in remark for name in tier.changes)]
    if preset.name == "flux":  # the check does look: nothing of this could be told otherwise
        plain = with_changes(preset.config(), {"base_model_quantization": "int8", "base_model_precision": "float32"})
        assert list(computing.frozen_weights(SimpleNamespace(config=plain)))
        with pytest.raises(ConfigError, match="streamed_blocks"):
            with_changes(preset.config(), {"base_model_quantization": "nf4", "streamed_blocks": 3})


def test_checkpointing_leaves_less_of_a_deep_network_on_a_card_than_of_a_cpus_process(tiny_folder):
    config = with_changes(load_preset("demo"), {"device": "cuda"})
    facts = model_findings(config.model)[0]

    def share(facts, **changes):
        kept = [
            memory_estimate(with_changes(config, {"gradient_checkpointing": on, **changes}), facts).parts["activations"]
            for on in (False, True)
        ]
        return kept[1] / kept[0]

    assert share(facts) == pytest.approx(1 / 8 + 0.08)  # six layers, and two refiners
    deep = {f"blocks.{number}.{name}": shape for number in range(40) for name, shape in facts.shapes.items()}
    configs = {"transformer": {"patch_size": 2}, "vae": {"block_out_channels": [8, 8, 16], "latent_channels": 4}}
    assert share(facts_of(facts.folder, configs, deep, facts.family)) == pytest.approx(1 / 40 + 0.08)
    assert share(facts, device="cpu") == pytest.approx(0.52)
