"""Every private name of torch that the product uses is where `torch_private` says, and the product uses no other."""

from __future__ import annotations

import importlib

import pytest

from guidegraph.graph import torch_private
from tools import reader, source_tree


@pytest.mark.parametrize("name", torch_private.NAMES)
def test_a_private_name_of_torch_is_where_it_was(name: str) -> None:
    place = torch_private.NAMES[name]
    module = importlib.import_module(place.module)
    assert not place.name or hasattr(module, place.name), f"torch has no {place.module}.{place.name} now: {place.use}"
    assert getattr(torch_private, name) is (getattr(module, place.name) if place.name else module)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        _ = torch_private.other


def test_a_name_is_read_once() -> None:
    """A read of a name is one look into the module from the second on, as loops read some of them in each step."""
    _ = torch_private.pytree
    assert "pytree" in vars(torch_private)


def test_private_names_of_torch_are_in_one_file() -> None:
    found = [line for module in source_tree.product_modules() for line in reader.torch_privates(module)]
    others = [line for line in found if not line.startswith("graph/torch_private.py")]
    assert len(others) <= 9, others
