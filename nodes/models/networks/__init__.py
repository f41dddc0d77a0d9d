"""Tools for any network: attention, hooks, low-rank changes, shared and packed weights."""
