"""A small convolutional network for 8x8 digits, built from the blocks of real mobile and residual networks."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10
SIZE = 8


class ConvNormActivation(nn.Sequential):
    """Conv without bias, BatchNorm, activation. x [N, inputs, H, W] -> [N, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, activation: nn.Module, *, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            activation,
        )


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 convolution per channel, then a 1x1 across channels (MobileNet)."""

    def __init__(self, inputs: int, outputs: int, activation: type[nn.Module]) -> None:
        super().__init__(
            ConvNormActivation(inputs, inputs, 3, activation(), groups=inputs),
            ConvNormActivation(inputs, outputs, 1, activation()),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, added before the last ReLU (ResNet's basic block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormActivation(channels, channels, 3, nn.ReLU())
        self.second = ConvNormActivation(channels, channels, 3, nn.Identity())
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [N, channels, H, W] to the same shape."""
        return self.activation(x + self.second(self.first(x)))


class DigitsNet(nn.Module):
    """The whole network: a scaled image of one digit in, a logit for each of the ten digits out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormActivation(1, 32, 3, nn.ReLU())
        self.separable = DepthwiseSeparable(32, 64, nn.ReLU6)
        self.downsample = nn.MaxPool2d(2)
        self.residual = Residual(64)
        self.head = DepthwiseSeparable(64, 96, nn.Hardswish)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(96, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map image [batch, 1, 8, 8] float32 in [0, 1] to logits [batch, 10] float32."""
        features = self.downsample(self.separable(self.stem(image)))
        features = self.head(self.residual(features))
        return self.classifier(torch.flatten(self.pool(features), 1))
