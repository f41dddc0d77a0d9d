"""Files that a request carries: pictures, masks and maps, and tensors. They are bytes of the request, never a path.

A request cannot name a file of the server: where a bundle has a parameter that is a file, the server takes bytes alone.
They are checked by size and by the picture's header before anything is decoded, stay in memory, and go with their job.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from guidegraph_runtime.bundle.manifest_types import PICTURE_TYPES, Input
from guidegraph_runtime.limits import LimitExceeded
from guidegraph_runtime.pictures.picture_files import open_picture
from guidegraph_serve.jobs import RequestRefused, drop_remedy

SENT_TYPES = (*PICTURE_TYPES, "tensor")
"""The types of inputs whose files a request may carry."""
BASE64_FILE = r"^(data:[^,]*;base64,)?([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
"""What a JSON body has for a file: a data URL in base64, or base64 alone."""
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
"""Pillow reads many more, some by programs of the machine: PostScript, for example."""


def decode_files(inputs: Mapping[str, Input], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the bytes of their files in place of data URLs and base64. Raises ``RequestRefused``."""
    return {
        name: _decode_value(name, inputs[name], value) if name in inputs and inputs[name].type in SENT_TYPES else value
        for name, value in params.items()
    }


def _decode_value(name: str, spec: Input, value: Any) -> Any:
    """The bytes of a data URL (RFC 2397) in base64, or of base64 alone; of each in a list."""
    if isinstance(value, list) and spec.many:
        return [_decode_value(name, spec, item) for item in value]
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise RequestRefused(f"'{name}': expected {describe_form(spec)}, found {value!r:.80}", name)
    content = value
    if value.startswith("data:"):
        head, comma, content = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise RequestRefused(f"'{name}': expected a data URL in base64, found {value!r:.40}…", name)
    try:
        if len(content) % 4 or content.endswith("==="):  # b64decode takes more padding than it needs
            raise ValueError("padding")
        return b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        message = f"'{name}': expected {describe_form(spec)}, found {value!r:.80}; the server reads no files of its own"
        raise RequestRefused(message, name) from None


def describe_form(spec: Input) -> str:
    """How a JSON body has a file of an input."""
    if spec.type == "tensor":
        return "a .npy or .safetensors file in base64"
    return "a picture as a data URL or in base64"


def check_picture(name: str, data: bytes) -> None:
    """Check a picture by its header, before it is decoded. Raises ``RequestRefused``; the limit of pixels holds."""
    try:
        with open_picture(BytesIO(data), f"'{name}'", PICTURE_FORMATS):
            pass
    except LimitExceeded as error:
        raise RequestRefused(drop_remedy(str(error)), name, "too-large", 413) from None
    except (OSError, SyntaxError, ValueError):
        message = (
            f"'{name}': expected a picture as {', '.join(PICTURE_FORMATS)}, found {len(data)} bytes of another kind"
        )
        raise RequestRefused(message, name, "bad-picture") from None


def read_openai_mask(data: bytes) -> bytes:
    """A mask of OpenAI's clients as the bundles take it: the brighter, the more is drawn again.

    There the transparent pixels of the mask are drawn again, so transparency becomes brightness. A mask without any is
    returned as it is. ``check_picture`` comes before.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data), formats=PICTURE_FORMATS) as picture:
            if not picture.has_transparency_data:
                return data
            written = BytesIO()
            ImageOps.invert(picture.convert("RGBA").getchannel("A")).save(written, "PNG")
    except (OSError, SyntaxError, ValueError):
        raise RequestRefused("'mask': cannot be read as a picture: it is damaged", "mask", "bad-picture") from None
    return written.getvalue()
