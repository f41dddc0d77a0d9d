"""The thread of the page's runs, its memory, and its end."""

from __future__ import annotations

from typing import Any

import pytest

from guidegraph.page import jobs
from tests.page.conftest import Site


def test_whatever_a_run_raises_the_next_one_is_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise SystemExit("no more")

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "FrameMaker", fail)
        job = site.run_to_end()
    assert (job["status"], job["error"]) == ("failed", "SystemExit: no more")
    assert site.run_to_end()["status"] == "done"
