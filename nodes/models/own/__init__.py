"""guidegraph's own networks, trained by the workflows that ship."""
