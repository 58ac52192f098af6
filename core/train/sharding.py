"""Full training of a network whose weights are divided among the processes: PyTorch's FSDP2 (`fully_shard`), a group of weights a block.

Each process keeps a share of every weight, of its gradient, its moments and its average: `torch.chunk` of it along the first axis. A call
of the network is work in common, so all processes make equally many in each micro-step (`Shares.agree`, `Shares.fill`), and one more than
was agreed is refused before anybody waits for it.

What rank 0 does alone (checkpoints, pictures, drift reports, the export) needs the shares of all: it asks for them (`Shares.ask`) at any
place of a block that all ranks enter (`Shares.led`, inside `agreed_end`), and the others answer at the end of that block.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..families.blocks import block_of
from ..families.ragged import OneLength
from ..memory import is_out_of_memory, return_memory
from ..remedies.base import Calls
from ..runs.checkpoint import WHOLE, Share
from .outcome import Broken, Refused, is_lost_rank
from .ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ..config import RunConfig
    from ..families.base import Model

_GO_ON = "go on"


def is_sharded(config: "RunConfig", ranks: Ranks) -> bool:
    """Whether the weights of this run are divided among its processes."""
    return config.training.shard_weights and ranks.world_size > 1


def share_of(config: "RunConfig", ranks: Ranks) -> Share:
    """Which part of a checkpoint this process needs."""
    return Share(ranks.rank, ranks.world_size) if is_sharded(config, ranks) else WHOLE


def shard(network: nn.Module, mesh: "DeviceMesh") -> None:
    """Divide a network's weights along the first axis, in place: each block is a group that comes and goes by itself, and what belongs to no
    block another. Gradients are added up over the processes, not averaged."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    names = {name.rpartition(".")[0] for name, _ in network.named_parameters()}
    blocks = set()
    for name in names:
        while (block := block_of(name + ".")) is not None:  # the innermost one, then the one around it
            blocks.add(block)
            name = block.rpartition(".")[0]
    for block in sorted(blocks, key=lambda each: (-each.count("."), each)):  # in the same order on every rank
        fully_shard(network.get_submodule(block), mesh=mesh, reshard_after_forward=True)
    # The outermost too: so a call costs the same messages whether or not a gradient is kept.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no average
            module.set_gradient_divide_factor(1.0)


class Shares:
    """The weights of a network, divided among the processes. Every rank makes one, of the same network."""

    def __init__(self, model: "Model", ranks: Ranks) -> None:
        """Divide the weights of the model's network. Raises: Refused for a network that cannot be divided."""
        from torch.distributed.device_mesh import init_device_mesh

        check_divisible(model)
        self.model, self.ranks, self.network = model, ranks, model.denoiser
        self.mesh = init_device_mesh(model.device.type, (ranks.world_size,))
        self._shell = _shell_of(self.network)
        shard(self.network, self.mesh)
        _empty(self._shell)
        self.calls = _Counted()
        self.network.register_forward_pre_hook(self.calls, prepend=True)
        self._answers: dict[str, Callable[[Any], None]] = {"whole": self._give}
        self._wanted: Mapping[str, Sequence[Tensor]] = {}

    # Calls of the network --------------------------------------------------------------------------------------------------

    def agree(self, mine: Sequence[Calls]) -> list[Calls]:
        """For each micro-step of an optimizer step, the calls that every rank makes in it: the most that one of them needs. A collective."""
        return [Calls.most(each) for each in zip(*self.ranks.gather(list(mine)), strict=True)]

    @contextmanager
    def counted(self, agreed: Calls) -> Iterator[None]:
        """Inside, the network may be called so often, and no more. Raises: Broken in place of one call too many."""
        self.calls.begin(agreed)
        try:
            yield
        finally:
            self.calls.begin(Calls(0, 0))

    def fill(self, agreed: Calls, ask: Callable[[], Tensor]) -> Tensor | float:
        """Make the calls that this rank was spared and others are not, by `ask`; what to add to the loss: zero, with a gradient of zeros."""
        made, nothing = self.calls.made, 0.0
        with torch.no_grad():
            for _ in range(agreed.without_gradient - made.without_gradient):
                ask()
        for _ in range(agreed.with_gradient - made.with_gradient):
            nothing = nothing + 0.0 * ask().sum()
        if self.calls.made != agreed:
            raise Broken(
                f"The network was called {self.calls.made} times in a micro-step, where the processes had agreed on {agreed}.",
                "Set shard_weights to false, and report this with the run's config.json.",
            )
        return nothing

    # What rank 0 asks of the others ------------------------------------------------------------------------------------------

    @contextmanager
    def led(self) -> Iterator[None]:
        """A block that every rank enters: inside, rank 0 may `ask`; the others answer when they are at its end, however they come there."""
        try:
            yield
        except Exception as error:  # a second signal is none, and waits for nobody
            if not is_lost_rank(error):
                self._end_of_block()
            raise
        self._end_of_block()

    def _end_of_block(self) -> None:
        if self.ranks.is_main:
            self.ask(_GO_ON)
            return
        while True:
            what, argument = self.ranks.gather(None)[0]
            if what == _GO_ON:
                return
            self._answers[what](argument)

    def ask(self, what: str, argument: Any = None) -> None:
        """Rank 0: have the others do their part of something in common, beside which this rank must do its own."""
        self.ranks.gather((what, argument))

    def answer(self, what: str, how: Callable[[Any], None]) -> None:
        """What this rank does when rank 0 asks for `what`."""
        self._answers[what] = how

    def offer(self, weights: Mapping[str, Sequence[Tensor]]) -> None:
        """What `whole` can put together: by name the shares of all weights, in the network's order."""
        self._wanted = weights

    @contextmanager
    def whole(self, which: str) -> Iterator[None]:
        """On rank 0, within a `led` block: inside, the model's network is an ordinary one, with all the weights of this name. The divided one
        and what trains it are untouched.

        Cost: the whole weights beside the share, on the device of rank 0; every weight is sent once.
        """
        self.ask("whole", which)
        try:
            _fill(self._shell, self._gathered(which))
            setattr(self.model.pipe, self.model.component, self._shell)
            yield
        finally:
            setattr(self.model.pipe, self.model.component, self.network)
            _empty(self._shell)

    @torch.no_grad()
    def _give(self, which: str) -> None:
        for share in self._wanted[which]:
            whole_value(share)

    @torch.no_grad()
    def _gathered(self, which: str) -> list[Tensor]:
        """All of them are asked for, whatever happens: the others give them all."""
        found: list[Tensor] = []
        full: Exception | None = None
        for share in self._wanted[which]:
            try:
                value = whole_value(share)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                full = error
                found.clear()
                return_memory()
                value = whole_value(share)
            if full is None:
                found.append(value)
        if full is not None:
            raise full
        return found

    # Numbers to and from checkpoints ----------------------------------------------------------------------------------------

    def placed(self, mine: Tensor, like: Tensor) -> Tensor:
        """This rank's rows of a weight, as read from a checkpoint, as a share of what `like` is a share of."""
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            mine.to(like.device),
            self.mesh,
            like.placements,
            shape=like.shape,
            stride=like.stride(),  # type: ignore[attr-defined]
        )


