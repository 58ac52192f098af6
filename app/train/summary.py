"""A config in words and whole: the plan in one sentence, what differs from the preset, what does nothing, the resolved JSON."""

import json

from ...core.adapters.kinds import NAMES
from ...core.before.remarks import remarks
from ...core.config import OPTIONS, RunConfig, config_to_flat, differences, load_preset
from ..parts.forms import label, said
from ..parts.words import text
from .export_links import address_of, for_simpletuner
from .rollout_panel import OWN, level_of


def plan_sentence(config: RunConfig) -> str:
    """What Start will do, in one sentence."""
    training, data = config.training, config.data
    rows = training.train_batch_size * training.gradient_accumulation_steps
    what = (
        f"{NAMES[config.lora.type]} of rank {config.lora.rank}" if training.model_type == "lora" else "full fine-tune"
    )
    if config.text_encoder.train_text_encoder:
        what += ", also of the text encoders,"
    tokens = config.text_encoder.new_tokens
    if tokens:
        what += f" with {tokens} new token{'' if tokens == 1 else 's'} for the trigger word"
    rollout = level_of(config) if config.rollout.rolls_out else "no"
    rollout = (
        "a rollout with your own numbers" if rollout == OWN else f"{'a ' if rollout != 'no' else ''}{rollout} rollout"
    )
    remedy = config.remedy
    if remedy is not None and remedy is not config.rollout:
        name, strength = remedy.switch
        rollout += f" and {'' if remedy.acts else 'the control of '}{remedy.name}" + (
            "" if strength is True else f" ({name.removeprefix(remedy.prefix)} {strength:g})"
        )
    samples = (
        f"samples every {config.validation.step_interval} steps"
        if config.validation.step_interval and config.validation.prompts
        else "no samples on the way"
    )
    return (
        f"{training.max_train_steps} steps with {rows} picture{'' if rows == 1 else 's'} each at {data.resolution} px: a {what} on "
        f"{config.model.pretrained_model_name_or_path}, with {rollout}, {samples}."
        + (f" {len(data.things)} things are learned at once." if len(data.things) > 1 else "")
    )


def side_panel(config: RunConfig, preset: str, takes: str = "") -> str:
    """Your run, always in view: the plan in words, what has no effect, what differs from the preset, and the resolved JSON.

    `takes`: the estimate as markup (`estimate_card.takes_line`)."""
    base = load_preset(preset)
    changed = differences(config, base)
    old = config_to_flat(base)
    rows = "".join(
        f"<tr><td>{text(label(OPTIONS[name]))}</td><td><s>{text(said(OPTIONS[name], old[name]))}</s> {text(said(OPTIONS[name], value))}</td></tr>"
        for name, value in changed.items()
    )
    table = (
        f'<table class="rs-changes">{rows}</table>'
        if rows
        else '<p class="rs-quiet">Nothing changed from the preset.</p>'
    )
    items = "".join(f"<li>{text(remark)}</li>" for remark in remarks(config))
    flat = config_to_flat(config)
    defaults = differences(config)
    lines = []
    for index, (name, value) in enumerate(flat.items()):
        mark = ' class="rs-own"' if name in changed else ' class="rs-set"' if name in defaults else ""
        comma = "," if index < len(flat) - 1 else ""
        lines.append(
            f"<span{mark}>  {text(json.dumps(name))}: {text(json.dumps(value, ensure_ascii=False))}{comma}</span>"
        )
    address = address_of(config.to_json())
    return (
        f'<div class="rs-card"><h3>Your run</h3><p>{text(plan_sentence(config))}</p>{takes}'
        + (f'<ul class="rs-remarks">{items}</ul>' if items else "")
        + f'<h4>Changed from the preset</h4>{table}<details><summary>The whole configuration</summary><p><a download="config.json" href="{address}">save as config.json</a></p>{for_simpletuner(config)}'
        f'<pre class="rs-json" tabindex="0" aria-label="The resolved configuration as JSON">{text("{")}\n'
        + "\n".join(lines)
        + f"\n{text('}')}</pre></details></div>"
    )
