"""The parts that label issues are made of: probe, votes, canaries, calibration, pull."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from eif_engine.functional.agreement import (
    Neighborhood,
    disagreement,
    neighborhood,
    supporters,
    vote_shares,
)
from eif_engine.functional.calibration import (
    choice_log_probability,
    fit_choice,
    fit_doubt,
    wrong_share,
)
from eif_engine.functional.canaries import (
    Canaries,
    class_at_rank,
    class_means,
    draw_ranks,
    plant,
    similarity_ranks,
)
from eif_engine.functional.draws import Draws
from eif_engine.functional.principal import PrincipalView
from eif_engine.functional.probe import PRIOR_COUNT, Change, FoldSums, HeldOut, folds, over_folds
from eif_engine.functional.probe_view import ProbeSettings, choose_settings, view
from eif_engine.functional.pull import Pull, estimate_pull
from tests import oracles

CLASSES = 4


def held_out(
    v_NF: torch.Tensor, labels_N: torch.Tensor, trust_N: torch.Tensor, *, parts: list[torch.Tensor], shrinkage: float
) -> list[HeldOut]:
    found = over_folds(list, v_NF, labels_N, trust_N, CLASSES, parts=parts, shrinkage=shrinkage)
    return [held for fold in found for held in fold]


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(rows: int = 40, features: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = drawn(1)
    labels_N = torch.randint(CLASSES, (rows,), generator=generator)
    center_CF = 2 * torch.randn(CLASSES, features, generator=generator, dtype=torch.float64)
    v_NF = center_CF[labels_N] + torch.randn(rows, features, generator=generator, dtype=torch.float64)
    return v_NF, labels_N, torch.rand(rows, generator=generator, dtype=torch.float64)


def settings(rows: int, temperature: float = 0.5) -> ProbeSettings:
    return ProbeSettings(
        num_classes=CLASSES, parts=folds(Draws.by_row(rows, 0), 5), shrinkage=0.2, temperature=temperature
    )


@pytest.mark.parametrize("pull", [Pull(), Pull(0.3, 0.0), Pull(0.2, 0.04)], ids=str)
def test_held_out_likelihoods_are_the_loops(pull: Pull) -> None:
    v_NF, labels_N, trust_N = samples()
    parts = folds(Draws.by_row(40, 0), 5)
    seen = []
    for held in held_out(v_NF, labels_N, trust_N, parts=parts, shrinkage=0.2):
        found_BC = held.log_likelihood(pull)
        for row, found_C in zip(held.rows_B.tolist(), found_BC, strict=True):
            fold = next(part.tolist() for part in parts if row in part)
            expected = oracles.discriminant(
                v_NF,
                labels_N.tolist(),
                trust_N.tolist(),
                row=row,
                left_out=fold,
                classes=CLASSES,
                shrinkage=0.2,
                prior_count=PRIOR_COUNT,
                pull=(pull.mean, pull.variance),
            )
            seen.append(row)
            assert (found_C - found_C[0]).tolist() == pytest.approx([value - expected[0] for value in expected])
    assert sorted(seen) == list(range(40))


def test_sums_that_are_not_kept_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With classes in their tens of thousands."""
    v_NF, labels_N, trust_N = samples()
    kept = view(v_NF, labels_N, trust_N, settings(40), pull=Pull(0.3, 0.01), candidates=3)
    monkeypatch.setattr("eif_engine.functional.probe.KEPT_BYTES", 0)
    again = view(v_NF, labels_N, trust_N, settings(40), pull=Pull(0.3, 0.01), candidates=3)
    torch.testing.assert_close(again.log_odds_N, kept.log_odds_N)
    torch.testing.assert_close(again.score_NJ, kept.score_NJ)


