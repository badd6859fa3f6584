"""Embeddings of gradient fields: units that compute the same function lie together."""

from __future__ import annotations

from gradembed.embed._descriptor import FieldDescriptor
from gradembed.embed._embedder import GradientFieldEmbedder, RowEmbedder

__all__ = ["FieldDescriptor", "GradientFieldEmbedder", "RowEmbedder"]
