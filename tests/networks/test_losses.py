"""Losses against PyTorch, closed forms and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from monai_ddad.networks import AE, AEU, MemAE
from monai_ddad.networks.losses import attention_entropy, focal_loss, gaussian_nll, mean_squared_error


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mean_squared_error_equals_pytorch():
    a, b = draw(3, 2, 8, 8), draw(3, 2, 8, 8, seed=1)
    torch.testing.assert_close(mean_squared_error(a, b), F.mse_loss(a, b))


def test_gaussian_nll_is_twice_pytorchs_without_its_constant():
    mean, log_variance, image = draw(3, 1, 8, 8), draw(3, 1, 8, 8, seed=1), draw(3, 1, 8, 8, seed=2)
    expected = 2 * F.gaussian_nll_loss(mean, image, log_variance.exp(), full=False, eps=0)
    torch.testing.assert_close(gaussian_nll(mean, log_variance, image), expected)


def test_gaussian_nll_is_least_where_the_log_variance_is_that_of_the_error():
    error, log_variance = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    log_variance = (error**2).log().requires_grad_()
    gaussian_nll(error, log_variance, torch.zeros_like(error)).backward()
    assert abs(log_variance.grad) < 1e-12


def test_attention_entropy_equals_a_loop():
    attention = draw(6, 25).mul(3).softmax(dim=1)
    expected = sum(-sum(a * math.log(a + 1e-12) for a in row) for row in attention.tolist()) / 6
    assert attention_entropy(attention).item() == pytest.approx(expected)


@pytest.mark.parametrize("slots", [1, 2, 25])
def test_attention_entropy_is_zero_for_one_row_and_log_n_for_all(slots):
    assert attention_entropy(torch.eye(slots, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-9)
    uniform = torch.full((2, slots), 1 / slots, dtype=torch.float64)
    assert attention_entropy(uniform).item() == pytest.approx(math.log(slots), abs=1e-9)


def slow_focal(logits: np.ndarray, mask: np.ndarray) -> float:
    """The authors' definition, pixel by pixel."""
    losses = []
    for b, row, column in np.ndindex(mask.shape):
        exponentials = np.exp(logits[b, :, row, column])
        probability = exponentials / exponentials.sum()
        one_hot = np.zeros(2)
        one_hot[mask[b, row, column]] = 1
        one_hot = np.clip(one_hot, 1e-5, 1 - 1e-5)
        pt = (one_hot * probability).sum() + 1e-5
        losses.append(-((1 - pt) ** 2) * np.log(pt))
    return float(np.mean(losses))


@pytest.mark.parametrize("scale", [0.1, 1, 6, 20])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_focal_loss_equals_the_authors_definition(scale, dtype):
    logits = scale * draw(3, 2, 5, 7)
    mask = (draw(3, 5, 7, seed=1) > 0.4).to(dtype)
    expected = slow_focal(logits.numpy(), mask.long().numpy())
    assert focal_loss(logits, mask).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_focal_loss_does_not_balance_the_classes():
    logits = torch.zeros(1, 2, 4, 4)
    losses = [focal_loss(logits, torch.full((1, 4, 4), label)).item() for label in (0, 1)]
    assert losses[0] == losses[1] == pytest.approx(0.25 * math.log(2), rel=1e-4)


@pytest.mark.parametrize("certain", [-1e4, 1e4])
def test_focal_loss_and_gradient_stay_finite_for_certain_pixels(certain):
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1] = certain
    logits.requires_grad_()
    loss = focal_loss(logits, torch.tensor([[[0, 1], [0, 1]]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and loss > 1


def test_each_network_trains_on_its_own_loss(tiny, images):
    torch.manual_seed(0)
    plain, uncertain, memory = AE(**tiny).eval(), AEU(**tiny).eval(), MemAE(**tiny, entropy_weight=0.5).eval()
    torch.testing.assert_close(plain.training_loss(images), F.mse_loss(plain(images), images))

    mean, log_variance = uncertain(images)[:, :1], uncertain(images)[:, 1:]
    expected = ((mean - images) ** 2 * (-log_variance).exp()).mean() + log_variance.mean()
    torch.testing.assert_close(uncertain.training_loss(images), expected)

    attention = (memory.encode(images) @ memory.mem_rep.memory.weight.T).softmax(dim=1)
    entropy = torch.distributions.Categorical(attention).entropy().mean()
    torch.testing.assert_close(memory.training_loss(images), F.mse_loss(memory(images), images) + 0.5 * entropy)


def test_entropy_weight_is_the_published_one(tiny):
    assert MemAE(**tiny).entropy_weight == 0.0002


@pytest.mark.parametrize("kind", [AE, AEU, MemAE])
def test_every_weight_gets_a_gradient(kind, tiny, images):
    network = kind(**tiny)
    network.training_loss(images).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
