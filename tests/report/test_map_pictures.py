"""Pictures and pages of maps: where the colours are, and that no name is run."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from neuroattn.data.schema import response_set
from neuroattn.report import write_maps
from neuroattn.report.map_pictures import colour_limits, map_pages, map_pictures
from tests.report.small import pixels, surface_voxels, volume_voxels

EVIL = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>"


class _Page(HTMLParser):
    """The elements of a page, and what is text in it."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.seen = ""
        self.open = ""
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open != "script":
            self.seen += data


def _mesh():
    return surface_voxels(left=10242, right=10242)


def _block():
    """A block of voxels in native space, with an oblique affine."""
    i, j, k = (axis.ravel() for axis in np.meshgrid(range(4), range(5), range(3), indexing="ij"))
    voxels = volume_voxels()
    return response_set(
        np.zeros((1, 60)),
        presentation={"image": ["a"]},
        voxel={"subject": "s", "hemisphere": "both", "i": i, "j": j + 1, "k": k + 4},
        attrs=voxels.attrs,
    )


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (np.linspace(0, 1, 101), (0, 0.98)),
        (np.linspace(-0.1, 1, 101), (0, 0.978)),
        (np.linspace(-1, 1, 201), (-0.98, 0.98)),
        (np.array([np.nan, np.nan]), (0, 1)),
        (np.zeros(5), (0, 1)),
        (np.array([]), (0, 1)),
    ],
)
def test_colours_end_where_most_values_do(values, limits) -> None:
    # Catches one outlier that makes a map dark, and a bar from 0 to 0.
    assert colour_limits(values) == pytest.approx(limits, abs=0.011)


def test_every_page_shows_its_name_and_runs_nothing_of_it() -> None:
    # Catches a subject, ROI or encoder called <script>; the title of a page included.
    for voxels in (_block(), _mesh()):
        values = np.linspace(0, 1, voxels.sizes["voxel"])
        harmless = map_pages(values, voxels, "harmless")
        for kind, page in map_pages(values, voxels, EVIL).items():
            found, plain = _Page(page), _Page(harmless[kind])
            assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
            assert found.seen.count(EVIL) == 2
            assert plain.seen.replace("harmless", EVIL) == found.seen


def test_pages_fetch_nothing() -> None:
    # Catches the icon, script or style that is loaded from the network when a page opens.
    for voxels in (_block(), _mesh()):
        for page in map_pages(np.ones(voxels.sizes["voxel"]), voxels, "m").values():
            for _tag, attributes in _Page(page).tags:
                for name in ("src", "href"):
                    assert attributes.get(name, "data:").startswith(("data:", "#"))
            assert not re.search(rb"url\(\s*['\"]?(?!['\"]?data:)http", page)
            assert b"@import" not in page


def test_the_surface_page_colours_each_vertex_by_its_value() -> None:
    # Catches swapped sides, a colour at vertices without a value, and clipped ends.
    values = np.array([0.0, 1.0, 0.5, np.nan, 2.0])
    page = map_pages(values, _mesh(), "m")["surface.html"].decode()
    sides = json.loads(re.search(r"const sides = (\{.*?\});", page).group(1))
    low, high = colour_limits(values)
    colours = matplotlib.colormaps["viridis"]

    def decoded(side, key, kind):
        return np.frombuffer(base64.b64decode(sides[side][key]), kind).reshape(-1, 3)

    left, right = (decoded(side, "colour", np.uint8) for side in ("left", "right"))
    assert left.shape == right.shape == (10242, 3)
    for side, vertex, value in (
        (left, 7, 0.0),
        (left, 0, 0.5),
        (left, 11, 2.0),
        (right, 10241, 1.0),
    ):
        expected = np.round(255 * np.array(colours((value - low) / (high - low))[:3]))
        np.testing.assert_array_equal(side[vertex], expected)
    grey = np.delete(left, [7, 0, 11], axis=0)
    assert (grey == grey[:, :1]).all()
    assert (right[3] == right[3, 0]).all()
    assert (
        decoded("left", "place", "<f4")[:, 0].max()
        < 0
        < decoded("right", "place", "<f4")[:, 0].min()
    )
    assert decoded("left", "faces", "<u2").max() == 10241


