"""`dsd data`: checks a dataset, shows it, and makes other datasets of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import tyro

from dsd.data.own import Columns


@dataclass(frozen=True, kw_only=True)
class Check:
    """Audits data to train on, prints a table of findings, and exits with status 1 when something is wrong.

    Of what `dsd curate` wrote, finished or not: hashes, schema, sums, ids, panels, captions, pictures. Of data of your
    own: every row as training would read it.
    """

    folder: tyro.conf.Positional[str]
    """A dataset's folder, or whatever else `dsd train --data` takes."""
    pictures: bool = True
    """Decode every picture."""
    strict: bool = False
    """Exit with status 1 for notes too."""
    columns: Columns = Columns()
    """Names of the columns of your own data."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Writes a page that shows a dataset, finished or not, in one file that needs no network."""

    folder: tyro.conf.Positional[str]
    """The dataset's folder."""
    out: str
    """The page to write, such as page.html."""
    pairs: int = 12
    """How many kept pairs are shown, and how many rejected ones."""
    seed: int = 0
    """Which ones."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Makes one dataset of several; a row that is in more than one of them is taken once."""

    folders: tyro.conf.Positional[tuple[str, ...]]
    """Folders of finished datasets."""
    out: str
    """Folder of the new dataset."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Makes a dataset of the candidates, kept and rejected, of which something holds.

    A condition compares columns of the pairs and rejects with values, and may join such comparisons:
    "score >= 0.8 and not subject contains cat", "same", "reason = 'below min_score' or outcome = kept",
    "grid in (4f, 5a)", "score is null".
    """

    folder: tyro.conf.Positional[str]
    """Folder of a finished dataset."""
    where: str
    """The condition."""
    out: str
    """Folder of the new dataset."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Makes two datasets of one, OUT/train and OUT/validation, that share no individual.

    Which side something is on depends on hashes alone.
    """

    folder: tyro.conf.Positional[str]
    """Folder of a finished dataset."""
    validation: float = 0.1
    """The share of subjects or sheets that go to the validation side; each side gets at least one."""
    by: Literal["subject", "grid"] = "subject"
    """What stays together: all sheets whose prompts name one subject, or the panels of one sheet."""
    out: str
    """Folder of the new datasets."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


Command = Check | Show | Merge | Filter | Split


def variants() -> dict[str, tuple[str, Command]]:
    given: Any = tyro.MISSING
    return {
        "check": ("is a dataset what it says it is?", Check(folder=given)),
        "show": ("a page of a dataset: funnel, pairs with the judge's words, diversity", Show(folder=given, out=given)),
        "merge": ("several datasets -> one", Merge(folders=given, out=given)),
        "filter": ("a dataset -> the part of which something holds", Filter(folder=given, where=given, out=given)),
        "split": ("a dataset -> two that share no individual", Split(folder=given, out=given)),
    }


def plan(command: Command) -> list[str]:
    if isinstance(command, Check):
        pictures = "decode every picture" if command.pictures else "decode no picture"
        return [f"read all of {command.folder}, {pictures}, and print what is wrong; nothing is changed"]
    if isinstance(command, Show):
        return [f"write a page of {command.folder} with {command.pairs} kept and rejected pairs each to {command.out}"]
    if isinstance(command, Merge):
        return [f"copy the rows of {', '.join(command.folders)}, each once, to {command.out}"]
    if isinstance(command, Filter):
        return [f"copy the candidates of {command.folder} of which {command.where} holds to {command.out}"]
    return [
        f"copy {command.validation:.0%} of the {command.by}s of {command.folder} to {command.out}/validation, the "
        f"others to {command.out}/train"
    ]


def run(command: Command) -> None:
    if isinstance(command, Check):
        _check(command)
        return
    if isinstance(command, Show):
        from dsd.audit.show import show_dataset

        show_dataset(command.folder, command.out, pairs=command.pairs, seed=command.seed)
        print(command.out)
        return
    from dsd.audit import edit

    if isinstance(command, Merge):
        edit.merge_datasets(command.folders, command.out)
    elif isinstance(command, Filter):
        edit.filter_dataset(command.folder, command.where, command.out)
    else:
        edit.split_dataset(command.folder, command.validation, command.by, command.out)


def _check(command: Check) -> None:
    from dsd.audit.check import check_dataset
    from dsd.audit.folder import is_curated
    from dsd.audit.own import check_own

    if is_curated(command.folder):
        findings, summary = check_dataset(command.folder, pictures=command.pictures)
    else:
        findings, summary = check_own(command.folder, command.columns)
    for sentence in summary:
        print(sentence)
    for finding in findings:
        print(finding.line())
    wrong, notes = findings.count("wrong"), findings.count("note")
    print(f"wrong: {wrong}, worth a note: {notes}" if wrong + notes else "nothing is wrong")
    if wrong or (command.strict and notes):
        raise SystemExit(1)
