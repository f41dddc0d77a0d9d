"""``guidegraph open``: a page in the browser that shows workflows, runs them and edits their files."""
