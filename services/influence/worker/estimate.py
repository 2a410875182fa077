"""How much memory a job takes at its peak, from sizes that are known before it computes."""

from __future__ import annotations

from eif_engine.data.features import BATCH_SIZE
from eif_engine.functional.neighbors import BLOCK_BYTES
from eif_engine.jobs.rank import BLOCK_ROWS
from services.influence.spec import PublishedStepsOptions, RankSpec
from services.influence.worker.inputs import JobModel
from services.influence.worker.split import BYTES_PER_SAMPLE

_F32, _F64 = 4, 8
_ACTIVATIONS = 16
"""Feature maps alive at a time, in inputs of the network: its first layers are the largest."""
_LOSS_COPIES = 4
"""Arrays of the size of the logits that a loss makes."""
_BLOCK_BUDGET = 2 << 30
"""Of a block of samples that are scored together: the same on every machine, as the last bits depend on it."""
_LEAST_ROWS = 256
_SUGGESTION_BYTES, _VOTER_BYTES = 600, 300


def extraction_bytes(model: JobModel) -> int:
    """The network on one batch; its weights are in memory already."""
    channels, height, width = model.loaded.preprocessing.output_shape
    return BATCH_SIZE * channels * height * width * _F32 * _ACTIVATIONS


def rank_bytes(model: JobModel, *, train: int, test: int, spec: RankSpec) -> int:
    """A rank job on so many samples. Features lie in files and do not count."""
    embedding_dim, feature_dim = model.loaded.head.weight_DF.shape
    block = min(train, rank_block_rows(model)) * _row_bytes(model)
    scores = train * _F64 * 8
    confusions = test * _F64 * (4 * embedding_dim + 8) + 4 * BLOCK_BYTES
    directions = 0 if isinstance(spec.influence.step, PublishedStepsOptions) else spec.influence.num_thetas
    thetas = directions * embedding_dim * feature_dim * _F64
    table = (train + test) * BYTES_PER_SAMPLE
    return table + max(extraction_bytes(model), confusions, block + scores + thetas)


def rank_block_rows(model: JobModel) -> int:
    """How many samples are scored together."""
    return max(_LEAST_ROWS, min(BLOCK_ROWS, _BLOCK_BUDGET // _row_bytes(model)))


def relabel_bytes(*, samples: int, wanted: int, dim: int, num_neighbors: int) -> int:
    """A relabel job over vectors of this size, for `wanted` of its samples."""
    voters = min(num_neighbors, samples)
    block = 4 * max(BLOCK_BYTES, samples * _F64, (voters + 8) * dim * _F64)
    vectors = 2 * samples * dim * _F64
    suggestions = wanted * (_SUGGESTION_BYTES + voters * _VOTER_BYTES)
    return samples * BYTES_PER_SAMPLE + vectors + block + suggestions


def _row_bytes(model: JobModel) -> int:
    """Of one sample while it is scored: features, embeddings, logits, in float64."""
    embedding_dim, feature_dim = model.loaded.head.weight_DF.shape
    logits = len(model.loaded.classes) * _centers(model)
    return _F64 * (feature_dim + 4 * embedding_dim + _LOSS_COPIES * logits)


def _centers(model: JobModel) -> int:
    return int(getattr(model.bundle.loss, "centers_per_class", 1))
