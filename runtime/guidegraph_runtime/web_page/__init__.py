"""A page that runs a bundle in a browser: the files of the page, and what a bundle needs so that it can be one."""
