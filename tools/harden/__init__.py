"""Long-running robustness tests of guidegraph; ``python -m tools.harden`` runs them and prints the counts."""
