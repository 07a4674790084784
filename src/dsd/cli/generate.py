"""`dsd generate`: a reference picture and a sentence become pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsd.cli.drawing import Model
from dsd.config import require_seeds
from dsd.errors import UserError
from dsd.limits import MOST_PICTURES, require_within
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import first_and_named

if TYPE_CHECKING:
    from dsd.generate.album import Album, Planned
    from dsd.generate.jobs import Job
    from dsd.generate.orders import DrawnFilm
    from dsd.generate.two_frame import TwoFramePipeline

_AT_ONCE = 8
_OTHER = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")
"""Endings of pictures that are not written."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draws the individual of a reference picture in new scenes. Prints the paths of the pictures.

    The same command again draws what is missing, with the seeds of before."""

    image: tuple[Path, ...] = ()
    """The reference picture, or as many as the model was trained with; a folder draws each picture in it."""
    prompt: tuple[str, ...] = ()
    """One or more sentences, each saying what is seen, such as "a red striped cat at the beach"."""
    jobs: Path | None = None
    """A CSV or TSV file with a header, or JSON lines: image, prompt, and if need be n, seed, height, width, fit,
    negative_prompt, steps, text_scale, image_scale, guidance, frames. Paths are relative to the file; what a row
    leaves out is what this command says."""
    n: int = 1
    """Pictures for each prompt."""
    seed: int | None = None
    """Of the first picture of a prompt, the others count up from it; random when left out, and told in the file's
    name."""
    negative_prompt: str = ""
    """What guidance by the text leads away from."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """What is done to a reference of other proportions than the result: cut around its centre, white at its sides, or
    other proportions."""
    enhance: str | None = None
    """A chat model (openai:MODEL@URL, embedded:NAME, a folder or a hub id) that looks at the reference and makes a
    fuller prompt of yours, which is printed and drawn instead."""
    enhance_templates: Literal["default", "compact"] = "default"
    """What it is told: compact is for small models, which say who the subject is and leave your words as they are."""
    frames: int | None = None
    """Pictures that are drawn together, for models that draw several; what the model was trained at when left out."""
    height: int | None = None
    """Of the result, in pixels; what the model was trained at when left out."""
    width: int | None = None
    """Of the result, in pixels; what the model was trained at when left out."""
    out: Path = Path("runs/generated")
    """Folder to write NUMBER-SEED.png files to (NUMBER-SEED-FRAME.png where several frames are drawn), a number a
    prompt, counted on from those that lie there, and sheet.png with all of them; a name ending in .png writes the
    single picture there."""
    metadata: bool = True
    """Write model, prompt and seed into the pictures and into a .json file beside each."""
    model: Model
    """The two-frame model."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Generate]]:
    return first_and_named(_of)


def _of(recipe: Recipe) -> Generate:
    return Generate(model=Model(adapter=recipe.adapter))


def plan(command: Generate) -> list[str]:
    if command.jobs is not None:
        draw = f"draw the rows of {command.jobs}"
    else:
        prompts = ", ".join(f'"{prompt}"' for prompt in command.prompt) or "no prompt yet (give --prompt)"
        image = ", ".join(map(str, command.image)) or "no picture yet (give --image)"
        draw = f"read {image} and draw {command.n} picture(s) for each of: {prompts}"
    return [f"load {command.model.words()}", draw, f"write PNG files to {command.out}"]


def run(command: Generate) -> None:
    from dsd.log import console

    asked = _asked_for(command)
    jobs, bad = _checked(asked, lambda job: job.check())
    _require_outside(command, jobs)
    if command.enhance is not None:
        jobs, more = _enhanced(command, jobs)
        bad += more
    album, films, sources = _planned(command, jobs)
    missing = [film.job for film in films if not film.drawn]
    if missing:
        from dsd.generate.orders import check

        pipeline = command.model.load()
        _tell_unread(pipeline, missing)
        fine, more = _checked(dict.fromkeys(missing), lambda job: check(pipeline, job.order(0)))
        films, bad = [film for film in films if film.drawn or film.job in fine], bad + more
        _draw(command, pipeline, [film for film in films if not film.drawn], sources or _sources(command.model))
    else:
        console.print("all is drawn already; for others give another --seed or --out, or a larger --n")
    for film in films:
        print(*film.drawn, sep="\n")
    sheet = album.sheet(films) if album is not None else None
    if sheet is not None:
        console.print(f"all of them on one sheet: {sheet}")
    if bad:
        raise UserError(f"{len(bad)} of {len(asked)} jobs were not drawn: {bad[0]}; mend them and run this again")


