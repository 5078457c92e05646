"""Symbolic verification of limits of normalisation in attention (Mudarisov et al., 2025).

`python theory/normalization.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("normalization.bounds", "normalization.jacobian"))
