"""The memory of MemAE against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ddad.networks import AE, MemAE, Memory


def test_rows_start_uniform_within_one_over_root_latent_size():
    torch.manual_seed(0)
    rows = torch.cat([MemAE(width=1, hidden_size=2).mem_rep.memory.weight.detach().flatten() for _ in range(10)])
    assert rows.shape == (10 * 25 * 16,)
    assert 0.245 < rows.max() <= 0.25 and -0.25 <= rows.min() < -0.245
    assert abs(rows.mean()) < 0.01 and abs(rows.std() - 0.5 / 12**0.5) < 0.01  # of a uniform variable of that range


@pytest.mark.parametrize("threshold", [0.0, 0.005, 0.04, 0.06])
def test_code_is_the_shrunk_attention_times_the_rows(threshold):
    generator = torch.Generator().manual_seed(0)
    memory = Memory(25, 16, threshold)
    latent = 4 * torch.randn(40, 16, generator=generator)
    code, attention = memory(latent)

    rows, z = memory.memory.weight.detach().double().numpy(), latent.double().numpy()
    expected = np.zeros((40, 25))
    for n in range(40):
        weights = np.exp([float(z[n] @ row) for row in rows])
        weights /= weights.sum()
        if threshold > 0:
            assert (weights < threshold).any() and (weights > threshold).any()
            weights = np.where(weights > threshold, weights, 0.0)
            weights /= weights.sum()
        expected[n] = weights
    np.testing.assert_allclose(attention.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(code.detach(), expected @ rows, atol=1e-6)


def test_mem_ae_is_the_autoencoder_with_its_code_replaced(tiny, images):
    memory = MemAE(**tiny).eval()
    plain = AE(**tiny).eval()
    plain.load_state_dict({name: value for name, value in memory.state_dict().items() if "mem_rep" not in name})
    code, _ = memory.mem_rep(plain.encode(images))
    assert torch.equal(memory(images), plain.decode(code))
    assert not torch.allclose(memory(images), plain(images), atol=1e-4)


def test_the_shrink_threshold_reaches_the_memory(tiny):
    assert MemAE(**tiny, shrink_threshold=0.01).mem_rep.shrink_threshold == 0.01


def test_an_attention_below_the_threshold_everywhere_gives_a_finite_zero_code():
    code, attention = Memory(25, 16, 0.9)(torch.zeros(3, 16))
    assert torch.equal(attention, torch.zeros(3, 25)) and torch.equal(code, torch.zeros(3, 16))
