"""What every family is proven by beside the standing test: whole drawings, two aspect ratios, and a LoRA on its way to its users."""

import math
import re

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from rollout_studio.core.adapters import load_lora
from rollout_studio.core.adapters.model_card import model_card
from rollout_studio.core.config import ROLLOUT_LEVELS, rollout_level
from rollout_studio.core.families.registry import FAMILIES
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.rollout import plan_from_noise, rollout
from rollout_studio.core.maths.solvers import make_solver
from rollout_studio.core.train.loop import train
from safetensors.torch import load_file
from stock import NEGATIVE, STEPS, Recorded, differences, open_model
from tiny import ONE_PER_FAMILY, PROMPTS
from tiny_run import ROLLOUT, events, losses

WIDE, TALL = (8, 16), (16, 8)


def with_euler(pipe):
    """Its scheduler as the Euler scheduler of the same schedule: for a variance-preserving model that is DDIM."""
    config = pipe.scheduler.config
    if isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler):
        return
    if config.get("use_flow_sigmas"):
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=config.flow_shift)
    else:
        pipe.scheduler = DDIMScheduler.from_config(
            config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        )


@pytest.fixture(scope="module")
def model_of(tiny_folder):
    """One model per family that draws by Euler steps, shared."""
    loaded = {}

    def model(name):
        if name not in loaded:
            loaded[name] = open_model(tiny_folder(name))
            with_euler(loaded[name].pipe)
        return loaded[name]

    return model


@pytest.mark.parametrize(
    ("cells", "guidance"),
    [(WIDE, 1.0), (TALL, 3.0), *(pytest.param(*both, marks=pytest.mark.slow) for both in ((WIDE, 3.0), (TALL, 1.0)))],
)
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_an_euler_rollout_from_the_noisiest_node_gives_the_stock_pipelines_latents(
    name, guidance, cells, model_of, tiny_folder
):
    """Down to the last node above 0, where what is left of a deterministic sampler is the answer itself."""
    steps = 5  # divides 1000: DDIM finds the step before by subtraction
    stock = Recorded(tiny_folder(name), guidance, prepare=with_euler, steps=steps, cells=cells)
    model = model_of(name)
    nodes = model.inference_times(steps, (model.latent_channels, *cells))
    grid, path = Grid(nodes), model.noise_path
    plan = plan_from_noise(nodes[-2].double().repeat(2), path, grid)
    assert plan.k.tolist() == [steps - 1] * 2
    predict = model.predict(
        model.collate(model.encode_prompts(PROMPTS)), guidance, model.encode_prompts([NEGATIVE], negative=True)[0]
    )
    noise = stock.all_steps[0][2]
    rolled = rollout(predict, torch.zeros_like(noise), noise, plan, grid, path, make_solver("euler"), start="noise")
    with torch.no_grad():
        end = predict(rolled.x, path.at(nodes[-2].repeat(2)), torch.arange(2)).x0_hat
    torch.testing.assert_close(rolled.x, stock.all_steps[-1][2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(end, stock.latents, atol=1e-4, rtol=1e-4)
    assert (stock.latents - noise).abs().max() > 0.1


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_pictures_that_are_no_squares_are_the_stock_pipelines(name, tiny_folder):
    model, stock = open_model(tiny_folder(name)), Recorded(tiny_folder(name), 3.0, cells=WIDE)
    for ours, output in differences(model, stock, 3.0):
        assert ours.shape[-2:] == WIDE
        torch.testing.assert_close(ours, output, atol=1e-5, rtol=1e-5)
    assert model.inference_times(STEPS, stock.latents.shape).tolist()[:-1] == stock.nodes(model.is_flow)


def loaded_by_its_user(pipe, file):
    """By the lines of a model card, without one of ours: by the pipeline's loader, the network's, or peft where diffusers has neither."""
    family = next(facts for facts in FAMILIES.values() if type(pipe).__name__ in facts.pipelines)
    (lines,) = re.findall(r"```python\n(.*?)```", model_card([file], {}, {}, family), re.DOTALL)
    has = (
        "pipeline"
        if hasattr(pipe, "load_lora_weights")
        else "network"
        if hasattr(pipe.transformer, "load_lora_adapter")
        else "peft"
    )
    assert family.reader == has
    lines = lines.replace("this repository", str(file.parent)).splitlines()
    lines = [
        line
        for line in lines
        if not any(
            word in line for word in ("DiffusionPipeline", "ModularPipeline", "load_components", "huggingface_hub")
        )
    ]
    exec("\n".join(lines), {"pipe": pipe, "hf_hub_download": lambda folder, name: f"{folder}/{name}"})  # noqa: S102 - our own card


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_a_lora_of_two_steps_with_rollout_does_in_a_stock_pipeline_what_it_does_here(
    name, tiny_run, tiny_folder, without_drift
):
    """ReflexFlow is on with the rollout of a flow model. What the run itself says of its file agrees."""
    run = tiny_run(name, max_train_steps=2, **ROLLOUT | {"scheduled_sampling_probability": 1.0})
    assert train(run) == 0
    assert sum(step["network_rows"] - step["rows"] for step in events(run, "step")) > 0
    (check,) = (event["check"] for event in events(run, "exported"))
    assert check["passed"] and check["used"] == check["total"] > 0, check
    assert check["max_difference"] < 1e-5 < check["effect"]
    [file] = run.lora_path.glob("*.safetensors")
    model = open_model(tiny_folder(name))
    plain = differences(model, Recorded(tiny_folder(name), 3.0), 3.0)
    fit = load_lora(model, file, "mine")
    assert fit.used == fit.total == len(load_file(file)) and fit.change > 0
    stock = Recorded(tiny_folder(name), 3.0, prepare=lambda pipe: loaded_by_its_user(pipe, file))
    for ours, output in differences(model, stock, 3.0):
        torch.testing.assert_close(ours, output, atol=1e-5, rtol=1e-5)
    assert (stock.all_steps[0][0] - plain[0][1]).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("level", ROLLOUT_LEVELS)
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_every_family_trains_ten_steps_at_each_level_of_rollout(name, level, tiny_run):
    """With everything that a run has: drift before and after, a sample, the LoRA's file and its check."""
    run = tiny_run(
        name,
        max_train_steps=10,
        validation_prompts=["a circle"],
        validation_step_interval=5,
        **rollout_level(level, 10),
    )
    assert train(run) == 0
    steps = events(run, "step")
    assert len(steps) == 10 and all(math.isfinite(loss) for loss in losses(run))
    assert (sum(step["network_rows"] - step["rows"] for step in steps) > 0) == (level != "off")
    (check,) = (event["check"] for event in events(run, "exported"))
    assert check["passed"] and events(run, "sample") and events(run, "drift")
