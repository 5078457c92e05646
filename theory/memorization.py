"""Symbolic verification of the memorisation capacity of attention (Mahdavi et al., 2024).

`python theory/memorization.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("memorization"))
