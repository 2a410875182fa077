"""Peers on arrays in files: `python peer_program.py IN_FOLDER OUT_FOLDER`, by the interpreter they are installed in.

Stands alone: nothing of the project can be imported there. For every IN_FOLDER/x.npz it writes OUT_FOLDER/x.npz with,
for each peer, `PEER/score` (N,), the highest most doubtful, `PEER/suggested` (N,) where it suggests labels, and
`PEER/seconds`; or `PEER/error`, its words.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NEIGHBORS = 20


def datalab(features: Any, labels: Any) -> dict[str, Any]:
    """Label issues by cleanlab's neighbour graph."""
    lab = import_module("cleanlab").Datalab(data={"label": labels}, label_name="label", verbosity=0)
    lab.find_issues(features=features, issue_types={"label": {"k": NEIGHBORS}})
    issues = lab.get_issues("label")
    return {"score": 1 - issues["label_score"].to_numpy(), "suggested": issues["predicted_label"].to_numpy()}


def from_probabilities(probabilities: Any, labels: Any) -> dict[str, Any]:
    """Label issues by confident learning: those found come first, by their score."""
    quality = import_module("cleanlab.rank").get_label_quality_scores(labels, probabilities)
    found = import_module("cleanlab.filter").find_label_issues(labels, probabilities, n_jobs=1)
    return {"score": found + (1 - quality), "suggested": probabilities.argmax(axis=1)}


def cross_fitted(features: Any, labels: Any) -> Any:
    """Out-of-sample probabilities of logistic regression on standardised features, five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=100, C=0.1, tol=1e-3))
    return cross_val_predict(model, features, labels, cv=5, method="predict_proba")


class CosineLoss(nn.Module):
    """The model's loss over cosines to its unit representatives, summed over a batch."""

    reduction = "sum"

    def __init__(self, settings: Any) -> None:
        super().__init__()
        centers, self.scale, self.gamma, self.margin = settings.tolist()
        self.centers = int(centers)

    def forward(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """The sum."""
        grouped = cosines.reshape(len(cosines), -1, self.centers)
        similarity = (torch.softmax(grouped / self.gamma, dim=2) * grouped).sum(dim=2)
        margin = self.margin * nn.functional.one_hot(labels, similarity.shape[1])
        return nn.functional.cross_entropy(self.scale * (similarity - margin), labels, reduction="sum")


class Unit(nn.Module):
    """L2 normalisation as a layer."""

    def forward(self, z: Tensor) -> Tensor:
        """Unit rows."""
        return nn.functional.normalize(z, dim=1)


def tracin(arrays: Any) -> dict[str, Any]:
    """Self-influence in the representatives, from the one checkpoint that there is."""
    tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files if name != "labels"}
    weight, representatives = tensors["head_weight"], tensors["representatives"]
    head, last = (
        nn.Linear(weight.shape[1], weight.shape[0]),
        nn.Linear(weight.shape[0], len(representatives), bias=False),
    )
    head.load_state_dict({"weight": weight, "bias": tensors["head_bias"]})
    last.load_state_dict({"weight": representatives})
    model = nn.Sequential(head, Unit(), last)
    data = torch.utils.data.TensorDataset(tensors["penultimate"], torch.from_numpy(arrays["labels"]))
    method = import_module("captum.influence").TracInCPFast(
        model,
        last,
        data,
        ["here"],
        checkpoints_load_func=lambda _model, _checkpoint: 1.0,
        loss_fn=CosineLoss(arrays["settings"]),
        batch_size=256,
    )
    return {"score": method.self_influence().numpy()}


def run(arrays: Any) -> dict[str, Any]:
    """Every peer on one model."""
    labels = arrays["labels"]
    peers: dict[str, Callable[[], dict[str, Any]]] = {
        "cleanlab Datalab, penultimate": lambda: datalab(arrays["penultimate"], labels),
        "cleanlab Datalab, embedding": lambda: datalab(arrays["embedding"], labels),
        "cleanlab, cross-fitted probabilities": lambda: from_probabilities(
            cross_fitted(arrays["penultimate"], labels), labels
        ),
        "cleanlab, the model's probabilities": lambda: from_probabilities(arrays["probabilities"], labels),
        "captum TracInCPFast, one checkpoint": lambda: tracin(arrays),
    }
    answer: dict[str, Any] = {}
    for name, call in peers.items():
        started = time.perf_counter()
        try:
            found = call()
        except Exception as error:  # noqa: BLE001 - the report says which peer failed, and how
            found = {"error": np.array(f"{type(error).__name__}: {error}")}
        answer |= {f"{name}/{key}": value for key, value in found.items()}
        answer[f"{name}/seconds"] = time.perf_counter() - started
    return answer


def main() -> None:
    """Run them all; the imports that take long come before any clock runs."""
    given, answers = map(Path, sys.argv[1:])
    for module in ("captum.influence", "cleanlab.datalab.datalab", "sklearn.linear_model"):
        import_module(module)
    for path in sorted(given.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            np.savez(answers / path.name, **run(arrays))


if __name__ == "__main__":
    main()
