"""A run of the demo: train, publish, start the system, ask it, hold its answers against the truth, show them."""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from services.common.storage.router import open_store
from services.demo.data import DemoData, load
from services.demo.flow import run_flow
from services.demo.page import write_page
from services.demo.publish import Published, export, publish
from services.demo.stack import Stack, StackError, running_stack
from services.demo.steps import Steps
from services.demo.summary import Seconds, summarize
from services.demo.tables import show
from services.demo.train import Trained, train

EPOCHS = 8
MARKER = ".eif-demo"
"""Tells a folder that the demo made, and may replace, from one of the user's."""


def run(console: Console, options: argparse.Namespace, *, began: float) -> None:
    """Run it in the folder `options.out`; `began` is when the process did, by time.monotonic."""
    out = fresh_folder(options.out)
    with ExitStack() as system:
        with Steps(console) as steps:
            data = _read(steps, options.data, options.seed)
            trained, train_seconds = _train(steps, data, options.epochs or EPOCHS, options.seed)
            export_seconds = _export(steps, data, trained, out)
            with steps.step("start the object store and the services") as starting:
                stack = system.enter_context(running_stack(out, store=options.store))
                starting.note = f"influence at {stack.influence}, embedding at {stack.embedding}"
            published, upload_seconds = _publish(steps, stack, out, data)
            findings = run_flow(stack, published, steps, out, budget=len(data.flips))
        seconds = Seconds(
            train=train_seconds,
            export=export_seconds,
            start=starting.seconds,
            upload=upload_seconds,
            rank=findings.rank_seconds,
            features=findings.figure("seconds_features"),
            influence=findings.figure("seconds_confusions") + findings.figure("seconds_influence"),
            relabel=findings.relabel_seconds,
            audit=findings.audited.seconds,
            total=time.monotonic() - began,
        )
        summary = summarize(data, findings, seconds, store=options.store, recall_at_1=trained.recall_at_1)
        summary.write(out / "summary.json")
        write_page(out / "report.html", data, findings, summary)
        show(console, data, findings, summary)
        _say_where(console, out)
        if options.keep_running:
            _wait_for_interrupt(console, stack)


def fresh_folder(out: Path) -> Path:
    """An empty folder; what an earlier demo left there goes, anything else stays and is an error."""
    if out.exists() and not out.is_dir():
        raise StackError(f"{out} is a file: give a folder with OUT=...")
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise StackError(f"{out} is not empty and was not made by the demo: give another folder with OUT=...")
        for part in out.iterdir():
            if part.name != MARKER:  # it goes last, so that a removal that was cut short can be done again
                shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    return out


def _read(steps: Steps, source: str, seed: int) -> DemoData:
    with steps.step("read the images") as step:
        data = load(source, seed=seed)
        step.note = f"{data.name}: {len(data.train):,} to train on, {len(data.test):,} of other classes to test on"
    return data


def _train(steps: Steps, data: DemoData, epochs: int, seed: int) -> tuple[Trained, float]:
    with steps.step(f"train a model, {len(data.flips):,} of its labels made wrong") as step:
        trained = train(data, epochs=epochs, seed=seed, progress=partial(step.report, unit="steps"))
        step.note = f"recall@1 {trained.recall_at_1:.3f} on classes it never saw"
    return trained, step.seconds


def _export(steps: Steps, data: DemoData, trained: Trained, out: Path) -> float:
    with steps.step("export it to ONNX, and verify that") as step:
        difference = export(data, trained, out)
        step.note = f"embeddings differ from PyTorch's by at most {difference:.1e}"
    return step.seconds


def _publish(steps: Steps, stack: Stack, out: Path, data: DemoData) -> tuple[Published, float]:
    with steps.step("upload model, images and manifests") as step:
        store = open_store(stack.storage)
        published = publish(store, stack.prefix, out, data, progress=partial(step.report, unit="objects"))
        step.note = f"to {stack.prefix}"
    return published, step.seconds


def _say_where(console: Console, out: Path) -> None:
    for name, what in (("report.html", "page"), ("audit.html", "audit"), ("summary.json", "figures"), ("logs", "logs")):
        console.print(f"{what:8} {(out / name).resolve()}", soft_wrap=True)


def _wait_for_interrupt(console: Console, stack: Stack) -> None:
    console.print(
        f"\nThe services are up: influence at {stack.influence}, embedding at {stack.embedding}. Try, for example,"
    )
    console.print(f"  eif jobs list --target {stack.influence}\nCtrl-C stops them.")
    threading.Event().wait()
