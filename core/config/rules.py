"""Which settings of a config do nothing, and why: one table, read by the command line's remarks, the preflight and the page's controls.

A setting that contradicts another is a fault and refused (`Checked.rules`); one that merely waits for another to matter stands here. The
rules need nothing but the config itself; what needs the grid of its noise levels is in `core.before`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..families.facts import FamilyFacts
from ..families.registry import FAMILIES
from ..names import is_model_file
from .flat import OPTIONS, RunConfig, differences
from .options import shown
from .sections import LoraConfig, RolloutConfig, TrainingConfig, probability_at
from .text_encoder_rules import LORA_PART, TOKEN_PART

PREFIX = RolloutConfig.prefix
ROLLOUT_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.section == "rollout")
NOT_IN_PAPER_MODE = ("strategy", "grid", "grid_steps", "min_sigma", "shared_offsets")
"""Rollout options that `reflexflow_mode` "paper" does without; what would contradict it is refused."""


@dataclass(frozen=True)
class Idle:
    """Options (flat names) that do nothing in a config, whether they were changed or not.

    `why`: in plain words, for the control of each. `because`: in the options' own names, for a sentence about those that were changed;
    the same where it is empty. `opening`: what that sentence begins with where "Not used" is too little.
    """

    options: tuple[str, ...]
    why: str
    because: str = ""
    opening: str = ""

    def sentence(self, changed: list[str]) -> str:
        """About those of the options that were changed."""
        if self.opening:
            return f"{self.opening}; without effect: {', '.join(changed)}."
        because = self.because if self.because else self.why
        if len(self.options) == 1:
            return f"{self.options[0]} is not used: {because}."
        return f"Not used, because {because}: {', '.join(changed)}."


def idle_remarks(config: RunConfig) -> list[str]:
    """Sentences about settings that differ from their default but do nothing in this config, or that need a caution."""
    return [*idle_rollout_remarks(config), *_sentences(config, _idle_elsewhere(config)), *_notes_elsewhere(config)]


def idle_rollout_remarks(config: RunConfig) -> list[str]:
    """`idle_remarks` about the rollout settings alone."""
    return [*_sentences(config, idle_rollout(config)), *_notes_on_rollout(config)]


def _sentences(config: RunConfig, table: Iterable[Idle]) -> list[str]:
    """A sentence for each rule of which a changed option is; an option belongs to the first rule that has it."""
    waiting, sentences = list(differences(config)), []
    for rule in table:
        changed = [name for name in waiting if name in rule.options]
        if changed:
            sentences.append(rule.sentence(changed))
            waiting = [name for name in waiting if name not in changed]
    return sentences


# What the rules rest on -----------------------------------------------------------------------------------------------------


def highest_chance(config: RunConfig) -> float:
    """The highest chance of a row to be rolled out at any step of the run; 0 when rollout is off."""
    rollout, last = config.rollout, config.training.max_train_steps - 1
    if not rollout.is_active:
        return 0.0
    # The ramp is monotonic and flat around: its extremes are at the run's first and last step.
    return max(rollout.probability_at(0), rollout.probability_at(last))


def reflexflow_on(config: RunConfig) -> bool | None:
    """Whether ReflexFlow takes part; None when only the checkpoint can say (it needs a flow model)."""
    if not config.rollout.rolls_out or config.rollout.reflexflow is False:
        return False
    return config.model.is_flow()


def in_paper_mode(config: RunConfig) -> bool:
    """Does the run roll out in ReflexFlow's `paper` mode? Also where only the checkpoint could rule it out."""
    return config.rollout.reflexflow_mode == "paper" and reflexflow_on(config) is not False


# The table ------------------------------------------------------------------------------------------------------------------


def idle_rules(config: RunConfig) -> Iterator[Idle]:
    """The rules of all sections that hold in this config."""
    yield from idle_rollout(config)
    yield from _idle_elsewhere(config)


def idle_rollout(config: RunConfig) -> Iterator[Idle]:
    """The rules of the rollout section that hold in this config."""
    nothing = _nothing_rolls(config)
    if nothing is not None:
        yield nothing
        return
    rollout = config.rollout
    if rollout.ramp_steps > 0:
        yield Idle(
            _named("probability"),
            "the ramp decides (its length is above 0)",
            "ramp_steps is above 0, so prob_start and prob_end hold",
        )
        if rollout.prob_start == rollout.prob_end:
            yield Idle(_named("ramp_shape"), "both ends of the ramp are alike")
    else:
        yield Idle(
            _named("prob_start", "prob_end", "ramp_shape"),
            "there is no ramp (its length is 0)",
            f"{PREFIX}ramp_steps is 0",
        )
        if rollout.probability == 1 and rollout.start_step == 0:
            yield Idle(_named("exact_share"), "every row is chosen anyway")
    if rollout.grid == "training":
        yield Idle(_named("grid_steps"), "the training grid has its own steps", f'{PREFIX}grid is "training"')
    if rollout.control == "source_noise":
        reflexflow = [name for name in ROLLOUT_OPTIONS if name.startswith(PREFIX + "reflexflow")]
        yield Idle(
            (*_named("sampler", "order", "guidance", "target", "max_evaluations"), *reflexflow),
            "no row is rolled out: this run is a control",
            opening=_CONTROL,
        )
    else:
        yield from _idle_solver(config)


