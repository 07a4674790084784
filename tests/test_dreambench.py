"""Claims about DreamBench++: its folder is read, its scripts could read ours, and its judge's arithmetic is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from PIL import Image

from dsd.baselines.copy import CopyReference
from dsd.baselines.protocol import Request, SubjectMethod
from dsd.chat.parse import parse_reply
from dsd.chat.protocol import ChatRequest, ImagePart, Reply, TextPart
from dsd.cli.main import main
from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.errors import UserError
from dsd.evaluate import compare, pictures
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.benchmarks import dreambench
from dsd.evaluate.benchmarks.dreambench import PROMPTS, QUOTED, read, write_samples
from dsd.evaluate.claims import JUDGED, examine
from dsd.evaluate.judge import ASPECTS, Judge
from dsd.evaluate.measure import Ruler
from dsd.evaluate.metrics.protocol import Bench
from dsd.evaluate.metrics.registry import COSTS
from dsd.evaluate.scores import Scores

SUBJECTS = {"live_subject/animal/00": "kitten", "style/07": "Blue print"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, (name, subject) in enumerate(SUBJECTS.items()):
        picture, text = tmp_path / f"data/images/{name}.jpg", tmp_path / f"data/captions/{name}.txt"
        picture.parent.mkdir(parents=True)
        text.parent.mkdir(parents=True)
        Image.effect_noise((64, 64), 40 + number).convert("RGB").save(picture)
        text.write_text("\n".join([subject, *(f"a {subject} in scene {n}" for n in range(PROMPTS))]) + "\n")
    return tmp_path / "data"


@dataclass(kw_only=True)
class Drawing:
    """Draws grey pictures, and may be killed in the middle."""

    name: str = "gs7.5 method"
    fingerprint: str = "1"
    subjects_at_once: int = 1
    killed_at: int | None = None
    prompts: list[str] = field(default_factory=list)

    def prepare(self, requests: Sequence[Request]) -> None:
        if self.killed_at is not None and len(self.prompts) >= self.killed_at:
            raise KeyboardInterrupt

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        self.prompts += [request.prompt for request in requests]
        return [Image.new("RGB", (64, 64), (128, 128, 10 * request.prompt_index)) for request in requests]


@dataclass
class Voice:
    """Says what it is told to, by aspect and prompt; texts go through the strict parser."""

    replies: dict[tuple[str, int], str] = field(default_factory=dict)
    asked: list[ChatRequest] = field(default_factory=list)
    name: str = "judge"
    revision: str = "1"

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        self.asked += requests
        return [parse_reply(self._text(request), request.schema) for request in requests]

    def _text(self, request: ChatRequest) -> str:
        parts = request.messages[0].parts
        words = " ".join(part.text for part in parts if isinstance(part, TextPart))
        blue = [part.image for part in parts if isinstance(part, ImagePart)][-1].getpixel((0, 0))[2]
        aspect = "copied" if "copied it" in words else "follow" if "follows its prompt" in words else "keep"
        return self.replies.get((aspect, round(blue / 10)), '{"analysis": "alike", "score": 3}')


def independently_read(samples: Path) -> dict[str, dict[str, list[str]]]:
    """What a script finds that knows the benchmark's layout alone: for each collection its prompts, in order."""
    found: dict[str, dict[str, list[str]]] = {}
    for method in sorted(samples.iterdir()):
        kinds = {kind: sorted((method / kind).iterdir()) for kind in ("src_image", "tgt_image", "text")}
        names = [[folder.name for folder in folders] for folders in kinds.values()]
        assert names[0] == names[1] == names[2]
        for folder in kinds["text"]:
            for other, ending in (("src_image", "jpg"), ("tgt_image", "jpg")):
                files = {p.name for p in (method / other / folder.name).iterdir()}
                assert files == {f"{text.stem}.{ending}" for text in folder.iterdir()}
                for name in files:
                    with Image.open(method / other / folder.name / name) as image:
                        assert image.format == "JPEG" and image.mode == "RGB"
            by_number = sorted(folder.iterdir(), key=lambda path: [int(part) for part in path.stem.split("_")])
            found.setdefault(method.name, {})[folder.name] = [path.open().readline().strip() for path in by_number]
    return found


