"""Numbers and names as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "METRIC_NAMES",
    "FEATURE_SCORE_NAMES",
    "SCORE_NAMES",
    "duration",
    "figure",
    "percent",
    "plain",
    "rate",
    "setting",
    "signed",
    "span",
    "split_name",
]

METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "sensitivity_at_90_specificity": "Sensitivity at 90\u00a0% specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95\u00a0% specificity",
    "pixel_auroc": "Pixel AUROC",
    "pixel_average_precision": "Pixel average precision",
    "best_dice": "Best Dice",
    "best_dice_threshold": "Threshold of the best Dice",
    "per_region_overlap": "Per-region overlap",
}
SCORE_NAMES = {
    "r_dual": "refined by ASR-Net from inter and intra, between 0 and 1",
    "r_intra": "refined by ASR-Net from intra, between 0 and 1",
    "inter": "difference between the mean reconstructions by the ensemble that learned known normals and by the one "
    "that learned unlabelled images, too",
    "intra": "disagreement within the ensemble that learned known normals",
    "rec": "squared error of the mean reconstruction by the ensemble that learned known normals",
    "z_inter": "inter, in standard deviations from known normals",
    "z_intra": "intra, in standard deviations from known normals",
    "z_rec": "rec, in standard deviations from known normals",
    "ratio": "how much worse the ensemble that learned known normals reconstructs than the other one, as a logarithm",
    "f": "difference between the two ensembles relative to the disagreement within them, as a logarithm",
    "ssim": "difference in structure between the mean reconstructions by the two ensembles",
    "maha_rec": "how unusual rec is, and where, compared with known normals; needs no unlabelled images",
    "maha_inter": "how unusual inter is, and where, compared with known normals",
    "pu_latent": "towards the unlabelled images rather than the known normals, in the latent codes",
    "pu_map": "towards the unlabelled images rather than the known normals, in inter",
    "ddad_plus": "maha_rec and, as far as the unlabelled images differ from known normals, ratio and pu_latent, each "
    "in standard deviations from known normals",
}
FEATURE_SCORE_NAMES = {
    "r_inter": "inter, less of it where the features of a place do not look altered",
    "inter": "how much less the known normals explain the features of a place than they and the unlabelled images do",
    "rec": "how far the features of each place are from those of known normals",
    "ratio": "the ratio of what inter is the difference of, as a logarithm",
    "log_ratio": "the same of the whole image",
    "log_ratio_top": "the same of the places where it is highest",
    "pu_cells": "towards the unlabelled images rather than the known normals, in the features of places",
    "pu_cells_top": "the same, of the places where it is highest",
    "pu_pooled": "towards the unlabelled images rather than the known normals, in features of the whole image",
    "neighbours": "how far the image is from the most similar known normals; needs no unlabelled images",
    "ddad_plus": "neighbours and the five scores above it, which count more where the unlabelled images differ more "
    "from known normals; each in standard deviations from known normals",
}
SPLIT_NAMES = {
    "all": "all images",
    "without_duplicates": "without copies of training images",
    "without_near_copies": "without near copies of training images",
    "volumes": "volumes",
}


def plain(name: str) -> str:
    """Write the name of a setting as words.

    Example:
        >>> plain("refine_batch_size")
        'refine batch size'
    """
    return name.replace("_", " ")


def split_name(name: str) -> str:
    """Name a part of the images.

    Example:
        >>> split_name("without_duplicates")
        'without copies of training images'
    """
    return SPLIT_NAMES.get(name, plain(name))


def figure(value: float, interval: Sequence[float] | None = None) -> str:
    r"""Write a figure with its interval, to three decimals.

    Example:
        >>> figure(0.8504), figure(0.8504, [0.8174, 0.8821])
        ('0.850', '0.850 (0.817\xa0to\xa00.882)')
    """
    return f"{value:.3f}" + (f" ({span(f'{interval[0]:.3f}', f'{interval[1]:.3f}')})" if interval else "")


def span(low: str, high: str) -> str:
    r"""Write an interval that no line break divides.

    Example:
        >>> span("0.1", "0.2")
        '0.1\xa0to\xa00.2'
    """
    return f"{low}\u00a0to\u00a0{high}"


def signed(difference: float) -> str:
    """Write a difference with its sign, to three decimals.

    Example:
        >>> signed(0.0123), signed(-0.0123), signed(-0.0001)
        ('+0.012', '\u22120.012', '0.000')
    """
    text = f"{difference:+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\u2212")


def percent(share: float) -> str:
    r"""Write a share in percent, to one decimal where it is needed, and to two digits below 0.1 %.

    Example:
        >>> percent(0.05), percent(0.0667), percent(0.00025)
        ('5\xa0%', '6.7\xa0%', '0.025\xa0%')
    """
    text = f"{100 * share:.2g}" if 0 < share < 0.001 else f"{100 * share:.1f}".removesuffix(".0")
    return f"{text}\u00a0%"


def rate(share: float, interval: Sequence[float]) -> str:
    r"""Write a share with its interval, in percent.

    Example:
        >>> rate(0.05, [0.011, 0.139])
        '5\xa0% (1.1\xa0%\xa0to\xa013.9\xa0%)'
    """
    return f"{percent(share)} ({span(percent(interval[0]), percent(interval[1]))})"


def duration(seconds: float) -> str:
    """Write a duration in its two largest units.

    Example:
        >>> duration(28.62), duration(2573.16), duration(90061)
        ('28.6 s', '42 min 53 s', '25 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def setting(content: Any) -> str:
    """Write the value of a setting.

    Example:
        >>> setting(0.0005), setting(True), setting(None), setting(["r_dual", "rec"]), setting({"rec": "a reason"})
        ('0.0005', 'yes', 'none', 'r_dual, rec', 'rec')
    """
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, (list, tuple, Mapping)):
        return ", ".join(map(setting, content)) or "none"
    return "none" if content is None else f"{content:g}" if isinstance(content, float) else str(content)
