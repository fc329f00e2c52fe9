"""Light profiles against closed forms, quadrature and mpmath; at awkward places; turned and scaled."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma as gamma_function
from scipy.special import gammaincinv

from lensnb.core import InputError
from lensnb.simulator.grid import pixel_grid
from lensnb.simulator.light.core_sersic import CoreSersic
from lensnb.simulator.light.gaussian import Gaussian, MultiGaussian, Uniform, expand_in_gaussians
from lensnb.simulator.light.pixelated import PixelatedLight, SmoothPixelatedLight
from lensnb.simulator.light.sersic import Sersic
from lensnb.simulator.light.shapelets import Shapelets, fit_shapelets, hermite_functions, orders

COEFFICIENTS = np.random.default_rng(5).normal(size=28)
PICTURE = np.random.default_rng(6).normal(size=(7, 9))

# A profile of each kind, from one vector: x, y, e1, e2, center_x, center_y, then its own parameters.
KINDS = {
    "Sersic": (lambda v, **p: Sersic(v[0], v[1], v[2], **p), (1.7, 0.6, 2.3)),
    "CoreSersic": (lambda v, **p: CoreSersic(*v, **p), (1.7, 0.6, 3.1, 0.07, 0.25, 2.7)),
    "Gaussian": (lambda v, **p: Gaussian(*v, **p), (2.1, 0.4)),
    "MultiGaussian": (lambda v, **p: MultiGaussian(v[:3], v[3:], **p), (2.1, 0.3, -0.2, 0.4, 0.05, 1.3)),
}
MORE = {
    "Uniform": lambda v: Uniform(v[0]),
    "Shapelets": lambda v: Shapelets(v[2] * jnp.asarray(COEFFICIENTS, dtype=float), 0.3 + v[2], v[0], v[1]),
    "PixelatedLight": lambda v: PixelatedLight(v[2] * jnp.asarray(PICTURE, dtype=float), 0.1 + v[2], v[0], v[1]),
    "SmoothPixelatedLight": lambda v: SmoothPixelatedLight(v[2] * jnp.asarray(PICTURE, dtype=float), 0.1 + v[2], v[0], v[1]),
}


def build(kind, v):
    """The profile of a vector (e1, e2, center_x, center_y, its own parameters...)."""
    return KINDS[kind][0](v[4:], e1=v[0], e2=v[1], center_x=v[2], center_y=v[3])


def brightness(kind):
    """The brightness as one function of a vector (x, y, the profile's own), over many rows."""
    make = MORE.get(kind, lambda v: build(kind, v))
    return jax.jit(jax.vmap(lambda v: make(v[2:]).surface_brightness(v[0], v[1])))


COMPILED = {kind: brightness(kind) for kind in KINDS}


def at(kind, x, y, e1=0.0, e2=0.0, center_x=0.0, center_y=0.0, own=None):
    """Brightness at broadcast positions, in double precision."""
    own = KINDS[kind][1] if own is None else own
    columns = np.broadcast_arrays(x, y, e1, e2, center_x, center_y, *own)
    return evaluate(kind, np.stack([np.ravel(c) for c in columns], axis=1)).reshape(columns[0].shape)


def evaluate(kind, rows):
    """Brightness of rows (x, y, the profile's own), 32 at a time: one program serves all."""
    with jax.enable_x64(True):
        padded = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % 32, axis=0)])
        return np.concatenate([COMPILED[kind](jnp.asarray(some, dtype=float)) for some in np.split(padded, len(padded) // 32)])[:len(rows)]


# ---- golden values


def b_n(n):
    return mpmath.findroot(lambda b: mpmath.gammainc(2 * n, 0, b, regularized=True) - mpmath.mpf(1) / 2, 2 * n - 0.3)


def elliptical_radius(x, y, q, phi):
    """In the frame of the axes, as the conventions spell it."""
    major, minor = x * mpmath.cos(phi) + y * mpmath.sin(phi), y * mpmath.cos(phi) - x * mpmath.sin(phi)
    return mpmath.sqrt(q * major**2 + minor**2 / q)


def core_sersic(R, I_e, R_e, n, R_b, gamma, alpha):
    """Graham et al. 2003 in the form that has the brightness at the break for its scale."""
    b = b_n(n)
    I_b = I_e * 2 ** (gamma / alpha) * mpmath.exp(-b * ((2 ** (1 / alpha) * R_b / R_e) ** (1 / n) - 1))
    scale = I_b * 2 ** (-gamma / alpha) * mpmath.exp(b * (2 ** (1 / alpha) * R_b / R_e) ** (1 / n))
    radius = ((R**alpha + R_b**alpha) / R_e**alpha) ** (1 / (n * alpha))
    return scale * (1 + (R_b / R) ** alpha) ** (gamma / alpha) * mpmath.exp(-b * radius)


EXACT = {
    "Sersic": lambda R, I, R_e, n: I * mpmath.exp(-b_n(n) * ((R / R_e) ** (1 / n) - 1)),
    "CoreSersic": core_sersic,
    "Gaussian": lambda R, F, s: F / (2 * mpmath.pi * s**2) * mpmath.exp(-(R**2) / (2 * s**2)),
    "MultiGaussian": lambda R, *v: sum(EXACT["Gaussian"](R, F, s) for F, s in zip(v[:3], v[3:], strict=True)),
}
PLACES = [(0.31, -0.47), (-1.23, 0.02), (0.011, 0.007), (2.9, 3.7), (1e-7, -2e-7)]
SHAPES = [(0.61, 0.83), (0.999, -0.4), (0.13, 2.2), (1.0, 0.0)]  # axis ratio, position angle


@pytest.mark.parametrize("kind, given", [*((kind, own) for kind, (_, own) in KINDS.items()), ("CoreSersic", (1.7, 0.6, 3.1, 0.07, 0.0, 2.7))])
def test_golden_values(kind, given):
    with mpmath.workdps(40):
        own = [mpmath.mpf(v) for v in given]
        golden = [[EXACT[kind](elliptical_radius(mpmath.mpf(x), mpmath.mpf(y), mpmath.mpf(q), mpmath.mpf(phi)), *own)
                   for x, y in PLACES] for q, phi in SHAPES]
        golden = np.array([[float(v) for v in row] for row in golden])
    x, y = np.array(PLACES).T
    q, phi = np.array(SHAPES).T[:, :, None]
    e1, e2 = (1 - q) / (1 + q) * np.cos(2 * phi), (1 - q) / (1 + q) * np.sin(2 * phi)
    moved = at(kind, x + 0.3, y - 0.2, e1, e2, 0.3, -0.2, given)
    np.testing.assert_allclose(at(kind, x, y, e1, e2, own=given), golden, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(moved[:, :4], golden[:, :4], rtol=1e-10)
    rows = [[*place, a, b, 0, 0, *given] for a, b in zip(e1[:, 0], e2[:, 0], strict=True) for place in PLACES]
    single = COMPILED[kind](jnp.asarray(rows, dtype=jnp.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, golden.ravel(), rtol=2e-4, atol=1e-30)


@pytest.mark.parametrize("n_max", [0, 1, 6])
def test_shapelets_against_hermite_polynomials(x64, n_max):
    n1, n2 = orders(n_max)
    coefficients = COEFFICIENTS[: len(n1)]
    light = Shapelets(jnp.asarray(coefficients), 0.37, 0.1, -0.2)
    for x, y in PLACES[:4]:
        with mpmath.workdps(40):
            u, v = (mpmath.mpf(x) - mpmath.mpf(0.1)) / mpmath.mpf(0.37), (mpmath.mpf(y) + mpmath.mpf(0.2)) / mpmath.mpf(0.37)
            value = sum(c * mpmath.hermite(a, u) * mpmath.hermite(b, v) / mpmath.sqrt(mpmath.mpf(2) ** (a + b)
                        * mpmath.factorial(a) * mpmath.factorial(b) * mpmath.pi)
                        for c, a, b in zip(map(mpmath.mpf, coefficients), map(int, n1), map(int, n2), strict=True))
            value *= mpmath.exp(-(u**2 + v**2) / 2) / mpmath.mpf(0.37)
        assert float(light.surface_brightness(x, y)) == pytest.approx(float(value), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize("bits", [32, 64])
def test_hermite_functions_of_high_order(bits):
    xi = [0.0, 0.7, -5.3, 9.1, 14.5, 17.0]  # the turning point of order 100 is 14.2
    with mpmath.workdps(60):
        golden = [[float(mpmath.hermite(n, t) * mpmath.exp(-mpmath.mpf(t) ** 2 / 2) / mpmath.sqrt(
            mpmath.mpf(2) ** n * mpmath.factorial(n) * mpmath.sqrt(mpmath.pi))) for t in map(mpmath.mpf, xi)] for n in (3, 30, 100)]
    with jax.enable_x64(bits == 64):
        phi = hermite_functions(100, jnp.asarray(xi, dtype=float))
        assert phi.shape == (101, 6) and phi.dtype == (np.float64 if bits == 64 else np.float32)
        np.testing.assert_allclose(phi[np.array([3, 30, 100])], golden, atol=1e-13 if bits == 64 else 2e-5, rtol=0)


# ---- total flux


def quadrature(profile, half=8.0, n=600):
    """Flux by the Gauss-Legendre rule in the cube root of the distance about the profile's centre: fine in the middle, wide outside."""
    t, w = np.polynomial.legendre.leggauss(n)
    x, w = half * t**3, 3 * half * t**2 * w
    x, w = jnp.asarray(x), jnp.asarray(w)
    light = profile.surface_brightness(profile.center_x + x[None, :], profile.center_y + x[:, None])
    return float(w @ light @ w)


def sersic_flux(I_e, R_e, n):
    b = gammaincinv(2 * n, 0.5)
    return 2 * np.pi * n * I_e * R_e**2 * np.exp(b) * b ** (-2 * n) * gamma_function(2 * n)


def core_sersic_flux(I_e, R_e, n, R_b, gamma, alpha):
    """The flux as an integral over b (S / R_e)^(1/n) (Trujillo et al. 2004, appendix), here by mpmath."""
    b = gammaincinv(2 * n, 0.5)
    start, c = b * (R_b / R_e) ** (1 / n), b**n * R_b / R_e
    total = mpmath.quad(lambda t: mpmath.exp(-t) * t ** (n * (gamma + alpha) - 1)
                        * (t ** (n * alpha) - c**alpha) ** ((2 - gamma - alpha) / alpha), [start, 2 * start, 5 * start + 5, 60])
    return float(2 * np.pi * I_e * n * np.exp(b) * (R_e / b**n) ** 2 * total)


SHAPE = dict(e1=0.2, e2=-0.15, center_x=0.1, center_y=-0.3)
FLUX = {
    "Sersic n = 0.5": (lambda: Sersic(2.0, 0.5, 0.5, **SHAPE), sersic_flux(2.0, 0.5, 0.5), 8.0),
    "Sersic n = 1": (lambda: Sersic(2.0, 0.5, 1.0, **SHAPE), sersic_flux(2.0, 0.5, 1.0), 20.0),
    "Sersic n = 2.6": (lambda: Sersic(2.0, 0.2, 2.6, **SHAPE), sersic_flux(2.0, 0.2, 2.6), 80.0),
    "CoreSersic": (lambda: CoreSersic(2.0, 0.2, 2.6, 0.03, 0.3, 2.0, **SHAPE), core_sersic_flux(2.0, 0.2, 2.6, 0.03, 0.3, 2.0), 80.0),
    "no core": (lambda: CoreSersic(2.0, 0.2, 2.6, 0.0, 0.3, 2.0, **SHAPE), sersic_flux(2.0, 0.2, 2.6), 80.0),
    "Gaussian": (lambda: Gaussian(2.7, 0.4, **SHAPE), 2.7, 8.0),
    "MultiGaussian": (lambda: MultiGaussian([2.0, 0.5, -0.3], [0.3, 0.02, 1.0], **SHAPE), 2.2, 15.0),
}


@pytest.mark.parametrize("case", FLUX)
def test_total_flux(x64, case):
    make, flux, half = FLUX[case]
    assert quadrature(make(), half) == pytest.approx(flux, rel=2e-5)


def test_total_flux_of_shapelets(x64):
    n1, n2 = orders(6)
    even = (n1 % 2 == 0) & (n2 % 2 == 0)
    root = np.array([np.sqrt(float(mpmath.binomial(a, a / 2) * mpmath.binomial(b, b / 2))) for a, b in zip(n1, n2, strict=True)])
    closed = np.sqrt(np.pi) * 0.3 * np.sum((2.0 ** (1 - (n1 + n2) / 2) * root * COEFFICIENTS)[even])
    light = Shapelets(jnp.asarray(COEFFICIENTS), 0.3, 0.1, 0.05)
    assert quadrature(light, 5.0, 400) == pytest.approx(closed, rel=1e-9)


def test_shapelets_are_orthonormal(x64):
    nodes, weights = np.polynomial.hermite.hermgauss(24)  # exact for products of two up to order 20
    weights = weights * np.exp(nodes**2) * 0.4
    x, y = jnp.asarray(0.4 * nodes)[None, :], jnp.asarray(0.4 * nodes)[:, None]
    size = 11 * 12 // 2
    basis = jax.vmap(lambda c: Shapelets(c, beta=0.4).surface_brightness(x, y))(jnp.eye(size))
    gram = jnp.einsum("iyx,jyx,y,x->ij", basis, basis, jnp.asarray(weights), jnp.asarray(weights))
    np.testing.assert_allclose(gram, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("profile", [PixelatedLight, SmoothPixelatedLight])
def test_pictures_keep_their_flux_and_place(x64, profile):
    light = profile(jnp.asarray(PICTURE), 0.1, 0.05, -0.02)
    x, y = map(np.asarray, pixel_grid((180, 200), 0.01))
    seen = np.asarray(light.surface_brightness(x, y))
    assert seen.sum() * 0.01**2 == pytest.approx(PICTURE.sum() * 0.1**2, rel=1e-9)
    px, py = map(np.asarray, pixel_grid(PICTURE.shape, 0.1))
    assert (seen * x).sum() * 0.01**2 == pytest.approx((PICTURE * (px + 0.05)).sum() * 0.1**2, rel=1e-9)
    np.testing.assert_allclose(light.surface_brightness(px + 0.05, py - 0.02), PICTURE, atol=1e-12)
    assert np.all(np.asarray(light.surface_brightness(jnp.asarray([0.8, 1e6, 0.0]), jnp.asarray([0.0, 0.0, -9.0]))) == 0)


def test_a_smooth_picture_has_a_continuous_gradient(x64):
    rough, smooth = (p(jnp.asarray(PICTURE), 0.1) for p in (PixelatedLight, SmoothPixelatedLight))
    edge = (np.arange(9) - 4) * 0.1
    for light, continuous in ((rough, False), (smooth, True)):
        slope = jax.vmap(jax.grad(light.surface_brightness), (0, None))
        jump = np.abs(slope(jnp.asarray(edge + 1e-9), 0.13) - slope(jnp.asarray(edge - 1e-9), 0.13))
        assert (jump < 1e-4).all() if continuous else (jump > 1e-2).all()


# ---- where a user can stand


def hostile(kind):
    """Awkward places, ellipticities and parameters, in every combination."""
    places = [(0.0, 0.0), (1e-20, 0.0), (1e-6, 1e-6), (0.3, 0.0), (0.0, -0.5), (1e3, 1e3)]
    if kind in MORE:
        rows = [(x, y, *centre, size) for x, y in places for centre in ((0.0, 0.0), (0.3, 0.0)) for size in (1e-3, 0.2)]
        return np.array(rows)
    shapes = [(0.0, 0.0), (1e-9, 0.0), (0.2, -0.1), (0.58, 0.58)]
    own = {
        "Sersic": [(3.0, 0.4, n) for n in (0.2, 0.5, 1.0, 4.0, 10.0)],
        "CoreSersic": [(3.0, 0.4, n, R_b, gamma, alpha) for n in (0.2, 1.0, 4.0, 10.0) for R_b in (0.0, 1e-5, 0.3, 2.0)
                       for gamma in (0.0, 0.2, 1.0) for alpha in (1.0, 3.0, 100.0)] + [(3.0, 0.4, 0.1, 0.3, 0.0, 2.0), (0.0, 0.4, 1.0, 0.3, 0.3, 2.0)],
        "Gaussian": [(2.0, s) for s in (1e-4, 0.4, 1e3)] + [(0.0, 0.4)],
        "MultiGaussian": [(2.0, 0.0, -0.3, 1e-4, 0.4, 1e3)],
    }[kind]
    return np.array([(x, y, *e, 0.0, 0.0, *v) for x, y in places for e in shapes for v in own])


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
@pytest.mark.parametrize("bits", [32, 64])
def test_values_and_gradients_are_finite(kind, bits):
    rows = hostile(kind)
    make = MORE.get(kind, lambda v: build(kind, v))
    with jax.enable_x64(bits == 64):
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda v: make(v[2:]).surface_brightness(v[0], v[1]))))(
            jnp.asarray(rows, dtype=float))
    value, slope = np.asarray(value), np.asarray(slope)
    centre = (rows[:, :2] == 0).all(1)
    if kind == "CoreSersic":  # infinite at the centre of a cusp: that value alone, and what overflows right beside it
        cusp = (rows[:, 6] > 0) & (rows[:, 9] > 0) & (rows[:, 10] > 0)
        assert np.all(np.isposinf(value[cusp & centre])) and np.isfinite(value[~cusp]).all()
        beside = ~centre & (np.abs(rows[:, :2]).max(1) < 1e-5)
        assert not np.isnan(value).any() and np.isfinite(value[cusp & ~centre & ~beside]).all()
    else:
        beside = ~centre & (np.abs(rows[:, :2]).max(1) < 1e-5) & (kind == "Sersic")
        assert np.isfinite(value).all(), rows[~np.isfinite(value)][:5]
    bad = ~np.isfinite(slope).all(1) & ~beside
    assert not bad.any(), f"{rows[bad][:5]}\n{slope[bad][:5]}"


def test_a_core_without_radius_is_the_sersic_profile():
    x, y = np.array([[0.0, 0.0], [1e-9, 0.0], [0.3, -0.2], [5.0, 2.0]]).T
    bare = at("CoreSersic", x, y, 0.2, -0.1, own=(1.7, 0.6, 3.1, 0.0, 0.4, 2.0))
    small = at("CoreSersic", x, y, 0.2, -0.1, own=(1.7, 0.6, 3.1, 1e-13, 0.4, 2.0))
    sersic = at("Sersic", x, y, 0.2, -0.1, own=(1.7, 0.6, 3.1))
    np.testing.assert_allclose(bare, sersic, rtol=1e-13)
    np.testing.assert_allclose(small[1:], sersic[1:], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_differences(kind):
    rows = np.array([[0.31, -0.47, 0.2, -0.1, 0.02, 0.01, *KINDS[kind][1]], [0.05, 0.02, 0.0, 0.0, 0.02, 0.01, *KINDS[kind][1]]])
    step = 1e-6 * np.eye(rows.shape[1])
    with jax.enable_x64(True):
        slope = jax.jit(jax.vmap(jax.grad(lambda v: build(kind, v[2:]).surface_brightness(v[0], v[1]))))
        slope = np.asarray(slope(jnp.asarray(rows)))
    moved = [[evaluate(kind, row + sign * step) for sign in (1, -1)] for row in rows]
    differences = np.array([(up - down) / 2e-6 for up, down in moved])
    np.testing.assert_allclose(slope, differences, rtol=1e-5, atol=1e-6 * np.abs(slope).max())


def test_a_value_out_of_range_under_jit_is_nan():
    core = jax.jit(lambda v: CoreSersic(1.0, 1.0, 2.0, v, 0.2).surface_brightness(0.3, 0.1))
    assert np.isnan(core(-0.1)) and np.isfinite(core(0.1))
    widths = jax.jit(lambda s: MultiGaussian(jnp.ones(2), s).surface_brightness(0.3, 0.1))
    assert np.isnan(widths(jnp.asarray([0.1, -0.1]))) and np.isfinite(widths(jnp.asarray([0.1, 0.2])))


# ---- what ties them together


often = settings(max_examples=20, deadline=None, derandomize=True)
angles, sizes = st.floats(0.0, 6.3), st.floats(0.0, 0.8)
positions = st.floats(-2.0, 2.0)


@pytest.mark.parametrize("kind", KINDS)
@often
@given(x=positions, y=positions, size=sizes, phi=angles, turn=angles)
def test_light_turns_with_its_ellipse(kind, x, y, size, phi, turn):
    c, s, e = np.cos(turn), np.sin(turn), size * np.exp(2j * phi)
    turned = e * np.exp(2j * turn)
    still = at(kind, x, y, e.real, e.imag)
    np.testing.assert_allclose(at(kind, c * x - s * y, s * x + c * y, turned.real, turned.imag), still, rtol=1e-7, atol=1e-30)


LENGTHS = {"Sersic": [1], "CoreSersic": [1, 3], "Gaussian": [1], "MultiGaussian": [3, 4, 5]}


@pytest.mark.parametrize("kind", KINDS)
@often
@given(x=positions, y=positions, size=sizes, phi=angles, stretch=st.floats(0.1, 10.0))
def test_light_scales(kind, x, y, size, phi, stretch):
    own = np.array(KINDS[kind][1])
    own[LENGTHS[kind]] *= stretch
    e = size * np.exp(2j * phi)
    area = stretch**2 if "Gaussian" in kind else 1.0  # given by flux, not by brightness
    wide = at(kind, stretch * x, stretch * y, e.real, e.imag, own=own)
    np.testing.assert_allclose(wide * area, at(kind, x, y, e.real, e.imag), rtol=1e-7, atol=1e-30)


def test_shapelets_turn_by_a_quarter(x64):
    n1, n2 = orders(6)
    light = Shapelets(jnp.asarray(COEFFICIENTS), 0.3)
    swapped = np.array([np.flatnonzero((n1 == b) & (n2 == a))[0] for a, b in zip(n1, n2, strict=True)])
    turned = Shapelets(jnp.asarray(COEFFICIENTS[swapped] * (-1.0) ** n1), 0.3)  # (x, y) -> (-y, x)
    x, y = (jnp.asarray(v) for v in np.random.default_rng(1).normal(size=(2, 3, 4)))
    np.testing.assert_allclose(turned.surface_brightness(-y, x), light.surface_brightness(x, y), atol=1e-13)


def test_shapelets_are_recovered_from_pixels(x64):
    light = Shapelets(jnp.asarray(COEFFICIENTS), 0.3, 0.1, -0.05)
    found = fit_shapelets(light.surface_brightness(*pixel_grid((40, 50), 0.1)), 0.1, 6, 0.3, 0.1, -0.05)
    np.testing.assert_allclose(found.coefficients, COEFFICIENTS, atol=1e-12)
    assert float(found.center_x) == 0.1 and found.n_max == 6


def test_the_order_of_many_coefficients():
    for n_max in (*range(12), 30, 99, 100):
        assert Shapelets(jnp.zeros((n_max + 1) * (n_max + 2) // 2), 1.0).n_max == n_max


def test_programs_do_not_grow_with_the_order():
    length = [len(jax.jit(jax.grad(lambda c: Shapelets(c, 0.5).surface_brightness(0.3, 0.2))).lower(
        jnp.zeros((n + 1) * (n + 2) // 2)).as_text().splitlines()) for n in (2, 30)]
    assert length[1] < 1.1 * length[0]


@pytest.mark.parametrize("n", [1.0, 4.0])
def test_expansion_in_gaussians(x64, n):
    def radial(r):
        return Sersic(1.0, 1.0, n).surface_brightness(jnp.asarray(r), 0.0)

    fluxes, sigmas = expand_in_gaussians(radial, 0.01, 5.0)
    assert (fluxes > 0).all() and len(fluxes) == len(sigmas) <= 30
    r = np.geomspace(0.01, 5.0, 300)
    ratio = MultiGaussian(fluxes, sigmas).surface_brightness(jnp.asarray(r), 0.0) / radial(r)
    assert np.abs(ratio - 1).max() < 1e-3
    b = gammaincinv(2 * n, 0.5)
    inside = sersic_flux(1.0, 1.0, n) * float(mpmath.gammainc(2 * n, 0, b * 5 ** (1 / n), regularized=True))
    enclosed = np.sum(fluxes * (1 - np.exp(-(5.0**2) / (2 * sigmas**2))))
    assert enclosed == pytest.approx(inside, rel=1e-3)


def test_a_sheet_has_no_place(x64):
    x, y = jnp.zeros((3, 1)), jnp.ones(4)
    np.testing.assert_array_equal(Uniform(0.3).surface_brightness(x, y[None]), np.full((3, 4), 0.3))
    assert float(jax.grad(lambda I: Uniform(I).surface_brightness(x, 2.0).sum())(0.3)) == 3.0


# ---- what cannot be


REFUSED = {
    "break below zero": lambda: CoreSersic(1.0, 1.0, 4.0, -0.1, 0.2),
    "inner slope below zero": lambda: CoreSersic(1.0, 1.0, 4.0, 0.1, -0.2),
    "no sharpness": lambda: CoreSersic(1.0, 1.0, 4.0, 0.1, 0.2, 0.0),
    "core of no ellipse": lambda: CoreSersic(1.0, 1.0, 4.0, 0.1, 0.2, e1=0.8, e2=0.7),
    "no width": lambda: Gaussian(1.0, 0.0),
    "one width of none": lambda: MultiGaussian([1.0, 2.0], [0.1, 0.0]),
    "flux without width": lambda: MultiGaussian([1.0, 2.0], [0.1]),
    "ellipse of Gaussians": lambda: MultiGaussian([1.0], [0.1], e1=-0.8, e2=0.7),
    "dark sheet": lambda: Uniform(np.nan),
    "no range": lambda: expand_in_gaussians(np.exp, 1.0, 1.0),
    "negative profile": lambda: expand_in_gaussians(lambda r: 1 - r, 0.1, 2.0),
    "four coefficients": lambda: Shapelets(np.ones(4), 0.3),
    "square of coefficients": lambda: Shapelets(np.ones((3, 3)), 0.3),
    "no scale": lambda: Shapelets(np.ones(3), 0.0),
    "too few pixels": lambda: fit_shapelets(jnp.zeros((3, 3)), 0.1, 4, 0.3),
    "no picture": lambda: SmoothPixelatedLight(np.ones(3), 0.1),
    "no pixel scale": lambda: SmoothPixelatedLight(np.ones((3, 3)), 0.0),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.relaxed
def test_refused(case):
    with pytest.raises((InputError, TypeError) if case in ("square of coefficients", "no picture", "flux without width") else InputError) as refusal:
        REFUSED[case]()
    if isinstance(refusal.value, InputError):
        assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_second_derivatives_of_a_sersic_profile(x64):
    """The length that radii are divided by is held fixed under a derivative: twice too."""
    x, y = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 30)))
    light = lambda p: jnp.sum(Sersic(*p).surface_brightness(x, y) * jnp.cos(3 * x + y))
    p, step = jnp.array([1.3, 0.4, 2.3, 0.1, -0.2, 0.05, 0.03]), 1e-6 * np.eye(7)
    slope = jax.jit(jax.grad(light))
    differences = np.stack([(slope(p + d) - slope(p - d)) / 2e-6 for d in step])
    np.testing.assert_allclose(jax.jit(jax.hessian(light))(p), differences, rtol=1e-6, atol=1e-7)
