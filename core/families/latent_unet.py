"""A UNet on a variance-preserving path, predicting epsilon, v or x0, with CLIP text: what several families share.

The network takes fractional timesteps: its embedding is sinusoidal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..maths.noise import PredictionType
from .base import Model, Prompt
from .layout import AsIs
from .source import ModelError


class LatentUNet(Model):
    """Everything but the text: it is encoded here by the pipeline of a single CLIP encoder."""

    layout = AsIs("sample")

    def checkpoint_prediction(self) -> PredictionType:
        if not hasattr(self.pipe.scheduler, "alphas_cumprod"):
            raise ModelError(
                f"'{self.source.name}' has a {type(self.pipe.scheduler).__name__}: not a variance-preserving schedule.",
                f"{self.facts.name} models need a DDPM-like scheduler (PNDM, DDIM, Euler, DPM-Solver ...) in their folder.",
            )
        return self.pipe.scheduler.config.get("prediction_type", "epsilon")

    def check(self, prediction: PredictionType) -> None:
        super().check(prediction)
        scheduler = self.pipe.scheduler
        if prediction != self.checkpoint_prediction():
            # The pipeline must sample what we train, so its scheduler gets it too.
            self.pipe.scheduler = scheduler = type(scheduler).from_config(scheduler.config, prediction_type=prediction)
        if prediction == "sample" and type(scheduler).__name__ == "PNDMScheduler":
            raise ModelError(
                f"prediction_type = sample, but the PNDM scheduler of '{self.source.name}' cannot step x0 predictions.",
                "Save the checkpoint with a DDIM scheduler, or take epsilon or v_prediction.",
            )

    @property
    def size_multiple(self) -> int:
        # The stock pipeline demands sides divisible by 8; the UNet pads what its down-sampling does not divide.
        return max(8, self.latent_scale)

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _ = self.pipe.encode_prompt([prompt], self.device, 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            return_dict=False,
            **self.extra_inputs(x, cond),
        )[0]

    def extra_inputs(self, x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Any]:
        """Further arguments of the network."""
        return {}

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = dict(self.collate(conditionings))
        if negative is not None:
            against = self.collate([negative] * len(conditionings))
            inputs |= {f"negative_{key}": value for key, value in against.items()}
        return inputs
