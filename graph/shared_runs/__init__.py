"""Several runs at once that share the calls of batchable nodes."""
