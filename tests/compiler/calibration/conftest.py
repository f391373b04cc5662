"""Kernels of the same few graphs are compiled once."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _kernels_kept(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))
