"""Pictures inside the page: small copies in data URIs, without the texts that the files carry."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guidegraph.report.collect import Picture
from guidegraph.report.html import Html, joined, note, tag

if TYPE_CHECKING:
    from PIL import Image

MOST = 200
THUMBNAIL, LARGE = 192, 768
FEW = 12
PIXELATED = 64
"""Pictures of at most as many pixels a side are shown with their pixels as squares."""
SIZE_LIMIT = 100_000_000
EXACT, QUALITY = 16 << 10, 90
"""A copy of more bytes than the first as PNG is JPEG of this quality: a page of 200 must still go by mail."""


def sheet(pictures: Sequence[Picture], notes: list[str], most: int = MOST) -> Html:
    """A contact sheet of at most so many pictures; one that cannot be read becomes a note."""
    chosen = choose(pictures, most)
    large = len(pictures) <= FEW * most // MOST
    figures = []
    for picture in chosen:
        try:
            image, side = _image(picture, LARGE if large else THUMBNAIL)
        except (OSError, ValueError, SyntaxError) as error:
            notes.append(f"The picture {picture.file.name} ({picture.caption}) cannot be shown: {error}.")
            continue
        kind = "pixels" if side <= PIXELATED else None
        shown = tag("div", image, class_=kind)
        figures.append(tag("figure", shown, tag("figcaption", picture.caption)))
    parts = [tag("div", *figures, class_="sheet large" if large else "sheet")] if figures else []
    if left := len(pictures) - len(chosen):
        which = ": these are the first of each cell" if chosen else ""
        parts.append(note(f"{left} of {len(pictures)} pictures are left out{which}."))
    return joined(parts)


def choose(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """As many as fit, spread evenly over the cells, the first of each batch before the second; in their order."""
    if len(pictures) <= most:
        return list(pictures)
    kept = sorted(range(len(pictures)), key=lambda i: (pictures[i].index, i))
    first = [i for i in kept if pictures[i].index == 0]
    if len(first) > most:
        kept = [first[k * len(first) // most] for k in range(most)]
    return [pictures[i] for i in sorted(kept[:most])]


def _encoded(image: Image.Image) -> tuple[str, bytes]:
    """The format, and the bytes of the file."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    if data.tell() <= EXACT:
        return "png", data.getvalue()
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY, subsampling=0)
    return "jpeg", data.getvalue()


def _image(picture: Picture, side: int) -> tuple[Html, int]:
    """The element, and the longer side of the file's picture. Raises what Pillow raises."""
    from PIL import Image

    with Image.open(picture.file, formats=["PNG"]) as found:
        if found.width * found.height > SIZE_LIMIT:
            raise ValueError(f"it has {found.width} x {found.height} pixels")
        longer = max(found.size)
        small = found.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind, data = _encoded(small)
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    label = re.sub(r"\s+", " ", f"{picture.output}: {picture.cell}" if picture.cell else picture.output)
    element = tag("img", src=address, alt=label, title=label, width=small.width, height=small.height)
    return Html(element.removesuffix("</img>")), longer
