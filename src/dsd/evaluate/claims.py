"""What is claimed of methods against each other, put to the test on a table: paired differences over subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsd.evaluate.bootstrap import Estimate, bootstrap_difference, holm, sign_flip_test
from dsd.evaluate.scores import Scores, in_both

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``metric`` of ``method`` is more than ``factor`` times that of ``against``, subject by subject.

    Attributes:
        text: in words.
        method, against: names of rows.
        metric: of the table's columns.
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
        difference: paired, method minus factor times the other, with its interval over subjects and trainings.
        p: of a paired randomisation test over subjects, corrected for all claims of the table.
        win_rate: share of subjects on which the difference has the claimed sign; ties count half.
        holds: whether the whole interval lies on the claimed side of 0, and p is below 0.05.
    """

    claim: str
    difference: Estimate
    p: float
    win_rate: float
    holds: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        values = self.difference.as_dict()
        return {
            "claim": self.claim, "difference": values["mean"], "low": values["low"], "high": values["high"],
            "p": round(self.p, 4), "win_rate": round(self.win_rate, 4), "holds": self.holds,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """From what `as_dict` gave."""
        difference = Estimate(values["difference"], values["low"], values["high"])
        return cls(
            claim=values["claim"], difference=difference, p=values["p"], win_rate=values["win_rate"],
            holds=values["holds"],
        )  # fmt: skip


PAPER = (
    Claim(text="identity above the text-only model's", method="student", against="teacher", metric="identity"),
    Claim(
        text="prompt following at least 0.9 of the text-only model's",
        method="student", against="teacher", metric="prompt_following", factor=0.9,
    ),
    Claim(text="copies less than the reference itself", method="student", against="copy", metric="copy", less=True),
    *(
        claim
        for name, title in (("dreambooth", "DreamBooth"), ("dreambooth-lora", "DreamBooth-LoRA"))
        for claim in (
            Claim(
                text=f"identity at least 0.95 of {title}'s",
                method="student", against=name, metric="identity", factor=0.95,
            ),
            Claim(
                text=f"prompt following at least {title}'s",
                method="student", against=name, metric="prompt_following",
            ),
            Claim(
                text=f"a hundredth of {title}'s test-time work or less",
                method="student", against=name, metric="prepare_seconds", factor=0.01, less=True,
            ),
        )
    ),
    *(
        Claim(text=f"identity above {title}'s", method="student", against=name, metric="identity")
        for name, title in (
            ("textual-inversion", "Textual Inversion"), ("ip-adapter", "IP-Adapter"),
            ("ip-adapter-plus", "IP-Adapter-Plus"), ("instantid", "InstantID"), ("controlnet", "ControlNet"),
        )
    ),
    Claim(
        text="identity above ControlNet's where the subject has moved",
        method="student", against="controlnet", metric="identity/moved",
    ),
    Claim(
        text="InstantID has more of faces than the text-only model",
        method="instantid", against="teacher", metric="identity/faces",
    ),
    Claim(
        text="InstantID has no more of objects than half of what the student has",
        method="instantid", against="student", metric="identity/objects", factor=0.5, less=True,
    ),
    *(
        Claim(text=f"prompt following above {title}'s", method="student", against=name, metric="prompt_following")
        for name, title in (
            ("ip-adapter", "IP-Adapter"), ("ip-adapter-plus", "IP-Adapter-Plus"), ("instantid", "InstantID"),
            ("controlnet", "ControlNet"),
        )
    ),
)  # fmt: skip
"""The comparisons of arXiv 2411.18616, section 4; the margins (0.9, 0.95, a hundredth) are our own."""

_BY_JUDGE = {"identity": "concept_preservation_debiased", "prompt_following": "judged_following"}
JUDGED = tuple(
    replace(
        claim,
        metric=_BY_JUDGE[claim.metric],
        text=claim.text.replace("identity", "debiased concept preservation").replace("following", "following, judged,"),
    )
    for claim in PAPER
    if claim.metric in _BY_JUDGE
)
"""The same by a judge, where identity is its concept preservation with copying penalised."""


def examine(scores: Sequence[Scores], claims: Sequence[Claim]) -> list[Finding]:
    """Tests the claims whose two rows stand in the table and have the metric, over the subjects that have it in both.

    Args:
        scores: rows over the same subjects in the same order.
        claims: to test.
    """
    rows = {row.name: row for row in scores}
    testable = [c for c in claims if all(n in rows and c.metric in rows[n].metrics for n in (c.method, c.against))]
    values = [in_both(rows[c.method].by_run(c.metric), rows[c.against].by_run(c.metric)) for c in testable]
    tested = [(claim, *pair) for claim, pair in zip(testable, values, strict=True) if pair[0][0]]
    differences = [_differences(claim.factor, *pair) for claim, *pair in tested]
    corrected = holm([sign_flip_test(of_claim) for of_claim in differences])
    findings = []
    for (claim, first, second), of_claim, p in zip(tested, differences, corrected, strict=True):
        difference = bootstrap_difference(first, second, claim.factor)
        beyond = difference.high < 0 if claim.less else difference.low > 0
        signed = [-x if claim.less else x for x in of_claim]
        wins = sum(1.0 if x > 0 else 0.5 if x == 0 else 0.0 for x in signed) / len(signed)
        findings.append(
            Finding(claim=claim.text, difference=difference, p=p, win_rate=wins, holds=beyond and p < _LEVEL)
        )
    return findings


def _differences(factor: float, first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> list[float]:
    one, other = (np.mean(values, axis=0) for values in (first, second))
    return (one - factor * other).tolist()
