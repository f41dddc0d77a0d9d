"""Hook specifications, the plugin loader and first-party plugins."""
