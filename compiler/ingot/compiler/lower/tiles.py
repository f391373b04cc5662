"""Tiles and blocks of the contraction templates."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.compiler.ir.dims import Dim
from ingot.compiler.lower.machine import Machine


@dataclass(frozen=True)
class ContractionTile:
    width: int
    tile_rows: int
    row_block: Dim
    panel_block: Dim


def choose_contraction(machine: Machine, *, rows: Dim, columns: Dim, depth: Dim, batch: Dim) -> ContractionTile:
    return ContractionTile(16, 6, 96, 8)


def choose_depthwise(machine: Machine, *, rows: Dim, columns: Dim, channels: Dim, taps: int) -> Dim:
    return 4


def choose_attention(machine: Machine, *, batch: Dim, queries: Dim, keys: Dim, depth: Dim, value: Dim) -> Dim:
    return 32
