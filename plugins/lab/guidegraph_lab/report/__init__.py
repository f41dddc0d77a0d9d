"""``guidegraph report``: the results of runs and sweeps as one self-contained HTML page."""
