from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eif_engine.audit_figures import FIGURES
from services.influence.worker.report import ReportSource, write_report
from services.influence.worker.report.key_figures import CARDS, key_cards, other_cards, write_figure
from services.influence.worker.report.limits import MAX_FILE_BYTES, MAX_ROW_BYTES
from services.influence.worker.report.next_steps import next_steps
from services.influence.worker.report.payload import make_payload, script_json
from tests.report_full import HOSTILE, full_source, full_tables
from tests.report_sources import CREATED, JOB, Album, large_source, make_table


def written(source: ReportSource, folder: Path) -> str:
    path = folder / "report.html"
    write_report(path, source)
    return path.read_text(encoding="utf-8")


def embedded(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_it_needs_no_network(tmp_path: Path) -> None:
    page = written(full_source(), tmp_path)
    markup = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert not re.findall(r"<link|@import|url\(|\bsrc=\"(?!data:)|fetch\(|XMLHttpRequest|WebSocket", markup)
    assert set(re.findall(r"https?://[^\"' ]*", markup)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_the_policy_lets_only_its_own_style_and_program_run(tmp_path: Path) -> None:
    page = written(full_source(), tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    for element in ("style", "script"):
        inline = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline]
        assert len(inline) == 1
        assert f"{element}-src &#39;sha256-{digests[0]}&#39;" in policy[1]
    assert not re.search(r'\sstyle="|\son\w+="', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))


def test_data_cannot_end_its_script() -> None:
    text = script_json({"<": list(HOSTILE), "n": [None, 1.5]})
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"<": list(HOSTILE), "n": [None, 1.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_hostile_text_is_escaped_and_whole(tmp_path: Path) -> None:
    page = written(full_source(), tmp_path)
    for hostile in HOSTILE[:2]:
        assert hostile not in page
    data = embedded(page, "data")
    assert set(HOSTILE) <= set(data["labels"])
    assert set(HOSTILE) <= {sample[0] for sample in data["samples"]}
    assert len(embedded(page, "pictures")["samples"]) == len(data["samples"])


def test_the_same_source_gives_the_same_file(tmp_path: Path) -> None:
    assert written(full_source(), tmp_path) == written(full_source(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_parquet_files_give_the_same_page_as_tables_in_memory(tmp_path: Path) -> None:
    tables = full_tables(HOSTILE, HOSTILE)
    paths = {name: tmp_path / f"{name}.parquet" for name in tables}
    for name, path in paths.items():
        pq.write_table(tables[name], path)
    assert written(replace(full_source(), tables=paths), tmp_path) == written(full_source(), tmp_path)


def test_a_failed_page_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken(_keys: object) -> dict[tuple[str, str], bytes]:
        raise RuntimeError("the store is gone")

    with pytest.raises(RuntimeError, match="the store is gone"):
        write_report(tmp_path / "report.html", replace(full_source(), thumbnails=broken))
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_bounded_however_large_the_pictures_are(tmp_path: Path) -> None:
    class Heavy(Album):
        def __call__(self, keys: Any) -> Any:
            return dict.fromkeys(keys, b"\xff" * 11_000)

    page = written(large_source(findings=2000, album=Heavy()), tmp_path)
    assert MAX_FILE_BYTES * 0.98 < len(page.encode()) < MAX_FILE_BYTES
    assert len(embedded(page, "pictures")["samples"]) > 800


def test_long_labels_mean_fewer_rows_not_a_larger_file(tmp_path: Path) -> None:
    rows = [
        {
            "finding_id": f"outlier:train:{place}",
            "kind": "outlier",
            "sample_id": f"{place} {'i' * 1000}",
            "other_id": "",
            "label": f"{place} {'<' * 1000}",
            "other_label": "",
            "severity": 0.5,
            "summary": "far",
        }
        for place in range(3000)
    ]
    source = ReportSource(job=JOB, created=CREATED, tables={"findings": make_table("findings", rows)})
    payload = make_payload(source)
    assert len(payload.text) < MAX_ROW_BYTES
    assert 100 < len(payload.sections["findings"].rows) < 3000
    assert f"{len(payload.sections['findings'].rows):,} of 3,000 are shown here" in written(source, tmp_path)


def test_explanations_are_bounded_and_leave_room_for_thumbnails(tmp_path: Path) -> None:
    pair = (HOSTILE[0], HOSTILE[1])
    source = replace(full_source(), explanations={pair: b"x" * 3_000_000, ("nobody", "else"): b"y"})
    page = written(source, tmp_path)
    pictures = embedded(page, "pictures")
    assert [len(entry[2]) for entry in pictures["pairs"]] == [4_000_000]
    assert len(pictures["samples"]) == len(embedded(page, "data")["samples"])
    too_large = replace(full_source(), explanations={pair: b"x" * 4_300_000})
    assert embedded(written(too_large, tmp_path), "pictures")["pairs"] == []


def test_every_figure_of_an_audit_is_shown_once() -> None:
    figures = dict.fromkeys([*FIGURES, "recall_at_8", "of_tomorrow"], 1.0)
    cards = [*key_cards(figures, {}), *other_cards(figures, {})]
    assert sorted(card.name for card in cards) == sorted(figures)
    assert set(CARDS) <= set(FIGURES)
    assert all(card.meaning for card in cards if card.name != "of_tomorrow")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("recall_at_8", 0.9349, "93.5 %"),
        ("confusion_pairs", 12345.0, "12,345"),
        ("proof_recall_gain", 0.0203, "+0.0203"),
        ("of_tomorrow", 0.123456, "0.1235"),
    ],
)
def test_figures_are_written_for_people(name: str, value: float, text: str) -> None:
    assert write_figure(name, value) == text


@pytest.mark.parametrize(
    ("name", "value", "previous", "change", "mood"),
    [
        ("recall_at_1", 0.7, 0.65, "+5.0 points", "better"),
        ("recall_at_1", 0.6, 0.65, "\u22125.0 points", "worse"),
        ("confusion_pairs", 7.0, 9.0, "\u22122", "better"),
        ("leaks", 1.0, 0.0, "+1", "worse"),
        ("harm_of_top_percent", 0.2, 0.1, "+10.0 points", ""),
        ("outliers", 3.0, 3.0, "", ""),
    ],
)
def test_a_card_says_whether_it_got_better(name: str, value: float, previous: float, change: str, mood: str) -> None:
    (card,) = key_cards({name: value}, {name: previous})
    assert (card.change, card.mood) == (change, mood)
    assert card.arrow == ("" if not change else "up" if value > previous else "down")


def test_there_is_nothing_to_do_where_nothing_was_found() -> None:
    assert next_steps({"leaks": 0.0, "recall_at_1": 1.0}) == []
    (step,) = next_steps({"label_issues": 1.0, "canary_precision": 0.914})
    assert step.text == "Review 1 training label"
    assert step.why.startswith("about 91 in 100")


def test_steps_lead_to_sections_that_are_there(tmp_path: Path) -> None:
    page = written(full_source(), tmp_path)
    steps = next_steps(dict.fromkeys(FIGURES, 2.0))
    assert len(steps) == 7
    assert {step.section for step in steps} <= set(re.findall(r'<section id="([^"]+)"', page))
    assert set(re.findall(r'<li><a href="#([^"]+)"', page)) >= set(re.findall(r'<section id="([^"]+)"', page))


def test_the_verdict_has_its_place_only_when_it_is_known(tmp_path: Path) -> None:
    assert '<div class="verdict' not in written(replace(full_source(), verdict=None), tmp_path)
    assert '<div class="verdict fail"' in written(full_source(), tmp_path)


def test_ids_in_both_splits_are_two_samples(tmp_path: Path) -> None:
    ids = [f"id{place}" for place in range(7)]
    source = replace(full_source(ids, ids), tables=full_tables(ids, ids))
    samples = embedded(written(source, tmp_path), "data")["samples"]
    assert sum(sample[0] == "id0" for sample in samples) == 2
