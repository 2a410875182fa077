from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eif_engine.config import QueryKind
from eif_engine.counterfactual_config import RetrainConfig, RetrainOptimizer
from eif_engine.errors import InvalidInput
from eif_engine.jobs.counterfactual import counterfactual
from eif_engine.jobs.counterfactual_network import ShuffledImages, counterfactual_network
from eif_engine.jobs.counterfactual_report import ArmReport, CounterfactualReport
from eif_engine.jobs.intervention import Intervention
from eif_engine.models.small import conv4
from eif_engine.types import Pair, Query
from tests.toy import toy

SGD = RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=0.05, batch_size=5, epochs=2, seed=3)
ADAM = RetrainConfig(learning_rate=0.01, batch_size=5, epochs=2, seed=3)
QUERY = Query(query_id="q", kind=QueryKind.CONFUSION_PAIRS, pairs=(Pair(row=0, neighbor=5, distance=0.0),))


def arms(count: int = 24) -> dict[str, Intervention]:
    generator = torch.Generator().manual_seed(0)
    return {
        "arm": Intervention(
            weights_N=torch.randint(0, 3, (count,), generator=generator).double(), labels_N=toy().train_labels_N
        )
    }


def check(backbone: nn.Module, images_NCHW: Tensor, test_MCHW: Tensor, **changes: Any) -> CounterfactualReport:
    data = toy()
    config = changes.get("config", SGD)
    arguments: dict[str, Any] = {
        "backbone": backbone,
        "head": data.head,
        "loss": data.proxy_nca,
        "train_batches": ShuffledImages(images_NCHW, config),
        "train_labels_N": data.train_labels_N,
        "test_batches": list(torch.split(test_MCHW, 6)),
        "test_labels": data.test_labels,
        "query": QUERY,
        "arms": arms(),
        "config": config,
    }
    return counterfactual_network(**arguments | changes)


class Scaled(nn.Module):
    """Hands its input on, times a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = self.scale * images
        return scaled


class Constant(Scaled):
    """The same, but no gradient reaches the parameter."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


def network() -> tuple[nn.Module, Tensor, Tensor]:
    """A convolutional network with batch norm whose seven features fit the toy's head."""
    torch.manual_seed(0)
    backbone = nn.Sequential(conv4(width=2, image_size=16), nn.Linear(4, 7)).double().eval()
    return backbone, torch.randn(24, 1, 16, 16).double(), torch.randn(16, 1, 16, 16).double()


@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adam"])
def test_a_backbone_that_cannot_learn_makes_it_the_check_of_the_head(config: RetrainConfig) -> None:
    data = toy()
    expected = counterfactual(
        head=data.head,
        loss=data.proxy_nca,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        test_labels=data.test_labels,
        query=QUERY,
        arms=arms(),
        config=config,
        dtype=torch.float64,
    )
    found = check(Constant(), data.train_NF, data.test_MF, config=config)
    for name, arm in found.arms.items():
        assert [*measures(arm)] == pytest.approx([*measures(expected.arms[name])], rel=1e-9)
    assert (found.distance, found.recall_at_1) == (expected.distance, expected.recall_at_1)
    assert found.arms["arm"].distance_gain.mean != 0


def measures(arm: ArmReport) -> Iterator[float]:
    yield from (arm.draws, arm.reweighted, arm.relabelled)
    yield from (each.mean for each in (arm.distance, arm.distance_gain, arm.recall_at_1, arm.recall_gain))


def test_a_step_moves_backbone_head_and_proxies_down_the_gradient() -> None:
    data, backbone = toy(), Scaled()
    config = replace(SGD, epochs=1, batch_size=24)
    found = check(backbone, data.train_NF, data.test_MF, config=config, arms={})
    parts = [
        part.clone().requires_grad_()
        for part in (torch.ones(()).double(), data.head.weight_DF, data.head.bias_D, data.proxy_nca.proxies_CD)
    ]
    scale, weight_DF, bias_D, proxies_CD = parts
    z_ND = torch.addmm(bias_D, scale * data.train_NF, weight_DF.T)
    loss = replace(data.proxy_nca, proxies_CD=proxies_CD).per_sample(z_ND, data.train_labels_N).mean()
    slopes = torch.autograd.grad(loss, parts)
    scale, weight_DF, bias_D, _ = (part.detach() - 0.05 * slope for part, slope in zip(parts, slopes, strict=True))
    z_MD = nn.functional.normalize(torch.addmm(bias_D, scale * data.test_MF, weight_DF.T), dim=1)
    assert found.arms["none"].distance.mean == pytest.approx(float((z_MD[0] - z_MD[5]).square().sum()), rel=1e-9)


def test_nothing_given_is_changed_and_the_same_seed_gives_the_same_report() -> None:
    backbone, images, test = network()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    random_state = torch.get_rng_state()
    first = check(backbone, images, test)
    assert asdict(check(backbone, images, test)) == asdict(first)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not backbone.training
    assert first.arms["arm"].distance_gain.mean != 0


def test_batch_norm_learns_as_published_or_stays_as_it_is() -> None:
    backbone, images, test = network()
    tiny = replace(SGD, learning_rate=1e-12)
    published = check(backbone, images, test, config=tiny)
    frozen = check(backbone, images, test, config=tiny, freeze_batch_norm=True)
    assert frozen.arms["none"].distance.mean == pytest.approx(frozen.distance, rel=1e-6)
    assert published.arms["none"].distance.mean != pytest.approx(published.distance, rel=1e-3)


def test_frozen_proxies_stay() -> None:
    backbone, images, test = network()
    config = replace(SGD, train_proxies=False)
    frozen, trained = check(backbone, images, test, config=config), check(backbone, images, test)
    assert frozen.distance == trained.distance
    assert frozen.arms["none"].distance != trained.arms["none"].distance


def test_batches_that_differ_between_arms_are_refused() -> None:
    class Fickle:
        def __init__(self, images: Tensor) -> None:
            self.images, self.calls = images, 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.calls += 1
            for rows in torch.split(torch.arange(24).roll(self.calls), 5):
                yield rows, self.images[rows]

    backbone, images, test = network()
    with pytest.raises(InvalidInput, match="other rows the second time"):
        check(backbone, images, test, train_batches=Fickle(images))
    exhausted = iter(ShuffledImages(images, SGD))
    with pytest.raises(InvalidInput, match="other rows the second time"):
        check(backbone, images, test, train_batches=exhausted)
