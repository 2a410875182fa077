"""An audit of a model and its data, in one pass over cached features.

    quality of retrieval  ->  confusions  ->  screen of test labels  ->  influence on what is left, class by class
        ->  label issues  ->  advice on classes  ->  duplicates, leaks and outliers  ->  proof  ->  tables and figures

What several threads work on is cut into pieces of one core each: tables depend on the inputs and the seed, not on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Audit, AuditModel, AuditSplit, Screened, StageProgress, no_stage_progress
from eif_engine.jobs.audit_classes import advised_classes
from eif_engine.jobs.audit_confusions import confusion_groups, find_confusions, pairs_tables
from eif_engine.jobs.audit_data import prepare
from eif_engine.jobs.audit_duplicates import find_duplicates
from eif_engine.jobs.audit_influence import score_groups
from eif_engine.jobs.audit_issues import train_issues
from eif_engine.jobs.audit_neighbors import find_neighbors
from eif_engine.jobs.audit_outliers import find_outliers
from eif_engine.jobs.audit_proof import prove
from eif_engine.jobs.audit_quality import retrieval
from eif_engine.jobs.audit_results import Found, audit_figures, audit_tables
from eif_engine.jobs.audit_screen import screen
from eif_engine.jobs.audit_stages import AUDIT_STAGES, Stages
from eif_engine.jobs.one_core import cores

__all__ = ["AUDIT_STAGES", "run_audit"]

WITHOUT_MODEL = (
    "Who causes the confusions (ranking, harm, harmful samples, shares of harm) needs a model with its loss.",
    "The proof (proof) needs a model with its loss.",
    "Label issues have no loss and influence among their parts: they need a model.",
)


def run_audit(
    *,
    train: AuditSplit,
    test: AuditSplit,
    model: AuditModel | None,
    config: AuditConfig,
    reviewed: AbstractSet[tuple[str, str]] = frozenset(),
    screened: Screened | None = None,
    progress: StageProgress = no_stage_progress,
) -> Audit:
    """Audit a model and its data.

    Args:
        train: The training samples.
        test: The test samples.
        model: The model behind the features; None where they are embeddings, and what needs it is left out.
        config: How.
        reviewed: Training samples and the labels that people have found right, as (id, label).
        screened: What an earlier audit said of this test set, with this model, configuration and version; None where
            that is not known.
        progress: Called as the stages of AUDIT_STAGES go on; what it raises ends the audit.

    Raises:
        InvalidInput: The splits are not what they should be, or do not fit each other or the model.
        LabelUnknown: A training label is not among the classes of the model.
        MemoryExceeded: The budget does not hold the scores of one class of confusions.
    """
    stages, missing = Stages(progress), [] if model else list(WITHOUT_MODEL)
    with cores(1) as threads:
        with stages.stage("quality"):
            data = prepare(train, test, model)
            retrieved = retrieval(data.test, config)
        with stages.stage("neighbors") as report:
            near = find_neighbors(data, config, threads, report)
        with stages.stage("screen") as report:
            if screened is None:
                screened = screen(data.test, near, config, threads=threads, progress=report, missing=missing)
            confusions = find_confusions(retrieved, data.test, screened, config)
            groups = confusion_groups(confusions, data.test)
        with stages.stage("influence") as report:
            influence = score_groups(data, groups, config, threads=threads, progress=report, missing=missing)
        with stages.stage("issues") as report:
            issues = train_issues(
                data,
                near,
                config,
                influence=influence,
                reviewed=reviewed,
                threads=threads,
                progress=report,
                missing=missing,
            )
        with stages.stage("classes"):
            classes = advised_classes(data.train, issues, config)
        with stages.stage("duplicates"):
            duplicates, outliers = find_duplicates(data, near, config), find_outliers(data, near, config)
        with stages.stage("proof") as report:
            proofs = prove(
                data,
                groups,
                config,
                influence=influence,
                issues=issues,
                threads=threads,
                progress=report,
                missing=missing,
            )
        with stages.stage("findings"):
            found = Found(
                data=data,
                retrieval=retrieved,
                screened=screened,
                confusions=confusions,
                groups=groups,
                influence=influence,
                issues=issues,
                classes=classes,
                duplicates=duplicates,
                outliers=outliers,
                proofs=proofs,
            )
            tables, figures = audit_tables(found, config), audit_figures(found, config)
    return Audit(
        tables=tables,
        ranking=influence.ranking if influence else {},
        pairs=pairs_tables(groups, data.test),
        figures=figures,
        missing=missing,
        seconds=stages.seconds,
        screened=screened,
    )
