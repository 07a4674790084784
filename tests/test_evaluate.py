from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from evaluation_parts import QUALITIES, agreement_encoder, identity_encoder
from PIL import Image

from dsd.backbones.adapter import save_adapter
from dsd.backbones.flux.backbone import FluxBackbone
from dsd.baselines.copy import CopyReference
from dsd.baselines.dsd_method import TwoFrameStudent
from dsd.baselines.protocol import Request, SubjectMethod
from dsd.baselines.text_only import TextOnly
from dsd.encoders import ImageEncoder
from dsd.errors import UserError
from dsd.evaluate import pictures, tables
from dsd.evaluate.agreement import Agreement, JudgedPair, agreement
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.claims import Claim, examine
from dsd.evaluate.compare import Competitor, compare, drawn
from dsd.evaluate.config import EvaluateConfig
from dsd.evaluate.scores import Scores
from dsd.sampling import Sampling
from dsd_world.benchmark import DISTRACTORS, PROMPTS, DrawnBenchmark, Truth
from dsd_world.recipe import DRAWING

DRAWN = DrawnBenchmark(subjects=4)


@dataclasses.dataclass(kw_only=True)
class Counting:
    """Returns the reference, and counts; may be killed after some subjects."""

    name: str = "counting"
    fingerprint: str = "1"
    subjects_at_once: int = 1
    drawn: int = 0
    killed_after: int | None = None

    def prepare(self, requests: Sequence[Request]) -> None:
        if self.killed_after is not None and self.drawn >= self.killed_after:
            raise KeyboardInterrupt

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        self.drawn += len(requests)
        return [request.reference for request in requests]


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return DRAWN.build()


def config() -> EvaluateConfig:
    return EvaluateConfig(identity=identity_encoder(), agreement=agreement_encoder(), apart=False)


def evaluate(config: EvaluateConfig, benchmark: Benchmark, methods: Sequence[SubjectMethod], out: Path) -> list[Scores]:
    rows = [Competitor(name=method.name, build=lambda method=method: method) for method in methods]
    return compare(config, benchmark, rows, out).scores


def same_pictures(one: Sequence[Image.Image], other: Sequence[Image.Image]) -> bool:
    return [image.tobytes() for image in one] == [image.tobytes() for image in other]


def close(one: Sequence[Image.Image], other: Sequence[Image.Image]) -> bool:
    """Equal but for rounding; batches of other sizes sum in another order."""
    differences = [
        max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True))
        for first, second in zip(one, other, strict=True)
    ]
    return max(differences) <= 2


def test_the_bounds_stand_where_they_must(benchmark: Benchmark, tmp_path: Path):
    copy, truth = evaluate(config(), benchmark, [CopyReference(), Truth(drawn=DRAWN)], tmp_path)
    assert copy.estimate("diversity").mean == pytest.approx(0, abs=1e-5)
    assert copy.estimate("copy").mean == pytest.approx(1, abs=1e-3)
    assert truth.estimate("copy").mean == pytest.approx(0, abs=1e-5)
    assert truth.estimate("diversity").mean > 0
    assert copy.estimate("identity").mean > truth.estimate("identity").mean


