"""The command line: `pyrovae fit x.npy --out run`, and the commands that read what it leaves.

A command is one file in `commands/`, found by listing that folder. It holds `command`, a `click.Command`, and imports
click alone at its top, so that `--help` needs neither torch nor Pyro nor NumPy. The first line of the file is what
`pyrovae --help` says of the command. A command raises `click.UsageError`, or lets the package's own errors pass:
`main` prints them in the command line's words and gives the exit status.
"""

from pyrovae.cli.entry import main

__all__ = ["main"]
