"""Every model of the zoo: where it is built, its sizes, its inputs. One table, free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.zoo.specification import EXPORTERS, Input, Model, Options, Values

# TorchScript knows scaled_dot_product_attention from opset 14 on.
_SDPA = ("torchscript-14", *EXPORTERS[1:])
NORMAL, ONES, VALID = Values("normal"), Values("ones"), Values("valid")


def _outputs(*names: str) -> Callable[[Options], tuple[str, ...]]:
    return lambda _: names


# Images


def _image(options: Options) -> tuple[Input, ...]:
    return (Input("image", "float32", ("batch", 3, options["image"], options["image"]), NORMAL),)


def _cnn(
    name: str, kind: str, shared: Mapping[str, Any], tiny: Mapping[str, Any], full: Mapping[str, Any], **more: Any
) -> Model:
    file = more.pop("file", "cnn")
    return Model(
        name,
        f"{file}:{kind}",
        _image,
        _outputs(more.pop("output", "logits")),
        {"image": 64, "classes": 10, **shared, **tiny},
        {"image": 224, "classes": 1000, **shared, **full},
        {"batch": 1},
        {"batch": 2},
        exporters=_SDPA if file == "transformer" else EXPORTERS[:3],
        **more,
    )


_MOBILE_V2 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)
_MOBILE_TINY = ((1, 3, 8, 1, 1), (4, 3, 12, 2, 2), (4, 5, 16, 2, 2))
_EFFICIENT_B0 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
_MOBILE_V3 = ((1, 3, 16, 1, 2), (4, 3, 24, 2, 2), (4, 5, 40, 3, 2), (6, 5, 48, 2, 1), (6, 5, 96, 3, 2))

_CNNS = (
    _cnn("resnet50", "ResNet", {}, {"depths": (1, 2), "width": 8}, {"depths": (3, 4, 6, 3), "width": 64}),
    _cnn(
        "vgg11",
        "Vgg",
        {"depths": (1, 1, 2, 2, 2)},
        {"width": 4, "hidden": 32},
        {"width": 64, "hidden": 4096},
    ),
    _cnn(
        "vgg19",
        "Vgg",
        {"depths": (2, 2, 4, 4, 4)},
        {"width": 4, "hidden": 32},
        {"width": 64, "hidden": 4096},
    ),
    _cnn("densenet121", "DenseNet", {}, {"depths": (2, 3), "growth": 8}, {"depths": (6, 12, 24, 16), "growth": 32}),
    _cnn("inception_v1", "Inception", {}, {"divide": 8}, {"divide": 1}),
    _cnn(
        "efficientnet_b0",
        "MobileNet",
        {"style": "efficient"},
        {"stem": 8, "stages": _MOBILE_TINY, "features": 32},
        {"stem": 32, "stages": _EFFICIENT_B0, "features": 1280},
    ),
    _cnn(
        "mobilenet_v2",
        "MobileNet",
        {"style": "v2"},
        {"stem": 8, "stages": _MOBILE_TINY, "features": 32},
        {"stem": 32, "stages": _MOBILE_V2, "features": 1280},
    ),
    _cnn(
        "mobilenet_v3",
        "MobileNet",
        {"style": "v3"},
        {"stem": 8, "stages": _MOBILE_TINY, "features": 32},
        {"stem": 16, "stages": _MOBILE_V3, "features": 576},
    ),
    _cnn("convnext", "ConvNext", {}, {"depths": (1, 1), "width": 16}, {"depths": (3, 3, 9, 3), "width": 96}),
    _cnn(
        "unet",
        "UNet",
        {"up": "transposed", "classes": 2},
        {"width": 8, "depth": 2},
        {"width": 32, "depth": 4, "image": 256},
        output="mask",
    ),
    _cnn(
        "unet_bilinear",
        "UNet",
        {"up": "bilinear", "classes": 2},
        {"width": 8, "depth": 2},
        {"width": 32, "depth": 4, "image": 256},
        output="mask",
    ),
    _cnn(
        "yolo",
        "Yolo",
        {},
        {"width": 4, "depth": 1},
        {"width": 16, "depth": 1, "image": 320, "classes": 80},
        file="detection",
        output="detections",
    ),
    _cnn(
        "vit_b16",
        "Vit",
        {"patch": 16, "distilled": False},
        {"width": 48, "layers": 2, "heads": 3},
        {"width": 768, "layers": 12, "heads": 12},
        file="transformer",
    ),
    _cnn(
        "deit_tiny",
        "Vit",
        {"patch": 16, "distilled": True},
        {"width": 48, "layers": 2, "heads": 3},
        {"width": 192, "layers": 12, "heads": 3},
        file="transformer",
    ),
)

# Text


def _ids(name: str, options: Options, length: str = "sequence") -> Input:
    return Input(name, "int64", ("batch", length), Values("integers", 1, options["vocabulary"]))


def _bert_inputs(options: Options) -> tuple[Input, ...]:
    shape = ("batch", "sequence")
    return (
        _ids("input_ids", options),
        Input("attention_mask", "int64", shape, VALID),
        Input("token_type_ids", "int64", shape, Values("zeros")),
    )


def _t5_inputs(options: Options) -> tuple[Input, ...]:
    return (
        _ids("input_ids", options),
        Input("attention_mask", "int64", ("batch", "sequence"), VALID),
        _ids("decoder_input_ids", options, "target"),
    )


def _start_inputs(options: Options) -> tuple[Input, ...]:
    shape = ("batch", "sequence")
    return (
        _ids("input_ids", options),
        Input("attention_mask", "int64", shape, ONES),
        Input("position_ids", "int64", shape, Values("positions", of="sequence")),
    )


def _step_inputs(options: Options) -> tuple[Input, ...]:
    """One new token after `past` tokens."""
    heads, size = options.get("groups", options["heads"]), options["width"] // options["heads"]
    cache = tuple(
        Input(f"past_key_values.{layer}.{part}", "float32", ("batch", heads, "past", size), NORMAL)
        for layer in range(options["layers"])
        for part in ("key", "value")
    )
    return (
        Input("input_ids", "int64", ("batch", 1), Values("integers", 1, options["vocabulary"])),
        Input("attention_mask", "int64", ("batch", "past + 1"), ONES),
        Input("position_ids", "int64", ("batch", 1), Values("positions", of="past + 1")),
        *cache,
    )


def _cached_outputs(options: Options) -> tuple[str, ...]:
    layers = range(options["layers"])
    return ("logits", *(f"present.{layer}.{part}" for layer in layers for part in ("key", "value")))


def _text(name: str, builder: str, inputs: Any, outputs: Any, tiny: Options, full: Options, **dims: int) -> Model:
    dims = {"batch": 1, **(dims or {"sequence": 128})}
    traced = {"batch": 2, "sequence": 12, "target": 7, "past": 9}
    exporters = _SDPA if builder.endswith("Llama") else EXPORTERS
    return Model(name, builder, inputs, outputs, tiny, full, dims, {k: traced[k] for k in dims}, exporters)


_BERT_TINY = {"vocabulary": 500, "width": 64, "layers": 2, "heads": 4, "hidden": 128, "positions": 128}
_MINILM = {"vocabulary": 30522, "width": 384, "layers": 6, "heads": 12, "hidden": 1536, "positions": 512}
_BERT_BASE = {"vocabulary": 30522, "width": 768, "layers": 12, "heads": 12, "hidden": 3072, "positions": 512}
_GPT_TINY = {"vocabulary": 500, "width": 64, "layers": 2, "heads": 4, "positions": 128}
_GPT2_SMALL = {"vocabulary": 50257, "width": 768, "layers": 12, "heads": 12, "positions": 1024}
_LLAMA_TINY = {"vocabulary": 500, "width": 64, "layers": 2, "heads": 4, "groups": 2, "hidden": 128}
_LLAMA = {"vocabulary": 49152, "width": 576, "layers": 12, "heads": 9, "groups": 3, "hidden": 1536}
_T5_TINY = {"vocabulary": 500, "width": 64, "layers": 2, "heads": 4, "size": 16, "hidden": 128}
_T5_SMALL = {"vocabulary": 32128, "width": 512, "layers": 6, "heads": 8, "size": 64, "hidden": 2048}

_TEXT = (
    _text(
        "bert_base",
        "transformer:Bert",
        _bert_inputs,
        _outputs("last_hidden_state", "pooler_output"),
        {**_BERT_TINY, "sentence": False},
        {**_BERT_BASE, "sentence": False},
    ),
    _text(
        "minilm",
        "transformer:Bert",
        _bert_inputs,
        _outputs("token_embeddings", "sentence_embedding"),
        {**_BERT_TINY, "sentence": True},
        {**_MINILM, "sentence": True},
    ),
    _text(
        "gpt2",
        "generative:Gpt",
        _start_inputs,
        _cached_outputs,
        {**_GPT_TINY, "cached": False},
        {**_GPT2_SMALL, "cached": False},
    ),
    _text(
        "gpt2_decode",
        "generative:Gpt",
        _step_inputs,
        _cached_outputs,
        {**_GPT_TINY, "cached": True},
        {**_GPT2_SMALL, "cached": True},
        past=64,
    ),
    _text(
        "llama",
        "generative:Llama",
        _start_inputs,
        _cached_outputs,
        {**_LLAMA_TINY, "cached": False},
        {**_LLAMA, "cached": False},
    ),
    _text(
        "llama_decode",
        "generative:Llama",
        _step_inputs,
        _cached_outputs,
        {**_LLAMA_TINY, "cached": True},
        {**_LLAMA, "cached": True},
        past=64,
    ),
    _text("t5", "generative:T5", _t5_inputs, _outputs("logits"), _T5_TINY, _T5_SMALL, sequence=64, target=16),
)

# Speech


def _mel_inputs(options: Options) -> tuple[Input, ...]:
    return (Input("mel", "float32", ("batch", options["mels"], options.get("frames", "frames")), NORMAL),)


def _stream_inputs(options: Options) -> tuple[Input, ...]:
    state = (options["layers"], "batch", options["hidden"])
    return (
        Input("frames", "float32", ("batch", "steps", options["mels"]), NORMAL),
        Input("hidden", "float32", state, Values("zeros")),
        Input("cell", "float32", state, Values("zeros")),
    )


def _tagger_inputs(options: Options) -> tuple[Input, ...]:
    return (_ids("input_ids", options), Input("lengths", "int64", ("batch",), Values("lengths", of="sequence")))


def _recogniser(name: str, cell: str) -> Model:
    return Model(
        name,
        "speech:Recogniser",
        _mel_inputs,
        _outputs("log_probabilities"),
        {"cell": cell, "mels": 20, "width": 24, "hidden": 16, "layers": 2, "symbols": 29},
        {"cell": cell, "mels": 80, "width": 256, "hidden": 512, "layers": 3, "symbols": 29},
        {"batch": 1, "frames": 200},
        {"batch": 2, "frames": 48},
        fixed_by_dynamo=("frames",),
    )


_SPEECH = (
    _recogniser("lstm_speech", "LSTM"),
    _recogniser("gru_speech", "GRU"),
    Model(
        "lstm_streaming",
        "speech:StreamingRecogniser",
        _stream_inputs,
        _outputs("logits", "next_hidden", "next_cell"),
        {"mels": 20, "hidden": 16, "layers": 2, "symbols": 29},
        {"mels": 80, "hidden": 512, "layers": 2, "symbols": 29},
        {"batch": 1, "steps": 10},
        {"batch": 2, "steps": 5},
        fixed_by_dynamo=("steps",),
    ),
    Model(
        "packed_tagger",
        "speech:Tagger",
        _tagger_inputs,
        _outputs("tags", "last"),
        {"vocabulary": 100, "width": 16, "hidden": 12, "tags": 5},
        {"vocabulary": 20000, "width": 256, "hidden": 256, "tags": 40},
        {"batch": 4, "sequence": 32},
        {"batch": 3, "sequence": 9},
        exporters=("torchscript-13", "torchscript-17"),  # the dynamo exporter has no packed sequences
    ),
    Model(
        "whisper_encoder",
        "transformer:WhisperEncoder",
        _mel_inputs,
        _outputs("last_hidden_state"),
        {"mels": 20, "frames": 100, "width": 48, "layers": 2, "heads": 3},
        {"mels": 80, "frames": 3000, "width": 512, "layers": 6, "heads": 8},
        {"batch": 1},
        {"batch": 2},
    ),
)

# Linear layers


def _tokens(options: Options) -> tuple[Input, ...]:
    return (Input("x", "float32", ("batch", "sequence", options["width"]), NORMAL),)


def _experts(name: str, kind: str) -> Model:
    return Model(
        name,
        f"feedforward:{kind}",
        _tokens,
        _outputs("y"),
        {"width": 32, "hidden": 48, "experts": 4, "chosen": 2},
        {"width": 512, "hidden": 1024, "experts": 8, "chosen": 2},
        {"batch": 1, "sequence": 32},
        {"batch": 2, "sequence": 12},
    )


_LINEAR = (
    Model(
        "mlp",
        "feedforward:Perceptron",
        lambda options: (Input("x", "float32", ("batch", options["widths"][0]), NORMAL),),
        _outputs("y"),
        {"widths": (16, 24, 16, 10)},
        {"widths": (64, 128, 64, 10)},
        {"batch": 1},
        {"batch": 2},
    ),
    _experts("moe_dense", "DenseExperts"),
    _experts("moe_gathered", "GatheredExperts"),
    _experts("moe_routed", "RoutedExperts"),
)

# onnx's own


def _light(name: str, data: str, result: str, divide: int) -> Model:
    """`divide`: by what the channels of the tiny variant are divided."""
    return Model(
        f"light_{name}",
        "light:rebuild",
        lambda _: (Input(data, "float32", (1, 3, 224, 224), NORMAL),),
        _outputs(result),
        {"file": f"light_{name}.onnx", "divide": divide},
        {"file": f"light_{name}.onnx", "divide": 1},
        {},
        exporters=("onnx-9",),
        full_exporters=("onnx-9",),
    )


_LIGHT = (
    _light("bvlc_alexnet", "data_0", "prob_1", 8),
    _light("densenet121", "data_0", "fc6_1", 4),
    _light("inception_v1", "data_0", "prob_1", 4),
    _light("inception_v2", "data_0", "prob_1", 4),
    _light("resnet50", "gpu_0/data_0", "gpu_0/softmax_1", 8),
    _light("shufflenet", "gpu_0/data_0", "gpu_0/softmax_1", 1),
    _light("squeezenet", "data_0", "softmaxout_1", 4),
    _light("vgg19", "data_0", "prob_1", 8),
    _light("zfnet512", "gpu_0/data_0", "gpu_0/softmax_1", 8),
)

MODELS: Mapping[str, Model] = {model.name: model for model in (*_CNNS, *_TEXT, *_SPEECH, *_LINEAR, *_LIGHT)}


def find(name: str) -> Model:
    """The model of that name; raises ValueError naming those that exist."""
    if name not in MODELS:
        raise ValueError(f"the zoo has no model {name!r}; it has {', '.join(MODELS)}")
    return MODELS[name]
