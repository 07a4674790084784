"""`python -m dsd`, and so `accelerate launch -m dsd train ...`: the command `dsd` by the name of its module."""

from __future__ import annotations

from dsd.cli.main import command

if __name__ == "__main__":
    command()
