"""Parsing and formatting of byte sizes."""

from __future__ import annotations

import pytest

from guidegraph_runtime.machine.memory import parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GB", 6 * 10**9),
        ("800MB", 8 * 10**8),
        ("800 mb", 8 * 10**8),
        ("1.5GiB", 3 * 2**29),
        ("12kB", 12000),
        ("1b", 1),
        ("4096", 4096),
        (4096, 4096),
        ("123456789012345", 123456789012345),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "6G", "6 gigabytes", "-1", "-6GB", "0", "0GB", "0.0001kB", "1e9", "GB", "nan", "6GB 7GB", "٣GB", True, 0],
)
def test_invalid_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"is not a size|less than one byte"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1001, "1.01 kB"),
        (5_134_567_890, "5.14 GB"),
        (51_300_000_000, "51.3 GB"),
        (512_300_000, "513 MB"),
        (10**24, "1e+12 TB"),
        (2**5000, "1e+12 TB"),
    ],
)
def test_a_formatted_size_is_never_too_small(size: int, text: str) -> None:
    assert show_size(size) == text
