"""Which images wrote a voxel: the pictures, weights and responses that belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from neuroattn.errors import InputError, MismatchError
from neuroattn.images import ImageArray
from neuroattn.report import context_figure, context_mass, png
from neuroattn.report.style import OTHER_COLOUR, PALETTE
from tests.tolerances import TOLERANCE

TIGHT = TOLERANCE["float64"]
IDS = [f"image-{index}" for index in range(13)]


def attention(
    voxels: int = 5, images: int = 13, heads: int = 3, mass: float = 0.75
) -> xr.DataArray:
    """Weights that sum to ``mass``, in another order for each voxel and head."""
    weights = mass * np.random.default_rng(6).dirichlet(np.ones(images), (voxels, heads))
    coords = {"image": IDS[:images], "vertex": ("voxel", 100 + np.arange(voxels))}
    return xr.DataArray(weights, dims=("voxel", "head", "image"), coords=coords)


def pictures(count: int = 16) -> ImageArray:
    """Plain images, each of its own grey and size; ids in another order than in the context."""
    names = [f"image-{(5 * index) % count}" for index in range(count)]
    return ImageArray(
        [np.full((7 + grey_of(name) % 3, 9, 3), grey_of(name), np.uint8) for name in names], names
    )


def grey_of(name: str) -> int:
    return 10 * int(name.split("-")[1]) + 5


def responses(given: xr.DataArray) -> xr.DataArray:
    """Also to images that are not in the context, in reversed order."""
    names = ["elsewhere", *given["image"].to_numpy().tolist()[::-1]]
    values = np.random.default_rng(7).normal(size=(len(names), given.sizes["voxel"]))
    coords = {"image": names, "vertex": given["vertex"]}
    return xr.DataArray(values, dims=("image", "voxel"), coords=coords)


def shown(figure: Figure) -> list[tuple[int, str]]:
    """Return grey and words of each picture, in order."""
    with_image = [axes for axes in figure.get_axes() if axes.images]
    return [(int(axes.images[0].get_array()[0, 0, 0]), axes.get_title()) for axes in with_image]


def words(weight: float, response: float) -> str:
    return f"weight {100 * weight:.3g} %\nresponse {response:.2f}".replace("-", "−")


@pytest.mark.parametrize(
    "who",
    [
        {"voxel": 3},
        {"voxels": [3]},
        {"voxels": np.array([0, 2, 4])},
        {"voxels": np.array([True, False, True, False, True])},
    ],
)
def test_the_images_of_largest_weight_are_shown_with_weight_and_response(
    who: dict[str, Any],
) -> None:
    # Catches images found by position instead of id, the smallest weights, another voxel's
    # responses, a sum over heads or voxels, and a mask taken for positions 0 and 1.
    given = attention()
    response = responses(given)
    figure, caption = context_figure(given, pictures(), response, count=4, **who)
    rows = [3] if len(np.atleast_1d(next(iter(who.values())))) == 1 else [0, 2, 4]
    weight = {name: float(given.sel(image=name)[rows].mean()) for name in IDS}
    best = sorted(IDS, key=lambda name: -weight[name])[:4]
    said = {name: float(response.sel(image=name)[rows].mean()) for name in best}
    assert shown(figure) == [(grey_of(name), words(weight[name], said[name])) for name in best]
    assert ("the mean over 3 voxels" in caption) is (len(rows) == 3)
    assert ("voxel 3" in caption) is (len(rows) == 1)


def test_bars_are_all_weights_sorted_with_the_uniform_line_and_the_mass_of_registers() -> None:
    # Catches bars in the order of the context, a uniform line at the mean weight (which registers
    # lower), and registers that are left out.
    given = attention(mass=0.6)
    figure, _ = context_figure(given, pictures(), count=5, voxel=1)
    axes = figure.get_axes()[-1]
    wanted = np.sort(given[1].mean("head").to_numpy())[::-1]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], wanted, **TIGHT)
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    np.testing.assert_allclose(middles, np.arange(1, 14), **TIGHT)
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [PALETTE[0].lower()] * 5 + [OTHER_COLOUR] * 8
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), 1 / 13, **TIGHT)
    assert [text.get_text() for text in axes.texts] == ["uniform\n1/13"]
    assert axes.get_title(loc="left") == (
        "13 context images hold 60 % of the weight, registers 40 %"
    )
    low, high = axes.get_ylim()
    assert low == 0
    assert high > max(wanted[0], 1 / 13)


def test_the_line_is_seen_where_registers_take_nearly_everything() -> None:
    # Catches an axis that ends under the uniform line.
    figure, _ = context_figure(attention(mass=0.01), pictures(), voxel=0)
    assert figure.get_axes()[-1].get_ylim()[1] > 1 / 13


def test_without_responses_only_weights_are_told() -> None:
    # Catches responses made up, and a caption that speaks of them.
    figure, caption = context_figure(attention(), pictures(), voxel=0)
    assert all(title.startswith("weight") and "\n" not in title for _, title in shown(figure))
    assert "response" not in caption
    _, told = context_figure(attention(), pictures(), responses(attention()), voxel=0)
    assert "its response to each" in told


@pytest.mark.parametrize(("count", "images", "seen"), [(8, 3, 3), (8, 13, 8), (11, 13, 11)])
def test_a_small_context_is_shown_whole_and_many_images_in_rows(
    count: int, images: int, seen: int
) -> None:
    # Catches an index beyond the context, and images lost at the end of a row.
    figure, _ = context_figure(attention(images=images), pictures(), count=count, voxel=0)
    assert len(shown(figure)) == seen
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.get_axes() if axes.images]
    apart = [
        one.x1 <= two.x0 or two.x1 <= one.x0 or one.y1 <= two.y0 or two.y1 <= one.y0
        for index, one in enumerate(boxes)
        for two in boxes[:index]
    ]
    assert all(apart)


def test_names_are_never_formulas_and_the_picture_is_the_same_every_time() -> None:
    # Catches a ROI read as a formula (this one would not parse), and bytes that change.
    name = r"FFA $\frac{$"
    made = [context_figure(attention(), pictures(), voxels=[0, 1], name=name) for _ in range(2)]
    assert f"encoder of {name}" in made[0][1]
    upper = made[0][0].subfigs[0]
    assert upper.get_suptitle() == f"Images that wrote {name}"
    assert png(made[0][0]) == png(made[1][0])
    made[0][0].draw_without_rendering()


def test_an_unknown_response_is_a_dash() -> None:
    # Catches "nan" in a picture.
    response = responses(attention()) * np.nan
    figure, _ = context_figure(attention(), pictures(), response, voxel=0)
    assert all(title.endswith("\nresponse –") for _, title in shown(figure))


def test_mass_equals_counting_by_hand() -> None:
    # Catches shares of all attention instead of that on images, and categories in another order.
    given = attention(mass=0.4)
    labels = {"unused": "food"} | {name: "abca"[index % 4] for index, name in enumerate(IDS)}
    found = context_mass(given, labels)
    assert found.dims == ("voxel", "category")
    assert found["category"].to_numpy().tolist() == ["food", "a", "b", "c"]
    assert found["vertex"].to_numpy().tolist() == [100, 101, 102, 103, 104]
    for voxel in range(5):
        for category in "abc":
            inside = total = 0.0
            members = 0
            for position, image in enumerate(IDS):
                for head in range(3):
                    total += float(given[voxel, head, position])
                    inside += float(given[voxel, head, position]) * (labels[image] == category)
                members += labels[image] == category
            wanted = (inside / total) / (members / 13)
            value = float(found[voxel].sel(category=category))
            np.testing.assert_allclose(value, wanted, **TIGHT)
    assert found.sel(category="food").isnull().all()


def test_mass_is_one_without_preference_and_one_over_the_share_with_a_full_one() -> None:
    # Catches a scale that depends on registers or on the size of a category.
    labels = {name: "face" if index < 4 else "place" for index, name in enumerate(IDS)}
    uniform = attention() * 0 + 0.3 / 13
    np.testing.assert_allclose(context_mass(uniform, labels), np.ones((5, 2)), **TIGHT)
    faces = attention() * 0
    faces[:, :, 2] = 0.2
    np.testing.assert_allclose(context_mass(faces, labels), [[13 / 4, 0]] * 5, **TIGHT)


def test_a_voxel_that_reads_registers_only_has_no_preference_to_tell() -> None:
    # Catches 0 / 0 as a number, or as a warning (an error in these tests).
    given = attention()
    given[1] = 0
    mass = context_mass(given, dict.fromkeys(IDS, "a"))
    assert np.isnan(mass.to_numpy()[:, 0]).tolist() == [False, True, False, False, False]


def test_half_precision_is_averaged_in_double() -> None:
    # Catches sums in float16, where a thousand small weights lose their last digits.
    wide = xr.DataArray(
        np.full((1, 2, 1000), 0.9e-3, np.float16),
        dims=("voxel", "head", "image"),
        coords={"image": [f"{index}" for index in range(1000)]},
    )
    labels = {f"{index}": "a" if index % 3 else "b" for index in range(1000)}
    np.testing.assert_allclose(context_mass(wide, labels), [[1, 1]], **TIGHT)


def test_attention_that_is_none_is_refused() -> None:
    # Catches pictures of numbers that are no weights.
    good, labels = attention(), dict.fromkeys(IDS, "a")
    for value, message in ((-0.1, r"weights from -0\.1"), (np.nan, "up to nan"), (4.0, "up to")):
        bad = good.copy()
        bad[2, 0, 0] = value
        with pytest.raises(InputError, match=message):
            context_mass(bad, labels)
        with pytest.raises(InputError, match=message):
            context_figure(bad, pictures(), voxel=2)
    for bad in (good.transpose("image", ...), good.drop_vars("image"), good[:0], good[:, 0]):
        with pytest.raises(InputError, match="attention has the sizes"):
            context_mass(bad, labels)
        with pytest.raises(InputError, match="attention has the sizes"):
            context_figure(bad, pictures(), voxel=0)
    with pytest.raises(
        MismatchError, match="not 1 of the 13 context images, the first is 'image-4'"
    ):
        context_mass(good, {name: "a" for name in IDS if name != "image-4"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "voxel=None and voxels=None; give one"),
        ({"voxel": 0, "voxels": [1]}, "give one of them"),
        ({"voxel": 5}, "voxels go from 5 to 5; attention is of the voxels 0 to 4"),
        ({"voxel": -1}, "voxels go from -1"),
        ({"voxels": []}, "at least one position"),
        ({"voxels": [False] * 5}, "at least one position"),
        ({"voxels": [True] * 4}, "voxels are bool"),
        ({"voxels": [0.5]}, "voxels are float64"),
        ({"voxel": 0, "count": 0}, "count=0; a figure shows 1 to 48"),
        ({"voxel": 0, "count": 49}, "count=49"),
    ],
)
def test_voxels_that_are_not_there_are_refused(options: dict[str, Any], message: str) -> None:
    # Catches voxels counted from the end, and empty means.
    with pytest.raises(InputError, match=message):
        context_figure(attention(), pictures(), **options)


def test_what_belongs_to_other_images_or_voxels_is_refused() -> None:
    # Catches the responses of one voxel under the attention of another.
    given = attention()
    response = responses(given)
    with pytest.raises(MismatchError, match="image ids are not among these 2"):
        context_figure(given, pictures(2), voxel=0)

    def refused(wrong: xr.DataArray, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            context_figure(given, pictures(), wrong, count=13, voxel=0)

    refused(response[:, :4], MismatchError, "of 4 voxels, attention of 5")
    other = response.assign_coords(vertex=("voxel", np.arange(5)))
    refused(other, MismatchError, "other values of vertex")
    missing = response.sel(image=response["image"] != "image-7")
    refused(missing, MismatchError, "0 rows of the context image 'image-7'")
    twice = xr.concat([response, response.sel(image=["image-7"])], dim="image")
    refused(twice, MismatchError, "2 rows of the context image 'image-7'")
    refused(response.drop_vars("image"), InputError, "and the ids in 'image'")
    refused(response.rename(image="presentation"), InputError, "swap_dims")


def test_responses_may_know_other_things_of_their_voxels() -> None:
    # Catches coordinates that only one of the two has taken for other voxels.
    given = attention().assign_coords(subject=("voxel", ["sub-01"] * 5), layer=-1)
    response = responses(given).assign_coords(layer=3, i=("voxel", np.arange(5)))
    figure, _ = context_figure(given, pictures(), response, voxel=0)
    assert len(shown(figure)) == 8


def test_responses_may_have_either_order_of_dimensions() -> None:
    # Catches voxels read as images.
    given = attention()
    response = responses(given)
    first, second = (
        shown(context_figure(given, pictures(), each, voxel=2)[0])
        for each in (response, response.transpose())
    )
    assert first == second
