"""The parts of ComfyUI that the bridges touch, as small fakes around a tiny diffusers model.

They follow ComfyUI 0.3.64 (commit a125cd84): `comfy/samplers.py` (`calc_cond_batch`, `encode_model_conds`), `comfy/model_base.py`
(`BaseModel.apply_model`, `extra_conds`), `comfy/model_sampling.py` (tables and meanings), `comfy/model_patcher.py` (clone, object and
weight patches), `comfy/sampler_helpers.py`, `comfy/sd.py` (CLIP, VAE, `load_lora_for_models`), `folder_paths.py`. The same in a real
server: `tools/comfy_check.py`.
"""

import copy
import sys
from types import SimpleNamespace

import torch

# ---- comfy/model_sampling.py


class EPS:
    def calculate_input(self, sigma, noise):
        return noise / (sigma**2 + 1) ** 0.5

    def calculate_denoised(self, sigma, output, noisy):
        return noisy - output * sigma


class V_PREDICTION(EPS):
    def calculate_denoised(self, sigma, output, noisy):
        return noisy / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5


class CONST(EPS):
    def calculate_input(self, sigma, noise):
        return noise


class LCM(EPS):
    pass


class ModelSamplingDiscrete(torch.nn.Module):
    def __init__(self, alphas):
        super().__init__()
        self.register_buffer("sigmas", ((1 - alphas) / alphas).sqrt().float())

    def timestep(self, sigma):
        """Rounded to the nearest entry."""
        return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(0)


