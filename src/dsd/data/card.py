"""The card of a dataset: ``README.md``, whose header tells `datasets` and the hub's viewer what the folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from dsd.data.rows import SINCE_2, Kind, features

if TYPE_CHECKING:  # imported where it is used: it is slow
    from datasets import DatasetInfo

CARD = "README.md"


def card(rows: Mapping[Kind, int], trained_on: Kind, *, with_scores: bool = True) -> str:
    """The text of a card.

    Args:
        rows: of the dataset, by kind.
        trained_on: the kind of the rows to train on.
        with_scores: whether the files have the columns `dsd.data.rows.SINCE_2`.
    """
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    kinds: list[Kind] = [kind for kind in get_args(Kind) if kind != "films" or trained_on == "films"]
    held: list[Kind] = [
        kind for kind in kinds if rows.get(kind)
    ]  # `datasets` cannot read a configuration without files
    header = DatasetCardData(
        license="unknown",
        task_categories=["text-to-image", "image-to-image"],
        tags=["identity-preserving", "synthetic"],
        size_categories=_size(rows[trained_on]),
        configs=[_config(kind, trained_on) for kind in held],
    )
    DatasetInfosDict({kind: _info(kind, rows[kind], with_scores) for kind in held}).to_dataset_card_data(header)
    counts = ", ".join(f"{rows[kind]} {kind}" for kind in kinds)
    films = ""
    if trained_on == "films":
        films = (
            "\n`films` holds examples of several references or targets, of panels that were all kept with one another."
        )
    return f"""---
{header.to_yaml()}
---

# Pairs of one individual in two scenes

Made by `dsd curate`: {counts}. A teacher drew sheets of one subject, a vision-language model judged every two panels.
`pairs` holds what it kept, in both orders: a `reference`, and a `target` under its caption. `rejects` holds the rest
with the `reason`, `grids` a row for each caption. `manifest.json` names the settings and the models.{films}
The license is that of what the teacher draws and of the captions that it drew after; write it into the header.

    datasets.load_dataset("this/folder")             # the {trained_on}
    datasets.load_dataset("this/folder", "rejects")
    datasets.load_dataset("parquet", data_files="s3://bucket/folder/{trained_on}/*.parquet", streaming=True)
"""


def _config(kind: Kind, trained_on: Kind) -> dict[str, Any]:
    files = [{"split": "train", "path": f"{kind}/*.parquet"}]
    return {"config_name": kind, **({"default": True} if kind == trained_on else {}), "data_files": files}


def _info(kind: Kind, rows: int, with_scores: bool) -> DatasetInfo:
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo

    splits = SplitDict({"train": SplitInfo(name="train", num_examples=rows)})
    held = {name: feature for name, feature in features(kind).items() if with_scores or name not in SINCE_2}
    return DatasetInfo(features=Features(held), splits=splits, config_name=kind)


def _size(rows: int) -> str:
    """The hub's name for a number of rows, such as ``1K<n<10K``."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    for power, bound in enumerate(bounds):
        if rows < 1000 * 10**power:
            return f"n<{bound}" if power == 0 else f"{bounds[power - 1]}<n<{bound}"
    return f"n>{bounds[-1]}"
