"""The paper's experiments: `make paper`, or `python -m tests.benchmarks.paper --data FOLDER`.

Trains ProxyNCA++ and SoftTriple models on Omniglot and, where a folder of images is given, heads over frozen features
of MobileNetV2 on it; then writes OUT/paper.md with its figures in OUT/paper. Models, gains and answers of peers stay in
the cache folder, so that a second run measures only what is new; delete the folder to start anew.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from functools import partial
from pathlib import Path

import torch

from eif_engine.errors import EifError
from tests.benchmarks.paper.data import omniglot
from tests.benchmarks.paper.frozen import frozen_model, frozen_split
from tests.benchmarks.paper.models import SHARES, model
from tests.benchmarks.paper.network import Size
from tests.benchmarks.paper.report import write_report
from tests.benchmarks.paper.results import Budget, Results, Say, measure, measure_images


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for."""
    options = build_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    say: Say = lambda text: print(f"{time.monotonic() - began:7.0f} s  {text}", flush=True)
    budget = Budget(
        seeds=options.seeds,
        pairs=options.pairs,
        groups=options.groups,
        network_pairs=options.network_pairs,
        shares=tuple(options.shares),
    )
    try:
        found = [run_omniglot(options, budget, say)]
        if options.images is not None:
            found.append(run_images(options, budget, say))
    except EifError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    say(f"written: {write_report(options.out, found, budget.shares, setting=setting(options))}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.paper", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with Omniglot's archives")
    parser.add_argument("--images", type=Path, help="a folder with one folder of images a class")
    parser.add_argument("--backbone", type=Path, help="safetensors of torchvision's mobilenet_v2, for --images")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="(default docs/results)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/paper"), help="(default .cache/paper)")
    parser.add_argument("--peers", type=Path, help="the interpreter that peers.txt is installed for")
    defaults, size = Budget(), Size()
    parser.add_argument("--seeds", type=int, default=defaults.seeds, help="models of each kind (default 3)")
    parser.add_argument("--pairs", type=int, default=defaults.pairs, help="pairs a model (default 10)")
    parser.add_argument("--groups", type=int, default=defaults.groups, help="groups a model (default 5)")
    parser.add_argument("--network-pairs", type=int, default=defaults.network_pairs, help="for the network (default 3)")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=SHARES, help="of labels flipped (default .01 .05 .1)"
    )
    parser.add_argument("--epochs", type=int, default=size.epochs, help="of training (default 10)")
    parser.add_argument("--width", type=int, default=size.width, help="of the network (default 32)")
    parser.add_argument("--classes", type=int, help="only the first classes of each side")
    parser.add_argument("--shots", type=int, default=20, help="samples of a class, with --classes (default 20)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: all cores)")
    return parser


def run_omniglot(options: argparse.Namespace, budget: Budget, say: Say) -> Results:
    """A network trained from scratch."""
    split, size = omniglot(options.data), Size(width=options.width, epochs=options.epochs)
    if options.classes is not None:
        split = split.first(options.classes, options.shots)
    results = Results(name=split.name, train=len(split.train_labels_N), test=len(split.test_labels_M))
    train = partial(model, split, size=size, cache=options.cache)
    measure(results, train, budget, cache=options.cache, peers=options.peers, say=say)
    measure_images(results, split, size, budget, cache=options.cache, say=say)
    return results


def run_images(options: argparse.Namespace, budget: Budget, say: Say) -> Results:
    """A linear head over frozen features."""
    if options.backbone is None:
        raise EifError("--images needs --backbone")
    split = frozen_split(options.images, options.backbone, cache=options.cache)
    results = Results(name=options.images.name, train=len(split.train_labels_N), test=len(split.test_labels_M))
    train = partial(frozen_model, split, cache=options.cache)
    return measure(results, train, budget, cache=options.cache, peers=options.peers, say=say)


def setting(options: argparse.Namespace) -> list[str]:
    """What was run, where and when."""
    machine = (
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), torch {torch.__version__.partition('+')[0]}"
    )
    model = f"network of width {options.width}, {options.epochs} epochs"
    amount = {"SEEDS": options.seeds, "PAIRS": options.pairs, "GROUPS": options.groups}
    amount["NETWORK_PAIRS"] = options.network_pairs
    return [
        f"{time.strftime('%Y-%m-%d')}, {machine}, {options.threads} threads; {options.seeds} seeds, {model}.",
        "",
        "```sh",
        " ".join(["make paper", *(f"{name}={value}" for name, value in amount.items())]),
        "```",
    ]


if __name__ == "__main__":
    sys.exit(main())
