"""What mimetic weights do at the start."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.errors import InputError
from neuroattn.theory.initialization import own_logit


def test_the_lead_of_the_own_logit_is_that_of_simulated_products():
    # Catches a division by dim in place of its root.
    rng = np.random.default_rng(0)
    dim, tokens, leads = 9, 5, []
    for _ in range(4000):
        product = 0.7 * rng.normal(size=(dim, dim)) / dim**0.5 + 0.7 * np.eye(dim)
        x = rng.normal(size=(tokens, dim))
        logits = x @ product @ x.T / dim**0.5
        leads.append(np.mean(np.diag(logits) - logits.mean(1)))
    spread = np.std(leads) / 4000**0.5
    assert abs(np.mean(leads) - own_logit(dim, tokens)) < 4 * spread


def test_one_token_has_no_lead_and_bad_input_is_refused():
    # Catches a mean over the other tokens, of which there are none.
    assert own_logit(16, 1) == 0
    with pytest.raises(InputError, match="dim=0"):
        own_logit(0, 3)
    with pytest.raises(InputError, match="tokens=0"):
        own_logit(3, 0)
