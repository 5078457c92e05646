"""Symbolic verification of SDM (Bricken & Pehlevan, 2021): `python theory/sdm.py` prints it."""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("sdm"))
