"""Scores that were computed before: never again for the same model, options, queries, samples and class of device.

`<cache>/scores/<digest of all that>.safetensors`. The digest of the arrays stands in the file: one that is damaged is
told from it, and computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eif_engine import __version__
from services.common.errors import ServiceError
from services.influence.spec import RankSpec
from services.influence.worker.feature_cache import check_denied
from services.influence.worker.job import Job
from services.influence.worker.provenance import device_name
from services.influence.worker.workplace import Workplace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoreArrays:
    """Scores of some samples.

    Attributes:
        total_N: Each sample's sum over all queries.
        rows_QK: Rows, from the first of these samples, of those at both ends of each query's ranking.
        scores_QK: Their scores.
    """

    total_N: NDArray[np.float64]
    rows_QK: NDArray[np.int64]
    scores_QK: NDArray[np.float32]

    def digest(self) -> str:
        """Sha256 of the numbers."""
        found = hashlib.sha256()
        for array in (self.total_N, self.rows_QK, self.scores_QK):
            _add(found, array)
        return found.hexdigest()

    def discard(self) -> None:
        """Remove the files behind them; what is still in use of them stays until it is not."""
        for array in (self.rows_QK, self.scores_QK):
            if isinstance(array, np.memmap) and array.filename is not None:
                Path(array.filename).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class KeptScores:
    """Scores, and where they are kept; `uri` is empty where the store keeps none of ours."""

    arrays: ScoreArrays
    uri: str
    sha256: str
    known: bool


def store_scores(
    place: Workplace, spec: RankSpec, inputs: Mapping[str, object], compute: Callable[[], ScoreArrays]
) -> KeptScores:
    """Scores that are kept, or else computed and kept.

    Args:
        place: Where.
        spec: The options.
        inputs: All else that they depend on.
        compute: Computes them.
    """
    uri = f"{place.job.scores_folder}/{_key(place, spec, inputs)}.safetensors"
    try:
        found, sha256 = _load(place.job, uri, sha256=None)
    except ServiceError as error:
        if error.reason not in {"OBJECT_NOT_FOUND", "STORAGE_DENIED", "URI_NOT_ALLOWED"}:
            raise
    else:
        if found is not None:
            return KeptScores(arrays=found, uri=uri, sha256=sha256, known=True)
        logger.warning("scores at %s are damaged, and are computed again", uri)
    arrays = compute()
    path = place.job.scratch / "scores.safetensors"
    save_file(_tensors(arrays), path, metadata={"sha256": arrays.digest()})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        place.job.store.put(uri, path)
    except ServiceError as error:
        check_denied(error)
        uri = ""
    path.unlink()
    return KeptScores(arrays=arrays, uri=uri, sha256=sha256, known=False)


def load_scores(job: Job, uri: str, *, sha256: str) -> ScoreArrays:
    """Scores that were stored a moment ago. Raises OBJECT_DIGEST_MISMATCH when they are not what was stored."""
    found, _ = _load(job, uri, sha256=sha256)
    if found is None:
        raise ServiceError("OBJECT_DIGEST_MISMATCH", f"{uri} is not what was stored there")
    return found


def _load(job: Job, uri: str, *, sha256: str | None) -> tuple[ScoreArrays | None, str]:
    path = job.scratch / "kept.safetensors"
    found = job.store.download(uri, path, max_bytes=job.store.head(uri).size, sha256=sha256)
    try:
        return _read(path), found
    finally:
        path.unlink()


def _read(path: Path) -> ScoreArrays | None:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = ScoreArrays(**{name: file.get_tensor(name) for name in ("total_N", "rows_QK", "scores_QK")})
            told = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        return None
    return arrays if told == arrays.digest() else None


def _tensors(arrays: ScoreArrays) -> dict[str, NDArray[np.generic]]:
    found = {"total_N": arrays.total_N, "rows_QK": arrays.rows_QK, "scores_QK": arrays.scores_QK}
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def _key(place: Workplace, spec: RankSpec, inputs: Mapping[str, object]) -> str:
    facts = {
        "version": 1,
        "engine": __version__,
        "torch": torch.__version__,
        "model": place.model.sha256,
        "device": device_name(place.model.device),
        "influence": spec.influence.model_dump(mode="json"),
        "seed": spec.run.seed,
        "top_k": spec.top_k,
        **{name: value for name, value in inputs.items() if not isinstance(value, np.ndarray)},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(name for name, value in inputs.items() if isinstance(value, np.ndarray)):
        _add(digest, inputs[name])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, array: object) -> None:
    values = np.ascontiguousarray(array)
    digest.update(f"{values.dtype} {values.shape} ".encode())
    digest.update(values.data)
