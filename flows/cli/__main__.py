"""`python -m flows.cli` is `align`."""

from flows.cli import main

if __name__ == "__main__":
    main()
