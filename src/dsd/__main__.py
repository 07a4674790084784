"""`python -m dsd`, and so `accelerate launch -m dsd train ...`: the command `dsd` by the name of its module."""

from __future__ import annotations

import sys

from dsd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
