"""Small PyTorch networks with batch norms in the places of well-known networks, and with trained statistics."""

import warnings

import torch
from torch import nn


class Residual(nn.Module):
    """The block of ResNet: every batch norm can be folded into the convolution before it."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class Inverted(nn.Module):
    """The block of MobileNetV2: pointwise, depthwise, pointwise without an activation."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        wide = 4 * inputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.add = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.add else self.layers(x)


def mobilenet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), Inverted(8, 8, 1), Inverted(8, 12, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))


class Dense(nn.Module):
    """The layer of DenseNet: its first batch norm, between a concatenation and a ReLU, must stay."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


def densenet():
    """One batch norm is directly before a pointwise convolution, which can take it, and one before a padded one."""
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Dense(8, 4),
        Dense(12, 4), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2), Dense(8, 4),
        nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))


class Image(nn.Module):
    """Reshapes rows to images, as nn.Unflatten cannot be exported to older opsets."""

    def forward(self, x):
        return x.reshape(-1, 16, 2, 2)


def decoder():
    return nn.Sequential(
        nn.Linear(6, 16 * 4), nn.BatchNorm1d(16 * 4), nn.ReLU(), Image(),
        nn.ConvTranspose2d(16, 8, 3, 2, 1, 1, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.BatchNorm2d(4))


def words():
    return nn.Sequential(nn.Embedding(5, 6), nn.Flatten(), nn.Linear(18, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(),
                         nn.Linear(8, 3))


IMAGE = (3, 32, 32)
# name: network, shape of one input, batch norms folded, batch norms in all
NETWORKS = {
    "resnet": (resnet, IMAGE, 6, 6),
    "mobilenet": (mobilenet, IMAGE, 7, 7),
    "densenet": (densenet, IMAGE, 5, 10),
    "decoder": (decoder, (6,), 3, 3),
    "words": (words, (3,), 1, 1),
}


def trained(name):
    """A network in evaluation mode, with the statistics of random inputs and random parameters."""
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.5)
                layer.momentum = 0.5
        for seed in range(4):
            network(batch(name, 16, seed))
    return network.eval()


def batch(name, count, seed):
    shape, generator = (count, *NETWORKS[name][1]), torch.Generator().manual_seed(seed)
    if name == "words":
        return torch.randint(0, 5, shape, generator=generator)
    return 1 + 2 * torch.randn(shape, generator=generator)


def export(network, x, path, opset=17):
    """Write a network without optimizations and with a free batch size."""
    axes = {name: {0: "batch"} for name in ("x", "y")}
    with warnings.catch_warnings():
        # The newer exporter needs another package, and this one warns that it is old.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network, (x,), path, dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
            opset_version=opset, input_names=["x"], output_names=["y"], dynamic_axes=axes)
