"""Symbolic verification of attention as marginal probability (Singh & Buckley, 2023).

`python theory/prior.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("prior"))
