"""The library's own networks: multi-layer perceptrons whose layers have the names that results use; one, or many."""

from __future__ import annotations

from gradembed.models._ensemble import MLPEnsemble
from gradembed.models._mlp import MLP, untrained
from gradembed.models._stacked import StackedLinear

__all__ = ["MLP", "MLPEnsemble", "StackedLinear", "untrained"]
