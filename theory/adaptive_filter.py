"""Symbolic verification of attention as an adaptive filter (Racioppo, 2025).

`python theory/adaptive_filter.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("adaptive_filter"))
