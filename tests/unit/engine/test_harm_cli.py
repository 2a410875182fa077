from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eif_engine.__main__ import main
from eif_engine.config import InfluenceConfig, QueryKind, UnitStep
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.rank import order, rank
from tests.toy import Toy, toy


def write_case(path: Path, data: Toy) -> Path:
    np.savez(
        path,
        train_features=data.train_NF.numpy(),
        test_features=data.test_MF.numpy(),
        head_weight=data.head.weight_DF.numpy(),
        head_bias=data.head.bias_D.numpy(),
        proxies=data.proxy_nca.proxies_CD.numpy(),
        train_labels=data.train_labels_N.numpy(),
        test_labels=np.array(data.test_labels),
    )
    return path


def harm(tmp_path: Path, *options: str) -> int:
    case = write_case(tmp_path / "case.npz", toy())
    return main(["harm", str(case), "--out", str(tmp_path / "out.npz"), *options])


def test_sums_over_all_confusions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = toy()
    assert harm(tmp_path, "--radius", "0.5", "--replicates", "20") == 0
    found = np.load(tmp_path / "out.npz")
    queries = find_queries(
        embeddings_MD=data.head.embed(data.test_MF),
        labels=data.test_labels,
        sample_ids=data.test_ids,
        kind=QueryKind.CONFUSION_PAIRS,
    )
    ranked = rank(
        head=data.head,
        loss=data.proxy_nca,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=queries,
        config=InfluenceConfig(step=UnitStep(radius=0.5)),
    )
    scores_QN = np.array([scores_N for _, scores_N in ranked])
    np.testing.assert_allclose(found["signed"], scores_QN.sum(0))
    np.testing.assert_allclose(found["absolute"], np.abs(scores_QN).sum(0))
    np.testing.assert_allclose(found["positive"], scores_QN.clip(0).sum(0))
    assert found["order"].tolist() == order(scores_QN.sum(0), [f"{row:09d}" for row in range(24)]).tolist()
    assert (found["rank_low"] <= found["rank"]).all()
    assert (found["rank"] <= found["rank_high"]).all()
    assert int(found["queries"]) == len(queries)
    printed = capsys.readouterr().out
    assert "Samples that harm most" in printed
    assert f"24 samples over {len(queries)} confusions" in printed


def test_by_a_column_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"s{row},{'vendor-b' if row % 6 == 0 else 'vendor-a'}\n" for row in range(24))
    (tmp_path / "rows.csv").write_text("id,source\n" + rows)
    assert harm(tmp_path, "--columns", str(tmp_path / "rows.csv"), "--by", "source") == 0
    printed = capsys.readouterr().out
    assert "by source" in printed
    assert {"vendor-a", "vendor-b"} <= set(printed.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "source"], "--by 'source' is a column of --columns"),
        (["--columns", "rows.csv"], "has 1 rows, but the case has 24 training samples"),
        (["--columns", "whole.csv", "--by", "source"], "has no column 'source'; it has id"),
        (["--columns", "none.csv"], "none.csv: cannot be read as a CSV table"),
        (["--replicates", "-1"], "replicates must be at least 0"),
        (["--radius", "-1"], "radius must be above 0"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "rows.csv").write_text("id\na\n")
    (tmp_path / "whole.csv").write_text("id\n" + "a\n" * 24)
    named = [str(tmp_path / option) if option.endswith(".csv") else option for option in options]
    assert harm(tmp_path, *named) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_threads_do_not_change_what_is_written(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        written = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert harm(tmp_path) == 0
            written.append(dict(np.load(tmp_path / "out.npz")))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(written[0][name], written[1][name]) for name in written[0])
