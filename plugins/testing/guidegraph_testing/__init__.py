"""The conformance kit: checks that hold for every node, for pytest.

A plugin's author points it at a node, and example inputs are made from the types of its ports::

    from guidegraph_testing import NodeCase, conformance_cases

    @pytest.mark.parametrize("check", conformance_cases(guidegraph_apg))
    def test_conforms(check):
        check()
"""

from guidegraph_testing.applicable import applicable_checks, why_inapplicable
from guidegraph_testing.case import Inapplicable, NodeCase, NoExample, Nonconforming
from guidegraph_testing.catalogue import CHECKS
from guidegraph_testing.collect import Check, cases_of, conformance_cases, conforms
from guidegraph_testing.examples import example, register_example
from guidegraph_testing.run_check import run_check

__all__ = [
    "CHECKS",
    "Check",
    "Inapplicable",
    "NoExample",
    "NodeCase",
    "Nonconforming",
    "applicable_checks",
    "cases_of",
    "conformance_cases",
    "conforms",
    "example",
    "register_example",
    "run_check",
    "why_inapplicable",
]
