"""Symbolic verification of attention as a dynamical system (Sieber et al., 2024).

`python theory/dynamics.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("dynamics"))
