"""ai-toolkit: its YAML (or the same as JSON), a job with a list of processes, of which one trains.

Facts: its example configs and the defaults of its config classes. What means something else there: several resolutions train side by side;
`timestep_type` names how noise levels are drawn; `[trigger]` in a caption or a prompt stands for the trigger word; precision is the network's.
"""

from typing import Any

from .contract import ImportedConfig, Near
from .families import family_called, words_of
from .reading import refused
from .sheet import Sheet, is_off, is_on, number
from .words import (
    MIXED,
    NO_PRESERVATION,
    ONE_FOLDER,
    PRECISIONS,
    SCHEDULES,
    is_flow,
    leave_model,
    place_arguments,
    place_kind,
    place_model,
    place_offset_noise,
    place_optimizer,
    place_quantised,
    place_rate,
    place_resolution,
    place_text_encoder,
    place_things,
)

NAME = "ai-toolkit"

TRAINERS = ("sd_trainer", "ui_trainer", "diffusion_trainer")
ROWS = {
    "trigger_word": "trigger_word", "device": "device", "save.save_every": "checkpoint_step_interval", "save.max_step_saves_to_keep": "checkpoints_total_limit",
    "network.dropout": "lora_dropout", "train.batch_size": "train_batch_size", "train.steps": "max_train_steps",
    "train.gradient_accumulation_steps": "gradient_accumulation_steps", "train.gradient_checkpointing": "gradient_checkpointing", "train.max_grad_norm": "max_grad_norm",
    "train.ema_config.use_ema": "use_ema", "train.ema_config.ema_decay": "ema_decay", "sample.sample_every": "validation_step_interval",
    "sample.guidance_scale": "validation_guidance", "sample.sample_steps": "validation_num_inference_steps",
}  # fmt: skip
ASSUMED = {
    "lora_rank": 4, "max_train_steps": 1000, "learning_rate": 1e-6, "train_batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": True, "max_grad_norm": 1.0,
    "optimizer": "adamw", "lr_scheduler": "constant", "resolution": 512, "checkpoint_step_interval": 1000, "checkpoints_total_limit": 5, "validation_step_interval": 100,
    "save_precision": "float16", "center_crop": True,
}  # fmt: skip
"""What an absent key means there."""