def _nothing_rolls(config: RunConfig) -> Idle | None:
    """Why no row of the run is ever rolled out, if so, and all options that wait for it."""
    rollout, steps = config.rollout, config.training.max_train_steps
    ramped, start = rollout.ramp_steps > 0, f"{PREFIX}start_step = {rollout.start_step}"

    def all_but(*names: str) -> tuple[str, ...]:
        return tuple(each for each in ROLLOUT_OPTIONS if each not in _named(*names))

    if rollout.max_step_offset == 0:
        return Idle(
            all_but("max_step_offset"),
            "nothing is rolled out: the farthest start is 0",
            opening=_nothing(f"{PREFIX}max_step_offset is 0"),
        )
    if not rollout.is_active:
        causes: tuple[str, ...] = ("prob_start", "prob_end") if ramped else ("probability", "ramp_steps")
        because = "prob_start and prob_end are 0" if ramped else "probability is 0"
        return Idle(all_but(*causes), "nothing is rolled out: the chance is 0", opening=_nothing(PREFIX + because))
    if highest_chance(config) == 0:
        late = f"{start} lies beyond the {steps} steps of the run"
        because = (
            late
            if rollout.start_step >= steps
            else f"the chance grows only after {start}, and the run has {steps} steps"
        )
        causes = ("start_step", "prob_start", "ramp_steps") if ramped else ("start_step",)
        return Idle(
            all_but(*causes),
            "nothing is rolled out: it starts after the run",
            opening=f"Nothing will be rolled out in this run, because {because}",
        )
    if rollout.min_sigma >= 1 and not in_paper_mode(config):
        because = f"no row carries as much noise as {PREFIX}min_sigma = {shown(rollout.min_sigma)} asks for"
        return Idle(
            all_but("min_sigma"), "nothing is rolled out: no row carries that much noise", opening=_nothing(because)
        )
    return None


def _idle_solver(config: RunConfig) -> Iterator[Idle]:
    """The rules about the rollout's solver and the target of a rolled row."""
    rollout = config.rollout
    if reflexflow_on(config) is False:
        off = "ReflexFlow is switched off" if rollout.reflexflow is False else "ReflexFlow needs a flow model"
        idle = tuple(name for name in ROLLOUT_OPTIONS if name.startswith(PREFIX + "reflexflow_"))
        yield Idle(idle, off, "ReflexFlow is off here")
    elif rollout.reflexflow_mode == "paper":
        yield Idle(
            _named("sampler", "order", "target", "guidance", "max_evaluations"),
            "the paper's mode takes one Euler step and its own target",
        )
        yield Idle(
            _named(*NOT_IN_PAPER_MODE),
            "the paper's mode takes a step of any length",
            f'{PREFIX}reflexflow_mode is "paper", whose step has any length',
        )
    else:
        yield Idle(
            _named("reflexflow_step_gradient"), "the mode is single-pass", f'{PREFIX}reflexflow_mode is not "paper"'
        )
    if rollout.sampler in ("euler", "rk4"):
        yield Idle(_named("order"), f"{rollout.sampler} has no order")
    elif rollout.max_step_offset == 1:
        yield Idle(_named("order"), "over a single step every order is the same")
    evaluations = rollout.max_step_offset * (4 if rollout.sampler == "rk4" else 1)
    if not in_paper_mode(config) and rollout.max_evaluations >= evaluations:
        yield Idle(_named("max_evaluations"), "no rollout takes as many evaluations")
    if rollout.reflexflow_alpha == 0:
        yield Idle(_named("reflexflow_norm"), "the frequency weight is 1 everywhere")
    if rollout.target != "consistent":
        yield Idle(_named("snr_gamma"), "the target original does not grow towards clean pictures")
    elif config.model.is_flow():
        yield Idle(_named("snr_gamma"), "a flow model's cleanest rows are left out by the least noise for a rollout")
    elif config.model.known_prediction_type() == "sample":
        yield Idle(_named("snr_gamma"), "this model predicts the picture itself, whose target does not grow")


