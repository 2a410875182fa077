"""`make demo`: the main job on a small model, from training to suggested labels, with the real services over gRPC."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from eif_engine import __version__
from eif_engine.errors import EifError
from eif_engine.types import Progress as Report
from services.client.errors import EifRpcError
from services.common.storage.router import open_store
from services.demo.data import DemoData, load
from services.demo.flow import Findings, run_flow
from services.demo.publish import export, publish
from services.demo.stack import StackError, running_stack
from services.demo.summary import Seconds, Summary
from services.demo.tables import show

DEFAULT_EPOCHS = {"digits": 15, "omniglot": 12}
MARKER = ".eif-demo"
"""Tells a folder that the demo made, and may replace, from one of the user's."""


def main() -> int:
    """Run the demo; 0 when it found something, 1 when a part failed."""
    args = build_parser().parse_args()
    console = Console()
    try:
        run(console, args)
    except (EifError, StackError, EifRpcError) as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; everything was stopped")
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--store", choices=("local", "s3"), default="local", help="a local folder, or a real S3 server")
    parser.add_argument("--data", default="digits", help="`digits` (default), or a folder with Omniglot's archives")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where results go (default out/demo)")
    parser.add_argument("--epochs", type=int, help="of the training (default: enough for a decent model)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run(console: Console, args: argparse.Namespace) -> None:
    """Train, publish, run the flow, show and write what was found."""
    began = time.monotonic()
    out = _fresh(args.out)
    with _bars(console) as bars:
        data = load(args.data, seed=args.seed)
        from services.demo.train import train  # imports torch, which takes seconds

        trained, train_seconds = _timed(
            lambda: train(
                data,
                epochs=args.epochs or DEFAULT_EPOCHS[data.name],
                seed=args.seed,
                progress=_bar(bars, f"train on {data.name}"),
            )
        )
        difference = export(data, trained, out)
        bars.console.print(f"ONNX export agrees with PyTorch to {difference:.1e} in normalised embeddings")
        with running_stack(out, store=args.store) as stack:
            store = open_store(stack.storage)
            upload = _bar(bars, f"upload to {stack.prefix.partition(':')[0]}")
            published, upload_seconds = _timed(lambda: publish(store, stack.prefix, out, data, progress=upload))
            findings = run_flow(stack, published, bars, budget=len(data.flips))
    seconds = Seconds(
        train=train_seconds,
        upload=upload_seconds,
        features=_figure(findings, "seconds_features"),
        influence=_figure(findings, "seconds_confusions") + _figure(findings, "seconds_influence"),
        relabel=findings.relabel_seconds,
        total=time.monotonic() - began,
    )
    summary = summarize(data, findings, seconds, store=args.store, recall_at_1=trained.recall_at_1)
    _report(console, out, data, findings, summary)


def summarize(data: DemoData, findings: Findings, seconds: Seconds, *, store: str, recall_at_1: float) -> Summary:
    """Hold what the services answered against the truth that only the demo knows."""
    flips = data.flips
    budget = len(flips)
    hits = [
        row for row in findings.suggestions if row.sample_id in flips and row.suggested_label == flips[row.sample_id]
    ]
    return Summary(
        train_samples=len(data.train),
        test_samples=len(data.test),
        confusion_pairs=len(findings.confusions),
        flips_planted=budget,
        flips_found_at_budget=sum(row.sample_id in flips for row in findings.suggestions[:budget]),
        influence_found_at_budget=sum(row.sample_id in flips for row in findings.ranking[:budget]),
        relabel_hit_rate=len(hits) / max(1, budget),
        recall_at_1=recall_at_1,
        seconds=seconds,
        store=store,
        data=data.name,
        device=findings.rank_job.output.provenance.get("device", "") if findings.rank_job.output else "",
        engine_version=__version__,
    )


def _report(console: Console, out: Path, data: DemoData, findings: Findings, summary: Summary) -> None:
    from services.demo.page import write_page

    write_page(out / "report.html", data, findings, summary)
    summary.write(out / "summary.json")
    show(console, data, findings, summary)
    console.print(f"page:    {out / 'report.html'}\nfigures: {out / 'summary.json'}", highlight=False, soft_wrap=True)


def _fresh(out: Path) -> Path:
    """An empty folder; what an earlier demo left there goes, anything else stays and is an error."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise StackError(f"{out} is not empty and was not made by the demo: give another folder with OUT=...")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    return out


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _bar(bars: Progress, title: str) -> Report:
    task = bars.add_task(title, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


Result = TypeVar("Result")


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began


def _figure(findings: Findings, name: str) -> float:
    return findings.rank_job.output.figures.get(name, 0.0) if findings.rank_job.output else 0.0


if __name__ == "__main__":
    sys.exit(main())