NOT_HERE = {
    "train.content_or_style": "prefers some noise levels; see timestep_sampling", "train.linear_timesteps": "this weighting does not exist here; see loss_weighting",
    "train.linear_timesteps2": "this weighting does not exist here; see loss_weighting", "train.min_denoising_steps": "all noise levels are trained here",
    "train.max_denoising_steps": "all noise levels are trained here", "train.reg_weight": "see prior_loss_weight",
    "train.weight_jitter": "does not exist here", "train.do_paramiter_swapping": "all weights of the adapter are trained at every step here",
    "train.paramiter_swapping_factor": "all weights of the adapter are trained at every step here", "train.prompt_dropout_prob": "see caption_dropout_probability",
    "train.inverted_mask_prior": "outside its mask a picture counts by masked_background_weight here", "train.bypass_guidance_embedding": "a network that takes guidance as a number is fed the family's own here",
    "train.do_differential_guidance": "this target does not exist here", "train.differential_guidance_scale": "this target does not exist here",
    "train.blank_prompt_preservation": "not the empty prompt but those of output_preservation_prompt are kept here", "train.blank_prompt_preservation_multiplier": "see output_preservation_weight",
    "train.unload_text_encoder": "texts are encoded before the network is loaded here",
    "network.conv": "a rank of its own for convolutions does not exist here", "network.conv_alpha": "a rank of its own for convolutions does not exist here",
    "network.lokr_factor": "belongs to LoKr", "network.lokr_full_rank": "belongs to LoKr", "network.pretrained_lora_path": "a LoRA is always begun anew here",
    "network.network_kwargs.only_if_contains": "see lora_targets", "network.network_kwargs.ignore_if_contains": "see lora_targets",
    "model.vae_path": "the checkpoint's own VAE is used here", "model.assistant_lora_path": "a LoRA below the trained one does not exist here",
    "model.inference_lora_path": "a LoRA below the trained one does not exist here", "model.lora_path": "a LoRA below the trained one does not exist here",
    "model.refiner_name_or_path": "a refiner is not trained here", "model.te_name_or_path": "the pipeline's own text encoders are used here",
    "model.extras_name_or_path": "see pretrained_components", "model.unet_path": "see pretrained_components", "model.only_if_contains": "see lora_targets",
    "model.ignore_if_contains": "see lora_targets", "model.use_flux_cfg": "a network that takes guidance as a number is fed the family's own here",
    "model.low_vram": "see streamed_blocks: blocks that stay in main memory", "model.layer_offloading": "see streamed_blocks: blocks that stay in main memory",
    "model.layer_offloading_transformer_percent": "see streamed_blocks", "model.split_model_over_gpus": "a model lies on one GPU here",
    "model.quantize_te": "text encoders are freed before the network is loaded here, so they need no fewer bits",
    "sample.sampler": "samples are drawn with the pipeline's own scheduler here", "sample.width": "samples are as large as the training pictures here",
    "sample.height": "samples are as large as the training pictures here", "sample.walk_seed": "every prompt starts from validation_seed here",
    "sample.network_multiplier": "samples have the adapter at full strength here", "sample.num_frames": "single pictures are drawn here", "sample.fps": "single pictures are drawn here",
    "sample.sample_start_step": "samples come from the start on here",
    "save.push_to_hub": "uploading is a step of its own here: rollout-studio lora upload",
    "save.hf_repo_id": "uploading is a step of its own here: rollout-studio lora upload", "save.hf_private": "uploading is a step of its own here: rollout-studio lora upload",
    "logging.use_wandb": "see report_to",
}  # fmt: skip
SILENT = (
    "save.save_format", "logging.log_every", "logging.verbose", "logging.use_ui_logger", "logging.project_name", "logging.run_name", "performance_log_every", "train.skip_first_sample",
    "train.force_first_sample", "train.disable_sampling", "train.xformers", "train.sdp", "train.attention_backend", "train.cache_text_embeddings", "train.train_unet", "train.noise_scheduler",
    "train.show_turbo_outputs", "model.qtype_te", "model.dtype", "model.vae_dtype", "model.te_dtype", "model.compile", "model.block_compile", "model.attn_masking",
    "model.layer_offloading_text_encoder_percent", "model.auto_memory", "model.text_encoder_bits", "sample.format", "sample.ext", "sample.do_cfg_norm", "network.transformer_only",
    "network.old_lokr_format", "network.split_multistage_loras", "is_ui", "ui_version", "training_folder", "sqlite_db_path", "log_dir",
)  # fmt: skip
DATASET_ROWS = {"default_caption": "instance_prompt", "caption_dropout_rate": "caption_dropout_probability", "num_repeats": "repeats", "buckets": "aspect_buckets", "flip_x": "random_flip",
                "bucket_tolerance": "bucket_step"}  # fmt: skip
DATASET_NOT_HERE = {
    "shuffle_tokens": "captions are taken as they are written here", "keep_tokens": "captions are taken as they are written here", "token_dropout_rate": "captions are taken as they are written here",
    "random_triggers": "captions are taken as they are written here", "random_scale": "pictures are scaled to the resolution here", "scale": "pictures are scaled to the resolution here",
    "flip_y": "pictures are mirrored left and right only here", "augments": "colours are not changed here", "augmentations": "colours are not changed here",
    "control_path": "control pictures do not exist here", "control_path_1": "control pictures do not exist here", "control_path_2": "control pictures do not exist here",
    "control_path_3": "control pictures do not exist here", "mask_path": "masks lie beside the pictures here, as name-mask.png", "mask_min_value": "masks lie beside the pictures here, as name-mask.png", "alpha_mask": "see masked_training: transparency is the mask of a picture that has none beside it", "invert_mask": "white is what trains in a mask here",
    "inpaint_path": "inpainting is not trained here", "network_weight": "every picture trains at full strength here", "loss_multiplier": "every picture weighs alike here",
    "num_frames": "single pictures are trained here", "shrink_video_to_frames": "single pictures are trained here", "do_i2v": "single pictures are trained here", "fps": "single pictures are trained here",
    "trigger_word": "one trigger word holds for a run here", "type": "pictures with captions are trained here", "dataset_path": "name the folder with your pictures",
    "clip_image_path": "an image encoder is not used here", "prior_reg": "see output_preservation_weight",
}  # fmt: skip
DATASET_SILENT = (
    "cache_latents_to_disk",
    "cache_latents",
    "cache_text_embeddings",
    "cache_clip_vision_to_disk",
    "num_workers",
    "prefetch_factor",
    "extra_values",
    "controls",
    "dataset_id",
)
_KNOWN = {key.rpartition(".")[2] for key in (*ROWS, *NOT_HERE, *SILENT, *DATASET_ROWS, *DATASET_NOT_HERE)}


