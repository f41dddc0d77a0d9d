"""An example value for each port type: small, seeded, the same on every machine."""

from guidegraph_testing.examples.by_type import example, make_example, register_example
from guidegraph_testing.examples.sizes import BATCH, SIZES, TEXTS, draw_normal, make_integers

__all__ = ["BATCH", "SIZES", "TEXTS", "draw_normal", "example", "make_example", "make_integers", "register_example"]