@pytest.mark.parametrize("kept_bytes", [0, 2**20])
def test_sums_follow_samples_that_change(monkeypatch: pytest.MonkeyPatch, kept_bytes: int) -> None:
    monkeypatch.setattr("eif_engine.functional.probe.KEPT_BYTES", kept_bytes)
    v_NF, labels_N, trust_N = samples()
    parts = folds(Draws.by_row(40, 0), 5)
    fold_N = torch.zeros(40, dtype=torch.int64)
    for fold, rows in enumerate(parts):
        fold_N[rows] = fold
    rows_B = torch.tensor([3, 17, 18, 31])
    new_v = v_NF.index_add(0, rows_B, torch.ones(4, 3, dtype=torch.float64))
    new_labels = labels_N.index_copy(0, rows_B, (labels_N[rows_B] + 1) % CLASSES)
    new_trust = trust_N.index_fill(0, rows_B, 0.25)
    change = Change.of(
        (v_NF[rows_B], labels_N[rows_B], trust_N[rows_B]),
        (new_v[rows_B], new_labels[rows_B], new_trust[rows_B]),
        fold_N[rows_B],
        num_classes=CLASSES,
    )
    sums = FoldSums.of(v_NF, labels_N, trust_N, CLASSES, parts=parts).after(change)
    anew = FoldSums.of(new_v, new_labels, new_trust, CLASSES, parts=parts)
    for place in range(5):
        for found, expected in zip(astuple(sums.others(place)), astuple(anew.others(place)), strict=True):
            torch.testing.assert_close(found, expected)


def test_blocks_do_not_change_a_probe() -> None:
    v_NF, labels_N, trust_N = samples()
    whole = view(v_NF, labels_N, trust_N, settings(40), pull=Pull(0.1, 0.01), candidates=2)
    small = ProbeSettings(**{**vars(settings(40)), "block_bytes": 1})
    rows = view(v_NF, labels_N, trust_N, small, pull=Pull(0.1, 0.01), candidates=2)
    torch.testing.assert_close(vars(rows), vars(whole))


def test_a_view_tells_what_the_likelihoods_say() -> None:
    v_NF, labels_N, trust_N = samples()
    pull = Pull(0.3, 0.01)
    found = view(v_NF, labels_N, trust_N, settings(40), pull=pull, candidates=CLASSES - 1)
    for held in held_out(v_NF, labels_N, trust_N, parts=folds(Draws.by_row(40, 0), 5), shrinkage=0.2):
        for place, row in enumerate(held.rows_B.tolist()):
            own, plain_C = int(labels_N[row]), 0.5 * held.log_likelihood(Pull())[place]
            others = [c for c in range(CLASSES) if c != own]
            doubt = math.log(sum(math.exp(float(plain_C[c] - plain_C[own])) for c in others))
            assert float(found.log_odds_N[row]) == pytest.approx(doubt)
            pulled_C = 0.5 * held.log_likelihood(pull)[place]
            assert found.candidate_NJ[row].tolist() == sorted(others, key=lambda c: -float(pulled_C[c]))
            assert found.score_NJ[row].tolist() == pytest.approx(sorted(float(pulled_C[c]) for c in others)[::-1])
            best = int(found.candidate_NJ[row, 0])
            line_F = held.mean_CF[own] - held.mean_CF[best]
            assert float(found.along_N[row]) == pytest.approx(float((held.a_BF[place] - held.mean_CF[best]) @ line_F))
            assert float(found.length_N[row]) == pytest.approx(float(line_F @ line_F))


def test_the_pull_explains_a_sample_between_two_classes() -> None:
    center_CF = torch.tensor([[0.0, 0.0], [10.0, 0.0], [5.0, 8.0]], dtype=torch.float64)
    labels_N = torch.arange(60) % 3
    v_NF = center_CF[labels_N] + 0.5 * torch.randn(60, 2, generator=drawn(), dtype=torch.float64)
    v_NF[0] = torch.tensor([6.0, 0.5])  # given class 0, and 0.4 of the way from class 1 to class 0; nearest to class 1
    v_NF[3] = torch.tensor([3.0, 4.8])  # given class 0, and 0.4 of the way from class 2 to class 0
    trust_N = torch.ones(60, dtype=torch.float64)
    parts = ProbeSettings(num_classes=3, parts=folds(Draws.by_row(60, 0), 5), shrinkage=0.01, temperature=1.0)
    pulled = view(v_NF, labels_N, trust_N, parts, pull=Pull(0.4, 0.001), candidates=2)
    assert [int(pulled.candidate_NJ[row, 0]) for row in (0, 3)] == [1, 2]
    assert float(pulled.along_N[3] / pulled.length_N[3]) == pytest.approx(0.4, abs=0.1)


