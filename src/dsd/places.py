"""Where data lie: a folder or a file here, or at an address that fsspec knows (``s3://``, ``gs://``, ``hf://``, ...).

What is written is seen whole or not at all. Here a file is written under a temporary name, synced and renamed; an
object store shows an object once all of it has arrived; elsewhere it is sent under a temporary name and then renamed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from dsd.errors import UserError, reason_of
from dsd.files import make_folder, require_apart, sha256_of, sweep, write_atomic

if TYPE_CHECKING:  # imported where it is used: `dsd --help` is quick
    from fsspec import AbstractFileSystem

_OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "hf", "memory", "abfs", "abfss", "adl", "az", "oss", "oci", "r2", "tos")
)
"""Protocols under which an object appears with its last byte, and which have no folders to make."""
_RAISED_ELSEWHERE = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
"""What file systems raise beside `OSError`."""
_CHUNK = 1 << 22

Where: TypeAlias = "Place | Path | str"
"""A place, or its address."""


@dataclass(frozen=True, order=True)
class Place:
    """A folder or a file, whether it is there or not. It can be pickled, and stands in texts as its address.

    Attributes:
        address: a path here, or ``PROTOCOL://...``; made by `Place.of`.
    """

    address: str

    @classmethod
    def of(cls, where: Where) -> Place:
        """A place by its address.

        Args:
            where: a path, an address, or a place, which is returned.

        Raises:
            UserError: no address of a kind that fsspec knows, or one whose library is not installed.
        """
        if isinstance(where, Place):
            return where
        text = os.fspath(where)
        if text.startswith(("file://", "local://")):
            text = text.partition("://")[2]
        if "://" not in text:
            return cls(str(Path(text)))
        place = cls(text.rstrip("/") if not text.endswith("://") else text)
        place._remote()
        return place

    @property
    def local(self) -> Path | None:
        """The path, where it is here."""
        return None if "://" in self.address else Path(self.address)

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.address).name

    @property
    def parent(self) -> Place:
        """The folder that it lies in."""
        if self.local is not None:
            return Place(str(self.local.parent))
        protocol, _, path = self.address.partition("://")
        return Place(f"{protocol}://{path.rpartition('/')[0]}")

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Place:
        if self.local is not None:
            return Place(str(self.local / name))
        return Place(self.address + ("" if self.address.endswith("/") else "/") + name)

    def exists(self) -> bool:
        """Whether there is a file, or anything in a folder of this name."""
        if self.local is not None:
            with self.reading():
                return self.local.exists()
        fs, path = self._remote()
        with self.reading():
            fs.invalidate_cache()
            return fs.exists(path)

    def is_file(self) -> bool:
        """Whether there is a file of this name."""
        if self.local is not None:
            with self.reading():
                return self.local.is_file()
        fs, path = self._remote()
        with self.reading():
            fs.invalidate_cache()
            return fs.exists(path) and fs.isfile(path)

    def size(self) -> int:
        """Of a file, in bytes.

        Raises:
            FileNotFoundError: there is none.
            UserError: the place cannot be read.
        """
        with self.reading():
            if self.local is not None:
                return self.local.stat().st_size
            fs, path = self._remote()
            fs.invalidate_cache()
            return int(fs.size(path) or 0)

    def glob(self, pattern: str) -> list[Place]:
        """What lies in this folder under names of a pattern, sorted; nothing where there is no folder.

        Args:
            pattern: such as ``pairs/*.parquet``, or ``**/*`` for all.
        """
        if self.local is not None:
            return sorted(Place(str(path)) for path in self.local.glob(pattern))
        fs, root = self._remote()
        with self.reading():
            fs.invalidate_cache()
            found: Any = fs.glob(f"{glob.escape(root)}/{pattern}")
        return sorted(self / str(path)[len(root) :].lstrip("/") for path in found if path != root)

    def open(self) -> IO[bytes]:
        """Opens a file to read, from any position.

        Raises:
            FileNotFoundError: there is none.
            UserError: the place cannot be read.
        """
        with self.reading():
            if self.local is not None:
                return self.local.open("rb")
            fs, path = self._remote()
            fs.invalidate_cache()
            opened: Any = fs.open(path, "rb")
            return opened

    def read_bytes(self) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is none.
            UserError: the place cannot be read.
        """
        with self.reading():
            if self.local is not None:
                return self.local.read_bytes()
            fs, path = self._remote()
            content: Any = fs.cat_file(path)
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """A file's text; see `read_bytes`.

        Raises:
            UnicodeDecodeError: it holds other bytes.
        """
        return self.read_bytes().decode(encoding)

    def sha256(self) -> str:
        """The hexadecimal SHA-256 of a file's bytes; see `read_bytes`."""
        if self.local is not None:
            with self.reading():
                return sha256_of(self.local)
        digest = hashlib.sha256()
        with self.open() as file, self.reading():
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def write_atomic(self, data: bytes | str) -> None:
        """Writes a file so that it is seen whole or not at all; its folder is made when missing.

        Args:
            data: bytes, or text that is written as UTF-8.

        Raises:
            UserError: the place cannot be written to.
        """
        if self.local is not None:
            write_atomic(self.local, data)
            return
        content = data.encode() if isinstance(data, str) else data
        fs, path = self._remote()
        with self._told("write", missing=True):
            if self._appears_whole:
                fs.pipe_file(path, content)
                return
            folder, _, name = path.rpartition("/")
            temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
            fs.makedirs(folder, exist_ok=True)
            try:
                fs.pipe_file(temporary, content)
                fs.mv(temporary, path)
            finally:
                if fs.exists(temporary):
                    fs.rm_file(temporary)

    def remove(self) -> None:
        """Removes a file, if it is there.

        Raises:
            UserError: it cannot be removed.
        """
        with self._told("write"), contextlib.suppress(FileNotFoundError):
            if self.local is not None:
                self.local.unlink()
                return
            fs, path = self._remote()
            fs.rm_file(path)

    def make_folder(self) -> Place:
        """Makes sure that files can be written here, as far as that can be told before; returns the place.

        Raises:
            UserError: they cannot.
        """
        if self.local is not None:
            make_folder(self.local)
        elif not self._appears_whole:
            fs, path = self._remote()
            with self._told("write", missing=True):
                fs.makedirs(path, exist_ok=True)
        return self

    def require_apart(self, given: Place, what: str) -> None:
        """Refuses to write here over what is read, into it or around it.

        Args:
            given: what is read.
            what: it is called, such as "the dataset's folder".

        Raises:
            UserError: They are not apart.
        """
        if self.local is not None and given.local is not None:
            require_apart(self.local, given.local, what)
            return
        wanted, read = f"{self}/", f"{given}/"
        if wanted.startswith(read) or read.startswith(wanted):
            raise UserError(f'--out "{self}" is, contains or lies in {what} "{given}"; give a folder apart')

    def sweep(self) -> None:
        """Removes what killed processes left under temporary names, in a folder of ours and below it."""
        if self.local is not None:
            sweep(self.local)
        elif not self._appears_whole:
            for leftover in self.glob("**/.*.tmp"):
                leftover.remove()

    @property
    def _appears_whole(self) -> bool:
        return self.address.partition("://")[0].rpartition("::")[2] in _OBJECT_STORES

    def _remote(self) -> tuple[AbstractFileSystem, str]:
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise UserError(
                f'"{self.address}" is no address that can be used ({reason_of(error)}); give a folder, or an address '
                "whose library is installed, such as s3fs for s3://"
            ) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Tells of what goes wrong while an opened file is read.

        Raises:
            FileNotFoundError: there is none.
            UserError: the place cannot be read.
        """
        with self._told("read"):
            yield

    @contextlib.contextmanager
    def _told(self, verb: str, *, missing: bool = False) -> Iterator[None]:
        """Tells what a file system says as one sentence; that a file is missing only where this is no answer."""
        try:
            yield
        except FileNotFoundError as error:
            if not missing:
                raise
            raise self._cannot(verb, error) from error
        except (OSError, NotImplementedError, *raised_elsewhere()) as error:
            raise self._cannot(verb, error) from error

    def _cannot(self, verb: str, error: Exception) -> UserError:
        reason = (error.strerror if isinstance(error, OSError) else None) or reason_of(error)
        wanted = "read from" if verb == "read" else "write to"
        return UserError(f'cannot {verb} "{self.address}" ({reason}); give a place that you may {wanted}')


def raised_elsewhere() -> tuple[type[Exception], ...]:
    """What the file systems that are in use raise beside `OSError`, to be caught."""
    modules = [(sys.modules.get(module), name) for module, name in _RAISED_ELSEWHERE]
    return tuple(getattr(module, name) for module, name in modules if module is not None)
