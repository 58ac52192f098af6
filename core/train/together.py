"""What an optimizer step asks of the network without gradient, for the rows of all its accumulation steps at once: its weights do not change
between them. So a rollout takes as many calls as the longest of the step, not as many as the longest of each micro-batch together.
"""

from collections.abc import Sequence

import torch

from ..data import Batch
from ..families.base import Model
from ..maths.noise import sent
from ..memory import Portions
from ..remedies.base import Batch as Rows
from ..remedies.base import Network, State, joined
from .reporting import StepTally
from .window import Draw

TIMES_A_BATCH, WHERE_CHECKPOINTED = 12, 3
"""How many times the rows of a micro-batch are asked for at once, also with gradient checkpointing: without gradient so many take no more memory
than the micro-batch itself takes with it, so that rolling out together never decides what fits. Counted on released networks at 256 to
1024 px (tools/count_step.py): 12.8 to 49 times, checkpointed 3.3 to 4.9."""


def states_of(
    model: Model, parts: Sequence[tuple[Batch, Draw]], portions: Portions, tally: StepTally, *, checkpointed: bool
) -> list[State | None]:
    """Where the rows of each part train. None: its remedy asks the network nothing for them, or there is no other part to ask with it.

    Draws nothing: the states are those that each part would find by itself, up to the rounding of larger calls. Latents of another
    shape are another call.
    checkpointed: whether the parts' own gradient is computed from checkpoints.
    Cost: counted in `tally`; of each part's prompts a copy on the device meanwhile.
    """
    times = WHERE_CHECKPOINTED if checkpointed else TIMES_A_BATCH
    found: list[State | None] = [None] * len(parts)
    of_shape: dict[tuple[int, ...], list[int]] = {}
    for place, (batch, draw) in enumerate(parts):
        if draw.remedy.asks(draw.plan):
            of_shape.setdefault(tuple(batch.latents.shape[1:]), []).append(place)
    for places in of_shape.values():
        if len(places) == 1:
            continue
        batches, draws = zip(*(parts[place] for place in places), strict=True)
        prompts, frames = ([one for batch in batches for one in getattr(batch, name)] for name in ("prompts", "frames"))
        latents = torch.cat([batch.latents for batch in batches])
        noise = sent(torch.cat([draw.noise for draw in draws]), latents)
        rows = Rows(latents, noise, model.framed(model.collate(prompts), frames))
        network = Network(model, rows.conditioning, portions, times * max(len(batch.latents) for batch in batches))
        plans = [draw.plan for draw in draws]
        states = draws[0].remedy.state(rows, joined(plans), network).split(plans)
        for place, state in zip(places, states, strict=True):
            found[place] = state
        tally.network_rows += network.rows
        tally.network_calls += network.calls
    return found
