"""Folders of pictures as data sets."""
