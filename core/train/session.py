"""What a training works with, put together: model, pictures, adapter, optimizer, schedule, moving average."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..adapters.files import check_layout
from ..adapters.text_encoders import check_trainable
from ..adapters.trainable import attach, trainable_names, trainable_parameters
from ..before.installation import why_not_compile
from ..before.preflight import cache_folder
from ..config import RunConfig
from ..data import Prepared, Scan, prepare, scan
from ..data.tidying import tidy
from ..families import load_model
from ..families.base import Model
from ..families.streaming import checkpoint_blocks
from ..maths import reflexflow
from .compiling import compile_network
from .listening import Listener
from .live_text import conditioning_of, own_rates
from .optimizers import Average, Schedule, make_optimizer
from .outcome import Refused, main_first
from .sharding import Shares, is_sharded, own_part

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Session:
    """The parts; which they are does not change while a run trains, only what is in the weights."""

    config: RunConfig
    accelerator: "Accelerator"
    model: Model
    data: Prepared
    names: list[str]
    """Of the trainable parameters, in the order of `parameters`."""
    parameters: list[Tensor]
    optimizer: Optimizer
    schedule: Schedule
    average: Average | None
    shares: Shares | None = None
    """Where the weights are divided among the processes: then `parameters`, moments and average are this rank's shares."""

    def displayed_weights(self) -> AbstractContextManager[None]:
        """Inside: the moving average where there is one. It is what is exported, so it is what is sampled and measured. Of divided weights the
        model has all of them inside: for rank 0, in a block that is `led`."""
        if self.shares is not None:
            return self.shares.whole("trained" if self.average is None else "average")
        return nullcontext() if self.average is None else self.average.in_place()

    def trained_weights(self) -> AbstractContextManager[None]:
        """Inside: the weights that are trained, also in the middle of `displayed_weights`."""
        return nullcontext() if self.average is None or self.shares is not None else self.average.set_aside()

    def led(self) -> AbstractContextManager[None]:
        """A block that every rank enters, at whose end the others have done what rank 0 asked of them (`Shares.led`)."""
        return nullcontext() if self.shares is None else self.shares.led()

    def largest_weight(self) -> Tensor:
        """The largest absolute value among this rank's trained weights and their average, a number on the device: not finite where one of them is not.
        Cost: one look at each."""
        average = [] if self.average is None else self.average.values
        weights = [own_part(parameter.detach()) for parameter in (*self.parameters, *average)]
        return torch.nn.utils.get_total_norm([each for each in weights if each.numel()], norm_type=math.inf)

    def data_fingerprint(self) -> dict[str, str]:
        """Name -> fingerprint of a picture and its caption; of a large set one fingerprint for all. Order counts."""
        rows = [
            *((item.name, item.content, item.caption) for item in self.data.items),
            *(
                (f"{row.name} at {shape}", row.latents, row.caption)
                for shape, rows in self.data.class_rows.items()
                for row in rows
            ),
        ]
        if len(rows) > 1000:
            return {f"{len(rows)} rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}
        return {
            name: hashlib.sha256(f"{place} {digest} {caption}".encode()).hexdigest()[:16]
            for place, (name, digest, caption) in enumerate(rows)
        }

    def free_what_training_does_not_need(self) -> None:
        """On an accelerator, text encoders and VAE make room; sampling brings back what it needs. On a CPU they stay:
        the memory is there.
        """
        if self.model.device.type != "cpu":
            self.model.free_text_encoders()
            self.model.free_vae()


def open_session(
    config: RunConfig,
    accelerator: "Accelerator",
    listener: Listener,
    choose: Callable[[Scan, int], Scan] | None = None,
) -> Session:
    """Load the model, prepare the pictures, attach the adapter, make the optimizer.

    `choose`: of what the scan found and for this batch size, the pictures that are prepared; None = all.

    Raises: Refused, ModelError, DatasetError for what cannot be trained; Leave where a signal or a stop came meanwhile.
    Cost: seconds to minutes; pictures that are in the cache already cost next to nothing.
    """
    training = config.training
    model = _open_model(config, listener)
    with main_first(listener.status.ranks):
        data = _prepare_data(model, config, listener, choose)
    attach(model, config)
    check_layout(model, config)
    if training.gradient_checkpointing:
        checkpoint_blocks(model.denoiser)
    ranks = listener.status.ranks
    shares = Shares(model, ranks) if is_sharded(config, ranks) else None
    if training.compile:
        _compile(model, config, data, accelerator, listener)
    parameters = trainable_parameters(model)
    optimizer = make_optimizer(training, parameters, own_rates(config, trainable_names(model), parameters))
    average = Average(parameters, training.ema_decay) if training.use_ema else None
    if shares is not None:
        shares.offer({"trained": parameters, "average": [] if average is None else average.values})
    return Session(
        config=config,
        accelerator=accelerator,
        model=model,
        data=data,
        names=trainable_names(model),
        parameters=parameters,
        optimizer=optimizer,
        schedule=Schedule(training, optimizer),
        average=average,
        shares=shares,
    )


def _compile(model: Model, config: RunConfig, data: Prepared, accelerator: "Accelerator", listener: Listener) -> None:
    wrong = why_not_compile(model.device.type)
    if wrong is not None:
        raise Refused(*wrong)
    batch = data.batch(0)
    batch = replace(batch, conditioning=conditioning_of(model, config, batch, 0))
    compile_network(
        model, batch, rolls_out=config.rollout.rolls_out, autocast=accelerator.autocast, progress=listener.progress
    )


def _open_model(config: RunConfig, listener: Listener) -> Model:
    training = config.training
    listener.progress("model", 0, 1)
    model = load_model(config.model, flow_shift=training.flow_schedule_shift)
    check_trainable(model.facts, config)
    model.text.stay = config.text_encoder.is_on
    try:
        reflexflow.is_on(config.rollout, model.noise_path)
    except ValueError as error:
        raise Refused(str(error), "Set scheduled_sampling_reflexflow to null or false.") from error
    unfit = None if config.remedy is None else config.remedy.unfit(model.prediction_type)
    if unfit is not None:
        raise Refused(
            f"{unfit}, and {model.name} predicts {model.prediction_type}.", f"Set {config.remedy.off_in_words}."
        )
    wrong = training.not_for(is_flow=model.is_flow)
    if wrong:
        only = "not defined for flow models" if model.is_flow else "defined for flow models only"
        raise Refused(
            f"{', '.join(wrong)}: {only}, and {model.name} predicts {model.prediction_type}.",
            "Leave it out." if model.is_flow else "Leave it out; snr_gamma weighs by noise level there.",
        )
    listener.progress("model", 1, 1)
    return model


def _prepare_data(
    model: Model, config: RunConfig, listener: Listener, choose: Callable[[Scan, int], Scan] | None
) -> Prepared:
    found: Scan = scan(config.data, listener.progress)
    if found.errors:
        raise Refused(
            "The pictures cannot be used: " + " ".join(f"{fault.where}: {fault.message}" for fault in found.errors),
            " ".join(dict.fromkeys(fault.remedy for fault in found.errors)),
        )
    if choose is not None:
        found = choose(found, config.training.train_batch_size)
    status, began = listener.status, time.perf_counter()
    folder = cache_folder(config, status.run.path.parent)
    data = prepare(model, config, found, folder, listener.progress)
    for problem in data.problems:
        if problem.level != "note":
            status.warn(f"{problem.where}: {problem.message}", problem.remedy)
    removed = tidy(folder, config.data.data_cache_limit_gb * 1e9)
    counts = data.counts
    status.emit(
        "prepared",
        seconds=round(time.perf_counter() - began, 2),
        reused=counts.reused,
        made=counts.made,
        rebuilt=counts.rebuilt,
        class_pictures=counts.generated,
        encoders_opened=model.text.were_opened,
        encoders_trained=list(model.facts.trained_encoders) if config.text_encoder.is_on else [],
        removed_bytes=removed.bytes_,
    )
    return data
