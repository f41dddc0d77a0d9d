"""Running a bundle's plan."""
