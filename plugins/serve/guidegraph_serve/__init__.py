"""A server of bundles, where unlike requests share the calls of a step."""
