"""Many pictures as one, to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dsd.errors import UserError


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    scale: int = 2,
) -> Image.Image:
    """Lays pictures out in a table, each enlarged without smoothing so that pixels stay visible.

    Args:
        rows: Pictures; rows may differ in length, and every cell takes the size of the largest picture.
        labels: One a column, above.
        row_labels: One a row, at the left.
        scale: Whole enlargement factor, at least 1.

    Returns:
        One RGB picture on white.

    Raises:
        UserError: There is no picture in `rows`.
    """
    cells = [image for row in rows for image in row]
    if not cells:
        raise UserError("a contact sheet needs at least one picture")
    gap, font = 4, ImageFont.load_default(size=12)
    width = scale * max(image.width for image in cells)
    height = scale * max(image.height for image in cells)
    left = max((int(font.getlength(label)) + 2 * gap for label in row_labels or ()), default=0)
    top = 18 if labels else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + gap + columns * (width + gap), top + gap + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels or ()):
        draw.text((left + gap + column * (width + gap), 3), _fit(label, width, font), fill="black", font=font)
    for index, row in enumerate(rows):
        y = top + gap + index * (height + gap)
        if row_labels and index < len(row_labels):
            draw.text((gap, y + height // 2 - 7), row_labels[index], fill="black", font=font)
        for column, image in enumerate(row):
            enlarged = image.convert("RGB").resize(
                (image.width * scale, image.height * scale), Image.Resampling.NEAREST
            )
            sheet.paste(enlarged, (left + gap + column * (width + gap), y))
    return sheet


def _fit(label: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"
