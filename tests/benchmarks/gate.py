"""What the default policy says of models trained on clean and on flipped labels, each beside a clean baseline.

PYTHONPATH=. python tests/benchmarks/gate.py DATA --cache FOLDER

DATA holds the two Omniglot archives; models are those of `make paper`, trained where FOLDER does not have them.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eif_engine.audit_config import AuditConfig
from eif_engine.cli.audit_files import audit_inputs
from eif_engine.jobs.audit import run_audit
from services.influence.gate.policy_file import read_policy
from services.influence.gate.rules import Evidence, apply_policy
from services.influence.gate.verdict import Verdict, worst
from tests.benchmarks.paper.data import Split, omniglot
from tests.benchmarks.paper.flips import Noise
from tests.benchmarks.paper.models import Condition, model
from tests.benchmarks.paper.network import LossName, Size

SEEDS = (0, 1, 2)
SHOWN = ("recall_at_1", "map_at_r", "estimated_noise", "label_issues", "canary_precision")


@dataclass(frozen=True, kw_only=True)
class Audited:
    """Figures of an audit, and severity by id and kind of its findings."""

    figures: Mapping[str, float]
    findings: Mapping[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Findings beside those of a baseline, counted with sets."""

    audit: Audited
    baseline: Audited

    def count(self, kind: str, *, min_severity: float) -> int:
        return self._count(self.audit.findings, kind, min_severity)

    def count_new(self, kind: str, *, min_severity: float) -> int:
        new = {key: value for key, value in self.audit.findings.items() if key not in self.baseline.findings}
        return self._count(new, kind, min_severity)

    def _count(self, findings: Mapping[tuple[str, str], float], kind: str, min_severity: float) -> int:
        return sum(key[0] == kind and severity >= min_severity for key, severity in findings.items())


def audited(split: Split, condition: Condition, cache: Path) -> Audited:
    """Audit a model, without the proof."""
    case = model(split, condition, size=Size(), cache=cache).case
    train, test, audit_model = audit_inputs(case, {}, embeddings=False)
    audit = run_audit(train=train, test=test, model=audit_model, config=AuditConfig(proofs=0))
    table: Mapping[str, Any] = audit.tables["findings"]
    keys = zip(table["kind"], table["finding_id"], strict=True)
    return Audited(
        figures={**audit.figures, "quarantined": 0.0}, findings=dict(zip(keys, table["severity"], strict=True))
    )


def judged(audit: Audited, baseline: Audited) -> tuple[Verdict, list[str]]:
    """The verdict of the default policy, and the rules that are broken."""
    evidence = Evidence(
        figures=audit.figures, baseline=baseline.figures, findings=Counts(audit=audit, baseline=baseline)
    )
    results = apply_policy(read_policy("").policy, evidence)
    broken = [f"{result.rule} ({result.verdict})" for result in results if result.verdict is not Verdict.PASS]
    return worst(result.verdict for result in results), broken


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201  a command line prints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    split = omniglot(args.data)
    kinds = [(0.0, Noise.UNIFORM), (0.1, Noise.UNIFORM), (0.1, Noise.NEAREST)]
    audits: dict[Condition, Audited] = {}
    say(f"| model | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    for (share, noise), seed in itertools.product(kinds, SEEDS):
        condition = Condition(loss=LossName.PROXY_NCA, seed=seed, share=share, noise=noise)
        audits[condition] = found = audited(split, condition, args.cache)
        say(f"| {condition.name} | {' | '.join(f'{found.figures[name]:.4g}' for name in SHOWN)} |")
    say("\n| baseline | model | verdict | broken rules |\n|---|---|---|---|")
    clean = [condition for condition in audits if not condition.share]
    for baseline, condition in itertools.product(clean, audits):
        if baseline != condition:
            verdict, broken = judged(audits[condition], audits[baseline])
            say(f"| {baseline.name} | {condition.name} | {verdict} | {', '.join(broken)} |")


if __name__ == "__main__":
    main()