def looks_like(data: Any) -> bool:
    """Whether this is a job of its, of whatever kind."""
    if not isinstance(data, dict):
        return False
    config = data.get("config")
    return isinstance(config, dict) and isinstance(config.get("process"), list) and ("job" in data or "name" in config)


def read(data: Any, near: Near) -> ImportedConfig:
    """Our settings for its job. Raises ConfigError for a job that trains nothing of ours."""
    processes = data["config"]["process"]
    index = next(
        (
            i
            for i, each in enumerate(processes)
            if isinstance(each, dict) and each.get("type") in TRAINERS and isinstance(each.get("train"), dict)
        ),
        None,
    )
    if index is None:
        kinds = ", ".join(str(each.get("type")) for each in processes if isinstance(each, dict)) or "no process"
        raise refused(
            f"ai-toolkit's job ({str(data.get('job'))[:40]}: {kinds[:80]})",
            f"trains no LoRA or model on pictures; bring a job with a process of type {TRAINERS[0]}.",
        )
    sheet = Sheet(NAME, data, _KNOWN)
    at = f"config.process[{index}]."
    sheet.carry(
        f"{at}type",
        "model_type",
        value="lora" if any(key.startswith(f"{at}network.") for key in sheet.values) else "full",
    )
    _model(sheet, at)
    _network(sheet, at)
    _rates(sheet, at)
    sheet.rows(ROWS, at)
    place_text_encoder(sheet, f"{at}train.train_text_encoder", f"{at}train.text_encoder_lr")
    place_offset_noise(sheet, f"{at}train.noise_offset")
    _preservation(sheet, f"{at}train.diff_output_preservation")
    if sheet.has(f"{at}train.gradient_accumulation") and sheet.gave("gradient_accumulation_steps"):
        sheet.leave(f"{at}train.gradient_accumulation", "gradient_accumulation_steps is used", quiet=True)
    sheet.carry(f"{at}train.gradient_accumulation", "gradient_accumulation_steps")
    _noise(sheet, at)
    _datasets(sheet, at, near)
    _samples(sheet, at)
    sheet.words(f"{at}save.dtype", "save_precision", PRECISIONS)
    sheet.silent_at({"sample.network_multiplier": (1, 1.0), "sample.num_frames": (1,), "sample.fps": (1, 16), "train.content_or_style": ("balanced",), "train.max_denoising_steps": (1000, 999),
                     "train.reg_weight": (1, 1.0), "logging.project_name": ()}, at)  # fmt: skip
    sheet.reasons(NOT_HERE, at)
    sheet.silent(SILENT, at)
    sheet.silent(sheet.open("meta"), why="is a remark, not a setting")
    sheet.silent(["job"], why="says that this is a training")
    sheet.leave("config.name", "a run is named when it is started here", quiet=True)
    for key in sheet.open("config.process["):
        if not key.startswith(at):
            sheet.leave(key, "belongs to another process of the job")
    for option, value in ASSUMED.items():
        sheet.assume(option, value)
    return sheet.done()


