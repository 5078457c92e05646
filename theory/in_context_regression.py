"""Symbolic verification of in-context linear regression by softmax attention (He et al., 2025).

`python theory/in_context_regression.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("icl"))
