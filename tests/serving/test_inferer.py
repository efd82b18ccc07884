"""One call gives what the maps, the scores and the calibration give one by one."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.decision import finding
from monai_ddad.networks.scores import image_scores
from monai_ddad.serving.inferer import DecidingInferer


@pytest.mark.parametrize("slices", [None, 1, 5])
def test_a_picture_or_volume_has_its_maps_scores_and_decision(make_net, images, monkeypatch, slices):
    monkeypatch.setattr(finding, "BATCH", 2)
    network = make_net("AE")
    network.calibration.images.fit(torch.rand(9, len(network.map_names)), range(9))
    network.calibration.volumes.fit(torch.rand(4, len(network.map_names)), range(4))
    network.calibration.alpha.fill_(0.05)
    picture = images[:slices]
    with torch.no_grad():
        (found,) = DecidingInferer()(images[:1] if slices is None else picture[None], network)
        maps = network(images[:1] if slices is None else picture)
        scores = image_scores(maps, network.discrepancy.field(picture[: len(maps)])).mean(dim=0)
    torch.testing.assert_close(found.maps, maps)
    result = found.result
    assert list(result.scores) == network.score_names
    torch.testing.assert_close(torch.tensor(list(result.scores.values())), scores)
    normals = network.calibration.images if slices is None else network.calibration.volumes
    chosen = network.score_names.index(network.score)
    assert result.p_value == pytest.approx(normals.p_values(scores)[chosen].item())
    assert result.percentile == pytest.approx(normals.percentiles(scores)[chosen].item())
    assert result.flagged is False and result.slices == (slices or 0)
    assert (result.score, result.map) == (network.score, network.shown_map)
    needs = f"the calibration has {9 if slices is None else 4} groups of normals, and it takes 19"
    assert needs in result.notes[0]
