"""Heat-map overlays at the image's own size, in percentiles of what normal images show."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

__all__ = ["add_colour_bar", "overlay_heat_map"]

STRONGEST = 99.9  # percentile that gets the brightest colour
TICKS = (0, 90, 99, 99.9)
STEPS = 2048  # of the colours, looked up for each pixel
SMALLEST = 160  # height in pixels below which the figures of a colour bar would not fit


def overlay_heat_map(image: Image.Image, percentiles: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """Blend an anomaly map over an image, stronger where fewer normal pixels reach as high.

    Args:
        image: PIL image of mode ``L`` or ``RGB`` at its own size.
        percentiles: (H, W) of the image's size in [0, 100]; see :func:`.map_percentiles`.
        opacity: weight of the brightest colour, in [0, 1].

    Returns:
        RGB image of the image's size.

    Example:
        >>> overlay_heat_map(Image.new("L", (40, 20)), np.zeros((20, 40))).size
        (40, 20)
    """
    steps = np.linspace(0, 1, STEPS, dtype=np.float32)
    weights = opacity * steps[:, None]
    colours = weights * _colour(steps).astype(np.float32)
    places = np.rint(_strength(percentiles) * (STEPS - 1)).astype(np.int32)
    blended = np.asarray(image.convert("RGB")) * (1 - weights)[places]
    blended += colours[places]
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def add_colour_bar(overlay: Image.Image) -> Image.Image:
    """Put a colour bar in percentiles to the right of an overlay.

    Args:
        overlay: RGB image.

    Returns:
        RGB image, the overlay unchanged on its left; wider, and higher if it was too low for the figures.

    Example:
        >>> add_colour_bar(Image.new("RGB", (400, 300))).size
        (496, 300)
    """
    height = max(overlay.height, SMALLEST)
    text = max(10, height // 25)
    font = ImageFont.load_default(text)
    canvas = Image.new("RGB", (overlay.width + 8 * text, height), "black")
    canvas.paste(overlay, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left, top, bottom = overlay.width + text // 2, 2 * text, height - text
    shades = _colour(np.linspace(1, 0, bottom - top))[:, None].repeat(text, axis=1)
    canvas.paste(Image.fromarray(np.rint(shades).astype(np.uint8)), (left, top))
    draw.text((left, text // 3), "percentile", font=font, fill="white")
    for tick in TICKS:
        y = bottom - (bottom - top) * float(_strength(np.array(tick)))
        draw.text((left + 1.4 * text, y), f"{tick:g}", font=font, fill="white", anchor="lm")
    return canvas


def _strength(percentiles: np.ndarray) -> np.ndarray:
    """Map 0, 90, 99 and 99.9 percent to 0, 1/3, 2/3 and 1, as few normal pixels as many lie between each."""
    scale = -np.log10(1 - STRONGEST / 100)
    rare = np.maximum(1 - np.asarray(percentiles, dtype=np.float32) / 100, 1e-9)
    return np.clip(-np.log10(rare) / scale, 0, 1)


def _colour(strength: np.ndarray) -> np.ndarray:
    return colormaps["inferno"](strength)[..., :3] * 255
