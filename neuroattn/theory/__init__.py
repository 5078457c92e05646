"""Claims of the attention literature that a computer can check, and that can fail."""

from neuroattn.names import lazy_exports
from neuroattn.theory.families import FAMILIES

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Claim": "claim",
        "Comparison": "comparison",
        "Lab": "lab",
        "Proof": "proof",
        "Settings": "lab",
        "Verdict": "verdict",
        "get": "claim",
        "list_claims": "claim",
        "register": "claim",
        "verify": "verification",
        **dict.fromkeys((*FAMILIES, "capacity"), ""),
    },
)