class _Counted:
    """Stands in front of every call of a network."""

    def __init__(self) -> None:
        self.made = self.allowed = Calls(0, 0)

    def begin(self, allowed: Calls) -> None:
        self.made, self.allowed = Calls(0, 0), allowed

    def __call__(self, network: nn.Module, given: Any) -> None:
        if self.made.total == self.allowed.total:
            raise Broken(
                f"A call of the network more than the {self.allowed.total} on which the processes had agreed: the others would not make it, and all "
                "would wait for ever.",
                "Set shard_weights to false, and report this with the run's config.json.",
            )
        self.made = self.made.one_more(with_gradient=torch.is_grad_enabled())


def check_divisible(model: "Model") -> None:
    """Raises: Refused for a network that is not divided here."""
    if isinstance(model, OneLength):
        raise Refused(
            f"shard_weights = true: {model.name} calls its network once for each length of caption, so processes with other captions would make "
            "other numbers of calls, and wait for ever.",
            "Set shard_weights to false, or take model_type lora.",
        )
    numbers = [name for name, value in model.denoiser.named_parameters() if value.ndim == 0]
    if numbers:
        raise Refused(
            f"shard_weights = true: {model.name} has weights that are single numbers and cannot be divided, the first {numbers[0]}.",
            "Set shard_weights to false, or take model_type lora.",
        )


def own_part(value: Tensor) -> Tensor:
    """This rank's rows of a share; of an ordinary tensor all."""
    return value.to_local() if hasattr(value, "to_local") else value


def whole_value(value: Tensor) -> Tensor:
    """What a share is a share of, put together from those of all ranks, each of which must call it at the same place; an ordinary tensor as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _shell_of(network: nn.Module) -> nn.Module:
    """A network of the same modules with the same weights and buffers, not copies of them."""
    return copy.deepcopy(network, {id(each): each for each in (*network.parameters(), *network.buffers())})


def _places(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where each parameter of `named_parameters` lies."""
    names = (name.rpartition(".") for name, _ in network.named_parameters())
    return [(network.get_submodule(module), name) for module, _, name in names]


def _fill(network: nn.Module, values: Sequence[Tensor]) -> None:
    for (module, name), value in zip(_places(network), values, strict=True):
        setattr(module, name, nn.Parameter(value))


def _empty(network: nn.Module) -> None:
    _fill(network, [torch.empty_like(each, device="meta") for each in network.parameters()])
