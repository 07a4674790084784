"""Data of the user's own: would every row be trained on, and is any there twice?"""

from __future__ import annotations

from collections import Counter

from dsd.audit.findings import Findings, Row
from dsd.data.own import Columns, OwnExample
from dsd.data.sources import open_source
from dsd.errors import UserError
from dsd.log import progress


def check_own(data: str, columns: Columns) -> tuple[Findings, list[str]]:
    """Audits what `dsd train --data` reads that `dsd curate` did not write.

    Args:
        data: as `dsd.data.sources.open_source` takes it.
        columns: of the data.

    Returns:
        What was found, and sentences on what was looked at.

    Raises:
        UserError: there are no such data.
    """
    source, findings = open_source(data, columns), Findings()
    assert source.own is not None  # what `dsd curate` wrote is checked by itself
    ids: set[str] = set()
    captions: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    rows = 0
    for rows, outcome in enumerate(progress(source.own.outcomes(), description="checking rows"), start=1):
        if isinstance(outcome, OwnExample):
            _example(outcome, Row(rows), ids, findings)
            captions[outcome.caption] += 1
            sizes.update(picture.size for picture in (*outcome.references, *outcome.targets))
        else:
            findings.wrong(Row(rows), _without_place(outcome, source.own.where, rows))
    if not ids:
        findings.wrong(data, "there is not one row to train on")
    repeated = sum(count for count in captions.values() if count > 1)
    if repeated:
        caption, most = captions.most_common(1)[0]
        findings.note("captions", f'{repeated:,} rows share their caption with another; {most:,} have "{caption}"')
    if len(sizes) > 1:
        (width, height), most = sizes.most_common(1)[0]
        findings.note(
            "pictures",
            f"there are {len(sizes)} sizes of pictures, {height} x {width} being the most frequent; train with "
            "--train.frame-size HEIGHT WIDTH",
        )
    return findings, [f'"{data}" is data of your own', f"read {rows:,} rows, of which {captions.total():,} can be used"]


def _example(example: OwnExample, where: Row, ids: set[str], findings: Findings) -> None:
    if example.id in ids:
        findings.wrong(where, "the same pictures and caption are there twice")
    ids.add(example.id)
    alike = {picture.tobytes() for picture in example.references} & {one.tobytes() for one in example.targets}
    if alike:
        findings.note(where, "a target is its own reference, which teaches copying")


def _without_place(error: UserError, where: str, row: int) -> str:
    return str(error).removeprefix(f'"{where}", row {row}: ')