def test_pictures_in_which_the_subject_has_moved_are_measured_apart(benchmark: Benchmark, tmp_path: Path):
    @dataclasses.dataclass(kw_only=True)
    class Rigid(Counting):
        """Draws the reference where the subject is asked to stay, and nothing where it is to move."""

        def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
            moved = {subject.id: subject.parts["moved"] for subject in benchmark.subjects}
            blank = Image.new("RGB", (64, 64))
            return [blank if moved[r.subject_id][r.prompt_index] else r.reference for r in requests]

    first = [subject.parts["moved"] for subject in benchmark.subjects]
    assert any(map(any, first)) and not all(map(all, first))
    rigid, copy = evaluate(config(), benchmark, [Rigid(name="rigid"), CopyReference()], tmp_path)
    assert rigid.values["identity/unmoved"] == pytest.approx(copy.values["identity/unmoved"], abs=1e-5, nan_ok=True)
    assert rigid.count("identity/unmoved") == sum(not all(moved) for moved in first)
    assert rigid.estimate("identity/moved").mean < copy.estimate("identity/moved").mean - 0.1


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_table(benchmark: Benchmark, tmp_path: Path):
    whole = evaluate(config(), benchmark, [Counting()], tmp_path / "whole")
    each = PROMPTS + DRAWN.repeats - 1
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(), benchmark, [Counting(killed_after=2 * each)], tmp_path / "killed")
    lost = next((tmp_path / "killed").rglob("prompt2-*.png"))
    lost.unlink()
    second = Counting()
    again = evaluate(config(), benchmark, [second], tmp_path / "killed")
    assert second.drawn == 2 * each + 1, "no finished picture is drawn again"
    for metric in QUALITIES:
        assert again[0].values[metric] == whole[0].values[metric]


def test_another_version_of_a_method_is_drawn_anew(benchmark: Benchmark, tmp_path: Path):
    pictures.draw(benchmark, Counting(), tmp_path)
    same, other = Counting(), Counting(fingerprint="2")
    pictures.draw(benchmark, same, tmp_path)
    pictures.draw(benchmark, other, tmp_path)
    assert same.drawn == 0 and other.drawn > 0


def test_claims_are_tested_on_paired_differences():
    noise = [0.0, 5.0, -3.0, 1.0, 2.0, -4.0] * 3  # far wider than the difference, but the same in both rows
    better, worse = [x + 1.1 for x in noise], [x + 1.0 for x in noise]
    rows = [
        Scores(name="a", runs=[{"identity": better, "copy": [0.1] * 18}]),
        Scores(name="b", runs=[{"identity": worse, "copy": [0.3] * 18}]),
    ]
    claims = [
        Claim(text="above", method="a", against="b", metric="identity"),
        Claim(text="below", method="a", against="b", metric="identity", less=True),
        Claim(text="a third", method="a", against="b", metric="copy", factor=0.34, less=True),
        Claim(text="not there", method="a", against="c", metric="identity"),
    ]
    above, below, third = examine(rows, claims)
    assert above.holds and above.difference.mean == pytest.approx(0.1)
    assert not below.holds and third.holds
    assert (above.win_rate, below.win_rate) == (1.0, 0.0) and above.p < 0.01
    assert list(third.as_dict()) == ["claim", "difference", "low", "high", "p", "win_rate", "holds"]


