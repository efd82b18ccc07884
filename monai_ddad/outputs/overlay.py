"""Heat-map overlays at the image's own size."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image

__all__ = ["overlay_heat_map"]


def overlay_heat_map(image: Image.Image, heat: np.ndarray, limit: float, opacity: float = 0.6) -> Image.Image:
    """Blend an anomaly map over an image, stronger where the map is higher.

    Args:
        image: PIL image of mode ``L`` or ``RGB`` at its own size.
        heat: (H, W) anomaly map of the image's size, at least 0.
        limit: map value that gets the brightest colour and the full opacity, above 0.
        opacity: weight of the colour there, in [0, 1].

    Returns:
        RGB image of the image's size.

    Example:
        >>> overlay_heat_map(Image.new("L", (40, 20)), np.zeros((20, 40)), limit=1.0).size
        (40, 20)
    """
    share = np.clip(heat / limit, 0, 1)
    colour = colormaps["inferno"](share)[..., :3] * 255
    weight = opacity * share[..., None]
    blended = (1 - weight) * np.asarray(image.convert("RGB")) + weight * colour
    return Image.fromarray(np.rint(blended).astype(np.uint8))