def test_the_folder_is_read_as_its_own_scripts_name_it(data: Path) -> None:
    animal, style = read(data).subjects
    assert (animal.id, style.id) == ("live_subject_animal_00_kitten", "style_07_blue_print")
    assert (animal.groups, style.groups, style.subject) == (("animal",), ("style",), "Blue print")
    assert animal.prompts[8] == "a kitten in scene 8" and animal.parts["imaginative"] == (*[False] * 7, True, True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "captions/style/07.txt").write_text("blue print\none\n"), "needs the subject and then 9"),
        (lambda d: (d / "captions/style/07.txt").write_text(""), "needs the subject and then 9"),
        (lambda d: (d / "captions/style/07.txt").unlink(), "has no captions"),
        (lambda d: (d / "images").rename(d / "pictures"), "has no DreamBench"),
    ],
)
def test_a_damaged_folder_is_told(data: Path, spoil, words: str) -> None:
    spoil(data)
    with pytest.raises(UserError, match=words):
        read(data)


def test_samples_lie_as_the_benchmark_reads_them(data: Path, tmp_path: Path) -> None:
    benchmark = read(data, pictures=2)
    write_samples(benchmark, pictures.draw(benchmark, Drawing(), tmp_path), tmp_path)
    ((method, found),) = independently_read(tmp_path / "samples").items()
    assert method == "gs7.5-method-1"
    assert set(found) == {"live_subject_animal_00_kitten", "style_07_blue_print"}
    assert found["live_subject_animal_00_kitten"] == [f"a kitten in scene {n // 2}" for n in range(18)]


def test_a_killed_drawing_repeats_no_finished_picture(data: Path, tmp_path: Path) -> None:
    benchmark = read(data)
    with pytest.raises(KeyboardInterrupt):
        pictures.draw(benchmark, Drawing(killed_at=9), tmp_path)
    next(tmp_path.rglob("live_subject_animal_00_kitten/prompt4-0-*.png")).unlink()
    again = Drawing()
    pictures.draw(benchmark, again, tmp_path)
    assert again.prompts == ["a kitten in scene 4", *(f"a Blue print in scene {n}" for n in range(9))]


def bench(data: Path, out: Path, voice: Voice) -> Bench:
    return Bench(benchmark=read(data, pictures=2), judge=Judge(voice, out / "scores"))


def judged(of: Bench, out: Path, method: SubjectMethod, name: str = "student") -> Scores:
    place = pictures.draw(of.benchmark, method, out)
    return Ruler(of).measure(name, pictures.read(of.benchmark, place))


def test_replies_out_of_range_are_dropped_and_counted(data: Path, tmp_path: Path) -> None:
    voice = Voice({
        ("keep", 0): '{"analysis": "more than all", "score": 5}',
        ("keep", 1): '{"analysis": "half", "score": 2.5}',
        ("keep", 2): "Score: 4",
        ("keep", 3): '{"analysis": "another one", "score": 0}',
    })  # fmt: skip
    of = bench(data, tmp_path, voice)
    row = judged(of, tmp_path, Drawing())
    assert len(voice.asked) == 2 * PROMPTS * 3 * len(ASPECTS)
    assert row.estimate("concept_preservation").mean == pytest.approx((0 + 5 * 3) / 6 / 4)
    assert row.estimate("judge_dropped").mean == pytest.approx(3 / 9 / len(ASPECTS))
    drawn = pictures.read(of.benchmark, next((tmp_path / of.benchmark.name).iterdir()))
    said = Judge(voice, tmp_path / "scores").scores(of.known[0], drawn[0])
    assert "not in the schema" in next(s.reason for s in said if s.score is None)
    assert len({request.seed for request in voice.asked}) == len(voice.asked), "each repeat is a new throw"


