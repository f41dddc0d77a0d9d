"""How an operation declares its ports, settings and results."""
