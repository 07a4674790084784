"""`dsd generate`: a reference picture and a sentence become pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dsd.cli.drawing import Model
from dsd.config import require_seeds
from dsd.errors import UserError
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import first_and_named

_AT_ONCE = 8
_NUMBERED = re.compile(r"(\d{3,})-.*\.png")


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draws the individual of a reference picture in new scenes. Prints the paths of the pictures."""

    image: tuple[Path, ...] = ()
    """The reference picture, or as many as the model was trained with."""
    prompt: tuple[str, ...] = ()
    """One or more sentences, each saying what is seen, such as "a red striped cat at the beach"."""
    count: int = 1
    """Pictures for each prompt."""
    seed: int = 0
    """Of the first picture of a prompt; the others count up from it."""
    frames: int | None = None
    """Pictures that are drawn together, for models that draw several; what the model was trained at when left out."""
    height: int | None = None
    """Of the result, in pixels; what the model was trained at when left out."""
    width: int | None = None
    """Of the result, in pixels; what the model was trained at when left out."""
    out: Path = Path("runs/generated")
    """Folder to write NUMBER-SEED.png files to (NUMBER-SEED-FRAME.png where several frames are drawn), a number a
    prompt, counted on from those that lie there; a name ending in .png writes the single picture there."""
    model: Model
    """The two-frame model."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Generate]]:
    return first_and_named(_of)


def _of(recipe: Recipe) -> Generate:
    return Generate(model=Model(adapter=recipe.adapter))


def plan(command: Generate) -> list[str]:
    prompts = ", ".join(f'"{prompt}"' for prompt in command.prompt) or "no prompt yet (give --prompt)"
    image = ", ".join(map(str, command.image)) or "no picture yet (give --image)"
    return [
        f"load {command.model.words()}",
        f"read {image} and draw {command.count} picture(s) for each of: {prompts}",
        f"write PNG files to {command.out}",
    ]


def run(command: Generate) -> None:
    from dsd.files import make_folder, write_atomic
    from dsd.images import encode_png, load_image
    from dsd.log import progress

    jobs = _jobs(command)
    references = [load_image(path) for path in command.image]
    make_folder(jobs[0][2].parent)
    pipeline = command.model.load()
    chunks = [jobs[start : start + _AT_ONCE] for start in range(0, len(jobs), _AT_ONCE)]
    for chunk in progress(chunks, description="drawing"):
        prompts, seeds, paths = zip(*chunk, strict=True)
        size = (command.height, command.width)
        films = command.model.draw(pipeline, references, prompts, seeds, size, command.frames)
        for path, film in zip(paths, films, strict=True):
            for number, picture in enumerate(film):
                place = path if len(film) == 1 else path.with_stem(f"{path.stem}-{number}")
                write_atomic(place, encode_png(picture))
                print(place)


def _jobs(command: Generate) -> list[tuple[str, int, Path]]:
    """What to draw: (prompt, seed, path)."""
    if not command.image:
        raise UserError("no reference picture was given; give --image FILE")
    if not [prompt for prompt in command.prompt if prompt.strip()]:
        raise UserError('no prompt was given; give --prompt "what the picture shall show"')
    if command.count < 1:
        raise UserError(f"--count is {command.count}, but must be at least 1")
    require_seeds("--seed", command.seed, command.count)
    one_file = command.out.suffix.lower() == ".png"
    if one_file and len(command.prompt) * command.count > 1:
        raise UserError(f'"{command.out}" is one file, but several pictures were asked for; give --out a folder')
    first = 0 if one_file else _first_free(command.out)
    return [
        (prompt, seed, command.out if one_file else command.out / f"{number:03d}-{seed}.png")
        for number, prompt in enumerate(command.prompt, start=first)
        for seed in range(command.seed, command.seed + command.count)
    ]


def _first_free(folder: Path) -> int:
    """The number after those of the pictures that lie in a folder."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return max((int(found[1]) + 1 for name in names if (found := _NUMBERED.fullmatch(name))), default=0)
