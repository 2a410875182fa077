"""What explanations are worth, and what they cost.

`OMP_NUM_THREADS=1 python -m tests.benchmarks.explain DATA [GROUPS]`, where DATA is the folder of the Omniglot archives.

Two small networks (a flat map, and 4 groups of attention; or those that GROUPS names, 0 for a flat map) are trained on
the split of the demo with true labels, at 64 x 64. On the closest confusion pairs of the test classes the parts of the
first image that add most are blanked, and the cosine of the pair is taken again: parts that explain a similarity take
more of it away than random ones with ink. Neighbours are then put in order again by matched similarity, as in DIML.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import ImageMode, Preprocessing
from eif_engine.jobs.explain import Explainer, Explanation
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.head import Head
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.parts import ImageParts
from eif_engine.models.small import conv4
from services.demo.data import load
from tests.benchmarks.paper.data import codes

SIDE, GRID, DIM = 64, 4, 64
PREPROCESSING = Preprocessing(mode=ImageMode.GRAY, resize=(SIDE, SIDE), invert=True)
EPOCHS, BATCH, SCALE = 6, 64, 12.0
PAIRS, BLANKED, QUERIES, NEIGHBORS = 200, 3, 100, 10


@dataclass(frozen=True, kw_only=True)
class Data:
    """Images and true labels of disjoint classes."""

    train_NCHW: Tensor
    train_labels_N: Tensor
    test_MCHW: Tensor
    test_labels_M: NDArray[np.int64]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def read(folder: Path) -> Data:
    data = load(str(folder), seed=0)
    images, labels = [], []
    for part in (data.train, data.test):
        images.append(np.stack([PREPROCESSING.apply(decode_image(image.png)) for image in part]))
        labels.append(codes([image.true_label for image in part]))
    return Data(
        train_NCHW=torch.from_numpy(images[0]),
        train_labels_N=torch.from_numpy(labels[0]),
        test_MCHW=torch.from_numpy(images[1]),
        test_labels_M=labels[1],
    )


def train(data: Data, groups: int) -> LoadedModel:
    torch.manual_seed(0)
    backbone = conv4(width=16, image_size=SIDE, groups=groups, key_dim=16, value_dim=32)
    head = nn.Linear(backbone(data.train_NCHW[:2]).shape[1], DIM)
    proxies_CD = nn.Parameter(torch.randn(int(data.train_labels_N.max()) + 1, DIM))
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters(), proxies_CD], 2e-3)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(data.train_NCHW)), BATCH):
            zn_BD = F.normalize(head(backbone(data.train_NCHW[rows])))
            loss = F.cross_entropy(SCALE * zn_BD @ F.normalize(proxies_CD).T, data.train_labels_N[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch types backward so
            optimizer.step()
    return LoadedModel(
        backbone=backbone.eval().requires_grad_(requires_grad=False),
        head=Head(head.weight.detach(), head.bias.detach()),
        loss=ProxyNCA(proxies_CD.detach(), 3.0),
        classes=(),
        preprocessing=PREPROCESSING,
        weights_sha256="",
    )


def embeddings(model: LoadedModel, images_NCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        features = torch.cat([model.backbone(batch) for batch in torch.split(images_NCHW, 256)])
        return F.normalize(model.head.embed(features))


def blanked(image_CHW: Tensor, parts: NDArray[np.int64]) -> Tensor:
    """With these parts as paper."""
    changed = image_CHW.clone()
    size = SIDE // GRID
    for row, column in (divmod(int(part), GRID) for part in parts):
        changed[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = 0
    return changed


def orders(found: Explanation, image_CHW: Tensor, rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Parts of the first image, those to blank first; only parts with ink, so that every blank takes ink away."""
    assert found.added_UV is not None
    size = SIDE // GRID
    ink_U = image_CHW[0].reshape(GRID, size, GRID, size).sum(dim=(1, 3)).flatten().numpy()
    inked = np.flatnonzero(ink_U > 0.02 * ink_U.sum())

    def by(score_U: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.asarray(inked[np.argsort(-score_U[inked], kind="stable")], dtype=np.int64)

    return {
        "parts of the matched similarity": by(found.contribution_UV.sum(1)),
        "parts of the model's cosine": by(found.added_UV.sum(1)),
        "most ink": by(ink_U.astype(np.float64)),
        "random, with ink": rng.permutation(inked),
        "parts that add least to the model's cosine": by(-found.added_UV.sum(1)),
    }


def deletion(model: LoadedModel, data: Data, pairs: list[tuple[int, int]], parts: list[ImageParts]) -> None:
    explainer, rng = Explainer(model), np.random.default_rng(0)
    drops: dict[str, list[float]] = {}
    inks: dict[str, list[float]] = {}
    for first, second in pairs:
        found = explainer.pair(parts[first], parts[second])
        changes = orders(found, data.test_MCHW[first], rng)
        images = torch.stack([blanked(data.test_MCHW[first], order[:BLANKED]) for order in changes.values()])
        cosines = (embeddings(model, images) @ embeddings(model, data.test_MCHW[second : second + 1]).T)[:, 0]
        for name, cosine, image in zip(changes, cosines.tolist(), images, strict=True):
            drops.setdefault(name, []).append(found.similarity - cosine)
            inks.setdefault(name, []).append(1 - float(image.sum() / data.test_MCHW[first].sum()))
    say(f"| {BLANKED} parts blanked by | mean fall of the cosine | 95 % interval | share of the ink they have |")
    say("|---|---|---|---|")
    for name, values in drops.items():
        spread = 1.96 * np.std(values) / np.sqrt(len(values))
        say(f"| {name} | {np.mean(values):.3f} | +-{spread:.3f} | {np.mean(inks[name]):.2f} |")


def reordered(model: LoadedModel, data: Data, zn_MD: Tensor, parts: list[ImageParts]) -> None:
    explainer, rng = Explainer(model), np.random.default_rng(1)
    labels, hits = data.test_labels_M, np.zeros(3)
    started = time.process_time()
    for row in rng.choice(len(labels), QUERIES, replace=False):
        cosine_M = zn_MD @ zn_MD[row]
        cosine_M[row] = -2
        near = cosine_M.topk(NEIGHBORS).indices.tolist()
        matched = np.array([explainer.pair(parts[row], parts[other]).matched_similarity for other in near])
        cosines = cosine_M[near].numpy()
        best = [near[0], near[int(matched.argmax())], near[int((matched + cosines).argmax())]]
        hits += [labels[other] == labels[row] for other in best]
    seconds = (time.process_time() - started) / (QUERIES * NEIGHBORS)
    names = ("cosine", "matched similarity", "their sum")
    found = ", ".join(f"{name} {hit / QUERIES:.3f}" for name, hit in zip(names, hits, strict=True))
    say(f"\nrecall@1 of {QUERIES} queries, the {NEIGHBORS} nearest ordered by: {found}; {1e3 * seconds:.1f} ms a pair")


def closest_confusions(zn_MD: Tensor, labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    cosine_MM = zn_MD @ zn_MD.T
    cosine_MM.fill_diagonal_(-2)
    best_M, near_M = cosine_MM.max(dim=1)
    wrong = [row for row in range(len(labels)) if labels[row] != labels[near_M[row]]]
    wrong.sort(key=lambda row: -float(best_M[row]))
    say(f"recall@1 {1 - len(wrong) / len(labels):.3f}, {len(wrong)} confusion pairs, the {PAIRS} closest are taken\n")
    return [(row, int(near_M[row])) for row in wrong[:PAIRS]]


def main() -> None:
    data = read(Path(sys.argv[1]))
    for groups in [int(word) for word in sys.argv[2:]] or [0, 4]:
        model = train(data, groups)
        say(f"\n## {f'{groups} attention groups' if groups else 'a flat map'}")
        zn_MD = embeddings(model, data.test_MCHW)
        pairs = closest_confusions(zn_MD, data.test_labels_M)
        explainer = Explainer(model)
        started = time.process_time()
        parts = [explainer.parts(image.numpy()) for image in data.test_MCHW]
        say(f"parts of an image: {1e3 * (time.process_time() - started) / len(parts):.1f} ms\n")
        deletion(model, data, pairs, parts)
        reordered(model, data, zn_MD, parts)


if __name__ == "__main__":
    main()