_CONTROL = f'{PREFIX}control is "source_noise": no row is rolled out; the chosen ones train as plain rows at the noise level of their start'


def _nothing(because: str) -> str:
    return f"Nothing will be rolled out, because {because}"


def _named(*fields: str) -> tuple[str, ...]:
    return tuple(PREFIX + field for field in fields)


def negative_prompt_is_idle(family: FamilyFacts | None) -> Idle | None:
    """The rule that a family without a second row for guidance leaves negative prompts without effect; None where it does not hold."""
    if family is None or family.guidance.takes_negative:
        return None
    return Idle(
        ("validation_negative_prompt",), f"{family.label} has no classifier-free guidance, and so no negative prompt"
    )


def _idle_elsewhere(config: RunConfig) -> Iterator[Idle]:
    training, no_negative = config.training, negative_prompt_is_idle(FAMILIES.get(config.model.model_family))
    if no_negative is not None:
        yield no_negative
    if not is_model_file(Path(config.model.pretrained_model_name_or_path).name):
        yield Idle(("pretrained_components",), "the model is no single file, and has all its parts")
    if config.data.output_preservation_weight == 0:
        yield Idle(("output_preservation_prompt",), "nothing is kept", "output_preservation_weight is 0")
    if not config.data.with_prior_preservation:
        idle: tuple[str, ...] = (
            *(("class_prompt",) if config.data.output_preservation_weight == 0 else ()),
            "class_data_dir",
            "prior_loss_weight",
            "num_class_images",
            "class_sample_steps",
            "class_sample_guidance",
        )
        yield Idle(idle, "there is no prior preservation", "with_prior_preservation is false")
    if config.data.masked_training == "off":
        yield Idle(("masked_background_weight",), "masks are off", 'masked_training is "off"')
    if config.data.concepts is not None and config.data.instance_data_dir is None and config.drift.data_dir is None:
        yield Idle(
            ("instance_prompt", "trigger_word", "class_prompt", "class_data_dir"), "the things are those of concepts", "instance_data_dir is unset and concepts names the things"
        )  # fmt: skip
    yield from _idle_remedies(config)
    if training.num_processes == 1:
        yield Idle(("max_restarts",), "only several processes are watched and started again", "num_processes is 1")
        yield Idle(
            ("shard_weights",),
            "one process has nobody to share with",
            "num_processes is 1 (with torchrun, its number of processes counts)",
        )
    if training.train_batch_size == 1 and not config.data.with_prior_preservation:
        yield Idle(("split_on_out_of_memory",), "a batch is a single row", "train_batch_size is 1")
    elif training.shard_weights and training.num_processes > 1:
        yield Idle(
            ("split_on_out_of_memory",),
            "processes that share weights cannot try a batch again",
            "shard_weights is true",
        )
    if training.model_type == "full":
        idle = tuple(name for name in OPTIONS if name.startswith(LoraConfig.prefix))
        yield Idle(idle, "all weights are trained, not an adapter", 'model_type is "full"')
    elif config.lora.type != "lokr":
        yield Idle(
            ("lora_lokr_factor",), "only lokr splits layers into two factors", f'lora_type is "{config.lora.type}"'
        )
    yield from _idle_text_encoder(config)
    if not training.use_ema:
        yield Idle(("ema_decay",), "no running mean is kept", "use_ema is false")
    if training.loss_type != "huber":
        yield Idle(("huber_delta",), "the distance is not huber", 'loss_type is not "huber"')
    if training.optimizer in ("adafactor", "lion", "came"):
        because = f'optimizer is "{training.optimizer}"'
        yield Idle(("adam_beta1", "adam_beta2", "adam_epsilon"), f"{training.optimizer} has its own", because)
    if training.timestep_sampling in ("uniform", "mode"):
        because = f'timestep_sampling is "{training.timestep_sampling}"'
        yield Idle(("logit_mean", "logit_std"), "noise levels are drawn another way", because)
    if training.timestep_sampling != "mode":
        yield Idle(("mode_scale",), "noise levels are drawn another way", 'timestep_sampling is not "mode"')


def _idle_remedies(config: RunConfig) -> Iterator[Idle]:
    """Of the remedies other than scheduled sampling: what waits for their switch."""
    soar = config.soar
    if not config.input_perturbation.is_active:
        yield Idle(("input_perturbation_control",), "no input is perturbed", "input_perturbation_gamma is 0")
    if soar.states == 0:
        yield Idle(
            ("soar_weight", "soar_guidance", "soar_step", "soar_control"), "there is no extra state", "soar_states is 0"
        )
    elif soar.weight == 0:
        yield Idle(
            ("soar_states", "soar_guidance", "soar_step", "soar_control"),
            "extra states count nothing",
            "soar_weight is 0",
        )
    elif not soar.acts:
        yield Idle(
            ("soar_guidance",),
            "this run is a control, whose states are made from the picture",
            'soar_control is "plain_states"',
        )
    if not config.mixflow.is_active:
        yield Idle(("mixflow_times", "mixflow_control"), "no input is ahead of its time", "mixflow_gamma is 0")
    if not config.dream.is_active:
        yield Idle(("dream_detail_preservation",), "DREAM is off", "dream_training is false")


