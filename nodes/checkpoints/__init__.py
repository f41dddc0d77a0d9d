"""Released checkpoints: reads their files, infers their architecture, and fills our modules."""
