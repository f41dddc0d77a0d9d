"""The machine: its memory, shortages and signals."""
