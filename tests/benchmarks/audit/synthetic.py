"""A training set of any size with known wrong labels, and the head and loss of a model that would have learned it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.audit_types import AuditModel, AuditSplit
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.head import Head

FLIPPED = 0.05
LATENT = 48
SPREAD = 1.1


def synthetic(
    *, train: int, test: int, features: int = 512, dim: int = 128, classes: int = 1000, seed: int = 0
) -> tuple[AuditSplit, AuditSplit, AuditModel, Tensor]:
    """Both splits, the model, and which training labels are wrong (N,).

    Classes are Gaussians around centres in a subspace of the features; test classes are others, twenty samples each.
    """
    generator = torch.Generator().manual_seed(seed)
    basis_LF = torch.linalg.qr(torch.randn(features, LATENT, generator=generator)).Q.T
    train_center_CL = torch.randn(classes, LATENT, generator=generator)
    test_center_CL = torch.randn(max(2, test // 20), LATENT, generator=generator)
    true_N = torch.arange(train) % classes
    test_M = torch.arange(test) % len(test_center_CL)
    x_NF = _around(train_center_CL[true_N], basis_LF, generator)
    head = Head(basis_LF.repeat(dim // LATENT + 1, 1)[:dim].contiguous(), torch.zeros(dim))
    wrong_N = torch.rand(train, generator=generator) < FLIPPED
    moved_N = (true_N + torch.randint(1, classes, (train,), generator=generator)) % classes
    proxies_CD = F.normalize(head.embed(train_center_CL @ basis_LF), dim=1)
    names = [f"class-{code:05d}" for code in range(classes)]
    train_labels = [names[code] for code in moved_N.where(wrong_N, true_N).tolist()]
    test_labels = [f"other-{code:05d}" for code in test_M.tolist()]
    return (
        _split("train", x_NF, train_labels),
        _split("test", _around(test_center_CL[test_M], basis_LF, generator), test_labels),
        AuditModel(head=head, loss=ProxyNCA(proxies_CD, 3.0), classes=names),
        wrong_N,
    )


def _around(center_NL: Tensor, basis_LF: Tensor, generator: torch.Generator) -> Tensor:
    latent_NL = center_NL + SPREAD * torch.randn(center_NL.shape, generator=generator)
    return latent_NL @ basis_LF + 0.02 * torch.randn(len(center_NL), basis_LF.shape[1], generator=generator)


def _split(name: str, x_NF: Tensor, labels: list[str]) -> AuditSplit:
    count = len(labels)
    first = 0 if name == "train" else 1 << 40  # no image of one split is in the other
    return AuditSplit(
        sample_ids=[f"{name}/{row:07d}.png" for row in range(count)],
        labels=labels,
        features_NF=x_NF,
        digests=[(first + row).to_bytes(32, "big") for row in range(count)],
        columns={"annotator": [f"annotator-{row * 7919 % 23:02d}" for row in range(count)]},
    )
