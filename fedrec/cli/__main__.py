"""Run ``python -m fedrec.cli``, the same as ``fedrec``."""

from fedrec.cli.app import main

main()
