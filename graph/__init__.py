"""The engine: typed nodes, workflows, plans and runs. It knows nothing of diffusion."""
