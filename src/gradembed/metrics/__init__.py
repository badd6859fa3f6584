"""How good an embedding of units is: every number beside its chance level, always across networks.

Units of one network are not independent of each other, and a field of a network resampled is not a new network. So
whatever is learned or looked up here is tested on units of *other* networks, which ``groups`` names: one label per
unit. Embeddings are tensors, arrays or lists [u, k], labels are integers, booleans or strings, one per unit.

Example:
    >>> import torch, gradembed as ge
    >>> y, network = torch.arange(60) % 3, torch.arange(60) // 6  # three classes of units in ten networks
    >>> z = torch.nn.functional.one_hot(y) + 0.1 * torch.randn(60, 3)
    >>> ge.metrics.linear_probe(z, y, groups=network)
    ProbeScore(accuracy 1.00 [1.00, 1.00], chance 0.33, 2 folds, held-out networks: 10)
    >>> ge.metrics.retrieval(z, y, groups=network)
    RetrievalScore(accuracy 1.00 [1.00, 1.00], chance 0.33, k=1, 60 queries, 10 networks)
"""

from __future__ import annotations

from gradembed.metrics._comparison import (
    Projection,
    UnitMatching,
    cluster_agreement,
    enrichment,
    field_r2,
    match_units,
    project_2d,
)
from gradembed.metrics._scores import ProbeScore, RetrievalScore, linear_probe, retrieval, transfer_probe
from gradembed.metrics._subspaces import SubspaceMatching, match_subspaces
from gradembed.metrics._uncertainty import Enrichment, Estimate, mantel, permutation_null, spread

__all__ = [
    "Enrichment", "Estimate", "ProbeScore", "Projection", "RetrievalScore", "SubspaceMatching", "UnitMatching",
    "cluster_agreement", "enrichment", "field_r2", "linear_probe", "mantel", "match_subspaces", "match_units",
    "permutation_null", "project_2d", "retrieval", "spread", "transfer_probe",
]  # fmt: skip
