"""DDADNet: the one module that is trained, saved, exported and served."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from monai_ddad.io.checkpoints import RECORD_KEY, CheckpointError
from monai_ddad.io.record import ModelRecord
from monai_ddad.networks.autoencoder import AE, AEU
from monai_ddad.networks.calibration import Calibration
from monai_ddad.networks.ensemble import Ensemble
from monai_ddad.networks.memory import MemAE
from monai_ddad.networks.plus import PLUS_NAMES, PlusScores
from monai_ddad.networks.protocol import ProtocolCheck
from monai_ddad.networks.refine import ASRNet
from monai_ddad.networks.scores import image_scores, inter_map, intra_map, mean_variance, rec_map, ssim_map, z_map
from monai_ddad.seeding import derive_seed

__all__ = ["BACKBONES", "REFINE_INPUTS", "DDADNet", "Decision", "ScoringDDADNet"]

BACKBONES: dict[str, type[AE]] = {"AE": AE, "AE-U": AEU, "MemAE": MemAE}
REFINE_INPUTS: dict[str, list[str]] = {"dual": ["inter", "intra"], "intra": ["intra"], "none": []}
# what may differ between a network and the weights that it loads
FREE = ("score", "wanted_score", "left_out", "calibration_images", "calibration_volumes", "modalities", "body_parts")
INSTEAD = ("ddad_plus", "rec")  # decide, the first that there is, where the score that is to decide was left out


class DDADNet(nn.Module):
    """Dual-distribution discrepancy network with self-supervised refinement.

    Holds the normative distribution module ``ndm`` and the unknown distribution module ``udm``, each an ensemble of
    ``members`` autoencoders, the refinement network ``asr``, and what normal images score in ``calibration``, and
    what all training images look like in ``protocol``.

    Args:
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
        scores: ``"paper"``, the mean of each map, or ``"plus"`` for those of :class:`PlusScores`, too.
        score: the one of ``score_names`` that decides on an image; None takes ``ddad_plus`` if it was ever to be
            learnt, else the first, or what decides in its place.
        left_out: scores that the model does without, and why; see :meth:`leave_out`.
        wanted_score: the score that was to decide; None takes that which does.
        calibration_images, calibration_volumes: how many of them the calibration holds.
        seed: seed of the initial weights, a stream of its own for each member; None draws them from PyTorch's
            global generator.
        bundle: name of the bundle that trains or uses the network; empty outside a bundle.
        preparation: settings of the bundle's preparation of images by name; empty outside a bundle.

    Attributes:
        map_names: names of the output channels: ``r_dual`` or ``r_intra`` first (if refined), then ``inter``,
            ``intra`` (if defined) and ``rec``, and ``z_<map>`` (if asked for).
        score_names: names of the image scores: ``map_names``, whose means they are, then :data:`PLUS_NAMES` (if asked);
            without those in ``left_out``.
        score: name of the score that decides.
        shown_map: name of the map that shows where: the score's own, and ``"inter"`` of a score that has none.
        settings: what the ensembles were built with.
        loaded: () bool, whether weights were loaded or trained: a network without refuses to score, see
            :meth:`require_weights`.
        record_text: the :class:`~monai_ddad.io.record.ModelRecord` of the weights that were loaded
            or trained, which TorchScript keeps.

    Raises:
        ValueError: an unknown backbone, refine input, z-map, set of scores or score, no members,
            an ensemble of one member that is refined or has scores beyond the paper, or a value that no model may have.

    Source: MedIA 2023, sections 3.2 to 3.4; method.md sections 2 to 4.

    Example:
        >>> net = DDADNet(image_size=32, width=2, hidden_size=8).eval()
        >>> net.map_names
        ['r_dual', 'inter', 'intra', 'rec']
        >>> net(torch.zeros(5, 1, 32, 32)).shape, net.image_scores(torch.zeros(5, 1, 32, 32)).shape
        (torch.Size([5, 4, 32, 32]), torch.Size([5, 4]))
    """

    z_mean: torch.Tensor
    z_deviation: torch.Tensor
    loaded: torch.Tensor
    columns: torch.Tensor

    def __init__(
        self,
        backbone: Literal["AE", "AE-U", "MemAE"] = "AE",
        members: int = 3,
        refine: Literal["dual", "intra", "none"] = "dual",
        in_channels: int = 1,
        image_size: int = 64,
        latent_size: int = 16,
        width: int = 16,
        hidden_size: int = 2048,
        memory_slots: int = 25,
        shrink_threshold: float = 0.0,
        entropy_weight: float = 2e-4,
        masked: bool = False,
        z_map: Literal["none", "inter", "intra", "rec"] = "none",
        scores: Literal["paper", "plus"] = "paper",
        score: str | None = None,
        left_out: Mapping[str, str] | None = None,
        wanted_score: str | None = None,
        calibration_images: int = 0,
        calibration_volumes: int = 0,
        seed: int | None = None,
        bundle: str = "",
        preparation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}.")
        if refine not in REFINE_INPUTS:
            raise ValueError(f"refine must be one of {', '.join(REFINE_INPUTS)}, got {refine!r}.")
        if members < 1:
            raise ValueError(f"members must be at least 1, got {members}.")
        if members == 1 and refine != "none":
            raise ValueError(
                f"refine={refine!r} needs the intra map, the spread of at least 2 members, and members is 1: "
                "raise members to 2 or more, or set refine to none and use the inter and rec maps."
            )
        if scores not in ("paper", "plus"):
            raise ValueError(f"scores must be paper or plus, got {scores!r}.")
        if members == 1 and scores != "paper":
            raise ValueError("scores=plus needs the spread of at least 2 members, got 1: set scores to paper.")
        options: dict[str, Any] = {
            "in_channels": in_channels,
            "image_size": image_size,
            "latent_size": latent_size,
            "width": width,
            "hidden_size": hidden_size,
        }
        if backbone == "MemAE":
            options.update(memory_slots=memory_slots, shrink_threshold=shrink_threshold, entropy_weight=entropy_weight)
        names = ["inter", "intra", "rec"] if members > 1 else ["inter", "rec"]
        if z_map != "none" and z_map not in names:
            raise ValueError(f"z_map must be none or one of {', '.join(names)}, got {z_map!r}.")
        self.discrepancy_names = names
        self.map_names: list[str] = [
            *([] if refine == "none" else [f"r_{refine}"]),
            *names,
            *([] if z_map == "none" else [f"z_{z_map}"]),
        ]
        self.settings: dict[str, Any] = {"backbone": backbone, "members": members, **options}
        self.backbone = backbone
        self.members = members
        self.refine = refine
        self.masked = masked
        self.z_map = z_map
        self.scores = scores
        self.in_channels = in_channels
        self.image_size = image_size
        self.bundle = bundle
        self.preparation = dict(preparation or {})
        self.left_out: dict[str, str] = dict(left_out or {})
        self.register_buffer("columns", torch.zeros(0, dtype=torch.long), persistent=False)
        self._name_scores()
        if score in self.left_out:
            raise ValueError(
                f"{score} could not be learnt ({self.left_out[score]}): score must be one of "
                f"{', '.join(self.score_names)}."
            )
        if score is not None and score not in self.score_names:
            raise ValueError(f"score must be one of {', '.join(self.score_names)}, got {score!r}.")
        self.wanted_score = wanted_score or score or (self.map_names[0] if scores == "paper" else PLUS_NAMES[-1])
        self._decide_by(score or self.wanted_score)
        self.record_text = ""
        self._record(calibration_images, calibration_volumes)  # which checks them, before anything is built

        self.ndm = Ensemble(BACKBONES[backbone](**options) for _ in range(members))
        self.udm = Ensemble(BACKBONES[backbone](**options) for _ in range(members))
        self.asr = ASRNet(len(REFINE_INPUTS[refine])) if refine != "none" else None
        self.plus = PlusScores(members * latent_size) if scores == "plus" else None
        self.refine_channels: list[int] = [names.index(name) for name in REFINE_INPUTS[refine]]
        self.z_channel = names.index(z_map) if z_map != "none" else -1
        size = (int(z_map != "none"), image_size, image_size)
        self.register_buffer("z_mean", torch.zeros(size))
        self.register_buffer("z_deviation", torch.ones(size))
        self.register_buffer("loaded", torch.tensor(False), persistent=False)
        self.protocol = ProtocolCheck(in_channels)
        self.calibration = Calibration(
            len(self.score_names), len(self.map_names), calibration_images, calibration_volumes
        )
        if seed is not None:
            self._initialise(seed)

    def _every_score(self) -> list[str]:
        """Return the names of all scores, those that are left out among them."""
        plus = PLUS_NAMES if self.scores == "plus" else ()
        return [*self.map_names, *plus]

    def _name_scores(self) -> None:
        """Name the scores that are not left out, and find their places among all."""
        every = self._every_score()
        self.score_names: list[str] = [name for name in every if name not in self.left_out]
        self.complete = len(self.score_names) == len(every)
        columns = torch.tensor([every.index(name) for name in self.score_names], dtype=torch.long)
        self.columns = columns.to(self.columns.device)

    def _decide_by(self, score: str) -> None:
        """Let a score decide, or in its place the first of those that can."""
        order = (score, *INSTEAD, *self.score_names)
        found = next((name for name in order if name in self.score_names), None)
        if found is None:
            raise ValueError("no score tells the images apart: are all images of the training the same?")
        self.score = found
        self.shown_map = found if found in self.map_names else "inter"

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Do without scores that tell nothing, and without no others; the calibration is then to be fitted anew.

        Where one of them is the score that was to decide, another one does: ``ddad_plus``, or ``rec``, its one-class
        part before anything is learnt of it.

        Args:
            reasons: why, by name of the score, as in "``<name>`` could not be learnt: ``<reason>``".

        Raises:
            ValueError: no score is left.

        Example:
            >>> net = DDADNet(image_size=32, width=2, hidden_size=8, scores="plus")
            >>> net.leave_out({"ddad_plus": "it takes 20 known normals, and 14 are left for it"})
            >>> net.score, net.notes
            ('rec', ['ddad_plus could not be learnt: it takes 20 known normals, and 14 are left for it.', \
'rec decides instead of ddad_plus.'])
        """
        self.left_out = dict(reasons)
        self._name_scores()
        self._decide_by(self.wanted_score)
        device = self.calibration.alpha.device
        self.calibration = Calibration(len(self.score_names), len(self.map_names)).to(device)

    @property
    @torch.jit.unused
    def notes(self) -> list[str]:
        """What there is to know of scores that could not be learnt, in sentences; empty where all were."""
        names: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            names.setdefault(reason, []).append(name)
        said = [f"{', '.join(group)} could not be learnt: {reason}." for reason, group in names.items()]
        if "pu_latent" in self.left_out and PLUS_NAMES[-1] in self.score_names:
            said.append(f"{PLUS_NAMES[-1]} is its one-class part alone.")
        if self.wanted_score in self.left_out:
            said.append(f"{self.score} decides instead of {self.wanted_score}.")
        return said

    def _initialise(self, seed: int) -> None:
        """Draw every member's initial weights anew, each from a stream of its own."""
        modules: list[Iterable[nn.Module]] = [
            self.ndm.members,
            self.udm.members,
            [] if self.asr is None else [self.asr],
        ]
        with torch.random.fork_rng(devices=[]):
            for index, networks in enumerate(modules):
                for k, network in enumerate(networks):
                    torch.manual_seed(derive_seed(seed, index, k))
                    for layer in network.modules():
                        if callable(reset := getattr(layer, "reset_parameters", None)):
                            reset()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load all weights, or raise also where ``strict`` is False, as MONAI Label has it: half a model is none.

        Scores that the other model does without are left out here, too, see :meth:`leave_out`.

        Raises:
            CheckpointError: the model's record, which stands among the weights, is missing, damaged or of another
                model, see :meth:`check_record`.
            RuntimeError: names or shapes differ.
        """
        record = self.check_record(state_dict)
        left_out = ModelRecord.parse(record).network["left_out"]
        if left_out != self.left_out:
            self.leave_out(left_out)
        found = super().load_state_dict(state_dict, True, assign)
        self.loaded.fill_(True)
        self.record_text = record
        return found

    @property
    @torch.jit.unused
    def record(self) -> ModelRecord:
        """What a program needs to know to use the network as it is now."""
        return self._record(len(self.calibration.images), len(self.calibration.volumes))

    @torch.jit.unused
    def _record(self, images: int, volumes: int) -> ModelRecord:
        names = ("refine", "masked", "z_map", "scores", "score", "left_out", "wanted_score")
        network = self.settings | {name: getattr(self, name) for name in names}
        network |= {"calibration_images": images, "calibration_volumes": volumes}
        return ModelRecord(self.bundle, network, self.preparation, self.map_names, self.score_names)

    @torch.jit.unused
    def check_record(self, weights: Mapping[str, Any], partly: bool = False) -> str:
        """Check that weights are of such a model.

        Args:
            weights: a state dict with the record in it.
            partly: the weights are only to start from, so that all but the bundle may differ.

        Returns:
            the text of their record.

        Raises:
            CheckpointError: there is no record, it is damaged, or of another bundle, network or preparation; which
                score decides, which were left out, the number of calibration images and the accepted kinds of files may
                differ.
        """
        found, own = ModelRecord.of(weights), self.record
        if own.bundle:
            found.require_bundle(own.bundle)
        if not partly:
            pairs: dict[str, tuple[Any, Any]]
            names = [name for name in self._every_score() if name not in found.network["left_out"]]
            pairs = {"map_names": (found.map_names, own.map_names), "score_names": (found.score_names, names)}
            pairs |= {name: (found.network.get(name), value) for name, value in own.network.items()}
            if own.bundle:
                pairs |= {name: (found.preparation.get(name), value) for name, value in own.preparation.items()}
            different = [name for name, pair in pairs.items() if pair[0] != pair[1] and name not in FREE]
            if different:
                values = "; ".join(f"{name} is {pairs[name][0]}, here {pairs[name][1]}" for name in different)
                raise CheckpointError(f"the checkpoint is of another model: {values}."[:1000])
        return weights[RECORD_KEY].cpu().numpy().tobytes().decode()

    @torch.jit.unused
    def get_extra_state(self) -> torch.Tensor:
        """Return the record, as which it stands in the state dict."""
        return self.record.tensor()

    @torch.jit.unused
    def set_extra_state(self, state: torch.Tensor) -> None:
        """Leave the network as it is: :meth:`check_record` has compared the record with it."""

    @torch.jit.unused
    def require_weights(self) -> None:
        """Refuse to score with the random weights that a network begins with.

        Raises:
            CheckpointError: none were loaded or trained.
        """
        if not self.loaded:
            raise CheckpointError("the network has no trained weights, so nothing can be scored: load a model first.")

    def without_refinement(self) -> "DDADNet":
        """Return a network of the same ensembles, whose weights it shares, that computes nothing but their maps.

        It is for maps and scores; p-values and percentiles are those of the whole network.
        """
        other = copy.copy(self)
        other._modules = {name: None if name in ("asr", "plus") else part for name, part in self._modules.items()}
        other._buffers = dict(self._buffers)
        other.refine, other.z_map, other.z_channel, other.scores = "none", "none", -1, "paper"
        other.refine_channels = []
        other.map_names = self.discrepancy_names
        other._name_scores()
        other.score = other.shown_map = other.wanted_score = self.discrepancy_names[0]
        other.calibration = Calibration(len(other.score_names), len(other.map_names))
        return other

    def scoring(self) -> "ScoringDDADNet":
        """Return the same network, whose weights it shares, as one whose output has the image scores in it."""
        other = ScoringDDADNet.__new__(ScoringDDADNet)
        other.__dict__.update(self.__dict__)
        return other

    def discrepancy_maps(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the maps before refinement.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            (B, M, H, W), at least 0: inter, intra (if defined) and rec, each averaged over the image's channels.
        """
        ndm, udm, deviation = self._reconstruct(image, self.udm.encode(image))
        return self._compare(image, ndm, udm, deviation)

    def _reconstruct(
        self, image: torch.Tensor, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Reconstruct by the NDM, and by the UDM from its codes; with the deviation that AE-U predicts."""
        ndm = self.ndm(image).to(image.dtype)  # out of autocast's half precision
        udm = self.udm.reconstruct(codes).to(image.dtype)
        if self.backbone != "AE-U":
            return ndm, udm, None
        ndm, log_variances = ndm.chunk(2, dim=2)
        return ndm, udm.chunk(2, dim=2)[0], mean_variance(log_variances).sqrt()

    def _compare(
        self, image: torch.Tensor, ndm: torch.Tensor, udm: torch.Tensor, deviation: torch.Tensor | None
    ) -> torch.Tensor:
        maps = [inter_map(udm, ndm)]
        if self.members > 1:
            maps.append(intra_map(ndm))
        maps.append(rec_map(image, ndm))
        if deviation is not None:
            maps = [values / (deviation.square() if i == len(maps) - 1 else deviation) for i, values in enumerate(maps)]
        return torch.stack(maps, dim=1).mean(dim=2)

    def refine_logits(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply ASR-Net to the (B, M, H, W) discrepancy maps; return (B, 2, H, W) logits of (normal, anomalous)."""
        if self.asr is None:
            raise ValueError("this model has no ASR-Net (refine is none).")
        return self.asr(maps[:, self.refine_channels])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute all anomaly maps.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            (B, M, H, W), one channel a name in :attr:`map_names`; refined maps lie in [0, 1], the others are at
            least 0; all are 0 where :meth:`field` is.
        """
        return self._refined(image, self.discrepancy_maps(image))

    def _refined(self, image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Add what is made of the (B, M, H, W) discrepancy maps, and blacken them outside the field."""
        parts = [maps]
        if self.asr is not None:
            parts = [self.refine_logits(maps).softmax(dim=1)[:, 1:], maps]
        if self.z_channel >= 0:
            parts.append(z_map(maps[:, self.z_channel : self.z_channel + 1], self.z_mean, self.z_deviation))
        maps = torch.cat(parts, dim=1)
        field = self.field(image)
        return maps if field is None else maps * field

    @torch.jit.export
    def scored(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute all anomaly maps and image scores.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            maps: (B, M, H, W), as :meth:`forward` returns them.
            scores: (B, S) in the order of :attr:`score_names`.
        """
        codes = self.udm.encode(image)
        ndm, udm, deviation = self._reconstruct(image, codes)
        discrepancies = self._compare(image, ndm, udm, deviation)
        maps = self._refined(image, discrepancies)
        scores = image_scores(maps, self.field(image))
        if self.plus is not None:
            features = self._plus_features(image, ndm, udm, deviation, codes, discrepancies)
            scores = torch.cat([scores, self.plus(features)], dim=1)
        return maps, scores if self.complete else scores.index_select(1, self.columns)

    @torch.jit.export
    def plus_features(self, image: torch.Tensor) -> torch.Tensor:
        """Compute what the scores beyond the paper are made of; see :meth:`PlusScores.features`."""
        codes = self.udm.encode(image)
        ndm, udm, deviation = self._reconstruct(image, codes)
        return self._plus_features(image, ndm, udm, deviation, codes, self._compare(image, ndm, udm, deviation))

    def _plus_features(
        self,
        image: torch.Tensor,
        ndm: torch.Tensor,
        udm: torch.Tensor,
        deviation: torch.Tensor | None,
        codes: torch.Tensor,
        discrepancies: torch.Tensor,
    ) -> torch.Tensor:
        assert self.plus is not None
        field = self.field(image)
        if field is None:
            field = torch.ones_like(image[:, :1])
        maps = torch.cat([discrepancies[:, -1:], discrepancies[:, :1], ssim_map(udm, ndm)], dim=1)
        if deviation is not None:
            image, ndm, udm = image / deviation, ndm / deviation, udm / deviation
        latent = codes.to(image.dtype).transpose(0, 1).flatten(1)
        return self.plus.features(image, udm, ndm, latent, maps, field)

    def field(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return which pixels of (B, C, H, W) images count: (B, 1, H, W) of 0 and 1; None if all do."""
        if not self.masked:
            return None
        return (image.amax(dim=1, keepdim=True) > -1).to(image.dtype)

    @torch.jit.export
    def image_scores(self, image: torch.Tensor) -> torch.Tensor:
        """Score images: (B, C, H, W) in [-1, 1] -> (B, S) in the order of :attr:`score_names`."""
        return self.scored(image)[1]

    @torch.jit.export
    def p_values(self, scores: torch.Tensor) -> torch.Tensor:
        """Compute p-values of (B, S) image scores: (B, S) in (0, 1]; see :func:`.calibration.p_values`."""
        return self.calibration.images.p_values(scores)

    @torch.jit.export
    def percentiles(self, scores: torch.Tensor) -> torch.Tensor:
        """Compute percentiles of (B, S) image scores among the calibration images: (B, S) in [0, 100]."""
        return self.calibration.images.percentiles(scores)


class ScoringDDADNet(DDADNet):
    """A :class:`DDADNet` that returns image scores, too, for runtimes that call no method but the first, as TensorRT.

    Example:
        >>> network = DDADNet(image_size=32, width=2, hidden_size=8).eval().scoring()
        >>> [tuple(output.shape) for output in network(torch.zeros(5, 1, 32, 32))]
        [(5, 4, 32, 32), (5, 4)]
    """

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute all anomaly maps and image scores; see :meth:`DDADNet.scored`."""
        return self.scored(image)


class Decision(nn.Module):
    """All that is decided by, as one output, for runtimes that know no methods, such as ONNX.

    Args:
        network: the trained and calibrated model.

    Example:
        >>> decision = Decision(DDADNet(image_size=32, width=2, hidden_size=8)).eval()
        >>> [tuple(output.shape) for output in decision(torch.zeros(5, 1, 32, 32))]
        [(5, 4, 32, 32), (5, 4), (5, 4), (5, 4)]
    """

    def __init__(self, network: DDADNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decide on images.

        Args:
            image: (B, C, H, W) float in [-1, 1].

        Returns:
            maps: (B, M, H, W).
            scores: (B, S).
            p_values: (B, S).
            protocol: (B, 4), see :class:`monai_ddad.networks.protocol.ProtocolCheck`.
        """
        maps, scores = self.network.scored(image)
        return maps, scores, self.network.p_values(scores), self.network.protocol(image)
