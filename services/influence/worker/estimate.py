"""How much memory a job takes at its peak, from sizes that are known before it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eif_engine.config import InfluenceConfig
from eif_engine.data.features import BATCH_SIZE
from eif_engine.functional.neighbors import BLOCK_BYTES
from eif_engine.jobs.budget import Sizes
from eif_engine.jobs.score import MEMORY_BYTES
from eif_engine.losses.base import ProxyLoss
from eif_engine.models.feature_map import CHUNK_BYTES
from eif_engine.models.head import Head
from eif_engine.types import Query
from services.influence.spec import RankSpec
from services.influence.worker.inputs import JobModel
from services.influence.worker.options import influence_config
from services.influence.worker.split import BYTES_PER_SAMPLE

_F32, _F64 = 4, 8
_ACTIVATIONS = 16
"""Feature maps alive at a time, in inputs of the network: its first layers are the largest."""
_SUGGESTION_BYTES, _VOTER_BYTES = 600, 300
_LINK_BYTES, _PICTURE_BYTES = 300, 100 * 2**20
"""A link between parts on its way to the table; a picture while it is drawn, and its images."""
_FINDING_BYTES = 3_000
"""Rows of the tables of an audit that one sample has, as Python objects."""
_REPLICATES = 100


def extraction_bytes(model: JobModel) -> int:
    """The network on one batch; its weights are in memory already."""
    channels, height, width = model.loaded.preprocessing.output_shape
    return BATCH_SIZE * channels * height * width * _F32 * _ACTIVATIONS


def rank_bytes(model: JobModel, *, train: int, test: int, spec: RankSpec) -> int:
    """A rank job on so many samples. Features lie in files and do not count."""
    embedding_dim = model.loaded.head.weight_DF.shape[0]
    sizes = _sizes(model, spec)
    confusions = test * _F64 * (4 * embedding_dim + 8) + 4 * BLOCK_BYTES
    scoring = min(MEMORY_BYTES, sizes.bytes_for(test, samples=train, most_rows=2))
    scores = train * _F64 * 8
    table = (train + test) * BYTES_PER_SAMPLE
    least = sizes.least_bytes(samples=train, most_rows=2)
    return table + max(extraction_bytes(model), confusions, max(scoring, least) + scores)


def scoring_bytes(model: JobModel, spec: RankSpec, *, train: int, queries: Sequence[Query]) -> int:
    """The budget of the scorer: more than the default only where one query needs it."""
    most_rows = max((2 * len(query.pairs) for query in queries), default=2)
    return max(MEMORY_BYTES, _sizes(model, spec).least_bytes(samples=train, most_rows=most_rows))


def audit_bytes(*, train: int, test: int, feature_dim: int, embedding_dim: int, scoring: int) -> int:
    """An audit of so many samples; `scoring` is the budget of its scorer. Features lie in files and do not count."""
    rows = (train + test) * (2 * BYTES_PER_SAMPLE + _FINDING_BYTES)
    vectors = (train + test) * (feature_dim * (_F32 + _F64) + 2 * embedding_dim * _F64)
    bootstrap = train * (_REPLICATES * 2 * _F32 + 8 * _F64)
    return rows + vectors + 4 * BLOCK_BYTES + max(scoring + bootstrap, 4 * BLOCK_BYTES)


def audit_scoring_bytes(head: Head, loss: ProxyLoss, config: InfluenceConfig, *, train: int, most_rows: int) -> int:
    """The budget of an audit's scorer: more than the default only where its largest query needs it."""
    sizes = Sizes.of(head, loss, config, dtype=torch.float64)
    return max(MEMORY_BYTES, sizes.least_bytes(samples=train, most_rows=most_rows))


def relabel_bytes(*, samples: int, wanted: int, dim: int, num_neighbors: int) -> int:
    """A relabel job over vectors of this size, for `wanted` of its samples."""
    voters = min(num_neighbors, samples)
    block = 4 * max(BLOCK_BYTES, samples * _F64, (voters + 8) * dim * _F64)
    vectors = 2 * samples * dim * _F64
    suggestions = wanted * (_SUGGESTION_BYTES + voters * _VOTER_BYTES)
    return samples * BYTES_PER_SAMPLE + vectors + block + suggestions


def explain_bytes(model: JobModel, *, samples: int, parts: int) -> int:
    """An explain job: one pair is in memory at a time, with its parts, the flow between them and its picture."""
    channels, height, width = model.loaded.preprocessing.output_shape
    network = channels * height * width * _F32 * _ACTIVATIONS + 2 * CHUNK_BYTES
    vectors = 2 * parts * _F64 * sum(model.loaded.head.weight_DF.shape) * 2
    flow = parts * parts * (10 * _F64 + _LINK_BYTES)
    return samples * BYTES_PER_SAMPLE + network + vectors + flow + _PICTURE_BYTES


def _sizes(model: JobModel, spec: RankSpec) -> Sizes:
    config = influence_config(spec.influence, spec.run.seed)
    return Sizes.of(model.loaded.head, model.loaded.loss, config, dtype=torch.float64)
