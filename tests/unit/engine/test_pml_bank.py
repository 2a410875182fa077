"""Losses of pairs and triplets: of a sample against a fixed bank, as the library makes them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as library
from torch import Tensor
from torch.nn import functional as F

from eif_engine.config import InfluenceConfig, QueryKind, UnitStep
from eif_engine.errors import InvalidInput
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.rank import rank
from eif_engine.losses.bank import make_bank
from eif_engine.losses.pml_bank import PmlBankLoss, block_rows, with_bank
from eif_engine.losses.pml_classes import BANK_CLASSES, Shape
from eif_engine.losses.settings import BankSettings, PmlSettings
from eif_engine.models.head import Head
from tests.toy import Toy, toy

N, D, C = 24, 5, 4


def ready(name: str, *, per_class: int = 2, data: Toy | None = None, **arguments: Any) -> PmlBankLoss:
    """The loss with a bank of the toy's training samples."""
    data = data or toy()
    settings = PmlSettings(class_=name, arguments=arguments, bank=BankSettings(per_class=per_class, seed=1))
    loss = with_bank(
        PmlBankLoss.of(settings, num_classes=C, embedding_dim=D), data.head, data.train_NF, data.train_labels_N
    )
    assert isinstance(loss, PmlBankLoss)
    return loss


def samples(data: Toy | None = None) -> tuple[Tensor, Tensor]:
    """Embeddings that are not those of the bank, and their labels."""
    data = data or toy()
    generator = torch.Generator().manual_seed(2)
    z_ND = data.head.embed(data.train_NF)
    return z_ND + 0.5 * torch.randn(z_ND.shape, generator=generator, dtype=z_ND.dtype), data.train_labels_N


def by_the_library(name: str, loss: PmlBankLoss, z_ND: Tensor, labels_N: Tensor, **arguments: Any) -> Tensor:
    """One sample at a time, reduced by the library. Twice the same sample: of one alone it may make nothing."""
    assert loss.bank is not None
    theirs, bank = getattr(library, name)(**arguments), loss.bank
    rows = zip(z_ND, labels_N, strict=True)
    values = [
        theirs(z_D.expand(2, -1), label.expand(2), ref_emb=bank.z_PD, ref_labels=bank.labels_P) for z_D, label in rows
    ]
    return torch.stack(values)


@pytest.mark.parametrize("per_class", [1, 2, 50])
@pytest.mark.parametrize("name", BANK_CLASSES)
def test_a_sample_s_loss_is_the_library_s_against_the_bank(name: str, per_class: int) -> None:
    loss, (z_ND, labels_N) = ready(name, per_class=per_class), samples()
    found_N = loss.per_sample(z_ND, labels_N)
    torch.testing.assert_close(found_N, by_the_library(name, loss, z_ND, labels_N), rtol=1e-10, atol=1e-12)
    assert found_N.gt(0).any()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ContrastiveLoss", {"pos_margin": 0.2, "neg_margin": 1.3}),
        ("TripletMarginLoss", {"margin": 0.4, "smooth_loss": True}),
        ("MultiSimilarityLoss", {"alpha": 3, "beta": 20.0, "base": 0.3}),
        ("CircleLoss", {"m": 0.25, "gamma": 16}),
        ("NTXentLoss", {"temperature": 0.5}),
    ],
)
def test_arguments_reach_the_library(name: str, arguments: dict[str, Any]) -> None:
    loss, (z_ND, labels_N) = ready(name, **arguments), samples()
    wanted_N = by_the_library(name, loss, z_ND, labels_N, **arguments)
    torch.testing.assert_close(loss.per_sample(z_ND, labels_N), wanted_N, rtol=1e-10, atol=1e-12)


def test_a_contrastive_loss_is_the_loop_over_the_bank() -> None:
    loss, (z_ND, labels_N) = ready("ContrastiveLoss", per_class=3, neg_margin=1.1), samples()
    assert loss.bank is not None
    expected = []
    for z_D, label in zip(F.normalize(z_ND, dim=1), labels_N, strict=True):
        terms: dict[bool, list[float]] = {True: [], False: []}
        for other_D, other in zip(loss.bank.z_PD, loss.bank.labels_P, strict=True):
            distance, same = float((z_D - other_D).norm()), bool(label == other)
            terms[same].append(max(0.0, distance if same else 1.1 - distance))
        above = [[value for value in terms[same] if value > 0] for same in (True, False)]
        expected.append(sum(math.fsum(values) / len(values) for values in above if values))
    assert loss.per_sample(z_ND, labels_N).tolist() == pytest.approx(expected, rel=1e-9)


