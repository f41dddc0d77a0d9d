"""Values between nodes: who owns them, whether they match their type, and how they are written."""
