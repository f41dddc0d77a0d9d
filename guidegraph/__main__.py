"""`python -m guidegraph` is the command `guidegraph`."""

from guidegraph.commands import main

if __name__ == "__main__":
    main()