class ModelSamplingDiscreteFlow(torch.nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def timestep(self, sigma):
        return sigma * 1000


def sampling(table, meaning, *given):
    return type("ModelSampling", (table, meaning), {})(*given)


# ---- comfy/supported_models.py: only the names count


class SD15: ...


class SD20: ...


class SDXL: ...


class SD3: ...


class Flux: ...


# ---- comfy/model_base.py, model_patcher.py, sd.py


class Network:
    """`BaseModel`, with a tiny model of ours in place of its network."""

    def __init__(self, own, kind, model_sampling):
        self.own, self.model_sampling = own, model_sampling
        self.diffusion_model = own.denoiser
        self.latent_format = SimpleNamespace(latent_channels=own.latent_channels)
        self.model_config = kind()
        self.model_config.unet_config = {"in_channels": own.latent_channels}
        self.current_patcher = None
        self.scale = 1.0
        """What the patches make of the answer."""

    def extra_conds(self, cross_attn, pooled_output=None, width=None, height=None, **more):
        found = {"c_crossattn": cross_attn}
        return found if pooled_output is None else {**found, "y": pooled_output}

    def apply_model(self, x, sigma, c_crossattn, y=None, transformer_options=None):
        assert self.current_patcher is not None, "pre_run was not called"
        wide = sigma.reshape(-1, 1, 1, 1)
        cond = {"prompt_embeds": c_crossattn} | ({} if y is None else {"pooled_prompt_embeds": y})
        t = self.model_sampling.timestep(sigma).float()
        given = self.model_sampling.calculate_input(wide, x)
        output = self.scale * self.own.forward(self.own.denoiser, given, t, cond)
        return self.model_sampling.calculate_denoised(wide, output, x)

    def process_latent_in(self, latents):
        return self.own.codec.scale(latents)

    def process_latent_out(self, latents):
        return self.own.codec.unscale(latents)


class Patcher:
    """`ModelPatcher`: clones share the model, and what is patched acts only while that clone is loaded."""

    def __init__(self, model, patches=None, objects=None):
        self.model, self.patches, self.objects = model, patches or {}, objects or {}
        self.load_device, self.model_options = torch.device("cpu"), {"transformer_options": {}}
        self._plain = {}

    def clone(self):
        made = Patcher(self.model, {name: list(each) for name, each in self.patches.items()}, dict(self.objects))
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def add_object_patch(self, name, value):
        self.objects[name] = value

    def get_model_object(self, name):
        return self.objects.get(name, getattr(self.model, name))

    def add_patches(self, loaded, strength):
        for name in loaded:
            self.patches.setdefault(name, []).append(strength)
        return list(loaded)

    def pre_run(self):
        self.model.current_patcher = self

    def cleanup(self):
        self.model.current_patcher = None


class Clip:
    def __init__(self, own, pooled):
        self.own, self.pooled = own, pooled
        self.cond_stage_model = own.text.opened()[0]
        self.patcher = Patcher(SimpleNamespace())

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        [found] = self.own.encode_prompts([text])
        return [
            [
                found["prompt_embeds"][None],
                {"pooled_output": found["pooled_prompt_embeds"][None]} if self.pooled else {},
            ]
        ]

    def clone(self):
        made = Clip(self.own, self.pooled)
        made.patcher = self.patcher.clone()
        return made


class Vae:
    def __init__(self, own):
        self.own, self.first_stage_model = own, own.vae
        self.latent_channels, self.downscale_ratio = own.latent_channels, own.latent_scale

    def encode(self, pictures):
        return self.own.codec.encoded(pictures.movedim(-1, 1) * 2 - 1, None)

    def decode(self, latents):
        return (self.own.codec.decoded(latents) / 2 + 0.5).clamp(0, 1).movedim(1, -1)


# ---- comfy/samplers.py, sampler_helpers.py


def prepare_sampling(patcher, shape, conds, model_options=None):
    """Load this clone: the patches of another one go."""
    plain = patcher.model.__dict__.setdefault("plain", patcher.model.model_sampling)
    patcher.model.model_sampling = patcher.objects.get("model_sampling", plain)
    patcher.model.scale = 1 + sum(sum(each) for each in patcher.patches.values())


def calc_cond_batch(model, conds, x, sigma, options):
    call = options.get(
        "model_function_wrapper", lambda apply, given: apply(given["input"], given["timestep"], **given["c"])
    )
    return [
        call(model.apply_model, {"input": x, "timestep": sigma, "c": each[0]["model_conds"]})
        if each
        else torch.zeros_like(x)
        for each in conds
    ]


def encode_model_conds(function, conds, noise, device, prompt_type):
    size = {
        "width": noise.shape[3] * 8,
        "height": noise.shape[2] * 8,
        "noise": noise,
        "device": device,
        "prompt_type": prompt_type,
    }
    return [
        {**each, "model_conds": function(**size, **{k: v for k, v in each.items() if k != "model_conds"})}
        for each in conds
    ]


def load_lora_for_models(model, clip, tensors, strength_model, strength_clip):
    """Layers of the network are known by the beginnings that `model_lora_keys_unet` lists; others are passed over with a warning."""
    layers = [name for name in tensors if ".lora_A." in name or ".lora_down." in name]
    own = [
        name
        for name in layers
        if name.startswith(("unet.", "lora_unet_", "diffusion_model.")) and "foreign" not in name
    ]
    changed = None if model is None else model.clone()
    if changed is not None:
        changed.add_patches(own, strength_model)
    text = None if clip is None else clip.clone()
    if text is not None:
        text.patcher.add_patches([name for name in layers if name.startswith("lora_te")], strength_clip)
    return changed, text


def install(monkeypatch, folders):
    """Put the fakes where a process with ComfyUI has its modules. `folders`: "output", "temp" and "loras"."""
    from safetensors.torch import load_file

    modules = {
        "comfy.samplers": SimpleNamespace(calc_cond_batch=calc_cond_batch, encode_model_conds=encode_model_conds),
        "comfy.sampler_helpers": SimpleNamespace(
            prepare_sampling=prepare_sampling,
            prepare_model_patcher=lambda patcher, conds, options: None,
            convert_cond=lambda conds: [{**more, "cross_attn": text, "model_conds": {}} for text, more in conds],
        ),
        "comfy.model_patcher": SimpleNamespace(create_model_options_clone=copy.deepcopy),
        "comfy.sd": SimpleNamespace(load_lora_for_models=load_lora_for_models),
        "comfy.utils": SimpleNamespace(load_torch_file=lambda path, safe_load: load_file(path)),
        "folder_paths": SimpleNamespace(
            get_output_directory=lambda: str(folders["output"]),
            get_temp_directory=lambda: str(folders["temp"]),
            get_folder_paths=lambda kind: [str(folders[kind])],
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def loaded(own, kind, table, meaning, *given, pooled=False):
    """(MODEL, CLIP, VAE) of a tiny model of ours, as CheckpointLoaderSimple gives them."""
    return Patcher(Network(own, kind, sampling(table, meaning, *given))), Clip(own, pooled), Vae(own)
