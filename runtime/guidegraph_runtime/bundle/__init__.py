"""The bundle on disk: its manifest, and the checks before any of its files is used."""
