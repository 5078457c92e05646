"""Symbolic verification of cheaper reads (Shen, 2021; Rabe & Staats, 2021; and others).

`python theory/efficiency.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("efficiency"))