def test_settings_are_those_that_predict_held_out_labels() -> None:
    v_NF, labels_N, trust_N = samples(200, 30)
    labels_N[::4] = (labels_N[::4] + 1) % CLASSES  # so that no setting predicts all of them
    parts, shrinkages = folds(Draws.by_row(200, 0), 5), (0.05, 0.5, 0.95)
    chosen = choose_settings(v_NF, labels_N, trust_N, num_classes=CLASSES, parts=parts, shrinkages=shrinkages)
    fits = {}
    for shrinkage in shrinkages:
        for temperature in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
            total = 0.0
            for held in held_out(v_NF, labels_N, trust_N, parts=parts, shrinkage=shrinkage):
                log_BC = torch.log_softmax(temperature * held.log_likelihood(Pull()), dim=1)
                for label, log_C in zip(held.labels_B.tolist(), log_BC, strict=True):
                    total += math.log(0.9 * math.exp(float(log_C[label])) + 0.1 / CLASSES)
            fits[shrinkage, temperature] = total
    assert max(fits.values()) > sorted(fits.values())[-2] + 1e-3
    assert (chosen.shrinkage, chosen.temperature) == max(fits, key=lambda key: fits[key])


def test_a_class_without_other_samples_is_no_candidate_and_no_crash() -> None:
    v_NF, labels_N, trust_N = samples()
    labels_N[labels_N == 3] = 0
    labels_N[7] = 3
    found = view(v_NF, labels_N, trust_N, settings(40), pull=Pull(), candidates=CLASSES - 1)
    assert torch.isfinite(found.log_odds_N).all()
    others = torch.arange(40) != 7
    possible = torch.isfinite(found.score_NJ) & (found.candidate_NJ == 3)
    in_its_fold = next(part for part in folds(Draws.by_row(40, 0), 5) if 7 in part)
    assert not possible[in_its_fold].any()
    assert others.sum() == 39


def test_votes_are_the_loops() -> None:
    v_NF, labels_N, trust_N = samples()
    near = neighborhood(v_NF, torch.tensor([3, 0, 9]), 6)
    asked_QJ = torch.tensor([[0, 1], [2, 3], [1, 0]])
    shares_QJ = vote_shares(near, labels_N, trust_N, asked_QJ, temperature=0.1)
    for place, row in enumerate((3, 0, 9)):
        voters = oracles.nearest_rows(v_NF, row, 6)
        assert near.neighbor_QK[place].tolist() == [other for _, other in voters]
        weights = [math.exp(-(d - voters[0][0]) / 0.2) * float(trust_N[other]) for d, other in voters]
        for j, asked in enumerate(asked_QJ[place].tolist()):
            own = sum(w for w, (_, other) in zip(weights, voters, strict=True) if int(labels_N[other]) == asked)
            assert float(shares_QJ[place, j]) == pytest.approx(own / sum(weights))


