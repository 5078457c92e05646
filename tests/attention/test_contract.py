"""What holds for every registered mechanism: forms agree, masks hide, ranges are kept."""

from __future__ import annotations

import math

import pytest
import torch

from neuroattn.attention import attend, get, list_mechanisms, weights
from neuroattn.attention.registry import Mechanism, Run
from neuroattn.errors import InputError
from tests.attention.contract import Example, close, examples, gradients, make, read
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
ON_CPU = ("reference", "sdpa", "sdpa-math")
EXAMPLES = examples()
CASES = [
    pytest.param(name, example, id="-".join(filter(None, (name, example.label or str(number)))))
    for name in list_mechanisms()
    for number, example in enumerate(EXAMPLES.get(name) or [Example()])
]


def reference(spec: Mechanism) -> Run:
    """Return the run that the others are compared with."""
    return next(run for run in spec.runs if run.backend == "reference")


def lengths_of(spec: Mechanism, length: int) -> list[tuple[int, int]]:
    """Return numbers of queries and keys around a length."""
    return [(length, length)] + ([(3, length), (length, 3)] if spec.cross and length < 70 else [])


@pytest.mark.parametrize(("name", "example"), CASES)
def test_all_forms_and_backends_agree_in_outputs_and_every_gradient(name, example):
    # Catches a chunk boundary that is off by one, a state that is decayed once too often, and a
    # backend that is right forward and wrong backward.
    spec = get(name)
    oracle = reference(spec)
    others = [run for run in spec.runs if run is not oracle and run.backend in ON_CPU]
    if not others:
        pytest.skip("one form on one backend")
    for length in example.lengths:
        for queries, keys in lengths_of(spec, length):
            for causal in spec.causal:
                call = make(spec, example, queries, keys)
                wanted = read(spec, call, causal=causal, form=oracle.form, backend=oracle.backend)
                slopes = gradients(wanted, call.leaves)
                for run in others:
                    label = f"{run.form}/{run.backend} {queries}x{keys} causal={causal}"
                    found = read(spec, call, causal=causal, form=run.form, backend=run.backend)
                    close(found, wanted, EXACT, label)
                    for number, pair in enumerate(
                        zip(gradients(found, call.leaves), slopes, strict=True)
                    ):
                        close(*pair, EXACT, f"gradient {number} of {label}")


def parts_of(call, spec, start, stop, length):
    """Return the call's tokens from start to stop."""
    named = {}
    for name, each in call.parameters.items():
        if isinstance(each, torch.Tensor):
            for axis, label in enumerate(_axes(spec, name, each)):
                if label in ("keys", "queries") and each.shape[axis] == length:
                    each = each.narrow(axis, start, stop - start)
        named[name] = each
    cut = [x[:, :, start:stop] for x in (call.query, call.key, call.value)]
    return type(call)(*cut, named)


def _axes(spec, name, value):
    return next(shape for shape in spec.parameters[name].axes if len(shape) == value.ndim)


@pytest.mark.parametrize(("name", "example"), CASES)
def test_a_sequence_can_be_split_anywhere(name, example):
    # Catches a state that lacks something: a normaliser, a momentum, the place in a chunk.
    spec = get(name)
    if not spec.recurrent:
        pytest.skip("no state")
    for length, cuts in ((65, (1, 63, 64)), (9, (4,))):
        call = make(spec, example, length, length)
        for run in spec.runs:
            if not run.stateful or run.backend not in ON_CPU:
                continue
            ways = {"form": run.form, "backend": run.backend, "return_state": True}
            whole, last = read(spec, call, causal=True, **ways)
            slopes = gradients(whole, call.leaves)
            for cut in cuts:
                first, second = (
                    parts_of(call, spec, *ends, length) for ends in ((0, cut), (cut, length))
                )
                head, state = read(spec, first, causal=True, **ways)
                tail, end = read(spec, second, causal=True, initial_state=state, **ways)
                joined = torch.cat([head, tail], dim=2)
                close(joined, whole, EXACT, f"{run.form} split at {cut}")
                for entry, value in last.items():
                    close(end[entry], value, EXACT, f"{entry} of {run.form} split at {cut}")
                for found, wanted in zip(gradients(joined, call.leaves), slopes, strict=True):
                    close(found, wanted, EXACT, f"gradient of {run.form} split at {cut}")
                # Where queries compete, what all of them read at once is not the end of a stream.
                if False in spec.causal and spec.queries_apart:
                    unread, _ = read(spec, second, causal=False, initial_state=state, **ways)
                    close(unread[:, :, -1], whole[:, :, -1], EXACT, f"last read of {run.form}")


