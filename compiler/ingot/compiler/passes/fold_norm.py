"""Fold what follows a convolution channel by channel (batch norm, scale, shift) into its weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ops.composite import BatchNorm
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.pointwise import Add, Mul
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.rewrite import Patch


def fold_batch_norm(node: BatchNorm, graph: Graph) -> Patch | None:
    """batch_norm(conv(x, w, b)) -> conv(x, w * s, (b - mean) * s + bias) with s = scale / sqrt(var + epsilon)"""
    match node:
        case BatchNorm(Conv() as conv, Constant() as scale, Constant() as bias, Constant() as mean, Constant() as var):
            if not _foldable(conv, graph):
                return None
            factor = scale.data.astype(np.float64) / np.sqrt(var.data.astype(np.float64) + node.epsilon)
            before = _bias(conv) - mean.data.astype(np.float64)
            return {node: _scaled(conv, factor, before * factor + bias.data.astype(np.float64))}
        case _:
            return None


def fold_batch_norm_transposed(node: BatchNorm, graph: Graph) -> Patch | None:
    """batch_norm(conv_transpose(x, w, b)) -> conv_transpose(x, w * s, (b - mean) * s + bias), of one group"""
    match node:
        case BatchNorm(
            ConvTranspose(w=Constant() as w, bias=Constant() | None as bias, group=1, channels_last=False) as conv,
            Constant() as scale,
            Constant() as shift,
            Constant() as mean,
            Constant() as var,
        ):
            if graph.uses().get(conv) != 1:
                return None
            factor = scale.data.astype(np.float64) / np.sqrt(var.data.astype(np.float64) + node.epsilon)
            before = 0.0 if bias is None else bias.data.astype(np.float64)
            after = (before - mean.data.astype(np.float64)) * factor + shift.data.astype(np.float64)
            weights = w.data.astype(np.float64) * factor.reshape(-1, *(1,) * (w.rank - 2))
            dtype = conv.dtype.to_numpy()
            renewed = dataclasses.replace(conv, w=constant(weights.astype(dtype)), bias=constant(after.astype(dtype)))
            return {node: renewed}
        case _:
            return None


def fold_scale(node: Mul, graph: Graph) -> Patch | None:
    """mul(conv(x, w, b), c) -> conv(x, w * c, b * c) for one c a channel"""
    match node:
        case Mul(Conv() as conv, Constant() as c) | Mul(Constant() as c, Conv() as conv):
            factor = _per_channel(conv, c)
            if factor is None or not _foldable(conv, graph):
                return None
            return {node: _scaled(conv, factor, _bias(conv) * factor)}
        case _:
            return None


def fold_shift(node: Add, graph: Graph) -> Patch | None:
    """add(conv(x, w, b), c) -> conv(x, w, b + c) for one c a channel"""
    match node:
        case Add(Conv() as conv, Constant() as c) | Add(Constant() as c, Conv() as conv):
            shift = _per_channel(conv, c)
            if shift is None or not _foldable(conv, graph):
                return None
            bias = constant((_bias(conv) + shift).astype(conv.dtype.to_numpy()))
            return {node: dataclasses.replace(conv, bias=bias, origin=conv.origin + node.origin)}
        case _:
            return None


FOLD_NORM = (fold_batch_norm, fold_batch_norm_transposed, fold_scale, fold_shift)


def _foldable(conv: Conv, graph: Graph) -> bool:
    if not conv.dtype.is_float:  # sums of integers wrap, and their weights are bytes
        return False
    constant_bias = conv.bias is None or isinstance(conv.bias, Constant)
    return isinstance(conv.w, Constant) and constant_bias and graph.uses().get(conv) == 1


def _bias(conv: Conv) -> NDArray[Any]:
    channels = int(conv.w.type.static_shape()[0])
    return conv.bias.data.astype(np.float64) if isinstance(conv.bias, Constant) else np.zeros(channels)


def _per_channel(conv: Conv, c: Constant) -> NDArray[Any] | None:
    """`c` as one f64 a channel if it broadcasts along nothing else."""
    if c.rank > conv.rank:
        return None
    axis = conv.rank - 1 if conv.channels_last else 1
    channels = int(conv.w.type.static_shape()[0])
    shape = (1,) * (conv.rank - c.rank) + c.data.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(c.data.astype(np.float64).reshape(-1), (channels,))


def _scaled(conv: Conv, factor: NDArray[Any], bias: NDArray[Any]) -> Value:
    assert isinstance(conv.w, Constant)
    dtype = conv.dtype.to_numpy()
    w = conv.w.data.astype(np.float64) * factor.reshape(-1, *(1,) * (conv.w.rank - 1))
    return dataclasses.replace(conv, w=constant(w.astype(dtype)), bias=constant(bias.astype(dtype)))
