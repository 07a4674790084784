from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dsd.files
from dsd.errors import UserError
from dsd.files import atomic_folder, make_folder, sha256_of, sweep, write_atomic


def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    write_atomic(tmp_path / "deep" / "a.txt", "first")
    write_atomic(tmp_path / "deep" / "a.txt", b"second")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "second"


def test_a_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x" / "a").read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_replaced_and_the_old_content_gone(tmp_path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "x", known_by="ours") as folder:
            (folder / name).touch()
            (folder / "ours").touch()
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["b", "ours"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_the_old_folder(tmp_path):
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "a").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "x", known_by="a") as folder:
        (folder / "b").touch()
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("known_by", [None, "ours"])
def test_what_is_not_ours_is_never_replaced(known_by, tmp_path):
    (tmp_path / "x" / "deep").mkdir(parents=True)
    (tmp_path / "x" / "deep" / "theirs").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for name in ("x", "file", "link"):
        with (
            pytest.raises(UserError, match=f"{name}.* would be lost; give a new folder"),
            atomic_folder(tmp_path / name, known_by=known_by),
        ):
            pass
    assert (tmp_path / "x" / "deep" / "theirs").exists() and (tmp_path / "file").is_file()
    assert len(list(tmp_path.iterdir())) == 3


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "x" / "a").exists() and (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, "old")
    script = (
        "import os, signal, sys; from dsd import files\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomic(sys.argv[1], b'new' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_only_files_of_our_temporary_names_are_swept(tmp_path):
    kept = [tmp_path / name for name in (".notes.tmp", "deep/.a.0123abcd.tmp.txt", "a.0123abcd.tmp")]
    for path in (tmp_path / "deep" / ".a.json.0123abcd.tmp", *kept):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / ".folder.0123abcd.tmp").mkdir()
    sweep(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    assert (tmp_path / ".folder.0123abcd.tmp").is_dir()
    sweep(tmp_path, folders=True)
    assert not (tmp_path / ".folder.0123abcd.tmp").exists()


def test_a_file_in_the_way_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for write in (lambda: make_folder(tmp_path / "file"), lambda: write_atomic(tmp_path / "file" / "a", "x")):
        with pytest.raises(UserError, match=r"cannot write to .*file"):
            write()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission_is_told_in_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "a", "x")


def test_sha256_is_of_the_bytes(tmp_path):
    write_atomic(tmp_path / "a", "abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf")


def test_files_of_a_folder_can_be_read_by_all_who_may(tmp_path):
    with atomic_folder(tmp_path / "made") as folder:
        private = folder / "weights.safetensors"
        private.write_bytes(b"x")
        private.chmod(0o600)
    assert (tmp_path / "made" / "weights.safetensors").stat().st_mode & 0o777 == 0o644


def test_nothing_is_written_over_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "folder", "null"):
        with pytest.raises(UserError, match=f'cannot write ".*{name}" .it is'):
            write_atomic(tmp_path / name, "text")
    assert not (tmp_path / "pipe").is_file() and Path("/dev/null").is_char_device()


def test_texts_are_written_and_read_in_one_encoding() -> None:
    """Not in that of the machine's locale, in which a file that is moved cannot be read."""
    source = Path(dsd.files.__file__).parents[1]
    found = []
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_text = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text")
            if is_text and "encoding" not in {keyword.arg for keyword in node.keywords}:
                found.append(f"{path.relative_to(source)}:{node.lineno}")
    assert not found
