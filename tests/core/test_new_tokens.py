"""A trigger word as new tokens: only their rows change, embedding files in stock pipelines, resuming, showing, what is refused."""

from pathlib import Path

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters.embedding_files import check_embedding, export_embedding, path_beside
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.before.remarks import remarks
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.families import load_model
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.preview.request import Weights
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.probe import probed_config
from safetensors.torch import load_file, save_file
from tiny_run import events

TOKENS = {"new_tokens": 2, "trigger_word": "qrx", "new_token_initializer": "dog", "new_token_learning_rate": 0.05}
PARTS = {"sd1": ["text_encoder"], "sd2_v": ["text_encoder"], "sdxl": ["text_encoder", "text_encoder_2"]}
PROMPT = "a qrx on blue"


def tuned(folder, **changes):
    """(a live model with new tokens and a LoRA that have some effect, its config)."""
    flat = {"pretrained_model_name_or_path": str(folder), "device": "cpu", "lora_rank": 3, **TOKENS, **changes}
    config = config_from_flat(flat)
    model = load_model(config.model)
    adapters.attach(model, config)
    with torch.no_grad():
        for parameter in adapters.trainable_parameters(model):
            parameter += 0.3 * torch.randn(parameter.shape)
    return model, config


def drawn(pipe, prompt=PROMPT):
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.eval()
    return pipe(
        prompt,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
        height=32,
        width=32,
    ).images


