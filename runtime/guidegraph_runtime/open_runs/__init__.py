"""Runs that are held open between the iterations of their loops, and step together."""
