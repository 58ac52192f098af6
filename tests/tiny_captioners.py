"""Captioning models with random weights and a few words, saved as the real ones are: BLIP, Florence-2, and a tagger in ONNX written by hand."""

import struct
from pathlib import Path

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "blue",
    "cup",
    "dog",
    "photo",
    "of",
    "on",
    "table",
    "the",
    "old",
]
TAGS = (
    ("general", "9"),
    ("blue_thing", "0"),
    ("green_thing", "0"),
    ("red_thing", "0"),
    ("o_o", "0"),
    ("miss_red", "4"),
)


def save_blip(folder: Path) -> Path:
    """A BLIP of 16 words, 32 px; which words it writes depends on the seed alone."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    torch.manual_seed(0)
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 64, "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}  # fmt: skip
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def save_florence(folder: Path) -> Path:
    """A Florence-2 of single bytes, 32 px."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        BartTokenizer,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    torch.manual_seed(0)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    tokenizer = BartTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 256, "decoder_start_token_id": 2,
            "forced_eos_token_id": 2, **special}  # fmt: skip
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "embed_dim": [8, 16],
              "num_heads": [2, 2], "num_groups": [2, 2], "window_size": 4, "projection_dim": 16}  # fmt: skip
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id, **special)
    model = Florence2ForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 17  # 4 x 4 patches and their mean
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def save_tagger(folder: Path) -> Path:
    """A tagger of 16 px: the mean blue, green and red of a picture, through a sigmoid, are the probabilities of its tags."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{number},{name},{category},1\n" for number, (name, category) in enumerate(TAGS))
    (folder / "selected_tags.csv").write_text(f"tag_id,name,category,count\n{rows}", encoding="utf-8")
    blue, green, red = 0, 1, 2  # the order of the channels
    reads = (green, blue, green, red, green, red)
    weights = [[0.1 if reads[tag] == channel else 0.0 for tag in range(len(TAGS))] for channel in range(3)]
    (folder / "model.onnx").write_bytes(_onnx(weights, [-12.0] * len(TAGS)))
    return folder


# ONNX is a protobuf: fields of (number << 3 | wire type), then a varint or a length and bytes. The numbers are those of onnx.proto.


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, shape: tuple[int, ...], values: list, kind: int) -> bytes:
    packed = struct.pack(f"<{len(values)}{'f' if kind == 1 else 'q'}", *values)
    return b"".join(_number(1, each) for each in shape) + _number(2, kind) + _bytes(8, name) + _bytes(9, packed)


def _value(name: str, shape: tuple[int | str, ...]) -> bytes:
    sides = b"".join(_bytes(1, _bytes(2, each) if isinstance(each, str) else _number(1, each)) for each in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, sides)))


def _node(kind: str, inputs: tuple[str, ...], output: str, attributes: bytes = b"") -> bytes:
    return b"".join(_bytes(1, each) for each in inputs) + _bytes(2, output) + _bytes(4, kind) + attributes


def _onnx(weights: list[list[float]], bias: list[float]) -> bytes:
    count = len(bias)
    flat = [each for row in weights for each in row]
    flattened = _bytes(5, _bytes(1, "keepdims") + _number(3, 0) + _number(20, 2))
    nodes = (
        _node("ReduceMean", ("input", "axes"), "mean", flattened),
        _node("MatMul", ("mean", "weights"), "raw"),
        _node("Add", ("raw", "bias"), "sum"),
        _node("Sigmoid", ("sum",), "output"),
    )
    tensors = (
        _tensor("axes", (2,), [1, 2], 7),
        _tensor("weights", (3, count), flat, 1),
        _tensor("bias", (count,), bias, 1),
    )
    graph = (
        b"".join(_bytes(1, each) for each in nodes)
        + _bytes(2, "tagger")
        + b"".join(_bytes(5, each) for each in tensors)
    )
    graph += _bytes(11, _value("input", ("pictures", 16, 16, 3))) + _bytes(12, _value("output", ("pictures", count)))
    return _number(1, 10) + _bytes(7, graph) + _bytes(8, _number(2, 18))
