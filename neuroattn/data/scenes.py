"""Procedural scenes: objects of five categories on 1/f backgrounds, and where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CATEGORIES: tuple[str, ...] = ("face", "body", "place", "word", "food")

_OVERSAMPLING = 3
_TRIES = 30
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scenes:
    """Images and what is in them.

    Attributes
    ----------
    images : ndarray of uint8, shape (image, height, width, 3)
        RGB.
    objects : ndarray of uint8, shape (image, height, width)
        0 on the background, ``1 + o`` on the visible pixels of object ``o``.
    category : ndarray of int8, shape (image, object)
        Index into :data:`CATEGORIES`, -1 where the image has fewer objects.
    """

    images: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    category: NDArray[np.int8]

    def masks(self) -> NDArray[np.bool_]:
        """Return the pixels of each category, shape (image, category, height, width)."""
        masks = np.zeros((len(self.images), len(CATEGORIES), *self.objects.shape[1:]), bool)
        for slot in range(self.category.shape[1]):
            shown = np.flatnonzero(self.category[:, slot] >= 0)
            masks[shown, self.category[shown, slot]] |= self.objects[shown] == slot + 1
        return masks


def make_scenes(count: int, size: int, rng: np.random.Generator, objects: int = 3) -> Scenes:
    """Draw scenes with one to ``objects`` objects at random places and sizes.

    Categories are drawn uniformly and independently; objects do not overlap, and one for which
    no free place is found within thirty tries is left out (never the first).

    Parameters
    ----------
    count : int
        Number of scenes.
    size : int
        Height and width in pixels.
    rng : numpy.random.Generator
        The only source of randomness.
    objects : int
        Largest number of objects in a scene.
    """
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.zeros((count, size, size), np.uint8)
    category = np.full((count, objects), -1, np.int8)
    for index in range(count):
        canvas = one_over_f(size, rng)
        for slot in range(int(rng.integers(1, objects + 1))):
            kind = int(rng.integers(len(CATEGORIES)))
            if _place(canvas, labels[index], slot, kind, rng):
                category[index, slot] = kind
        images[index] = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scenes(images, labels, category)


def one_over_f(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a coloured texture (size, size, 3), amplitude spectrum 1/f, mostly in 0..255."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    noise = rng.standard_normal((3, size, size))
    texture = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(size, size))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    luminance, chroma = texture[0], texture[1:]
    red, blue = luminance + 0.35 * chroma[0], luminance + 0.35 * chroma[1]
    mean, contrast = rng.uniform(90, 165), rng.uniform(18, 34)
    return mean + contrast * np.stack([red, luminance, blue], axis=-1)


def _place(
    canvas: NDArray[np.float64],
    labels: NDArray[np.uint8],
    slot: int,
    kind: int,
    rng: np.random.Generator,
) -> bool:
    """Draw an object where nothing is yet; say whether a place was found."""
    size = len(labels)
    for _ in range(_TRIES):
        extent = int(size * rng.uniform(0.22, 0.42))
        row, column = rng.integers(0, size - extent + 1, 2)
        window = (slice(row, row + extent), slice(column, column + extent))
        if not labels[window].any():
            break
    else:
        return False
    picture, mask = draw_object(CATEGORIES[kind], extent, rng)
    alpha = mask[..., None]
    canvas[window] = alpha * picture + (1 - alpha) * canvas[window]
    labels[window][mask > 0.5] = slot + 1
    return True


def draw_object(
    category: str, extent: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw one object.

    Returns
    -------
    picture : ndarray, shape (extent, extent, 3)
        RGB, 0..255.
    mask : ndarray, shape (extent, extent)
        Coverage, 0..1.
    """
    side = extent * _OVERSAMPLING
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    _PAINTERS[category](ImageDraw.Draw(layer), side, rng)
    small = np.asarray(layer.resize((extent, extent), Image.Resampling.BOX), np.float64)
    # Pillow weighs colours by their alpha: edges keep the object's colour.
    return small[..., :3], small[..., 3] / 255


def _colour(rng: np.random.Generator, low: Colour, high: Colour) -> Colour:
    red, green, blue = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _shade(colour: Colour, tone: float) -> Colour:
    return int(colour[0] * tone), int(colour[1] * tone), int(colour[2] * tone)


