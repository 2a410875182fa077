"""Peers, each run by another interpreter on arrays in a file: they are never dependencies of the project."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.soft_triple import SoftTriple
from tests.benchmarks.paper.detectors import Detected, Verdict, judge
from tests.benchmarks.paper.models import Model, write_arrays

PROGRAM = Path(__file__).with_name("peer_program.py")
LIMIT_SECONDS = 1800


class PeersFailed(Exception):
    """The other interpreter did not do it; the message has the end of what it printed."""


def run_peers(python: Path, models: Sequence[Model], *, cache: Path) -> list[Detected]:
    """How well each peer does on each model; answers of an earlier run are read.

    Raises:
        PeersFailed: They are not installed there, or one of them failed.
    """
    missing = [model for model in models if not _answer(model, cache).exists()]
    if missing:
        with tempfile.TemporaryDirectory() as name:
            given = Path(name)
            for model in missing:
                write_arrays(given / f"{model.condition.name}.npz", _arrays(model))
            answers = _answer(missing[0], cache).parent
            answers.mkdir(parents=True, exist_ok=True)
            _run(python, given, answers)
    return [each for model in models for each in _judged(model, _answer(model, cache))]


def _answer(model: Model, cache: Path) -> Path:
    return cache / model.path.parent.name / "peers" / f"{model.condition.name}.npz"


def _run(python: Path, given: Path, answers: Path) -> None:
    ended = subprocess.run(
        [str(python), str(PROGRAM), str(given), str(answers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if ended.returncode:
        raise PeersFailed(f"{python}: exit code {ended.returncode}: {' '.join(ended.stderr.split()[-40:])}")


def _judged(model: Model, path: Path) -> Iterator[Detected]:
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            peer, _, part = key.rpartition("/")
            if part == "error":
                raise PeersFailed(f"{peer} on {model.condition.name}: {file[key]}")
            if part == "score":
                suggested_N = file[f"{peer}/suggested"] if f"{peer}/suggested" in file.files else None
                yield judge(model, peer, Verdict(file[key], suggested_N, float(file[f"{peer}/seconds"])))


def _arrays(model: Model) -> dict[str, NDArray[Any]]:
    """What a peer sees: nothing of the truth."""
    case = model.case
    z_ND = case.head.embed(case.train_features_NF)
    labels = torch.arange(case.loss.num_classes)
    # log p of class c is minus its loss, up to the margin: the softmax over negative losses is the model's probability.
    losses = [case.loss.per_sample(z_ND, labels[c].expand(len(z_ND))) for c in range(len(labels))]
    probabilities_NC = torch.softmax(-torch.stack(losses, dim=1), dim=1)
    arrays = {
        "penultimate": case.train_features_NF,
        "embedding": torch.nn.functional.normalize(z_ND, dim=1),
        "labels": case.train_labels_N,
        "probabilities": probabilities_NC,
        "head_weight": case.head.weight_DF,
        "head_bias": case.head.bias_D,
        **_representatives(case.loss),
    }
    return {name: value.numpy() for name, value in arrays.items()}


def _representatives(loss: object) -> dict[str, torch.Tensor]:
    """Unit representatives (C K, D) and the settings of the loss over cosines to them."""
    if isinstance(loss, ProxyNCA):
        proxies = torch.nn.functional.normalize(loss.proxies_CD, dim=1)
        return {"representatives": proxies, "settings": torch.tensor([1.0, 2 * loss.scale**2, 1.0, 0.0])}
    if isinstance(loss, SoftTriple):
        centers = torch.nn.functional.normalize(loss.centers_CKD.flatten(0, 1), dim=1)
        settings = [float(loss.centers_CKD.shape[1]), loss.lambda_, loss.gamma, loss.margin]
        return {"representatives": centers, "settings": torch.tensor(settings)}
    raise TypeError(f"no peer is set up for {type(loss).__name__}")
