"""From what the stages of an audit found to its tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_tables import AUDIT_SCHEMAS
from eif_engine.audit_types import Columns, Screened
from eif_engine.functional.retrieval import Retrieval
from eif_engine.jobs.audit_classes import AdvisedClass, advice_table, class_figures
from eif_engine.jobs.audit_confusions import Confusion, class_pairs_table, classes_table, confusions_table
from eif_engine.jobs.audit_data import AuditData
from eif_engine.jobs.audit_duplicates import DuplicateGroup, duplicate_figures, duplicates_table
from eif_engine.jobs.audit_findings import (
    Finding,
    class_findings,
    confusion_findings,
    duplicate_findings,
    findings_table,
    label_findings,
    outlier_findings,
    screened_findings,
)
from eif_engine.jobs.audit_influence import Influence, harm_of_top_percent, harm_table
from eif_engine.jobs.audit_issues import Issues, canary_table, issue_figures, issues_table
from eif_engine.jobs.audit_outliers import Outlier, outliers_table
from eif_engine.jobs.audit_proof import Proof, proof_figures, proof_table
from eif_engine.jobs.audit_quality import quality_figures, quality_table
from eif_engine.jobs.audit_rollups import rollups_table
from eif_engine.jobs.audit_screen import screen_table
from eif_engine.types import Query


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the stages found; None where a stage did not apply.

    Attributes:
        data: The splits.
        retrieval: What each test sample finds.
        screened: What the screen says of test labels.
        confusions: All of them.
        groups: Those that are not set aside, by class.
        influence: Of the training samples on the groups.
        issues: Label issues of the training set.
        classes: Training classes and advice on them.
        duplicates: Groups of duplicates.
        outliers: Of both splits.
        proofs: What acting on the findings does.
    """

    data: AuditData
    retrieval: Retrieval
    screened: Screened | None
    confusions: list[Confusion]
    groups: list[Query]
    influence: Influence | None
    issues: Issues | None
    classes: list[AdvisedClass]
    duplicates: list[DuplicateGroup]
    outliers: list[Outlier]
    proofs: Sequence[Proof]

    @property
    def flagged_N(self) -> NDArray[np.bool_]:
        """Training samples whose label looks wrong and is not reviewed."""
        return np.zeros(len(self.data.train), dtype=bool) if self.issues is None else self.issues.flagged_N


def audit_tables(found: Found, config: AuditConfig) -> dict[str, Columns]:
    """Every table of AUDIT_SCHEMAS; what does not apply has empty columns."""
    train, test, influence = found.data.train, found.data.test, found.influence
    tables = {name: empty(name) for name in AUDIT_SCHEMAS}
    tables |= {
        "quality": quality_table(found.retrieval, test, config),
        "confusions": confusions_table(found.confusions, test, found.screened),
        "confusion_classes": classes_table(found.groups, test, influence.harmful if influence else {}),
        "class_pairs": class_pairs_table(found.groups, test),
        "test_issues": screen_table(found.screened, test),
        "advice": advice_table(found.classes),
        "duplicates": duplicates_table(found.duplicates),
        "outliers": outliers_table(found.outliers),
        "rollups": rollups_table(train, found.flagged_N, influence.harm if influence else None),
        "proof": proof_table(found.proofs, train.codes_N.cpu()),
        "findings": findings_table(_findings(found)),
    }
    if influence is not None:
        tables["harm"] = harm_table(influence.harm, train)
    if found.issues is not None:
        tables["issues"] = issues_table(found.issues, train)
        tables["canary"] = canary_table(found.issues, config)
    return tables


def empty(name: str) -> Columns:
    """A table without rows."""
    return {column: [] for column in AUDIT_SCHEMAS[name].names}


def audit_figures(found: Found, config: AuditConfig) -> dict[str, float]:
    """The figures that apply, by the names of FIGURES."""
    train, test, confusions = found.data.train, found.data.test, found.confusions
    figures = {
        "train_samples": float(len(train)),
        "test_samples": float(len(test)),
        "classes": float(len(set(train.labels))),
        **quality_figures(found.retrieval, config),
        "confusion_pairs": float(len(confusions)),
        "confusion_share": len(confusions) / len(test),
        "confusion_classes": float(len(found.groups)),
        **class_figures(found.classes, advised=found.issues is not None),
        **duplicate_figures(found.duplicates),
        "outliers": float(len(found.outliers)),
        **proof_figures(found.proofs),
    }
    if found.screened is not None:
        figures["test_label_issues"] = float(found.screened.doubted_M.sum())
        figures["confusions_set_aside"] = float(sum(each.set_aside for each in confusions))
    if found.influence is not None:
        figures["harm_of_top_percent"] = harm_of_top_percent(found.influence.harm)
    return figures | (issue_figures(found.issues) if found.issues is not None else {})


def _findings(found: Found) -> Iterator[Finding]:
    train, test = found.data.train, found.data.test
    return chain(
        confusion_findings(found.confusions, test),
        label_findings(found.issues, train),
        screened_findings(found.screened, test),
        duplicate_findings(found.duplicates),
        outlier_findings(found.outliers),
        class_findings(found.classes),
    )
