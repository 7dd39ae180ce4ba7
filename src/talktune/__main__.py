"""`python -m talktune`."""

from talktune.cli import main

main()
