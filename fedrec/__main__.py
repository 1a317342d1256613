"""Run ``python -m fedrec``, the same as ``fedrec``."""

from fedrec.cli.app import main

main()