def _asked_for(command: Generate) -> list[Job | UserError]:
    """The jobs that a command names, or why there is none in a place."""
    from dsd.generate.jobs import Job, of_folder, of_table

    require_within("--n", command.n, 1, MOST_PICTURES)
    if command.seed is not None:
        require_seeds("--seed", command.seed, command.n)
    model = command.model
    usual = Job(
        image=command.image, n=command.n, seed=command.seed, height=command.height, width=command.width,
        fit=command.fit, negative_prompt=command.negative_prompt, frames=command.frames, steps=model.steps,
        text_scale=model.text_scale, image_scale=model.image_scale, guidance=model.guidance,
    )  # fmt: skip
    if command.jobs is not None:
        if command.prompt:
            raise UserError("--jobs and --prompt were both given; give the prompts in the table, or leave it out")
        found: list[Job | UserError] = list(of_table(command.jobs, usual))
        if not found:
            raise UserError(f'"{command.jobs}" holds no job; give a table with at least one row')
        return found
    if not command.image:
        raise UserError("no reference picture was given; give --image FILE")
    if not command.prompt:
        raise UserError('no prompt was given; give --prompt "what the picture shall show"')
    folders = [path for path in command.image if path.is_dir()]
    if folders and len(command.image) > 1:
        raise UserError(f'"{folders[0]}" is a folder among several pictures; give one folder, or pictures alone')
    one_each = of_folder(folders[0], usual) if folders else [usual]
    return [replace(job, prompt=prompt) for job in one_each for prompt in command.prompt]


def _checked(jobs: Iterable[Job | UserError], check: Callable[[Job], object]) -> tuple[list[Job], list[UserError]]:
    """Sorts jobs into those that can be drawn, and what is wrong with the others; one bad row loses no good one.

    Raises:
        UserError: None can be drawn.
    """
    from dsd.log import console

    fine: list[Job] = []
    bad: list[UserError] = []
    for job in jobs:
        try:
            if isinstance(job, UserError):
                raise job
            check(job)
            fine.append(job)
        except UserError as error:
            where = "" if isinstance(job, UserError) or not job.where else f"{job.where}: "
            bad.append(UserError(f"{where}{error}"))
    if not fine:
        raise bad[0]
    for error in bad:
        console.print(f"left out: {error}")
    return fine, bad


def _require_outside(command: Generate, jobs: Sequence[Job]) -> None:
    """Refuses to write into a model, or over and among the references."""
    from dsd.files import require_outside, resolved
    from dsd.generate.album import SHEET
    from dsd.models import resolve

    out, model = command.out, command.model
    require_outside(out, resolve(model.adapter), "the adapter's folder")
    require_outside(out, resolve(model.base_name()), "the base's folder")
    for folder in command.image:
        if folder.is_dir() and resolved(folder) == resolved(out):
            raise UserError(f'--out "{out}" is the folder of the references, which would be more then; give another')
    written = {resolved(out), resolved(out / SHEET)}
    lost = next((path for job in jobs for path in job.image if resolved(path) in written), None)
    if lost is not None:
        raise UserError(f'"{lost}" is a reference picture and would be lost; give another --out')


def _enhanced(command: Generate, jobs: Sequence[Job]) -> tuple[list[Job], list[UserError]]:
    """Jobs with the prompts that a chat model made of theirs, and why others have none."""
    from dsd.chat.registry import load_chat
    from dsd.generate.prompting import enhance
    from dsd.log import console

    assert command.enhance is not None
    chat, fuller = load_chat(command.enhance), {}
    out = command.out.parent if command.out.suffix.lower() == ".png" else command.out

    def ask(job: Job) -> None:
        made = enhance(chat, job.references()[0], job.prompt, command.enhance_templates, out / "enhanced")
        fuller[job] = replace(job, prompt=made.prompt, asked=job.prompt, subject=made.subject, enhanced_by=chat.name)

    jobs, bad = _checked(jobs, ask)
    for asked, prompt in dict.fromkeys((job.prompt, fuller[job].prompt) for job in jobs):
        console.print(f'"{asked}" became "{prompt}"')
    return [fuller[job] for job in jobs], bad


