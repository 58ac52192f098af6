"""A loaded model with changeable weights: its base, LoRA files beside it, the checkpoints of runs."""

import gc
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import OPTIONS, LoraConfig
from ..families.loading import WHOLE
from ..runs import checkpoint
from .preview.request import SAME_MODEL, PreviewError, Weights
from .remembering import Memory, Remembering
from .together import check_together

if TYPE_CHECKING:
    from ..adapters.strength import Trained
    from ..config import RunConfig
    from ..families.base import Model

Words = tuple[str, Mapping[str, Tensor]]
"""A trigger word, and the text encoders' embeddings of its new tokens; none for most."""
ADAPTERS_KEPT = 4


class Bench:
    """The one loaded model, the adapters beside it, and the memory. Everything is loaded on first use."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self.memory = Memory()
        self._key: Any = None
        self._config: RunConfig | None = None
        self._adapters: OrderedDict[str, str] = OrderedDict()  # state -> the adapter's name, least recently used first
        self._words: dict[str, Words] = {}  # state -> the new tokens that belong to its adapter
        self._base: dict[str, Tensor] | None = None  # the base's weights, while those of a full fine-tune are in place
        self._state = "base"
        self._trained: Trained = {}  # of DoRAs at another strength than 1
        self._numbers = 0
        self._tuner = ""

    def is_open(self, config: "RunConfig") -> bool:
        """Whether the config's model is the one that is loaded."""
        return self.model is not None and self._key == (config.model, config.training.flow_schedule_shift)

    def open(self, config: "RunConfig") -> "Model":
        """The config's model; another one that was loaded goes first."""
        if not self.is_open(config):
            from ..families import load_model

            self.free()
            shift = config.training.flow_schedule_shift
            self.model = load_model(config.model, flow_shift=shift, for_training=False)
            self._key, self._config = (config.model, shift), config
        return self.model

    def free(self) -> None:
        """Give the memory back: model, adapters, everything remembered."""
        self.model, self._key, self._config, self._base, self._state = None, None, None, None, "base"
        self._numbers = 0
        self._forget_adapters()
        self.memory.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _forget_adapters(self) -> None:
        self._adapters.clear()
        self._words.clear()
        self._trained.clear()

    def with_weights(self, weights: Weights) -> Remembering:
        """The open model with these weights in place, and the LoRAs beside them. Raises PreviewError where they are missing, do not fit it, or
        cannot act together."""
        check_together(weights)
        acting = {self._loaded(each): each.strength for each in weights.together}
        if not acting.keys() <= self._adapters.keys():  # a full fine-tune, which has no adapter and is in place now
            return Remembering(self.model, self._state, self.memory)
        with_words = [state for state in acting if self._words[state][1]]
        if len(with_words) > 1:
            labels = " and ".join(each.label for each in weights.together if self._loaded(each) in with_words)
            raise PreviewError(
                f"{labels} bring new tokens of their own: the text encoders have room for one trigger word's.",
                "Draw with them one after the other.",
            )
        # at 0 a LoRA changes nothing but for its new tokens
        self._activate({state: each for state, each in acting.items() if each != 0 or state in with_words})
        return Remembering(self.model, self._state, self.memory)

    def _activate(self, acting: Mapping[str, float]) -> None:
        """The loaded adapters with these states at their strengths, on the text encoders too where they have layers there; none: the base."""
        from ..adapters.strength import act
        from ..adapters.text_encoders import put_tokens

        self._unload_full()
        if self.model.has_adapter:
            act(self.model, {self._adapters[state]: strength for state, strength in acting.items()}, self._trained)
        word, rows = next((self._words[state] for state in acting if self._words[state][1]), ("", {}))
        put_tokens(self.model, word, rows)
        for state in acting:
            self._adapters.move_to_end(state)
        self._state = (
            " + ".join(state if each == 1 else f"{each!r} {state}" for state, each in acting.items()) or "base"
        )

    def _loaded(self, weights: Weights) -> str:
        """Load what these weights name, where it is not loaded yet; its state."""
        state = self._lora_file(weights) if weights.kind == "lora" else self._checkpoint(weights)
        if state in self._adapters:
            self._adapters.move_to_end(state)
        return state

    def _lora_file(self, weights: Weights) -> str:
        from ..adapters.lora_file import LoraError, read_lora_header

        try:
            path = read_lora_header(weights.path).path
        except LoraError as error:
            raise PreviewError(error.message, error.remedy) from error
        state = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        if state not in self._adapters:
            self._load_adapter(state, path)
        return state

    def _checkpoint(self, weights: Weights) -> str:
        """The state of a run's checkpoint, loaded; of its moving average where it has one, because that is what is exported."""
        folder = weights.checkpoint
        if not (folder / checkpoint.MANIFEST).is_file():
            there = [str(checkpoint.step_of(path)) for path in checkpoint.checkpoints(folder.parent)]
            raise PreviewError(
                f"{weights.path.name} has no checkpoint of step {weights.step}.",
                f"Choose one that is there: {', '.join(there)}." if there else "It has none yet: save one first.",
            )
        state = hashlib.blake2b((folder / checkpoint.MANIFEST).read_bytes(), digest_size=16).hexdigest()
        if state in self._adapters or self._state == state:  # or a full fine-tune that is in place
            return state
        found = checkpoint.load(folder)
        trained = found.record["config"]
        here = {name: getattr(self._config.model, name) for name in SAME_MODEL}
        # a run of an older version does not know every option
        other = [f"{name}: {trained.get(name)}, here {here[name]}" for name in here if trained.get(name) != here[name]]
        if other:
            raise PreviewError(
                f"{weights.label} was trained on another model ({'; '.join(other)}).", "Choose the run's own model."
            )
        tensors = found.tensors["ema"] if "ema" in found.tensors else found.tensors["trainable"]
        if trained["model_type"] == "lora":
            from ..adapters.text_encoders import rows_of

            own = {
                each.field: trained[name]
                for name, each in OPTIONS.items()
                if each.section == "lora" and name in trained
            }
            self._load_adapter(state, tensors, LoraConfig(**own), (str(trained.get("trigger_word")), rows_of(tensors)))
        else:
            self._load_full(state, tensors)
        return state

    def _load_adapter(
        self,
        state: str,
        source: Path | Mapping[str, Tensor],
        trained: LoraConfig | None = None,
        words: Words | None = None,
    ) -> None:
        """Load a LoRA beside the others; the oldest goes. `source`: a file, or a checkpoint's tensors with their run's settings. `words`: its new
        tokens; None = those of the embedding file beside it. Raises PreviewError where it does not fit."""
        from ..adapters.embedding_files import words_beside
        from ..adapters.header import ExportError
        from ..adapters.kinds import tuner
        from ..adapters.loading import drop, load_lora, restore_adapter
        from ..adapters.lora_file import LoraError, read_lora_header

        self._unload_full()
        kind = read_lora_header(source).kind if trained is None else trained.type
        if self._adapters and self._tuner != tuner(kind):  # layers of two kinds do not stand in one another
            self._strip()
        self._tuner = tuner(kind)
        while len(self._adapters) >= ADAPTERS_KEPT:
            old, adapter = self._adapters.popitem(last=False)
            drop(self.model, adapter)
            del self._words[old]
            self._trained = {place: kept for place, kept in self._trained.items() if place[0] != adapter}
        self._numbers += 1
        name = f"preview{self._numbers}"
        try:
            words = words_beside(self.model, source) if words is None else words  # type: ignore[arg-type] # then it is a path
            if trained is None:
                load_lora(self.model, source, name, text_encoders=bool(self.model.facts.trained_encoders))
            else:
                restore_adapter(self.model, trained, source, name)
        except (LoraError, ExportError) as error:
            raise PreviewError(error.message, error.remedy) from error
        self._adapters[state], self._words[state] = name, words

    def _strip(self) -> None:
        """Take all adapters off, and their layers out of the network, which then has its own names again. The base's weights stay where they are,
        and what was remembered of other weights stays true."""
        from ..adapters.loading import drop_all
        from ..adapters.text_encoders import put_tokens

        drop_all(self.model)
        put_tokens(self.model, "", {})
        self._forget_adapters()
        self._state = "base"

    def _load_full(self, state: str, tensors: Mapping[str, Tensor]) -> None:
        """The weights of a full fine-tune in place of the base's, which are kept aside."""
        if self.model.storage != WHOLE:
            raise PreviewError(
                "The checkpoint is of a full fine-tune, and base_model_quantization or streamed_blocks keep a frozen base.",
                "Open it with the settings of its own run.",
            )
        self._strip()
        self._unload_full()
        own = self.model.denoiser.state_dict()
        wrong = sorted(name for name in own.keys() | tensors.keys() if name not in tensors or name not in own or own[name].shape != tensors[name].shape)  # fmt: skip
        if wrong:
            raise PreviewError(
                f"The checkpoint does not fit {self.model.source.name}: {len(wrong)} weights differ, as {wrong[0]}.",
                "Choose a checkpoint of a run on this model.",
            )
        self._base = {name: tensor.detach().to("cpu", copy=True) for name, tensor in own.items()}
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        self._state = state

    def _unload_full(self) -> None:
        if self._base is not None:
            with torch.no_grad():
                for name, tensor in self.model.denoiser.state_dict().items():
                    tensor.copy_(self._base[name])
            self._base, self._state = None, "base"
