"""Label issues end to end: on samples whose wrong labels are known, and as a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from eif_engine.__main__ import main
from eif_engine.cases import load_case
from eif_engine.errors import InvalidInput
from eif_engine.functional.draws import Draws, keys_of
from eif_engine.functional.pull import Pull
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.issue_canaries import NO_PULLS
from eif_engine.jobs.issue_evidence import Asked, Evidence, Known, Pulls, Spaces, gather
from eif_engine.jobs.issues import IssueReport, find_issues
from tests.toy import toy
from tests.unit.engine.test_score_cli import arrays_of

FAST = IssueConfig(num_neighbors=15, num_folds=5, canary_copies=2, canary_fraction=0.1, shrinkages=(0.3,))


class Planted:
    """Classes around centres in 16 dimensions, embedded in 6, with every tenth label wrong and pulled a quarter."""

    def __init__(self, *, classes: int = 15, shots: int = 24, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        center_CF = 1.8 * torch.randn(classes, 16, generator=generator, dtype=torch.float64)
        self.classes, count = classes, classes * shots
        self.right_N = torch.arange(count) % classes
        self.wrong_N = torch.rand(count, generator=generator) < 0.1
        step_N = torch.randint(1, classes, (count,), generator=generator)
        self.labels_N = torch.where(self.wrong_N, (self.right_N + step_N) % classes, self.right_N)
        noise_NF = torch.randn(count, 16, generator=generator, dtype=torch.float64)
        self.x_NF = 0.75 * center_CF[self.right_N] + 0.25 * center_CF[self.labels_N] + noise_NF
        self.z_ND = self.x_NF @ torch.randn(16, 6, generator=generator, dtype=torch.float64)

    def find(self, config: IssueConfig = FAST, **changes: Any) -> IssueReport:
        arguments = {
            "features_NF": self.x_NF,
            "embeddings_ND": self.z_ND,
            "labels_N": self.labels_N,
            "num_classes": self.classes,
            "loss_N": torch.zeros(len(self.labels_N), dtype=torch.float64),
        }
        return find_issues(config=config, **{**arguments, **changes})


def draws(planted: Planted) -> Draws:
    return Draws.by_row(len(planted.labels_N), FAST.seed)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def report(planted: Planted) -> IssueReport:
    return planted.find()


def same(one: IssueReport, other: IssueReport, *, rtol: float = 0.0) -> None:
    for name in ("issue_score_N", "suggested_probability_N", "alternative_probability_N"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol)
    assert one.suggested_label_N.tolist() == other.suggested_label_N.tolist()
    assert one.neighbor_rows_NK.tolist() == other.neighbor_rows_NK.tolist()


def test_wrong_labels_come_first(planted: Planted, report: IssueReport) -> None:
    assert average_precision_score(planted.wrong_N.numpy(), report.issue_score_N) > 0.97
    assert average_precision_score(planted.wrong_N.numpy(), -report.issue_score_N) < 0.1


def test_right_labels_are_suggested_for_wrong_ones_and_kept_for_right_ones(
    planted: Planted, report: IssueReport
) -> None:
    right, wrong = planted.right_N.numpy(), planted.wrong_N.numpy()
    assert (report.suggested_label_N == right)[wrong].mean() > 0.85
    assert (report.suggested_label_N == right)[~wrong].mean() > 0.94
    assert (report.alternative_label_N == right)[wrong].mean() > 0.9
    assert (report.alternative_label_N != planted.labels_N.numpy()).all()


def test_the_suggestion_is_the_most_probable_label(planted: Planted, report: IssueReport) -> None:
    given, other = 1 - report.issue_score_N, report.alternative_probability_N
    keep = given >= other
    expected = np.where(keep, planted.labels_N.numpy(), report.alternative_label_N)
    assert report.suggested_label_N.tolist() == expected.tolist()
    assert report.suggested_probability_N.tolist() == np.where(keep, given, other).tolist()
    assert (given + other <= 1 + 1e-12).all()
    assert keep.any()
    assert not keep.all()


def test_noise_and_recall_are_told_without_the_truth(planted: Planted, report: IssueReport) -> None:
    truth = float(planted.wrong_N.double().mean())
    assert report.estimated_noise == pytest.approx(truth, abs=0.05)
    assert report.issue_score_N.mean() == pytest.approx(report.estimated_noise, abs=0.005)
    recall = (report.issue_score_N >= report.flag_above)[planted.wrong_N.numpy()].mean()
    assert report.canary_recall == pytest.approx(recall, abs=0.15)
    assert 0.1 < report.pulls["penultimate"] < 0.4


def test_neighbours_carry_the_suggested_label(planted: Planted, report: IssueReport) -> None:
    labels = planted.labels_N.numpy()
    assert report.neighbor_rows_NK.shape == (len(labels), 5)
    for row, neighbors in enumerate(report.neighbor_rows_NK.tolist()):
        assert row not in neighbors
        assert {int(labels[other]) for other in neighbors if other >= 0} <= {int(report.suggested_label_N[row])}
    assert (report.neighbor_rows_NK[:, 0] >= 0).mean() > 0.95


def test_every_part_is_reported(planted: Planted, report: IssueReport) -> None:
    combined = {"neighbors_penultimate", "neighbors_embedding", "probe_penultimate", "probe_embedding"}
    assert set(report.parts) == {*combined, "loss"}
    influence_N = torch.rand(len(planted.labels_N), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    told = planted.find(influence_N=influence_N)
    assert told.parts["influence"].tolist() == influence_N.tolist()
    assert {name for name, weight in told.part_weights.items() if weight > 0} == combined
    same(told, report)
    for name in combined:
        assert average_precision_score(planted.wrong_N.numpy(), report.parts[name]) > 0.6


def evidence_of(data: Planted, config: IssueConfig) -> Evidence:
    spaces = Spaces.of(data.x_NF, data.z_ND, data.labels_N, data.classes, config, draws=draws(data))
    return gather(spaces, data.labels_N, NO_PULLS, config)


def test_the_same_again_and_in_other_blocks_and_threads(planted: Planted, report: IssueReport) -> None:
    same(planted.find(), report)
    config = IssueConfig(**{**vars(FAST), "block_bytes": 100_000})
    in_blocks = evidence_of(planted, config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        threaded = evidence_of(planted, FAST)
    finally:
        torch.set_num_threads(threads)
    plain = evidence_of(planted, FAST)
    for other in (in_blocks, threaded):
        torch.testing.assert_close(other.doubt_NP, plain.doubt_NP)
        torch.testing.assert_close(other.choice_NJP, plain.choice_NJP)
        assert other.candidate_NJ.tolist() == plain.candidate_NJ.tolist()


def test_another_seed_finds_the_same(planted: Planted, report: IssueReport) -> None:
    other = planted.find(IssueConfig(**{**vars(FAST), "seed": 5}))
    assert not np.array_equal(other.issue_score_N, report.issue_score_N)
    assert np.corrcoef(other.issue_score_N, report.issue_score_N)[0, 1] > 0.9


@pytest.mark.parametrize("pulls", [NO_PULLS, Pulls(Pull(0.3, 0.01), Pull(0.1, 0.02))], ids=["none", "some"])
def test_evidence_about_some_is_that_about_all(planted: Planted, pulls: Pulls) -> None:
    spaces = Spaces.of(planted.x_NF, planted.z_ND, planted.labels_N, planted.classes, FAST, draws=draws(planted))
    everyone = gather(spaces, planted.labels_N, pulls, FAST)
    rows_B = torch.randperm(len(planted.labels_N), generator=torch.Generator().manual_seed(5))[:40]
    some = gather(
        spaces, planted.labels_N, pulls, FAST, asked=Asked(rows_B, Known.of(spaces, planted.labels_N, everyone, FAST))
    )
    for name, found in vars(some).items():
        assert torch.allclose(found.double(), vars(everyone)[name][rows_B].double(), equal_nan=True), name


def test_a_flip_hardly_changes_the_evidence_about_others(planted: Planted) -> None:
    """Canaries take the trust in all other labels from the labels as given: gathering it anew comes to the same."""
    spaces = Spaces.of(planted.x_NF, planted.z_ND, planted.labels_N, planted.classes, FAST, draws=draws(planted))
    before = gather(spaces, planted.labels_N, NO_PULLS, FAST)
    rows_B = torch.arange(0, len(planted.labels_N), 20)
    flipped_N = planted.labels_N.index_copy(0, rows_B, (planted.labels_N[rows_B] + 1) % planted.classes)
    anew = gather(spaces, flipped_N, NO_PULLS, FAST)
    short = gather(
        spaces, flipped_N, NO_PULLS, FAST, asked=Asked(rows_B, Known.of(spaces, planted.labels_N, before, FAST))
    )
    for column in range(4):
        both = torch.stack((anew.doubt_NP[rows_B, column], short.doubt_NP[:, column]))
        assert float(torch.corrcoef(both)[0, 1]) > 0.99
    assert float((anew.candidate_NJ[rows_B, 0] == short.candidate_NJ[:, 0]).double().mean()) > 0.95


def test_with_keys_the_order_of_the_samples_plays_no_part(planted: Planted) -> None:
    keys_N = keys_of([f"{row}.png" for row in range(len(planted.labels_N))])
    order_N = torch.randperm(len(keys_N), generator=torch.Generator().manual_seed(2))
    found = planted.find(keys_N=keys_N)
    moved = planted.find(
        features_NF=planted.x_NF[order_N],
        embeddings_ND=planted.z_ND[order_N],
        labels_N=planted.labels_N[order_N],
        keys_N=keys_N[order_N],
    )
    assert moved.issue_score_N.tolist() == pytest.approx(found.issue_score_N[order_N].tolist(), abs=1e-6)
    assert moved.suggested_label_N.tolist() == found.suggested_label_N[order_N].tolist()


def test_clean_labels_are_left_alone() -> None:
    clean = Planted(seed=3)
    found = clean.find(labels_N=clean.right_N, features_NF=clean.x_NF, embeddings_ND=clean.z_ND)
    untouched = ~clean.wrong_N.numpy()  # the others were pulled to a class that they are not given here
    assert (found.suggested_label_N == clean.right_N.numpy())[untouched].mean() > 0.98
    assert found.estimated_noise < 0.06


def empty_class(data: Planted) -> tuple[Tensor, Tensor, int]:
    return data.x_NF, data.labels_N, data.classes + 3


def singletons(data: Planted) -> tuple[Tensor, Tensor, int]:
    labels_N = data.labels_N.clone()
    labels_N[:4] = torch.arange(4) + data.classes
    return data.x_NF, labels_N, data.classes + 4


def duplicates(data: Planted) -> tuple[Tensor, Tensor, int]:
    x_NF = data.x_NF.clone()
    x_NF[60:120] = x_NF[:1]
    return x_NF, data.labels_N, data.classes


def constant(data: Planted) -> tuple[Tensor, Tensor, int]:
    return torch.ones_like(data.x_NF), data.labels_N, data.classes


def zero_rows(data: Planted) -> tuple[Tensor, Tensor, int]:
    x_NF = data.x_NF.clone()
    x_NF[::7] = 0
    return x_NF, data.labels_N, data.classes


def two_classes(data: Planted) -> tuple[Tensor, Tensor, int]:
    return data.x_NF, data.labels_N % 2, 2


def four_samples(data: Planted) -> tuple[Tensor, Tensor, int]:
    return data.x_NF[:4], torch.tensor([0, 1, 0, 1]), 2


def one_each(data: Planted) -> tuple[Tensor, Tensor, int]:
    return data.x_NF[:5], torch.arange(5), 5


def float32(data: Planted) -> tuple[Tensor, Tensor, int]:
    return data.x_NF.float(), data.labels_N, data.classes


@pytest.mark.parametrize(
    "odd",
    [empty_class, singletons, duplicates, constant, zero_rows, two_classes, four_samples, one_each, float32],
    ids=lambda odd: odd.__name__,
)
def test_odd_data_gives_probabilities(planted: Planted, odd: Any) -> None:
    x_NF, labels_N, classes = odd(planted)
    found = planted.find(
        features_NF=x_NF,
        embeddings_ND=x_NF[:, :6],
        labels_N=labels_N,
        num_classes=classes,
        loss_N=torch.zeros(len(x_NF), dtype=torch.float64),
    )
    for values_N in (found.issue_score_N, found.suggested_probability_N, found.alternative_probability_N):
        assert ((values_N >= 0) & (values_N <= 1)).all()
    present = set(labels_N.tolist())
    suggested_elsewhere = found.suggested_label_N != labels_N.numpy()
    assert set(found.suggested_label_N[suggested_elsewhere].tolist()) <= present


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels_N": torch.zeros(360, dtype=torch.int64)}, "1 class(es)"),
        ({"labels_N": torch.full((360,), 15)}, "outside [0, 15)"),
        ({"loss_N": torch.zeros(3)}, "loss has 3 rows"),
        ({"loss_N": torch.full((360,), torch.nan)}, "loss has NaN"),
        ({"influence_N": torch.zeros(3)}, "influence has 3 rows"),
        ({"embeddings_ND": torch.zeros(2, 6)}, "embeddings has 2 rows"),
        ({"features_NF": torch.full((360, 16), torch.inf)}, "features has NaN or infinite"),
    ],
)
def test_faults_name_the_array(planted: Planted, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        planted.find(**changes)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_neighbors", 0),
        ("vote_temperature", 0.0),
        ("num_folds", 1),
        ("shrinkages", ()),
        ("shrinkages", (0.0,)),
        ("prune_rounds", 0),
        ("candidates", 0),
        ("canary_fraction", 0.5),
        ("canary_copies", 0),
        ("flag_above", 1.0),
        ("shown_neighbors", 0),
        ("block_bytes", 0),
    ],
)
def test_configuration_is_checked(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        IssueConfig(**{field: value})


def case_arrays(**changes: Any) -> dict[str, NDArray[Any]]:
    return arrays_of(toy(train=80, classes=4), **changes)


def run(tmp_path: Path, arrays: dict[str, NDArray[Any]], *options: str) -> dict[str, NDArray[Any]]:
    np.savez(tmp_path / "case.npz", **arrays)  # type: ignore[arg-type]  # numpy's own overload takes arrays by name
    assert main(["issues", str(tmp_path / "case.npz"), "--out", str(tmp_path / "out.npz"), *options]) == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(tmp_path, case_arrays(), "--influence-pairs", "3", "--canaries", "1", "--neighbors", "9")
    for name in ("issue_score", "suggested_label", "suggested_probability", "part_loss", "part_influence"):
        assert out[name].shape == (80,)
    assert out["suggestion_neighbors"].shape == (80, 5)
    assert out["estimated_noise"].shape == out["canary_recall"].shape == ()
    assert out["suggested_label"].dtype == np.int64
    flagged = int((out["issue_score"] >= out["flag_above"]).sum())
    assert f"{flagged} of 80 labels look wrong" in capsys.readouterr().out
    case = load_case(tmp_path / "case.npz")
    z_ND = case.head.embed(case.train_features_NF)
    np.testing.assert_allclose(out["part_loss"], case.loss.per_sample(z_ND, case.train_labels_N).numpy())
    assert (out["part_influence"] > 0).any()
    without = run(tmp_path, case_arrays(), "--influence-pairs", "0", "--canaries", "1", "--neighbors", "9")
    assert "part_influence" not in without
    np.testing.assert_array_equal(without["issue_score"], out["issue_score"])


def test_the_truth_is_never_read(tmp_path: Path) -> None:
    plain = run(tmp_path, case_arrays(), "--canaries", "1")
    labels = case_arrays()["train_labels"]
    truth = case_arrays(train_labels_clean=(labels + 1) % 4, noisy_train_rows=np.arange(80))
    told = run(tmp_path, truth, "--canaries", "1")
    assert told.keys() == plain.keys()
    for name, array in plain.items():
        np.testing.assert_array_equal(told[name], array)
    hostile = np.empty(1, dtype=object)  # reading it would raise
    run(tmp_path, case_arrays(train_labels_clean=hostile, noisy_train_rows=hostile), "--canaries", "1")


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"train_labels": np.zeros(80, dtype=int)}, [], "1 class(es)"),
        ({"train_features": None}, [], "`train_features` is missing"),
        ({}, ["--neighbors", "0"], "num_neighbors"),
        ({}, ["--canaries", "0"], "canary_copies"),
        ({}, ["--influence-pairs", "-1"], "--influence-pairs"),
    ],
)
def test_faults_are_one_line_that_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], options: list[str], says: str
) -> None:
    np.savez(tmp_path / "case.npz", **case_arrays(**changes))  # type: ignore[arg-type]  # as above
    assert main(["issues", str(tmp_path / "case.npz"), "--out", str(tmp_path / "out.npz"), *options]) == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case.npz"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "case.npz", **case_arrays())  # type: ignore[arg-type]  # as above
    out = str(tmp_path / "none" / "out.npz")
    assert main(["issues", str(tmp_path / "case.npz"), "--out", out, "--canaries", "1"]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_model_trained_on_wrong_labels(shared_dir: Path) -> None:
    path = shared_dir / "cases" / "omniglot_proxy_nca.npz"
    case = load_case(path)
    z_ND = case.head.embed(case.train_features_NF)
    found = find_issues(
        features_NF=case.train_features_NF,
        embeddings_ND=z_ND,
        labels_N=case.train_labels_N,
        num_classes=case.loss.num_classes,
        loss_N=case.loss.per_sample(z_ND, case.train_labels_N),
    )
    with np.load(path, allow_pickle=False) as file:
        right = file["train_labels_clean"]
    wrong = case.train_labels_N.numpy() != right
    assert average_precision_score(wrong, found.issue_score_N) >= 0.98
    assert (found.suggested_label_N == right)[wrong].mean() >= 0.76
    assert found.estimated_noise == pytest.approx(wrong.mean(), abs=0.04)
    assert found.canary_recall == pytest.approx((found.issue_score_N >= found.flag_above)[wrong].mean(), abs=0.08)
