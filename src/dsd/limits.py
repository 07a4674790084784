"""Between what numbers settings lie, so that one that cannot be worked with is a sentence before any work."""

from __future__ import annotations

from dsd.errors import UserError, cut

MAX_PIXELS = 40_000_000
"""Of a picture that is read or drawn. Larger ones are refused before a pixel is decoded or computed."""
MOST_TEXT_TOKENS = 512
"""What text encoders of text-to-image models are run with at most."""
MOST_SCALE = 1e4
"""Of guidance. Nothing of a picture is left long before."""
MOST_STEPS = 10_000
"""Of a picture's denoising. More would not end, and a damaged file may say so."""
MOST_PICTURES = 10_000
"""Of one prompt."""
MOST = 10**9
"""Of whatever is counted: at a millisecond each they take 12 days."""
_SLOWEST = 1e-6
"""Less would take a time that cannot be told."""
LARGEST = 1e30
"""What float32 can still be multiplied by."""


def require_within(name: str, value: float, least: float, most: float = MOST, *, above: bool = False) -> None:
    """Refuses a number out of a range, and what is no number.

    Args:
        name: of the setting.
        value: of it.
        least: that it may be.
        most: that it may be.
        above: whether it has to be above ``least``.

    Raises:
        UserError: it is out of it.
    """
    if not isinstance(value, bool) and (least < value if above else least <= value) and value <= most:
        return
    wanted = f"above {least:g}" if above else f"at least {_said(least)}"
    if value > most:
        wanted = f"at most {_said(most)}"
    elif isinstance(value, bool) or value != value:
        wanted = f"a number {'' if above else 'of '}{wanted}"
    raise UserError(f"{name} is {cut(repr(value))}, but must be {wanted}")


def require_rate(tflops: float, utilization: float) -> None:
    """Refuses what no device computes at.

    Args:
        tflops: its peak, in 10^12 operations a second.
        utilization: share of that which is reached.

    Raises:
        UserError: either is out of its range.
    """
    require_within("tflops", tflops, _SLOWEST, above=True)
    require_within("utilization", utilization, _SLOWEST, 1, above=True)


def require_frame(name: str, size: tuple[int, int]) -> None:
    """Refuses sizes of pictures that none has.

    Args:
        name: of the setting.
        size: (height, width) in pixels.

    Raises:
        UserError: a side is below 1, or there are too many pixels.
    """
    if min(size) < 1:
        raise UserError(f"{name} is {cut(repr(size))}, but must be a height and a width of at least 1")
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(
            f"{name} is {cut(repr(size))}, but a picture has at most {MAX_PIXELS / 1_000_000:g} million pixels; give "
            "a smaller height and width"
        )


def _said(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
