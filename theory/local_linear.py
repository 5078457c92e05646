"""Symbolic verification of local linear attention.

Zuo et al. (2026), Local linear attention, and its successor Parallax: `python
theory/local_linear.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("local_linear"))
