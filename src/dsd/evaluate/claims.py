"""What the paper claims of its method against others, put to the test on a table: paired differences over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsd.evaluate.bootstrap import Estimate, bootstrap
from dsd.evaluate.measure import Scores


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``metric`` of ``method`` is more than ``factor`` times that of ``against``, subject by subject.

    Attributes:
        text: in words.
        method, against: names of rows.
        metric: of `dsd.evaluate.measure.METRICS`.
        factor: that the other's value is multiplied by.
        less: it is less, not more.
    """

    text: str
    method: str
    against: str
    metric: str
    factor: float = 1.0
    less: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a table says of a claim.

    Attributes:
        claim: in words.
        difference: paired, method minus factor times the other, with its interval over subjects.
        holds: whether the whole interval lies on the claimed side of 0.
    """

    claim: str
    difference: Estimate
    holds: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        values = self.difference.as_dict()
        return {
            "claim": self.claim, "difference": values["mean"], "low": values["low"], "high": values["high"],
            "holds": self.holds,
        }  # fmt: skip


PAPER = (
    Claim(text="identity above the text-only model's", method="student", against="teacher", metric="identity"),
    Claim(
        text="prompt following at least 0.9 of the text-only model's",
        method="student", against="teacher", metric="prompt_following", factor=0.9,
    ),
    Claim(text="copies less than the reference itself", method="student", against="copy", metric="copy", less=True),
    Claim(
        text="identity at least 0.95 of DreamBooth's",
        method="student", against="dreambooth", metric="identity", factor=0.95,
    ),
    Claim(
        text="prompt following no worse than DreamBooth's",
        method="student", against="dreambooth", metric="prompt_following",
    ),
    Claim(
        text="a hundredth of DreamBooth's test-time work or less",
        method="student", against="dreambooth", metric="prepare_seconds", factor=0.01, less=True,
    ),
)  # fmt: skip
"""The comparisons of arXiv 2411.18616 that there are rows for; the margins (0.9, 0.95, a hundredth) are our own."""


def examine(scores: Sequence[Scores], claims: Sequence[Claim] = PAPER) -> list[Finding]:
    """Tests the claims whose two rows stand in the table.

    Args:
        scores: rows over the same subjects in the same order.
        claims: to test.
    """
    rows = {row.name: row.values for row in scores}
    findings = []
    for claim in claims:
        if claim.method in rows and claim.against in rows:
            pairs = zip(rows[claim.method][claim.metric], rows[claim.against][claim.metric], strict=True)
            difference = bootstrap([one - claim.factor * other for one, other in pairs])
            holds = difference.high < 0 if claim.less else difference.low > 0
            findings.append(Finding(claim=claim.text, difference=difference, holds=holds))
    return findings
