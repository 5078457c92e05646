"""Scenes: what the masks say is what was drawn, and the same seed draws the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from neuroattn.data import scenes as module
from neuroattn.data.scenes import CATEGORIES, Scenes, draw_object, make_scenes, one_over_f


def some(count: int = 60, size: int = 48, seed: int = 0, **more: int) -> Scenes:
    return make_scenes(count, size, np.random.default_rng(seed), **more)


SCENES = some()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    # Catches a generator of its own.
    again, other = some(), some(seed=1)
    for name in ("images", "objects", "category"):
        np.testing.assert_array_equal(getattr(SCENES, name), getattr(again, name))
        assert (getattr(SCENES, name) != getattr(other, name)).any()


def test_scenes_have_the_shapes_and_ranges_that_are_promised():
    # Catches colours that wrap around, and counts out of range.
    assert SCENES.images.shape == (60, 48, 48, 3)
    assert SCENES.images.dtype == SCENES.objects.dtype == np.uint8
    assert SCENES.category.shape == (60, 3)
    assert SCENES.category.dtype == np.int8
    assert set(np.unique(SCENES.category)) == {-1, 0, 1, 2, 3, 4}
    assert (SCENES.category[:, 0] >= 0).all()
    shown = (SCENES.category >= 0).sum(1)
    assert set(shown) == {1, 2, 3}
    assert (some(objects=1).category[:, 0] >= 0).all()


def test_the_category_table_and_the_label_image_agree():
    # Catches an object that stands in the table and not in the image, or the reverse.
    for labels, row in zip(SCENES.objects, SCENES.category, strict=True):
        assert {slot + 1 for slot in range(3) if row[slot] >= 0} == set(np.unique(labels)) - {0}


def test_masks_hold_the_pixels_of_each_category():
    # Catches objects of the same category that replace each other.
    masks = SCENES.masks()
    assert masks.shape == (60, len(CATEGORIES), 48, 48)
    assert masks.dtype == np.bool_
    for image in range(60):
        for category in range(len(CATEGORIES)):
            slots = [s for s in range(3) if SCENES.category[image, s] == category]
            expected = np.isin(SCENES.objects[image], [s + 1 for s in slots])
            np.testing.assert_array_equal(masks[image, category], expected)
    twice = [len(set(row[row >= 0])) < (row >= 0).sum() for row in SCENES.category]
    assert any(twice)


def test_objects_never_cover_each_other(monkeypatch):
    # Catches an object that is partly painted over and still counted.
    drawn, original = [], draw_object

    def spy(category, extent, rng):
        picture, mask = original(category, extent, rng)
        drawn.append(((mask > 0.5).sum(), category))
        return picture, mask

    monkeypatch.setattr(module, "draw_object", spy)
    made = some(80, seed=5)
    found = [
        ((made.objects[i] == s + 1).sum(), CATEGORIES[made.category[i, s]])
        for i in range(80)
        for s in range(3)
        if made.category[i, s] >= 0
    ]
    assert found == drawn


def test_a_crowded_scene_leaves_objects_out_and_not_the_first():
    # Catches an endless search for a free place.
    crowded = some(20, size=30, objects=40)
    shown = (crowded.category >= 0).sum(1)
    assert (crowded.category[:, 0] >= 0).all()
    assert shown.max() < 25
    assert any(
        (row[: count + 1] < 0).any() for row, count in zip(crowded.category, shown, strict=True)
    )


def test_objects_stand_anywhere_up_to_every_border():
    # Catches places that leave out the last row and column.
    labels = some(400, size=20).objects > 0
    for border in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        assert border.any()
    share = labels.mean(0)
    np.testing.assert_allclose(share[::-1], share, atol=0.15)
    np.testing.assert_allclose(share[:, ::-1], share, atol=0.15)


def test_the_background_falls_as_one_over_f():
    # Catches an exponent for power that was meant for amplitude.
    draw, size = np.random.default_rng(0), 64
    power = np.mean(
        [np.abs(np.fft.fft2(one_over_f(size, draw)[..., 1])) ** 2 for _ in range(60)], axis=0
    )
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    band = (frequency > 1.5 / size) & (frequency < 0.5)
    slope, _ = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)
    assert slope == pytest.approx(-2, abs=0.1)


def test_the_background_is_coloured_and_in_range():
    # Catches a grey texture, or one that is mostly clipped.
    textures = np.stack([one_over_f(32, np.random.default_rng(s)) for s in range(40)])
    assert ((textures < 0) | (textures > 255)).mean() < 0.01
    assert textures.std(-1).mean() > 3
    contrast = textures[..., 1].std(axis=(1, 2))
    assert contrast.min() > 17.9
    assert contrast.max() < 34.1


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_draws_an_object_that_fills_its_window(category):
    # Catches a painter that draws outside its layer, or nothing.
    draw = np.random.default_rng(3)
    for extent in (9, 21, 46):
        picture, mask = draw_object(category, extent, draw)
        assert picture.shape == (extent, extent, 3)
        assert mask.shape == (extent, extent)
        assert 0 <= picture.min() <= picture.max() <= 255
        assert mask.min() >= 0
        assert mask.max() == 1
        assert 0.1 < mask.mean() < 0.95
        # Its rows reach from top to bottom, but for a margin.
        rows = np.flatnonzero((mask > 0.5).any(1))
        assert rows[-1] - rows[0] > 0.6 * extent


def test_categories_look_different():
    # Catches a table of painters in which two names share one.
    pictures = []
    for category in CATEGORIES:
        draw = np.random.default_rng(0)
        drawn = [draw_object(category, 24, draw) for _ in range(20)]
        pictures.append(np.mean([p * m[..., None] for p, m in drawn], axis=0))
    apart = [np.abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) > 8


def test_the_edge_of_an_object_has_the_objects_colour(monkeypatch):
    # Catches a bright or dark fringe: colour divided or multiplied by coverage twice.
    colour = (100, 50, 200)

    def disc(draw, side, rng):
        draw.ellipse((0, 0, side, side), fill=colour)

    monkeypatch.setitem(module._PAINTERS, "face", disc)
    picture, mask = draw_object("face", 17, np.random.default_rng(0))
    edge = (mask > 0.2) & (mask < 0.9)
    assert edge.sum() > 8
    np.testing.assert_allclose(picture[edge], np.broadcast_to(colour, (edge.sum(), 3)), atol=4)


def test_visible_pixels_differ_from_the_background_they_cover():
    # Catches masks that are shifted against the picture.
    made = make_scenes(30, 60, np.random.default_rng(8), objects=1)
    inside = made.objects > 0
    steps = np.abs(np.diff(made.images.astype(float), axis=2)).sum(-1)
    border = inside[:, :, 1:] != inside[:, :, :-1]
    outside = ~inside[:, :, 1:] & ~inside[:, :, :-1]
    assert steps[border].mean() > 2 * steps[outside].mean()