def _model(sheet: Sheet, at: str) -> None:
    key, name = f"{at}model.arch", f"{at}model.name_or_path"
    architecture = sheet.get(key)
    if architecture is not None:
        family = family_called(NAME, str(architecture).lower().partition(":")[0])
        if family is None:
            leave_model(sheet, key, name, architecture)
        sheet.carry(key, "model_family", value=family)
    place_model(sheet, name)
    for word, (named, *_) in words_of(NAME).items():
        flag = f"{at}model.{word}"
        if word.startswith("is_") and is_on(sheet.get(flag)):
            sheet.carry(flag, "model_family", value=named)
        if word.startswith("is_"):
            sheet.leave(flag, "is off there", quiet=True)
    if is_on(sheet.get(f"{at}model.is_v_pred")):
        sheet.carry(f"{at}model.is_v_pred", "prediction_type", value="v_prediction")
    sheet.reasons(
        {
            "is_v_pred": "",
            "is_pixart": "PixArt-alpha is not trained here",
            "is_ssd": "SSD-1B is not trained here",
            "is_vega": "Vega is not trained here",
        },
        f"{at}model.",
    )
    word = sheet.get(f"{at}model.qtype", "qfloat8")
    if is_on(sheet.get(f"{at}model.quantize")):
        if sheet.has(f"{at}model.qtype"):
            place_quantised(sheet, f"{at}model.qtype", word)
            sheet.leave(f"{at}model.quantize", "model.qtype says how", quiet=True)
        else:
            place_quantised(sheet, f"{at}model.quantize", word)
    sheet.silent([f"{at}model.quantize", f"{at}model.qtype"], why="is off there")
    sheet.words(f"{at}train.dtype", "mixed_precision", MIXED)
    if sheet.flat.get("model_type") == "lora" and sheet.flat.get("mixed_precision") in ("bf16", "fp16"):
        sheet.assume("base_model_precision", PRECISIONS[sheet.flat["mixed_precision"]])


def _network(sheet: Sheet, at: str) -> None:
    kind = str(sheet.get(f"{at}network.type", "lora")).lower()
    place_kind(sheet, f"{at}network.type", "lora" if kind == "locon" else kind)
    factor = number(sheet.get(f"{at}network.lokr_factor"))
    if kind == "lokr" and factor and factor > 1:
        sheet.carry(f"{at}network.lokr_factor", "lora_lokr_factor")
    if factor == -1:
        sheet.silent([f"{at}network.lokr_factor"], why="is LoKr's own choice there")
    for key in ("linear", "rank"):
        if sheet.gave("lora_rank"):
            sheet.leave(f"{at}network.{key}", "network.linear is used", quiet=True)
        sheet.carry(f"{at}network.{key}", "lora_rank")
    for key in ("linear_alpha", "alpha"):
        if sheet.gave("lora_alpha"):
            sheet.leave(f"{at}network.{key}", "network.linear_alpha is used", quiet=True)
        sheet.carry(f"{at}network.{key}", "lora_alpha")
    if sheet.flat.get("model_type") == "lora":
        sheet.assume("lora_alpha", 1)


def _rates(sheet: Sheet, at: str) -> None:
    optimizer = sheet.get(f"{at}train.optimizer", "adamw")
    here = place_optimizer(sheet, f"{at}train.optimizer")
    if number(sheet.get(f"{at}train.unet_lr")) is not None:
        place_rate(sheet, f"{at}train.unet_lr", here, optimizer)
        sheet.leave(f"{at}train.lr", "train.unet_lr decides there", quiet=True)
    place_rate(sheet, f"{at}train.lr", here, optimizer)
    for key in sheet.open(f"{at}train.optimizer_params."):
        name = key.rpartition(".")[2]
        if here:
            place_arguments(sheet, key, {name: sheet.get(key)})
        sheet.leave(key, f"belongs to {optimizer}")
    sheet.words(f"{at}train.lr_scheduler", "lr_scheduler", SCHEDULES)
    for key in sheet.open(f"{at}train.lr_scheduler_params"):
        if key.endswith("warmup_steps"):
            sheet.carry(key, "lr_warmup_steps")
        sheet.leave(key, "the schedules take no arguments here", quiet=is_off(sheet.get(key)))


