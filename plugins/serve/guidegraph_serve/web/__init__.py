"""The server over HTTP: its routes, answers and access."""
