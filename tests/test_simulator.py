"""The simulator against numbers from elsewhere, at the places where formulas break, and against its own promises."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma as gamma_function

from lensnb.core import InputError
from lensnb.simulator.grid import bin_pixels, pixel_grid
from lensnb.simulator.lens import Lens, critical_curves
from lensnb.simulator.light import PixelatedLight, Sersic
from lensnb.simulator.half_light import sersic_bn
from lensnb.simulator.mass import EPL, NIE, SIE, Shear
from lensnb.simulator.noise import GaussianLikelihood, SkyPoissonNoise
from lensnb.simulator.prior import Prior
from lensnb.simulator.psf import convolve, gaussian_psf
from lensnb.simulator.scene import Scene
from lensnb.simulator.simulator import Simulator
from lensnb.simulator.telescope import HST_ACS_F814W, Telescope

# A power law's deflection as a one-dimensional integral over its homoeoids (Keeton 2001, eqs. 15 and 16; gravlens'
# q^2 y^2 in place of elliptical angles), to 40 digits: x, y, theta_E, gamma, e1, e2, alpha_x, alpha_y, kappa.
MASS = [
    (0.7, -0.4, 1.1, 1.2, 0, 0, 0.74487816091831066, -0.42564466338189181, 0.95770049260925657),
    (0.7, -0.4, 1.1, 1.7, 0, 0, 0.87006809746939661, -0.49718176998251235, 0.80792037622158256),
    (0.7, -0.4, 1.1, 2.0, 0, 0, 0.95506745633690511, -0.54575283219251721, 0.68219104024064651),
    (-1.3, 0.02, 1.1, 2.0, 0, 0, -1.0998698455890847, 0.016921074547524381, 0.42302686368810952),
    (0.7, -0.4, 1.1, 2.3, 0, 0, 1.0483706376625651, -0.59906893580718005, 0.52418531883128254),
    (0.7, -0.4, 1.1, 2.8, 0, 0, 1.2245678474843623, -0.6997530557053499, 0.17493826392633748),
    (0.7, -0.4, 1.1, 1.2, 0.0004, -0.0003, 0.74450746306765478, -0.42561286581621184, 0.95778889273068858),
    (0.7, -0.4, 1.1, 1.7, 0.0004, -0.0003, 0.86978704125569681, -0.49719607615636437, 0.80818141790722147),
    (0.7, -0.4, 1.1, 2.0, 0.0004, -0.0003, 0.95485046709561547, -0.5457913097687786, 0.68250594508451674),
    (-1.3, 0.02, 1.1, 2.0, 0.0004, -0.0003, -1.0997230534779579, 0.016707867109374919, 0.42319989868817994),
    (0.7, -0.4, 1.1, 2.3, 0.0004, -0.0003, 1.048223002729089, -0.59912329416497914, 0.52449989918916679),
    (0.7, -0.4, 1.1, 2.8, 0.0004, -0.0003, 1.2245330653725212, -0.69979000307679961, 0.17508364598920798),
    (0.7, -0.4, 1.1, 1.2, 0.0007, 0.0008, 0.74468318521149631, -0.4264779464315497, 0.95763635480199611),
    (0.7, -0.4, 1.1, 1.7, 0.0007, 0.0008, 0.86982139584723366, -0.49795840549219153, 0.80773101779048078),
    (0.7, -0.4, 1.1, 2.0, 0.0007, 0.0008, 0.95480639162434294, -0.54645589534511102, 0.68196263700975137),
    (-1.3, 0.02, 1.1, 2.0, 0.0007, 0.0008, -1.0996127875831297, 0.017519615138406634, 0.42331224266872279),
    (0.7, -0.4, 1.1, 2.3, 0.0007, 0.0008, 1.0481205004454009, -0.59965357642786831, 0.52395717820770448),
    (0.7, -0.4, 1.1, 2.8, 0.0007, 0.0008, 1.2244467989561016, -0.69998186784180165, 0.17483285063299773),
    (0.7, -0.4, 1.1, 1.2, 0.12, -0.08, 0.63505782857307423, -0.42267143526702876, 0.98213737914401388),
    (0.7, -0.4, 1.1, 1.7, 0.12, -0.08, 0.781506270071203, -0.5070535490174901, 0.88240389037171704),
    (0.7, -0.4, 1.1, 2.0, 0.12, -0.08, 0.88345905291467409, -0.56227027811766141, 0.7737820626414895),
    (-1.3, 0.02, 1.1, 2.0, 0.12, -0.08, -1.0497724771547354, -0.04412032188143007, 0.47519856452234443),
    (0.7, -0.4, 1.1, 2.3, 0.12, -0.08, 0.99669577305011594, -0.61958135184137054, 0.61746350528246386),
    (0.7, -0.4, 1.1, 2.8, 0.12, -0.08, 1.2102135759238689, -0.71263257131278028, 0.21946616587948059),
    (0.7, -0.4, 1.1, 1.2, 0.3, 0.25, 0.62390861695157911, -0.71047488405708213, 0.91911188622208719),
    (0.7, -0.4, 1.1, 1.7, 0.3, 0.25, 0.72936448022785752, -0.74691834482248029, 0.6996066236303983),
    (0.7, -0.4, 1.1, 2.0, 0.3, 0.25, 0.81223199285615799, -0.76502531894069669, 0.55539168051455332),
    (-1.3, 0.02, 1.1, 2.0, 0.3, 0.25, -0.94647059203962399, 0.239137317520162, 0.51665494290536874),
    (0.7, -0.4, 1.1, 2.3, 0.3, 0.25, 0.91653232528603859, -0.77702988261740623, 0.40122336840887649),
    (0.7, -0.4, 1.1, 2.8, 0.3, 0.25, 1.1642592581098878, -0.76792212119774019, 0.12081833825363942),
    (0.7, -0.4, 1.1, 1.2, -0.5, 0.647, 1.1836996800189543, -0.59282085861191823, 0.76125340925907539),
    (0.7, -0.4, 1.1, 1.7, -0.5, 0.647, 0.98053831019929217, -0.49907457567021747, 0.36175700609696755),
    (0.7, -0.4, 1.1, 2.0, -0.5, 0.647, 0.92956285369832071, -0.48076647120336266, 0.21647298723420385),
    (-1.3, 0.02, 1.1, 2.0, -0.5, 0.647, -0.97606609227318164, 0.30814914874661116, 0.14798532377950775),
    (0.7, -0.4, 1.1, 2.3, -0.5, 0.647, 0.936666690653352, -0.49537207938398544, 0.11787775663004156),
    (0.7, -0.4, 1.1, 2.8, -0.5, 0.647, 1.127669951798606, -0.62830948220846349, 0.022160556928310145),
]

# Root of P(2n, b) = 1/2 to 40 digits: n, b_n.
BN = [
    (0.15, 0.073131135866951903),
    (0.3, 0.31570201701610787),
    (0.36, 0.42606216678673748),
    (0.37, 0.44478015217230432),
    (0.5, 0.69314718055994531),
    (1, 1.6783469900166607),
    (1.7, 3.0731070370595726),
    (2.5, 4.6709088827959837),
    (4, 7.6692494425008039),
    (6, 11.668363153044765),
    (10, 19.667672423305667),
]


def deflection_by_quadrature(x, y, theta_E, gamma, e1, e2):
    """How the table was made; 40 digits."""
    with mpmath.workdps(40):
        x, y, theta_E, gamma, e1, e2 = (mpmath.mpf(str(value)) for value in (x, y, theta_E, gamma, e1, e2))
        e = mpmath.sqrt(e1**2 + e2**2)
        q, phi = (1 - e) / (1 + e), mpmath.atan2(e2, e1) / 2
        major, minor = mpmath.cos(phi) * x + mpmath.sin(phi) * y, mpmath.cos(phi) * y - mpmath.sin(phi) * x
        k = 2 / (3 - gamma)  # u = s^k takes the singularity at u = 0 out of the integrand

        def integrand(s, n):
            w = 1 - (1 - q**2) * s**k
            return (theta_E / mpmath.sqrt(q * (major**2 + minor**2 / w))) ** (gamma - 1) / w ** (n + mpmath.mpf(1) / 2)

        along, across = (mpmath.quad(lambda s, n=n: integrand(s, n), mpmath.linspace(0, 1, 9)) for n in (0, 1))
        along, across = q * major * along, q * minor * across
        return (float(mpmath.cos(phi) * along - mpmath.sin(phi) * across),
                float(mpmath.sin(phi) * along + mpmath.cos(phi) * across))


def test_the_table_is_what_the_integral_gives():
    row = MASS[22]
    assert deflection_by_quadrature(*row[:6]) == pytest.approx(row[6:8], rel=1e-15)


# ---- one vector in, everything out


PROFILES = {
    "SIE": lambda v: SIE(theta_E=v[2], e1=v[3], e2=v[4], center_x=v[5], center_y=v[6]),
    "EPL": lambda v: EPL(theta_E=v[2], gamma=v[7], e1=v[3], e2=v[4], center_x=v[5], center_y=v[6]),
    # its core, (gamma - 2)^2, is none where the power law is isothermal
    "NIE": lambda v: NIE(theta_E=v[2], e1=v[3], e2=v[4], s=(v[7] - 2) ** 2, center_x=v[5], center_y=v[6]),
    "Shear": lambda v: Shear(gamma1=v[3], gamma2=v[4], center_x=v[5], center_y=v[6]),
}


def answers(kind):
    """Potential, deflection (x, y) and convergence as functions of v = (x, y, theta_E, e1, e2, center_x, center_y, gamma)."""
    profile = PROFILES[kind]
    return [lambda v: profile(v).potential(v[0], v[1]), lambda v: profile(v).deflection(v[0], v[1])[0],
            lambda v: profile(v).deflection(v[0], v[1])[1], lambda v: profile(v).convergence(v[0], v[1])]


ROWS = 32  # at once: one compiled program of a profile and precision serves all tests


@functools.cache
def compiled(kind, x64):
    """Values, forward derivatives and reverse derivatives of `answers` over ROWS rows of v."""
    def everything(v):
        answer = lambda v: jnp.stack([f(v) for f in answers(kind)])
        return answer(v), jax.jacfwd(answer)(v), jnp.stack([jax.grad(f)(v) for f in answers(kind)])  # values by no rule of a derivative

    with jax.enable_x64(x64):
        return jax.jit(jax.vmap(everything)).lower(jax.ShapeDtypeStruct((ROWS, 8), float)).compile()


def evaluate(kind, rows):
    """`answers` and its two Jacobians in the precision at hand, as NumPy arrays."""
    rows = np.asarray(rows, dtype=jnp.asarray(0.0).dtype)
    program = compiled(kind, rows.dtype == np.float64)
    filled = np.pad(rows, ((0, -len(rows) % ROWS), (0, 0)), mode="edge")
    parts = [program(jnp.asarray(some)) for some in np.split(filled, len(filled) // ROWS)]
    return [np.concatenate(part)[:len(rows)] for part in zip(*parts)]


def table(kind):
    """The golden rows that apply to a profile, as vectors, and what is to come out."""
    rows = [r for r in MASS if kind == "EPL" or r[3] == 2.0]
    return np.array([[*r[:3], r[4], r[5], 0.0, 0.0, r[3]] for r in rows]), np.array([r[6:] for r in rows])


@pytest.mark.parametrize("kind", ["SIE", "EPL", "NIE"])
def test_deflection_and_convergence_in_double_precision(kind, x64):
    rows, golden = table(kind)
    np.testing.assert_allclose(evaluate(kind, rows)[0][:, 1:], golden, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", ["SIE", "EPL", "NIE"])
def test_deflection_and_convergence_in_single_precision(kind):
    rows, golden = table(kind)
    values = evaluate(kind, rows)[0]
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[:, 1:], golden, rtol=1e-5, atol=2e-6)


# ---- where a user can stand


def hostile(kind):
    """Every combination of awkward places, ellipticities and slopes."""
    places = [(0.0, 0.0), (1e-20, -1e-20), (1e-12, 1e-12), (1e-6, 0.0), (0.3, 0.0), (0.0, -0.5), (1.0, 1.0),
              (1e3, -1e3)]
    shapes = [(0.0, 0.0), (1e-9, 0.0), (0.0, -1e-5), (1e-3, 0.0), (0.000999, 0.0), (0.2, 0.0), (0.0, 0.2),
              (-0.58, 0.58)]
    slopes = [2.0, 1.999999, 2.000001, 1.2, 2.8] if kind in ("EPL", "NIE") else [2.0]
    rows = [(x, y, 1.2, *e, 0.0, 0.0, g) for x, y in places for e in shapes for g in slopes]
    rows += [(0.05, -0.02, 1.2, 0.1, 0.1, 0.05, -0.02, g) for g in slopes]  # the centre, elsewhere
    rows += [(0.3, 0.4, 0.0, 0.1, 0.1, 0.0, 0.0, g) for g in slopes]        # no lens at all
    return np.array(rows)


@pytest.mark.parametrize("kind", list(PROFILES))
@pytest.mark.parametrize("bits", [32, 64])
def test_values_and_gradients_are_finite(kind, bits):
    with jax.enable_x64(bits == 64):
        rows = hostile(kind)
        value, forward, reverse = evaluate(kind, rows)
    # The convergence of a singular profile may be infinite at its centre, and overflow beside it.
    beside = np.hypot(rows[:, 0] - rows[:, 5], rows[:, 1] - rows[:, 6]) < 1e-7
    for name, array in (("value", value), ("forward", forward), ("reverse", reverse)):
        smooth = array[:, :3]
        bad = ~np.isfinite(smooth).reshape(len(rows), -1).all(1)
        if name != "value" and kind != "Shear":  # d alpha / d x ~ 1 / r overflows beside the centre
            bad &= ~(beside & (rows[:, :2] != rows[:, 5:7]).any(1))
        assert not bad.any(), f"{name} of {kind} at\n{rows[bad][:5]}"
        away = ~beside & (rows[:, 2] > 0)  # without a lens the slope of theta_E^(gamma - 1) is infinite
        bad = ~np.isfinite(array[away, 3]).reshape(away.sum(), -1).all(1)
        assert not bad.any(), f"{name} of the convergence of {kind} at\n{rows[away][bad][:5]}"
    at_centre = (rows[:, :2] == rows[:, 5:7]).all(1)
    assert np.all(value[at_centre, 1:3] == 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_sersic_is_finite(bits):
    places = [(0.0, 0.0), (1e-20, 0.0), (1e-6, 1e-6), (0.3, 0.0), (0.0, -0.5), (1e3, 1e3)]
    shapes = [(0.0, 0.0), (1e-9, 0.0), (0.2, -0.1), (0.58, 0.58)]
    rows = np.array([(x, y, 3.0, 0.4, n, *e) for x, y in places for e in shapes for n in (0.2, 0.5, 1.0, 4.0, 10.0)])

    def brightness(v):
        return Sersic(I_e=v[2], R_e=v[3], n=v[4], e1=v[5], e2=v[6]).surface_brightness(v[0], v[1])

    with jax.enable_x64(bits == 64):
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(brightness)))(jnp.asarray(rows, dtype=float))
        value, slope = np.asarray(value), np.asarray(slope)
    bad = ~np.isfinite(value)
    assert not bad.any(), rows[bad][:5]
    # Towards the cusp of n > 1 the radial slope grows without bound and may overflow beside the centre, never at it.
    beside = (np.abs(rows[:, :2]).max(1) > 0) & (np.abs(rows[:, :2]).max(1) < 1e-5)
    bad = ~np.isfinite(slope[~beside]).all(1)
    assert not bad.any(), f"{rows[~beside][bad][:5]}\n{slope[~beside][bad][:5]}"


# ---- what ties them together


positions = st.floats(-4.0, 4.0).filter(lambda x: abs(x) > 0.02)
vectors = st.builds(
    lambda x, y, size, r, t, cx, cy, g: [x + cx, y + cy, size, r * np.cos(t), r * np.sin(t), cx, cy, g],
    positions, positions, st.floats(0.3, 3.0), st.floats(0.0, 0.8), st.floats(0.0, 6.3), st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5), st.floats(1.2, 2.8))
often = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("kind", list(PROFILES))
@often
@given(v=vectors)
def test_one_potential_stands_behind_all(kind, v):
    with jax.enable_x64(True):
        (value,), (slope,), (reverse,) = evaluate(kind, [v])
    size = np.abs(slope[1:3, :2]).max() + np.abs(value[1:3]).max()
    np.testing.assert_allclose(slope[0, :2], value[1:3], atol=1e-9 * size)               # alpha = grad psi
    np.testing.assert_allclose((slope[1, 0] + slope[2, 1]) / 2, value[3], atol=1e-8 * size)  # kappa = div alpha / 2
    np.testing.assert_allclose(slope[1, 1], slope[2, 0], atol=1e-8 * size)               # no curl
    np.testing.assert_allclose(slope, reverse, atol=1e-8 * (1 + np.abs(slope).max()))


@often
@given(v=vectors)
def test_an_isothermal_power_law_is_the_isothermal_ellipsoid(v):
    v[7] = 2.0
    with jax.enable_x64(True):
        power, isothermal, cored = (evaluate(kind, [v]) for kind in ("EPL", "SIE", "NIE"))
    np.testing.assert_allclose(power[0], cored[0], rtol=1e-8)  # another formula: EPL and SIE share theirs
    np.testing.assert_allclose(power[0], isothermal[0], rtol=1e-8)
    shared = np.s_[:, :, :7]  # the slope is no parameter of the SIE
    np.testing.assert_allclose(power[1][shared], isothermal[1][shared], atol=1e-6 * np.abs(isothermal[1]).max())


@often
@given(v=vectors, stretch=st.floats(0.2, 5.0), turn=st.floats(0.0, 6.3))
def test_power_laws_scale_and_turn(v, stretch, turn):
    x, y = v[0] - v[5], v[1] - v[6]
    c, s, c2, s2 = np.cos(turn), np.sin(turn), np.cos(2 * turn), np.sin(2 * turn)
    still = [x, y, *v[2:5], 0.0, 0.0, v[7]]
    wider = [stretch * x, stretch * y, *v[2:5], 0.0, 0.0, v[7]]
    turned = [c * x - s * y, s * x + c * y, v[2], c2 * v[3] - s2 * v[4], s2 * v[3] + c2 * v[4], 0.0, 0.0, v[7]]
    with jax.enable_x64(True):
        a, b, t = (evaluate("EPL", [row])[0][0] for row in (still, wider, turned))
    np.testing.assert_allclose(b[1:3], a[1:3] * stretch ** (2 - v[7]), rtol=1e-7)
    np.testing.assert_allclose(x * a[1] + y * a[2], (3 - v[7]) * a[0], rtol=1e-9)
    np.testing.assert_allclose(t[1:3], [c * a[1] - s * a[2], s * a[1] + c * a[2]], atol=1e-7 * np.abs(a[1:3]).max())
    np.testing.assert_allclose(t[3], a[3], rtol=1e-9)


def test_an_isothermal_critical_curve_is_an_isodensity_contour():
    for e1, e2 in ((0.0, 0.0), (0.2, -0.1)):
        lens = Lens((SIE(theta_E=1.3, e1=e1, e2=e2),))
        (curve,), _ = critical_curves(lens, 2.5, 300)
        np.testing.assert_allclose(SIE(1.3, e1, e2).convergence(*jnp.asarray(curve.T)), 0.5, rtol=2e-3)
        x, y = curve.T
        area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
        assert area == pytest.approx(np.pi * 1.3**2, rel=1e-3)


def test_magnification_of_an_isothermal_sphere(x64):
    lens = Lens((SIE(theta_E=1.2),))
    x = np.array([1.7, 1.21, -0.7, 0.3])
    np.testing.assert_allclose(lens.magnification(jnp.asarray(x), 0.0), 1 / (1 - 1.2 / np.abs(x)), rtol=1e-10)
    sheared = Lens((Shear(gamma1=0.1, gamma2=-0.05),))
    assert float(sheared.magnification(0.3, 2.0)) == pytest.approx(1 / (1 - 0.1**2 - 0.05**2), rel=1e-12)


# ---- light


def test_bn(x64):
    n, b = np.array(BN).T
    np.testing.assert_allclose(jax.vmap(sersic_bn)(jnp.asarray(n)), b, rtol=1e-12)
    above, below = (jax.vmap(sersic_bn)(jnp.asarray(n) * (1 + s)) for s in (1e-5, -1e-5))
    slope = jax.vmap(jax.grad(sersic_bn))(jnp.asarray(n))
    np.testing.assert_allclose(slope, (above - below) / (2e-5 * n), rtol=1e-6)


def test_bn_in_single_precision():
    n, b = np.array(BN).T
    np.testing.assert_allclose(jax.vmap(sersic_bn)(jnp.asarray(n, dtype=float)), b, rtol=2e-6)


def sersic_flux(I_e, R_e, n):
    """Total flux of a Sersic profile."""
    b = float(mpmath.findroot(lambda b: mpmath.gammainc(2 * n, 0, b, regularized=True) - 0.5, 2 * n - 0.3))
    return 2 * np.pi * n * I_e * R_e**2 * np.exp(b) * b ** (-2 * n) * gamma_function(2 * n)


@pytest.mark.parametrize("e1, e2", [(0.0, 0.0), (0.3, -0.2)])
def test_flux_is_conserved(e1, e2):
    nothing = Lens((SIE(theta_E=0.0),))
    source = Sersic(I_e=2.0, R_e=0.15, n=1.0, e1=e1, e2=e2, center_x=0.11, center_y=-0.07)
    image = Scene(nothing, source, HST_ACS_F814W((80, 80), supersample=4)).image()
    assert float(image.sum()) == pytest.approx(sersic_flux(2.0, 0.15, 1.0), rel=1e-3)
    beside = Scene(nothing, (), HST_ACS_F814W((80, 80), supersample=4), lens_light=source).image()
    np.testing.assert_allclose(image, beside, rtol=1e-5, atol=1e-9)


def test_a_picture_keeps_its_flux_and_place():
    picture = np.zeros((9, 9), np.float32)
    picture[6, 3] = 5.0
    light = PixelatedLight(jnp.asarray(picture), 0.1, 0.05, -0.02)
    x, y = pixel_grid((90, 90), 0.02)
    seen = light.surface_brightness(x, y)
    assert float(seen.sum() * 0.02**2) == pytest.approx(5.0 * 0.1**2, rel=1e-5)
    assert float((seen * x).sum() / seen.sum()) == pytest.approx(0.05 - 0.1, abs=1e-5)
    assert float((seen * y).sum() / seen.sum()) == pytest.approx(-0.02 + 0.2, abs=1e-5)
    assert float(light.surface_brightness(5.0, 0.0)) == 0.0


def test_total_magnification_of_a_small_source():
    # Two images of a point at beta inside an isothermal sphere are magnified 2 theta_E / beta together. The mean of
    # 1 / beta over a small Gaussian (n = 1/2) of width s exceeds that at its centre by s^2 / 2 beta^2.
    beta, R_e = 0.4, 0.05
    source = Sersic(I_e=10.0, R_e=R_e, n=0.5, center_x=beta * 0.6, center_y=beta * 0.8)
    image = Scene(Lens((SIE(theta_E=1.0),)), source, HST_ACS_F814W((80, 80), supersample=6)).image()
    s = R_e / np.sqrt(2 * np.log(2))
    expected = 2 / beta * (1 + s**2 / (2 * beta**2))
    assert float(image.sum()) / sersic_flux(10.0, R_e, 0.5) == pytest.approx(expected, rel=1e-3)


# ---- telescope and operator


@pytest.fixture
def scene():
    """A lens with every part, and a source grid that reaches beyond the caustics."""
    lens = Lens((SIE(theta_E=0.8, e1=0.15, e2=0.05, center_x=0.03), Shear(gamma1=0.05, gamma2=-0.02)))
    asymmetric = np.random.default_rng(0).random((7, 5))  # a transpose that forgets to turn the PSF around is caught
    telescope = Telescope((24, 30), 0.08, asymmetric / asymmetric.sum(), supersample=2)
    return Scene(lens, Sersic(I_e=1.0, R_e=0.2), telescope)


def test_the_transpose_is_the_transpose(scene, x64):
    scene = jax.tree.map(lambda a: jnp.asarray(a, dtype=float), scene)
    operator = scene.operator((21, 17), 0.07, 0.1, -0.05)
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.standard_normal((21, 17))), jnp.asarray(rng.standard_normal((24, 30)))
    left, right = jnp.vdot(operator.mv(x), y), jnp.vdot(x, operator.T.mv(y))
    assert abs(float(left - right)) < 1e-12 * float(jnp.linalg.norm(operator.mv(x)) * jnp.linalg.norm(y))


def test_the_operator_makes_the_image(scene):
    x, y = pixel_grid((21, 17), 0.07)
    picture = scene.source.surface_brightness(x, y)
    image = eqx.tree_at(lambda s: s.source, scene, PixelatedLight(picture, 0.07, 0.1, -0.05)).image()
    np.testing.assert_allclose(scene.operator((21, 17), 0.07, 0.1, -0.05).mv(picture), image, rtol=1e-5, atol=1e-7)


def test_an_image_has_the_derivative_that_differences_give(x64):
    def render(v):
        lens = Lens((SIE(v[0], v[1], v[2]), Shear(v[3], v[4])))
        source = Sersic(I_e=1.0, R_e=v[6], center_x=v[5], center_y=0.013)
        return Scene(lens, source, Telescope((16, 16), 0.15, gaussian_psf(0.2, 0.15, 5), supersample=2)).image()

    at, step = jnp.array([0.8, 0.1, 0.05, 0.03, 0.01, 0.05, 0.2]), 1e-6 * jnp.eye(7)
    slopes = jax.jit(jax.jacfwd(render))(at)
    shifted = jax.jit(jax.vmap(render))(jnp.concatenate([at[None] + step, at[None] - step]))
    differences = jnp.moveaxis(shifted[:7] - shifted[7:], 0, -1) / 2e-6
    np.testing.assert_allclose(slopes, differences, atol=1e-5 * np.abs(slopes).max())


def test_psf_sums_to_one_and_convolution_keeps_flux_and_place():
    psf = gaussian_psf(0.12, 0.05, 15)
    assert float(psf.sum()) == pytest.approx(1.0, abs=1e-6)
    point = jnp.zeros((41, 41)).at[18, 23].set(3.0)
    blurred = convolve(point, psf)
    assert float(blurred.sum()) == pytest.approx(3.0, rel=1e-5)
    assert np.unravel_index(int(blurred.argmax()), blurred.shape) == (18, 23)
    turned = convolve(point, jnp.zeros((3, 3)).at[2, 0].set(1.0))  # a PSF with its light one up, one left
    assert np.unravel_index(int(turned.argmax()), turned.shape) == (19, 22)


def test_pixels_are_means_of_their_rays():
    fine = jnp.arange(24.0).reshape(4, 6)
    np.testing.assert_allclose(bin_pixels(fine, 2), [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]])
    x, y = pixel_grid((2, 3), 0.5, 2)
    np.testing.assert_allclose(bin_pixels(x, 2), pixel_grid((2, 3), 0.5)[0], atol=1e-7)
    assert float(x[0, 0]) == pytest.approx(-0.625) and float(y[0, 0]) == pytest.approx(-0.375)


# ---- noise


def test_noise_has_the_standard_deviation_it_states():
    noise = SkyPoissonNoise(sky_rms=0.01, exposure=2000.0)
    image = jnp.full((200, 200), 0.3)
    drawn = noise.sample(jax.random.key(0), image) - image
    expected = np.sqrt(0.01**2 + 0.3 / 2000)
    assert float(noise.sd(image)[0, 0]) == pytest.approx(expected, rel=1e-5)
    assert float(drawn.std()) == pytest.approx(expected, rel=4 / np.sqrt(2 * drawn.size))
    assert float(noise.sd(jnp.asarray(-5.0))) == pytest.approx(0.01)  # negative flux has no photons


def test_excluded_pixels_count_nothing_whatever_they_hold():
    sd = jnp.array([0.1, 0.2, jnp.inf])
    for hole in (0.0, jnp.nan):
        residual = jnp.array([0.05, -0.3, hole])
        likelihood = GaussianLikelihood(sd)
        expected = sum(-0.5 * (r / s) ** 2 - np.log(s * np.sqrt(2 * np.pi)) for r, s in ((0.05, 0.1), (-0.3, 0.2)))
        assert float(likelihood.log_prob(residual)) == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(likelihood.score(residual), [-5.0, 7.5, 0.0], rtol=1e-5)
        np.testing.assert_allclose(jax.grad(likelihood.log_prob)(residual), [-5.0, 7.5, 0.0], rtol=1e-5)


# ---- prior


@pytest.fixture
def prior():
    """One of each kind of support."""
    return Prior({"b": dist.Uniform(0.5, 2.0), "a": dist.TruncatedNormal(0.1, 0.2, low=-0.5, high=0.5),
                  "d": dist.Normal(0.3, 0.05), "c": dist.LogNormal(-1.0, 0.5)})


@pytest.mark.relaxed
def test_prior_keeps_order_and_returns(prior, x64):
    assert prior.names == ("b", "a", "d", "c")
    for key in jax.random.split(jax.random.key(0), 20):
        theta = prior.sample(key)
        np.testing.assert_allclose(prior.constrain(prior.unconstrain(theta)), theta, rtol=1e-9)
        assert np.isfinite(float(prior.log_prob(theta)))


@pytest.mark.relaxed
def test_the_jacobian_of_the_prior(prior, x64):
    for key in jax.random.split(jax.random.key(1), 5):
        z = 2 * jax.random.normal(key, (4,))
        sign, log_det = jnp.linalg.slogdet(jax.jacfwd(prior.constrain)(z))
        assert float(prior.log_jacobian(z)) == pytest.approx(float(log_det), abs=1e-9)
    # Each density integrates to one on the real line too: a wrong Jacobian or a lost normalisation shows.
    grid = jnp.linspace(-12, 12, 4001)
    for name, distribution in prior.distributions.items():
        alone = Prior({name: distribution})
        density = jnp.exp(jax.vmap(lambda z, p=alone: p.log_prob_unconstrained(z[None]))(grid))
        assert float(jnp.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-4), name


@pytest.mark.relaxed
def test_outside_the_prior(prior):
    outside = jnp.array([0.4, 0.1, 0.3, 0.4])
    assert float(prior.log_prob(outside)) == -np.inf
    assert np.all(np.isfinite(jax.grad(prior.log_prob_unconstrained)(jnp.array([8.0, -8.0, 30.0, -8.0]))))


@pytest.mark.relaxed
def test_a_simulator_repeats_itself(prior, scene):
    def build(p, key):
        noise = SkyPoissonNoise(0.01, 1000.0)
        return eqx.tree_at(lambda s: s.telescope.noise, scene, noise, is_leaf=lambda x: x is None)

    simulate = eqx.filter_jit(Simulator(prior, build).simulate)
    theta, y = simulate(jax.random.key(3))
    again, same = simulate(jax.random.key(3))
    assert theta.shape == (4,) and y.shape == (24, 30)
    assert np.array_equal(theta, again) and np.array_equal(y, same)
    assert not np.array_equal(y, simulate(jax.random.key(4))[1])


# ---- what cannot be


REFUSED = {
    "negative theta_E": lambda: SIE(theta_E=-1.0),
    "theta_E not a number": lambda: SIE(theta_E=np.nan),
    "e1 above one": lambda: SIE(theta_E=1.0, e1=1.2),
    "ellipticity above one": lambda: SIE(theta_E=1.0, e1=0.8, e2=-0.8),
    "ellipticity of a power law": lambda: EPL(theta_E=1.0, e1=0.8, e2=0.7),
    "ellipticity of light": lambda: Sersic(I_e=1.0, R_e=1.0, e1=0.8, e2=0.7),
    "slope of three": lambda: EPL(theta_E=1.0, gamma=3.0),
    "no radius": lambda: Sersic(I_e=1.0, R_e=0.0),
    "too steep": lambda: Sersic(I_e=1.0, R_e=1.0, n=0.05),
    "no pixels": lambda: pixel_grid((0, 3), 0.1),
    "no rays": lambda: pixel_grid((3, 3), 0.1, 0),
    "even PSF": lambda: gaussian_psf(0.1, 0.05, 4),
    "even PSF of a telescope": lambda: Telescope((8, 8), 0.1, np.ones((4, 4)) / 16),
    "no pixel scale": lambda: Telescope((8, 8), 0.0, np.ones((3, 3)) / 9),
    "no exposure": lambda: SkyPoissonNoise(0.1, 0.0),
    "mass without redshifts": lambda: Lens((SIE(theta_E=1.0),)).critical_surface_density(),
    "prior of a vector": lambda: Prior({"a": dist.Normal(np.zeros(2), 1.0)}),
}


@pytest.mark.relaxed
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    with pytest.raises(InputError) as refusal:
        REFUSED[case]()
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


@pytest.mark.relaxed
def test_prior_refuses_another_length(prior):
    for method in (prior.log_prob, prior.unconstrain, prior.constrain, prior.log_jacobian):
        with pytest.raises(InputError, match="shape"):
            method(jnp.zeros(3))
