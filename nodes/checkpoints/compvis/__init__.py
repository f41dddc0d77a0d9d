"""CompVis' single-file checkpoints."""
