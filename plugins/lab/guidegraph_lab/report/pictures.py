"""Pictures in the page: small copies in data URIs, without the metadata of the files."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guidegraph_lab.report.collect import Picture
from guidegraph_lab.report.html import Html, join, note, tag

if TYPE_CHECKING:
    from PIL import Image

MOST = 200
THUMBNAIL, LARGE = 192, 768
FEW = 12
PIXELATED = 64
"""Pictures up to this side are shown pixelated."""
SIZE_LIMIT = 100_000_000
EXACT, QUALITY = 16 << 10, 90
"""A copy larger than the first as PNG is stored as JPEG of this quality: a page of 200 must still fit in an e-mail."""


def contact_sheet(pictures: Sequence[Picture], notes: list[str], most: int = MOST) -> Html:
    """A contact sheet of at most ``most`` pictures. Unreadable ones are reported in ``notes``."""
    chosen = choose_pictures(pictures, most)
    large = len(pictures) <= FEW * most // MOST
    figures = []
    for picture in chosen:
        try:
            image, side = _make_thumbnail(picture, LARGE if large else THUMBNAIL)
        except (OSError, ValueError, SyntaxError) as error:
            notes.append(f"The picture {picture.file.name} ({picture.caption}) cannot be shown: {error}.")
            continue
        css_class = "pixels" if side <= PIXELATED else None
        content = tag("div", image, class_=css_class)
        figures.append(tag("figure", content, tag("figcaption", picture.caption)))
    parts = [tag("div", *figures, class_="sheet large" if large else "sheet")] if figures else []
    if omitted := len(pictures) - len(chosen):
        which = ": these are the first of each cell" if chosen else ""
        parts.append(note(f"{omitted} of {len(pictures)} pictures are left out{which}."))
    return join(parts)


def choose_pictures(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """Choose at most ``most`` pictures, evenly over the cells, the first of each batch first; order is kept."""
    if len(pictures) <= most:
        return list(pictures)
    kept = sorted(range(len(pictures)), key=lambda i: (pictures[i].index, i))
    first = [i for i in kept if pictures[i].index == 0]
    if len(first) > most:
        kept = [first[k * len(first) // most] for k in range(most)]
    return [pictures[i] for i in sorted(kept[:most])]


def _encode(image: Image.Image) -> tuple[str, bytes]:
    """Encode a picture. Returns the format and the bytes."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    if data.tell() <= EXACT:
        return "png", data.getvalue()
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY, subsampling=0)
    return "jpeg", data.getvalue()


def _make_thumbnail(picture: Picture, side: int) -> tuple[Html, int]:
    """The image element, and the longer side of the original. Raises what Pillow raises."""
    from PIL import Image

    with Image.open(picture.file, formats=["PNG"]) as image:
        if image.width * image.height > SIZE_LIMIT:
            raise ValueError(f"it has {image.width} x {image.height} pixels")
        longer = max(image.size)
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind, data = _encode(small)
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    label = re.sub(r"\s+", " ", f"{picture.output}: {picture.cell}" if picture.cell else picture.output)
    element = tag("img", src=address, alt=label, title=label, width=small.width, height=small.height)
    return Html(element.removesuffix("</img>")), longer
