from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.benchmarks.paper.__main__ import main
from tests.benchmarks.paper.data import Split
from tests.benchmarks.paper.detection import SHARES, found, ideal
from tests.benchmarks.paper.flips import Noise, flip, nearest_classes
from tests.benchmarks.paper.frozen import frozen_model, frozen_split
from tests.benchmarks.paper.models import Condition, conditions, model
from tests.benchmarks.paper.network import LossName, Size
from tests.benchmarks.paper.rankings import closest_pairs
from tests.benchmarks.paper.significance import paired
from tests.benchmarks.paper.tables import table

LABELS_N = np.arange(400) % 8
NEAREST_N = (LABELS_N + 3) % 8


@pytest.mark.parametrize("noise", list(Noise))
def test_as_many_labels_are_flipped_as_asked_for_and_each_is_wrong(noise: Noise) -> None:
    flipped = flip(LABELS_N, share=0.1, noise=noise, nearest_N=NEAREST_N, seed=1)
    wrong = flipped != LABELS_N
    assert wrong.sum() == 40
    assert np.array_equal(flipped, flip(LABELS_N, share=0.1, noise=noise, nearest_N=NEAREST_N, seed=1))
    if noise is Noise.NEAREST:
        assert np.array_equal(flipped[wrong], NEAREST_N[wrong])
    else:
        assert len(np.unique((flipped - LABELS_N)[wrong] % 8)) == 7


def test_the_nearest_class_is_another_one_with_the_nearest_centre() -> None:
    z_ND = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.7, 0.7], [0.6, 0.8], [-1.0, 0.1], [-1.0, -0.1]])
    assert nearest_classes(z_ND, np.array([0, 0, 1, 1, 2, 2])).tolist() == [1, 1, 0, 0, 1, 1]


def test_a_detection_curve_counts_what_was_found_so_far() -> None:
    wrong_N = np.zeros(100, dtype=np.bool_)
    wrong_N[[3, 50]] = True
    curve = found(np.arange(100.0), wrong_N)
    assert curve[np.flatnonzero(np.isclose(SHARES, 0.03))[0]] == 0
    assert curve[np.flatnonzero(np.isclose(SHARES, 0.04))[0]] == 0.5
    assert curve[-1] == 1
    np.testing.assert_allclose(found(-wrong_N.astype(float), wrong_N)[::2], ideal(0.02)[::2])


def test_paired_tests_see_a_difference_that_means_alone_hide() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0, 10, 40)
    same, better = base + random.normal(0, 1, 40), base + 1 + random.normal(0, 0.5, 40)
    there, not_there = paired(better.tolist(), base.tolist()), paired(same.tolist(), base.tolist())
    assert max(there.t_test, there.wilcoxon) < 1e-6
    assert min(not_there.t_test, not_there.wilcoxon) > 0.01
    assert np.isnan(paired(base.tolist(), base.tolist()).t_test)


def test_bars_in_cells_do_not_break_a_table() -> None:
    assert table(["a", "b"], [["|W|", "1"]]).splitlines()[-1] == r"| \|W\| | 1 |"


def test_every_condition_is_there_once() -> None:
    found_conditions = conditions(2)
    assert len({condition.name for condition in found_conditions}) == len(found_conditions) == 2 * 2 * 7


def test_a_model_is_trained_once_and_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = np.repeat(np.arange(4), 6)
    patterns = torch.randn(8, 1, 16, 16)
    images = [patterns[labels + shift] + 0.3 * torch.randn(24, 1, 16, 16) for shift in (0, 4)]
    split = Split(name="toy", train_NCHW=images[0], train_labels_N=labels, test_MCHW=images[1], test_labels_M=labels)
    size, condition = Size(width=4, embedding_dim=8, epochs=2), Condition(loss=LossName.SOFT_TRIPLE, seed=0, share=0.25)
    first = model(split, condition, size=size, cache=tmp_path)
    written = first.path.stat().st_mtime_ns
    again = model(split, condition, size=size, cache=tmp_path)
    assert again.path.stat().st_mtime_ns == written
    assert first.flipped_N.sum() == 6
    assert torch.equal(first.case.head.weight_DF, again.case.head.weight_DF)
    other = model(split, condition, size=size, cache=tmp_path / "other")
    assert torch.equal(first.case.train_features_NF, other.case.train_features_NF)
    features = first.backbone(size, (1, 16, 16))(split.train_NCHW).double()
    torch.testing.assert_close(features, first.case.train_features_NF, rtol=1e-4, atol=1e-4)


def test_everything_runs_at_toy_size(tmp_path: Path, shared_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Omniglot's first characters: nothing is true of so few but that there is a page."""
    options = ["--data", str(shared_dir / "data"), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    options += ["--seeds", "1", "--pairs", "2", "--groups", "1", "--network-pairs", "1", "--shares", "0.2"]
    options += ["--epochs", "2", "--width", "4", "--classes", "6", "--shots", "6", "--threads", "1"]
    assert main([*options, "--peers", str(tmp_path / "no" / "python")]) == 0
    page = (tmp_path / "out" / "paper.md").read_text()
    for part in ("## omniglot: 36 training", "### Table 1", "### Figure 2", "### Table 2", "### Table 3"):
        assert part in page
    assert "No peers: their environment is absent" in page
    assert page.count("](paper/") == len(list((tmp_path / "out" / "paper").glob("*.png"))) == 4
    marked = page.replace("kept by the next run -->\n", "kept by the next run -->\nRead by hand.\n")
    (tmp_path / "out" / "paper.md").write_text(marked)
    capsys.readouterr()
    # No peer is installed for this interpreter: the page says so in its words. All else comes from the cache.
    assert main([*options, "--peers", sys.executable]) == 0
    page = (tmp_path / "out" / "paper.md").read_text()
    assert "Read by hand." in page
    assert "No module named 'captum'" in page


def test_a_folder_of_images_becomes_a_model_over_frozen_features(tmp_path: Path, shared_dir: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(5):
        (tmp_path / "images" / f"class{number}").mkdir(parents=True)
        for shot in range(3):
            pixels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"class{number}" / f"{shot}.png")
    weights = shared_dir / "models" / "mobilenet_v2_imagenet_fp16.safetensors"
    split = frozen_split(tmp_path / "images", weights, cache=tmp_path)
    assert split.train_NF.shape == (9, 1280)
    assert split.train_labels_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert split.test_labels_M.tolist() == [0, 0, 0, 1, 1, 1]
    again = frozen_split(tmp_path / "images", tmp_path / "not needed", cache=tmp_path)
    assert torch.equal(again.test_MF, split.test_MF)
    for loss in LossName:
        found = frozen_model(split, Condition(loss=loss, seed=0), cache=tmp_path)
        z_ND = found.case.head.embed(found.case.train_features_NF)
        losses_N = found.case.loss.per_sample(z_ND, found.case.train_labels_N)
        assert float(losses_N.mean()) < 0.5 * np.log(3)


def test_pairs_share_no_sample(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = np.repeat(np.arange(4), 6)
    images = torch.randn(24, 1, 16, 16)
    split = Split(name="toy", train_NCHW=images, train_labels_N=labels, test_MCHW=images, test_labels_M=labels)
    size = Size(width=4, embedding_dim=8, epochs=1)
    case = model(split, Condition(loss=LossName.PROXY_NCA, seed=0), size=size, cache=tmp_path).case
    rows = [row for query in closest_pairs(case, None) for row in (query.pairs[0].row, query.pairs[0].neighbor)]
    assert len(rows) == len(set(rows)) > 2
