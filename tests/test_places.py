"""Claims about places: a file is there whole or not at all, here, in an object store, and on other file systems."""

from __future__ import annotations

import hashlib
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import fsspec.config
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import s3_server

from dsd.curate.captions import CaptionFile
from dsd.errors import UserError
from dsd.places import Place


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["here", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "here":
        return Place.of(tmp_path / "folder")
    if request.param == "memory":
        return Place.of(f"memory://{uuid.uuid4().hex}/folder")
    return Place.of(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")


def test_what_was_written_is_read_back_wherever_it_lies(folder: Place) -> None:
    file = folder.make_folder() / "a/b [1]*.bin"
    assert not file.exists() and not file.is_file()
    file.write_atomic(b"one")
    file.write_atomic("zwei ü")
    assert file.read_bytes() == "zwei ü".encode() and file.read_text() == "zwei ü"
    assert file.size() == 7
    assert file.sha256() == hashlib.sha256(file.read_bytes()).hexdigest()
    with file.open() as opened:
        opened.seek(5)
        assert opened.read() == "ü".encode()
    assert file.is_file() and folder.exists() and not folder.is_file()
    assert (file.name, file.parent) == ("b [1]*.bin", folder / "a")
    file.remove()
    file.remove()
    assert not file.exists()


def test_a_missing_file_is_that_and_no_other_failure(folder: Place) -> None:
    for read in (Place.read_bytes, Place.size, Place.open, Place.sha256):
        with pytest.raises(FileNotFoundError):
            read(folder / "nothing")


def test_files_are_found_by_pattern_in_order(folder: Place) -> None:
    assert folder.glob("*") == []
    for name in ("b/2.txt", "b/1.txt", "b/1.json", "c.txt"):
        (folder / name).write_atomic(name)
    assert folder.glob("b/*.txt") == [folder / "b/1.txt", folder / "b/2.txt"]
    assert [place for place in folder.glob("**/*") if place.is_file()] == [
        folder / name for name in ("b/1.json", "b/1.txt", "b/2.txt", "c.txt")
    ]


def test_a_place_is_its_address(folder: Place, tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(folder)) == folder == Place.of(str(folder)) == Place.of(folder)
    assert Place.of(f"file://{tmp_path}") == Place.of(tmp_path) == Place.of(f"{tmp_path}/")
    assert Place.of(tmp_path).local == tmp_path and Place.of("s3://a/b/").local is None
    assert str(Place.of("s3://a/b/")) == "s3://a/b"


def test_what_another_process_wrote_is_seen(folder: Place) -> None:
    assert not (folder / "a").exists()
    if folder.local is None:
        fs, path = fsspec.core.url_to_fs(str(folder / "a"), skip_instance_cache=True)
        fs.pipe_file(path, b"1")
    else:
        (folder / "a").write_atomic(b"1")
    assert (folder / "a").exists() and folder.glob("*") == [folder / "a"]


@pytest.mark.parametrize(
    ("address", "words"),
    [("nope://x/y", "is no address that can be used .*Protocol not known"), ("gs://x/y", "gcsfs")],
)
def test_an_address_that_cannot_be_used_is_one_sentence(address: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Place.of(address)


@pytest.mark.parametrize("address", ["", " ", "file://", "local://"])
def test_an_empty_address_is_no_folder(address: str) -> None:
    with pytest.raises(UserError, match="names no place; give a folder"):
        Place.of(address)


@pytest.mark.parametrize(
    "of", ["http://bob:secret@127.0.0.1/c.txt", "sftp://bob:secret@host", "zip://x::ftp://a:secret@h/b.zip"]
)
def test_a_password_has_no_place_in_an_address(of: str) -> None:
    for use in (Place.of, lambda address: list(CaptionFile(f"{address}.txt", 1))):
        with pytest.raises(UserError, match="holds a password; leave it out") as told:
            use(of)
        assert "secret" not in str(told.value)


def test_an_archive_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no address that can be used"):
        Place.of(f"zip://x::{tmp_path / 'none.zip'}")


def test_a_store_that_refuses_is_one_sentence(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*NoSuchBucket|cannot write .*bucket does not exist"):
        Place.of("s3://no-such-bucket/x").write_atomic("1")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Place.of(tmp_path / "file" / "x").write_atomic("1")
    with pytest.raises(UserError, match="cannot write"):
        Place.of("http://127.0.0.1:9/x").write_atomic("1")


def test_a_store_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"})
    place = Place.of("s3://bucket/x")
    for use in (Place.exists, lambda file: file.write_atomic("1")):
        with pytest.raises(UserError, match=r"cannot (read|write)"):
            use(place)


class Disk(MemoryFileSystem):
    """A file system on which a file grows under its name while it arrives."""

    protocol = "disk"
    store: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    pseudo_dirs: ClassVar[list[str]] = [""]
    full = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
        super().pipe_file(path, value[:1] if self.full else value, mode=mode, **kwargs)
        if self.full:
            raise OSError(28, "No space left on device")


def test_where_files_grow_they_get_their_name_when_they_are_whole() -> None:
    fsspec.register_implementation("disk", Disk, clobber=True)
    file = Place.of("disk://folder/a.txt")
    file.write_atomic("whole")
    Disk.full = True
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        file.write_atomic("other")
    assert file.read_text() == "whole"
    assert file.parent.glob("**/*") == [file]
