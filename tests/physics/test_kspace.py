"""Encoding and images against dense sums over pixels, closed forms and each other.

Budget: 15 s on two cores.
"""

import h5py
import numpy as np
import pytest

from factory.physics import kspace
from factory.units import GAMMA_BAR

FOV = 0.24
NO_DELAY = np.zeros(1)
SPIRAL = {"field_of_view": FOV, "resolution": 0.01, "n_shot": 3, "gradient": 0.005, "slew": 60.0, "dwell": 8e-6,
          "echo_time": 2e-3, "density": 1.5}  # fmt: skip
RADIAL = {"field_of_view": FOV, "resolution": 0.01, "n_shot": 13, "n_readout": 24, "dwell": 1e-5, "echo_time": 3e-3}
EPI = {"field_of_view": FOV, "resolution": 0.01, "n_shot": 24, "n_readout": 24, "dwell": 1e-5, "ramp": 5e-5,
       "echo_time": 2e-2}  # fmt: skip
EVERY = [(kspace.spiral, SPIRAL), (kspace.radial, RADIAL), (kspace.epi, EPI)]


def pixels(n, field_of_view=FOV):
    return field_of_view / n * (np.arange(n) - n // 2)


def dense(image, kx, ky, time=0.0, field=0.0):
    """The sum over pixels, as it is written."""
    n_y, n_x = image.shape
    out = np.zeros(kx.shape, complex)
    field = np.broadcast_to(field, image.shape)
    for i, y in enumerate(pixels(n_y)):
        for j, x in enumerate(pixels(n_x)):
            out += image[i, j] * np.exp(-2j * np.pi * (ky * y + kx * x + field[i, j] * time))
    return out / np.sqrt(image.size)


def complex_image(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def encoded(image, path, field=0.0):
    """k-space of one image along one trajectory."""
    one = image[None] if image.ndim == 2 else image
    off = np.broadcast_to(np.asarray(field, float), (1, *one.shape[-2:]))
    return kspace.encode(one, path.kx[:1], path.ky[:1], path.time[:1], off, field_of_view=FOV).kspace[0]


def imaged(samples, path, n):
    return kspace.gridding(samples[None], path.kx_planned[:1], path.ky_planned[:1], path.weight[:1],
                           field_of_view=FOV, n_y=n, n_x=n).image[0]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Cartesian grids


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (12, 5)])
def test_a_cartesian_grid_is_the_sum_over_pixels(shape):
    image = complex_image(shape)
    ky, kx = np.meshgrid(*((np.arange(n) - n // 2) / FOV for n in shape), indexing="ij")
    found = kspace.cartesian(image[None], n_ky=shape[0], n_kx=shape[1]).kspace[0]
    np.testing.assert_allclose(found, dense(image, kx, ky), atol=1e-6)
    np.testing.assert_allclose((np.abs(found.astype(complex)) ** 2).sum(), (np.abs(image) ** 2).sum(), rtol=1e-6)
    np.testing.assert_allclose(kspace.cartesian_image(found[None], n_y=shape[0], n_x=shape[1]).image[0], image,
                               atol=1e-6)  # fmt: skip


def test_points_are_phases():
    n = 16
    image = np.zeros((2, n, n))
    image[0, n // 2, n // 2] = image[1, n // 2 + 3, n // 2 - 1] = n
    found = kspace.cartesian(image, n_ky=n, n_kx=n).kspace
    np.testing.assert_allclose(found[0], 1, atol=1e-6)
    k = np.arange(n) - n // 2
    np.testing.assert_allclose(found[1], np.exp(-2j * np.pi * (3 * k[:, None] - k) / n), atol=1e-6)


def test_a_gaussian_stays_one_and_a_rectangle_becomes_a_sinc():
    n, width = 64, 5.0
    r = np.arange(n) - n // 2
    gauss = np.exp(-0.5 * (r[:, None] ** 2 + r**2) / width**2)
    found = kspace.cartesian(gauss[None], n_ky=n, n_kx=n).kspace[0]
    k = r / n
    wanted = 2 * np.pi * width**2 / n * np.exp(-2 * np.pi**2 * width**2 * (k[:, None] ** 2 + k**2))
    np.testing.assert_allclose(found, wanted, atol=1e-6 * wanted.max())
    box = ((np.abs(r)[:, None] <= 7) & (np.abs(r) <= 4)).astype(float)
    found = kspace.cartesian(box[None], n_ky=n, n_kx=n).kspace[0]
    line = [np.where(r == 0, m, np.sin(np.pi * m * k) / np.sin(np.pi * np.where(r == 0, 0.1, k))) for m in (15, 9)]
    np.testing.assert_allclose(found, line[0][:, None] * line[1] / n, atol=1e-5)


def test_fewer_samples_and_their_adjoint():
    image = complex_image((2, 3, 16, 13), 1)
    options = {"n_ky": 11, "n_kx": 8, "acceleration": 3, "n_calibration": 4}
    found = kspace.cartesian(image, **options).kspace
    whole = kspace.cartesian(image, n_ky=16, n_kx=13).kspace
    lines = [j for j in range(11) if (j - 5) % 3 == 0 or -2 <= j - 5 < 2]
    assert lines == [2, 3, 4, 5, 6, 8]
    wanted = np.zeros_like(found)
    wanted[..., lines, :] = whole[..., 3:14, 2:10][..., lines, :]
    assert np.array_equal(found, wanted)
    back = kspace.cartesian_image(found, n_y=16, n_x=13).image
    np.testing.assert_allclose(np.vdot(image, back), np.vdot(found, found), rtol=1e-6)  # <x, E^H E x> = <E x, E x>
    with pytest.raises(ValueError, match="cannot fill 17 x 8"):
        kspace.cartesian(image, n_ky=17, n_kx=8)
    with pytest.raises(ValueError, match="do not fit into 10 x 13"):
        kspace.cartesian_image(found, n_y=10, n_x=13)


# ----------------------------------------------------------------------------------------------------------------------
# along trajectories


@pytest.mark.parametrize(("shape", "seed"), [((9, 14), 0), ((16, 16), 1), ((1, 5), 2)])
@pytest.mark.parametrize(("step", "constants"), EVERY)
def test_any_trajectory_is_the_sum_over_pixels(step, constants, shape, seed):
    path = step(np.array([7e-6]), **constants)
    image = complex_image(shape, seed)
    field = 80 * np.random.default_rng(seed).normal(size=shape)
    for f in (0.0, 60.0, field):
        wanted = dense(image, path.kx[0], path.ky[0], path.time[0], f)
        np.testing.assert_allclose(encoded(image, path, f), wanted, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(("step", "constants"), EVERY)
def test_gridding_is_the_adjoint(step, constants):
    path = step(NO_DELAY, **constants)._replace(weight=np.ones((1, *step(NO_DELAY, **constants).weight.shape[1:])))
    image, samples = complex_image((10, 10)), complex_image(path.kx.shape[1:], 1)
    left, right = np.vdot(samples, encoded(image, path)), np.vdot(imaged(samples, path, 10), image)
    assert abs(left - right) < 1e-6 * np.linalg.norm(samples) * np.linalg.norm(encoded(image, path))
    rows = [np.exp(2j * np.pi * (path.ky[0] * y + path.kx[0] * x)) for y in pixels(10) for x in pixels(10)]
    wanted = np.array([(row * samples).sum() for row in rows]).reshape(10, 10) / 10
    np.testing.assert_allclose(imaged(samples, path, 10), wanted, atol=1e-6 * np.abs(wanted).max())


def test_many_turns_of_phase_are_still_the_sum():
    """A field of 1 kHz over 30 ms."""
    path = kspace.epi(NO_DELAY, **(EPI | {"dwell": 5e-5, "ramp": 1e-4}))
    image = complex_image((12, 12))
    field = np.linspace(-500, 500, 144).reshape(12, 12)
    wanted = dense(image, path.kx[0], path.ky[0], path.time[0], field)
    np.testing.assert_allclose(encoded(image, path, field), wanted, atol=1e-6 * np.abs(wanted).max())


def test_a_sample_at_a_node_of_the_interpolation_in_time_is_the_sum():
    """Half of all numbers of nodes have one in the middle; a single time is the only node."""
    image, places = complex_image((6, 6)), np.array([[[3.0, -2.0, 9.0]]])
    for time in (np.array([[[0.01, 0.02, 0.03]]]), np.full((1, 1, 3), 0.02)):
        for scale in (10.0, 20.0, 50.0, 100.0):
            field = scale * np.linspace(-1, 1, 36).reshape(1, 6, 6)
            found = kspace.encode(image[None], places, places, time, field, field_of_view=FOV).kspace[0]
            wanted = dense(image, places[0], places[0], time[0], field[0])
            np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())


def disc(n):
    """A disc of radius 0.3 fields of view, not in the centre, with pixels at its rim between 0 and 1."""
    fine = (np.arange(8 * n) + 0.5) / (8 * n) - 0.5 - (0.5 / n if n % 2 == 0 else 0)
    inside = (fine[:, None] - 0.08) ** 2 + (fine + 0.05) ** 2 < 0.3**2
    return inside.reshape(n, 8, n, 8).mean(axis=(1, 3))


FULL = {
    "spiral": (kspace.spiral, {"resolution": FOV / 64, "n_shot": 8, "gradient": 0.03, "slew": 120.0, "dwell": 4e-6}),
    "dense spiral": (kspace.spiral, {"resolution": FOV / 64, "n_shot": 8, "gradient": 0.03, "slew": 120.0,
                                     "dwell": 4e-6, "density": 2.0}),
    "radial": (kspace.radial, {"resolution": FOV / 64, "n_shot": 101, "n_readout": 128, "dwell": 1e-5}),
    "ramped epi": (kspace.epi, {"resolution": FOV / 64, "n_shot": 64, "n_readout": 96, "dwell": 5e-6, "ramp": 1.2e-4}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "largest"), [("spiral", 0.01), ("dense spiral", 0.01), ("radial", 0.01),
                                               ("ramped epi", 1e-3)])  # fmt: skip
def test_an_image_of_a_disc_is_the_disc(name, largest):
    """Within the inscribed circle.  Spirals and spokes lack the corners of k-space, and so does what is wanted."""
    step, constants = FULL[name]
    path = step(NO_DELAY, field_of_view=FOV, echo_time=0.0, **constants)
    whole, circle = disc(64), np.hypot(*np.meshgrid(pixels(64), pixels(64))) < 0.5 * FOV
    seen = circle | (name == "ramped epi")
    samples = kspace.cartesian(whole[None], n_ky=64, n_kx=64).kspace * seen
    wanted = kspace.cartesian_image(samples, n_y=64, n_x=64).image[0]
    found = imaged(encoded(whole, path), path, 64)
    error = np.linalg.norm((found - wanted)[circle]) / np.linalg.norm(wanted)
    print(f"{name}: relative error {error:.4f}, mean inside {found[whole > 0.999].mean():.5f}")
    assert error < largest
    assert abs(found[whole > 0.999].mean() - 1) < 5e-3


@pytest.mark.parametrize("name", FULL)
def test_weights_add_up_to_the_area(name):
    step, constants = FULL[name]
    path = step(NO_DELAY, field_of_view=FOV, echo_time=0.0, **constants)
    area = (64 if "epi" in name else np.sqrt(np.pi) * 32) ** 2
    np.testing.assert_allclose(path.weight[0].sum(), area, rtol=2e-3)


@pytest.mark.parametrize("density", [1.0, 2.0])
def test_a_spiral_keeps_to_its_limits(density):
    dwell, slew, gradient = 1e-6, 120.0, 0.02
    path = kspace.spiral(NO_DELAY, field_of_view=FOV, resolution=0.002, n_shot=6, gradient=gradient, slew=slew,
                         dwell=dwell, echo_time=0.0, density=density)  # fmt: skip
    k = (path.kx + 1j * path.ky)[0]
    np.testing.assert_allclose(k[2], k[0] * np.exp(2j * np.pi / 3), atol=1e-9)
    assert k[0, 0] == 0
    np.testing.assert_allclose(abs(k[0, -1]), 250, rtol=2e-4)
    speed = np.abs(np.diff(k[0])) / dwell / GAMMA_BAR
    change = np.abs(np.diff(k[0], 2)) / dwell**2 / GAMMA_BAR
    assert speed.max() < 1.01 * gradient
    np.testing.assert_allclose(speed[-1], gradient, rtol=0.01)
    turned = np.unwrap(np.angle(k[0, 1:])) / (2 * np.pi)
    middle = (turned[1:] > 1.5) & (speed[1:] < 0.9 * gradient)
    assert change[middle].max() < 1.1 * slew
    assert change[middle].min() > 0.7 * slew
    last = np.abs(k[0, 1:][np.searchsorted(turned, [turned[-1] - 1, turned[-1] - 0.001])])
    np.testing.assert_allclose(np.diff(last) / 6, 1 / FOV, rtol=0.1)  # six arms share a turn


def test_a_delay_is_the_planned_path_later():
    late = kspace.spiral(np.array([8e-6]), **SPIRAL)
    np.testing.assert_allclose(late.kx[0, :, 1:], late.kx_planned[0, :, :-1], atol=1e-9)
    late = kspace.radial(np.array([1e-5]), **RADIAL)
    np.testing.assert_allclose(late.ky[0, :, 1:], late.ky_planned[0, :, :-1], atol=1e-9)
    late = kspace.epi(np.array([1e-5]), **EPI)
    np.testing.assert_allclose(late.kx[0, :, 1:], late.kx_planned[0, :, :-1], atol=1e-9)
    np.testing.assert_allclose(late.kx[0, 1:, 0], late.kx_planned[0, :-1, -1], atol=1e-9)


# ----------------------------------------------------------------------------------------------------------------------
# echo-planar imaging

PLAIN = EPI | {"ramp": 0.0}


def test_an_epi_without_imperfections_is_cartesian():
    path = kspace.epi(NO_DELAY, **PLAIN)
    image = complex_image((24, 24))
    wanted = kspace.cartesian(image[None], n_ky=24, n_kx=24).kspace[0]
    wanted[1::2] = wanted[1::2, ::-1]
    found = encoded(image, path)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())
    np.testing.assert_allclose(imaged(found, path, 24), image, atol=2e-6 * np.abs(image).max())


def test_a_phase_between_lines_makes_a_ghost_half_a_field_of_view_away():
    path, phase = kspace.epi(NO_DELAY, **PLAIN), 0.6
    image = np.zeros((24, 24))
    image[9, 15] = 1
    ghosted = kspace.alternating_phase(encoded(image, path)[None], np.array([phase])).measured[0]
    found = np.abs(imaged(ghosted, path, 24))
    wanted = np.zeros((24, 24))
    wanted[9, 15], wanted[21, 15] = np.cos(phase / 2), np.sin(phase / 2)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_odd_lines_are_ahead_by_the_phase():
    path = kspace.epi(NO_DELAY, **PLAIN)
    image = np.zeros((24, 24))
    image[12, 12] = 1
    found = kspace.alternating_phase(encoded(image, path)[None], np.array([0.6])).measured[0]
    np.testing.assert_allclose(np.angle(found[1::2]) - np.angle(found[::2]), 0.6, atol=1e-5)


def test_a_delay_makes_a_ghost_that_grows_with_x():
    """Lines are shifted by -+delay dk/dt, a phase of 2 pi x delay dk/dt, and its sine is the ghost."""
    delay = 2e-6
    path = kspace.epi(np.array([delay]), **PLAIN)
    for column in (12, 15, 20):
        image = np.zeros((24, 24))
        image[9, column] = 1
        found = np.abs(imaged(encoded(image, path), path, 24))
        angle = 2 * np.pi * (column - 12) / 24 * delay / PLAIN["dwell"]
        both = np.cos(angle), abs(np.sin(angle))
        np.testing.assert_allclose((found[9, column], found[21, column]), both, atol=0.02)


def test_off_resonance_shifts_along_the_phase_direction():
    line = PLAIN["n_readout"] * PLAIN["dwell"]
    path = kspace.epi(NO_DELAY, **PLAIN)
    image = np.zeros((24, 24))
    image[9, 15] = 1
    for pixels_ in (3, -2):
        found = np.abs(imaged(encoded(image, path, pixels_ / (24 * line)), path, 24))
        assert np.unravel_index(found.argmax(), found.shape) == (9 + pixels_, 15)
        assert found.max() > 0.95  # within a line the phase goes on: a shift of pixels_ / 24 along x


def test_off_resonance_turns_the_image_by_the_echo_time():
    path = kspace.epi(NO_DELAY, **PLAIN)
    image = complex_image((24, 24))
    f = 0.25 / (24 * PLAIN["n_readout"] * PLAIN["dwell"])
    centre = encoded(image, path, f)[12, 12]
    wanted = encoded(image, path)[12, 12] * np.exp(-2j * np.pi * f * (PLAIN["echo_time"] + PLAIN["dwell"] / 2))
    np.testing.assert_allclose(centre, wanted, rtol=1e-5)


def test_a_shim_error_is_linear():
    found = kspace.shim_error(np.array([30.0]), np.array([1e-6]), np.array([-2e-6]), field_of_view=FOV, n_y=6, n_x=4)
    wanted = 30 + GAMMA_BAR * (1e-6 * pixels(6)[:, None] - 2e-6 * pixels(4))
    np.testing.assert_allclose(found.off_resonance[0], wanted, rtol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"two ramps of 0.0002 s are longer than a line of 24 samples"):
        kspace.epi(NO_DELAY, **(EPI | {"ramp": 2e-4}))


# ----------------------------------------------------------------------------------------------------------------------
# signals that JEMRIS made: spins on a grid of 1 mm behind a hard pulse of 100 us; no phase and no scale is fitted

PULSE = 50e-6  # s; the pulse acts in its middle


def held(folder, name):
    """Every array of one of JEMRIS' files."""
    with h5py.File(folder / "jemris" / f"koma__{name}.h5") as file:
        found = {}
        file.visititems(lambda key, item: found.update({key: item[()]} if hasattr(item, "shape") else {}))
    return found


def signal_of(sample, kx, ky, time, flip):
    """The mean over spins, tissue by tissue, for T2 acts on each as a whole."""
    spins = sample["sample/data"]  # (y, x, 5): M0, R1, R2 in 1/ms, R2*, off-resonance in rad/s
    room = (spins.shape[0] - spins.shape[1]) // 2
    spins = np.pad(spins, ((0, 0), (room, room), (0, 0)))
    size, there = len(spins), spins[..., 0] != 0
    edge, half = size * 1e-3, 0.5e-3 * (size % 2 == 0)  # positions are symmetric, ours begin half a pixel further down
    rates = np.unique(spins[there, 2])
    images = np.stack([np.where(spins[..., 2] == rate, spins[..., 0], 0) for rate in rates])
    path = [one.reshape(1, 1, -1) for one in (kx, ky, time - PULSE)]
    found = kspace.encode(images[None], *path, spins[None, ..., 4] / (2 * np.pi), field_of_view=edge).kspace[0, :, 0]
    decay = np.exp(-1e3 * rates[:, None] * (time - PULSE))
    moved = np.exp(-2j * np.pi * half * (kx + ky)) * size / there.sum()
    return 1j * np.sin(flip) * moved * (decay * found).sum(axis=0)


def distance(found, stored):
    wanted = stored["signal/channels/00"] @ np.array([1, 1j, 0])
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_a_brain_along_a_spiral_is_that_of_jemris(reference):
    sample, stored, timing = (held(reference, n) for n in ("brain", "brain_spiral_jemris_signals", "spiral_seqdiag"))
    taken = timing["seqdiag/RXP"] >= 0
    kx, ky = (timing[f"seqdiag/{k}"][taken] * 1e3 / (2 * np.pi) for k in ("KX", "KY"))
    found = signal_of(sample, kx, ky, stored["signal/times"] * 1e-3, np.deg2rad(10))
    print(f"brain along a spiral: {100 * distance(found, stored):.2f} % from JEMRIS")
    assert distance(found, stored) < 4e-3


def test_a_chemical_shift_in_an_epi_is_that_of_jemris(reference):
    """Spheres, one of them 200 rad/s off; lines of 100 samples in 1 ms, from positive to negative ky."""
    sample, stored = (held(reference, n) for n in ("sphere_chemical_shift", "spheresCS_jemris_signals"))
    time, line = stored["signal/times"].reshape(100, 100) * 1e-3, np.arange(100)[:, None]
    kx = (-1.0) ** line * (time - time.mean(axis=1, keepdims=True)) * 1e3 * 100 / 0.23
    ky = (50 - line) / 0.23 + 0 * kx
    found = signal_of(sample, kx.reshape(-1), ky.reshape(-1), time.reshape(-1), np.pi / 2)
    print(f"chemical shift in an EPI: {100 * distance(found, stored):.2f} % from JEMRIS")
    assert distance(found, stored) < 7.5e-3


# ----------------------------------------------------------------------------------------------------------------------
# samples


@pytest.mark.parametrize(("step", "constants"), EVERY)
def test_no_sample_sees_its_neighbours(step, constants):
    """Shared trajectories and ones of their own, one image a sample and several."""
    rng = np.random.default_rng(0)
    for delay in (np.zeros(7), rng.uniform(0, 1e-5, 7)):
        path, image = step(delay, **constants), complex_image((7, 3, 11, 8))
        field = 50 * rng.normal(size=(7, 11, 8))

        def both(part, path=path, image=image, field=field):
            cut = type(path)(*(one[part] for one in path))
            samples = kspace.encode(image[part], cut.kx, cut.ky, cut.time, field[part], field_of_view=FOV).kspace
            back = kspace.gridding(samples, cut.kx, cut.ky, cut.weight, field_of_view=FOV, n_y=11, n_x=8).image
            return samples, back

        whole = both(slice(0, 7))
        for part in (slice(0, 1), slice(2, 5), slice(6, 7)):
            for one, all_ in zip(both(part), whole, strict=True):
                assert np.array_equal(one, all_[part])


def test_no_grid_sees_its_neighbours():
    image = complex_image((7, 3, 12, 10))
    whole = kspace.cartesian(image, n_ky=12, n_kx=10).kspace
    back = kspace.cartesian_image(whole, n_y=12, n_x=10).image
    for part in (slice(0, 1), slice(2, 5)):
        assert np.array_equal(kspace.cartesian(image[part], n_ky=12, n_kx=10).kspace, whole[part])
        assert np.array_equal(kspace.cartesian_image(whole[part], n_y=12, n_x=10).image, back[part])
