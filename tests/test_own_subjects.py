"""Claims about `dsd evaluate RECIPE --data FOLDER`: the user's own subjects are read, drawn and measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import tiny
from evaluation_parts import identity_encoder
from swap_task import SWAP

from dsd.backbones.adapter import save_adapter
from dsd.backbones.registry import load_backbone
from dsd.chat.parse import parse_reply
from dsd.chat.protocol import ChatFailure, ChatRequest, Reply
from dsd.cli.evaluate import evaluate_of
from dsd.cli.main import main
from dsd.curate.tasks import registry as tasks
from dsd.curate.tasks.identity import IDENTITY
from dsd.errors import UserError
from dsd.evaluate.benchmarks.folder import read, require_prompts, with_prompts
from dsd.evaluate.metrics.registry import METRICS
from dsd.frames import Film
from dsd.recipes.registry import recipe

QUICK = ("--steps", "1", "--pictures", "1", "--no-apart")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny.picture((64, 64), seed=seed).save(path)
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A picture a subject, and prompts for all."""
    for seed, name in enumerate(("red_cat.png", "blue-mug.jpg")):
        picture(tmp_path / "mine" / name, seed)
    (tmp_path / "mine" / "prompts.txt").write_text("a {subject} at the beach\n\na {} in the snow\n", encoding="utf-8")
    return tmp_path / "mine"


def test_a_picture_is_a_subject_called_as_its_file(flat: Path) -> None:
    mug, cat = read(flat).subjects
    assert (mug.subject, cat.subject) == ("blue mug", "red cat")
    assert cat.prompts == ("a red cat at the beach", "a red cat in the snow")
    assert cat.distractors == (("a red cat in the snow",), ("a red cat at the beach",))
    assert not cat.same and [len(read(flat, pictures=3).requests(n)) for n in (0, 1)] == [6, 6]


