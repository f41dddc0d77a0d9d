"""Make a bundle a page that runs in a browser: check it, tabulate its samplers, and write the page's files."""
