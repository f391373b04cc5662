"""Convolutional networks: image classifiers and a segmenter."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: Callable | None = nn.ReLU
) -> nn.Sequential:
    """A convolution that keeps the extent (divided by the stride), batch norm, activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def classifier(features: int, classes: int) -> nn.Sequential:
    """Global average, dropout, linear."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(0.2), nn.Linear(features, classes))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(inputs, width, 1),
            conv_norm(width, width, 3, stride),
            conv_norm(width, 4 * width, 1, activation=None),
        )
        same = stride == 1 and inputs == 4 * width
        self.skip = nn.Identity() if same else conv_norm(inputs, 4 * width, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    """He et al. 2015, stride in the 3x3 convolution as in torchvision."""

    def __init__(self, depths: Sequence[int], width: int, classes: int, image: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        channels = width
        for stage, depth in enumerate(depths):
            for block in range(depth):
                layers.append(Bottleneck(channels, width << stage, 2 if stage and not block else 1))
                channels = 4 * (width << stage)
        self.features = nn.Sequential(*layers)
        self.head = classifier(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Vgg(nn.Module):
    """Simonyan and Zisserman 2014, without batch norm."""

    def __init__(self, depths: Sequence[int], width: int, hidden: int, classes: int, image: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, depth in enumerate(depths):
            for _ in range(depth):
                outputs = min(width << stage, 8 * width)
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(image // 32)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (image // 32) ** 2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            conv_norm(inputs, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.body(torch.cat(features, 1))


class DenseBlock(nn.Module):
    """Every layer reads the results of all before it."""

    def __init__(self, inputs: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DenseLayer(inputs + k * growth, growth) for k in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Huang et al. 2016."""

    def __init__(self, depths: Sequence[int], growth: int, classes: int, image: int) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [conv_norm(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for stage, depth in enumerate(depths):
            layers.append(DenseBlock(channels, growth, depth))
            channels += depth * growth
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            if stage < len(depths) - 1:
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
                channels //= 2
        self.features = nn.Sequential(*layers)
        self.head = classifier(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class InceptionBlock(nn.Module):
    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_norm(inputs, one, 1),
                nn.Sequential(conv_norm(inputs, three[0], 1), conv_norm(three[0], three[1], 3)),
                nn.Sequential(conv_norm(inputs, five[0], 1), conv_norm(five[0], five[1], 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_norm(inputs, pooled, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Inception(nn.Module):
    """Szegedy et al. 2014 with batch norm; channels are divided by `divide`."""

    STAGES = (
        ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
        (
            (192, (96, 208), (16, 48), 64),
            (160, (112, 224), (24, 64), 64),
            (128, (128, 256), (24, 64), 64),
            (112, (144, 288), (32, 64), 64),
            (256, (160, 320), (32, 128), 128),
        ),
        ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
    )

    def __init__(self, divide: int, classes: int, image: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            conv_norm(3, 64 // divide, 7, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            conv_norm(64 // divide, 64 // divide, 1),
            conv_norm(64 // divide, 192 // divide, 3),
        ]
        channels = 192 // divide
        for stage in self.STAGES:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for one, three, five, pooled in stage:
                one, pooled = one // divide, pooled // divide
                three, five = (three[0] // divide, three[1] // divide), (five[0] // divide, five[1] // divide)
                layers.append(InceptionBlock(channels, one, three, five, pooled))
                channels = one + three[1] + five[1] + pooled
        self.features = nn.Sequential(*layers)
        self.head = classifier(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate computed from their means (Hu et al. 2017)."""

    def __init__(self, channels: int, squeezed: int, activation: Callable, gate: Callable) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.activation = nn.Conv2d(channels, squeezed, 1), activation()
        self.expand, self.gate = nn.Conv2d(squeezed, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.activation(self.reduce(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, optionally squeeze-excite, project 1x1 without activation (Sandler et al. 2018)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        activation: Callable,
        squeeze: nn.Module | None,
    ) -> None:
        super().__init__()
        width = inputs * expansion
        layers: list[nn.Module] = [conv_norm(inputs, width, 1, activation=activation)] if expansion > 1 else []
        layers.append(conv_norm(width, width, kernel, stride, width, activation))
        layers += [squeeze] if squeeze else []
        layers.append(conv_norm(width, outputs, 1, activation=None))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """MobileNetV2, EfficientNet (squeeze-excite, SiLU) and MobileNetV3 (squeeze-excite, hard-swish).

    `stages`: (expansion, kernel, channels, depth, stride of the first block). `style`: "v2", "v3" or "efficient".
    """

    def __init__(
        self,
        style: str,
        stem: int,
        stages: Sequence[tuple[int, int, int, int, int]],
        features: int,
        classes: int,
        image: int,
    ) -> None:
        super().__init__()
        activation, gate = {
            "v2": (nn.ReLU6, None),
            "v3": (nn.Hardswish, nn.Hardsigmoid),
            "efficient": (nn.SiLU, nn.Sigmoid),
        }[style]
        layers: list[nn.Module] = [conv_norm(3, stem, 3, 2, activation=activation)]
        channels = stem
        for expansion, kernel, outputs, depth, first in stages:
            for block in range(depth):
                width = channels * expansion
                reduced = max(1, channels // 4 if style == "efficient" else width // 4)
                inner = nn.ReLU if style == "v3" else activation
                squeeze = SqueezeExcite(width, reduced, inner, gate) if gate else None
                stride = first if block == 0 else 1
                layers.append(InvertedResidual(channels, outputs, kernel, stride, expansion, activation, squeeze))
                channels = outputs
        layers.append(conv_norm(channels, features, 1, activation=activation))
        self.features = nn.Sequential(*layers)
        self.head = classifier(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Liu et al. 2022; the norm between stages is a group norm of one group, which is a layer norm over the image."""

    def __init__(self, depths: Sequence[int], width: int, classes: int, image: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4)]
        for stage, depth in enumerate(depths):
            if stage:
                layers += [nn.GroupNorm(1, width), nn.Conv2d(width, 2 * width, 2, 2)]
                width *= 2
            layers += [ConvNextBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((2, 3))))


class UNet(nn.Module):
    """Ronneberger et al. 2015, padded so that extents stay. `up`: "transposed" convolutions or "bilinear" resize."""

    def __init__(self, width: int, depth: int, classes: int, image: int, up: str) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv_norm(inputs, outputs, 3), conv_norm(outputs, outputs, 3))

        def double_extent(inputs: int, outputs: int) -> nn.Module:
            if up == "transposed":
                return nn.ConvTranspose2d(inputs, outputs, 2, 2)
            resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            return nn.Sequential(resize, nn.Conv2d(inputs, outputs, 1))

        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList([double(a, b) for a, b in zip([3, *widths], widths, strict=False)])
        self.grow = nn.ModuleList([double_extent(2 * w, w) for w in reversed(widths[:-1])])
        self.up = nn.ModuleList([double(2 * w, w) for w in reversed(widths[:-1])])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([skips.pop(), grow(x)], 1))
        return self.head(x)
