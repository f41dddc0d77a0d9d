"""Check each built-in node on the device: python -m tests.device.check_nodes.

Prints a JSON object. passed: the nodes that compute on the device of their inputs what they compute on the CPU, and
those of a step that do not wait for it. silent: those of which a check says nothing. failed: what is wrong.
"""

from __future__ import annotations

import json
import sys

from guidegraph_testing import simulated_cuda

if __name__ == "__main__":
    simulated_cuda.load()

from guidegraph_testing import Inapplicable, Nonconforming, applicable_checks, cases_of, run_check
from plugins.testing.tests.builtin_cases import NOT_BUILT, overrides, specs

CHECKS = ("device independence", "waits")

if __name__ == "__main__":
    rows: dict[str, dict[str, str]] = {"passed": {}, "silent": {}, "failed": {}}
    for case in cases_of([spec.function for id, spec in specs().items() if id not in NOT_BUILT], overrides()):
        for check in applicable_checks(case, CHECKS):
            try:
                run_check(case, check)
                rows["passed"][f"{case.id}: {check}"] = ""
            except Inapplicable as reason:
                rows["silent"][f"{case.id}: {check}"] = str(reason)
            except Nonconforming as error:
                rows["failed"][f"{case.id}: {check}"] = str(error)
    sys.stdout.write(json.dumps(rows) + "\n")
