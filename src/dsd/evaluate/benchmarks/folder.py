"""The user's own subjects: a folder of pictures, and prompts from a file or from a chat model that sees each subject.

The folder holds, in this order of precedence:

- ``metadata.jsonl`` or ``metadata.csv`` with a row a subject: ``reference`` (the name of a picture, or a list of them,
  of which methods are given the first), and where wanted ``subject`` (in words), ``prompts`` (a list) and ``group``;
- a folder a subject with its pictures, methods being given the first by name, and where it is wanted ``prompts.txt``;
- a picture a subject.

A subject is called as its file or folder. Prompts are a line each, for all subjects in ``prompts.txt`` or another file;
``{subject}``, or ``{}``, stands for the subject's words. Where every subject has further pictures identity can be told,
strangers being the other subjects; a subject's other prompts are what its own has to beat in prompt following.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from dsd.chat.protocol import ChatModel, ChatRequest
from dsd.chat.templates import read_template
from dsd.data.records import content_id
from dsd.data.sources import METADATA, metadata_rows
from dsd.errors import UserError, cut
from dsd.evaluate.benchmark import Benchmark, Subject
from dsd.evaluate.pictures import file_name
from dsd.images import load_image
from dsd.log import console
from dsd.runs import Ledger

PROMPTS = "prompts.txt"
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_TEMPLATE = Path(__file__).parent.parent / "templates" / "prompts.md"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A subject as the folder has it."""

    name: str
    words: str
    pictures: tuple[Image.Image, ...]
    prompts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class PromptsReply(BaseModel):
    """Prompts for one subject."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=400)]], Field(min_length=1, max_length=100)]


def read(folder: Path, prompts: Path | None = None, *, pictures: int = 1) -> Benchmark:
    """The subjects of a folder, each with its own prompts or those that are for all.

    Args:
        folder: see above.
        prompts: file of prompts for the subjects that have none of their own; ``prompts.txt`` of the folder when None.
        pictures: for each prompt.

    Raises:
        UserError: there are no such subjects, one of them cannot be read, or one is without prompts.
    """
    found = list(_found(folder))
    if not found:
        raise UserError(
            f'"{folder}" holds no pictures; give a folder of pictures, of folders of pictures, or one with '
            f"{' or '.join(METADATA)}"
        )
    shared = prompts if prompts is not None else folder / PROMPTS if (folder / PROMPTS).exists() else None
    for_all = _lines(shared) if shared is not None else ()
    subjects = [_subject(one, one.prompts or for_all) for one in found]
    _refuse_twins(subjects, folder)
    named = content_id("folder", *(part for s in subjects for part in (s.id, s.reference, *s.prompts)))
    return Benchmark(name=named, subjects=_with_strangers(subjects), repeats=pictures, repeated=10**6)


def with_prompts(benchmark: Benchmark, writer: ChatModel, count: int, folder: Path) -> Benchmark:
    """The same subjects, those without prompts with some that a chat model writes when it sees them.

    Args:
        benchmark: as `read` gave it.
        writer: a vision-language model.
        count: of prompts for a subject.
        folder: keeps what was written.

    Raises:
        UserError: the model wrote too few for one of them.
    """
    template = read_template(_TEMPLATE, {"subject", "image"})
    template = replace(template, text=template.text.replace("{count}", str(count)))
    ledger = Ledger(folder / content_id("writer", writer.name, writer.revision, template.label, str(count)))
    subjects = []
    for subject in benchmark.subjects:
        if not subject.prompts:
            written = ledger.find(subject.id, lambda rows: [str(row) for row in rows])
            if written is None:
                shown = {"subject": subject.subject, "image": subject.reference}
                written = _written(writer, template.request(shown, PromptsReply), subject, count)
                ledger.commit(subject.id, written)
            subject = _prompted(subject, written)
        subjects.append(subject)
    named = content_id("folder", benchmark.name, *(prompt for s in subjects for prompt in s.prompts))
    return replace(benchmark, name=named, subjects=tuple(subjects))


def require_prompts(benchmark: Benchmark, folder: Path) -> Benchmark:
    """The benchmark, when each subject has prompts.

    Raises:
        UserError: one has none.
    """
    for subject in benchmark.subjects:
        if not subject.prompts:
            raise UserError(
                f'the subject "{subject.id}" has no prompts; write them to "{folder / PROMPTS}", a line each, or give '
                "--prompts FILE, or --writer MODEL to have them written"
            )
    return benchmark


def _written(writer: ChatModel, request: ChatRequest, subject: Subject, count: int) -> list[str]:
    (reply,) = writer.reply([request])
    if not isinstance(reply, PromptsReply) or len(reply.prompts) < count:
        said = f"only {len(reply.prompts)} of them" if isinstance(reply, PromptsReply) else "no usable reply"
        raise UserError(
            f'{writer.name} was asked for {count} prompts for "{subject.id}" and gave {said}; ask another model, for '
            "fewer, or write them yourself (--prompts FILE)"
        )
    return [" ".join(prompt.split()) for prompt in reply.prompts[:count]]


def _found(folder: Path) -> Iterator[_Found]:
    if not folder.is_dir():
        raise UserError(f'there is no folder "{folder}"; give one with pictures of the subjects to evaluate on')
    metadata = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if metadata is not None:
        for number, row in enumerate(metadata_rows(metadata)(), start=1):
            try:
                if isinstance(row, UserError):
                    raise row
                yield _of_row(folder, row)
            except UserError as error:
                raise UserError(f'"{metadata}", row {number}: {error}') from error
        return
    folders = [place for place in sorted(folder.iterdir()) if place.is_dir() and not _is_hidden(place)]
    if bare := [place.name for place in folders if not _pictures_in(place)]:
        words = f"warning: {', '.join(bare)} in {folder} hold no picture that can be read, and are left out"
        console.print(words)
    for place in (place for place in folders if place.name not in bare):
        prompts = _lines(place / PROMPTS) if (place / PROMPTS).exists() else ()
        pictures = tuple(load_image(path) for path in _pictures_in(place))
        yield _Found(name=place.name, words=_words(place.name), pictures=pictures, prompts=prompts)
    for path in _pictures_in(folder):
        yield _Found(name=path.stem, words=_words(path.stem), pictures=(load_image(path),))


def _of_row(folder: Path, row: Any) -> _Found:
    names, prompts = _listed(row, "reference"), _listed(row, "prompts")
    if not names:
        raise UserError('the column "reference" is empty or missing; name a picture, or list several')
    name = Path(names[0]).with_suffix("").as_posix()
    words, group = row.get("subject") or _words(Path(name).name), row.get("group")
    if not isinstance(words, str):
        raise UserError(f'the column "subject" holds {cut(repr(words))}, but must say in words what it is')
    pictures = tuple(load_image(folder / one) for one in names)
    groups = () if group in (None, "") else (str(group),)
    return _Found(name=name, words=words, pictures=pictures, prompts=prompts, groups=groups)


def _listed(row: Any, column: str) -> tuple[str, ...]:
    """Text, or a list of texts, as a list; nothing where the column is empty."""
    given = row.get(column)
    listed = [given] if isinstance(given, str) and given else [] if given in (None, "") else given
    if not isinstance(listed, list) or not all(isinstance(one, str) and one.strip() for one in listed):
        raise UserError(f'the column "{column}" holds {cut(repr(given))}, but must hold text or a list of texts')
    return tuple(listed)


def _subject(found: _Found, prompts: Sequence[str]) -> Subject:
    subject = Subject(
        id=file_name(found.name),
        subject=found.words,
        reference=found.pictures[0],
        prompts=(),
        same=found.pictures[1:],
        groups=found.groups,
    )
    return _prompted(subject, prompts)


def _prompted(subject: Subject, prompts: Sequence[str]) -> Subject:
    told = tuple(p.replace("{subject}", subject.subject).replace("{}", subject.subject) for p in dict.fromkeys(prompts))
    others = tuple(tuple(other for other in told if other != prompt) for prompt in told) if len(told) > 1 else ()
    return replace(subject, prompts=told, distractors=others)


def _with_strangers(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Each subject with the references of all others; there is then a scale where each has further pictures."""
    return tuple(
        replace(subject, strangers=tuple(other.reference for other in subjects if other.id != subject.id))
        for subject in subjects
    )


def _refuse_twins(subjects: Sequence[Subject], folder: Path) -> None:
    seen: set[str] = set()
    for subject in subjects:
        if subject.id in seen:
            raise UserError(f'"{folder}" has two subjects called "{subject.id}"; rename one of them')
        seen.add(subject.id)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the prompts "{path}" cannot be read ({error}); give a text file with one a line') from error
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise UserError(f'"{path}" holds no prompts; write one a line')
    return prompts


def _pictures_in(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.is_file() and not _is_hidden(path))
    return sorted(path for path in files if path.suffix.lower() in _PICTURES)


def _is_hidden(path: Path) -> bool:
    """What systems put beside files: ``.DS_Store``, ``._a.png``, ``__MACOSX``."""
    return path.name.startswith((".", "__"))


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split())
