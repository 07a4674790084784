"""Its folder as input, and our pictures as the samples it expects.

The benchmark's own scripts read the output unchanged::

    images/live_subject/animal/00.jpg      the one reference of a collection
    captions/live_subject/animal/00.txt    the subject, then nine prompts, a line each
    samples/METHOD/src_image/COLLECTION/PROMPT_PICTURE.jpg
    samples/METHOD/tgt_image/COLLECTION/PROMPT_PICTURE.jpg
    samples/METHOD/text/COLLECTION/PROMPT_PICTURE.txt

What a picture cost lies outside of that, in ``costs/METHOD/COLLECTION/PROMPT_PICTURE.json``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dsd.baselines.protocol import Request, SubjectMethod
from dsd.config import to_json
from dsd.errors import UserError
from dsd.evaluate.pictures import as_drawn, chunks, file_name, prepare
from dsd.files import write_atomic
from dsd.images import load_image
from dsd.log import progress

CATEGORIES = ("animal", "human", "object", "style")
"""Folders of references; the first two lie in ``live_subject``."""
PROMPT_KINDS = {"photorealistic": range(4), "style_transfer": range(4, 7), "imaginative": range(7, 9)}
"""Which of a collection's nine prompts are of which kind (section 3.1 of the paper)."""
PROMPTS = 9
_LIVE = "live_subject"
_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One subject of the benchmark.

    Attributes:
        id: as its scripts name it: category, number and subject, joined by ``_``.
        category: of `CATEGORIES`.
        subject: in words.
        reference: file of the one picture.
        prompts: nine sentences.
    """

    id: str
    category: str
    subject: str
    reference: Path
    prompts: tuple[str, ...]


def read_collections(folder: Path) -> list[Collection]:
    """All collections of a DreamBench++ folder, by id.

    Raises:
        UserError: there are none, or one lacks its captions or has another number of prompts than nine.
    """
    found = []
    for category in CATEGORIES:
        parts = (_LIVE, category) if category in ("animal", "human") else (category,)
        for picture in sorted(folder.joinpath("images", *parts).glob("*")):
            if picture.suffix.lower() in _PICTURES:
                captions = folder.joinpath("captions", *parts, f"{picture.stem}.txt")
                found.append(_collection(picture, captions, category, "_".join(parts)))
    if not found:
        raise UserError(
            f'"{folder}" has no DreamBench++ references; it needs images/live_subject/animal/00.jpg and its like, and '
            "captions/live_subject/animal/00.txt beside"
        )
    return sorted(found, key=lambda collection: collection.id)


def _collection(picture: Path, captions: Path, category: str, prefix: str) -> Collection:
    if not captions.is_file():
        raise UserError(f'the reference "{picture}" has no captions; they belong into "{captions}"')
    lines = [line.strip() for line in captions.read_text(encoding="utf-8").strip().splitlines()]
    if len(lines) != 1 + PROMPTS or not all(lines):
        raise UserError(
            f'"{captions}" has {len(lines)} lines; it needs the subject and then {PROMPTS} prompts, a line each'
        )
    subject, *prompts = lines
    return Collection(
        id=f"{prefix}_{picture.stem}_{subject.lower().replace(' ', '_')}",
        category=category,
        subject=subject,
        reference=picture,
        prompts=tuple(prompts),
    )


@dataclass(frozen=True, kw_only=True)
class SampleFolder:
    """Where a method's samples lie.

    Attributes:
        path: ``samples/METHOD``.
        costs: ``costs/METHOD``.
        pictures: for each prompt.
    """

    path: Path
    costs: Path
    pictures: int = 1

    def source(self, collection: Collection, prompt: int, picture: int = 0) -> Path:
        """The copy of the reference that belongs to a picture."""
        return _file(self.path / "src_image", collection, prompt, picture, "jpg")

    def target(self, collection: Collection, prompt: int, picture: int = 0) -> Path:
        """A picture."""
        return _file(self.path / "tgt_image", collection, prompt, picture, "jpg")

    def text(self, collection: Collection, prompt: int, picture: int = 0) -> Path:
        """The prompt of a picture."""
        return _file(self.path / "text", collection, prompt, picture, "txt")

    def cost(self, collection: Collection, prompt: int, picture: int = 0) -> Path:
        """What a picture cost; see `Cost`."""
        return _file(self.costs, collection, prompt, picture, "json")


def _file(folder: Path, collection: Collection, prompt: int, picture: int, ending: str) -> Path:
    return folder / collection.id / f"{prompt}_{picture}.{ending}"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a picture cost.

    Attributes:
        seconds: wall clock, its share of the batch's.
        prepare_seconds: wall clock of the test-time work for its subject.
        peak_mib: most memory of both; see `dsd.evaluate.memory`.
    """

    seconds: float
    prepare_seconds: float
    peak_mib: float


def draw_samples(
    collections: Sequence[Collection], method: SubjectMethod, out: Path, *, pictures: int = 1
) -> SampleFolder:
    """Has a method draw every prompt of every collection; a picture that is there is not drawn again.

    Args:
        collections: to draw.
        method: who draws.
        out: gets ``samples/METHOD/``.
        pictures: for each prompt.
    """
    place = file_name(f"{method.name}-{method.fingerprint}")
    folder = SampleFolder(path=out / "samples" / place, costs=out / "costs" / place, pictures=pictures)
    with progress(description=f"drawing: {method.name}", total=len(collections)) as bar:
        for some in chunks(list(enumerate(collections)), method.subjects_at_once):
            _draw_missing(some, method, folder)
            bar.advance(len(some))
    return folder


def _draw_missing(numbered: Sequence[tuple[int, Collection]], method: SubjectMethod, folder: SampleFolder) -> None:
    missing = [
        _request(collection, number, prompt, picture, folder.pictures)
        for number, collection in numbered
        for prompt in range(PROMPTS)
        for picture in range(folder.pictures)
        if not folder.target(collection, prompt, picture).exists()
    ]
    if not missing:
        return
    collections = {collection.id: collection for _, collection in numbered}
    prepared = prepare(method, missing)
    for request, drawn in as_drawn(method, missing):
        place = (collections[request.subject_id], request.prompt_index, request.repeat)
        peak = max(prepared.peak_mib, drawn.peak_mib)
        cost = Cost(seconds=drawn.seconds, prepare_seconds=prepared.seconds, peak_mib=peak)
        write_atomic(folder.cost(*place), to_json(cost))
        write_atomic(folder.source(*place), _jpeg(request.reference))
        write_atomic(folder.text(*place), request.prompt + "\n")
        write_atomic(folder.target(*place), _jpeg(drawn.picture))  # last, for it says that all is there


def _request(collection: Collection, number: int, prompt: int, picture: int, pictures: int) -> Request:
    return Request(
        subject_id=collection.id,
        subject=collection.subject,
        reference=load_image(collection.reference),
        prompt=collection.prompts[prompt],
        prompt_index=prompt,
        seed=(number * PROMPTS + prompt) * pictures + picture,
        repeat=picture,
    )


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=95)
    return file.getvalue()
