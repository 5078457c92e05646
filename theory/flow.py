"""Symbolic verification of conserved flows (Flowformer: Wu et al., 2022).

`python theory/flow.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("flow"))
