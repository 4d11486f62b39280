"""Coil sensitivities against sums over wire segments, the voltage that turning spins induce, and closed forms.

Budget: 10 s on two cores.
"""

import numpy as np
import pytest
from scipy.special import ellipe, ellipkm1

from factory.numerics import kernel
from factory.physics import coil, kspace

FOV = 0.24
GRID = {"n_coil": 5, "field_of_view": FOV, "n_y": 12, "n_x": 9}
PLACE = (0.15, 0.05, 0.3, 0.02)  # radii of ring and loops, rotation, height


def sensitivities(ring, loop, rotation, height, **constants):
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, float)) for x in (ring, loop, rotation, height)))
    return coil.loops(*(c.copy() for c in columns), **(GRID | constants)).sensitivity


def places(n_y, n_x, height):
    y, x = (FOV / n * (np.arange(n) - n // 2) for n in (n_y, n_x))
    return np.stack(np.broadcast_arrays(x, y[:, None], height), axis=-1)


def wire(ring, loop, angle, segments=720):
    """Points of a round wire and the pieces of arc that they stand for; off the wire sums converge exponentially."""
    t = 2 * np.pi * np.arange(segments) / segments
    out, side, up = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    middle = ring * out + loop * (np.cos(t)[:, None] * side + np.sin(t)[:, None] * up)
    along = loop * 2 * np.pi / segments * (np.cos(t)[:, None] * up - np.sin(t)[:, None] * side)
    return middle, along


def by_segments(r, *loop):
    """Field over mu0 I / (4 pi), the sum of dl x d / |d|**3."""
    total = np.zeros(r.shape)
    for middle, along in zip(*wire(*loop), strict=True):
        d = r - middle
        total += np.cross(along, d) / np.linalg.norm(d, axis=-1, keepdims=True) ** 3
    return total


@kernel
def _circular(along, away, loop, out):
    for i in range(along.size):
        out[0, i], out[1, i] = coil.circular(along[i], away[i], loop, 1e-9)


def field_of_a_loop(along, away, loop):
    """(axial, radial over distance) of mu0 I = 1."""
    out = np.empty((2, along.size))
    _circular(along, away, loop, out)
    return out / 4


@pytest.mark.parametrize("where", [PLACE, (0.12, 0.08, -1.0, 0.0), (0.13, 0.01, 2.0, -0.1), (0.05, 0.03, 0.1, 0.05)])
def test_sensitivities_are_sums_over_segments(where):
    ring, loop, rotation, height = where
    r = places(12, 9, height)
    wanted = []
    for c in range(5):
        bx, by, _ = np.moveaxis(by_segments(r, ring, loop, rotation + 2 * np.pi * c / 5), -1, 0)
        wanted.append(bx - 1j * by)
    middle = 2 * np.pi * loop**2 / (loop**2 + ring**2) ** 1.5  # on the axis, from the closed form
    wanted = np.array(wanted) / (middle * np.sqrt(5))
    np.testing.assert_allclose(sensitivities(*where)[0], wanted, rtol=1e-6, atol=1e-6)


def test_the_voltage_of_turning_spins_has_their_phase():
    """-d/dt of the flux that a dipole sends through the wire, of one that turns as the house says, demodulated."""
    ring, loop, rotation, height = PLACE
    r, n = places(3, 2, height), 16
    found = sensitivities(*PLACE, n_coil=1, n_y=3, n_x=2)[0, 0]
    middle, along = wire(ring, loop, rotation)
    phase = 2 * np.pi * np.arange(n) / n
    turning = np.exp(1j * 0.4) * np.exp(-1j * phase)  # Mxy = exp(0.4 i) at f > 0
    dipole = np.stack([turning.real, turning.imag, np.zeros(n)], axis=-1)
    induced = np.empty((3, 2), complex)
    for j, k in np.ndindex(3, 2):
        d = middle - r[j, k]
        potential = np.cross(dipole[:, None], d) / np.linalg.norm(d, axis=-1, keepdims=True) ** 3
        flux = (potential * along).sum(axis=(1, 2))
        spectrum = np.fft.fft(flux)
        voltage = np.fft.ifft(-1j * np.fft.fftfreq(n, 1 / n) * spectrum)  # -d/dt
        induced[j, k] = 2 * (voltage * np.exp(1j * phase)).mean()
    sent = 2 * np.pi * loop**2 / (loop**2 + ring**2) ** 1.5 * found
    np.testing.assert_allclose(induced, 1j * sent * np.exp(0.4j), rtol=1e-5)  # i w, the constant that is left out


def test_a_loop_on_its_axis_is_in_closed_form():
    z, a = np.linspace(-0.7, 0.7, 41), 0.06
    axial, radial = field_of_a_loop(z, np.zeros(41), a)
    np.testing.assert_allclose(axial, a**2 / (2 * (a**2 + z**2) ** 1.5), rtol=1e-14)
    np.testing.assert_allclose(radial, 0.75 * z * a**2 / (a**2 + z**2) ** 2.5, rtol=1e-14)  # div B = 0


def test_a_loop_anywhere_is_in_elliptic_integrals():
    rng = np.random.default_rng(0)
    a, z, p = 0.05, rng.uniform(-0.3, 0.3, 5000), rng.uniform(0.01, 0.3, 5000)
    z[4000:] *= 1e-4  # and some places near the wire
    p[4000:] = a * (1 + rng.choice([-1, 1], 1000) * 10 ** rng.uniform(-4, -1, 1000))
    axial, radial = field_of_a_loop(z, p, a)
    near, far = (a - p) ** 2 + z**2, (a + p) ** 2 + z**2
    big, small = ellipkm1(near / far), ellipe(4 * a * p / far)
    wanted = ((a**2 - p**2 - z**2) * small + near * big) / (2 * np.pi * near * np.sqrt(far))
    side = z * ((a**2 + p**2 + z**2) * small - near * big) / (2 * np.pi * near * np.sqrt(far) * p)
    size = np.hypot(wanted, side)
    error = max((np.abs(axial - wanted) / size).max(), (np.abs(radial * p - side) / size).max())
    print(f"a loop against elliptic integrals: {error:.0e}")
    assert error < 1e-12


def test_all_coils_together_are_one_in_the_centre():
    found = sensitivities(0.14, [0.03, 0.07], 0.7, 0.0, n_coil=8, n_y=9, n_x=9)[:, :, 4, 4]
    wanted = np.exp(-1j * (0.7 + 2 * np.pi * np.arange(8) / 8)) / np.sqrt(8)
    np.testing.assert_allclose(found, np.broadcast_to(wanted, (2, 8)), atol=1e-7)


def test_a_ring_that_turns_by_one_coil_is_the_same_ring():
    found = sensitivities(*PLACE)
    turned = sensitivities(*(PLACE[:2]), PLACE[2] + 2 * np.pi / 5, PLACE[3])
    np.testing.assert_allclose(turned, np.roll(found, -1, axis=1), rtol=1e-5, atol=1e-7)


def test_mirrored_coils_see_mirrored_images():
    """Coil 0 on the x axis: a mirror at it turns coil 1 into coil 3, By and the current's sense."""
    found = sensitivities(0.15, 0.05, 0.0, 0.03, n_coil=4, n_y=11, n_x=11)[0]
    np.testing.assert_allclose(found[3], np.conj(found[1][::-1]), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sensitivities(0.15, 0.05, 0.0, -0.03, n_coil=4, n_y=11, n_x=11)[0], found, atol=1e-7)


def test_wires_within_the_image_stay_finite():
    """Pixel (10, 9) lies on the wire of the coil; the field beside it is at most that of half a pixel away."""
    step = FOV / 12
    found = sensitivities(3 * step, 4 * step, 0.0, 0.0, n_coil=1, n_x=12)[0, 0]
    middle = (4 * step) ** 2 / (2 * (5 * step) ** 3)
    assert np.isfinite(found).all()
    straight = 1 / (2 * np.pi * 0.5 * step)
    assert np.abs(found[9:12, 8:11]).max() * middle < 1.5 * straight  # the rest of the loop is there as well
    assert np.abs(found[10, 9]) * middle < 0.5 * straight
    np.testing.assert_allclose(np.abs(found[6, 6]), 1, rtol=1e-6)


def test_radii_are_positive():
    with pytest.raises(ValueError, match=r"loop_radius must be > 0, but one sample has -0\.05 m"):
        sensitivities(0.15, [0.05, -0.05], 0.0, 0.0)


# ----------------------------------------------------------------------------------------------------------------------
# images


def complex_image(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("frames", [(), (3,), (2, 3)])
def test_an_image_comes_back_from_its_coils(frames):
    seen, image = complex_image((2, 4, 5, 6)), complex_image((2, *frames, 5, 6), 1)
    seen[0, :, 0, 0] = image[0, ..., 0, 0] = 0
    images = coil.receive(image, seen).coil_images
    spread = seen.reshape(2, 4, *(1,) * len(frames), 5, 6)
    np.testing.assert_allclose(images, spread * image[:, None], rtol=1e-6)
    np.testing.assert_allclose(coil.combine(images, seen).image, image, atol=2e-6)
    np.testing.assert_allclose(coil.root_sum_of_squares(images).magnitude, np.linalg.norm(images, axis=1), rtol=1e-6)
    np.testing.assert_allclose(coil.root_sum_of_squares(images[:, :1]).magnitude, np.abs(images[:, 0]), rtol=1e-6)


def test_no_other_combination_without_bias_is_less_noisy():
    """The gradient of the squared distance to all coils' noise vanishes; its size is what the docstring says."""
    seen, noise = complex_image((1, 4, 50, 40)), 0.1 * complex_image((1, 4, 50, 40), 5)
    spread = coil.combine(noise, seen).image
    np.testing.assert_allclose((np.conj(seen) * (noise - seen * spread[:, None])).sum(axis=1), 0, atol=1e-6)
    expected = (np.abs(seen) ** 2).sum(axis=1)
    np.testing.assert_allclose((expected * np.abs(spread) ** 2).mean(), 2 * 0.1**2, rtol=0.05)


def test_eight_coils_unfold_every_second_line():
    """k-space of all coils determines the image; noise grows by the g-factor of Pruessmann 1999."""
    n = 32
    seen = sensitivities(0.14, 0.05, 0.2, 0.0, n_coil=8, n_y=n, n_x=n)
    r = np.hypot(*np.meshgrid(*[FOV / n * (np.arange(n) - n // 2)] * 2))
    inside = r < 0.09
    image = np.where(inside, complex_image((n, n), 3), 0)[None]
    folded = kspace.cartesian(coil.receive(image, seen).coil_images, n_ky=n, n_kx=n, acceleration=2).kspace
    folded = 2 * kspace.cartesian_image(folded, n_y=n, n_x=n).image[0]
    found, gain = np.zeros((n, n), complex), []
    for row, column in zip(*np.nonzero(inside), strict=True):
        both = [j for j in (row, (row + n // 2) % n) if inside[j, column]]
        matrix = seen[0][:, both, column].astype(complex)
        found[row, column] = np.linalg.lstsq(matrix, folded[:, row, column].astype(complex), rcond=None)[0][0]
        information = matrix.conj().T @ matrix
        gain.append(np.sqrt(np.linalg.inv(information)[0, 0] * information[0, 0]).real)
    np.testing.assert_allclose(found, image[0], atol=2e-5)
    print(f"g-factor of 8 loops at every second line: mean {np.mean(gain):.3f}, largest {np.max(gain):.3f}")
    assert np.min(gain) > 1 - 1e-12
    assert np.max(gain) < 1.3


def test_no_sample_sees_its_neighbours():
    rng = np.random.default_rng(0)
    columns = rng.uniform((0.12, 0.03, 0, -0.05), (0.16, 0.06, 6, 0.05), (7, 4))
    image = complex_image((7, 3, 12, 9))

    def all_of(part):
        seen = sensitivities(*columns[part].T)
        images = coil.receive(image[part], seen).coil_images
        return seen, images, coil.combine(images, seen).image, coil.root_sum_of_squares(images).magnitude

    whole = all_of(slice(0, 7))
    for part in (slice(0, 1), slice(2, 5), slice(6, 7)):
        for one, every in zip(all_of(part), whole, strict=True):
            assert np.array_equal(one, every[part])


def test_one_set_of_coils_serves_all_samples():
    seen = np.broadcast_to(sensitivities(*PLACE), (4, 5, 12, 9))
    image = complex_image((4, 12, 9))
    found = coil.receive(image, seen).coil_images
    assert np.array_equal(found, coil.receive(image, seen.copy()).coil_images)
    assert np.array_equal(coil.combine(found, seen).image, coil.combine(found, seen.copy()).image)


# ----------------------------------------------------------------------------------------------------------------------
# a real head in eight coils


def own_sensitivities(measured, block=10):
    """Of blocks of pixels within the head: the first eigenvector over coils (Walsh 2000), and the blocks' places."""
    images = kspace.cartesian_image(measured[None], n_y=measured.shape[1], n_x=measured.shape[2]).image[0]
    coils, n_y, n_x = len(images), *(n // block for n in images.shape[1:])
    pieces = images.reshape(coils, n_y, block, n_x, block).transpose(1, 3, 0, 2, 4).reshape(n_y, n_x, coils, -1)
    power = np.linalg.norm(pieces, axis=(2, 3))
    row, column = np.nonzero(power > 0.4 * np.percentile(power, 99))
    vectors = np.linalg.eigh(np.einsum("pcn,pdn->pcd", pieces[row, column], pieces[row, column].conj()))[1]
    return vectors[..., -1], row - n_y // 2, column - n_x // 2


def likeness(seen, measured):
    """Mean over places of |<seen, measured>|, with one gain a coil fitted and one phase a place."""
    gain = np.ones(seen.shape[1], complex)
    for _ in range(200):
        phase = (measured * (seen * gain).conj()).sum(axis=1, keepdims=True)
        gain = (measured * seen.conj() * phase.conj() / np.abs(phase)).sum(axis=0) / (np.abs(seen) ** 2).sum(axis=0)
    scaled = seen * gain / np.linalg.norm(seen * gain, axis=1, keepdims=True)
    return np.abs((scaled.conj() * measured).sum(axis=1)).mean()


def test_loops_see_what_the_coils_of_a_real_scanner_see(reference):
    """Geometry by a fit of the magnitudes, pixels taken as 1 mm; neighbours overlap by a quarter, as Roemer has it.

    The conjugate would be the better one if the image were stored as seen from the other side.
    """
    measured, row, column = own_sensitivities(np.load(reference / "em" / "sig__cartesian_ksp.npy"))
    made = sensitivities(0.17, 0.085, 2.18, 0.0, n_coil=8, field_of_view=0.4, n_y=40, n_x=40)[0]
    seen = made[:, row + 20, column + 22].T.astype(complex)
    size = np.abs(seen) / np.linalg.norm(seen, axis=1, keepdims=True)
    rest = np.linalg.norm(size - np.abs(measured)) / np.linalg.norm(np.abs(measured))
    right, wrong = likeness(seen, measured), likeness(seen.conj(), measured)
    print(f"{len(row)} places: magnitudes {100 * rest:.1f} % off; likeness {right:.3f}, conjugate {wrong:.3f}")
    assert rest < 0.13
    assert right > 0.95
    assert wrong < 0.85
