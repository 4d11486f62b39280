"""Blocks that networks share, and torch twins of physics steps.

A twin computes what the numba step of the same name computes, but in torch, on any device and differentiably, because
a network that contains physics (a likelihood gradient, data consistency) must not import `factory.physics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Likelihood(NamedTuple):
    """What a voxel-wise Gaussian likelihood says about Q parameter maps, without its noise level.

    With r_n = S_n - f_n(kappa) and L = sum_n r_n^2 / 2 (the negative log-likelihood times sigma^2):

    Attributes
    ----------
    gradient : Tensor, (batch, Q, y, x)
        dL / d kappa_q = -sum_n r_n df_n / d kappa_q.
    curvature : Tensor, (batch, Q, Q, y, x)
        sum_n df_n / d kappa_p df_n / d kappa_q: the Gauss-Newton matrix, which is the Fisher matrix times sigma^2.
    """

    gradient: Tensor
    curvature: Tensor

    def step(self, damping: float) -> Tensor:
        """The damped Gauss-Newton step (H + damping)^-1 dL / d kappa, (batch, Q, y, x); the maps minus it fit better.

        Parameters
        ----------
        damping : float
            Above 0, in squared units of the signal over those of the maps: sigma^2 / s^2 makes it the step of a normal
            prior of spread s. Limit: without damping, and where the signal is linear in the maps, it ends at the fit.
        """
        number = self.gradient.shape[1]
        h = [list(row.unbind(1)) for row in self.curvature.unbind(1)]
        x = list(self.gradient.unbind(1))
        for q in range(number):  # Gauss's elimination, which needs no pivots: the matrix is positive definite
            h[q][q] = h[q][q] + damping
            for p in range(q + 1, number):
                factor = h[q][p] / h[q][q]
                x[p] = x[p] - factor * x[q]
                for r in range(p, number):
                    h[p][r] = h[p][r] - factor * h[q][r]
        for q in reversed(range(number)):
            for r in range(q + 1, number):
                x[q] = x[q] - h[q][r] * x[r]
            x[q] = x[q] / h[q][q]
        return torch.stack(x, 1)


def along_maps(times: Tensor) -> Tensor:
    """Shape times (n,) or (batch, n) so that they broadcast against maps as (1 or batch, n, 1, 1)."""
    if times.ndim not in (1, 2):
        raise ValueError(f"times must be (n,) or (batch, n), but have the shape {tuple(times.shape)}")
    return times.reshape(-1 if times.ndim == 2 else 1, times.shape[-1], 1, 1)


def inversion_recovery(amplitude: Tensor, efficiency: Tensor, t1: Tensor, inversion_time: Tensor) -> Tensor:
    """Magnitude signal of an inversion recovery, S_n = | A (1 - B exp(-TI_n / T1)) |.

    Parameters
    ----------
    amplitude, efficiency, t1 : Tensor, (batch, y, x)
        A (any unit), B (1; 2 is a perfect inversion, 1 a saturation) and T1 (s).
    inversion_time : Tensor, (n,) or (batch, n)
        TI in s.

    Returns
    -------
    Tensor, (batch, n, y, x)
        In the unit of the amplitude.

    Notes
    -----
    Limit: B = 0 gives A at every inversion time; TI -> infinity gives A. doi:10.1016/j.media.2021.102220
    """
    decay = torch.exp(-along_maps(inversion_time) / t1[:, None])
    return (amplitude[:, None] * (1 - efficiency[:, None] * decay)).abs()


def inversion_recovery_likelihood(
    signal: Tensor, amplitude: Tensor, efficiency: Tensor, t1: Tensor, inversion_time: Tensor
) -> Likelihood:
    """Likelihood gradient and curvature of `inversion_recovery` in (A, B, T1), in closed form.

    Parameters
    ----------
    signal : Tensor, (batch, n, y, x)
        Measured signal.
    amplitude, efficiency, t1, inversion_time : Tensor
        As in `inversion_recovery`.

    Returns
    -------
    Likelihood
        Of the maps A, B, T1, in this order.

    Notes
    -----
    With E_n = exp(-TI_n / T1), g_n = 1 - B E_n, s_n = sign(A g_n) and u_n = s_n r_n = s_n S_n - A g_n:
    dL/dA = -sum u g, dL/dB = A sum u E, dL/dT1 = A B / T1^2 sum u E TI. Limit: zero at the noise-free truth.
    """
    time = along_maps(inversion_time)
    decay = torch.exp(-time / t1[:, None])
    model = amplitude[:, None] * (1 - efficiency[:, None] * decay)
    residual = torch.where(model < 0, -signal, signal) - model
    later = decay * time
    slope = amplitude * efficiency / (t1 * t1)
    once, delayed = decay.sum(1), later.sum(1)
    twice, crossed, late = (decay * decay).sum(1), (decay * later).sum(1), (later * later).sum(1)
    gradient = (
        efficiency * (residual * decay).sum(1) - residual.sum(1),
        amplitude * (residual * decay).sum(1),
        slope * (residual * later).sum(1),
    )
    of_a = signal.shape[1] - 2 * efficiency * once + efficiency * efficiency * twice
    of_ab = amplitude * (efficiency * twice - once)
    of_at = slope * (efficiency * crossed - delayed)
    of_bt = amplitude * slope * crossed
    curvature = (
        (of_a, of_ab, of_at),
        (of_ab, amplitude * amplitude * twice, of_bt),
        (of_at, of_bt, slope * slope * late),
    )
    return Likelihood(torch.stack(gradient, 1), matrix(curvature))


def matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Entries (batch, y, x) as (batch, Q, Q, y, x)."""
    return torch.stack([torch.stack(tuple(row), 1) for row in rows], 1)