def test_a_folder_is_a_subject_and_its_further_pictures_anchor_identity(tmp_path: Path) -> None:
    for seed, name in enumerate(("dog/1.png", "dog/2.png", "cup/a.png", "cup/b.png", "cup/c.png")):
        picture(tmp_path / name, seed)
    (tmp_path / "dog" / "prompts.txt").write_text("a dog on the moon\n")
    (tmp_path / "prompts.txt").write_text("the {subject} in rain\n")
    cup, dog = read(tmp_path).subjects
    assert (len(cup.same), len(dog.same), len(cup.strangers)) == (2, 1, 1)
    assert cup.prompts == ("the cup in rain",) and dog.prompts == ("a dog on the moon",)
    assert cup.reference.tobytes() == tiny.picture((64, 64), seed=2).tobytes(), "methods are given the first by name"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_metadata_say_the_words_the_prompts_and_the_group(tmp_path: Path, ending: str) -> None:
    picture(tmp_path / "a.png", 0), picture(tmp_path / "b.png", 1), picture(tmp_path / "c.png", 2)
    if ending == "jsonl":
        rows = [
            {"reference": ["a.png", "b.png"], "subject": "a toy", "prompts": ["a toy asleep", "a toy awake"]},
            {"reference": "c.png", "prompts": "c at sea", "group": "things"},
        ]
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        (tmp_path / "metadata.csv").write_text(
            'reference,subject,prompts,group\n"[""a.png"", ""b.png""]",a toy,"[""a toy asleep"", ""a toy awake""]",\n'
            "c.png,,c at sea,things\n"
        )
    toy, c = read(tmp_path).subjects
    assert (toy.subject, toy.prompts, len(toy.same)) == ("a toy", ("a toy asleep", "a toy awake"), 1)
    assert (c.subject, c.prompts, c.groups) == ("c", ("c at sea",), ("things",))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "metadata.jsonl").write_text('{"reference": "no.png"}'), r'metadata.jsonl", row 1: .*no.png'),
        (lambda d: (d / "metadata.jsonl").write_text('{"picture": "red_cat.png"}'), 'row 1: the column "reference"'),
        (lambda d: (d / "metadata.jsonl").write_text('{"reference": 5}'), 'the column "reference" holds 5'),
        (lambda d: (d / "metadata.jsonl").write_text('{"reference": 0}'), 'the column "reference" holds 0'),
        (
            lambda d: (d / "metadata.jsonl").write_text('{"reference": "red_cat.png", "prompts": {"a": 1}}'),
            'the column "prompts" holds',
        ),
        (lambda d: (d / "metadata.jsonl").write_text("[1]"), "row 1: line 1 holds"),
        (lambda d: (d / "red_cat.png").write_bytes(b"no picture"), "red_cat.png"),
        (lambda d: (d / "prompts.txt").write_text("\n"), "holds no prompts"),
        (lambda d: (d / "prompts.txt").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda d: picture(d / "red_cat.jpg"), 'two subjects called "red_cat"'),
        (lambda d: (d / "red_cat.png").unlink(), "at least 2 subjects"),
        (lambda d: [path.unlink() for path in d.iterdir()], "holds no pictures"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_a_sentence(flat: Path, spoil, words: str) -> None:
    spoil(flat)
    with pytest.raises(UserError, match=words):
        read(flat)


def test_other_prompts_or_pictures_are_another_benchmark(flat: Path) -> None:
    before = read(flat).name
    (flat / "prompts.txt").write_text("a {subject} at night\n")
    after = read(flat).name
    picture(flat / "red_cat.png", 9)
    assert len({before, after, read(flat).name}) == 3, "else pictures of the old one would stand for the new one"


@dataclass
class Writer:
    """Writes as it is told to; texts go through the strict parser."""

    text: str
    asked: list[ChatRequest] = field(default_factory=list)
    name: str = "writer"
    revision: str = "1"

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        self.asked += requests
        return [parse_reply(self.text, request.schema) for request in requests]


def test_a_chat_model_writes_prompts_once(flat: Path, tmp_path: Path) -> None:
    (flat / "prompts.txt").unlink()
    bare = read(flat)
    with pytest.raises(UserError, match=r'"blue-mug" has no prompts; write them to .*prompts.txt'):
        require_prompts(bare, flat)
    writer = Writer('{"prompts": ["it in  the rain", "it by night"]}')
    told = require_prompts(with_prompts(bare, writer, 2, tmp_path / "prompts"), flat)
    assert told.subjects[0].prompts == ("it in the rain", "it by night") and told.name != bare.name
    assert "blue mug" in str(writer.asked[0].messages) and len(writer.asked) == 2
    again = Writer("nothing")
    assert with_prompts(bare, again, 2, tmp_path / "prompts") == told and not again.asked
    for text in ("nothing", '{"prompts": ["one alone"]}'):
        with pytest.raises(UserError, match='asked for 2 prompts for "blue-mug"'):
            with_prompts(bare, Writer(text, revision=text), 2, tmp_path / "prompts")
    assert isinstance(parse_reply("nothing", writer.asked[0].schema), ChatFailure)


def test_own_subjects_are_drawn_measured_and_shown(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", "tiny", "--data", str(flat), "--out", str(out), *QUICK]
    assert main(words) == 0
    table = json.loads((out / "table.json").read_text())
    metrics = {line["metric"] for line in table["rows"]}
    assert {"prompt_following", "dino_i", "clip_i", "clip_t"} <= metrics
    assert not {"identity", "copy", "peak_mib"} & metrics, "no further pictures, no truth, no process of its own"
    assert {line["method"] for line in table["rows"]} == {"student", "teacher", "copy"}
    assert (out / "index.html").read_text().count("data:image/png") == 2 * 4
    drawn = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(drawn) == 3 * 2 * 2
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == drawn
    capsys.readouterr()
    (flat / "prompts.txt").unlink()
    assert main(words) == 2
    assert "has no prompts" in capsys.readouterr().err


@pytest.mark.slow
def test_further_pictures_give_identity_by_any_encoder(tmp_path: Path) -> None:
    for seed, name in enumerate(("one/1.png", "two/1.png")):
        picture(tmp_path / "mine" / name, seed)
        picture(tmp_path / "mine" / name.replace("1", "2"), seed)
    (tmp_path / "prompts").write_text("a thing\n")
    words = ["evaluate", "tiny", "--data", str(tmp_path / "mine"), "--prompts", str(tmp_path / "prompts")]
    assert main([*words, "--identity", identity_encoder(), "--out", str(tmp_path / "out"), *QUICK]) == 0
    rows = {(r["method"], r["metric"]): r for r in json.loads((tmp_path / "out/table.json").read_text())["rows"]}
    assert rows["copy", "identity"]["mean"] == pytest.approx(1, abs=1e-3)


def test_a_model_that_is_not_there_is_told_before_anything_is_drawn(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "tiny", "--data", str(flat), "--out", str(tmp_path / "out"), *QUICK]
    for more in (["--identity", "embedded:nobody"], ["--judge", "openai:model"], ["--likeness", "x=embedded:nobody"]):
        assert main([*words, *more]) == 2, more
        assert not list((tmp_path / "out").rglob("*.png"))
    assert capsys.readouterr().err.count("dsd: error:") == 3


def test_each_recipe_evaluates_on_the_users_subjects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "flux-dev", "--data", "somewhere", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["identity"] == "facebook/dinov2-base"
    assert "runs/flux-dev/train/adapter" in said.err and "cartoon" not in said.err and "world" not in said.err
    assert main(["evaluate", "flux-dev", "--dry-run"]) == 2, "it needs subjects"


def test_only_what_the_task_measures_is_shown_beside_what_was_asked_for(flat: Path, tmp_path: Path) -> None:
    words = ["evaluate", "tiny", "--data", str(flat), "--out", str(tmp_path / "out"), *QUICK]
    assert main([*words, "--metrics", "clip_t"]) == 0
    table = json.loads((tmp_path / "out/table.json").read_text())
    metrics = {line["metric"] for line in table["rows"]}
    assert metrics == {"clip_t", "dino_i", "seconds_per_image", "prepare_seconds"}
    assert main([*words, "--metrics", "clip_tt"]) == 2


def test_a_recipes_task_says_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(IDENTITY.metrics) <= set(METRICS)
    monkeypatch.setitem(tasks.TASKS, "swap", "swap_task:SWAP")
    swapped = recipe("tiny")
    swapped = replace(swapped, curate=replace(swapped.curate, task="swap"))
    assert evaluate_of("tiny", swapped).metrics == SWAP.metrics == ("copy",)


def test_subjects_are_told_apart_in_any_script_and_by_their_folders(tmp_path: Path) -> None:
    for seed, name in enumerate(("\u732b.png", "\u72ac.png", "my d\u00f6g.png")):
        picture(tmp_path / "scripts" / name, seed)
    assert len({subject.id for subject in read(tmp_path / "scripts").subjects}) == 3
    rows = [{"reference": picture(tmp_path / "rows" / f"{name}/01.png").relative_to(tmp_path / "rows").as_posix()}
            for name in ("cat", "dog")]  # fmt: skip
    (tmp_path / "rows" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [subject.id for subject in read(tmp_path / "rows").subjects] == ["cat-01", "dog-01"]


def test_hidden_files_are_no_subjects_and_folders_without_pictures_are_told(
    flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (flat / "._red_cat.png").write_bytes(b"resource fork")
    picture(flat / "__MACOSX" / "a.png")
    (flat / "heic").mkdir()
    (flat / "heic" / "1.heic").write_bytes(b"?")
    assert [subject.id for subject in read(flat).subjects] == ["blue-mug", "red_cat"]
    said = capsys.readouterr()
    assert "heic in" in said.out + said.err and "MACOSX" not in said.out + said.err


def test_encoders_that_cannot_measure_are_told_in_a_sentence(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "tiny", "--data", str(flat), "--out", str(tmp_path / "out"), *QUICK]
    for more in (["--identity", "/nonexistent/dino"], ["--agreement", "embedded:tiny-dino"]):
        assert main([*words, *more]) == 2, more
    assert capsys.readouterr().err.count("dsd: error:") == 2
    assert not list((tmp_path / "out").rglob("*.png")), "before anything is drawn"


def test_a_method_that_a_family_lacks_is_told_before_anything_is_drawn(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter"
    backbone = load_backbone(tiny.sd3())
    save_adapter(
        adapter, tiny.random_updates(backbone.transformer), tiny.metadata(tiny.sd3(), family="sd3", frame_size=(32, 32))
    )
    words = ["evaluate", "tiny", "--data", str(flat), "--adapter", str(adapter), "--out", str(tmp_path / "out"), *QUICK]
    assert main([*words, "--methods", "controlnet"]) == 2
    assert "there is no controlnet for models of the family" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_adapter_of_several_references_is_refused_and_of_several_targets_the_first_is_measured(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, codes = load_backbone(tiny.schnell()), []
    for references, targets in ((2, 1), (1, 2)):
        adapter = tmp_path / f"{references}-{targets}"
        metadata = tiny.metadata(tiny.schnell(), film=Film.of(references, targets), frame_size=(32, 32))
        save_adapter(adapter, tiny.random_updates(backbone.transformer), metadata)
        words = ["evaluate", "tiny", "--data", str(flat), "--adapter", str(adapter), "--out", f"{adapter}-out"]
        codes.append(main([*words, *QUICK]))
    assert codes == [2, 0]
    assert "was trained with 2 reference pictures, but a comparison gives each method one" in capsys.readouterr().err
