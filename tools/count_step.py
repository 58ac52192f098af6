"""Count what a LoRA step of a released network keeps in memory beside its weights: every tensor of one forward and backward, without computing.

    python tools/count_step.py sdxl 1024 1               rows 1, with and without gradient checkpointing, and without a gradient

Runs on torch's meta device: no weights, no graphics card, seconds. Attention is counted as a fused kernel keeps it (its inputs, its output, one
number a row), the rest as PyTorch does. Weights and activations are bfloat16; autocast's casts and the allocator's gaps are not in it. The
figures behind `activations.CHECKPOINTED_UNET` and `together.TIMES_A_BATCH`; docs/training.md and docs/speed.md have them.
"""

import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))
from tiers import RELEASED, Released

FORMAT = torch.bfloat16


class Fused(torch.autograd.Function):
    """Attention, as a kernel that writes no matrix of scores."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class Live(TorchDispatchMode):
    """Bytes of all storages that are alive, weights aside, and the most there were."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        own = (*network.parameters(), *network.buffers())
        self._own = {each.untyped_storage()._cdata for each in own}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **({} if kwargs is None else kwargs))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes and key not in self._own:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def network_of(released: Released, checkpointing: bool) -> torch.nn.Module:
    import diffusers
    from peft import LoraConfig, inject_adapter_in_model

    torch.set_default_dtype(FORMAT)
    with torch.device("meta"):
        network = getattr(diffusers, released.network).from_config(released.config).requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        inject_adapter_in_model(
            LoraConfig(r=16, lora_alpha=16, target_modules=targets), network, low_cpu_mem_usage=True
        )
    torch.set_default_dtype(torch.float32)
    if checkpointing:
        network.enable_gradient_checkpointing()
    return network.train()


def made(*shape: int, dtype: torch.dtype = FORMAT) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def inputs(kind: str, config: Any, side: int, rows: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """The network's arguments for pictures of `side` pixels."""
    cells, whole = side // 8, torch.float32
    if kind == "UNet2DConditionModel":
        more = {
            "encoder_hidden_states": made(rows, 77, config.cross_attention_dim),
            "timestep": made(rows, dtype=whole),
        }
        if config.addition_embed_type == "text_time":
            more["added_cond_kwargs"] = {"text_embeds": made(rows, 1280), "time_ids": made(rows, 6)}
        return made(rows, 4, cells, cells), more
    more = {"encoder_hidden_states": made(rows, 512, config.joint_attention_dim), "timestep": made(rows)}
    if kind == "SD3Transformer2DModel":
        return made(rows, 16, cells, cells), more | {"pooled_projections": made(rows, config.pooled_projection_dim)}
    if kind == "FluxTransformer2DModel":
        tokens, ids = (cells // 2) ** 2, {"dtype": whole}
        more |= {"pooled_projections": made(rows, 768), "guidance": made(rows)}
        return made(rows, tokens, 64), more | {"img_ids": made(tokens, 3, **ids), "txt_ids": made(512, 3, **ids)}
    raise SystemExit(f"{kind}: its arguments are not written down here yet.")


def counted(name: str, side: int, rows: int, checkpointing: bool) -> int:
    """Bytes at the peak of one step, weights aside."""
    released = RELEASED[name]
    network = network_of(released, checkpointing)
    first, more = inputs(released.network, network.config, side, rows)
    live = Live(network)
    with live:
        network(first, **more, return_dict=False)[0].float().square().mean().backward()
    return live.peak


def without_gradient(name: str, side: int, rows: int) -> int:
    """Bytes at the peak of one call of a rollout, weights aside."""
    released = RELEASED[name]
    network = network_of(released, False).eval()
    first, more = inputs(released.network, network.config, side, rows)
    live = Live(network)
    with live, torch.no_grad():
        network(first, **more, return_dict=False)
    return live.peak


def main() -> None:
    warnings.simplefilter("ignore")
    torch.nn.functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: Fused.apply(
        query, key, value
    )
    name, side, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    plain, checkpointed = (counted(name, side, rows, each) for each in (False, True))
    alone = without_gradient(name, side, rows)
    print(
        f"{name} at {side} px, {rows} rows: {plain / 1e9:.2f} GB, checkpointed {checkpointed / 1e9:.2f} ({checkpointed / plain:.2f}); without a "
        f"gradient {alone / 1e9:.3f}, so {plain / alone:.1f} and {checkpointed / alone:.1f} times the rows take as much"
    )


if __name__ == "__main__":
    main()
