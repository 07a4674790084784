"""What a curation asked of its models, counted from its settings and its funnel; prices and repeats are not kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsd.audit.folder import Folder
from dsd.config import from_json
from dsd.curate import cost
from dsd.curate.config import CurateConfig
from dsd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What was asked of one model.

    Attributes:
        what: it was asked for.
        model: its name.
        calls: how often; each sheet is one.
        given: about how many tokens it read, pictures included; None of a teacher.
        replied: about how many it wrote.
        operations: of floating-point numbers, for drawing; None where they cannot be counted here.
    """

    what: str
    model: str
    calls: int
    given: float | None = None
    replied: float | None = None
    operations: float | None = None


def spent(folder: Folder) -> list[Spent]:
    """What was asked of each model; nothing where that is not known, as for what `dsd data` made of several datasets.

    Args:
        folder: of a dataset, finished or not; of an unfinished one what is judged is counted.
    """
    funnel = folder.funnel
    if funnel is None or not funnel.captions or not funnel.sheets or "made_from" in folder.recipe:
        return []
    said = {name: value for name, value in folder.recipe.items() if name != "revisions"}
    try:
        config = replace(from_json(CurateConfig, json.dumps(said)), units=funnel.captions, unit_size=1)
        amount = cost.amounts(config, None, funnel)
        tokens = cost.tokens(config, amount)
    except UserError:  # of another writer, or with templates that are no more there
        return []
    return list(_asked(config, amount, tokens["chat"], tokens["judge"]))


def _asked(config: CurateConfig, amount: cost.Amounts, chat: cost.Tokens, judge: cost.Tokens) -> Iterator[Spent]:
    if amount.writes:
        yield Spent(what="grid prompts", model=config.chat, calls=amount.writes, given=chat.given, replied=chat.replied)
    if not config.sheets_from:
        operations = None
        with contextlib.suppress(UserError):
            operations = amount.sheets * cost.teacher_operations(config)
        yield Spent(what="sheets", model=config.teacher, calls=amount.sheets, operations=operations)
    yield Spent(
        what="descriptions and judgements", model=config.judge, calls=amount.panels + amount.judgements,
        given=judge.given, replied=judge.replied,
    )  # fmt: skip
