"""`python -m guidegraph_runtime` is the command `guidegraph-run`."""

from guidegraph_runtime.cli import main

if __name__ == "__main__":
    main()
