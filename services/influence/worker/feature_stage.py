"""The stage `features`: features of every split of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.influence.worker.feature_cache import FeatureCache
from services.influence.worker.features import FeatureExtractor, SplitFeatures
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.split import Split

STAGE = "features"


@dataclass(frozen=True, kw_only=True)
class FeatureFigures:
    """What the cache saved."""

    hits: int = 0
    misses: int = 0

    def as_figures(self) -> dict[str, float]:
        """By the names of MANIFEST.json."""
        return {"feature_cache_hits": self.hits, "feature_cache_misses": self.misses}


def run_features(
    job: Job, model: JobModel, splits: Sequence[Split], quarantine: Quarantine
) -> tuple[list[SplitFeatures], FeatureFigures]:
    """Features of each split, and how many were known."""
    total = sum(len(split) for split in splits)
    cache = FeatureCache(
        job.store,
        f"{job.cache_folder}/{model.cache_key}",
        feature_dim=model.feature_dim,
        scratch=job.scratch,
        shard_samples=job.settings.cache_shard_samples,
    )
    found: list[SplitFeatures] = []
    with job.progress.stage(STAGE, unit="samples", total=total) as report:
        cache.load(lambda _done, _total: report(0, total))
        extractor = FeatureExtractor(job, model, cache, quarantine)
        before = 0
        for split in splits:
            found.append(extractor.extract(split, lambda done, before=before: report(before + done, total)))  # type: ignore[misc]  # mypy sees no type for a lambda's default
            before += len(split)
        job.images.close()  # what is known of large tars takes memory that later stages need
        report(total, total)
    return found, FeatureFigures(hits=sum(each.hits for each in found), misses=sum(each.misses for each in found))
