"""Networks of released checkpoints, with their parameters under the released names."""
