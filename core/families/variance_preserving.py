"""Models on a variance-preserving path: what their scheduler says, and what contradicts it."""

from ..maths.noise import PredictionType
from .base import Model
from .source import ModelError


class VariancePreservingModel(Model):
    """A model whose noise levels are the table of its checkpoint's scheduler; times are fractional training timesteps."""

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
