"""Symbolic verification of mimetic initialisation (Trockman & Kolter, 2023).

`python theory/initialization.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("initialization"))
