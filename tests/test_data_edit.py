"""Claims about `dsd data filter | split | merge`: rows pass as they are, sums are exact, results are datasets."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import audit_parts as parts
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_parts import Rows, rewrite, said

from dsd.audit import selecting
from dsd.audit.check import check_dataset
from dsd.audit.edit import filter_dataset, merge_datasets, split_dataset
from dsd.audit.where import condition
from dsd.curate.diversity import diversity_of
from dsd.curate.pairs import BELOW, DIFFERENT, NO_SCORE
from dsd.curate.pipeline import curate
from dsd.data.rows import SINCE_2, Kind
from dsd.data.sources import open_source
from dsd.data.store import FUNNEL, MANIFEST, DatasetReader, read_shard
from dsd.errors import UserError
from dsd.places import Place, Where

KINDS: tuple[Kind, ...] = ("grids", "pairs", "rejects", "films")


def _scored(rows: Rows) -> None:
    """Scores that go down from one candidate to the next, the same in both orders, and none for the last."""
    places: dict[frozenset[str], int] = {}
    for row in rows:
        at = places.setdefault(frozenset((row["reference_panel"], row["target_panel"])), len(places))
        row["score"] = round(0.95 - 0.1 * (at % 6), 2)
    last = {rows[-1]["reference_panel"], rows[-1]["target_panel"]}
    for row in rows:
        if {row["reference_panel"], row["target_panel"]} == last:
            row["score"] = None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = parts.curated(tmp_path_factory.mktemp("finished") / "dataset")
    for number in range(3):
        rewrite(folder, "pairs", _scored, number)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same captions, with other sheets."""
    return parts.curated(tmp_path_factory.mktemp("other") / "dataset", seed=7)


def rows_of(folder: Where, kind: Kind) -> Rows:
    return [
        row
        for shard in DatasetReader(folder).manifest.of(kind)
        for row in read_shard(Place.of(folder) / shard.path, dict)
    ]


def candidates(folder: Where) -> Iterator[tuple[dict[str, Any], bool]]:
    """Every kept row, and every reject."""
    yield from ((row, True) for row in rows_of(folder, "pairs"))
    yield from ((row, False) for row in rows_of(folder, "rejects"))


def require_sound(folder: Where) -> dict[str, Any]:
    """A dataset that an audit finds nothing wrong with and training reads; its funnel."""
    findings, _ = check_dataset(folder)
    assert not [finding.line() for finding in findings if finding.level == "wrong"]
    reader = DatasetReader(folder)
    reader.verify()
    assert len(list(open_source(str(folder)).examples())) == len(reader)
    return reader.funnel()


def by_id(folder: Where, kind: Kind) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows_of(folder, kind)}


def require_taken_from(part: Where, whole: Where) -> None:
    """Every row is that of the whole, with the very bytes of its pictures."""
    for kind in KINDS:
        rows = by_id(whole, kind)
        for identity, row in by_id(part, kind).items():
            assert row == rows[identity]


