"""Claims about votes, scores and what is made of them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny

from dsd.data.records import Model, Pair, Reject, Votes
from dsd.data.rows import SINCE_2, to_pair, to_parquet
from dsd.data.store import DatasetReader, DatasetWriter

JUDGE = Model(name="vlm", revision="1", template="compact/judge 3")


def pair(**more: object) -> Pair:
    return Pair(
        id="p", grid="g", reference_panel="a", target_panel="b", reference=tiny.picture(seed=1),
        target=tiny.picture(seed=2), reference_caption="a cat", target_caption="a cat at sea", subject="cat",
        first_details="red", second_details="red", comparison="same colour", judge=JUDGE, **more,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


SCORED = pair(score=0.75, agreement=2 / 3, votes=Votes(same=2, other=1, failed=1))


@pytest.mark.parametrize("one", [pair(), SCORED, replace(SCORED, score=None, agreement=None)])
def test_scores_and_votes_come_back_from_a_file(one: Pair) -> None:
    rows = pq.read_table(io.BytesIO(to_parquet("pairs", [one]))).to_pylist()
    found = to_pair(rows[0])
    assert (found.score, found.agreement, found.votes) == (one.score, one.agreement, one.votes)


def test_a_dataset_of_before_scores_is_read_without_them(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path)
    reject = Reject(pair=SCORED, outcome="rejected", reason="not the same individual")
    shards = [writer.write_shard("pairs", 0, [SCORED]), writer.write_shard("rejects", 0, [reject])]
    writer.finish(shards, {}, {})
    for shard in shards:
        path = tmp_path / shard.path
        pq.write_table(pq.read_table(path).drop_columns(list(SINCE_2)), path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 1}))
    reader = DatasetReader(tmp_path)
    for found in (*reader.pairs(), *(reject.pair for reject in reader.rejects())):
        assert (found.score, found.agreement, found.votes) == (None, None, None)
        assert found.first_details == "red"
