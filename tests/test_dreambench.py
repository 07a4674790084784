"""Claims about DreamBench++: its folder is read, its scripts could read ours, and its arithmetic is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from dsd.baselines.copy import CopyReference
from dsd.baselines.protocol import Request
from dsd.chat.parse import parse_reply
from dsd.chat.protocol import ChatRequest, ImagePart, Reply, TextPart
from dsd.cli.main import main
from dsd.errors import UserError
from dsd.evaluate.dreambench.judge import ASPECTS, Aspect, Score, judge_samples, product, summarise
from dsd.evaluate.dreambench.metrics import Encoders, measure
from dsd.evaluate.dreambench.report import write
from dsd.evaluate.dreambench.samples import PROMPTS, Collection, SampleFolder, draw_samples, read_collections
from dsd.evaluate.dreambench.table import QUOTED, Row, findings
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.pictures import COSTS

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
class Judge:
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
    animal, style = read_collections(data)
    assert (animal.id, style.id) == ("live_subject_animal_00_kitten", "style_07_blue_print")
    assert (animal.category, style.category, style.subject) == ("animal", "style", "Blue print")
    assert animal.prompts[8] == "a kitten in scene 8"


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
        read_collections(data)


def test_samples_lie_as_the_benchmark_reads_them(data: Path, tmp_path: Path) -> None:
    draw_samples(read_collections(data), Drawing(), tmp_path, pictures=2)
    ((method, found),) = independently_read(tmp_path / "samples").items()
    assert method == "gs7.5-method-1"
    assert set(found) == {"live_subject_animal_00_kitten", "style_07_blue_print"}
    assert found["live_subject_animal_00_kitten"] == [f"a kitten in scene {n // 2}" for n in range(18)]


def test_a_killed_drawing_repeats_no_finished_picture(data: Path, tmp_path: Path) -> None:
    collections = read_collections(data)
    with pytest.raises(KeyboardInterrupt):
        draw_samples(collections, Drawing(killed_at=9), tmp_path)
    (tmp_path / "samples/gs7.5-method-1/tgt_image/live_subject_animal_00_kitten/4_0.jpg").unlink()
    again = Drawing()
    draw_samples(collections, again, tmp_path)
    assert again.prompts == ["a kitten in scene 4", *(f"a Blue print in scene {n}" for n in range(9))]


def judged(data: Path, out: Path, judge: Judge) -> list[Score]:
    collections = read_collections(data)
    samples = draw_samples(collections, Drawing(), out)
    return judge_samples(collections, samples, judge, out / "scores")


def test_replies_out_of_range_are_dropped_and_counted(data: Path, tmp_path: Path) -> None:
    judge = Judge({
        ("keep", 0): '{"analysis": "more than all", "score": 5}',
        ("keep", 1): '{"analysis": "half", "score": 2.5}',
        ("keep", 2): "Score: 4",
        ("keep", 3): '{"analysis": "another one", "score": 0}',
    })  # fmt: skip
    scores = judged(data, tmp_path, judge)
    assert len(scores) == 2 * 9 * 3 * len(ASPECTS)
    kept = summarise(scores, "concept_preservation")
    assert kept is not None
    assert (kept.dropped, kept.judged) == (2 * 3 * 3, 2 * 6 * 3)
    assert kept.mean.mean == pytest.approx((0 + 5 * 3) / 6 / 4)
    assert "not in the schema" in next(s.reason for s in scores if s.score is None)
    assert len({request.seed for request in judge.asked}) == len(judge.asked), "each repeat is a new throw"


def test_judged_collections_are_not_judged_again(data: Path, tmp_path: Path) -> None:
    first = judged(data, tmp_path, Judge())
    again = Judge({("keep", 0): '{"analysis": "x", "score": 0}'})
    assert judged(data, tmp_path, again) == first and not again.asked


def score(
    aspect: Aspect, prompt: int, repeat: int, value: int | None, collection: str = "a", category="animal"
) -> Score:
    return Score(
        aspect=aspect, collection=collection, category=category, prompt=prompt, repeat=repeat, score=value, reason=""
    )


def test_the_aggregate_is_the_benchmarks_own() -> None:
    scores = [
        score("concept_preservation", 0, 0, 4), score("concept_preservation", 1, 0, 2),
        score("concept_preservation", 0, 1, 1), score("concept_preservation", 1, 1, None),
        score("concept_preservation", 0, 0, 0, "b", "style"), score("concept_preservation", 0, 1, 3, "b", "style"),
        score("prompt_following", 3, 0, 4), score("prompt_following", 4, 0, 1), score("prompt_following", 8, 0, 1),
    ]  # fmt: skip
    kept, followed = summarise(scores, "concept_preservation"), summarise(scores, "prompt_following")
    assert kept is not None and followed is not None
    assert kept.mean.mean == pytest.approx(((4 + 2 + 0) / 3 + (1 + 3) / 2) / 2 / 4)
    assert kept.deviation == pytest.approx(0)
    assert kept.by_kind == pytest.approx({"animal": (3 + 1) / 2 / 4, "style": (0 + 3) / 2 / 4})
    assert (kept.judged, kept.dropped) == (5, 1)
    assert followed.by_kind == pytest.approx({"photorealistic": 1.0, "style_transfer": 0.25, "imaginative": 0.25})
    both = product(scores)
    assert both is not None and both.mean == pytest.approx(0.5 * 0.5) and both.low <= both.mean <= both.high
    assert summarise(scores, "concept_preservation_debiased") is None


def row(name: str, data: Path, out: Path, judge: Judge, method: Drawing | CopyReference) -> tuple[Row, SampleFolder]:
    collections = read_collections(data)
    samples = draw_samples(collections, method, out, pictures=2)
    encoders = Encoders(
        likeness={"dino_i": ImageEncoder("embedded:tiny-dino")}, agreement=PictureTextEncoder("embedded:tiny-clip")
    )
    scores = judge_samples(collections, samples, judge, out / "scores" / name)
    return Row(measured=measure(name, collections, samples, encoders), scores=scores), samples


def test_the_table_has_intervals_and_says_which_rows_are_quoted(data: Path, tmp_path: Path) -> None:
    mine, samples = row("student", data, tmp_path, Judge(), Drawing())
    other, copies = row("teacher", data, tmp_path, Judge({("copied", 0): "no number"}), CopyReference())
    found = write([mine, other], [samples, copies], read_collections(data), tmp_path, judge="judge 1")
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["table"] == "dreambench" and table["judge"] == "judge 1" and table["commit"]
    lines = {(line["method"], line["metric"]): line for line in table["rows"]}
    for line in lines.values():
        assert line["low"] <= line["mean"] <= line["high"] and line["n"] and line["seeds"]
    for aspect in ASPECTS:
        assert (lines["student", aspect]["mean"], lines["student", aspect]["n"]) == (0.75, 54)
    assert lines["student", "product"]["mean"] == pytest.approx(0.75**2, abs=1e-4)
    assert lines["teacher", "dino_i"]["mean"] == pytest.approx(1, abs=0.02), "a copy is as like as can be"
    assert lines["teacher", "dino_i"]["mean"] > lines["student", "dino_i"]["mean"]
    assert lines["teacher", "vendi"]["mean"] == pytest.approx(1, abs=0.02) and lines["teacher", "diversity"]["n"] == 2
    assert "debiased concept preservation above the text-only model's" in [finding.claim for finding in found]
    markdown = (tmp_path / "table.md").read_text().splitlines()
    assert sum("(quoted)" in line for line in markdown) == len(QUOTED) == 7
    assert markdown[2].startswith("| student | 0.75 [0.75, 0.75] | 0.75 [0.75, 0.75] | 0.56 [0.56, 0.56] |")
    assert "teacher,dino_i,1.0" in (tmp_path / "table.csv").read_text()
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png") == 2 * 3 and "Emu2, SDXL (quoted)" in page
    assert all(q.product == pytest.approx(q.concept_preservation * q.prompt_following, abs=0.002) for q in QUOTED)


def test_claims_rest_on_what_every_method_has_scores_for(data: Path, tmp_path: Path) -> None:
    ids = [collection.id for collection in read_collections(data)]
    good, _ = row("student", data, tmp_path, Judge(), Drawing())
    cut = [Score(**{**vars(s), "score": None}) if s.collection == ids[0] else s for s in good.scores]
    rows = [good, Row(measured=dataclasses.replace(good.measured, name="teacher"), scores=cut)]
    found, compared = findings(rows, ids)
    assert compared == 1 and found
    assert findings([good, dataclasses.replace(rows[1], scores=[s for s in cut if s.score is None])], ids) == ([], 0)


def test_the_command_draws_and_a_copy_needs_no_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["evaluate", "dreambench", "--data", str(data), "--steps", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--likeness", "dino_i=embedded:tiny-dino", "--agreement", "embedded:tiny-clip"]) == 0
    assert len(independently_read(tmp_path / "out/samples")) == 3
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert table["judge"] is None and "(quoted)" not in (tmp_path / "out/table.md").read_text(), "nobody judged"
    assert {line["metric"] for line in table["rows"]} == {"dino_i", "clip_i", "clip_t", *COSTS}
    capsys.readouterr()
    assert main([*words, "--likeness", "facebook/dino-vits16"]) == 2
    assert "must be COLUMN=MODEL" in capsys.readouterr().err
    assert main(["evaluate", "dreambank"]) == 2
    assert 'did you mean "dreambench"' in capsys.readouterr().err


def test_a_copy_is_the_source_itself(data: Path, tmp_path: Path) -> None:
    collection: Collection = read_collections(data)[0]
    draw_samples([collection], CopyReference(), tmp_path)
    folder = tmp_path / "samples/copy-1"
    source, target = (folder / kind / collection.id / "0_0.jpg" for kind in ("src_image", "tgt_image"))
    assert source.read_bytes() == target.read_bytes()
