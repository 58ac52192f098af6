"""What a config says without effect: the rules that need nothing but the config itself (no grid, no checkpoint)."""

from .flat import RunConfig, differences
from .options import shown
from .sections import LoraConfig, RolloutConfig, probability_at

NOT_IN_PAPER_MODE = ("strategy", "grid", "grid_steps", "min_sigma")
"""Rollout options that `reflexflow_mode` "paper" does without; what would contradict it is refused."""


def idle_remarks(config: RunConfig) -> list[str]:
    """Sentences about settings that differ from their default but do nothing in this config.

    A setting that contradicts another is a fault and refused; one that merely waits for another to matter is said here.
    """
    return [*idle_rollout(config), *idle_elsewhere(config)]


def idle_rollout(config: RunConfig) -> list[str]:
    rollout, training = config.rollout, config.training
    prefix = RolloutConfig.prefix
    changed = differences(config)
    said = []
    if not rollout.active:
        waiting = [name for name in changed if name.startswith(prefix)]
        if waiting:
            why = (
                "max_step_offset is 0"
                if rollout.max_step_offset == 0
                else ("probability is 0" if rollout.ramp_steps == 0 else "prob_start and prob_end are 0")
            )
            said.append(f"Nothing will be rolled out, because {prefix}{why}; without effect: {', '.join(waiting)}.")
    else:
        if rollout.ramp_steps > 0 and rollout.probability > 0:
            said.append(
                f"{prefix}probability = {shown(rollout.probability)} is not used: ramp_steps is above 0, so prob_start and prob_end hold."
            )
        if rollout.ramp_steps == 0:
            idle = [name for name in ("prob_start", "prob_end", "ramp_shape") if prefix + name in changed]
            if idle:
                said.append(f"Not used, because {prefix}ramp_steps is 0: {', '.join(prefix + name for name in idle)}.")
        if rollout.start_step >= training.max_train_steps:
            said.append(
                f"{prefix}start_step = {rollout.start_step} lies beyond the {training.max_train_steps} steps of the run."
            )
        elif rollout.ramp_steps and rollout.start_step + rollout.ramp_steps > training.max_train_steps:
            end = shown(round(probability_at(rollout, training.max_train_steps), 4))
            said.append(f"The ramp ends after the run: the chance reaches {end}, not {shown(rollout.prob_end)}.")
        if rollout.grid == "training" and prefix + "grid_steps" in changed and rollout.reflexflow_mode != "paper":
            said.append(f'{prefix}grid_steps is not used: {prefix}grid is "training".')
        if rollout.control == "source_noise":
            walking = tuple(prefix + name for name in ("reflexflow", "target", "guidance"))
            idle = [name for name in changed if name.startswith(walking)]
            said.append(
                f'{prefix}control is "source_noise": no row is rolled out; the chosen ones train as plain rows at the noise level of '
                "their start." + (f" Without effect: {', '.join(idle)}." if idle else "")
            )
        elif config.model.is_flow() is False or rollout.reflexflow is False:
            idle = [name for name in changed if name.startswith(prefix + "reflexflow_")]
            if idle:
                said.append(f"Not used, because ReflexFlow is off here: {', '.join(idle)}.")
        elif rollout.reflexflow_mode == "paper":
            idle = [prefix + name for name in NOT_IN_PAPER_MODE if prefix + name in changed]
            if idle:
                said.append(f'Not used, because {prefix}reflexflow_mode is "paper", whose step has any length: {", ".join(idle)}.')
        elif rollout.reflexflow_step_gradient:
            said.append(f'{prefix}reflexflow_step_gradient is not used: {prefix}reflexflow_mode is not "paper".')
        if rollout.walks:
            said.append(
                "Scheduled sampling is experimental: compare with a plain run at equal steps and at equal time."
            )
    return said


def idle_elsewhere(config: RunConfig) -> list[str]:
    training, data = config.training, config.data
    changed = differences(config)
    said = []
    if not data.with_prior_preservation:
        idle = [name for name in ("class_prompt", "class_data_dir", "prior_loss_weight", "num_class_images", "class_sample_steps",
                                  "class_sample_guidance") if name in changed]  # fmt: skip
        if idle:
            said.append(f"Not used, because with_prior_preservation is false: {', '.join(idle)}.")
    if training.model_type == "full":
        idle = [name for name in changed if name.startswith(LoraConfig.prefix)]
        if idle:
            said.append(f'Not used, because model_type is "full": {", ".join(idle)}.')
    if not training.use_ema and "ema_decay" in changed:
        said.append("ema_decay is not used: use_ema is false.")
    if training.loss_type != "huber" and "huber_delta" in changed:
        said.append('huber_delta is not used: loss_type is not "huber".')
    if training.optimizer == "adafactor":
        idle = [name for name in ("adam_beta1", "adam_beta2", "adam_epsilon") if name in changed]
        if idle:
            said.append(f"Not used by adafactor: {', '.join(idle)}.")
    if training.timestep_sampling in ("uniform", "mode"):
        idle = [name for name in ("logit_mean", "logit_std") if name in changed]
        if idle:
            said.append(f'Not used, because timestep_sampling is "{training.timestep_sampling}": {", ".join(idle)}.')
    if training.timestep_sampling != "mode" and "mode_scale" in changed:
        said.append('mode_scale is not used: timestep_sampling is not "mode".')
    if training.loss_weighting == "sigma_sqrt":
        said.append(
            'loss_weighting "sigma_sqrt" and precondition_outputs cancel each other: this is the plain loss of the velocity.'
            if training.precondition_outputs else 'loss_weighting "sigma_sqrt" without precondition_outputs lets the few cleanest rows '
            "carry nearly all of the loss: it grows as 1 / sigma^2. diffusers' script for SD 3 has both on."
        )  # fmt: skip
    if training.optimizer == "prodigy" and training.learning_rate < 0.1:
        said.append(
            f"learning_rate = {training.learning_rate:g} slows prodigy down: it finds its own rate; 1 is usual."
        )
    return said
