"""Symbolic verification of the benefits of rank in attention layers (Amsel, Yehudai & Bruna, 2024).

`python theory/rank.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("rank"))