def test_a_triplet_loss_is_the_loop_over_the_bank() -> None:
    loss, (z_ND, labels_N) = ready("TripletMarginLoss", per_class=3, distance="CosineSimilarity", margin=0.3), samples()
    assert loss.bank is not None
    expected = []
    for z_D, label in zip(F.normalize(z_ND, dim=1), labels_N, strict=True):
        cosines = [float(z_D @ other_D) for other_D in loss.bank.z_PD]
        same = [bool(label == other) for other in loss.bank.labels_P]
        terms = [
            negative - positive + 0.3
            for positive, is_positive in zip(cosines, same, strict=True)
            for negative, is_negative in zip(cosines, same, strict=True)
            if is_positive and not is_negative and negative - positive + 0.3 > 0
        ]
        expected.append(math.fsum(terms) / len(terms) if terms else 0.0)
    assert loss.per_sample(z_ND, labels_N).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("name", BANK_CLASSES)
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, (z_ND, labels_N) = ready(name), samples()
    whole_N = loss.per_sample(z_ND, labels_N)
    for limit in (1, 4 * 8 * 2 * 9):
        monkeypatch.setattr("eif_engine.losses.pml_bank._BLOCK_ELEMENTS", limit)
        monkeypatch.setattr("eif_engine.losses.pml_bank._PAIR_ELEMENTS", limit)
        torch.testing.assert_close(loss.per_sample(z_ND, labels_N), whole_N, rtol=1e-12, atol=1e-14)
    assert loss.per_sample(z_ND[:0], labels_N[:0]).shape == (0,)


