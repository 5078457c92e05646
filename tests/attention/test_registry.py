"""The registry and its door: names, parameters and shapes are checked before any arithmetic."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from neuroattn.attention import attend, get, list_mechanisms, registry, weights
from neuroattn.attention.masks import allowed
from neuroattn.attention.parameters import number
from neuroattn.attention.registry import Mechanism, Run, register
from neuroattn.errors import InputError, UnknownNameError


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


QKV = tensors((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))


@pytest.fixture
def shout(monkeypatch: pytest.MonkeyPatch) -> Mechanism:
    """Register a mechanism without causal form and matrix, for one test."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._loaded()))
    return register(
        dataclasses.replace(
            get("softmax"),
            name="shout",
            family="memory",
            runs=(
                Run(
                    "parallel",
                    "reference",
                    lambda query, key, value, **given: value * given["volume"],
                ),
            ),
            weights=None,
            causal=(False,),
            parameters={"volume": number("factor", 1.0, 0, exclude="low")},
        )
    )


def test_softmax_is_registered_with_what_a_user_needs_to_know():
    # Catches a family that is listed but never imported.
    spec = get("softmax")
    assert spec.family == "softmax"
    assert "Vaswani" in spec.paper
    assert spec.causal == (False, True)
    assert spec.cross
    assert {"reference", "sdpa", "sdpa-math"} <= set(spec.backends)
    assert "softmax" in list_mechanisms()


def test_mechanisms_are_listed_by_family_and_by_causal_form(shout):
    # Catches a filter that is ignored or joined by "or".
    assert {"softmax", "shout"} <= set(list_mechanisms())
    assert "shout" in list_mechanisms(family="memory")
    assert "shout" not in list_mechanisms(causal=True)
    assert "softmax" not in list_mechanisms(causal=False)
    assert "shout" in list_mechanisms(causal=False)
    assert list_mechanisms() == sorted(list_mechanisms())


def test_a_name_is_registered_once(shout):
    # Catches a second family that silently replaces the first one's mechanism.
    with pytest.raises(InputError, match="name='shout' is registered already"):
        register(shout)


def test_unknown_names_are_answered_with_the_closest_one():
    # Catches a KeyError, or a default that is taken for a typo.
    with pytest.raises(UnknownNameError, match=r"attention='sofmax'.*did you mean 'softmax'"):
        attend("sofmax", *QKV)
    with pytest.raises(UnknownNameError, match=r"backend='spda'.*did you mean 'sdpa'"):
        attend("softmax", *QKV, backend="spda")
    with pytest.raises(UnknownNameError, match=r"form='paralel'.*did you mean 'parallel'"):
        attend("softmax", *QKV, form="paralel")
    with pytest.raises(UnknownNameError, match=r"Allowed: .*softmax"):
        weights("zzz", *QKV[:2])


def test_unknown_parameters_are_answered_with_the_known_ones(shout):
    # Catches parameters that reach the arithmetic as a TypeError, or not at all.
    with pytest.raises(UnknownNameError, match=r"no parameter 'volumes'.*did you mean 'volume'"):
        attend("shout", *QKV, volumes=2.0)
    with pytest.raises(UnknownNameError, match=r"'softmax' has no parameter 'heat'.*bias"):
        weights("softmax", *QKV[:2], heat=2.0)
    torch.testing.assert_close(attend("shout", *QKV, volume=2.0), 2 * QKV[2])


def test_a_mechanism_without_causal_form_or_matrix_says_so(shout):
    # Catches a causal request that is quietly answered with the full mixture.
    with pytest.raises(InputError, match=r"'shout' has no causal form; set causal=False"):
        attend("shout", *QKV, causal=True)
    with pytest.raises(InputError, match="'shout' has no explicit matrix"):
        weights("shout", *QKV[:2])


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 5, 4), (2, 3, 7, 3), (2, 3, 7, 4)),
        ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 6, 4)),
        ((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 4)),
        ((1, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)),
        ((5, 4), (7, 4), (7, 4)),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes):
    # Catches silent broadcasting over batch or heads, which two backends do differently.
    with pytest.raises(InputError, match="query, key, value have shapes"):
        attend("softmax", *tensors(*shapes))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_mask_of_numbers_or_of_another_shape_is_refused(backend):
    # Catches a mask of 0 and 1 that a fused kernel adds to the logits.
    wrong = [torch.ones(5, 7), torch.ones(7, 5, dtype=torch.bool), torch.ones(1, 1, 1, 5, 7) > 0]
    for mask in wrong:
        with pytest.raises(InputError, match=r"mask is .*needed is bool.*\(2, 3, 5, 7\)"):
            attend("softmax", *QKV, mask=mask, backend=backend)
        with pytest.raises(InputError, match="mask is"):
            weights("softmax", *QKV[:2], mask=mask)


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (2, 5), (5, 2), (1, 4), (4, 1)])
def test_a_causal_request_lets_the_last_query_see_the_last_key(queries, keys):
    # Catches alignment to the start, which hides the latest keys from a single query.
    joined = allowed(queries, keys, True, None, torch.device("cpu"))
    for q in range(queries):
        for k in range(keys):
            assert joined[q, k] == (queries - 1 - q <= keys - 1 - k)


def test_a_mask_and_a_causal_request_are_both_kept():
    # Catches one that replaces the other.
    mask = torch.tensor([True, False, True])
    joined = allowed(3, 3, True, mask, torch.device("cpu"))
    assert joined.tolist() == [[True, False, False], [True, False, False], [True, False, True]]
    assert allowed(3, 3, False, mask, torch.device("cpu")) is mask
    assert allowed(3, 3, False, None, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "loud"}, "family='loud' is unknown"),
        ({"name": "My Mech"}, "name='My Mech' must be letters"),
        ({"runs": ()}, "needs a Run"),
        ({"runs": (Run("paralel", "reference", len),)}, "did you mean 'parallel'"),
    ],
)
def test_what_is_registered_must_be_whole(shout, change, message):
    # Catches a mistake that shows when somebody attends, far from where it was made.
    spec = dataclasses.replace(shout, **{"name": "whisper", **change})
    with pytest.raises(InputError, match=message):
        register(spec)
    assert spec.name not in list_mechanisms()


def test_a_name_of_ours_cannot_be_taken_before_ours_are_loaded():
    # Catches a script that registers first and leaves nobody able to attend.
    program = (
        "import dataclasses\n"
        "from neuroattn.attention import registry, attend\n"
        "from neuroattn.attention.registry import Mechanism, Run, register\n"
        "spec = Mechanism('softmax', 'softmax', 'x', 'x', 'x', "
        "(Run('parallel', 'reference', len),), 'x')\n"
        "try:\n    register(spec)\n"
        "except ValueError as error:\n    print(error)\n"
        "print(len(registry.list_mechanisms()) > 40)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "name='softmax' is registered already" in done.stdout, done.stderr
    assert "True" in done.stdout