def _preservation(sheet: Sheet, key: str) -> None:
    """What the model answers to a class prompt is kept: three keys there, of which one is the switch."""
    weight = number(sheet.get(f"{key}_multiplier"))
    if is_on(sheet.get(key)):
        strength = 1.0 if weight is None else weight
        how = f"The untrained model's answer to class_prompt is kept, with the weight {strength:g}."
        sheet.change(key, {"output_preservation_weight": strength}, how)
        if sheet.gave("output_preservation_weight"):
            sheet.carry(f"{key}_class", "class_prompt")
            sheet.leave(f"{key}_multiplier", "is output_preservation_weight here", quiet=True)
    off = is_off(sheet.get(key))
    for name in (key, f"{key}_multiplier", f"{key}_class"):
        sheet.leave(name, "is off there" if off else NO_PRESERVATION, quiet=off)


def _noise(sheet: Sheet, at: str) -> None:
    for key in ("min_snr_gamma", "snr_gamma"):
        full = f"{at}train.{key}"
        if number(sheet.get(full)) and is_flow(sheet) is not True:
            if key == "snr_gamma":
                sheet.change(
                    full, {"snr_gamma": number(sheet.get(full))}, "Weighs by min(SNR, gamma) / SNR here, at most 1."
                )
            sheet.carry(full, "snr_gamma")
        sheet.reasons(
            {key: "weighs by signal to noise on a variance-preserving path; it does nothing for flow models"},
            f"{at}train.",
        )
    sheet.words(
        f"{at}train.loss_type", "loss_type", {"mse": "mse", "huber": "huber"}, "is not here; there are: mse, huber"
    )
    key = f"{at}train.timestep_type"
    kind = str(sheet.get(key, "")).lower()
    flow = is_flow(sheet)
    if kind and flow is False:
        sheet.leave(key, "is for flow models only", quiet=True)
    if kind == "sigmoid":
        sheet.change(
            key,
            {"timestep_sampling": "logit_normal", "flow_schedule_shift": 1.0},
            '"sigmoid" is logit_normal here, without a shift.',
        )
    elif kind == "linear":
        sheet.change(
            key,
            {"timestep_sampling": "uniform", "flow_schedule_shift": 1.0},
            '"linear" is uniform here, without a shift.',
        )
    elif kind in ("shift", "flux_shift", "lumina2_shift"):
        sheet.change(key, {"timestep_sampling": "uniform"}, f'"{kind}" is uniform here, with the checkpoint\'s shift.')
    sheet.leave(key, "is not here; there are: uniform, logit_normal, mode", quiet=not kind)


def _datasets(sheet: Sheet, at: str, near: Near) -> None:
    places = []
    for key in sheet.values:
        if key.startswith(f"{at}datasets["):
            place = key[: key.index("]", len(at)) + 2]
            if place not in places:
                places.append(place)
    mine = next((each for each in places if is_off(sheet.get(each + "is_reg"))), None)
    theirs = next((each for each in places if is_on(sheet.get(each + "is_reg"))), None)
    folder = sheet.get(f"{mine}folder_path")
    further = [
        each
        for each in places
        if each != mine and is_off(sheet.get(each + "is_reg")) and sheet.get(f"{each}folder_path") not in (None, folder)
    ]
    place_things(sheet, [_thing(sheet, each) for each in further])
    for place in places:
        if place == mine:
            _dataset(sheet, place, near)
        elif place == theirs:
            sheet.carry(f"{place}folder_path", "class_data_dir")
            sheet.change(
                f"{place}is_reg",
                {"with_prior_preservation": True},
                "Here each step has as many class pictures as instance pictures, so it is twice as long.",
            )
            sheet.carry(f"{place}default_caption", "class_prompt")
            sheet.silent_at({"num_repeats": (1,)}, place)
        for key in sheet.open(place):
            same = mine is not None and sheet.get(key) == sheet.get(mine + key.removeprefix(place))
            why = "is as in the first dataset" if same else ONE_FOLDER
            sheet.leave(key, "is off there" if is_off(sheet.get(key)) else why, quiet=same or is_off(sheet.get(key)))


