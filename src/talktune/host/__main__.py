"""`python -m talktune.host`."""

from talktune.host.process import main

main()