def _idle_text_encoder(config: RunConfig) -> Iterator[Idle]:
    text, steps = config.text_encoder, config.training.max_train_steps
    if not text.train_text_encoder:
        yield Idle(LORA_PART, "the text encoders are not trained", "train_text_encoder is false")
    elif text.text_encoder_steps is not None and text.text_encoder_steps >= steps:
        yield Idle(("text_encoder_steps",), f"the run ends with step {steps}")
    if not text.new_tokens:
        yield Idle(TOKEN_PART, "the trigger word gets no new tokens", "new_tokens is 0")
    elif text.new_token_steps is not None and text.new_token_steps >= steps:
        yield Idle(("new_token_steps",), f"the run ends with step {steps}")


# What works, and needs a caution --------------------------------------------------------------------------------------------


def _notes_on_rollout(config: RunConfig) -> Iterator[str]:
    rollout, steps = config.rollout, config.training.max_train_steps
    if _nothing_rolls(config) is not None:
        return
    if rollout.start_step >= steps:
        yield f"{PREFIX}start_step = {rollout.start_step} lies beyond the {steps} steps of the run."
    elif rollout.ramp_steps and rollout.start_step + rollout.ramp_steps > steps:
        end = shown(round(probability_at(rollout, steps), 4))
        yield f"The ramp ends after the run: the chance reaches {end}, not {shown(rollout.prob_end)}."
    if rollout.rolls_out:
        yield "Scheduled sampling is experimental: compare with a plain run at equal steps and at equal time."
    elif not _sentences(config, (rule for rule in idle_rollout(config) if rule.opening == _CONTROL)):
        yield f"{_CONTROL}."


def _notes_elsewhere(config: RunConfig) -> Iterator[str]:
    training = config.training
    if training.loss_weighting == "noise_error" and config.model.known_prediction_type() == "epsilon":
        yield 'loss_weighting "noise_error" changes nothing here: the model predicts the noise itself.'
    words = [thing.trigger_word for thing in config.data.things if thing.trigger_word is not None]
    for word in dict.fromkeys(word for word in words if words.count(word) > 1):
        yield f'trigger_word "{word}" is that of {words.count(word)} things: a prompt with it means all of them, as if their pictures were one set.'
    if config.text_encoder.train_text_encoder and config.lora.dropout > 0:
        yield (
            "lora_dropout holds for the denoiser alone: the text encoders' LoRA has none, because rollout and loss share one encoding of each "
            "caption."
        )
    family = FAMILIES.get(config.model.model_family)
    if (
        training.model_type == "lora"
        and config.lora.layout == "diffusers"
        and family is not None
        and family.component == "unet"
    ):
        yield (
            f'lora_layout "diffusers": ComfyUI loads no layer of such a file for {family.label} (seen with 0.3.64); "kohya" is read by it, by Forge '
            "and AUTOMATIC1111, and by diffusers."
        )
    if training.loss_weighting == "sigma_sqrt":
        if training.precondition_outputs:
            yield 'loss_weighting "sigma_sqrt" and precondition_outputs cancel each other: this is the plain loss of the velocity.'
        else:
            yield (
                'loss_weighting "sigma_sqrt" without precondition_outputs lets the few cleanest rows carry nearly all of the loss: it grows '
                "as 1 / sigma^2. diffusers' script for SD 3 has both on."
            )
    yield from _notes_on_rate(training)


def _notes_on_rate(training: TrainingConfig) -> Iterator[str]:
    """What a learning rate means differs from optimizer to optimizer by factors of thousands."""
    rate = f"learning_rate = {training.learning_rate:g}"
    if training.optimizer == "prodigy" and training.learning_rate < 0.1:
        yield f"{rate} slows prodigy down: it finds its own rate; 1 is usual."
    if training.optimizer == "lion" and training.learning_rate >= 1e-4:
        yield f"{rate} is much for lion, which moves every weight by the whole rate: a third to a tenth of adamw's is usual, with more weight_decay."
    if training.optimizer == "adafactor" and training.learning_rate < 1e-3:
        yield (
            f"{rate} is little for adafactor, which multiplies it by the weights' own size (a LoRA's are small, of 0 it takes 0.001): "
            "about 1e-2 is usual."
        )