def test_slices_show_voxels_with_and_without_a_value() -> None:
    # Catches the zero around the voxels, and a true 0, taken for one another.
    voxels = _block()
    dark = np.round(255 * np.array(matplotlib.colormaps["viridis"](0.0)[:3]))
    counts = {}
    for name, values in {"empty": np.full(60, np.nan), "zeros": np.zeros(60)}.items():
        picture = pixels(map_pictures(values, voxels, "m")["slices.png"]).astype(int)
        panels = picture[: len(picture) * 4 // 5]
        counts[name] = [
            int((np.abs(panels - colour) <= 2).all(axis=2).sum()) for colour in (191, dark)
        ]
    assert counts["empty"][0] > 5000
    assert counts["empty"][1] < 1000
    assert counts["zeros"][1] > 5000
    assert counts["zeros"][0] < 1000


@pytest.mark.parametrize("flip", [1, -1])
def test_the_left_of_the_head_is_on_the_left_of_slices(flip) -> None:
    # Catches pictures in the order of the indices: an affine may count from right to left.
    i, j, k = (axis.ravel() for axis in np.meshgrid(*[range(7)] * 3, indexing="ij"))
    affine = np.array([[flip * 3, 0, 0, -flip * 9], [0, 3, 0, -40], [0, 0, 3, 5], [0, 0, 0, 1]])
    voxels = response_set(
        np.zeros((1, 343)),
        presentation={"image": ["a"]},
        voxel={"subject": "s", "hemisphere": "both", "i": i, "j": j, "k": k},
        attrs={"space": "native", "affine": affine.ravel().tolist(), "shape": [7, 7, 7]},
    )
    values = np.where(flip * (i - 3) < 0, 1.0, np.nan)
    picture = pixels(map_pictures(values, voxels, "m")["slices.png"]).astype(int)
    # The upper two rows of panels are axial and coronal, the fourth of seven through the middle.
    rows, columns = len(picture) // 2, picture.shape[1] // 7
    panel = picture[:rows, 3 * columns : 4 * columns]
    yellow = np.round(255 * np.array(matplotlib.colormaps["viridis"](1.0)[:3]))
    shown = np.flatnonzero((np.abs(panel - yellow) <= 2).all(axis=2).any(axis=0))
    grey = np.flatnonzero((np.abs(panel - 191) <= 2).all(axis=2).sum(axis=0) > 20)
    assert len(shown) > 10
    assert len(grey) > 10
    assert shown.max() < grey.max() - 10
    assert shown.min() <= grey.min()


def test_the_views_of_the_surface_page_are_from_where_they_say() -> None:
    # Catches left and right exchanged, and a brain seen in a mirror.
    page = map_pages(np.arange(5.0), _mesh(), "m")["surface.html"].decode()
    formula = re.search(r"const turn = (\[[^;]*\]);", page).group(1)
    listed = re.search(r"const views = (\{[^;]*\});", page).group(1)
    views = json.loads(re.sub(r"(\w+):", r'"\1":', listed))
    # From where, and what is then up on the screen, in right, front, top of the head.
    expected = {
        "left": ([-1, 0, 0], [0, 0, 1]),
        "right": ([1, 0, 0], [0, 0, 1]),
        "back": ([0, -1, 0], [0, 0, 1]),
        "front": ([0, 1, 0], [0, 0, 1]),
        "below": ([0, 0, -1], [0, -1, 0]),
        "above": ([0, 0, 1], [0, 1, 0]),
    }
    assert views.keys() == expected.keys()
    assert set(re.findall(r'data-view="(\w+)"', page)) == expected.keys()
    for name, (viewer, up) in expected.items():
        around, over = np.radians(views[name])
        angles = {
            "ca": np.cos(around),
            "sa": np.sin(around),
            "cb": np.cos(over),
            "sb": np.sin(over),
        }
        turn = np.array(eval(formula, {"__builtins__": {}}, angles)).reshape(3, 3).T
        np.testing.assert_allclose(turn @ viewer, [0, 0, 1], atol=1e-12)
        np.testing.assert_allclose(turn @ up, [0, 1, 0], atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(turn), 1)


def test_all_that_the_voxels_allow_is_written_and_is_the_same_again(tmp_path) -> None:
    # Catches ids and time stamps in pages and pictures, and a format left out by default.
    voxels = _mesh()
    values = {"raw": np.linspace(-1, 1, 5)}
    first = write_maps(values, voxels, tmp_path / "a", None)
    second = write_maps(values, voxels, tmp_path / "b", None)
    assert [path.name for path in first] == [
        "sub-01_raw_hemi-L.func.gii",
        "lh.sub-01_raw.mgh",
        "sub-01_raw_hemi-R.func.gii",
        "rh.sub-01_raw.mgh",
        "sub-01_raw_surface.png",
        "sub-01_raw_surface.html",
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize(("axis", "world"), [("i", "x"), ("j", "y"), ("k", "z")])
def test_a_single_slice_is_drawn_in_its_own_plane(axis, world) -> None:
    """Catches rows of empty panels, edge-on, beside a picture too small to see."""
    from neuroattn.report.map_pictures import _cuts

    places = {axis: np.full(4, 2)}
    others = [name for name in "ijk" if name != axis]
    places[others[0]], places[others[1]] = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    scale = {"i": 2.0, "j": 3.0, "k": 4.0}
    voxels = response_set(
        np.zeros((1, 4)),
        presentation={"image": ["a"]},
        voxel={"subject": "s", "hemisphere": "both", **places},
        attrs={
            "space": "native",
            "affine": [2.0, 0, 0, -1, 0, 3.0, 0, -1, 0, 0, 4.0, -1, 0, 0, 0, 1],
            "shape": [3, 3, 3],
        },
    )
    assert _cuts(voxels) == (world, [2 * scale[axis] - 1])
    assert _cuts(_block())[0] == "mosaic"
    assert set(map_pictures(np.arange(4.0), voxels, "map")) == {"slices.png"}


def test_values_beyond_the_colours_are_no_holes() -> None:
    """Catches voxels below 0 that look as if nobody knew their value."""
    voxels = _block()
    values = np.where(np.arange(60) % 2, 0.5, -0.02)
    assert colour_limits(values)[0] == 0
    below = values < 0

    def brain(drawn):
        # Without the colour bar, which points where values go beyond it.
        picture = pixels(map_pictures(drawn, voxels, "map")["slices.png"])
        return picture[: int(0.85 * len(picture))]

    known = brain(values)
    np.testing.assert_array_equal(known, brain(np.where(below, 0.0, values)))
    assert (known != brain(np.where(below, np.nan, values))).any()
