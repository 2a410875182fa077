"""A small world to audit, with known faults in it: wrong labels, duplicates, a leak, an outlier, a wrong test label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Audit, AuditModel, AuditSplit, Columns
from eif_engine.issue_config import IssueConfig
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.head import Head

CLASSES, SHOTS, TEST_CLASSES, TEST_SHOTS, FEATURES, DIM = 10, 16, 6, 12, 12, 6


@dataclass(frozen=True)
class World:
    """What is audited, and what is wrong with it."""

    train: AuditSplit
    test: AuditSplit
    model: AuditModel
    wrong_ids: set[str]
    true_labels: list[str]


def quick() -> AuditConfig:
    """Few retrainings and canaries."""
    return AuditConfig(
        recall_at=(1, 3),
        top_k=5,
        issues=IssueConfig(canary_copies=2, num_folds=4, num_neighbors=8),
        proofs=2,
        proof_draws=2,
        outlier_neighbors=3,
        outlier_ratio=2.0,
    )


def world(seed: int = 0) -> World:
    """Ten training classes, six others to test; rows 0 to 3 and two test rows are as `World` says.

    Test classes come in near pairs, so that there are confusions.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    center_CF, test_center_CF = 2.2 * draw(CLASSES, FEATURES), 2.2 * draw(TEST_CLASSES, FEATURES)
    test_center_CF[1::2] = test_center_CF[::2] + 0.5 * draw(TEST_CLASSES // 2, FEATURES)
    code_N, code_M = torch.arange(CLASSES * SHOTS) % CLASSES, torch.arange(TEST_CLASSES * TEST_SHOTS) % TEST_CLASSES
    x_NF = center_CF[code_N] + 0.5 * draw(len(code_N), FEATURES)
    x_MF = test_center_CF[code_M] + 0.5 * draw(len(code_M), FEATURES)
    true_labels = [f"c{code}" for code in code_N.tolist()]
    labels = list(true_labels)
    wrong = [20, 41, 62, 83, 104, 125, 146]
    for row in wrong:
        labels[row] = f"c{(int(code_N[row]) + 3) % CLASSES}"
    x_NF[10] = x_NF[0]  # the same image twice
    x_NF[11] = x_NF[2]  # the same image under two labels
    x_MF[3] = x_NF[5]  # a leak
    x_NF[7] = 6 * draw(FEATURES) - 12  # far from everything
    test_labels = [f"t{code}" for code in code_M.tolist()]
    test_labels[30] = f"t{(int(code_M[30]) + 2) % TEST_CLASSES}"
    digests: list[bytes | None] = [row.to_bytes(32, "big") for row in range(len(labels))]
    digests[10], digests[50] = digests[0], None
    head = Head(draw(DIM, FEATURES) / FEATURES**0.5, torch.zeros(DIM))
    proxies_CD = F.normalize(head.embed(center_CF), dim=1)
    return World(
        train=AuditSplit(
            sample_ids=[f"train:{row:03d}" for row in range(len(labels))],
            labels=labels,
            features_NF=x_NF,
            digests=digests,
            columns={"source": [("left", "right")[row % 3 == 0] for row in range(len(labels))]},
        ),
        test=AuditSplit(
            sample_ids=[f"test:{row:03d}" for row in range(len(test_labels))],
            labels=test_labels,
            features_NF=x_MF,
            digests=[None] * len(test_labels),
            columns={"batch": [str(row % 2) for row in range(len(test_labels))]},
        ),
        model=AuditModel(head=head, loss=ProxyNCA(proxies_CD, 3.0), classes=[f"c{code}" for code in range(CLASSES)]),
        wrong_ids={f"train:{row:03d}" for row in wrong},
        true_labels=true_labels,
    )


def rows_of(table: Columns) -> list[dict[str, Any]]:
    """A table by rows."""
    columns: Mapping[str, Sequence[Any]] = {name: list(values) for name, values in table.items()}
    count = {len(values) for values in columns.values()}
    assert len(count) == 1, {name: len(values) for name, values in columns.items()}
    return [{name: values[row] for name, values in columns.items()} for row in range(count.pop())]


def plain(audit: Audit) -> dict[str, Any]:
    """Everything of an audit that must be the same when it is run again."""
    tables = {**audit.tables, **{f"ranking {key}": table for key, table in audit.ranking.items()}}
    tables |= {f"pairs {key}": table for key, table in audit.pairs.items()}
    found: dict[str, Any] = {name: rows_of(table) for name, table in tables.items()}
    return found | {"figures": dict(audit.figures), "missing": list(audit.missing)}
