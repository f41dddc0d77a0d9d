"""Data sets made on the fly: composed scenes and the single-emoji pictures."""
