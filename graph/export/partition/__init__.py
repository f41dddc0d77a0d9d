"""Which operations of a workflow are traced, and which the runtime computes between the graphs."""
