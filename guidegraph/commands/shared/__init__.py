"""Shared by the commands: options, loading of workflows and plugins, errors and signals."""
