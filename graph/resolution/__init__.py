"""From a workflow file to a validated graph: names, links and types are resolved, and all problems reported."""
