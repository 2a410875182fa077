from __future__ import annotations

import math

import pytest
import torch

from eif_engine.config import RelabelConfig, VoteRule
from eif_engine.functional.relabel import median_shots, vote
from eif_engine.jobs.relabel import suggest
from tests import oracles


def labelled(rows: int = 20) -> tuple[torch.Tensor, list[str], list[str]]:
    v_NF = torch.randn(rows, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return v_NF, [f"c{row % 3}" for row in range(rows)], [f"s{row:02d}" for row in range(rows)]


@pytest.mark.parametrize("rule", list(VoteRule))
@pytest.mark.parametrize("count", [1, 4, 19, 500])
def test_suggestions_are_the_double_loop(rule: VoteRule, count: int) -> None:
    v_NF, labels, ids = labelled()
    found = suggest(
        vectors_NF=v_NF, labels=labels, sample_ids=ids, config=RelabelConfig(num_neighbors=count, vote=rule)
    )
    assert sorted(s.sample_id for s in found) == ids
    assert found == sorted(found, key=lambda s: (-s.score, s.sample_id))
    for suggestion in found:
        row = ids.index(suggestion.sample_id)
        weights: dict[str, float] = {}
        for value, other in oracles.nearest_rows(v_NF, row, count):
            weights[labels[other]] = weights.get(labels[other], 0) + (math.exp(-value) if rule == "soft" else 1)
        best = max(weights.values())
        assert weights[suggestion.suggested_label] == pytest.approx(best)
        assert suggestion.suggested_probability == pytest.approx(best / sum(weights.values()))
        assert suggestion.label_probability == pytest.approx(weights.get(labels[row], 0) / sum(weights.values()))
        assert len(suggestion.neighbors) == min(count, 19)
        assert suggestion.sample_id not in {neighbor.sample_id for neighbor in suggestion.neighbors}


def test_the_default_k_is_the_median_number_of_shots() -> None:
    assert median_shots(["a"] * 3 + ["b"] * 5 + ["c"] * 9) == 5
    assert median_shots(["a"]) == 1
    v_NF, labels, ids = labelled(21)
    found = suggest(vectors_NF=v_NF, labels=labels, sample_ids=ids, config=RelabelConfig())
    assert {len(suggestion.neighbors) for suggestion in found} == {7}


def test_rows_restrict_who_is_asked_but_not_who_votes() -> None:
    v_NF, labels, ids = labelled()
    config = RelabelConfig(num_neighbors=5)
    everyone = {s.sample_id: s for s in suggest(vectors_NF=v_NF, labels=labels, sample_ids=ids, config=config)}
    some = suggest(vectors_NF=v_NF, labels=labels, sample_ids=ids, rows=[7, 2], config=config)
    assert {s.sample_id: s for s in some} == {ids[7]: everyone[ids[7]], ids[2]: everyone[ids[2]]}


def test_a_single_sample_keeps_its_label() -> None:
    found = suggest(vectors_NF=torch.ones(1, 3), labels=["a"], sample_ids=["s"], config=RelabelConfig())
    assert [(s.suggested_label, s.suggested_probability, s.score) for s in found] == [("a", 1.0, 0.0)]


def test_hard_votes_count_and_weights_only_break_ties() -> None:
    outcome = vote(["far", "far", "near"], [2.0, 2.0, 0.0], own_label="near", rule=VoteRule.HARD)
    assert (outcome.label, outcome.probability, outcome.own_probability) == ("far", 2 / 3, 1 / 3)
    assert vote(["far", "near"], [2.0, 0.0], own_label="x", rule=VoteRule.HARD).label == "near"
    assert vote(["far", "far", "near"], [2.0, 2.0, 0.0], own_label="x", rule=VoteRule.SOFT).label == "near"
    assert vote(["b", "a"], [1.0, 1.0], own_label="x", rule=VoteRule.SOFT).label == "a"
