"""A judge is asked about pairs of which the truth is known, and its figures are written; see `calibration`.

The answers are kept: another precision afterwards, or the same command after a stop, asks nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsd import runs
from dsd.chat.protocol import ChatFailure
from dsd.chat.registry import load_chat, require_connection
from dsd.curate.calibration import Calibration, Point, Scored, Share, calibrate
from dsd.curate.config import CalibrateConfig
from dsd.curate.contradiction import misquoted
from dsd.curate.judge import judge_of, judge_pairs
from dsd.curate.labelled import LabelledPair, fingerprint, pair_of, read_labelled
from dsd.curate.tasks.identity import IDENTITY
from dsd.data.records import Verdict
from dsd.files import make_folder, write_atomic
from dsd.log import console, progress, quiet_libraries

VERDICTS, FIGURES, TABLE = "verdicts", "calibration.json", "calibration.md"
_ASKED_AT_ONCE = 64
_ROWS = 12
_OF_WORDS = ("common_subject", "first_details", "second_details", "comparison", "same")


def calibrate_judge(config: CalibrateConfig, out: Path) -> Calibration:
    """Asks a judge about labelled pairs, and writes what its verdicts and scores are worth.

    Args:
        config: what is asked, and the precision that is wanted.
        out: folder for the verdicts, ``calibration.json`` and ``calibration.md``.

    Raises:
        UserError: the pairs or the judge cannot be used, or the folder holds the calibration of another one.
    """
    runs.begun(make_folder(out), config, "a calibration")
    pairs = read_labelled(config.pairs)
    quiet_libraries()
    judge, templates = load_chat(config.judge, batch_size=config.chat_batch), IDENTITY.load_templates(config.templates)
    who = judge_of(judge, templates, config.chain_of_thought, config.votes)
    sources = {"judge": who.revision, "template": who.template, "pairs": fingerprint(pairs)}
    ledger = runs.Ledger(out / VERDICTS)
    starts = range(0, len(pairs), _ASKED_AT_ONCE)
    if any(not ledger.path(_name(at)).exists() for at in starts):
        require_connection(judge)
    runs.claim(out, config, sources, "a calibration")
    rows: list[dict[str, Any]] = []
    for at in progress(starts, description="judging", total=len(starts)):
        found = ledger.find(_name(at), _read)
        if found is None:
            asked = [pair_of(str(at + n), *pair.pictures()) for n, pair in enumerate(pairs[at : at + _ASKED_AT_ONCE])]
            verdicts = judge_pairs(
                asked,
                judge,
                templates,
                chain_of_thought=config.chain_of_thought,
                seed=config.seed,
                votes=config.votes,
            )
            found = [_kept(verdict) for verdict in verdicts]
            ledger.commit(_name(at), found)
        rows += found
    figures = calibrate(scored(rows, pairs), config.precision, surely=config.surely)
    _write(figures, words_of(rows), config, out)
    return figures


def scored(rows: Sequence[Mapping[str, Any]], pairs: Sequence[LabelledPair]) -> list[Scored]:
    """Kept verdicts beside the truth."""
    return [
        Scored(truth=pair.same, said=row.get("same"), score=row.get("score"))
        for row, pair in zip(rows, pairs, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a judge's words are worth.

    Attributes:
        failures: pairs without a usable reply, by reason.
        misquoting: share of comparisons of descriptions that contradict these in a point.
    """

    failures: Mapping[str, int]
    misquoting: Share


def words_of(rows: Sequence[Mapping[str, Any]]) -> Words:
    """Of kept verdicts."""
    compared = [
        misquoted(Verdict(**{name: row[name] for name in _OF_WORDS})) > 0 for row in rows if row.get("comparison")
    ]
    failures = Counter(row["reason"] for row in rows if "reason" in row)
    return Words(failures=dict(sorted(failures.items())), misquoting=Share(sum(compared), len(compared)))


def as_text(figures: Calibration, words: Words, judge: str) -> str:
    """The figures for reading, in Markdown."""
    lines = [
        f"# {judge} on {figures.pairs:,} labelled pairs, {figures.same:,} of them the same",
        "",
        "| kept from a score of | precision | recall |",
        "|---|---|---|",
        *(_row(point) for point in _some(figures)),
        "",
        f"Wilson's 95 % intervals. Precision is for {figures.same / figures.pairs:.0%} of candidates being the same: "
        "where more are, it is higher.",
    ]
    if figures.failed:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in words.failures.items())
        lines.append(f"Without a usable reply, and so not kept: {reasons}.")
    if words.misquoting.of:
        lines.append(f"Comparisons that contradict the descriptions above them: {words.misquoting}.")
    if figures.error is None:
        lines.append("The judge does not say how sure it is: let it vote several times to have scores.")
    else:
        lines.append(f"Scores are off by {figures.error:.3f} on average (expected calibration error).")
    return "\n".join([*lines, *_advice(figures)]) + "\n"


def _advice(figures: Calibration) -> list[str]:
    wanted = f"a precision of {figures.wanted:g}"
    if figures.chosen is None or figures.held_out is None:
        best = max(figures.curve, key=lambda point: point.precision.value or 0.0)
        return [f"No score has {wanted}; the best is {best.precision} at {best.min_score:g}."]
    point, (precision, recall) = figures.chosen, figures.held_out
    return [
        f"For {wanted}: --curate.min-score {point.min_score:g}, with precision {point.precision}, recall "
        f"{point.recall}; on pairs that it was not chosen with, {precision} and {recall}."
    ]


def _some(figures: Calibration) -> list[Point]:
    """A few points of the curve, evenly apart in what they keep, with the chosen one."""
    count = len(figures.curve)
    places = {round(n * (count - 1) / (_ROWS - 1)) for n in range(_ROWS)} if count > 1 else {0}
    return [point for at, point in enumerate(figures.curve) if at in places or point is figures.chosen]


def _row(point: Point) -> str:
    return f"| {point.min_score:g} | {point.precision} | {point.recall} |"


def _name(at: int) -> str:
    return f"{at // _ASKED_AT_ONCE:05d}"


def _kept(verdict: Verdict | ChatFailure) -> dict[str, Any]:
    """All that was said, for JSON; a failure has no ``same``."""
    return asdict(verdict)


def _read(content: Any) -> list[dict[str, Any]]:
    if not all(isinstance(row, dict) and ("same" in row or "reason" in row) for row in content):
        raise TypeError("no verdicts")
    return list(content)


def _write(figures: Calibration, words: Words, config: CalibrateConfig, out: Path) -> None:
    text = as_text(figures, words, config.judge)
    said = {"failures": words.failures, "misquoting": words.misquoting.as_dict()}
    write_atomic(out / FIGURES, json.dumps(figures.as_dict() | said, indent=2) + "\n")
    write_atomic(out / TABLE, text)
    print(text, end="")
    console.print(f"in {out}")
