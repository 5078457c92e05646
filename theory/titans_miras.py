"""Symbolic verification of Titans and Miras, and of attention as regression.

Behrouz, Zhong & Mirrokni (2024), Titans; Behrouz, Razaviyayn, Zhong & Mirrokni (2025), It's all
connected; Wang et al. (2025), Test-time regression: `python theory/titans_miras.py` derives, checks
and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(main("memory"))