def t2_decay(amplitude: Tensor, t2: Tensor, echo_time: Tensor) -> Tensor:
    """Magnitude signal of a T2 decay, S_n = | A exp(-TE_n / T2) |.

    Parameters
    ----------
    amplitude, t2 : Tensor, (batch, y, x)
        A (any unit) and T2 (s).
    echo_time : Tensor, (n,) or (batch, n)
        TE in s.

    Returns
    -------
    Tensor, (batch, n, y, x)
        In the unit of the amplitude. Limit: TE = 0 gives A. doi:10.1016/j.media.2021.102220
    """
    return (amplitude[:, None] * torch.exp(-along_maps(echo_time) / t2[:, None])).abs()


def t2_decay_likelihood(signal: Tensor, amplitude: Tensor, t2: Tensor, echo_time: Tensor) -> Likelihood:
    """Likelihood gradient and curvature of `t2_decay` in (A, T2), in closed form.

    Parameters
    ----------
    signal : Tensor, (batch, n, y, x)
        Measured signal.
    amplitude, t2, echo_time : Tensor
        As in `t2_decay`.

    Returns
    -------
    Likelihood
        Maps (batch, 2, y, x) in the order A, T2. Limit: the gradient is zero at the noise-free truth.
    """
    time = along_maps(echo_time)
    decay = torch.exp(-time / t2[:, None])
    model = amplitude[:, None] * decay
    residual = torch.where(model < 0, -signal, signal) - model
    later = decay * time
    slope = amplitude / (t2 * t2)
    gradient = (-(residual * decay).sum(1), -slope * (residual * later).sum(1))
    crossed = slope * (decay * later).sum(1)
    curvature = (((decay * decay).sum(1), crossed), (crossed, slope * slope * (later * later).sum(1)))
    return Likelihood(torch.stack(gradient, 1), matrix(curvature))


class PixelGRU(nn.GRUCell):
    """A gated recurrent unit that treats every pixel as a sequence of its own (a ConvGRU with 1x1 kernels).

    In channels-last memory the pixels of an image are the rows of a matrix, so the unit is two matrix products and
    copies nothing. Parameters and result are those of one step of `torch.nn.GRU` (two bias vectors), and of
    `torch.nn.GRUCell`, whose fused gates it uses. doi:10.3115/v1/D14-1179
    """

    def forward(self, features: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Advance the state by one step.

        Parameters
        ----------
        features : Tensor, (batch, channels, y, x)
            Best in `torch.channels_last`.
        hidden : Tensor, (batch, hidden, y, x), optional
            The state; zero if None.

        Returns
        -------
        Tensor, (batch, hidden, y, x)
            The new state, in `torch.channels_last`.
        """
        batch, channels, height, width = features.shape
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
        state = None if hidden is None else hidden.permute(0, 2, 3, 1).reshape(-1, self.hidden_size)
        return super().forward(rows, state).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
