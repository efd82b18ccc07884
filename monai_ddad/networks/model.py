"""DDADModel: all that is trained, saved in one file, exported as one graph, and served."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from monai_ddad.io.checkpoints import RECORD_KEY, CheckpointError
from monai_ddad.io.record import ModelRecord
from monai_ddad.networks.calibration import Calibration
from monai_ddad.networks.ddad import DDADNet
from monai_ddad.networks.feature_net import FeatureNet
from monai_ddad.networks.feature_scores import FeatureScores
from monai_ddad.networks.plus import PLUS_NAMES, PlusScores
from monai_ddad.networks.protocol import ProtocolCheck
from monai_ddad.networks.scores import image_scores
from monai_ddad.networks.settings import FeatureSettings, Settings

__all__ = ["DDADModel", "Decided", "Deciding", "ScoreHead", "build_model"]

# what may differ between a model and the weights that it loads
FREE = ("score", "wanted_score", "left_out", "calibration_images", "calibration_volumes", "modalities", "body_parts")
INSTEAD = ("ddad_plus", "rec")  # decide, the first that there is, where the score that is to decide was left out


class Decided(NamedTuple):
    """What a model says of images.

    Attributes:
        maps: (B, M, H, W), one channel a name in the model's ``map_names``.
        scores: (B, S) in the order of its ``score_names``, higher is more abnormal.
        p_values: (B, S) in (0, 1], see :func:`~monai_ddad.networks.calibration.p_values`.
        protocol: (B, 4), see :class:`~monai_ddad.networks.protocol.ProtocolCheck`.
    """

    maps: torch.Tensor
    scores: torch.Tensor
    p_values: torch.Tensor
    protocol: torch.Tensor


class ScoreHead(nn.Module):
    """Scores of images: the mean of each map, and those that are made of the network's features.

    Args:
        map_names: names of the maps.
        plus: what makes scores of the features, and has learnt for it; None for the means of the maps alone.

    Attributes:
        every: names of all scores: those of the maps, then those of ``plus``.
        names: of those that are not left out.
    """

    columns: torch.Tensor

    def __init__(self, map_names: Sequence[str], plus: PlusScores | FeatureScores | None) -> None:
        super().__init__()
        self.every: list[str] = [*map_names, *(() if plus is None else plus.names)]
        self.plus = plus
        self.register_buffer("columns", torch.zeros(0, dtype=torch.long), persistent=False)
        self.leave_out(())

    @torch.jit.unused
    def leave_out(self, names: Any) -> None:
        """Do without the scores of these names, and without no others."""
        self.names: list[str] = [name for name in self.every if name not in names]
        self.complete = len(self.names) == len(self.every)
        columns = torch.tensor([self.every.index(name) for name in self.names], dtype=torch.long)
        self.columns = columns.to(self.columns.device)

    def forward(self, means: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Score images.

        Args:
            means: (B, M) of the maps, see :func:`~monai_ddad.networks.scores.image_scores`.
            features: (B, F), see :class:`~monai_ddad.networks.ddad.Discrepancies`.

        Returns:
            (B, S) in the order of ``names``.
        """
        scores = means
        if self.plus is not None:
            scores = torch.cat([scores, self.plus(features)], dim=1)
        return scores if self.complete else scores.index_select(1, self.columns)


