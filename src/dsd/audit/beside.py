"""What lies beside a curation's shards, and decides how it goes on: settings, captions, records of units."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from dsd import runs
from dsd.audit.findings import Findings
from dsd.audit.folder import UNITS, Folder, numbers
from dsd.config import decides, from_json
from dsd.curate.claimed import INDEX, Captions
from dsd.curate.config import CurateConfig
from dsd.curate.units import UnitLedger
from dsd.data.store import MANIFEST
from dsd.errors import UserError

_DIGEST = "captions"
"""The source that stands for the captions; see `dsd.curate.pipeline`."""


def look_beside(folder: Folder, findings: Findings) -> None:
    """Compares with the manifest, or with one another, what a curation left beside its rows; nothing where it did not.

    Args:
        folder: of the dataset.
        findings: where to say what is the matter.
    """
    if folder.finished and (folder.path / runs.CONFIG).exists():
        _told(findings, runs.CONFIG, lambda: _settings(folder, findings))
    if (folder.path / UNITS / INDEX).exists():
        _told(findings, f"{UNITS}/{INDEX}", lambda: _captions(folder, findings))
    if folder.finished:
        _records(folder, findings)


def _settings(folder: Folder, findings: Findings) -> None:
    """Whether a curation that goes on here has the settings that the manifest says."""
    before = runs.config_of(folder.path, CurateConfig)
    recipe = {name: value for name, value in folder.recipe.items() if name != "revisions"}
    said = from_json(CurateConfig, json.dumps(recipe))
    for field in dataclasses.fields(CurateConfig):
        one, other = getattr(before, field.name), getattr(said, field.name)
        if one != other and decides(field):
            findings.wrong(runs.CONFIG, f"{field.name} is {one!r}, but {other!r} in the {MANIFEST}")
    if folder.recipe.get("revisions") != runs.sources_of(folder.path):
        findings.wrong(runs.SOURCES, f"the revisions are not those of the {MANIFEST}")


def _captions(folder: Folder, findings: Findings) -> None:
    captions = Captions.find(folder.path / UNITS)
    captions.verify()
    if (folder.path / runs.SOURCES).exists():
        digest = runs.sources_of(folder.path).get(_DIGEST, captions.digest)
        if digest != captions.digest:
            findings.wrong(f"{UNITS}/{INDEX}", "the captions are not those that the curation took")


def _records(folder: Folder, findings: Findings) -> None:
    """Whether the records of units name the files that the manifest names."""
    ledger, known = UnitLedger(folder.path), {shard.path: shard for shard in folder.shards}
    for number in numbers(folder.path / UNITS, "json"):
        name = f"{UNITS}/{number:05d}.json"
        record = _told(findings, name, lambda number=number: ledger.written(number))
        if record is not None and any(known.get(shard.path) != shard for shard in record.shards):
            findings.wrong(name, f"the record tells of other files than the {MANIFEST}")
        sheets = name.replace("/", "/sheets-")
        digests = _told(findings, sheets, lambda number=number: ledger.written_sheets(number))
        drawn = known.get(f"grids/{number:05d}.parquet")
        if digests and drawn is not None and drawn.sha256 not in digests:
            findings.wrong(sheets, f"the record tells of other sheets than the {MANIFEST}")


def _told(findings: Findings, name: str, read: Callable[[], Any]) -> Any:
    """What a reader gives; None, with a finding, where it cannot be read."""
    try:
        return read()
    except UserError as error:
        findings.wrong(name, str(error))
        return None