def test_disagreement_is_odds_that_stay_finite() -> None:
    odds = disagreement(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert odds.tolist() == pytest.approx([math.log(101), 0.0, -math.log(101)])


def test_untrusted_neighbours_have_no_vote() -> None:
    near = Neighborhood(torch.tensor([[1, 2]]), torch.tensor([[0.1, 0.1]]))
    labels_N, asked = torch.tensor([0, 1, 1]), torch.tensor([[1]])
    assert vote_shares(near, labels_N, torch.zeros(3), asked, temperature=0.1).tolist() == [[0.0]]


def test_supporters_carry_the_label_nearest_first() -> None:
    near = Neighborhood(torch.tensor([[4, 2, 1, 3], [0, 2, 3, 4]]), torch.zeros(2, 4))
    labels_N = torch.tensor([0, 1, 0, 1, 1])
    found = supporters(near, labels_N, torch.tensor([1, 0]), 5)
    assert found.tolist() == [[4, 1, 3, -1, -1], [0, 2, -1, -1, -1]]


def test_ranks_and_classes_at_ranks_are_inverse() -> None:
    v_NF, labels_N, trust_N = samples(60, 5)
    mean_CF, _ = class_means(v_NF, labels_N, trust_N, 6)
    count_C = torch.bincount(labels_N, minlength=6)
    of_Q = torch.arange(CLASSES).repeat_interleave(3)
    rank_Q = torch.arange(3).repeat(CLASSES)
    other_Q = class_at_rank(mean_CF, count_C, of_Q, rank_Q)
    assert similarity_ranks(mean_CF, count_C, of_Q, other_Q).tolist() == rank_Q.tolist()
    assert (other_Q != of_Q).all()
    assert int(other_Q.max()) < CLASSES  # the two classes without samples are never chosen
    for c in range(CLASSES):
        assert sorted(other_Q[of_Q == c].tolist()) == [other for other in range(CLASSES) if other != c]


def test_class_means_are_weighted() -> None:
    v_NF, labels_N, trust_N = samples()
    mean_CF, weight_C = class_means(v_NF, labels_N, trust_N, CLASSES + 1)
    for c in range(CLASSES):
        rows = (labels_N == c).nonzero().flatten().tolist()
        total = sum(float(trust_N[row]) for row in rows)
        expected = sum(float(trust_N[row]) * v_NF[row] for row in rows) / total
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(mean_CF[c], expected)
        assert float(weight_C[c]) == pytest.approx(total)
    assert mean_CF[CLASSES].tolist() == [0.0, 0.0, 0.0]


def test_canaries_are_other_labels_in_other_rows_only() -> None:
    v_NF, labels_N, trust_N = samples(60, 5)
    mean_CF, _ = class_means(v_NF, labels_N, trust_N, CLASSES)
    count_C = torch.bincount(labels_N, minlength=CLASSES)
    draws = Draws.by_row(60, 0)
    rows_B = draws.rows(12)
    ranks_B = draw_ranks(torch.tensor([1]), rows_B, classes=CLASSES, draws=draws)
    planted = plant(labels_N, rows_B, ranks_B, mean_CF, count_C)
    changed = planted.flipped(labels_N) != labels_N
    assert changed.nonzero().flatten().tolist() == planted.rows_B.tolist()
    assert int(changed.sum()) == 12
    assert planted.given_B.tolist() == labels_N[planted.rows_B].tolist()


def test_ranks_follow_the_suspects_and_some_do_not() -> None:
    rows_B, draws = torch.arange(5000), Draws.by_row(5000, 0)
    ranks = draw_ranks(torch.tensor([7, 9, 7]), rows_B, classes=100, draws=draws).tolist()
    share = {rank: ranks.count(rank) / 5000 for rank in (7, 9)}
    assert share[7] == pytest.approx(0.8 * 2 / 3 + 0.1 / 99, abs=0.03)
    assert share[9] == pytest.approx(0.8 / 3 + 0.1 / 99, abs=0.03)
    assert sum(rank < 3 for rank in ranks) / 5000 == pytest.approx(0.1 + 0.1 * 3 / 99, abs=0.02)
    without = draw_ranks(torch.zeros(0, dtype=torch.int64), rows_B, classes=100, draws=draws)
    assert float((without < 3).double().mean()) == pytest.approx(0.5 + 0.5 * 3 / 99, abs=0.03)


def test_a_pulled_canary_lies_between_its_classes() -> None:
    mean_CF = torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    planted = Canaries(torch.tensor([1]), torch.tensor([1]), torch.tensor([0]))
    v_NF = torch.tensor([[9.0, 9.0], [0.5, 1.0]])
    moved = planted.moved(v_NF, mean_CF, torch.tensor([0.25]))
    assert moved.tolist() == [[9.0, 9.0], [1.5, 1.0]]
    assert v_NF.tolist() == [[9.0, 9.0], [0.5, 1.0]]


def test_the_pull_of_suspects_is_recovered() -> None:
    length_S = 5 + 50 * torch.rand(4000, generator=drawn(), dtype=torch.float64)
    drawn_S = Pull(0.3, 0.01).of(torch.randn(4000, generator=drawn(1), dtype=torch.float64))
    noise_S = torch.randn(4000, generator=drawn(2), dtype=torch.float64)
    found = estimate_pull(drawn_S * length_S + length_S.sqrt() * noise_S, length_S)
    assert found.mean == pytest.approx(0.3, abs=0.01)
    assert found.variance == pytest.approx(0.01, abs=0.005)


def test_a_pull_moves_by_what_is_missing() -> None:
    corrected = Pull(0.2, 0.01).corrected(seen=Pull(0.3, 0.01), found=Pull(0.15, 0.03))
    assert corrected.mean == pytest.approx(0.35)
    assert corrected.variance == 0.0


def scores(share: float, rows: int = 20_000) -> tuple[Tensor, Tensor]:
    """Scores of samples and of canaries: right labels ~ N(0, 1), wrong ones and canaries ~ N(4, 1)."""
    wrong_N = torch.rand(rows, generator=drawn(), dtype=torch.float64) < share
    score_N = torch.randn(rows, generator=drawn(1), dtype=torch.float64) + 4 * wrong_N
    return score_N, 4 + torch.randn(2000, generator=drawn(2), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_the_share_and_the_probability_of_wrong_labels_are_recovered(share: float) -> None:
    score_N, canary_B = scores(share)
    least, likely = wrong_share(score_N, canary_B)
    assert likely == pytest.approx(share, abs=0.015)
    assert likely - 0.02 < least <= likely
    probability_N = fit_doubt(score_N, canary_B, share).probability(score_N)
    assert float(probability_N.mean()) == pytest.approx(share, abs=0.002)
    bayes_N = torch.sigmoid(4 * score_N - 8 + math.log(share / (1 - share)))
    assert float((probability_N - bayes_N).abs().mean()) < 0.02


def test_doubt_does_not_depend_on_the_unit_of_the_score() -> None:
    score_N, canary_B = scores(0.1)
    one = fit_doubt(score_N, canary_B, 0.1).probability(score_N)
    other = fit_doubt(100 * score_N - 7, 100 * canary_B - 7, 0.1).probability(100 * score_N - 7)
    torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)


def test_scores_that_say_nothing_give_no_doubt_and_no_crash() -> None:
    doubt = fit_doubt(torch.zeros(50), torch.zeros(5), 0.1)
    assert doubt.probability(torch.zeros(3)).tolist() == pytest.approx([0.1] * 3, abs=1e-4)


def test_a_choice_is_weighed_as_its_examples_were_made() -> None:
    evidence_BJP = torch.randn(6000, 4, 3, generator=drawn(), dtype=torch.float64)
    truth_P = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    right_B = torch.multinomial(torch.softmax(evidence_BJP @ truth_P, dim=1), 1, generator=drawn(1)).squeeze(1)
    assert fit_choice(evidence_BJP, right_B, torch.ones(6000)).tolist() == pytest.approx([2.0, 0.5, 0.0], abs=0.1)


def test_an_option_that_is_ruled_out_has_no_probability() -> None:
    evidence_BJP = torch.zeros(2, 3, 2)
    evidence_BJP[0, 1, 0] = -torch.inf
    log_BJ = choice_log_probability(evidence_BJP, torch.ones(2, dtype=torch.float64))
    assert log_BJ.exp().flatten().tolist() == pytest.approx([0.5, 0.0, 0.5, 1 / 3, 1 / 3, 1 / 3])


def test_a_principal_view_keeps_what_lies_along_the_largest_components() -> None:
    v_NF = torch.randn(50, 12, generator=drawn(), dtype=torch.float64) * torch.logspace(1, -1, 12, dtype=torch.float64)
    seen_NF = PrincipalView.fitted(v_NF).of(v_NF)
    expected_NF = torch.stack([(v_F - v_NF.mean(0)) / (v_F - v_NF.mean(0)).norm() for v_F in v_NF])
    torch.testing.assert_close(seen_NF, expected_NF)
    short_NK = PrincipalView.fitted(v_NF, components=4).of(v_NF)
    left = torch.linalg.svd(expected_NF, full_matrices=False)
    torch.testing.assert_close(short_NK @ short_NK.T, (left.U[:, :4] * left.S[:4].square()) @ left.U[:, :4].T)


def test_vectors_that_move_are_seen_as_before() -> None:
    v_NF = torch.randn(30, 6, generator=drawn(), dtype=torch.float64)
    view = PrincipalView.fitted(v_NF, components=3)
    moved_NF = v_NF.clone()
    moved_NF[4] += 5
    assert torch.equal(view.of(moved_NF)[5:], view.of(v_NF)[5:])