def test_tables_say_the_same_in_every_format(benchmark: Benchmark, tmp_path: Path):
    scores = evaluate(config(), benchmark, [CopyReference(), Counting()], tmp_path)
    tables.write(scores, tmp_path)
    whole = json.loads((tmp_path / "table.json").read_text())
    assert list(whole) == ["table", "commit", "models", "rows", "claims"]
    assert {row["method"] for row in whole["rows"]} == {"copy", "counting"}
    (identity,) = (r for r in whole["rows"] if (r["method"], r["metric"]) == ("copy", "identity"))
    assert list(identity) == ["method", "metric", "mean", "low", "high", "n", "seeds"]
    assert (identity["n"], identity["seeds"]) == (4, [0])
    header, first, _ = (tmp_path / "table.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["identity_mean"]) == identity["mean"]
    assert len((tmp_path / "table.md").read_text().splitlines()) == 4


def test_the_benchmark_is_the_same_every_time(benchmark: Benchmark):
    again = DRAWN.build()
    for one, other in zip(benchmark.subjects, again.subjects, strict=True):
        assert one.prompts == other.prompts and one.distractors == other.distractors
        assert same_pictures([one.reference, *one.truths], [other.reference, *other.truths])


def test_every_distractor_differs_from_its_prompt(benchmark: Benchmark):
    for subject in DrawnBenchmark(subjects=24).build().subjects:
        for prompt, others in zip(subject.prompts, subject.distractors, strict=True):
            assert len(others) == len(set(others)) == DISTRACTORS
            assert prompt not in others
            assert all(other.startswith(f"a {subject.subject} ") for other in others)


def test_prompts_ask_for_places_other_than_the_references():
    drawn = DrawnBenchmark(subjects=32)
    places = [drawn.prompt_scenes(prompt).place for prompt in range(PROMPTS)]
    for one in range(PROMPTS):
        assert all((places[one] != places[other]).all() for other in range(one))


def test_the_truth_does_not_depend_on_what_else_is_asked(benchmark: Benchmark):
    requests = [request for number in range(4) for request in benchmark.requests(number)]
    truth = Truth(drawn=DRAWN)
    alone = [picture for n in range(4) for picture in truth.generate(benchmark.requests(n))]
    assert same_pictures(truth.generate(requests), alone)
    first = truth.generate(benchmark.requests(0))
    assert same_pictures(first[:PROMPTS], benchmark.subjects[0].truths)
    assert first[PROMPTS].tobytes() != first[0].tobytes()


def test_a_benchmark_of_one_subject_is_refused(benchmark: Benchmark):
    with pytest.raises(UserError, match="at least 2 subjects"):
        Benchmark(name="x", subjects=benchmark.subjects[:1])


def test_students_and_teacher_draw_each_request_by_its_own_seed(benchmark: Benchmark, tmp_path: Path):
    backbone = FluxBackbone.from_pretrained(tiny.schnell())
    save_adapter(tmp_path / "adapter", tiny.random_updates(backbone.transformer), tiny.metadata(tiny.schnell()))
    drawing = replace(DRAWING, sampling=Sampling(steps=2), batch=3)
    student = TwoFrameStudent.load(tiny.schnell(), tmp_path / "adapter", drawing)
    words = replace(drawing, max_sequence_length=tiny.TEXT_TOKENS)
    for method in (student, TextOnly.load(tiny.schnell(), words)):
        requests = benchmark.requests(0)
        drawn = method.generate(requests)
        assert drawn[0].size == (64, 64)
        assert close(method.generate(requests[::-1])[::-1], drawn)
        assert drawn[0].tobytes() != drawn[PROMPTS].tobytes()


def test_agreement_of_kept_pairs_is_above_that_of_rejected_ones_when_they_are_the_same():
    one, other = tiny.picture((64, 64), seed=1), tiny.picture((64, 64), seed=2)
    pairs = [JudgedPair(first=one, second=one, grid=f"{n}", kept=True) for n in range(3)]
    pairs += [JudgedPair(first=one, second=other, grid=f"{n}", kept=False) for n in range(3)]
    found = agreement(pairs, ImageEncoder(identity_encoder()))
    assert found is not None and found.kept.mean == pytest.approx(1, abs=1e-4) and found.rejected.mean < 1
    assert Agreement.from_dict(dataclasses.asdict(found)) == found
    assert agreement(pairs[:3], ImageEncoder(identity_encoder())) is None


@pytest.mark.slow
def test_what_a_method_takes_does_not_depend_on_the_rows_before_it(benchmark: Benchmark, tmp_path: Path):
    def peak(row: Competitor, out: Path) -> float:
        return pictures.read(benchmark, drawn(row, benchmark, out, True))[0].costs["peak_mib"]

    heavy, copy = (Competitor(name=name, build=build) for name, build in (("heavy", Heavy), ("copy", CopyReference)))
    alone = peak(copy, tmp_path / "alone")
    assert peak(heavy, tmp_path) > alone + HEAVY_MIB / 2
    assert peak(copy, tmp_path) == pytest.approx(alone, rel=0.1)


HEAVY_MIB = 400


class Heavy(CopyReference):
    """Keeps a lot of memory from then on."""

    def __init__(self) -> None:
        super().__init__(name="heavy")

    def prepare(self, requests: Sequence[Request]) -> None:
        WEIGHT.append(b"1" * (HEAVY_MIB << 20))


WEIGHT: list[bytes] = []
