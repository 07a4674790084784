"""What a judge compared, point by point, for people to read."""

from __future__ import annotations

import re


def points(comparison: str) -> list[tuple[str, str]]:
    """A judge's comparison point by point: what was compared, and ``same``, ``other`` or nothing.

    Args:
        comparison: points apart by semicolons or lines, each of which may end in ``: same`` or ``: other``.
    """
    found = []
    for part in re.split(r"[;\n]+", comparison):
        said = part.strip(" -*•")
        if said:
            about, colon, outcome = said.rpartition(":")
            decided = outcome.strip(" .").lower()
            found.append((about.strip(), decided) if colon and decided in ("same", "other") else (said, ""))
    return found
