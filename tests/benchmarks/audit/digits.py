"""A small network trained on digits with planted wrong labels: classes 0 to 6 to train, 7 to 9 to test."""

from __future__ import annotations

from dataclasses import replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from eif_engine.audit_types import AuditModel, AuditSplit
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.head import Head

CLASSES, FEATURES, DIM, EPOCHS = 7, 96, 24, 25


def digits(*, flipped: float, seed: int = 0) -> tuple[AuditSplit, AuditSplit, AuditModel, Tensor]:
    """Both splits, the model trained on the wrong labels, and which training labels are wrong (N,)."""
    pixels, targets = load_digits(return_X_y=True)
    x, target = torch.from_numpy(pixels).float() / 16, torch.from_numpy(targets).long()
    train, test = target < CLASSES, target >= CLASSES
    generator = torch.Generator().manual_seed(seed)
    true_N = target[train]
    wrong_N = torch.zeros(len(true_N), dtype=torch.bool)
    wrong_N[torch.randperm(len(true_N), generator=generator)[: round(flipped * len(true_N))]] = True
    other_N = (true_N + torch.randint(1, CLASSES, true_N.shape, generator=generator)) % CLASSES
    given_N = other_N.where(wrong_N, true_N)
    body, head, loss = _trained(x[train], given_N, seed)
    with torch.no_grad():
        train_NF, test_MF = body(x[train]), body(x[test])
    return (
        _split("train", train_NF, given_N),
        _split("test", test_MF, target[test]),
        AuditModel(head=head, loss=loss, classes=[str(code) for code in range(CLASSES)]),
        wrong_N,
    )


def _trained(x_NP: Tensor, labels_N: Tensor, seed: int) -> tuple[nn.Module, Head, ProxyNCA]:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(x_NP.shape[1], 128), nn.ReLU(), nn.Linear(128, FEATURES), nn.ReLU())
    last = nn.Linear(FEATURES, DIM)
    loss = ProxyNCA(torch.randn(CLASSES, DIM), 3.0)
    proxies_CD = loss.proxies_CD.requires_grad_()
    optimizer = torch.optim.Adam([*body.parameters(), *last.parameters(), proxies_CD], lr=1e-3)
    for _ in range(EPOCHS):
        for rows_B in torch.split(torch.randperm(len(x_NP)), 64):
            optimizer.zero_grad()
            moving = replace(loss, proxies_CD=proxies_CD)
            torch.autograd.backward([moving.per_sample(last(body(x_NP[rows_B])), labels_N[rows_B]).mean()])
            optimizer.step()
    return body, Head(last.weight.detach(), last.bias.detach()), ProxyNCA(proxies_CD.detach(), 3.0)


def _split(name: str, x_NF: Tensor, labels_N: Tensor) -> AuditSplit:
    return AuditSplit(
        sample_ids=[f"{name}/{row:04d}" for row in range(len(labels_N))],
        labels=[str(code) for code in labels_N.tolist()],
        features_NF=x_NF,
        digests=[None] * len(labels_N),
    )
