"""An explain job: which parts of two images make them similar."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from eif_engine.errors import CheckpointIncompatible, SampleUnknown
from eif_engine.jobs.explain import Explainer, Explanation
from eif_engine.jobs.picture import Subject, draw_explanation
from eif_engine.models.devices import torch_device
from eif_engine.models.parts import ImageParts
from eif_engine.types import Quarantined
from services.influence.messages import SucceededMessage
from services.influence.spec import ExplainSpec, SamplePair
from services.influence.worker.estimate import explain_bytes
from services.influence.worker.explain_tables import ExplainTables
from services.influence.worker.inputs import JobModel, fetch_model, fetch_split
from services.influence.worker.job import Job
from services.influence.worker.memory import require
from services.influence.worker.pair_images import Outcome, PairImage, stream_pairs
from services.influence.worker.provenance import provenance, run_figures
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.split import Split
from services.influence.worker.table_file import TableFile, write_quarantine
from services.influence.worker.writer import publish

STAGES = ("inputs", "explain", "results")
SPLIT = "explained"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an explain job reads; `pairs` are rows of the split."""

    model: JobModel
    explainer: Explainer
    split: Split
    pairs: list[tuple[int, int]]


@dataclass
class Explained:
    """What came of the pairs."""

    tables: list[TableFile]
    pictures: list[Path] = field(default_factory=list)
    skipped: int = 0
    largest_error: float = 0.0

    def as_figures(self) -> dict[str, float]:
        """By the names of MANIFEST.json."""
        return {
            "pairs": len(self.pictures),
            "skipped_pairs": self.skipped,
            "largest_marginal_error": self.largest_error,
        }


def run_explain(job: Job, spec: ExplainSpec) -> SucceededMessage:
    """Run an explain job to its end. Raises EifError, Cancelled."""
    inputs = _inputs(job, spec)
    quarantine = Quarantine(spec.run.max_quarantined_fraction)
    explained = _explain(job, inputs, quarantine)
    with job.progress.stage("results", unit="files", total=1) as report:
        quarantined = write_quarantine(job.scratch, quarantine)
        figures = {
            "parts": inputs.explainer.feature_map.parts,
            "quarantined": quarantine.count,
            **explained.as_figures(),
            **run_figures(job),
        }
        facts = provenance(job, splits=[inputs.split], device=inputs.model.device, model=inputs.model)
        tables = [*explained.tables, quarantined]
        result = publish(job, tables, figures=figures, provenance=facts, files=explained.pictures)
        report(1, 1)
    return result


def _inputs(job: Job, spec: ExplainSpec) -> Inputs:
    with job.progress.stage("inputs", unit="files", total=2) as report:
        model = fetch_model(job, spec.model, torch_device(spec.run.device.value))
        explainer = Explainer(model.loaded, name=model.bundle.architecture.name)
        report(1, 2)
        split = fetch_split(job, spec.manifest, SPLIT)
        pairs = _rows(split, spec.pairs)
        needed = explain_bytes(model, samples=len(split), parts=explainer.feature_map.parts)
        what = f"an explain job on pairs of {len(split):,} samples"
        require(needed, budget=job.settings.memory_budget_bytes, what=what)
        report(2, 2)
    return Inputs(model=model, explainer=explainer, split=split, pairs=pairs)


def _rows(split: Split, pairs: Sequence[SamplePair]) -> list[tuple[int, int]]:
    """Rows of the pairs, each once. Raises SampleUnknown."""
    row_of = {sample_id: row for row, sample_id in enumerate(split.sample_ids)}
    for sample_id in (sample_id for pair in pairs for sample_id in (pair.sample_id, pair.neighbor_id)):
        if sample_id not in row_of:
            raise SampleUnknown(
                f"sample {sample_id!r} of the pairs asked for is not in the manifest {split.uri}",
                sample_id=sample_id,
                uri=split.uri,
            )
    return list(dict.fromkeys((row_of[pair.sample_id], row_of[pair.neighbor_id]) for pair in pairs))


def _explain(job: Job, inputs: Inputs, quarantine: Quarantine) -> Explained:
    asked = len({row for pair in inputs.pairs for row in pair})
    unreadable: set[str] = set()
    preprocessing = inputs.model.loaded.preprocessing
    with (
        job.progress.stage("explain", unit="pairs", total=len(inputs.pairs)) as report,
        ExplainTables(job.scratch) as tables,
        closing(stream_pairs(job, inputs.split, inputs.pairs, preprocessing)) as stream,
    ):
        explained = Explained(tables.files)
        for done, images in enumerate(stream, start=1):
            for image in images:
                if isinstance(image, Quarantined) and image.sample_id not in unreadable:
                    unreadable.add(image.sample_id)
                    quarantine.add(SPLIT, image, total=asked)
            _explain_pair(job, inputs, images, tables, explained)
            report(done, len(inputs.pairs))
    return explained


def _explain_pair(
    job: Job, inputs: Inputs, images: tuple[Outcome, Outcome], tables: ExplainTables, explained: Explained
) -> None:
    first, second = images
    if isinstance(first, Quarantined) or isinstance(second, Quarantined):
        explained.skipped += 1
        return
    explanation = inputs.explainer.pair(_parts(inputs, first), _parts(inputs, second))
    path = job.scratch / f"pair-{len(explained.pictures) + 1:04d}.png"
    path.write_bytes(_picture(inputs, explanation, first, second))
    tables.write(explanation, first.sample, second.sample, path.name)
    explained.pictures.append(path)
    explained.largest_error = max(explained.largest_error, explanation.error)


def _parts(inputs: Inputs, image: PairImage) -> ImageParts:
    """Of an image; an error of the network names the sample."""
    try:
        return inputs.explainer.parts(image.pixels_CHW)
    except CheckpointIncompatible as error:
        sample = image.sample
        raise CheckpointIncompatible(
            f"sample {sample.sample_id!r} ({sample.uri}): {error.message}", sample_id=sample.sample_id, uri=sample.uri
        ) from error


def _picture(inputs: Inputs, explanation: Explanation, first: PairImage, second: PairImage) -> bytes:
    one, other = (Subject(each.image, each.sample.sample_id, each.sample.label) for each in (first, second))
    return draw_explanation(explanation, one, other, inputs.model.loaded.preprocessing)