def test_a_score_keeps_what_has_it_and_every_picture_as_it_is(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(capsys, "filter", finished, "--where", "score >= 0.8", "--out", tmp_path / "o")
    assert status == 0 and "left out" in err
    expected = {row["id"] for row in rows_of(finished, "pairs") if (row["score"] or 0) >= 0.8}
    assert set(by_id(tmp_path / "o", "pairs")) == expected and expected
    assert not rows_of(tmp_path / "o", "rejects")
    require_taken_from(tmp_path / "o", finished)
    funnel = require_sound(tmp_path / "o")
    sheets = {row["grid"] for row in rows_of(tmp_path / "o", "pairs")}
    assert set(by_id(tmp_path / "o", "grids")) == sheets
    assert (funnel["sheets"], funnel["candidates"]) == (len(sheets), 6 * len(sheets))
    assert (funnel["pairs"], funnel["kept"]) == (len(expected), len(expected) // 2)
    assert funnel["left_out"] == {"unless score >= 0.8": 6 * len(sheets) - len(expected) // 2}
    place, manifest = Place.of(tmp_path / "o"), DatasetReader(tmp_path / "o").manifest
    assert funnel["diversity"] == diversity_of(place, manifest.shards)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("outcome = kept", lambda row, kept: kept),
        ("same", lambda row, kept: kept),
        ("not same", lambda row, kept: row.get("reason") == DIFFERENT),
        ("same = FALSE", lambda row, kept: row.get("reason") == DIFFERENT),
        (f"reason = '{DIFFERENT}'", lambda row, kept: row.get("reason") == DIFFERENT),
        (f"reason = {DIFFERENT}", lambda row, kept: row.get("reason") == DIFFERENT),
        ("reason = ''", lambda row, kept: kept),
        ("score is null", lambda row, kept: row["score"] is None),
        ("score is not null and not (score < 0.7 or score > 0.9)", lambda row, kept: 0.7 <= (row["score"] or 0) <= 0.9),
        ("score<0.7 or outcome!=kept", lambda row, kept: not kept or (row["score"] or 1) < 0.7),
        ("score in (0.95, 0.75)", lambda row, kept: row["score"] in (0.95, 0.75)),
        ("target_caption contains 'CAT OF A'", lambda row, kept: "cat of a" in row["target_caption"]),
        ("votes_same >= 1", lambda row, kept: (row["votes_same"] or 0) >= 1),
    ],
)
def test_a_condition_takes_the_rows_of_which_it_holds(where: str, holds: Any, finished: Path, tmp_path: Path) -> None:
    expected = {row["id"] for row, kept in candidates(finished) if holds(row, kept)}
    if not expected:
        with pytest.raises(UserError, match="no row is left after filter"):
            filter_dataset(finished, where, tmp_path / "o")
        assert not list(tmp_path.iterdir())
        return
    filter_dataset(finished, where, tmp_path / "o")
    assert {row["id"] for row, _ in candidates(tmp_path / "o")} == expected
    require_taken_from(tmp_path / "o", finished)
    require_sound(tmp_path / "o")


def test_a_subject_is_filtered_by(finished: Path, tmp_path: Path) -> None:
    subject = rows_of(finished, "grids")[0]["subject"]
    grids = {row["id"] for row in rows_of(finished, "grids") if row["subject"] == subject}
    filter_dataset(finished, f"grid in ({', '.join(grids)})", tmp_path / "o")
    assert set(by_id(tmp_path / "o", "grids")) == grids
    require_sound(tmp_path / "o")


def test_what_was_below_min_score_was_judged_the_same(finished: Path, tmp_path: Path) -> None:
    folder = parts.copied(finished, tmp_path / "dataset")
    rewrite(
        folder,
        "rejects",
        lambda rows: [row.update(reason=reason) for row, reason in zip(rows, (BELOW, NO_SCORE), strict=False)],
    )
    reasons = Counter(row["reason"] for row in rows_of(folder, "rejects"))
    parts.edit_json(folder / FUNNEL, lambda funnel: funnel.update(rejected=dict(reasons)))
    filter_dataset(folder, "same and outcome != kept", tmp_path / "o")
    assert {row["reason"] for row in rows_of(tmp_path / "o", "rejects")} == {BELOW, NO_SCORE}


def test_one_order_of_a_pair_may_be_taken_alone(finished: Path, tmp_path: Path) -> None:
    one = rows_of(finished, "pairs")[0]
    filter_dataset(finished, f"id = {one['id']}", tmp_path / "o")
    funnel = require_sound(tmp_path / "o")
    assert (funnel["kept"], funnel["pairs"]) == (1, 1) and rows_of(tmp_path / "o", "pairs") == [one]


def test_a_filter_of_a_filter_tells_of_both(finished: Path, tmp_path: Path) -> None:
    filter_dataset(finished, "score >= 0.6", tmp_path / "a")
    filter_dataset(tmp_path / "a", "score >= 0.8", tmp_path / "b")
    filter_dataset(finished, "score >= 0.8", tmp_path / "c")
    assert rows_of(tmp_path / "b", "pairs") == rows_of(tmp_path / "c", "pairs")
    funnel = require_sound(tmp_path / "b")
    assert set(funnel["left_out"]) == {"unless score >= 0.8", selecting.EARLIER}
    assert sum(funnel["left_out"].values()) == sum(require_sound(tmp_path / "c")["left_out"].values())
    made = DatasetReader(tmp_path / "b").manifest.recipe["made_from"]
    assert made["where"] == "score >= 0.8" and made["of"][0]["recipe"]["made_from"]["where"] == "score >= 0.6"


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("scroe >= 0.8", 'did you mean "score"?'),
        ("Subject = cat", 'did you mean "subject"?'),
        ("reference = x", "no column of the pairs and rejects"),
        ("", "ends where the name of a column must be"),
        ("score", 'says nothing of "score", which holds numbers'),
        ("score >=", "ends where a value"),
        ("score >= high", 'compares "score", which holds numbers, with "high"'),
        ("votes_same = 1.5", "give whole numbers"),
        ("same = perhaps", "give true or false"),
        ("score contains 1", 'asks what "score" contains'),
        ("score ~ 1", "there must be one of"),
        ("score >= 0.8 subject = a", "numbers"),
        ("(score >= 0.8", 'has its end where ")" must be'),
        ("score >= 0.8)", 'goes on with ")"'),
        ("subject = 'cat", "cannot be read from"),
        ("score in 0.8", 'where "(" must be'),
        ("score in ()", "where a value"),
        ("score is 0.8", 'where "null" must be'),
        ("not", "ends where the name of a column must be"),
        ("(" * 60 + "same" + ")" * 60, "nested more than 50 times"),
        ("not " * 3000 + "same", "nested more than 50 times"),
        ("score >= \ud800", "Unicode"),
        ("votes_same = 99999999999999999999", "votes_same"),
        ("score = nan", "nan"),
    ],
)
def test_a_condition_that_cannot_be_read_is_one_sentence(
    where: str, sentence: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        filter_dataset(finished, where, tmp_path / "o")
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_values_are_never_run() -> None:
    columns = {"subject": pa.string(), "score": pa.float64()}
    table = pa.table({"subject": ['a "b" or \\', "__import__('os')"], "score": [0.5, 1e-3]})
    for where, expected in (
        (r'subject = "a \"b\" or \\"', [0]),
        ("subject = \"__import__('os')\"", [1]),
        ("score <= 1e-3", [1]),
        ("score >= -1 and score > .2", [0]),
    ):
        found = table.append_column("row", pa.array([0, 1])).filter(condition(where, columns))
        assert found["row"].to_pylist() == expected, where


@pytest.mark.parametrize("by", ["subject", "grid"])
def test_a_split_shares_nothing_and_loses_nothing(by: Any, finished: Path, tmp_path: Path) -> None:
    split_dataset(finished, 0.3, by, tmp_path / "o")
    sides = [tmp_path / "o" / side for side in ("train", "validation")]
    funnels = [require_sound(side) for side in sides]
    for kind in KINDS:
        both = [by_id(side, kind) for side in sides]
        assert not both[0].keys() & both[1].keys()
        assert both[0] | both[1] == by_id(finished, kind)
    named = [{row["subject"] if by == "subject" else row["id"] for row in rows_of(side, "grids")} for side in sides]
    assert not named[0] & named[1]
    assert all(funnel["pairs"] for funnel in funnels) and funnels[0]["sheets"] > funnels[1]["sheets"]
    whole = parts.funnel_of(finished)
    for name in ("captions", "sheets", "candidates", "kept", "pairs"):
        assert sum(funnel[name] for funnel in funnels) == whole[name]


def test_one_subject_in_other_words_stays_on_one_side(finished: Path, tmp_path: Path) -> None:
    folder = parts.copied(finished, tmp_path / "dataset")
    said = iter(["a red cat", "The Red  Cat!", "red cat"] + [f"dog {number}" for number in range(9)])
    for number in range(3):
        rewrite(folder, "grids", lambda rows: [row.update(subject=next(said)) for row in rows], number)
    for validation in (0.2, 0.4, 0.6):
        split_dataset(folder, validation, "subject", tmp_path / f"{validation}")
        sides = [rows_of(tmp_path / f"{validation}" / side, "grids") for side in ("train", "validation")]
        assert sorted(sum("cat" in row["subject"].lower() for row in side) for side in sides) == [0, 3]


def test_sides_do_not_depend_on_what_else_there_is(finished: Path, other: Path, tmp_path: Path) -> None:
    split_dataset(finished, 0.5, "grid", tmp_path / "a")
    merge_datasets([finished, other], tmp_path / "both")
    split_dataset(tmp_path / "both", 0.5, "grid", tmp_path / "b")
    first, second = (by_id(tmp_path / name / "validation", "grids") for name in ("a", "b"))
    assert first.keys() <= second.keys() or second.keys() & by_id(finished, "grids").keys() <= first.keys()


def test_too_little_to_split_is_told(finished: Path, tmp_path: Path) -> None:
    one = rows_of(finished, "pairs")[0]["grid"]
    filter_dataset(finished, f"grid = {one}", tmp_path / "one")
    with pytest.raises(UserError, match="examples of 1 subject, but two sides need two; give --by grid"):
        split_dataset(tmp_path / "one", 0.5, "subject", tmp_path / "o")
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="must be a share between 0 and 1"):
            split_dataset(finished, share, "subject", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_merge_has_every_row_once(finished: Path, other: Path, tmp_path: Path) -> None:
    merge_datasets([finished, other, finished], tmp_path / "o")
    for kind in KINDS:
        assert by_id(tmp_path / "o", kind) == by_id(finished, kind) | by_id(other, kind)
    funnel, (one, two) = require_sound(tmp_path / "o"), map(parts.funnel_of, (finished, other))
    for name in ("captions", "sheets", "candidates", "kept", "pairs"):
        assert funnel[name] == one[name] + two[name]
    assert funnel["diversity"]["grid prompts"] == one["captions"] + two["captions"]
    recipe = DatasetReader(tmp_path / "o").manifest.recipe
    assert "seed" not in recipe and recipe["steps"] == 2 and len(recipe["made_from"]["of"]) == 3


def test_what_was_split_is_merged_to_what_it_was(finished: Path, tmp_path: Path) -> None:
    split_dataset(finished, 0.4, "subject", tmp_path / "split")
    merge_datasets([tmp_path / "split" / "validation", tmp_path / "split" / "train"], tmp_path / "o")
    for kind in KINDS:
        assert by_id(tmp_path / "o", kind) == by_id(finished, kind)
    funnel, before = require_sound(tmp_path / "o"), parts.funnel_of(finished)
    assert {name: funnel[name] for name in funnel if name != "captions_skipped"} == {
        name: before[name] for name in before if name != "captions_skipped"
    }


def test_datasets_that_contradict_each_other_are_not_merged(finished: Path, tmp_path: Path) -> None:
    judged = parts.copied(finished, tmp_path / "judged")
    rewrite(judged, "pairs", lambda rows: rows[0].update(subject="a dog"))
    with pytest.raises(UserError, match=f"both hold {rows_of(judged, 'pairs')[0]['id']}, but say different things"):
        merge_datasets([finished, judged], tmp_path / "o")
    twice = parts.copied(finished, tmp_path / "twice")
    identity = rows_of(finished, "rejects")[0]["id"]
    rewrite(twice, "pairs", lambda rows: rows[0].update(id=identity))
    with pytest.raises(UserError, match="say different things"):
        merge_datasets([finished, twice], tmp_path / "o")


def _as_version_1(folder: Path) -> None:
    """As it would have been written before there were scores."""

    def old(content: dict[str, Any]) -> None:
        content["schema_version"] = 1
        for shard in content["shards"]:
            path = folder / shard["path"]
            table = pq.read_table(path)
            pq.write_table(table.drop_columns([name for name in SINCE_2 if name in table.column_names]), path)
            shard["sha256"] = Place.of(path).sha256()

    parts.edit_json(folder / MANIFEST, old)


def test_versions_do_not_mix_and_an_old_one_stays_what_it_is(finished: Path, other: Path, tmp_path: Path) -> None:
    old = parts.copied(finished, tmp_path / "old")
    _as_version_1(old)
    require_sound(old)
    with pytest.raises(UserError, match=r"has schema version 2, but .* has 1"):
        merge_datasets([other, old], tmp_path / "o")
    with pytest.raises(UserError, match='"score", which is no column'):
        filter_dataset(old, "score > 0.5", tmp_path / "o")
    filter_dataset(old, "outcome = kept", tmp_path / "o")
    require_sound(tmp_path / "o")
    assert DatasetReader(tmp_path / "o").manifest.schema_version == 1
    loaded = datasets.load_dataset(str(tmp_path / "o"), cache_dir=str(tmp_path / "cache"), split="train")
    assert isinstance(loaded, datasets.Dataset) and len(loaded) == len(rows_of(finished, "pairs"))


@pytest.mark.parametrize(
    ("name", "value", "said"), [("task", "swap", "task"), ("targets", 2, "references and targets")]
)
def test_other_tasks_and_frames_are_not_merged(
    name: str, value: Any, said: str, finished: Path, other: Path, tmp_path: Path
) -> None:
    changed = parts.copied(other, tmp_path / "changed")
    parts.edit_json(changed / MANIFEST, lambda content: content["recipe"].update({name: value}))
    with pytest.raises(UserError, match=f"has {said} "):
        merge_datasets([finished, changed], tmp_path / "o")


def test_films_are_taken_where_all_of_their_pairs_are(tmp_path: Path) -> None:
    folder = parts.curated(tmp_path / "films", targets=2)
    films = rows_of(folder, "films")
    assert films
    one = films[0]
    filter_dataset(folder, f"grid = {one['grid']}", tmp_path / "all")
    assert by_id(tmp_path / "all", "films").keys() == {row["id"] for row in films if row["grid"] == one["grid"]}
    require_taken_from(tmp_path / "all", folder)
    assert require_sound(tmp_path / "all")["films"] == len(rows_of(tmp_path / "all", "films"))
    two = [one["reference_panels"][0], one["target_panels"][0]]
    pair = next(row for row in rows_of(folder, "pairs") if [row["reference_panel"], row["target_panel"]] == two)
    filter_dataset(folder, f"id = {pair['id']}", tmp_path / "one")
    assert require_sound(tmp_path / "one")["films"] == 0 and not rows_of(tmp_path / "one", "films")


def test_a_result_opens_as_a_dataset_of_the_library(finished: Path, tmp_path: Path) -> None:
    filter_dataset(finished, "score >= 0.7 or not same", tmp_path / "o")
    kinds: tuple[Kind, ...] = ("pairs", "rejects", "grids")
    for kind in kinds:
        name = None if kind == "pairs" else kind
        loaded = datasets.load_dataset(str(tmp_path / "o"), name, cache_dir=str(tmp_path / "cache"), split="train")
        assert isinstance(loaded, datasets.Dataset) and len(loaded) == len(rows_of(tmp_path / "o", kind))
        picture = loaded[0]["image" if kind == "grids" else "target"]
        assert picture.size == ((64, 64) if kind == "grids" else (32, 32))


def test_large_files_are_ended_and_the_next_begun(
    finished: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selecting, "MOST_BYTES", 1)
    monkeypatch.setattr(selecting, "ROW_GROUP", 8)
    merge_datasets([finished, other], tmp_path / "o")
    files = [len(DatasetReader(folder).manifest.of("pairs")) for folder in (tmp_path / "o", finished, other)]
    assert files[0] >= files[1] + files[2]
    require_sound(tmp_path / "o")


def test_equal_work_gives_equal_bytes(finished: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        filter_dataset(finished, "score >= 0.7", tmp_path / name)
    files = [
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("a", "b")
    ]
    assert files[0] == files[1] and len(files[0]) >= 5


def test_datasets_elsewhere_are_edited_like_those_here(finished: Path, tmp_path: Path) -> None:
    address = f"memory://{uuid.uuid4().hex}"
    place = parts.to_memory(finished, f"{address}/dataset")
    filter_dataset(place, "score >= 0.7", f"{address}/filtered")
    filter_dataset(finished, "score >= 0.7", tmp_path / "o")
    for shard in DatasetReader(tmp_path / "o").manifest.shards:
        assert (Place.of(address) / f"filtered/{shard.path}").read_bytes() == (tmp_path / "o" / shard.path).read_bytes()
    require_sound(f"{address}/filtered")
    split_dataset(place, 0.4, "subject", f"{address}/split")
    merge_datasets([f"{address}/split/train", f"{address}/split/validation"], f"{address}/merged")
    require_sound(f"{address}/merged")
    assert not (Place.of(address) / "split/.lock").exists()
    for out, sentence in ((f"{address}/filtered", "is not empty"), (f"{address}/dataset/x", "lies in")):
        with pytest.raises(UserError, match=sentence):
            filter_dataset(place, "same", out)


def test_nothing_is_lost_where_something_lies(finished: Path, other: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    before = sorted(finished.rglob("*"))
    for out, sentence in (
        (tmp_path / "taken", "would be lost"),
        (other, "would be lost"),
        (finished, "is, contains or lies in"),
        (finished / "pairs" / "x", "is, contains or lies in"),
        (finished.parent, "is, contains or lies in"),
    ):
        with pytest.raises(UserError, match=sentence):
            filter_dataset(finished, "same", out)
        with pytest.raises(UserError, match=sentence):
            split_dataset(finished, 0.5, "grid", out)
        with pytest.raises(UserError, match=sentence):
            merge_datasets([finished, finished], out)
    assert sorted(finished.rglob("*")) == before


def test_what_cannot_be_edited_is_told(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="give at least two"):
        merge_datasets([finished], tmp_path / "o")
    unfinished = parts.copied(finished, tmp_path / "unfinished")
    (unfinished / MANIFEST).unlink()
    damaged = parts.copied(finished, tmp_path / "damaged")
    (damaged / "pairs/00001.parquet").write_bytes(b"PAR1")
    unsummed = parts.copied(finished, tmp_path / "unsummed")
    (unsummed / FUNNEL).write_text("{")
    doubled = parts.copied(finished, tmp_path / "doubled")
    rewrite(doubled, "rejects", lambda rows: rows.append({**rows[0], "id": "f" * 16}))
    for folder, sentence in (
        (unfinished, "no finished dataset"),
        (damaged, "not what the manifest says"),
        (unsummed, 'funnel.json" is damaged'),
        (doubled, "candidates more than their sheets have"),
        (tmp_path / "nowhere", "no finished dataset"),
    ):
        status, _, err = said(capsys, "filter", folder, "--where", "not same or same", "--out", tmp_path / "o")
        assert status == 2 and sentence in err and "Traceback" not in err, err
    assert not (tmp_path / "o").exists() and not list(tmp_path.glob(".*"))


def test_a_result_is_no_folder_to_curate_in(finished: Path, tmp_path: Path) -> None:
    import curation_parts

    filter_dataset(finished, "same", tmp_path / "o")
    captions = curation_parts.write_captions(tmp_path / "captions.parquet")
    with pytest.raises(UserError, match="made elsewhere"):
        curate(curation_parts.config(captions, "openai:test@http://127.0.0.1:1/v1"), tmp_path / "o")


def test_a_dry_run_says_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("merge", "a", "b", "--out", "o"),
        ("filter", "a", "--where", "same", "--out", "o"),
        ("split", "a", "--out", "o"),
        ("check", "a"),
        ("show", "a", "--out", "o.html"),
    ):
        status, out, err = said(capsys, *words, "--dry-run")
        assert status == 0 and json.loads(out)["dry_run"] is True and err.startswith("plan: ")
