"""What the commands share: options, loading of workflows and plugins, errors and signals."""