def _tell_unread(pipeline: TwoFramePipeline, jobs: Sequence[Job]) -> None:
    """Warns of what the model does not read of prompts."""
    from dsd.generate.prompting import known_words, unread
    from dsd.log import console

    known: tuple[str, ...] = ()
    told: dict[str, int] = {}
    for prompt in dict.fromkeys(words for job in jobs for words in (job.prompt, job.negative_prompt)):
        found = unread(pipeline.backbone, prompt, pipeline.max_text_tokens)
        known = known or (known_words(pipeline.backbone) if found.unknown else ())
        if sentence := found.sentence():
            told[sentence] = told.get(sentence, 0) + 1
    for sentence, times in told.items():
        prompts = f" ({times} prompts)" if times > 1 else ""
        console.print(f"warning: {sentence}{prompts}")
    if known:
        console.print(f"the words that this model knows: {', '.join(known)}")


def _planned(command: Generate, jobs: Sequence[Job]) -> tuple[Album | None, list[Planned], dict[str, str]]:
    """What is to be drawn and where, the folder if it is one, and what names the weights, which a folder goes by."""
    from dsd.files import make_folder
    from dsd.generate.album import Album, Planned

    out = command.out
    if out.suffix.lower() in _OTHER and not out.is_dir():
        raise UserError(f'"{out}" ends in {out.suffix}, but pictures are written as PNG; give a name that ends in .png')
    if out.suffix.lower() != ".png":
        sources, album = _sources(command.model), Album(out)
        return album, album.plan(jobs, sources), sources
    if len(jobs) > 1 or jobs[0].n > 1:
        raise UserError(f'"{out}" is one file, but several pictures were asked for; give --out a folder')
    if out.is_dir():
        raise UserError(f'"{out}" is a folder, but is called like a picture; give another --out')
    make_folder(out.parent)
    return None, [Planned.alone(jobs[0], out)], {}


def _sources(model: Model) -> dict[str, str]:
    """What names the weights that draw; folders that hold none are refused before all that is in them is read."""
    from dsd.backbones.adapter import load_metadata
    from dsd.backbones.registry import family_of
    from dsd.models import resolve, revision_or_name

    load_metadata(resolve(model.adapter))
    base = model.base_name()
    family_of(base)
    return {
        "model": base,
        "model_revision": revision_or_name(base),
        "adapter": model.adapter,
        "adapter_revision": revision_or_name(model.adapter),
    }


def _draw(command: Generate, pipeline: TwoFramePipeline, films: Sequence[Planned], sources: Mapping[str, str]) -> None:
    """Draws films and keeps them, and says what was done to their references."""
    from dsd.generate.orders import draw
    from dsd.log import console, progress

    notes = set()
    with progress(description="drawing", total=len(films)) as bar:
        for start in range(0, len(films), _AT_ONCE):
            chunk = films[start : start + _AT_ONCE]
            drawn = draw(pipeline, [film.job.order(film.seed) for film in chunk])
            for film, result in zip(chunk, drawn, strict=True):
                film.keep(result.pictures, _told(film, result, sources) if command.metadata else None)
                notes |= {*result.notes}
                bar.advance()
    for note in sorted(notes):
        console.print(f"reference {note}")


def _told(film: Planned, drawn: DrawnFilm, sources: Mapping[str, str]) -> dict[str, Any]:
    """What a picture was made from."""
    from importlib.metadata import version

    from dsd.files import sha256_of

    job, sampling = film.job, drawn.sampling
    return {
        "software": f"dsd {version('dsd')}",
        **sources,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        **({"asked": job.asked, "subject": job.subject, "enhanced_by": job.enhanced_by} if job.asked else {}),
        "seed": film.seed,
        "width": drawn.pictures[0].width,
        "height": drawn.pictures[0].height,
        "steps": sampling.steps,
        "text_scale": sampling.text_scale,
        "image_scale": sampling.image_scale,
        "guidance": sampling.guidance,
        "references": [path.name for path in job.image],
        "references_sha256": [sha256_of(path) for path in job.image],
        "fit": list(drawn.notes) or ["as it is"],
    }