@pytest.mark.parametrize(("name", "example"), CASES)
def test_the_reference_passes_gradcheck(name, example):
    # Catches a detached or in-place step on the way.
    spec = get(name)
    if not example.differentiable:
        pytest.skip("steps have no gradient")
    run = reference(spec)
    for causal in spec.causal:
        call = make(spec, example, 4, 4, batch=1, heads=1 if example.heads_apart else 2)

        def output(*leaves, call=call, causal=causal):
            names = [n for n, x in call.parameters.items() if isinstance(x, torch.Tensor)]
            moving = [n for n in names if call.parameters[n].requires_grad]
            given = {**call.parameters, **dict(zip(moving, leaves[3:], strict=True))}
            return attend(
                name, *leaves[:3], causal=causal, form=run.form, backend=run.backend, **given
            )

        assert torch.autograd.gradcheck(output, call.leaves)


@pytest.mark.parametrize(("name", "example"), CASES)
def test_a_later_token_never_reaches_an_earlier_query(name, example):
    # Catches a mask that is transposed, and a normaliser or a statistic over all tokens.
    spec = get(name)
    if True not in spec.causal:
        pytest.skip("no causal form")
    for run in spec.runs:
        if run.backend not in ON_CPU:
            continue
        call = make(spec, example, 9, 9)
        ways = {"causal": True, "form": run.form, "backend": run.backend}
        before = read(spec, call, **ways)
        with torch.no_grad():
            for each in (call.query, call.key, call.value):
                each[:, :, 6:] += 3.0
        after = read(spec, call, **ways)
        close(after[:, :, :6], before[:, :, :6], EXACT, run.form)
        assert not torch.allclose(after[:, :, 6:], before[:, :, 6:])


@pytest.mark.parametrize(("name", "example"), CASES)
def test_hidden_keys_have_no_influence_and_a_row_without_keys_reads_zeros(name, example):
    # Catches a hidden key that still counts in a normaliser, and NaN from a row of nothing.
    spec = get(name)
    if spec.mask == "none":
        pytest.skip("no masks")
    for causal in spec.causal:
        for run in spec.runs:
            if run.backend not in ON_CPU:
                continue
            ways = {"causal": causal, "form": run.form, "backend": run.backend}
            call = make(spec, example, 9, 9)
            mask = torch.ones(1, 1, 1, 9, dtype=torch.bool)
            mask[..., [2, 5]] = False
            before = read(spec, call, mask=mask, **ways)
            key, value = gradients(before, call.leaves)[1:3]
            assert torch.isfinite(before).all()
            assert (key[:, :, [2, 5]] == 0).all()
            assert (value[:, :, [2, 5]] == 0).all()
            with torch.no_grad():
                call.key[:, :, [2, 5]] += 3.0
                call.value[:, :, [2, 5]] -= 3.0
            close(read(spec, call, mask=mask, **ways), before, EXACT, f"{run.form} {causal}")
            empty = torch.zeros(1, 1, 1, 9, dtype=torch.bool)
            nothing = read(spec, call, mask=empty, **ways)
            assert (nothing == 0).all(), (run.form, run.backend)
            for slope in gradients(nothing, call.leaves):
                assert torch.isfinite(slope).all(), (run.form, run.backend)
            if spec.mask == "any":
                rows = torch.ones(9, 9, dtype=torch.bool)
                rows[4] = False
                partly = read(spec, call, mask=rows, **ways)
                assert (partly[:, :, 4] == 0).all(), (run.form, run.backend)
                assert (partly[:, :, 5] != 0).any()


