"""What a workflow may do: its limits, the files that it may touch, and the code that it may run."""
