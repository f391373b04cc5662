"""Random weights at which a deep network still computes something: signals neither vanish nor explode."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def randomize(model: nn.Module, seed: int, gain: float) -> None:
    """Fill all parameters in place, in order of their names' registration, from numpy's generator.

    Matrices and kernels are normal with variance gain / fan-in (He et al. 2015: gain 2 before a ReLU, 1 where a
    normalisation follows; a module's own `gain` wins), embeddings with variance 1 / width, biases normal with deviation
    0.05. Scales of normalisations are uniform in [0.5, 1.5).
    """
    rng = np.random.default_rng(seed)
    owners = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape, owner = tuple(parameter.shape), owners[id(parameter)]
            if isinstance(owner, nn.Embedding):
                values = rng.standard_normal(shape, np.float32) * shape[1] ** -0.5
            elif isinstance(owner, nn.RNNBase):
                values = rng.standard_normal(shape, np.float32) * owner.hidden_size**-0.5
            elif isinstance(owner, nn.ConvTranspose2d) and len(shape) > 1:
                fan_in = shape[0] * shape[2] * shape[3] / (owner.stride[0] * owner.stride[1])
                values = rng.standard_normal(shape, np.float32) * (gain / fan_in) ** 0.5
            elif len(shape) > 1:
                variance = getattr(owner, "gain", gain) / float(np.prod(shape[1:]))
                values = rng.standard_normal(shape, np.float32) * variance**0.5
            elif name.endswith("bias"):
                values = rng.standard_normal(shape, np.float32) * 0.05
            else:
                values = rng.uniform(0.5, 1.5, shape)
            parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))


def settle(model: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
    """Give batch normalisations the statistics of one batch, as training would, and leave the model in eval mode."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # the running statistics become those of the batch
        norm.train()
    with torch.no_grad():
        model(*arguments)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
