"""The metrics by the name of their column, in the table's order. A new one is a file in this folder and a line here."""

from __future__ import annotations

from dsd.evaluate.metrics import copying, cosines, costs, diversity, faces, identity, judged, prompt_following
from dsd.evaluate.metrics.protocol import Metric

METRICS: dict[str, Metric] = {
    "identity": identity.METRIC,
    "prompt_following": prompt_following.METRIC,
    "concept_preservation": judged.PRESERVATION,
    "judged_following": judged.FOLLOWING,
    "product": judged.PRODUCT,
    "concept_preservation_debiased": judged.DEBIASED,
    "judge_dropped": judged.DROPPED,
    "diversity": diversity.DIVERSITY,
    "vendi": diversity.VENDI,
    "copy": copying.METRIC,
    "clip_i": cosines.CLIP_I,
    "clip_t": cosines.CLIP_T,
    "seconds_per_image": costs.SECONDS_PER_IMAGE,
    "prepare_seconds": costs.PREPARE_SECONDS,
    "peak_mib": costs.PEAK_MIB,
    "identity/faces": faces.METRIC,
}
COSTS = tuple(name for name, metric in METRICS.items() if "costs" in metric.needs)
"""The columns of what drawing took."""


def metric_of(column: str) -> Metric:
    """The metric of a column, which may be that of a part (``identity/moved``) or of an encoder (``dino_i``)."""
    name, _, part = column.partition("/")
    known = METRICS.get(column) or METRICS.get(name) or cosines.likeness(name)
    return known if not part or column in METRICS else Metric(title=f"{known.title}, {part}", digits=known.digits)