def test_judged_collections_are_not_judged_again_and_another_judge_is_asked(data: Path, tmp_path: Path) -> None:
    first = judged(bench(data, tmp_path, Voice()), tmp_path, Drawing())
    again = Voice({("keep", 0): '{"analysis": "x", "score": 0}'})
    assert judged(bench(data, tmp_path, again), tmp_path, Drawing()).runs == first.runs and not again.asked
    other = Voice(revision="2")
    judged(bench(data, tmp_path, other), tmp_path, Drawing())
    assert other.asked, "what one judge said is not passed off as another's"


def test_the_aggregate_is_the_benchmarks_own(data: Path, tmp_path: Path) -> None:
    voice = Voice({
        **{("follow", n): f'{{"analysis": "x", "score": {4 if n < 4 else 1}}}' for n in range(PROMPTS)},
        ("keep", 0): '{"analysis": "x", "score": 1}',
    })  # fmt: skip
    row = judged(bench(data, tmp_path, voice), tmp_path, Drawing())
    kept, followed = (1 + 8 * 3) / 9 / 4, (4 * 4 + 5 * 1) / 9 / 4
    assert row.estimate("concept_preservation").mean == pytest.approx(kept)
    assert row.estimate("judged_following").mean == pytest.approx(followed)
    assert row.estimate("product").mean == pytest.approx(kept * followed)
    assert row.estimate("concept_preservation/animal").mean == pytest.approx(kept)
    kinds = ("photorealistic", "style transfer", "imaginative")
    by_kind = [row.estimate(f"judged_following/{kind}").mean for kind in kinds]
    assert by_kind == pytest.approx([1.0, 0.25, 0.25])


def test_a_product_is_that_of_the_means() -> None:
    runs = {"concept_preservation": [0.0, 1.0], "judged_following": [1.0, 0.0], "product": [0.0, 0.0]}
    both = Scores(name="x", runs=[runs]).estimate("product")
    assert both.mean == 0.25 and both.low <= both.mean <= both.high


def test_the_table_has_intervals_and_says_what_is_quoted(data: Path, tmp_path: Path) -> None:
    of = replace(
        bench(data, tmp_path, Voice({("copied", 0): "no number"})),
        identity=ImageEncoder("embedded:tiny-dino"),
        agreement=PictureTextEncoder("embedded:tiny-clip"),
        likeness={"dino_i": ImageEncoder("embedded:tiny-dino")},
    )
    rows = [judged(of, tmp_path, Drawing()), judged(of, tmp_path, CopyReference(), "teacher")]
    places = {name: pictures.place_of(of.benchmark, m, tmp_path) for name, m in
              (("student", Drawing()), ("teacher", CopyReference()))}  # fmt: skip
    compared = compare.Compared(benchmark=of.benchmark, places=places, scores=rows, models={"judge": "judge 1"})
    found = compare.write(
        compared, tmp_path, name="dreambench", title="DreamBench++", introduction="", sections=[dreambench.quoted()],
        more=dreambench.quoted_as_markdown(),
    )  # fmt: skip
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["table"] == "dreambench" and table["models"]["judge"] == "judge 1" and table["commit"]
    lines = {(line["method"], line["metric"]): line for line in table["rows"]}
    for line in lines.values():
        assert line["low"] <= line["mean"] <= line["high"] and line["n"] and line["seeds"]
    for metric in ("concept_preservation", "judged_following"):
        assert (lines["student", metric]["mean"], lines["student", metric]["n"]) == (0.75, 2)
    assert lines["student", "product"]["mean"] == pytest.approx(0.75**2, abs=1e-4)
    assert lines["teacher", "dino_i"]["mean"] == pytest.approx(1, abs=0.02), "a copy is as like as can be"
    assert lines["teacher", "dino_i"]["mean"] > lines["student", "dino_i"]["mean"]
    assert lines["teacher", "vendi"]["mean"] == pytest.approx(1, abs=0.02) and lines["teacher", "diversity"]["n"] == 2
    assert "debiased concept preservation above the text-only model's" in [finding.claim for finding in found]
    assert "| Emu2, SDXL | 0.528 |" in (tmp_path / "table.md").read_text() and len(QUOTED) == 7
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png") == 2 * 3 and "Emu2, SDXL" in page and "quoted from" in page
    assert all(q.product == pytest.approx(q.concept_preservation * q.prompt_following, abs=0.002) for q in QUOTED)