def _thing(sheet: Sheet, place: str) -> tuple[list[str], dict[str, Any]]:
    table = {
        "folder_path": "instance_data_dir",
        "default_caption": "instance_prompt",
        "trigger_word": "trigger_word",
        "num_repeats": "repeats",
    }
    given = {key: option for key, option in table.items() if sheet.get(place + key) is not None}
    return [place + key for key in given], {option: sheet.get(place + key) for key, option in given.items()}


def _dataset(sheet: Sheet, place: str, near: Near) -> None:
    path = near.find_folder(sheet.get(f"{place}folder_path"))
    sheet.carry(
        f"{place}folder_path",
        "instance_data_dir",
        value=str(path) if path is not None else sheet.get(f"{place}folder_path"),
    )
    for key in ("caption_ext", "caption_type"):
        if str(sheet.get(f"{place}{key}", "")).lstrip(".").lower() == "txt":
            sheet.carry(f"{place}{key}", "caption_strategy", value="textfile")
        sheet.leave(
            f"{place}{key}",
            "captions are .txt files beside the pictures here; where there are none, instance_prompt is used",
        )
    if sheet.has(f"{place}resolution"):
        place_resolution(sheet, f"{place}resolution", several=True)
    if sheet.has(f"{place}random_crop"):
        middle = is_off(sheet.get(f"{place}random_crop"))
        sheet.change(
            f"{place}random_crop",
            {"center_crop": middle},
            f"center_crop is {str(middle).lower()}: the same the other way round.",
        )
    if isinstance(sheet.get(f"{place}default_caption"), str):
        _trigger(sheet, f"{place}default_caption", "instance_prompt")
    sheet.silent_at(
        {
            "network_weight": (1, 1.0),
            "scale": (1, 1.0),
            "loss_multiplier": (1, 1.0),
            "num_frames": (1,),
            "mask_min_value": (0.1,),
            "type": ("image",),
            "is_reg": (),
        },
        place,
    )
    sheet.rows(DATASET_ROWS, place)
    sheet.reasons(DATASET_NOT_HERE, place)
    sheet.silent(DATASET_SILENT, place)


def _trigger(sheet: Sheet, key: str, option: str) -> None:
    """`[trigger]` in a text, which stands for the trigger word there."""
    given, word = sheet.get(key), sheet.flat.get("trigger_word")
    texts = given if isinstance(given, list) else [given]
    if word and any("[trigger]" in str(each) for each in texts):
        put = [str(each).replace("[trigger]", word) for each in texts]
        sheet.change(key, {option: put if isinstance(given, list) else put[0]}, f"[trigger] is written out: {word}.")


def _samples(sheet: Sheet, at: str) -> None:
    prompts = f"{at}sample.prompts"
    if is_off(sheet.get(prompts)):
        sheet.leave(prompts, "is empty", quiet=True)
    _trigger(sheet, prompts, "validation_prompts")
    sheet.carry(prompts, "validation_prompts")
    texts = [key for key in sheet.open(f"{at}sample.samples[") if key.endswith("].prompt")]
    if texts and not sheet.gave("validation_prompts"):
        together = [
            str(sheet.get(key, "")).replace("[trigger]", str(sheet.flat.get("trigger_word", "[trigger]")))
            for key in texts
        ]
        for key in texts:
            sheet.change(key, {"validation_prompts": together}, "Is one of validation_prompts here.")
    for key in sheet.open(f"{at}sample.samples["):
        sheet.leave(
            key, "all samples are drawn alike here, as large as the training pictures", quiet=is_off(sheet.get(key))
        )
    negative = f"{at}sample.neg"
    if isinstance(sheet.get(negative), str):
        sheet.carry(negative, "validation_negative_prompt")
    sheet.leave(negative, "is off there", quiet=True)
    sheet.carry(f"{at}sample.seed", "validation_seed")
