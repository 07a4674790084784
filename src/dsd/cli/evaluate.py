"""`dsd evaluate`: how well students keep identities and follow words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dsd.cli.compared import Compared, likeness, methods
from dsd.cli.parse import Verb
from dsd.plugins import added
from dsd.recipes.registry import first


@dataclass(frozen=True, kw_only=True)
class DreamBench(Compared):
    """Draws DreamBench++ with a student, the text-only teacher and the copied reference, and writes table and page.

    The samples lie as the benchmark's own scripts read them. Run the same command again to resume.
    """

    data: Path = tyro.MISSING
    """The benchmark's folder, with `images` and `captions`."""
    judge: str | None = None
    """Who scores: openai:MODEL@BASE_URL, replay:FILE or a folder; left out, pictures are drawn and not scored. It must
    have no part in curation."""
    agreement: str | None = None
    """CLIP for the columns clip_i and clip_t, such as openai/clip-vit-base-patch32."""
    adapter: str
    """The student: an adapter folder, as training writes it."""
    pictures: int = 1
    """Pictures for each prompt; the first one is scored."""
    repeats: int = 3
    """How often the judge is asked each question."""
    out: Path = Path("runs/dreambench")
    """Folder for samples, scores, the table (JSON, CSV, Markdown) and index.html."""


def variants() -> dict[str, tuple[str, Any]]:
    more = [variants for module in _added() for variants in module.variants().items()]
    dreambench = DreamBench(adapter=first().adapter)
    return {**dict(more), "dreambench": ("the public benchmark DreamBench++, drop-in", dreambench)}


def plan(command: Any) -> list[str]:
    if not isinstance(command, DreamBench):
        return _owner(command).plan(command)
    further = "".join(f", {method}" for method in command.methods)
    scored = f"have {command.judge} score each picture {command.repeats} times" if command.judge else "score nothing"
    return [
        f"draw {command.pictures} picture(s) for each of nine prompts of the collections in {command.data} with "
        f"{command.adapter}{further} and the text-only teacher",
        scored,
        f"write samples, scores and the table beside the published one to {command.out}",
    ]


def run(command: Any) -> None:
    from dsd.log import quiet_libraries

    quiet_libraries()
    if isinstance(command, DreamBench):
        _dreambench(command)
    else:
        _owner(command).run(command)


def _added() -> list[Verb]:
    """Modules of other packages that evaluate on what is theirs."""
    return [point.load() for point in added("evaluations").values()]


def _owner(command: Any) -> Verb:
    """The module that a command is of."""
    return next(m for m in _added() if type(command) in {type(default) for _, default in m.variants().values()})


def _dreambench(command: DreamBench) -> None:
    from dsd.chat.registry import load_chat
    from dsd.devices import default_device
    from dsd.evaluate.dreambench.judge import judge_samples
    from dsd.evaluate.dreambench.metrics import Encoders, measure
    from dsd.evaluate.dreambench.report import write
    from dsd.evaluate.dreambench.samples import draw_samples, read_collections
    from dsd.evaluate.dreambench.table import Row, as_markdown
    from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
    from dsd.files import make_folder

    collections = read_collections(command.data)
    judge = None if command.judge is None else load_chat(command.judge)
    encoders = Encoders(
        likeness={column: ImageEncoder(model, default_device()) for column, model in likeness(command).items()},
        agreement=None if command.agreement is None else PictureTextEncoder(command.agreement, default_device()),
    )
    out = make_folder(command.out)
    rows, samples = [], []
    for method in methods(command, (command.adapter,), out):
        drawn = draw_samples(collections, method, out, pictures=command.pictures)
        print(drawn.path)
        place = out / "scores" / drawn.path.name
        scores = judge_samples(collections, drawn, judge, place, repeats=command.repeats) if judge is not None else ()
        rows.append(Row(measured=measure(method.name, collections, drawn, encoders), scores=scores))
        samples.append(drawn)
    found = write(rows, samples, collections, out, judge=None if judge is None else f"{judge.name} {judge.revision}")
    print(as_markdown(rows, found), end="")
