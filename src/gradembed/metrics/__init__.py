"""How good an embedding of units is: every number beside its chance level, always across networks.

Units of one network are not independent of each other, and a field of a network resampled is not a new network. So
whatever is learnt or looked up here is tested on units of *other* networks, which ``groups`` names: one label per
unit. Embeddings are arrays or tensors [u, k], labels are integers, booleans or strings, one per unit.
"""

from __future__ import annotations

from gradembed.metrics._decoding import field_r2
from gradembed.metrics._enrichment import Enrichment, enrichment, permutation_null
from gradembed.metrics._estimate import Estimate, spread
from gradembed.metrics._matching import UnitMatching, cluster_agreement, match_units
from gradembed.metrics._probes import ProbeScore, linear_probe, transfer_probe
from gradembed.metrics._projection import Projection, project_2d
from gradembed.metrics._retrieval import RetrievalScore, retrieval

__all__ = [
    "Enrichment",
    "Estimate",
    "ProbeScore",
    "Projection",
    "RetrievalScore",
    "UnitMatching",
    "cluster_agreement",
    "enrichment",
    "field_r2",
    "linear_probe",
    "match_units",
    "permutation_null",
    "project_2d",
    "retrieval",
    "spread",
    "transfer_probe",
]
