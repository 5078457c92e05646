"""Symbolic verification of other normalisers (Bae, 2026; Miller, 2023; Wortsman, 2023).

`python theory/other_normalizers.py` derives, checks and prints.
"""

import sys

from neuroattn.theory.script import main

if __name__ == "__main__":
    sys.exit(
        main(
            "normalization.affine",
            "normalization.offset",
            "normalization.elementwise",
            "normalization.gated",
        )
    )