@pytest.mark.parametrize(("variant", "more"), [
    pytest.param("sd1", {}, marks=pytest.mark.slow), ("sdxl", {"train_text_encoder": True}), pytest.param("sd2_v", {"new_tokens": 1}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_stock_pipeline_with_lora_and_embedding_draws_what_the_trained_model_draws(
    variant, more, tiny_folder, tmp_path
):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    model, config = tuned(tiny_folder(variant), **more)
    lora = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    path = export_embedding(model, path_beside(lora, "qrx"), config)
    assert path.relative_to(tmp_path).as_posix() == "embeddings/qrx.safetensors"
    tensors = load_file(path)
    assert set(tensors) == ({"clip_l", "clip_g"} if variant == "sdxl" else {"qrx"})
    assert {tensor.shape for tensor in tensors.values()} == {(config.text_encoder.new_tokens, 16)}
    assert not any("token_embedding" in name for name in load_file(lora))
    assert adapters.check_export(lora, config, model).passed and check_embedding(path, lora, config, model).passed

    pipe = (StableDiffusionXLPipeline if variant == "sdxl" else StableDiffusionPipeline).from_pretrained(
        tiny_folder(variant)
    )
    pipe.load_lora_weights(str(tmp_path), weight_name=lora.name)
    without = drawn(pipe)
    if variant == "sdxl":
        pipe.load_textual_inversion(tensors["clip_l"], token="qrx")
        pipe.load_textual_inversion(
            tensors["clip_g"], token="qrx", tokenizer=pipe.tokenizer_2, text_encoder=pipe.text_encoder_2
        )
    else:
        pipe.load_textual_inversion(str(path.parent), weight_name=path.name)  # the word is in the file
    expected = drawn(model.pipe)
    assert torch.allclose(drawn(pipe), expected, atol=1e-5)
    assert (without - expected).abs().max() > 1e-2

    spoilt = next(iter(tensors))
    save_file(tensors | {spoilt: -tensors[spoilt]}, path, metadata={"rollout_studio_trigger_word": "qrx"})
    with pytest.raises(adapters.ExportError, match="load check"):
        check_embedding(path, lora, config, model)


def test_a_run_changes_the_new_rows_alone_and_the_lora_waits_for_them(tiny_run, tiny_folder, without_drift):
    """Tokens alone in step 1, both in step 2, the LoRA alone in step 3; samples, preview and file know the word."""
    run = tiny_run("sd1", **TOKENS, new_token_steps_alone=1, new_token_steps=2, checkpoint_step_interval=1, use_ema=True,
                   ema_decay=0.5, validation_prompts=[PROMPT], validation_num_inference_steps=1)  # fmt: skip
    assert train(run) == 0
    first, second, third = (
        checkpoint.load(path).tensors["trainable"] for path in checkpoint.checkpoints(run.checkpoints_path)
    )
    rows = "text_encoder.text_model.embeddings.token_embedding.rows"
    moved = [[not torch.equal(one[name], other[name]) for name in (rows, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.default.weight")]
             for one, other in ((first, second), (second, third))]  # fmt: skip
    assert moved == [[True, True], [False, True]]
    assert not any(tensor.any() for name, tensor in first.items() if ".lora_B." in name)
    assert not torch.equal(*first[rows])  # two vectors, not twice the same

    config = config_from_flat(run.read_config())
    plain = load_model(config.model).text.opened()[0].get_input_embeddings().weight
    model = load_model(config.model)
    adapters.attach(model, config)
    table = model.pipe.text_encoder.get_input_embeddings()
    assert torch.equal(table.weight, plain) and not table.weight.requires_grad and set(first) >= {rows}
    ids = torch.arange(len(plain))[None]
    assert torch.equal(table(ids), torch.nn.functional.embedding(ids, plain))
    assert torch.equal(table.rows[0], plain[model.pipe.tokenizer.convert_tokens_to_ids("d")])

    told = events(run, "exported")[0]["files"][-1]
    assert told["layout"] == "embedding" and told["check"]["passed"] and (run.path / told["path"]).is_file()
    _shown(run, config)


@pytest.mark.slow
def test_16_bit_encoders_train_and_their_files_pass_the_check(tiny_run, without_drift):
    run = tiny_run("sdxl", **TOKENS, train_text_encoder=True, base_model_precision="bfloat16", mixed_precision="bf16", learning_rate=1e-3,
                   gradient_accumulation_steps=2, lora_layout="both", save_precision="float16")  # fmt: skip
    assert train(run) == 0
    told = events(run, "exported")[0]["files"]
    assert [each["layout"] for each in told] == ["diffusers", "kohya", "embedding"] and all(
        each["check"]["passed"] for each in told
    )


def _shown(run, config):
    """A checkpoint and the file with the embedding beside it read the word alike; the base reads it as letters."""
    bench, file = Bench(), run.lora_path / f"{run.name}.safetensors"
    model = bench.open(config)
    alone = [
        Weights("base", None, None, "base"),
        Weights("run", run.path, 3, "step"),
        Weights("lora", file, None, "file"),
    ]
    encoded = []
    for weights in (*alone, alone[0]):
        shown = bench.with_weights(weights)
        encoded.append(shown.collate(shown.by_words([PROMPT]))["prompt_embeds"])
    base, step, filed, again = encoded
    assert torch.equal(base, again) and torch.allclose(step, filed, atol=1e-6) and (base - step).abs().max() > 1e-3
    assert model.pipe.tokenizer.tokenize("qrx") == ["q", "r", "x</w>"]
    (run.lora_path / "embeddings" / "qrx.safetensors").unlink()
    with pytest.raises(Exception, match="0 embedding files"):
        other = Bench()
        other.open(config)
        other.with_weights(alone[2])


def test_the_base_reads_the_word_as_its_tokenizer_does(tiny_folder):
    model, _ = tuned(tiny_folder("sdxl"))
    fresh = load_model(
        config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("sdxl")), "device": "cpu"}).model
    )
    words = model.by_words([PROMPT])
    with model.adapters_disabled():
        inside = model.collate(words)
    assert torch.equal(inside["prompt_embeds"], fresh.collate(fresh.encode_prompts([PROMPT]))["prompt_embeds"])
    assert (model.collate(words)["prompt_embeds"] - inside["prompt_embeds"]).abs().max() > 1e-3


@pytest.mark.parametrize(("changes", "words"), [
    ({"new_token_initializer": None}, "needs new_token_initializer"),
    ({"trigger_word": None}, "no trigger_word is set"),
    ({"trigger_word": "Qrx dog"}, "one word of small letters"),
    ({"optimizer": "prodigy"}, "a learning rate of their own"),
    ({"model_type": "full"}, 'model_type is "full"'),
    ({"model_family": "sd3"}, "not trained here"),
    ({"new_token_steps_alone": 1000}, "would never train; lower it"),
    ({"new_token_steps_alone": 5, "new_token_steps": 3}, "in the steps between nothing would train"),
    ({"new_token_steps_alone": 5, "train_text_encoder": True, "text_encoder_steps": 4}, "raise text_encoder_steps"),
])  # fmt: skip
def test_new_tokens_that_cannot_be_trained_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        config_from_flat({**TOKENS, **changes})


def test_a_word_that_is_a_token_already_is_refused(tiny_folder):
    from rollout_studio.core.families import ModelError

    with pytest.raises(ModelError, match="one of the tokenizer's own tokens"):
        tuned(tiny_folder("sd1"), trigger_word="q")


def test_what_waits_for_new_tokens_and_a_word_in_no_caption_are_named(tiny_run):
    assert any("new_tokens is 0: new_token_steps" in each for each in remarks(config_from_flat({"new_token_steps": 5})))
    config = config_from_flat(
        {**TOKENS, "new_token_steps_alone": 50, "train_text_encoder": True, "text_encoder_steps": 60}
    )
    assert (
        probed_config(config, Path("runs")).text_encoder.begins == 0
    )  # few steps, and all that trains takes part in them
    found = preflight(config_from_flat(tiny_run("sd1", **TOKENS).read_config()))
    assert any("put in front of 4 of 4 captions" in each.message for each in found)
