"""The model that is trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...families.registry import FAMILIES
from ..options import Checked, Fault, option, path_faults, shown

DEMO_PREDICTION_TYPES = {"demo-flow": "flow_matching", "demo-epsilon": "epsilon"}
"""What the built-in models predict; of other checkpoints only their folder knows."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """Which model is trained, and what it predicts."""

    title: ClassVar[str] = "Model"

    model_family: Literal["auto", *FAMILIES] = option(  # type: ignore[valid-type]  # the folders that there are
        "auto",
        "Kind of model; auto reads it from the checkpoint. Naming another family than the checkpoint's is refused.",
    )
    pretrained_model_name_or_path: str = option(
        "demo-flow",
        "The model to start from: demo-flow or demo-epsilon (built in, no download), a folder in the diffusers layout, a .safetensors checkpoint of "
        "A1111 or ComfyUI, or a hub id.",
        label="Model to start from",
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub id; unset = its main branch.", level="advanced")
    variant: str | None = option(
        None, "File variant of the checkpoint, for example fp16; unset = the plain files.", level="advanced"
    )
    pretrained_components: str | None = option(
        None,
        "Where a single-file checkpoint gets what is not in it (text encoders, VAE, tokenizers, configs): a folder in the diffusers layout or a "
        "hub id of the same kind of model; unset = the configs that come along, or the official model where weights are missing.",
        label="Rest of a single-file checkpoint",
        level="advanced",
        since="0.2",
    )
    base_model_precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32",
        "Number format of the frozen weights in memory; the 16-bit formats halve it.",
        label="Number format of the frozen weights",
        level="advanced",
    )
    base_model_quantization: Literal["none", "nf4", "int8", "int8_bnb", "fp8"] = option(
        "none",
        "Keep the frozen weights in 4 bits (nf4) or 8 (int8, fp8), for a LoRA on a smaller card; what is computed stays in "
        "base_model_precision. nf4 and int8_bnb need bitsandbytes and CUDA, int8 and fp8 need torchao.",
        label="Quantise the frozen weights",
        level="advanced",
        source="nf4: QLoRA (arXiv 2305.14314)",
        since="0.2",
    )
    streamed_blocks: int = option(
        0,
        "So many of the network's blocks keep their frozen weights in main memory and fetch them for each call, for a LoRA on a smaller "
        "card; slower, and they are computed twice as with gradient checkpointing. 0 = none.",
        label="Blocks streamed from main memory",
        unit="blocks",
        ge=0,
        le=1000,
        level="advanced",
        since="0.2",
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_matching"] | None = option(
        None,
        "What the network's output means; unset = what the checkpoint says, which is nearly always right.",
        label="What the network predicts",
        level="advanced",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto",
        "Where to compute; auto takes cuda, then mps, then cpu. With several GPUs cuda:0, cuda:1, ... is one of them, and cuda the first; "
        "runs on different devices train at the same time.",
        level="advanced",
        numbered="cuda",
    )

    def rules(self) -> Iterator[Fault]:
        yield from path_faults(self, "pretrained_model_name_or_path", "pretrained_components")
        if self.streamed_blocks and self.base_model_quantization in ("nf4", "int8_bnb"):
            yield Fault(
                f'base_model_quantization = "{self.base_model_quantization}": the layers of bitsandbytes keep their weights from the forward to '
                "the backward pass, so streamed_blocks would save nothing; take int8 or fp8 with it, or set streamed_blocks to 0.",
                ("base_model_quantization", "streamed_blocks"),
            )
        # Whether the checkpoint itself agrees is asked where it is opened: a file with only the keys of a rollout set-up names none.
        if self.prediction_type is None or self.model_family == "auto":
            return
        kinds = FAMILIES[self.model_family].predictions
        if self.prediction_type not in kinds:
            wanted = " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
            yield Fault(
                f"prediction_type = {shown(self.prediction_type)}: a {self.model_family} model takes {wanted}; "
                "leave prediction_type unset to follow the checkpoint.",
                ("prediction_type", "model_family"),
            )

    def known_prediction_type(self) -> str | None:
        """What the network predicts, as far as it is known without opening the checkpoint; None when only that can say."""
        if self.prediction_type is not None:
            return self.prediction_type
        if self.model_family != "auto":
            return "flow_matching" if FAMILIES[self.model_family].is_flow else None
        return DEMO_PREDICTION_TYPES.get(self.pretrained_model_name_or_path)

    def is_flow(self) -> bool | None:
        """Is it a flow model? None when only the checkpoint can say."""
        if self.model_family != "auto" and not FAMILIES[self.model_family].is_flow:
            return False
        known = self.known_prediction_type()
        return None if known is None else known == "flow_matching"
