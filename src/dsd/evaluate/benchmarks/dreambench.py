"""DreamBench++ (Peng et al., ICLR 2025, arXiv 2406.16855): its folder as input, and our pictures as its samples.

The benchmark's own scripts read the output unchanged::

    images/live_subject/animal/00.jpg      the one reference of a collection
    captions/live_subject/animal/00.txt    the subject, then nine prompts, a line each
    samples/METHOD/src_image/COLLECTION/PROMPT_PICTURE.jpg
    samples/METHOD/tgt_image/COLLECTION/PROMPT_PICTURE.jpg
    samples/METHOD/text/COLLECTION/PROMPT_PICTURE.txt

Its judge is one of our metrics (`dsd.evaluate.judge`); what its paper published is quoted beside, and marked so.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dsd.data.records import content_id
from dsd.errors import UserError
from dsd.evaluate import tables
from dsd.evaluate.benchmark import Benchmark, Subject
from dsd.evaluate.pictures import file_name, picture_of
from dsd.evaluate.report import Section, table
from dsd.files import write_atomic
from dsd.images import load_image

CATEGORIES = ("animal", "human", "object", "style")
"""Folders of references; the first two lie in ``live_subject``."""
PROMPT_KINDS = {"photorealistic": range(4), "style transfer": range(4, 7), "imaginative": range(7, 9)}
"""Which of a collection's nine prompts are of which kind (section 3.1 of the paper)."""
PROMPTS = 9
_LIVE = "live_subject"
_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
_PARTS = {kind: tuple(prompt in numbers for prompt in range(PROMPTS)) for kind, numbers in PROMPT_KINDS.items()}


@dataclass(frozen=True)
class Quoted:
    """A row of the paper's main table, judged by GPT-4o; this project did not measure it."""

    method: str
    concept_preservation: float
    prompt_following: float
    product: float

    @property
    def figures(self) -> list[str]:
        """As they were published."""
        return [f"{x:.3f}" for x in (self.concept_preservation, self.prompt_following, self.product)]


QUOTED = (
    Quoted("DreamBooth LoRA, SDXL", 0.598, 0.865, 0.517),
    Quoted("IP-Adapter ViT-G, SDXL", 0.593, 0.640, 0.380),
    Quoted("Emu2, SDXL", 0.528, 0.690, 0.364),
    Quoted("DreamBooth, SD v1.5", 0.494, 0.721, 0.356),
    Quoted("IP-Adapter-Plus ViT-H, SDXL", 0.833, 0.413, 0.344),
    Quoted("BLIP-Diffusion, SD v1.5", 0.547, 0.495, 0.271),
    Quoted("Textual Inversion, SD v1.5", 0.378, 0.624, 0.236),
)
"""Peng et al., arXiv 2406.16855, main table: overall columns."""
_HEAD = ("method (quoted)", "concept preservation", "prompt following", "product")


def read(folder: Path, pictures: int = 1) -> Benchmark:
    """All collections of a DreamBench++ folder, by id.

    Args:
        folder: with ``images`` and ``captions``.
        pictures: for each prompt.

    Raises:
        UserError: there are none, or one lacks its captions or has another number of prompts than nine.
    """
    found = []
    for category in CATEGORIES:
        parts = (_LIVE, category) if category in ("animal", "human") else (category,)
        for picture in sorted(folder.joinpath("images", *parts).glob("*")):
            if picture.suffix.lower() in _PICTURES and not picture.name.startswith("."):
                captions = folder.joinpath("captions", *parts, f"{picture.stem}.txt")
                found.append(_collection(picture, captions, category, "_".join(parts)))
    if not found:
        raise UserError(
            f'"{folder}" has no DreamBench++ references; it needs images/live_subject/animal/00.jpg and its like, and '
            "captions/live_subject/animal/00.txt beside"
        )
    subjects = tuple(sorted(found, key=lambda subject: subject.id))
    content = content_id("dreambench", *(part for s in subjects for part in (s.id, s.reference, *s.prompts)))
    return Benchmark(name=f"dreambench-{content}", subjects=subjects, repeats=pictures, repeated=PROMPTS)


def _collection(picture: Path, captions: Path, category: str, prefix: str) -> Subject:
    if not captions.is_file():
        raise UserError(f'the reference "{picture}" has no captions; they belong into "{captions}"')
    lines = [line.strip() for line in captions.read_text(encoding="utf-8").strip().splitlines()]
    if len(lines) != 1 + PROMPTS or not all(lines):
        raise UserError(
            f'"{captions}" has {len(lines)} lines; it needs the subject and then {PROMPTS} prompts, a line each'
        )
    subject, *prompts = lines
    return Subject(
        id=f"{prefix}_{picture.stem}_{file_name(subject.lower().replace(' ', '_'))}",
        subject=subject,
        reference=load_image(picture),
        prompts=tuple(prompts),
        groups=(category,),
        parts=_PARTS,
    )


def write_samples(benchmark: Benchmark, place: Path, out: Path) -> Path:
    """Writes a method's pictures as the benchmark's own scripts read them.

    Args:
        benchmark: that was drawn.
        place: of the method's pictures.
        out: gets ``samples/METHOD/``.

    Returns:
        That folder.
    """
    folder = out / "samples" / place.name
    for number, subject in enumerate(benchmark.subjects):
        for request in benchmark.requests(number):
            name = f"{request.prompt_index}_{request.repeat}"
            source, target, text = (folder / kind / subject.id for kind in ("src_image", "tgt_image", "text"))
            write_atomic(source / f"{name}.jpg", _jpeg(subject.reference))
            write_atomic(text / f"{name}.txt", request.prompt + "\n")
            write_atomic(target / f"{name}.jpg", _jpeg(picture_of(place, request)))
    return folder


def quoted_as_markdown() -> str:
    """The published rows."""
    return tables.markdown(_HEAD, [[row.method, *row.figures] for row in QUOTED])


def quoted() -> Section:
    """The published rows, for the page."""
    words = "Not measured here: quoted from arXiv 2406.16855, where GPT-4o judged."
    return Section(title="Published", words=words, body=table(_HEAD, [[row.method, *row.figures] for row in QUOTED]))


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=95)
    return file.getvalue()
