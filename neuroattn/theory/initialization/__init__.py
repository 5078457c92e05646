"""Mimetic initialisation: start with the products that trained transformers end with.

Trockman and Kolter found that trained vision transformers have W_Q W_K^T close to a multiple of
the identity and W_V W_O close to a negative one, and start from there. The products are truncated
to the rank of a head, which costs exactly the tail of their spectrum. What the start does to
attention can be written down: every token's own logit is raised by b sqrt(d), and it attends to
itself.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"own_logit": "mimetic"})
