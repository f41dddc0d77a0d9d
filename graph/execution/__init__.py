"""Running a plan: steps, loops, caches and events."""
