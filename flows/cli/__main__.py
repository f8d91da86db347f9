"""`python -m flows.cli` is `align`."""

from flows.cli import main

main()
