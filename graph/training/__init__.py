"""Training loops: the optimiser, its options, the resume state and distributed ranks."""
