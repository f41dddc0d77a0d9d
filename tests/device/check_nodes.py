"""Check each built-in node on the device: python -m tests.device.check_nodes.

Prints a JSON object. passed: the nodes that compute on the device of their inputs what they compute on the CPU. silent:
those of which the check says nothing. failed: what is wrong, by node.
"""

from __future__ import annotations

import json
import sys

from tests.device import simulated_cuda

if __name__ == "__main__":
    simulated_cuda.load()

from guidegraph_testing import Inapplicable, Nonconforming, applicable_checks, cases_of, run_check
from plugins.testing.tests.builtin_cases import NOT_BUILT, overrides, specs

CHECK = "device independence"

if __name__ == "__main__":
    rows: dict[str, dict[str, str]] = {"passed": {}, "silent": {}, "failed": {}}
    for case in cases_of([spec.function for id, spec in specs().items() if id not in NOT_BUILT], overrides()):
        if not applicable_checks(case, (CHECK,)):
            continue
        try:
            run_check(case, CHECK)
            rows["passed"][case.id] = ""
        except Inapplicable as reason:
            rows["silent"][case.id] = str(reason)
        except Nonconforming as error:
            rows["failed"][case.id] = str(error)
    sys.stdout.write(json.dumps(rows) + "\n")
