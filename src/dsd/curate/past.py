"""What earlier curations tell of a later one: how many pairs their captions became, and how large their rows are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.errors import UserError
from dsd.files import read_json
from dsd.places import Place, Where

BYTES_PER_PIXEL = {"png": 1.6, "jpeg": 0.5, "webp": 0.35}
"""Of photographs, as PNG and at a quality of 95: rules of thumb."""
_WORDS = 1500
_FIX = "give the funnel.json of a finished curation, or its folder"


@dataclass(frozen=True, kw_only=True)
class RowBytes:
    """Bytes on disk a row of each kind, compressed as it is written.

    Attributes:
        pairs, rejects, grids, films: a row each, pictures included.
        unit: what is written of a unit beside its rows.
    """

    pairs: float
    rejects: float
    grids: float
    films: float
    unit: float = 12_000.0

    def measured(self, bytes_of: Mapping[str, int], rows: Mapping[str, int]) -> RowBytes:
        """These, but for the kinds of which rows were found.

        Args:
            bytes_of: all shards of a kind.
            rows: in them.
        """
        return replace(self, **{kind: bytes_of[kind] / count for kind, count in rows.items() if count})


@dataclass(frozen=True, kw_only=True)
class Past:
    """A curation to plan another one by.

    Attributes:
        funnel: what became of its captions.
        told_by: where it was read, in words.
        rows: how large its rows are; None where they are not there to be measured.
    """

    funnel: Funnel
    told_by: str
    rows: RowBytes | None = None


def read_past(where: Where, config: CurateConfig) -> Past:
    """Reads a funnel, and measures the rows beside it where there are any.

    Args:
        where: a ``funnel.json``, or the folder of a dataset.
        config: what is planned.

    Raises:
        UserError: there is none, it is damaged, or it has nothing to train on.
    """
    from dsd.data.store import FUNNEL, MANIFEST

    place = Place.of(where)
    folder = None if place.is_file() else place
    file = place if folder is None else folder / FUNNEL
    if not file.is_file():
        raise UserError(f'there is no funnel at "{file}"; {_FIX}')
    funnel = read_json(file, Funnel.from_dict, _FIX)
    require_useful(funnel, config, str(file))
    whole = folder is not None and (folder / MANIFEST).is_file()
    return Past(
        funnel=funnel,
        told_by=f"as in {file}",
        rows=_measured(folder, config) if folder is not None and whole else None,
    )


def require_useful(funnel: Funnel, config: CurateConfig, name: str) -> None:
    """Refuses a funnel that nothing can be planned by.

    Raises:
        UserError: it does not add up, is of another task, or has nothing to train on.
    """
    from dsd.curate.tasks.registry import task_of

    counts = [*_numbers(asdict(funnel))]
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        raise UserError(f'"{name}" holds counts that are no whole numbers from 0 on; {_FIX}')
    try:
        funnel.reconcile(task_of(config.task).candidates)
    except RuntimeError as error:
        raise UserError(f'"{name}" is no funnel of the task {config.task}: {error}; {_FIX}') from error
    if config.frames > 2 and funnel.films is None:
        raise UserError(f'"{name}" counts pairs, but films are planned; give the funnel of a curation that made films')
    if not examples_of(funnel, config):
        raise UserError(
            f'"{name}" tells of {funnel.captions:,} captions that became nothing to train on, so no number of them '
            "gives pairs; give the funnel of a curation that kept some"
        )


def examples_of(funnel: Funnel, config: CurateConfig) -> int:
    """Rows to train on."""
    return (funnel.films or 0) if config.frames > 2 else funnel.pairs


def estimated_rows(config: CurateConfig) -> RowBytes:
    """Sizes of rows by the sizes of their pictures."""
    from dsd.curate.tasks.registry import task_of

    pixels = config.panel_size**2
    panel = pixels * BYTES_PER_PIXEL[config.image_format]
    sheet = task_of(config.task).layout.panels * pixels * BYTES_PER_PIXEL["png"]
    return RowBytes(
        pairs=2 * panel + _WORDS,
        rejects=2 * panel + _WORDS,
        grids=sheet + 2 * _WORDS,
        films=config.frames * panel + _WORDS,
    )


def _measured(folder: Place, config: CurateConfig) -> RowBytes:
    from dsd.data.store import DatasetReader

    size, rows = Counter[str](), Counter[str]()
    for shard in DatasetReader(folder).manifest.shards:
        size[shard.kind] += (folder / shard.path).size()
        rows[shard.kind] += shard.rows
    return estimated_rows(config).measured(size, rows)


def _numbers(values: Mapping[str, object]) -> list[object]:
    found: list[object] = []
    for value in values.values():
        found += _numbers(value) if isinstance(value, dict) else [] if value is None else [value]
    return found