@pytest.mark.parametrize(("name", "example"), CASES)
def test_explicit_weights_read_what_attend_reads(name, example):
    # Catches maps in a report that are not those the network used.
    spec = get(name)
    if spec.weights is None:
        pytest.skip("no explicit matrix")
    for queries, keys in [(7, 7)] + ([(3, 8), (8, 3)] if spec.cross else []):
        for causal in spec.causal:
            call = make(spec, example, queries, keys)
            matrix = weights(name, call.query, call.key, causal=causal, **call.parameters)
            assert matrix.shape == (2, 2, queries, keys)
            wanted = read(spec, call, causal=causal)
            close(matrix @ call.value, wanted, EXACT, f"{queries}x{keys} causal={causal}")


@pytest.mark.parametrize(("name", "example"), CASES)
def test_half_precision_errs_no_more_than_twice_the_standard_implementation(name, example):
    # Catches an accumulation in half precision. The standard implementation is the reference
    # formula in float32 with half-precision inputs and output, as torch's own kernels do.
    spec = get(name)
    causal = spec.causal[-1]
    run = reference(spec)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        call = make(spec, example, 65, 65).to(dtype)
        exact = read(
            spec, call.to(torch.float64), causal=causal, form=run.form, backend=run.backend
        )
        single = read(
            spec, call.to(torch.float32), causal=causal, form=run.form, backend=run.backend
        )
        standard = (single.to(dtype).double() - exact).abs()
        unit = torch.finfo(dtype).eps * exact.abs().max()
        for each in spec.runs:
            if each.backend not in ON_CPU:
                continue
            found = read(spec, call, causal=causal, form=each.form, backend=each.backend)
            assert found.dtype == dtype
            error = (found.double() - exact).abs()
            label = (each.form, each.backend, dtype)
            assert error.max() <= 2 * standard.max() + 4 * unit, label
            assert error.square().mean() <= 4 * standard.square().mean() + (4 * unit) ** 2, label


@pytest.mark.parametrize(("name", "example"), CASES)
def test_loud_half_inputs_give_what_single_precision_gives(name, example):
    # Catches logits that overflow in half precision, where the output does not.
    spec = get(name)
    if not example.loud:
        pytest.skip("unstable by its definition; its page says where")
    causal = spec.causal[-1]
    call = make(spec, example, 9, 9)
    with torch.no_grad():
        call.query *= 300
        call.key *= 300
    call = call.to(torch.float16)
    for run in spec.runs:
        if run.backend not in ON_CPU:
            continue
        ways = {"causal": causal, "form": run.form, "backend": run.backend}
        single = read(spec, call.to(torch.float32), **ways).half()
        found = read(spec, call, **ways)
        assert torch.isfinite(found[torch.isfinite(single)]).all(), ways


def has_tokens(name):
    """Tell whether a mechanism is defined for no tokens too; a window needs some to fit in."""
    return get(name).family in ("softmax", "memory") and name != "neighborhood"


@pytest.mark.parametrize(
    ("name", "example"), [case for case in CASES if has_tokens(case.values[0])]
)
@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_without_queries_nothing_is_read_and_without_keys_zeros(name, example, queries, keys):
    # Catches a chunked form that joins no chunks, and a residual where there is nothing to read.
    spec = get(name)
    if not spec.cross and queries != keys:
        pytest.skip("queries are the tokens themselves")
    call = make(spec, example, queries, keys)
    masks = [None]
    if spec.mask != "none":
        masks.append(torch.ones(queries if spec.mask == "any" else 1, keys, dtype=torch.bool))
    for causal in spec.causal:
        for run in spec.runs:
            if run.backend not in ON_CPU:
                continue
            for mask in masks:
                ways = {"causal": causal, "form": run.form, "backend": run.backend}
                output = read(spec, call, mask=mask, **ways)
                assert output.shape == (2, 2, queries, example.value_dim), ways
                assert (output == 0).all(), ways


