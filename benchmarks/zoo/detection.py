"""A detector of the YOLO family whose non-maximum suppression is part of the graph."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

import onnxscript
import torch
from torch import Tensor, nn

from benchmarks.zoo.cnn import conv_norm

# With random weights this leaves about two in a hundred boxes, a crowded image.
IOU_THRESHOLD, SCORE_THRESHOLD, PER_CLASS = 0.45, 0.9, 100


@torch.library.custom_op("ingot_zoo::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor) -> Tensor:
    """ONNX NonMaxSuppression: boxes [batch, n, 4] by corners, scores [batch, classes, n]; rows (batch, class, box)."""
    kept: list[tuple[int, int, int]] = []
    for image in range(boxes.shape[0]):
        for label in range(scores.shape[1]):
            chosen: list[int] = []
            for index in torch.argsort(scores[image, label], descending=True, stable=True).tolist():
                if scores[image, label, index] <= SCORE_THRESHOLD or len(chosen) == PER_CLASS:
                    break
                if all(_overlap(boxes[image, index], boxes[image, other]) <= IOU_THRESHOLD for other in chosen):
                    chosen.append(index)
            kept += [(image, label, index) for index in chosen]
    return torch.tensor(kept, dtype=torch.int64).reshape(-1, 3)


def _overlap(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    common = float((high - low).clamp(min=0).prod())
    return common / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - common, 1e-9)


@nms.register_fake
def _(boxes: Tensor, scores: Tensor) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


@torch.onnx.symbolic_helper.parse_args("v", "v")
def _nms_torchscript(g, boxes, scores):
    limit = g.op("Constant", value_t=torch.tensor([PER_CLASS], dtype=torch.int64))
    overlap = g.op("Constant", value_t=torch.tensor([IOU_THRESHOLD], dtype=torch.float32))
    least = g.op("Constant", value_t=torch.tensor([SCORE_THRESHOLD], dtype=torch.float32))
    return g.op("NonMaxSuppression", boxes, scores, limit, overlap, least)


def _nms_dynamo(boxes, scores):
    op = onnxscript.opset18
    limit = op.Constant(value_ints=[PER_CLASS])
    overlap, least = op.Constant(value_floats=[IOU_THRESHOLD]), op.Constant(value_floats=[SCORE_THRESHOLD])
    return op.NonMaxSuppression(boxes, scores, limit, overlap, least)


TRANSLATIONS = {torch.ops.ingot_zoo.nms.default: _nms_dynamo}
torch.onnx.register_custom_op_symbolic("ingot_zoo::nms", _nms_torchscript, 13)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return conv_norm(inputs, outputs, kernel, stride, activation=nn.SiLU)


class Split(nn.Module):
    """Half of the channels pass through a chain of residual blocks, all intermediate results are joined (C2f)."""

    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.first, self.last = conv(inputs, outputs), conv((2 + depth) * half, outputs)
        self.blocks = nn.ModuleList([nn.Sequential(conv(half, half, 3), conv(half, half, 3)) for _ in range(depth)])
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]) if self.residual else block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class PyramidPool(nn.Module):
    """Maxima over 5, 9 and 13 pixels, as one pooling three times (SPPF)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = conv(channels, channels // 2), conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Yolo(nn.Module):
    """YOLOv8's plan (Jocher et al. 2023): image [batch, 3, h, w] to rows (image, x0, y0, x1, y1, class, score)."""

    BINS = 16

    def __init__(self, width: int, depth: int, classes: int, image: int) -> None:
        super().__init__()
        w = [width << level for level in range(5)]
        self.stem = nn.Sequential(conv(3, w[0], 3, 2), conv(w[0], w[1], 3, 2), Split(w[1], w[1], depth, True))
        self.stage3 = nn.Sequential(conv(w[1], w[2], 3, 2), Split(w[2], w[2], 2 * depth, True))
        self.stage4 = nn.Sequential(conv(w[2], w[3], 3, 2), Split(w[3], w[3], 2 * depth, True))
        self.stage5 = nn.Sequential(conv(w[3], w[4], 3, 2), Split(w[4], w[4], depth, True), PyramidPool(w[4]))
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.top4, self.top3 = Split(w[4] + w[3], w[3], depth, False), Split(w[3] + w[2], w[2], depth, False)
        self.down4, self.down5 = conv(w[2], w[2], 3, 2), conv(w[3], w[3], 3, 2)
        self.bottom4, self.bottom5 = Split(w[3] + w[2], w[3], depth, False), Split(w[4] + w[3], w[4], depth, False)
        self.boxes = nn.ModuleList([self.head(c, 4 * self.BINS) for c in w[2:]])
        self.scores = nn.ModuleList([self.head(c, classes) for c in w[2:]])
        self.classes = classes
        self.register_buffer("bins", torch.arange(self.BINS, dtype=torch.float32))
        self.register_buffer("centres", torch.cat([self.grid(image // s, s) for s in (8, 16, 32)], 1))
        self.register_buffer("strides", torch.cat([torch.full(((image // s) ** 2,), float(s)) for s in (8, 16, 32)]))

    @staticmethod
    def head(channels: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(channels, channels, 3), conv(channels, channels, 3), nn.Conv2d(channels, outputs, 1))

    @staticmethod
    def grid(extent: int, stride: int) -> Tensor:
        """Centres of cells [2, extent * extent] in pixels."""
        y, x = torch.meshgrid(torch.arange(extent), torch.arange(extent), indexing="ij")
        return (torch.stack((x, y)).reshape(2, -1) + 0.5) * stride

    def forward(self, image: Tensor) -> Tensor:
        p3 = self.stage3(self.stem(image))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        n4 = self.top4(torch.cat([self.up(p5), p4], 1))
        n3 = self.top3(torch.cat([self.up(n4), p3], 1))
        n4 = self.bottom4(torch.cat([self.down4(n3), n4], 1))
        n5 = self.bottom5(torch.cat([self.down5(n4), p5], 1))
        levels = (n3, n4, n5)
        scores = torch.cat([head(x).flatten(2) for head, x in zip(self.scores, levels, strict=True)], 2).sigmoid()
        sides = torch.cat([head(x).flatten(2) for head, x in zip(self.boxes, levels, strict=True)], 2)
        batch, _, anchors = sides.shape
        sides = sides.view(batch, 4, self.BINS, anchors).softmax(2)
        sides = (sides * self.bins[:, None]).sum(2) * self.strides
        corners = torch.cat((self.centres - sides[:, :2], self.centres + sides[:, 2:]), 1).transpose(1, 2)
        kept = nms(corners, scores)
        image_index, label, index = kept.unbind(1)
        rows = corners[image_index, index]
        score = scores[image_index, label, index]
        return torch.cat((image_index[:, None].float(), rows, label[:, None].float(), score[:, None]), 1)
