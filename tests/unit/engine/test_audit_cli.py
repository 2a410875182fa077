from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eif_engine.__main__ import main
from eif_engine.audit_tables import AUDIT_SCHEMAS
from tests.audits import World, world


def write_case(path: Path, known: World) -> Path:
    np.savez(
        path,
        train_features=known.train.features_NF.numpy(),
        test_features=known.test.features_NF.numpy(),
        head_weight=known.model.head.weight_DF.numpy(),
        proxies=known.model.loss.proxies_CD.numpy(),  # type: ignore[attr-defined]  # the world's loss has proxies
        train_labels=np.array([int(label[1:]) for label in known.train.labels]),
        test_labels=np.array(known.test.labels),
        train_ids=np.array(known.train.sample_ids),
        test_ids=np.array(known.test.sample_ids),
        meta=np.array(json.dumps({"loss": "proxy_nca", "scale": 3.0})),
    )
    return path


def audit(tmp_path: Path, *options: str) -> int:
    case = write_case(tmp_path / "case.npz", world())
    return main(["audit", str(case), "--out", str(tmp_path / "out"), *options])


def test_tables_and_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = tmp_path / "columns.csv"
    columns.write_text("source,batch\n" + "".join(f"{'ab'[row % 2]},{row % 3}\n" for row in range(160)))
    assert audit(tmp_path, "--columns", str(columns), "--proofs", "1", "--top-k", "4") == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "figures.json",
        *(f"{name}.parquet" for name in (*AUDIT_SCHEMAS, "ranking", "pairs")),
    }
    for name, schema in AUDIT_SCHEMAS.items():
        assert pq.read_table(out / f"{name}.parquet").schema.equals(schema), name
    figures = json.loads((out / "figures.json").read_text())
    assert figures["figures"]["train_samples"] == 160
    assert figures["missing"] == []
    rollups = pq.read_table(out / "rollups.parquet").to_pydict()
    assert set(zip(rollups["column"], rollups["value"], strict=True)) == {
        *(("source", value) for value in "ab"),
        *(("batch", value) for value in "012"),
    }
    ranking = pq.read_table(out / "ranking.parquet").to_pydict()
    assert ranking["query_id"][:160] == ["all"] * 160
    assert ranking["query_id"].count(ranking["query_id"][-1]) == 8
    printed = capsys.readouterr().out
    assert "recall_at_1" in printed
    assert "16 tables" in printed


def test_embeddings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "--embeddings") == 0
    assert capsys.readouterr().out.count("missing: ") == 3
    assert pq.read_table(tmp_path / "out" / "ranking.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "out" / "issues.parquet").num_rows == 160


@pytest.mark.parametrize(
    ("text", "said"),
    [("source\na\n", "has 1 rows"), ("source,batch\n" + "a\n" * 160, "row 2 has 1 fields"), ("", "CSV table")],
)
def test_columns_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    columns = tmp_path / "columns.csv"
    columns.write_text(text)
    assert audit(tmp_path, "--columns", str(columns)) == 1
    assert said in capsys.readouterr().err


def test_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "--top-k", "0") == 1
    assert "top_k must be at least 1" in capsys.readouterr().err
