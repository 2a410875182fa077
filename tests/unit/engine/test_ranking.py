from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eif_engine.jobs.ranking import RankingOrder

SCORES = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-30]), min_size=1, max_size=12)
IDS = st.lists(st.text(alphabet="abé\U0001f600Z9_", min_size=1, max_size=4), min_size=12, max_size=12, unique=True)


@given(scores=SCORES, ids=IDS, count=st.integers(1, 15))
def test_it_is_the_order_of_scores_and_then_ids_and_its_ends(scores: list[float], ids: list[str], count: int) -> None:
    scores_N = np.array(scores, dtype=np.float32)
    sample_ids = ids[: len(scores)]
    expected = sorted(range(len(scores)), key=lambda row: (-scores_N[row], sample_ids[row]))
    ranking = RankingOrder(sample_ids)
    assert ranking.all(scores_N).tolist() == expected
    rows, ranks = ranking.ends(scores_N, count)
    total = len(scores)
    wanted = range(total) if 2 * count >= total else [*range(count), *range(total - count, total)]
    assert rows.tolist() == [expected[place] for place in wanted]
    assert ranks.tolist() == [place + 1 for place in wanted]
