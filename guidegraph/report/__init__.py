"""``guidegraph report``: what a run, a sweep or several of them gave, as one HTML page that needs nothing else."""