def test_blocks_keep_the_library_s_arrays_within_their_limit() -> None:
    loss = ready("NTXentLoss")
    assert loss.bank is not None
    big = replace(loss.bank, z_PD=torch.zeros(8000, 64), labels_P=torch.arange(8000) // 2)
    limit, (P, K, width) = 2**20, (8000, 2, 64)
    assert block_rows(Shape.PAIRS, big) * P <= limit
    assert block_rows(Shape.PAIRS_BY_REPRESENTATIVE, big) * K * P <= limit
    assert block_rows(Shape.PAIRS_BY_PAIR, big) == 1
    assert block_rows(Shape.PAIRS_BY_PAIR, replace(big, z_PD=torch.zeros(100, 64))) == 9
    assert block_rows(Shape.DIFFERENCES, big) * P * width <= limit


@pytest.mark.parametrize("name", [name for name in BANK_CLASSES if name != "CircleLoss"])
def test_gradients_are_those_of_differences(name: str) -> None:
    """CircleLoss, by its design, holds its weights fixed in the gradient."""
    loss, (z_ND, labels_N) = ready(name), samples()
    leaf_ND, along_ND = z_ND.clone().requires_grad_(), samples()[0]
    (found_ND,) = torch.autograd.grad(loss.per_sample(leaf_ND, labels_N).sum(), leaf_ND)
    ahead, behind = (loss.per_sample(z_ND + step * along_ND.flip(0), labels_N).sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close((found_ND * along_ND.flip(0)).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BANK_CLASSES)
def test_nothing_is_changed(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    loss, (z_ND, labels_N) = ready(name), samples()
    assert loss.bank is not None
    kept = loss.bank.z_PD.clone()
    first_N = loss.per_sample(z_ND, labels_N)
    single = loss.to(device="cpu", dtype=torch.float32)
    found_N = single.per_sample(z_ND.float(), labels_N)
    torch.testing.assert_close(found_N.double(), first_N, rtol=2e-3, atol=2e-3)
    assert loss.per_sample(z_ND, labels_N).tolist() == first_N.tolist()
    assert torch.equal(loss.bank.z_PD, kept)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not loss.library.training


# The bank.


def bank_of(labels: list[int], *, per_class: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x_NF = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    head = Head(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    bank = make_bank(head, x_NF, torch.tensor(labels), BankSettings(per_class=per_class, seed=seed))
    return bank.z_PD, bank.labels_P


def test_one_representative_is_the_mean_direction_of_the_class() -> None:
    data = toy()
    bank = make_bank(data.head, data.train_NF, data.train_labels_N, BankSettings())
    zn_ND = F.normalize(data.head.embed(data.train_NF), dim=1)
    means = [F.normalize(zn_ND[data.train_labels_N == label].mean(0), dim=0) for label in range(C)]
    torch.testing.assert_close(bank.z_PD, torch.stack(means))
    assert (bank.labels_P.tolist(), bank.per_class) == ([0, 1, 2, 3], 1)


def test_one_representative_does_not_depend_on_the_order_of_samples() -> None:
    data, order = toy(), torch.randperm(N, generator=torch.Generator().manual_seed(4))
    one = make_bank(data.head, data.train_NF, data.train_labels_N, BankSettings(seed=1))
    other = make_bank(data.head, data.train_NF[order], data.train_labels_N[order], BankSettings(seed=2))
    torch.testing.assert_close(one.z_PD, other.z_PD, rtol=1e-13, atol=1e-15)


def test_with_as_many_parts_as_samples_the_samples_are_the_bank() -> None:
    data = toy()
    bank = make_bank(data.head, data.train_NF, data.train_labels_N, BankSettings(per_class=1000))
    zn_ND = F.normalize(data.head.embed(data.train_NF), dim=1)
    nearest_P = (bank.z_PD @ zn_ND.T).argmax(1)
    torch.testing.assert_close(bank.z_PD, zn_ND[nearest_P])
    assert sorted(nearest_P.tolist()) == list(range(N))
    assert bank.labels_P.tolist() == data.train_labels_N[nearest_P].tolist()


def test_parts_are_even_and_drawn_by_the_seed() -> None:
    labels = [0] * 7 + [2] * 2 + [5] * 9
    z_PD, labels_P = bank_of(labels, per_class=3)
    assert labels_P.tolist() == [0, 0, 0, 2, 2, 5, 5, 5]
    assert torch.equal(z_PD, bank_of(labels, per_class=3)[0])
    assert not torch.allclose(z_PD, bank_of(labels, per_class=3, seed=1)[0])


def test_blocks_of_samples_do_not_change_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    whole = make_bank(data.head, data.train_NF, data.train_labels_N, BankSettings(per_class=2))
    monkeypatch.setattr("eif_engine.losses.bank._BLOCK_ROWS", 5)
    parts = make_bank(data.head, data.train_NF, data.train_labels_N, BankSettings(per_class=2))
    torch.testing.assert_close(parts.z_PD, whole.z_PD, rtol=1e-13, atol=1e-15)


def test_a_loss_gets_its_bank_once_and_only_where_it_needs_one() -> None:
    data = toy()
    loss = ready("NTXentLoss", data=data)
    moved = Head(2 * data.head.weight_DF, 1 + data.head.bias_D)
    assert with_bank(loss, moved, data.train_NF, data.train_labels_N) is loss
    assert with_bank(data.proxy_nca, moved, data.train_NF, data.train_labels_N) is data.proxy_nca


def test_a_loss_without_its_bank_says_so() -> None:
    loss = PmlBankLoss.of(PmlSettings(class_="TripletMarginLoss"), num_classes=C, embedding_dim=D)
    with pytest.raises(InvalidInput, match=r"TripletMarginLoss .* training embeddings first"):
        loss.per_sample(*samples())
    with pytest.raises(TypeError, match="move the loss first"):
        ready("TripletMarginLoss").per_sample(samples()[0].float(), samples()[1])


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("TripletMarginLoss", {"swap": True}, "arguments.swap: cannot be set"),
        ("TripletMarginLoss", {"triplets_per_anchor": 3}, "arguments.triplets_per_anchor: cannot be set"),
        ("TripletMarginLoss", {"smooth_loss": 1}, "arguments.smooth_loss: is 1, but its default is False"),
        ("ContrastiveLoss", {"mat_based_loss": True}, "takes pos_margin, neg_margin, distance"),
        ("CircleLoss", {"distance": "LpDistance"}, "CircleLoss refuses"),
        ("NTXentLoss", {"temperature": 0.0}, "NTXentLoss gives"),
        ("MultiSimilarityLoss", {"alpha": 0}, "MultiSimilarityLoss fails"),
    ],
)
def test_arguments_that_a_class_does_not_take(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        ready(name, **arguments)


@pytest.mark.parametrize("name", ["ContrastiveLoss", "TripletMarginLoss", "MultiSimilarityLoss"])
def test_rank_takes_it_as_eq_6_does(name: str) -> None:
    """Scores are the products of changes, with the bank where it was at theta_0."""
    data = toy()
    loss = ready(name, data=data)
    queries = find_queries(
        embeddings_MD=data.head.embed(data.test_MF),
        labels=data.test_labels,
        sample_ids=data.test_ids,
        kind=QueryKind.CONFUSION_PAIRS,
    )
    ranked = rank(
        head=data.head,
        loss=loss,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=queries[:3],
        config=InfluenceConfig(step=UnitStep()),
    )
    for query, scores_N in ranked:
        assert len(scores_N) == N
        torch.testing.assert_close(
            torch.from_numpy(scores_N), eq_6(data, loss, query.pairs[0].row, query.pairs[0].neighbor)
        )


def eq_6(data: Toy, loss: PmlBankLoss, row: int, neighbor: int) -> Tensor:
    """Influence by whole heads: one unit step up, one down."""
    weight_DF = data.head.weight_DF.clone().requires_grad_()

    def distance(weight_DF: Tensor) -> Tensor:
        zn_RD = F.normalize(Head(weight_DF, data.head.bias_D).embed(data.test_MF[[row, neighbor]]), dim=1)
        return (zn_RD[0] - zn_RD[1]).square().sum()

    (gradient_DF,) = torch.autograd.grad(distance(weight_DF), weight_DF)
    base_N = loss.per_sample(data.head.embed(data.train_NF), data.train_labels_N)
    total_N = torch.zeros_like(base_N)
    for sign in (1, -1):
        moved = Head(data.head.weight_DF + sign * gradient_DF / gradient_DF.norm(), data.head.bias_D)
        change = distance(moved.weight_DF) - distance(data.head.weight_DF)
        total_N += change * (loss.per_sample(moved.embed(data.train_NF), data.train_labels_N) - base_N) / 2
    return total_N
