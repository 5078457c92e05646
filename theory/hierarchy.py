"""Symbolic verification of hierarchical self-attention (Amizadeh et al., 2025).

`python theory/hierarchy.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("hierarchy"))
