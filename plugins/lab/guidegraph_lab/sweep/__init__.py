"""A workflow run for each cell of a grid of parameters, here or on Ray, into one folder."""
