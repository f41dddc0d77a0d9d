"""From a resolved graph to a flat plan: passes, digests, choices and the checks before a run."""
