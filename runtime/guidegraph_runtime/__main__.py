"""`python -m guidegraph_runtime` is the command `guidegraph-run`."""

from guidegraph_runtime.cli import process

if __name__ == "__main__":
    process()
