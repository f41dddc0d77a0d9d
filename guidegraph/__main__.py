"""`python -m guidegraph` is the command `guidegraph`."""

from guidegraph.cli import main

if __name__ == "__main__":
    main()