def test_claims_rest_on_what_both_methods_have_scores_for() -> None:
    nan, column = float("nan"), "concept_preservation_debiased"
    rows = [
        Scores(name="student", runs=[{column: [0.9, 0.8, 0.9]}]),
        Scores(name="teacher", runs=[{column: [nan, 0.2, 0.1]}]),
    ]
    (found,) = examine(rows, JUDGED)
    assert found.difference.mean == pytest.approx(0.7)
    nothing = Scores(name="teacher", runs=[{column: [nan, nan, nan]}])
    assert examine([rows[0], nothing], JUDGED) == []


@pytest.mark.slow
def test_the_command_draws_and_a_copy_needs_no_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["evaluate", "dreambench", "--data", str(data), "--steps", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--likeness", "dino_i=embedded:tiny-dino", "--agreement", "embedded:tiny-clip"]) == 0
    assert len(independently_read(tmp_path / "out/samples")) == 3
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert "judge" not in table["models"] and "quoted" not in (tmp_path / "out/table.md").read_text(), "nobody judged"
    assert {line["metric"] for line in table["rows"]} == {"dino_i", "clip_i", "clip_t", *COSTS}
    capsys.readouterr()
    assert main([*words, "--likeness", "facebook/dino-vits16"]) == 2
    assert "must be COLUMN=MODEL" in capsys.readouterr().err
    assert main(["evaluate", "dreambank"]) == 2
    assert 'did you mean "dreambench"' in capsys.readouterr().err


def test_a_copy_is_the_source_itself(data: Path, tmp_path: Path) -> None:
    benchmark: Benchmark = read(data)
    folder = write_samples(benchmark, pictures.draw(benchmark, CopyReference(), tmp_path), tmp_path)
    source, target = (folder / kind / benchmark.subjects[0].id / "0_0.jpg" for kind in ("src_image", "tgt_image"))
    assert source.read_bytes() == target.read_bytes()


def test_other_captions_or_references_are_drawn_and_judged_anew(data: Path, tmp_path: Path) -> None:
    voice = Voice()
    before = read(data)
    judged(bench(data, tmp_path, voice), tmp_path, Drawing())
    asked = len(voice.asked)
    captions = data / "captions/style/07.txt"
    captions.write_text(captions.read_text().replace("scene 3", "the rain"))
    again = Drawing()
    judged(bench(data, tmp_path, voice), tmp_path, again)
    assert read(data).name != before.name and "a Blue print in the rain" in again.prompts
    assert len(voice.asked) == 2 * asked, "scores of other words are no scores of these"
    Image.effect_noise((64, 64), 90).convert("RGB").save(data / "images/style/07.jpg")
    folder = write_samples(read(data), pictures.draw(read(data), CopyReference(), tmp_path), tmp_path)
    first = (folder / "src_image/style_07_blue_print/0_0.jpg").read_bytes()
    Image.effect_noise((64, 64), 10).convert("RGB").save(data / "images/style/07.jpg")
    write_samples(read(data), pictures.draw(read(data), CopyReference(), tmp_path), tmp_path)
    assert (folder / "src_image/style_07_blue_print/0_0.jpg").read_bytes() != first


def test_files_that_a_system_hides_are_no_references(data: Path) -> None:
    (data / "images/style/._07.jpg").write_bytes(b"resource fork")
    assert len(read(data).subjects) == 2
