"""Identity of faces alone: the same encoder on aligned crops, over subjects whose reference shows a face."""

from __future__ import annotations

import torch
from torch import Tensor

from dsd.baselines.faces import Faces
from dsd.encoders import ImageEncoder
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known, Pictures
from dsd.scales import IdentityScale


def _on(bench: Bench) -> Measure:
    encoder: ImageEncoder = there(bench.identity)
    faces: Faces = there(bench.faces)

    def seen(pictures: Pictures) -> tuple[Tensor, Tensor]:
        """For each picture whether it has a face, and the features of the face's crop."""
        present, crops = faces.crops(pictures.images)
        return present, encoder.pooled(crops)

    references = {known.subject.id: seen(known.reference) for known in bench.known}
    with_face = [known for known in bench.known if references[known.subject.id][0].item()]
    if not with_face:
        return lambda known, drawn: None
    scale = IdentityScale.of(
        [references[known.subject.id][1] for known in with_face],
        [seen(known.same)[1] for known in with_face],
        [seen(known.strangers)[1] for known in with_face],
    )

    def measure(known: Known, drawn: Drawn) -> Tensor | None:
        present, reference = references[known.subject.id]
        if not present.item():
            return None
        has_face, features = seen(drawn.asked)
        found = scale(reference, features)
        return torch.where(has_face.to(found.device), found, torch.zeros_like(found))

    return measure


METRIC = Metric(
    title="identity, faces",
    meaning="identity of the face's crop; a picture without a face counts as a stranger's",
    needs=needs("identity", "faces", "others"),
    on=_on,
)
