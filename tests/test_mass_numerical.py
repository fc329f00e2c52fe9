"""Mass profiles that are computed rather than written down: the elliptical NFW halo and the two kinds of map."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lensnb.core import InputError
from lensnb.simulator.grid import pixel_grid
from lensnb.simulator.interpolate import bilinear, cubic, spline, spline_coefficients, spline_gradient
from lensnb.simulator.mass.cored import NIE
from lensnb.simulator.mass.elliptical_nfw import EllipticalNFW
from lensnb.simulator.mass.pixelated_convergence import PixelatedConvergence
from lensnb.simulator.mass.pixelated_potential import PixelatedPotential

KAPPA_S, R_S, CENTRE, PHI = 0.37, 1.3, (0.21, -0.43), 0.4

# x, y, q -> alpha_x, alpha_y, potential - potential(centre): mpmath, 30 digits, the integrals over homoeoids.
GOLDEN = np.array([
    (0.210122, -0.430046, 1.0, 0.0008486805491322206, -0.00031999430541041445, 6.227438230637026e-08),
    (-0.159063, -0.456312, 1.0, -0.4202183723493183, -0.029959074231920468, 0.10135795186157039),
    (1.406546, -0.609941, 1.0, 0.5797532693467914, -0.08718543460889172, 0.5478961943082226),
    (4.316691, 1.855846, 1.0, 0.44802009494560463, 0.24937472577095054, 2.521253167989579),
    (-1015.085389, -812.326097, 1.0, -0.009340660000537893, -0.00746939804908415, 51.38166927022526),
    (0.209907, -0.429909, 0.999999, -0.0006470869790614096, 0.0006331715690679578, 6.203090180494182e-08),
    (0.328532, -0.7805, 0.999999, 0.13496156518832156, -0.3990822631060903, 0.10135813600556227),
    (0.762525, 0.646483, 0.999999, 0.26771063363610414, 0.5215803947311147, 0.547895790800201),
    (3.462404, -3.822915, 0.999999, 0.35482145744694144, -0.370150665430023, 2.521253483949902),
    (-1250.556536, -354.807021, 0.999999, -0.011506981253503499, -0.0032602482670820634, 51.381668672086036),
    (0.210106, -0.430075, 0.8, 0.0007204656363303146, -0.0006165841680501746, 6.457996945087571e-08),
    (-0.156194, -0.377069, 0.8, -0.3982596574312582, 0.09398285129057718, 0.09770592286881048),
    (-0.886442, 0.081777, 0.8, -0.5114777623787312, 0.2917011263658382, 0.5494713343780685),
    (1.34869, -4.989976, 0.8, 0.1343128087857716, -0.5003040239905187, 2.583002533177293),
    (1293.771149, -129.656754, 0.8, 0.011869758255042774, -0.0013767989283260814, 51.219724161787816),
    (0.209911, -0.429905, 0.3, -0.0006216478961072489, 0.0010980091436664575, 8.423877917433018e-08),
    (0.572973, -0.501766, 0.3, 0.30500324273170343, -0.2456696168131495, 0.08294216830634488),
    (1.301669, -0.951881, 0.3, 0.40599579589658996, -0.41914006678105387, 0.5220003800440883),
    (2.272605, 3.793229, 0.3, 0.07035291967467688, 0.48105670105641213, 2.2559669335448866),
    (-1007.410225, -821.832144, 0.3, -0.008423429277027083, -0.008072856916869382, 48.359006673115374),
    (0.209964, -0.430125, 0.1, 0.0003660508524355071, -0.0011427364227234314, 6.849634036838786e-08),
    (0.556363, -0.560125, 0.1, 0.21662497732552094, -0.32920792561731194, 0.07966670418311017),
    (-0.401633, -1.474033, 0.1, 0.05218874000281355, -0.47598553272976046, 0.36305538887900657),
    (3.353544, 3.064014, 0.1, 0.05696082313210472, 0.3982209861776448, 1.4923577037249152),
    (-1299.673318, 16.987232, 0.1, -0.010871129968424749, 0.0019330826795268367, 43.10275331832043),
])


def halo(q, **changed):
    e = (1 - q) / (1 + q)
    given = dict(kappa_s=KAPPA_S, r_s=R_S, e1=e * np.cos(2 * PHI), e2=e * np.sin(2 * PHI), center_x=CENTRE[0], center_y=CENTRE[1])
    return EllipticalNFW(**given | changed)


@jax.jit
def everything(lens, x, y):
    return (*lens.deflection(x, y), lens.potential(x, y), lens.convergence(x, y))


def reference(x, y, q):
    "Deflection and potential by mpmath's quadrature."
    kappa_s, r_s, q = mpmath.mpf(KAPPA_S), mpmath.mpf(R_S), mpmath.mpf(q)
    z = mpmath.mpc(mpmath.mpf(x) - mpmath.mpf(CENTRE[0]), mpmath.mpf(y) - mpmath.mpf(CENTRE[1])) * mpmath.expj(-mpmath.mpf(PHI))
    radius, c = mpmath.sqrt(q * z.real**2 + z.imag**2 / q), (1 - q**2) / q

    def f(x):
        return mpmath.acosh(1 / x) / mpmath.sqrt(1 - x * x) if x < 1 else mpmath.acos(1 / x) / mpmath.sqrt(x * x - 1)

    at = lambda u: (radius / r_s * mpmath.exp(-u), mpmath.sqrt(1 - c * (radius * mpmath.exp(-u)) ** 2 / z**2))

    def bend(u):
        x, root = at(u)
        return (1 - f(x)) / (x * x - 1) * (r_s * x) ** 2 / root

    def rise(u):
        x, root = at(u)
        mean = mpmath.log(x / 2) + f(x) if x > 1e-8 else x * x / 4 * (2 * mpmath.log(2 / x) - 1)
        return (mean / root).real

    pieces = [mpmath.mpf(3 * n) / 2 for n in range(0, 31)]
    alpha = mpmath.conj(4 * kappa_s / z * mpmath.quad(bend, pieces)) * mpmath.expj(mpmath.mpf(PHI))
    return [float(v) for v in (alpha.real, alpha.imag, 4 * kappa_s * r_s**2 * mpmath.quad(rise, pieces))]


def test_halo_golden(x64):
    for q in np.unique(GOLDEN[:, 2]):
        x, y, _, *exact = GOLDEN[GOLDEN[:, 2] == q].T
        ax, ay, psi, _ = everything(halo(q), jnp.asarray(x), jnp.asarray(y))
        assert np.all(np.hypot(ax - exact[0], ay - exact[1]) < 1e-12 * np.hypot(exact[0], exact[1]))
        np.testing.assert_allclose(psi, exact[2], rtol=2e-12)


def test_halo_golden_is_recomputed():
    with mpmath.workdps(20):
        for row in GOLDEN[[3, -2]]:
            np.testing.assert_allclose(reference(*row[:3]), row[3:], rtol=1e-12)


def test_halo_single_precision():
    for q in np.unique(GOLDEN[:, 2]):
        x, y, _, *exact = GOLDEN[GOLDEN[:, 2] == q].T
        keep = np.hypot(x - CENTRE[0], y - CENTRE[1]) > 0.05  # nearer, the difference from the centre has no digits
        ax, ay, psi, _ = everything(halo(q), jnp.asarray(x, dtype=float), jnp.asarray(y, dtype=float))
        assert np.all((np.hypot(ax - exact[0], ay - exact[1]) < 2e-5 * np.hypot(exact[0], exact[1]))[keep])
        np.testing.assert_allclose(np.asarray(psi)[keep], exact[2][keep], rtol=5e-5)


def test_halo_round(x64):
    "At e = 0 the closed forms of the circular NFW."
    x = np.array([1e-4, 0.3, 0.9, 1.0, 1.1, 4.0, 1e3])
    with np.errstate(invalid="ignore", divide="ignore"):
        f = np.where(x < 1, np.arccosh(1 / x) / np.sqrt(1 - x**2), np.arccos(1 / x) / np.sqrt(x**2 - 1))
        square = np.where(x < 1, -np.arccosh(1 / x) ** 2, np.arccos(1 / x) ** 2)
        kappa = 2 * KAPPA_S * np.where(x == 1, 1 / 3, (1 - f) / (x**2 - 1))
    f[x == 1] = 1.0
    square = np.nan_to_num(square)
    ax, ay, psi, found = everything(halo(1.0, center_x=0.0, center_y=0.0), jnp.asarray(0.6 * R_S * x), jnp.asarray(-0.8 * R_S * x))
    alpha = 4 * KAPPA_S * R_S * (np.log(x / 2) + f) / x
    small = x < 1e-3  # where the textbook's form cancels
    np.testing.assert_allclose(ax, 0.6 * alpha, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(ay)[~small], -0.8 * alpha[~small], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(psi)[~small], (2 * KAPPA_S * R_S**2 * (np.log(x / 2) ** 2 + square))[~small], rtol=1e-11)
    np.testing.assert_allclose(found, kappa, rtol=1e-8)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0))
def derivatives(lens, point):
    deflection = lambda p: jnp.stack(lens.deflection(p[0], p[1]))
    return jax.grad(lambda p: lens.potential(p[0], p[1]))(point), deflection(point), jax.jacfwd(deflection)(point), lens.convergence(*point)


@pytest.mark.parametrize("q", [1.0, 0.999999, 0.8, 0.3, 0.1, 0.01])
def test_halo_consistent(x64, q):
    "Gradient, symmetry and trace at generic points, at the foci, on the scale radius and at the seams of the branches."
    focus, edge = np.sqrt((1 - q**2) / q), 1 / np.sqrt(q)
    along = np.array([focus, focus * (1 + 1e-7), edge, edge * (1 - 1e-9), edge * np.sqrt(0.99), edge * np.sqrt(1.01), 0.2, 30.0])
    points = np.concatenate([np.stack([R_S * along, 0 * along], 1), [(0.01, 0.02), (1.0, 0.3), (-0.4, 1.7), (0.0, 2.0)]])
    cos, sin = np.cos(PHI), np.sin(PHI)
    points = points @ np.array([[cos, sin], [-sin, cos]]) + CENTRE
    points = points[np.hypot(*(points - CENTRE).T) > 0]
    slope, deflection, jacobian, kappa = derivatives(halo(q), jnp.asarray(points))
    np.testing.assert_allclose(slope, deflection, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(jacobian[:, 0, 1], jacobian[:, 1, 0], atol=1e-9)
    np.testing.assert_allclose((jacobian[:, 0, 0] + jacobian[:, 1, 1]) / 2, kappa, rtol=1e-9, atol=1e-9)


def test_halo_derivatives_in_parameters(x64):
    "Of deflection and potential, by every parameter, against differences; at e = 0 too."
    x, y = jnp.asarray([0.5, 1.6, -3.0]), jnp.asarray([0.2, -0.43, 2.0])

    def values(p):
        lens = EllipticalNFW(kappa_s=p[0], r_s=p[1], e1=p[2], e2=p[3], center_x=p[4], center_y=p[5])
        return jnp.stack([*lens.deflection(x, y), lens.potential(x, y)])

    forward, values = jax.jit(jax.jacfwd(values)), jax.jit(values)
    for p in ([0.3, 1.2, 0.0, 0.0, 0.1, -0.2], [0.3, 1.2, 0.3, -0.4, 0.1, -0.2]):
        steps = 1e-5 * np.eye(6)
        differences = np.stack([(values(jnp.asarray(p + s)) - values(jnp.asarray(p - s))) / 2e-5 for s in steps], -1)
        np.testing.assert_allclose(forward(jnp.asarray(p)), differences, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("double", [True, False])
def test_halo_finite(double):
    "Values and gradients by position and by every parameter where something could divide by zero."
    with jax.enable_x64(double):

        def total(p, x, y):
            lens = EllipticalNFW(kappa_s=p[0], r_s=p[1], e1=p[2], e2=p[3])
            return jnp.stack([*lens.deflection(x, y), lens.potential(x, y)])

        check = jax.jit(lambda *a: (total(*a), jax.jacrev(total, argnums=(0, 1, 2))(*a)))
        for e1, e2 in ((0.0, 0.0), (1e-8, 0.0), (0.5, 0.0), (-9 / 11, 0.0), (0.0, 0.99)):
            q = (1 - np.hypot(e1, e2)) / (1 + np.hypot(e1, e2))
            focus = np.sqrt((1 - q**2) / q)
            for x, y in ((0.0, 0.0), (1.0, 0.0), (1 / np.sqrt(q), 0.0), (np.sqrt(q), 0.0), (focus, 0.0), (1e-6, 0.0), (3e3, -2e3)):
                p = jnp.asarray([0.3, 1.0, e1, e2])
                out = check(p, jnp.asarray(x, dtype=p.dtype), jnp.asarray(y, dtype=p.dtype))
                assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(out)), (double, e1, e2, x, y)
                if x == y == 0:
                    assert not np.any(out[0]) and not np.any(out[1][1]) and not np.any(out[1][2])
        assert np.isposinf(halo(0.5, center_x=0.0, center_y=0.0).convergence(0.0, 0.0))


def gaussian(h, n):
    x, y = pixel_grid((n, n), h)
    return jnp.exp(-(x**2 + y**2) / 2)


@pytest.mark.parametrize("shape", [(1, 1), (7, 12), (20, 5)])
def test_pixel_sum(x64, shape):
    "Every grid point and a few far ones against the sum of all pixels, for odd, even and oblong maps."
    kappa = jax.random.uniform(jax.random.key(3), shape)
    h = 0.3
    lens = PixelatedConvergence(kappa=kappa, pixel_scale=h, center_x=0.1, center_y=-0.2)
    px, py = (np.asarray(v) + c for v, c in zip(pixel_grid(shape, h), (0.1, -0.2)))
    x = np.concatenate([px.ravel(), px.ravel()[:3] + 2 * h * max(shape), [50.0, -1e3]])
    y = np.concatenate([py.ravel(), py.ravel()[:3] - 2 * h * max(shape), [-70.0, 1e3]])
    ax, ay, psi, _ = everything(lens, jnp.asarray(x), jnp.asarray(y))
    u, v = x[:, None] - px.ravel(), y[:, None] - py.ravel()
    ex, ey, epsi = 0.0, 0.0, 0.0
    for du, dv, sign in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
        a, b = u + du * h / 2, v + dv * h / 2
        log = np.log(a**2 + b**2)
        ex = ex + sign * (b * log / 2 + a * np.arctan(b / a))
        ey = ey + sign * (a * log / 2 + b * np.arctan(a / b))
        epsi = epsi + sign * (a * b * (log - 3) + a**2 * np.arctan(b / a) + b**2 * np.arctan(a / b)) / 2
    mass = np.asarray(kappa).ravel() / np.pi
    far = np.arange(len(x)) >= px.size
    for found, exact in ((ax, ex @ mass), (ay, ey @ mass), (psi, epsi @ mass)):
        np.testing.assert_allclose(np.asarray(found)[~far], exact[~far], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(np.asarray(found)[far], exact[far], rtol=2e-3 if min(shape) == 1 else 2e-5)


def test_pixels_against_gaussian(x64):
    r, angle = np.linspace(0.05, 9, 300), np.linspace(0, 40, 300)
    x, y = r * np.cos(angle), r * np.sin(angle)
    exact = 2 * (1 - np.exp(-(r**2) / 2)) / r
    worst = []
    for n in (30, 60):
        ax, ay, _, kappa = everything(PixelatedConvergence(kappa=gaussian(12 / n, n), pixel_scale=12 / n), jnp.asarray(x), jnp.asarray(y))
        worst.append(np.hypot(ax - exact * x / r, ay - exact * y / r).max())
    assert worst[1] < 5e-3 and worst[1] < worst[0] / 3.5
    np.testing.assert_allclose(kappa, np.exp(-(r**2) / 2), atol=0.01)


def test_pixels_gradient_in_the_map(x64):
    kappa, direction = jax.random.uniform(jax.random.key(0), (2, 6, 7))
    x, y = jnp.asarray([0.33, 5.0]), jnp.asarray([-0.2, 1.0])
    for make in (lambda a: PixelatedConvergence(kappa=a, pixel_scale=0.2), lambda a: PixelatedPotential(psi=a, pixel_scale=0.2)):
        total = jax.jit(lambda a, make=make: jnp.sum(jnp.stack(make(a).deflection(x, y)) ** 2))
        slope = jnp.vdot(jax.jit(jax.grad(total))(kappa), direction)
        np.testing.assert_allclose(slope, (total(kappa + 1e-6 * direction) - total(kappa - 1e-6 * direction)) / 2e-6, rtol=1e-6)


def test_pixels_one_transform_for_all_rays():
    lens = PixelatedConvergence(kappa=gaussian(0.5, 20), pixel_scale=0.5)
    jaxpr = jax.make_jaxpr(jax.vmap(lambda x, y: lens.deflection(x, y)))(jnp.zeros(1000), jnp.ones(1000))
    transforms = [line for line in str(jaxpr).splitlines() if " fft[" in line or "fft_lengths" in line]
    assert transforms and not any("1000" in line for line in transforms)


def test_potential_map(x64):
    lens, h = NIE(theta_E=1.1, e1=0.1, e2=-0.2, s=0.3), 0.05
    pixels = PixelatedPotential(psi=jax.jit(NIE.potential)(lens, *pixel_grid((90, 80), h)), pixel_scale=h)
    x, y = jax.random.uniform(jax.random.key(5), (2, 200), minval=-1.9, maxval=1.9)
    for found, exact, error in zip(everything(pixels, x, y), everything(lens, x, y), (1e-4, 1e-4, 1e-5, 0.01)):
        np.testing.assert_allclose(found, exact, atol=error)
    points = jnp.stack([x, y], 1) * 2  # half of them outside the map
    slope, deflection, jacobian, kappa = derivatives(pixels, points)
    np.testing.assert_allclose(slope, deflection, atol=1e-12)
    np.testing.assert_allclose((jacobian[:, 0, 0] + jacobian[:, 1, 1]) / 2, kappa, atol=1e-11)


@pytest.mark.parametrize("values", [np.ones(5), np.ones((2, 3, 4)), np.full((5, 5), np.nan), np.zeros((0, 4))])
def test_bad_maps(values):
    for profile, name in ((PixelatedConvergence, "kappa"), (PixelatedPotential, "psi")):
        with pytest.raises((InputError, TypeError)) as error:
            profile(**{name: values}, pixel_scale=0.1)
        assert profile.__name__ in str(error.value)


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan])
def test_bad_scales(scale):
    for make in (lambda: PixelatedConvergence(kappa=np.ones((5, 5)), pixel_scale=scale), lambda: EllipticalNFW(kappa_s=0.1, r_s=scale)):
        with pytest.raises(InputError, match="pixel_scale|r_s"):
            make()
    with pytest.raises(InputError, match="no ellipse"):
        EllipticalNFW(kappa_s=0.1, r_s=1.0, e1=0.8, e2=0.8)


def test_interpolation(x64):
    "Pixel values at pixel centres, zeros outside, NaN for NaN, and derivatives by both coordinates."
    image = jax.random.normal(jax.random.key(2), (5, 8))
    row, column = (v.astype(float) for v in jnp.meshgrid(jnp.arange(5), jnp.arange(8), indexing="ij"))
    coefficients = spline_coefficients(image)
    for rule, values in ((bilinear, image), (cubic, image), (spline, coefficients)):
        rule = jax.jit(rule)
        np.testing.assert_allclose(rule(values, row, column), image, atol=1e-13)
        assert np.isnan(rule(values, jnp.asarray(jnp.nan), jnp.asarray(1.0)))
    for rule in (bilinear, cubic):
        assert not np.any(jax.jit(rule)(image, jnp.asarray([-2.0, 7.0, -1e9, 1.0]), jnp.asarray([1.0, 1.0, 1.0, jnp.inf])))
    step, at = 1e-6, jnp.asarray([2.3, 4.6])
    for rule, values in ((cubic, image), (spline, coefficients)):
        value = jax.jit(lambda p, rule=rule, values=values: rule(values, p[0], p[1]))
        differences = [(value(at + step * d) - value(at - step * d)) / (2 * step) for d in jnp.eye(2)]
        np.testing.assert_allclose(jax.grad(value)(at), differences, rtol=1e-7)
    np.testing.assert_allclose(jnp.stack(spline_gradient(coefficients, at[0], at[1])), jax.grad(value)(at), rtol=1e-10)
