"""A whole audit over gRPC, measured and held against planted truth: `make bench-audit`.

Starts the services, trains models on Omniglot with 10 % of the labels flipped, audits them from nothing and again with
1 % new samples, and lets the gate judge a model trained on wrong labels beside clean ones. Writes audit.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.client.influence import InfluenceClient
from services.client.jobs import Job
from services.client.specs import JobOptions
from services.common.storage.router import open_store
from services.demo.data import DemoData, DemoImage, load
from services.demo.publish import Published, publish
from services.demo.stack import Stack, running_stack
from tests.benchmarks.audit_job.models import Written, frozen_backbone, small_network
from tests.benchmarks.audit_job.truth import by_advice, detection

NEW_SHARE = 0.01
Make = Callable[[DemoData, Path], Written]


def main() -> int:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with Omniglot's archives")
    parser.add_argument(
        "--backbone",
        type=Path,
        default=Path("../shared/models/mobilenet_v2_imagenet_fp16.safetensors"),
        help="safetensors of torchvision's mobilenet_v2",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of audit.json")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be given several times")
    options = parser.parse_args()
    path = options.out / "audit.json"
    results: dict[str, Any] = json.loads(path.read_text()) if options.only and path.exists() else {}
    results["machine"] = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version()}
    data = load(str(options.data), seed=0)
    for name in options.only or SECTIONS:
        print(f"==> {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder) / "stack", store="local") as stack:
            results[name] = SECTIONS[name](stack, Path(folder), data, options.backbone)
        print(json.dumps(results[name], indent=2), flush=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def small(stack: Stack, folder: Path, data: DemoData, _weights: Path) -> dict[str, Any]:
    """The small network."""
    return _measure(stack, folder, data, lambda data, folder: small_network(data, folder, seed=0))


def mobilenet(stack: Stack, folder: Path, data: DemoData, weights: Path) -> dict[str, Any]:
    """A head on frozen MobileNetV2."""
    return _measure(stack, folder, data, lambda data, folder: frozen_backbone(data, folder, weights, seed=0))


def gate(stack: Stack, folder: Path, data: DemoData, _weights: Path) -> dict[str, Any]:
    """Three audits: a clean baseline, a model trained on flipped labels, a clean one retrained with another seed."""
    clean = replace(data, train=[replace(image, label=image.true_label) for image in data.train])
    found: dict[str, Any] = {}
    with InfluenceClient(stack.influence) as client:
        for name, some, seed in (("clean", clean, 0), ("flipped", data, 0), ("retrained", clean, 1)):
            written = small_network(some, folder / name, seed=seed)
            published = _publish(stack, name, written, some)
            _audit(client, published, name=f"gate-{name}")
        for name in ("flipped", "retrained"):
            verdict = client.evaluate_audit(f"gate-{name}", baseline="gate-clean")
            broken = [rule.message for rule in verdict.rules if rule.verdict != "PASS"]
            found[name] = {"verdict": str(verdict.verdict), "broken": broken}
    return found


def _measure(stack: Stack, folder: Path, data: DemoData, make: Make) -> dict[str, Any]:
    """A first audit without the newest samples, then one with them."""
    new = round(NEW_SHARE * len(data.train))
    older = replace(data, train=_without(data.train, new))
    written = make(data, folder / "made")
    with InfluenceClient(stack.influence) as client:
        first, first_s = _audit(client, _publish(stack, "older", written, older), name="first")
        second, second_s = _audit(client, _publish(stack, "grown", written, data), name="second", previous="first")
        issues, canary, advice = (client.read_table("second", name) for name in ("issues", "canary", "advice"))
    return {
        "train_samples": len(data.train),
        "test_samples": len(data.test),
        "bare_forward_s": written.bare_seconds,
        "first_s": first_s,
        "first_over_limit": first_s / (1.5 * written.bare_seconds + 20),
        "second_s": second_s,
        "second_over_first": second_s / first_s,
        "first_stages": _stages(first),
        "second_stages": _stages(second),
        "peak_memory_bytes": first.output.figures.get("peak_memory_bytes", 0.0) if first.output else 0.0,
        "figures": dict(second.output.figures) if second.output else {},
        **detection(issues, canary, data.flips),
        "by_advice": by_advice(advice, issues, data.flips),
    }


def _without(images: Sequence[DemoImage], count: int) -> list[DemoImage]:
    """All but some that are spread evenly over the rest."""
    step = len(images) // max(1, count)
    left_out = set(range(0, step * count, step))
    return [image for row, image in enumerate(images) if row not in left_out]


def _publish(stack: Stack, name: str, written: Written, data: DemoData) -> Published:
    store = open_store(stack.storage)
    return publish(store, f"{stack.prefix}/{name}", written.folder, data, progress=lambda _done, _total: None)


def _audit(
    client: InfluenceClient, published: Published, *, name: str, previous: str | None = None
) -> tuple[Job, float]:
    start = time.perf_counter()
    job = client.audit(
        model=published.model,
        train=published.train_manifest,
        test=published.test_manifest,
        previous=previous,
        group_by=["source"],
        options=JobOptions(job_id=name),
    )
    done = client.wait(job)
    return done, time.perf_counter() - start


def _stages(job: Job) -> dict[str, float]:
    figures = job.output.figures if job.output else {}
    return {name.removeprefix("seconds_"): value for name, value in figures.items() if name.startswith("seconds_")}


SECTIONS: dict[str, Callable[[Stack, Path, DemoData, Path], dict[str, Any]]] = {
    "small": small,
    "mobilenet": mobilenet,
    "gate": gate,
}

if __name__ == "__main__":
    sys.exit(main())