class DDADModel(nn.Module):
    """A network, and beside it what its maps and features mean: scores, calibration and check of the input.

    Args:
        discrepancy: the network that computes the maps.
        score: the one of ``score_names`` that decides on an image; None takes ``ddad_plus`` if it was ever to be
            learnt, else the first, or what decides in its place.
        left_out: scores that the model does without, and why; see :meth:`leave_out`.
        wanted_score: the score that was to decide; None takes that which does.
        calibration_images, calibration_volumes: how many of them the calibration holds.
        bundle: name of the bundle that trains or uses the model; empty outside a bundle.
        preparation: settings of the bundle's preparation of images by name; empty outside a bundle.

    Attributes:
        head: turns maps and features into scores.
        calibration: what normal images score.
        protocol: what all training images look like.
        score: name of the score that decides.
        shown_map: name of the map that shows where: the score's own, and ``"r_inter"`` or, where there is none,
            ``"inter"`` of a score that has none.
        record_text: the :class:`~monai_ddad.io.record.ModelRecord` of the weights that were loaded or trained, which
            TorchScript keeps.

    Raises:
        ValueError: an unknown score, or a value that no model may have.

    Example:
        >>> model = DDADModel(DDADNet(image_size=32, width=2, hidden_size=8)).eval()
        >>> model(torch.zeros(5, 1, 32, 32)).shape
        torch.Size([5, 4, 32, 32])
        >>> model.score_names, model.decide(torch.zeros(5, 1, 32, 32)).scores.shape
        (['r_dual', 'inter', 'intra', 'rec'], torch.Size([5, 4]))
    """

    def __init__(
        self,
        discrepancy: DDADNet | FeatureNet,
        score: str | None = None,
        left_out: Mapping[str, str] | None = None,
        wanted_score: str | None = None,
        calibration_images: int = 0,
        calibration_volumes: int = 0,
        bundle: str = "",
        preparation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.discrepancy = discrepancy
        self.head = ScoreHead(discrepancy.map_names, discrepancy.make_head())
        self.bundle = bundle
        self.preparation = dict(preparation or {})
        self.left_out: dict[str, str] = dict(left_out or {})
        self.head.leave_out(self.left_out)
        if score in self.left_out:
            raise ValueError(
                f"{score} could not be learnt ({self.left_out[score]}): score must be one of "
                f"{', '.join(self.score_names)}."
            )
        if score is not None and score not in self.score_names:
            raise ValueError(f"score must be one of {', '.join(self.score_names)}, got {score!r}.")
        first = PLUS_NAMES[-1] if PLUS_NAMES[-1] in self.head.every else self.head.every[0]
        self.wanted_score = wanted_score or score or first
        self.decide_by(score or self.wanted_score)
        self.record_text = ""
        self._record(calibration_images, calibration_volumes)  # which checks them
        self.protocol = ProtocolCheck(discrepancy.in_channels)
        maps, scores = len(self.map_names), len(self.score_names)
        self.calibration = Calibration(scores, maps, calibration_images, calibration_volumes)

    @property
    @torch.jit.unused
    def map_names(self) -> list[str]:
        """Names of the maps, see :class:`DDADNet`."""
        return self.discrepancy.map_names

    @property
    @torch.jit.unused
    def score_names(self) -> list[str]:
        """Names of the scores, without those in ``left_out``."""
        return self.head.names

    @property
    @torch.jit.unused
    def loaded(self) -> bool:
        """Whether weights were loaded or trained."""
        return self.discrepancy.loaded

    @torch.jit.unused
    def decide_by(self, score: str) -> None:
        """Let a score decide, or in its place the first of those that can."""
        order = (score, *INSTEAD, *self.score_names)
        found = next((name for name in order if name in self.score_names), None)
        if found is None:
            raise ValueError("no score tells the images apart: are all images of the training the same?")
        self.score = found
        shown = "r_inter" if "r_inter" in self.map_names else "inter"
        self.shown_map = found if found in self.map_names else shown

    @torch.jit.unused
    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Do without scores that tell nothing, and without no others; the calibration is then to be fitted anew.

        Where one of them is the score that was to decide, another one does: ``ddad_plus``, or ``rec``, its one-class
        part before anything is learnt of it.

        Args:
            reasons: why, by name of the score, as in "``<name>`` could not be learnt: ``<reason>``".

        Raises:
            ValueError: no score is left.

        Example:
            >>> model = DDADModel(DDADNet(image_size=32, width=2, hidden_size=8, scores="plus"))
            >>> model.leave_out({"ddad_plus": "it takes 20 known normals, and 14 are left for it"})
            >>> model.score, model.notes
            ('rec', ['ddad_plus could not be learnt: it takes 20 known normals, and 14 are left for it.', \
'rec decides instead of ddad_plus.'])
        """
        self.left_out = dict(reasons)
        self.head.leave_out(self.left_out)
        self.decide_by(self.wanted_score)
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
        plus = self.head.plus
        if plus is not None and plus.of_pool[-1] in self.left_out and PLUS_NAMES[-1] in self.score_names:
            said.append(f"{PLUS_NAMES[-1]} is its one-class part alone.")
        if self.wanted_score in self.left_out:
            said.append(f"{self.score} decides instead of {self.wanted_score}.")
        return said

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
        self.discrepancy.mark_loaded()
        self.record_text = record
        return found

    @property
    @torch.jit.unused
    def record(self) -> ModelRecord:
        """What a program needs to know to use the model as it is now."""
        return self._record(len(self.calibration.images), len(self.calibration.volumes))

    @torch.jit.unused
    def _record(self, images: int, volumes: int) -> ModelRecord:
        network = self.discrepancy.settings.used()
        network |= {name: getattr(self, name) for name in ("score", "left_out", "wanted_score")}
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
            names = [name for name in self.head.every if name not in found.network["left_out"]]
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
        """Leave the model as it is: :meth:`check_record` has compared the record with it."""

    @torch.jit.unused
    def require_weights(self) -> None:
        """Refuse to score with the random weights that a network begins with.

        Raises:
            CheckpointError: none were loaded or trained.
        """
        if not self.loaded:
            raise CheckpointError("the network has no trained weights, so nothing can be scored: load a model first.")

    @torch.jit.unused
    def without_refinement(self) -> "DDADModel":
        """Return a model of the same distributions, which it shares, before refinement and calibration.

        Of ensembles it has the maps and their means alone. Its p-values and percentiles mean nothing.
        """
        return DDADModel(self.discrepancy.without_refinement()).train(self.training)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the maps of (B, C, H, W) images: (B, M, H, W), see :meth:`DDADNet.forward`."""
        return self.discrepancy(image).maps

    @torch.jit.export
    def decide(self, image: torch.Tensor) -> Decided:
        """Compute all that is said of (B, C, H, W) images, float in [-1, 1]."""
        maps, features = self.discrepancy(image)
        scores = self.head(image_scores(maps, self.discrepancy.field(image)), features)
        return Decided(maps, scores, self.calibration.images.p_values(scores), self.protocol(image))


class Deciding(nn.Module):
    """A model as a function of images that returns all of :meth:`DDADModel.decide`.

    For what calls no method but the first one, as ONNX and TensorRT. Its weights are the model's own, under their own
    names.

    Args:
        model: the model, whose weights it shares.

    Example:
        >>> deciding = Deciding(DDADModel(DDADNet(image_size=32, width=2, hidden_size=8)).eval())
        >>> [tuple(output.shape) for output in deciding(torch.zeros(5, 1, 32, 32))]
        [(5, 4, 32, 32), (5, 4), (5, 4), (5, 4)]
    """

    def __init__(self, model: DDADModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> Decided:
        """Decide on (B, C, H, W) images, float in [-1, 1]."""
        return self.model.decide(image)

    @torch.jit.unused
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the model's weights."""
        return self.model.state_dict(*args, **kwargs)

    @torch.jit.unused
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the model's weights."""
        return self.model.load_state_dict(state_dict, strict, assign)


def build_model(
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    **changes: Any,
) -> DDADModel:
    """Build a model from one set of settings.

    Args:
        settings: those of :class:`Settings`, or with ``backbone="features"`` of :class:`FeatureSettings`, and of
            :class:`DDADModel` by name, as :func:`monai_ddad.bundle.network_settings` returns them; and
            ``encoder_file``, weights of the encoder, see :class:`FeatureNet`. Settings of the other kind of network
            have no effect.
        seed: of the initial weights, see :class:`DDADNet`.
        **changes: settings that count in their place.

    Raises:
        ValueError: see :class:`Settings` and :class:`DDADModel`.

    Example:
        >>> build_model({"image_size": 32, "width": 2, "hidden_size": 8}, scores="plus").score
        'ddad_plus'
    """
    chosen = {**(settings or {}), **changes}
    encoder_file = chosen.pop("encoder_file", None)
    kinds = (FeatureSettings.names(), Settings.names())
    own = kinds[chosen.get("backbone") != "features"]
    given = {name: chosen.pop(name) for name in {*kinds[0], *kinds[1]} if name in chosen}
    of_network = {name: given[name] for name in own if name in given}
    if of_network.get("backbone") == "features":
        return DDADModel(FeatureNet(encoder_file, **of_network), **chosen)
    return DDADModel(DDADNet(seed, **of_network), **chosen)
