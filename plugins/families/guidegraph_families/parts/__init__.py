"""Loaders of parts that several families have: text encoders, first stages, U-Nets."""
