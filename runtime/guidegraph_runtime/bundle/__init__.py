"""The bundle on disk: its manifest, and the checks before anything in it is used."""
