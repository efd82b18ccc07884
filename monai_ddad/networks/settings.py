"""Settings of a DDADNet."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from monai_ddad.io.record import FEATURES, SETTINGS, check_form

__all__ = ["REFINE_INPUTS", "FeatureSettings", "Settings"]

REFINE_INPUTS: dict[str, list[str]] = {"dual": ["inter", "intra"], "intra": ["intra"], "none": []}
MEMORY = ("memory_slots", "shrink_threshold", "entropy_weight")  # of MemAE alone


@dataclass(frozen=True)
class Settings:
    """What a :class:`~monai_ddad.networks.DDADNet` is built with.

    Attributes:
        backbone: ``"AE"``, ``"AE-U"`` or ``"MemAE"``.
        members: networks in each ensemble (K). With 1 the intra map is undefined and left out, and ``refine`` must be
            ``"none"``.
        refine: input of ASR-Net: ``"dual"`` (inter and intra), ``"intra"``, or ``"none"`` for no ASR-Net.
        in_channels: channels of the image, 1 for grey and 3 for RGB.
        image_size: side of the square image in pixels, a multiple of 16.
        latent_size: length of the latent code.
        width: channels of the backbone's first convolution.
        hidden_size: units of the backbone's hidden linear layers.
        memory_slots, shrink_threshold, entropy_weight: of MemAE alone.
        masked: leave pixels out of maps and scores that are exactly -1 in all channels, as those outside the field of
            view of a :class:`~monai_ddad.transforms.FundusField`.
        z_map: ``"inter"``, ``"intra"`` or ``"rec"`` to add that map as a z-score of each pixel against the known
            normals, or ``"none"``.
        scores: ``"paper"``, the mean of each map, or ``"plus"`` for those of
            :class:`~monai_ddad.networks.PlusScores`, too.

    Raises:
        ValueError: an unknown backbone, refine input, z-map or set of scores, no members, an ensemble of one member
            that is refined or has scores beyond the paper, or a value that no model may have.

    Example:
        >>> Settings(members=2, z_map="rec").map_names
        ['r_dual', 'inter', 'intra', 'rec', 'z_rec']
    """

    backbone: Literal["AE", "AE-U", "MemAE"] = "AE"
    members: int = 3
    refine: Literal["dual", "intra", "none"] = "dual"
    in_channels: int = 1
    image_size: int = 64
    latent_size: int = 16
    width: int = 16
    hidden_size: int = 2048
    memory_slots: int = 25
    shrink_threshold: float = 0.0
    entropy_weight: float = 2e-4
    masked: bool = False
    z_map: Literal["none", "inter", "intra", "rec"] = "none"
    scores: Literal["paper", "plus"] = "paper"

    def __post_init__(self) -> None:
        names = {"backbone": ("AE", "AE-U", "MemAE"), "refine": tuple(REFINE_INPUTS), "scores": ("paper", "plus")}
        for setting, known in names.items():
            if getattr(self, setting) not in known:
                raise ValueError(f"{setting} must be one of {', '.join(known)}, got {getattr(self, setting)!r}.")
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}.")
        if self.members == 1 and self.refine != "none":
            raise ValueError(
                f"refine={self.refine!r} needs the intra map, the spread of at least 2 members, and members is 1: "
                "raise members to 2 or more, or set refine to none and use the inter and rec maps."
            )
        if self.members == 1 and self.scores != "paper":
            raise ValueError("scores=plus needs the spread of at least 2 members, got 1: set scores to paper.")
        if self.z_map != "none" and self.z_map not in self.discrepancies:
            raise ValueError(f"z_map must be none or one of {', '.join(self.discrepancies)}, got {self.z_map!r}.")
        check_form(asdict(self), SETTINGS, "the settings")  # before anything is built of them

    @property
    def discrepancies(self) -> list[str]:
        """Names of the maps before refinement."""
        return ["inter", "intra", "rec"] if self.members > 1 else ["inter", "rec"]

    @property
    def map_names(self) -> list[str]:
        """Names of all maps, in their order."""
        refined = [] if self.refine == "none" else [f"r_{self.refine}"]
        return [*refined, *self.discrepancies, *([] if self.z_map == "none" else [f"z_{self.z_map}"])]

    @property
    def member(self) -> dict[str, Any]:
        """Arguments of one autoencoder."""
        names = ("in_channels", "image_size", "latent_size", "width", "hidden_size")
        return {name: getattr(self, name) for name in (*names, *(MEMORY if self.backbone == "MemAE" else ()))}

    @property
    def ensembles(self) -> dict[str, Any]:
        """What the ensembles alone depend on, by name."""
        return {"backbone": self.backbone, "members": self.members, **self.member}

    def used(self) -> dict[str, Any]:
        """Return the settings that have an effect, by name."""
        return {name: value for name, value in asdict(self).items() if name not in MEMORY or name in self.member}

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [field.name for field in fields(cls)]


@dataclass(frozen=True)
class FeatureSettings:
    """What a :class:`~monai_ddad.networks.FeatureNet` is built with.

    Attributes:
        backbone: ``"features"``.
        encoder: name of a network of timm.
        encoder_digest: SHA-256 of the file of its weights; empty takes any.
        in_channels: channels of the image, 1 for grey and 3 for RGB.
        image_size: side of the square image in pixels, a multiple of 32.
        masked: leave pixels out of maps that are exactly -1 in all channels, as :class:`Settings` has it; cells are
            described with their surroundings.
        refine: ``"inter"`` to refine that map by a :class:`~monai_ddad.networks.CellASRNet`, or ``"none"``.

    Raises:
        ValueError: a value that no model may have.

    Example:
        >>> FeatureSettings(image_size=320, refine="inter").map_names
        ['r_inter', 'inter', 'rec', 'ratio']
    """

    backbone: Literal["features"] = "features"
    encoder: str = "tf_efficientnet_lite0"
    encoder_digest: str = ""
    in_channels: int = 1
    image_size: int = 224
    masked: bool = False
    refine: Literal["inter", "none"] = "none"

    def __post_init__(self) -> None:
        check_form(asdict(self), FEATURES, "the settings")
        if self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, the encoder's stride, got {self.image_size}.")
        if self.encoder_digest.startswith("random") and self.encoder != FeatureSettings.encoder:
            raise ValueError(f"random weights are drawn for {FeatureSettings.encoder} alone, as a control.")

    @property
    def map_names(self) -> list[str]:
        """Names of all maps, in their order."""
        return [*([] if self.refine == "none" else ["r_inter"]), "inter", "rec", "ratio"]

    def of(self, digest: str) -> "FeatureSettings":
        """Return the settings with the hash of the weights that are used."""
        return replace(self, encoder_digest=digest)

    def used(self) -> dict[str, Any]:
        """Return the settings that have an effect, by name."""
        return asdict(self)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return [field.name for field in fields(cls)]
