"""Draw the pictures of docs/augment.md: ``python docs/pictures.py [DIRECTORY]``.

The scene is drawn here, so that nobody's photograph has to come with the library.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lowerconv.data import Augment, change_image

WIDTH, HEIGHT = 168, 126
GAP = 6  # white pixels between pictures
FINER = 4  # drawn at so many times the size, then averaged

#: Each effect at three amounts; the middle one of most is none at all.
STRIPS = {
    "crop": [{"top": 0, "left": 0}, {"top": 15, "left": 21}, {"top": 30, "left": 42}],
    "zoom": [{}, {"step": 0.85}, {"step": 0.7}],
    "flip": [{}, {"flip": 1}],
    "rotate": [{"angle": -10}, {}, {"angle": 10}],
    "lens": [{"lens": -0.3}, {}, {"lens": 0.3}],
    "vignette": [{}, {"dark": 0.4, "radius": 0.2}, {"dark": 0.8, "radius": 0.5}],
    "cast": [{"cast": (20, 0, -20)}, {}, {"cast": (-20, 0, 20)}],
}


def scene() -> np.ndarray:
    """Return the image that all of them show, (3, HEIGHT, WIDTH), uint8."""
    width, height = WIDTH * FINER, HEIGHT * FINER
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)

    def at(*points: float) -> list[tuple[float, float]]:
        """Scale points, in percent of the width and height."""
        pairs = zip(points[::2], points[1::2], strict=True)
        return [(x * width / 100, y * height / 100) for x, y in pairs]

    for row in range(height):
        part = row / height
        draw.line([(0, row), (width, row)], (int(110 + 110 * part), int(170 + 50 * part), 240))
    draw.ellipse(at(76, 8, 88, 24), (255, 220, 90))
    draw.polygon(at(0, 62, 22, 30, 45, 62), (112, 126, 140))
    draw.polygon(at(22, 62, 52, 22, 84, 62), (134, 148, 160))
    draw.polygon(at(46, 30, 52, 22, 59, 31, 54, 34, 50, 31), (240, 245, 250))
    draw.rectangle(at(0, 60, 100, 100), (96, 150, 74))
    draw.polygon(at(40, 100, 60, 100, 50, 60, 49, 60), (176, 160, 130))
    draw.rectangle(at(10, 48, 34, 74), (196, 120, 92))
    draw.polygon(at(6, 49, 22, 33, 38, 49), (120, 52, 48))
    draw.rectangle(at(14, 54, 20, 62), (232, 236, 214))
    draw.rectangle(at(24, 56, 30, 74), (92, 60, 44))
    draw.rectangle(at(80, 52, 83, 76), (94, 66, 44))
    draw.ellipse(at(71, 26, 92, 60), (48, 108, 56))
    for post in range(0, 101, 6):
        draw.rectangle(at(post, 80, post + 1.6, 94), (238, 232, 220))
    for rail in (83, 89):
        draw.rectangle(at(0, rail, 100, rail + 1.6), (238, 232, 220))
    smooth = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return np.asarray(smooth).transpose(2, 0, 1).copy()


def strip(pictures: list[np.ndarray]) -> Image.Image:
    """Put pictures (3, height, width) side by side."""
    height = max(picture.shape[1] for picture in pictures)
    gap = np.full((3, height, GAP), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return Image.fromarray(np.concatenate(parts, axis=2).transpose(1, 2, 0))


def draw_all(directory: Path) -> None:
    """Write one file for each effect, and one with all of them as training draws them."""
    directory.mkdir(parents=True, exist_ok=True)
    image = scene()
    for name, changes in STRIPS.items():
        shape = (HEIGHT * 3 // 4, WIDTH * 3 // 4) if name == "crop" else (HEIGHT, WIDTH)
        pictures = []
        for change in changes:
            change = dict(change)
            if "step" in change:
                step = change.pop("step")
                change |= {"step_y": step, "step_x": step}
                change |= {"top": HEIGHT * (1 - step) / 2, "left": WIDTH * (1 - step) / 2}
            pictures.append(change_image(image, shape, **change))
        strip(pictures).save(directory / f"{name}.png", optimize=True)
    augment = Augment.parse("crop,zoom,flip,rotate,lens,vignette,cast")
    pictures = [augment(image, seed=0, epoch=epoch) for epoch in range(3)]
    strip(pictures).save(directory / "all.png", optimize=True)


if __name__ == "__main__":
    draw_all(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "augment"))
