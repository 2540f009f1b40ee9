"""What the oracles of the convolutional detectors share: random pixels, lived-in networks, layers by hand."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch.nn import functional as F

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def pixels(count, height, width, seed=0):
    """uint8 [count, 3, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def lived_in(network, *, images=None):
    """The network in eval mode, its running statistics other than 0 and 1."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = 0.5
    network.train()
    with torch.no_grad():
        network(pixels(4, 48, 48, seed=9) if images is None else images)
    return network.eval()


def normalised(images, mean=MEAN, std=STD):
    """uint8 [B, 3, H, W] to float64 numpy, by the definition of ToTensor and Normalize."""
    return (images.numpy().astype(np.float64) / 255 - mean[:, None, None]) / std[:, None, None]


def part(state, name):
    """The entries below a name, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def norm(state, name, x):
    """Evaluation-mode BatchNorm."""
    own = part(state, name)
    return F.batch_norm(x, own["running_mean"], own["running_var"], own["weight"], own["bias"])


def resnet_layer(state, name):
    """torchvision's own stage of ResNet-50 with these weights, in eval mode."""
    layer = getattr(torchvision.models.resnet50(weights=None), name)
    layer.load_state_dict(part(state, name), strict=True)
    return layer.eval()
