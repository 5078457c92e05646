"""Symbolic verification of attention as Pavlovian conditioning (Qiao, 2025).

`python theory/pavlovian.py` derives, checks and prints every result.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("pavlovian"))