def _face(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    tone = rng.uniform(0.45, 1.0)
    skin, hair = _shade((238, 190, 160), tone), _shade((150, 100, 60), rng.uniform(0.1, 1.0))
    width = rng.uniform(0.62, 0.8)
    left, right = (1 - width) / 2 * side, (1 + width) / 2 * side
    draw.ellipse((left, 0.0, right, side * 0.75), fill=hair)
    draw.ellipse((left, side * 0.08, right, side * 0.99), fill=skin)
    eye_row, spread = side * rng.uniform(0.38, 0.46), side * rng.uniform(0.14, 0.19)
    radius = side * rng.uniform(0.05, 0.075)
    for sign in (-1, 1):
        x = side / 2 + sign * spread
        draw.ellipse((x - radius, eye_row - radius, x + radius, eye_row + radius), (245, 245, 245))
        draw.ellipse(
            (x - radius / 2, eye_row - radius / 2, x + radius / 2, eye_row + radius / 2), hair
        )
        brow = eye_row - radius * rng.uniform(1.6, 2.4)
        draw.line((x - radius, brow, x + radius, brow), fill=hair, width=max(1, side // 28))
    nose = (side / 2, eye_row + radius, side / 2, side * 0.62)
    draw.line(nose, fill=_shade(skin, 0.75), width=max(1, side // 28))
    mouth, smile = side * rng.uniform(0.1, 0.18), side * rng.uniform(0.02, 0.05)
    box = (side / 2 - mouth, side * 0.74 - smile, side / 2 + mouth, side * 0.74 + smile)
    draw.ellipse(box, fill=_colour(rng, (140, 30, 40), (200, 80, 90)))


def _body(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    skin = _shade((238, 190, 160), rng.uniform(0.45, 1.0))
    shirt = _colour(rng, (20, 20, 60), (120, 160, 240))
    trousers = _colour(rng, (10, 10, 20), (90, 90, 130))
    middle, limb = side / 2, max(2, int(side * rng.uniform(0.09, 0.13)))
    shoulder, hip = side * 0.27, side * 0.57
    for sign in (-1, 1):
        hand = (middle + sign * side * rng.uniform(0.22, 0.45), side * rng.uniform(0.15, 0.6))
        foot = (middle + sign * side * rng.uniform(0.08, 0.3), side * 0.97)
        draw.line((middle + sign * side * 0.1, shoulder, *hand), fill=skin, width=limb)
        draw.line((middle + sign * side * 0.06, hip, *foot), fill=trousers, width=limb)
    draw.rounded_rectangle(
        (middle - side * 0.15, side * 0.2, middle + side * 0.15, side * 0.62), side * 0.05, shirt
    )
    head = side * 0.09
    draw.ellipse((middle - head, side * 0.01, middle + head, side * 0.01 + 2 * head), fill=skin)


def _place_painter(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    wall = _colour(rng, (110, 100, 90), (200, 190, 175))
    dark = _colour(rng, (25, 25, 30), (70, 70, 80))
    roof = side * rng.uniform(0.0, 0.3)
    draw.rectangle((side * 0.04, roof, side * 0.96, side * 0.99), fill=wall)
    draw.polygon([(0, roof), (side / 2, 0), (side, roof)], fill=dark)
    rows, columns = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    high, wide = (side * 0.96 - roof) / rows, side * 0.92 / columns
    for row in range(rows):
        for column in range(columns):
            top, left = roof + (row + 0.22) * high, side * 0.04 + (column + 0.22) * wide
            draw.rectangle((left, top, left + wide * 0.56, top + high * 0.56), fill=dark)


def _word(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    paper = int(rng.integers(215, 256))
    ink = _colour(rng, (0, 0, 0), (60, 60, 60))
    lines, letters = int(rng.integers(2, 4)), int(rng.integers(3, 6))
    draw.rectangle((0, side * 0.12, side, side * 0.88), fill=(paper, paper, paper))
    high, wide = side * 0.72 / lines, side * 0.94 / letters
    stroke = max(1, int(side * 0.025))
    for line in range(lines):
        for letter in range(letters):
            top, left = side * 0.15 + line * high, side * 0.04 + letter * wide
            nodes = rng.integers(0, 3, (4, 2)) * (wide * 0.33, high * 0.36) + (left, top)
            draw.line([tuple(node) for node in nodes], fill=ink, width=stroke)


def _food(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    draw.ellipse(
        (0, side * 0.05, side, side * 0.95), fill=_colour(rng, (205, 205, 200), (250, 250, 250))
    )
    palette: tuple[Colour, ...] = ((200, 40, 20), (230, 170, 30), (60, 150, 40), (170, 90, 30))
    main = palette[int(rng.integers(len(palette)))]
    for piece in range(int(rng.integers(5, 10))):
        colour = main if piece % 2 else palette[int(rng.integers(len(palette)))]
        angle, reach = rng.uniform(0, 2 * np.pi), side * rng.uniform(0, 0.25)
        x, y = side / 2 + reach * np.cos(angle), side / 2 + reach * np.sin(angle)
        radius = side * rng.uniform(0.1, 0.17)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None]] = {
    "face": _face,
    "body": _body,
    "place": _place_painter,
    "word": _word,
    "food": _food,
}
