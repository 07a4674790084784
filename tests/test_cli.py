from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dsd.cli.main import VERBS, main
from dsd.errors import UserError

VARIANT = {"curate": ["tiny"], "train": ["tiny"], "plan": ["tiny"], "world": ["draw"], "data": ["check", "x"]}


def _run(*words: str, capsys) -> tuple[int, str, str]:
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("MODULES", 1)[1].split())


@pytest.mark.parametrize("code", ["import dsd", "from dsd.cli.main import main; assert main(['--help']) == 0"])
def test_import_and_help_load_no_large_library(code):
    assert not {"torch", "transformers", "diffusers", "pydantic"} & _modules_after(code)


def test_the_module_is_the_command():
    def said(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "dsd", *words], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    status, out, err = said("--help")
    assert status == 0 and all(f"  {verb} " in out for verb in VERBS) and not err
    status, out, err = said("trian")
    assert status == 2 and "did you mean" in err and not out


def test_help_names_every_verb(capsys):
    status, out, _ = _run("--help", capsys=capsys)
    assert status == 0
    assert all(f"  {verb} " in out for verb in VERBS)
    assert _run(capsys=capsys)[1] == out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    status, out, _ = _run(verb, *VARIANT.get(verb, []), "--help", capsys=capsys)
    assert status == 0 and "--dry-run" in out


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_prints_the_config_and_the_plan_and_does_nothing(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = _run(verb, *VARIANT.get(verb, []), "--dry-run", capsys=capsys)
    assert status == 0
    assert json.loads(out)["dry_run"] is True
    assert err.startswith("plan: ")
    assert not list(tmp_path.iterdir())


def test_a_recipe_comes_first_and_overrides_follow(capsys):
    _, out, _ = _run("train", "flux-dev", "--data", "d", "--train.rank", "128", "--dry-run", capsys=capsys)
    resolved = json.loads(out)
    assert resolved["train"]["rank"] == 128 and resolved["data"] == "d"
    assert resolved["train"]["base"] == "black-forest-labs/FLUX.1-dev"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], 'did you mean "train"?'),
        (["train"], 'needs a name first: "tiny", '),
        (["train", "flux-dve"], 'did you mean "flux-dev"?'),
        (["train", "tiny", "--train.rnak", "3"], 'did you mean "--train.rank"?'),
        (["train", "tiny", "--rank", "3"], 'did you mean "--train.rank"?'),
        (["generate", "--promt", "x"], 'did you mean "--prompt"?'),
        (["generate", "--prompt", "x"], "--image"),
        (["generate", "--image", "x.png"], "--prompt"),
        (["train", "tiny", "--data", "nowhere"], "nowhere"),
        (["world", "draw", "--count", "0"], "at least 1"),
        (["world", "train", "techer", "--steps", "1"], 'did you mean "teacher"?'),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = _run(*words, capsys=capsys)
    assert status == 2
    assert err.startswith("dsd: error: ") and err.count("\n") == 1
    assert hint in err


@pytest.mark.parametrize("words", [["train", "tiny", "--train.rank", "many"], ["train", "tiny", "--train.rank", "0"]])
def test_a_wrong_value_is_told_with_status_2_and_no_traceback(words, capsys):
    status, out, err = _run(*words, capsys=capsys)
    assert status == 2
    assert "rank" in out + err and "Traceback" not in out + err


def test_an_interrupt_has_status_130_and_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dsd_world.cli.world.run", interrupted)
    status, _, err = _run("world", "draw", capsys=capsys)
    assert status == 130 and "again" in err


def test_an_output_that_cannot_be_written_is_told(capsys, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = _run("world", "draw", "--count", "1", "--out", str(tmp_path / "file"), capsys=capsys)
    assert status == 2 and "cannot write" in err and "Traceback" not in err


def test_world_draw_writes_panels_with_metadata(capsys, tmp_path):
    status, _, _ = _run("world", "draw", "--count", "2", "--split", "evaluation", "--out", str(tmp_path), capsys=capsys)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert status == 0 and len(rows) == 8
    assert all((tmp_path / row["file_name"]).is_file() and row["caption"] for row in rows)


def test_the_embedded_student_draws_at_once(capsys, tmp_path):
    _run("world", "draw", "--count", "1", "--split", "evaluation", "--out", str(tmp_path), capsys=capsys)
    words = ["--prompt", "a red plain cat at sea", "--model.steps", "2", "--n", "2", "--out", str(tmp_path / "o")]
    status, out, err = _run("generate", "--image", str(tmp_path / "000000-0.png"), *words, capsys=capsys)
    assert status == 0, err
    assert len(out.split()) == 2 and all(Path(path).is_file() for path in out.split())


def test_a_missing_extra_is_named():
    from dsd.errors import import_extra

    with pytest.raises(UserError, match=r"pip install 'dsd\[serve\]'"):
        import_extra("no_such_library", "serve")


def test_a_flag_that_takes_many_values_may_be_given_many_times(capsys):
    words = ["generate", "--prompt", "a", "--image", "x.png", "--prompt", "b", "c", "--prompt=d", "--dry-run"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "words", [["--n", "2", "--n", "3"], ["--n=2", "--n", "3"], ["--model.steps=2", "--model.steps=3"]]
)
def test_a_flag_that_takes_one_value_is_refused_when_it_is_given_twice(words, capsys):
    assert main(["generate", *words, "--dry-run"]) == 2
    assert "twice" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--out", " "]])
def test_an_empty_folder_is_not_the_one_that_one_is_in(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "tiny", *words]) == 2
    assert "got an empty --out" in capsys.readouterr().err


def test_help_of_a_verb_of_two_words_names_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "curate", "--help"]) == 0
    assert '"flux-dev"' in capsys.readouterr().out