@pytest.mark.parametrize(("name", "example"), CASES)
def test_loud_inputs_give_no_nan(name, example):
    # Catches an exponential that overflows before it is normalised.
    spec = get(name)
    if not example.loud:
        pytest.skip("unstable by its definition; its page says where")
    for causal in spec.causal:
        for run in spec.runs:
            if run.backend not in ON_CPU:
                continue
            call = make(spec, example, 65, 65)
            with torch.no_grad():
                call.query *= example.loud
                call.key *= example.loud
            ways = {"causal": causal, "form": run.form, "backend": run.backend}
            output = read(spec, call, **ways)
            assert torch.isfinite(output).all(), ways
            for slope in gradients(output, call.leaves):
                assert torch.isfinite(slope).all(), ways


@pytest.mark.parametrize(("name", "example"), CASES)
def test_images_and_heads_are_read_apart(name, example):
    # Catches a sum over the batch, and heads that are mixed by a reshape.
    spec = get(name)
    call = make(spec, example, 6, 6, batch=3, heads=2)
    whole = read(spec, call) if False in spec.causal else read(spec, call, causal=True)
    causal = False not in spec.causal
    for image in range(3):
        alone = cut(spec, call, "batch", image)
        close(read(spec, alone, causal=causal), whole[image : image + 1], EXACT, f"image {image}")
    if example.heads_apart:
        for head in range(2):
            alone = cut(spec, call, "heads", head)
            close(
                read(spec, alone, causal=causal), whole[:, head : head + 1], EXACT, f"head {head}"
            )


def cut(spec, call, label, index):
    """Return the call for one image or one head."""
    position = {"batch": 0, "heads": 1}[label]
    named = {}
    for name, each in call.parameters.items():
        if isinstance(each, torch.Tensor):
            for axis, axis_label in enumerate(_axes(spec, name, each)):
                if axis_label == label and each.shape[axis] > 1:
                    each = each.narrow(axis, index, 1)
        named[name] = each
    three = [x.narrow(position, index, 1) for x in (call.query, call.key, call.value)]
    return type(call)(*three, named)


@pytest.mark.parametrize(("name", "example"), CASES)
def test_queries_are_read_apart_where_the_specification_says_so(name, example):
    # Catches an encoder that reads its queries in blocks and gets another answer.
    spec = get(name)
    if False not in spec.causal or not spec.cross:
        pytest.skip("queries are the tokens themselves")
    call = make(spec, example, 7, 7)
    whole = read(spec, call)
    named = {}
    for label, each in call.parameters.items():
        if isinstance(each, torch.Tensor):
            for axis, axis_label in enumerate(_axes(spec, label, each)):
                if axis_label == "queries" and each.shape[axis] == 7:
                    each = each.narrow(axis, 2, 3)
        named[label] = each
    part = type(call)(call.query[:, :, 2:5], call.key, call.value, named)
    apart = torch.allclose(read(spec, part), whole[:, :, 2:5], rtol=1e-8, atol=1e-10)
    assert apart or not spec.queries_apart


@pytest.mark.parametrize("name", list_mechanisms())
def test_every_parameter_refuses_what_is_out_of_its_range(name):
    # Catches a range that is written and never checked.
    spec = get(name)
    example = (EXAMPLES.get(name) or [Example()])[0]
    for parameter, about in spec.parameters.items():
        wrong: list[object] = [torch.zeros(1, 1, 1, 1, 1, 1, 1), object()]
        if about.kind in ("number", "integer"):
            wrong += [math.nan, True]
            wrong += [] if about.low is None else [about.low - 1]
            wrong += [] if about.high is None else [about.high + 1]
        if about.choices:
            wrong.append("nonsense")
        for value in wrong:
            call = make(spec, example, 4, 4, batch=1)
            call.parameters[parameter] = value
            with pytest.raises(InputError, match=parameter):
                read(spec, call, causal=spec.causal[0])
