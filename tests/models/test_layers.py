"""Torch twins of physics steps: closed-form limits, and gradients against autograd.

Budget: 5 s on two cores.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import layers


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def uniform(low, high, generator, dtype, shape=(2, 5, 4)):
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(dtype)


def by_autograd(model, signal, maps):
    """Gradient of sum r^2 / 2, and the sum of products of derivatives, image by image."""
    maps = [value.clone().requires_grad_() for value in maps]
    images = model(*maps)
    loss = (signal - images).square().sum() / 2
    gradient = torch.stack(torch.autograd.grad(loss, maps, retain_graph=True), 1)
    curvature = torch.zeros_like(gradient)[:, None] * gradient[:, :, None]
    for image in images.unbind(1):
        slope = torch.stack(torch.autograd.grad(image.sum(), maps, retain_graph=True, allow_unused=True), 1)
        curvature += slope[:, None] * slope[:, :, None]
    return gradient, curvature


def agree(found, expected, rtol):
    for own, twin in zip(found, expected, strict=True):
        torch.testing.assert_close(own, twin, rtol=rtol, atol=rtol * twin.abs().max().item())


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_inversion_recovery_likelihood_is_that_of_autograd(dtype, rtol, per_sample, generator):
    maps = [uniform(0.5, 1, generator, dtype), uniform(1.2, 2, generator, dtype), uniform(0.3, 3.5, generator, dtype)]
    time = torch.linspace(0.139, 0.937, 31, dtype=dtype)
    time = torch.stack((time, time * 1.1)) if per_sample else time
    signal = layers.inversion_recovery(*maps, time) + uniform(-0.1, 0.1, generator, dtype, (2, 31, 5, 4))
    elsewhere = [value * 1.1 for value in maps]
    expected = by_autograd(lambda *m: layers.inversion_recovery(*m, time), signal, elsewhere)
    agree(layers.inversion_recovery_likelihood(signal, *elsewhere, time), expected, rtol)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_t2_decay_likelihood_is_that_of_autograd(dtype, rtol, generator):
    maps = [uniform(0.5, 1, generator, dtype), uniform(0.03, 2, generator, dtype)]
    time = torch.tensor([0.01, 0.02, 0.04, 0.08, 0.16, 0.32], dtype=dtype)
    signal = layers.t2_decay(*maps, time) + uniform(-0.1, 0.1, generator, dtype, (2, 6, 5, 4))
    elsewhere = [value * 0.8 for value in maps]
    expected = by_autograd(lambda *m: layers.t2_decay(*m, time), signal, elsewhere)
    agree(layers.t2_decay_likelihood(signal, *elsewhere, time), expected, rtol)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("damping", [1e-3, 2.0])
def test_the_damped_step_solves_its_equations(number, damping, generator):
    gradient = torch.randn(2, number, 5, 4, generator=generator, dtype=torch.float64)
    slopes = torch.randn(2, 7, number, 5, 4, generator=generator, dtype=torch.float64)
    curvature = torch.einsum("bnpyx,bnqyx->bpqyx", slopes, slopes)
    damped = curvature.permute(0, 3, 4, 1, 2) + damping * torch.eye(number, dtype=torch.float64)
    expected = torch.linalg.solve(damped, gradient.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(layers.Likelihood(gradient, curvature).step(damping), expected)


def test_undamped_steps_end_at_the_truth(generator):
    maps = [uniform(0.5, 1, generator, torch.float64), uniform(1.6, 2, generator, torch.float64),
            uniform(0.5, 1.5, generator, torch.float64)]  # fmt: skip
    time = torch.linspace(0.139, 2.0, 31, dtype=torch.float64)
    signal = layers.inversion_recovery(*maps, time)
    found = torch.stack([value * 1.05 for value in maps], 1)
    for _ in range(8):
        found = found - layers.inversion_recovery_likelihood(signal, *found.unbind(1), time).step(1e-12)
    torch.testing.assert_close(found, torch.stack(maps, 1), rtol=1e-8, atol=0)


def test_signals_reach_their_limits():
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    late, null = torch.tensor([40.0]).double(), torch.log(torch.tensor([2.0], dtype=torch.float64))
    assert layers.inversion_recovery(0.7 * one, 0 * one, one, null).item() == pytest.approx(0.7)
    assert layers.inversion_recovery(0.7 * one, 2 * one, one, late).item() == pytest.approx(0.7)
    assert layers.inversion_recovery(0.7 * one, 2 * one, one, null).item() == pytest.approx(0, abs=1e-15)
    assert layers.t2_decay(0.7 * one, one, 0 * late).item() == pytest.approx(0.7)


def test_times_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"must be \(n,\) or \(batch, n\)"):
        layers.along_maps(torch.zeros(1, 2, 3))


@pytest.mark.parametrize("steps", [1, 3])
def test_pixel_gru_is_a_gru_on_flattened_pixels(steps, generator):
    block, twin = layers.PixelGRU(5, 7), nn.GRU(5, 7)
    with torch.no_grad():
        for own, other in zip(block.parameters(), twin.parameters(), strict=True):
            other.copy_(own)
    images = torch.randn(steps, 2, 5, 3, 4, generator=generator)
    state = None
    for image in images:
        state = block(image, state)
    rows = images.permute(0, 1, 3, 4, 2).reshape(steps, -1, 5)
    expected = twin(rows)[0][-1].view(2, 3, 4, 7).permute(0, 3, 1, 2)
    torch.testing.assert_close(state, expected)
