"""Images of a point source, held to closed forms, to differences and to the rule of parities; curves, radii, masses, delays."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM as Astropy

from lensnb.core import InputError
from lensnb.simulator.cosmology import FlatLambdaCDM, LambdaCDM
from lensnb.simulator.critical import cuts, einstein_radius, enclosed_mass, mean_convergence
from lensnb.simulator.lens import Lens, MultiPlane, critical_curves
from lensnb.simulator.mass import EPL, NFW, NIE, SIE, SIS, PointMass, Shear


def universe():
    """In the precision of the test that asks."""
    return FlatLambdaCDM(H0=70.0, Om0=0.3)



@jax.jit
def solve_row(v):
    return Lens((NIE(v[0], v[1], v[2], v[3]), Shear(v[4], v[5]))).solve(v[6], v[7], 7)


def solve_core(rows):
    """Rows of theta_E, e1, e2, core, shear (2), source (2); one at a time, by one program however many they are."""
    return jax.tree.map(lambda *parts: np.stack(parts), *map(solve_row, rows))


def parity(images):
    """Sum of the signs of the magnifications of each row."""
    return np.where(images.mask, np.sign(images.magnification), 0).sum(-1)


# ---- closed forms


def core_row(theta_E=1.0, e1=0.0, e2=0.0, s=0.0, g1=0.0, g2=0.0, bx=0.0, by=0.0):
    return [theta_E, e1, e2, s, g1, g2, bx, by]


def test_closed_forms(x64):
    s, b = 0.05, 0.1
    rows = [core_row(bx=0.3, by=0.4), core_row(bx=0.9, by=1.2), core_row(e1=0.2, by=1e-5), core_row(s=s, bx=b), core_row(s=1.1, bx=b)]
    images = solve_core(jnp.array(rows))
    assert images.count.tolist() == [2, 1, 4, 3, 1]
    # an isothermal sphere: beta +- theta_E along the line to the source, with 1 +- theta_E / beta
    np.testing.assert_allclose(images.x[0, :2], [0.6 * 1.5, -0.6 * 0.5], atol=1e-10)
    np.testing.assert_allclose(images.y[0, :2], [0.8 * 1.5, -0.8 * 0.5], atol=1e-10)
    np.testing.assert_allclose(images.magnification[0, :2], [3.0, -1.0], rtol=1e-9)
    np.testing.assert_allclose([images.x[1, 0], images.y[1, 0]], [0.6 * 2.5, 0.8 * 2.5], atol=1e-10)
    # an ellipsoid with the source on its axes: theta_E sqrt(q) / f arctan(f) and so on (Kormann et al. 1994), f^2 = 1 / q^2 - 1
    q = 0.8 / 1.2
    f = np.sqrt(1 - q**2)
    on_x, on_y = np.sqrt(q) / f * np.arctan(f / q), np.sqrt(q) / f * np.arctanh(f)
    np.testing.assert_allclose(np.sort(np.abs(images.x[2, :4]))[2:], on_x, atol=1e-5)
    np.testing.assert_allclose(np.sort(np.abs(images.y[2, :4]))[2:], on_y, atol=3e-5)
    # a core on the axis: the roots of x + s - sqrt(s^2 + x^2) ... as a polynomial, solved by NumPy
    rhs = lambda x: x - x / (np.sqrt(s**2 + x**2) + s) - b
    grid = np.linspace(-3, 3, 60001)
    crossing = np.flatnonzero(np.diff(np.sign(rhs(grid))))
    np.testing.assert_allclose(np.sort(images.x[3, :3]), grid[crossing], atol=1.1e-4)
    np.testing.assert_allclose(rhs(np.asarray(images.x[3, :3])), 0, atol=1e-12)
    assert parity(images).tolist() == [0, 1, 0, 1, 1]


def test_a_point_mass_and_a_microlens(x64):
    solve = jax.jit(lambda theta_E, beta: Lens((PointMass(theta_E),)).solve(beta, 0.0, 2))
    for theta_E, beta in ((1.0, 0.7), (1e-6, 3e-7), (1.0, 5.0)):
        images = solve(theta_E, beta)
        root = np.sqrt(beta**2 + 4 * theta_E**2)
        np.testing.assert_allclose(images.x, [(beta + root) / 2, (beta - root) / 2], rtol=1e-9)
        u = beta / theta_E
        np.testing.assert_allclose(np.abs(images.magnification).sum(), (u**2 + 2) / (u * np.sqrt(u**2 + 4)), rtol=1e-8)


# ---- how many


def test_several_hundred_lenses_obey_the_rule_of_parities(x64):
    rng, n = np.random.default_rng(7), 300
    q, phi, psi, angle = rng.uniform(0.3, 1, n), *rng.uniform(0, 2 * np.pi, (3, n))
    e, g, r = (1 - q) / (1 + q), rng.uniform(0, 0.2, n), 1.2 * np.sqrt(rng.uniform(0, 1, n))
    core = 10 ** rng.uniform(-4, -0.5, n)
    rows = [np.ones(n), e * np.cos(phi), e * np.sin(phi), core, g * np.cos(psi), g * np.sin(psi), r * np.cos(angle), r * np.sin(angle)]
    rows = jnp.asarray(np.stack(rows, 1))
    images = solve_core(rows)
    assert np.all(parity(images) == 1) and set(images.count.tolist()) <= {1, 3, 5, 7}
    assert np.bincount(images.count)[1::2].min() > 5  # every number occurs
    # sorted by arrival; each hits the source; a core of a ten-thousandth keeps its central image
    lens = jax.vmap(lambda v: Lens((NIE(v[0], v[1], v[2], v[3]), Shear(v[4], v[5]))))(rows)
    sx, sy = jax.vmap(lambda lens, x, y: lens.ray_shoot(x, y))(lens, images.x, images.y)
    assert np.nanmax(np.hypot(sx - rows[:, 6:7], sy - rows[:, 7:8])) < 1e-12
    fermat = jax.vmap(lambda lens, x, y, v: lens.fermat_potential(x, y, v[6], v[7]))(lens, images.x, images.y, rows)
    assert np.nanmin(np.diff(fermat, axis=1)) > 0
    assert (np.hypot(images.x, images.y) < 1e-3).any(1).sum() > 20


def test_a_central_image_beside_a_pole_is_kept(x64):
    """Power laws off the origin with an image at one to two millionths of theta_E, where the map magnifies the rounding of a position."""
    rows = jnp.array([  # theta_E, e1, e2, gamma1, gamma2, centre, slope, source
        [1.3018543824703164, 0.19130312953663975, -0.06377318693334391, 0.15789903201386732, -0.11248027519905152,
         -0.08172275062157681, -0.08516993840911113, 1.970040979580344, 0.3315688460695462, -0.8806794352315461],
        [1.4057334899972638, -0.1994358572281689, 0.18175597938531063, 0.10606960779436254, 0.05980031511663311,
         0.09808489767994388, 0.08396320574772045, 1.9778673583867952, -0.09080872026536277, 1.0339018482884104],
        [0.5625980853819397, 0.10390891202622773, -0.016339902702606372, -0.13059293001512526, -0.00545922834354069,
         0.08055272084520884, -0.08829836764842054, 1.893434163788887, 0.21215887272567138, -0.013832749661090202],
    ])
    solve = jax.jit(lambda rows: jax.lax.map(lambda v: Lens((EPL(v[0], v[7], v[1], v[2], v[5], v[6]), Shear(v[3], v[4]))).solve(v[8], v[9], 7), rows))
    images = solve(rows)
    assert images.count.tolist() == [3, 3, 3]
    nearest = np.nanmin(np.hypot(images.x - rows[:, 5:6], images.y - rows[:, 6:7]) / rows[:, :1], axis=1)
    assert np.all((nearest > 1e-6) & (nearest < 2.5e-6))


def test_a_pair_is_found_until_it_merges(x64):
    """A source that walks out through a fold: four, or five, images up to it, two fewer beyond."""
    lens = Lens((NIE(1.0, 0.2, 0.0, 0.02), Shear(0.0, 0.05)))
    curves, caustics = critical_curves(lens, 1.9, 600)
    astroid = min(caustics, key=lambda c: np.abs(c).max())
    k = np.argmin(np.hypot(*astroid.T))
    inward = -astroid[k] / np.hypot(*astroid[k])
    places = np.array([astroid[k] + d * inward for d in (1e-2, 1e-3, -1e-3, -1e-2)])
    rows = jnp.asarray([core_row(e1=0.2, s=0.02, g2=0.05, bx=x, by=y) for x, y in places])
    assert solve_core(rows).count.tolist() == [5, 5, 3, 3]


# ---- derivatives, transformations, padding


AT = core_row(e1=0.15, e2=0.05, s=0.05, g1=0.03, g2=-0.02, bx=0.06, by=0.03)


@eqx.filter_jit
def solve_one(v):
    return Lens((NIE(v[0], v[1], v[2], v[3]), Shear(v[4], v[5]))).solve(v[6], v[7], 6)


@jax.jit
def sloped(v):
    """Positions and magnifications, and the gradient of a sum over the five images that are there."""
    def loss(v):
        images = solve_one(v)
        parts = jnp.stack([images.x, images.y, images.magnification / 10])
        return jnp.sum(jnp.where(images.mask[None], jnp.arange(1.0, 19.0).reshape(3, 6) * parts, 0.0)), parts

    return jax.value_and_grad(loss, has_aux=True)(v)


def test_derivatives_are_those_that_differences_give(x64):
    at = jnp.array(AT)
    (_, parts), slope = sloped(at)
    assert np.isfinite(parts[:, :5]).all() and np.isnan(parts[:, 5]).all()  # an empty place spoils no gradient
    differences = [(sloped(at + d)[0][0] - sloped(at - d)[0][0]) / 2e-6 for d in 1e-6 * jnp.eye(8)]
    np.testing.assert_allclose(slope, differences, rtol=1e-6)


def test_too_few_places_and_what_is_not_a_number(x64):
    few = eqx.filter_jit(lambda v: Lens((NIE(v[0], v[1], v[2], v[3]), Shear(v[4], v[5]))).solve(v[6], v[7], 2))
    whole, cut = sloped(jnp.array(AT))[0][1], few(jnp.array(AT))
    assert cut.count == 5 and cut.mask.all()
    np.testing.assert_allclose(cut.x, whole[0, :2], atol=1e-12)
    for bad in (6, 0, 1):
        none = few(jnp.array(AT).at[bad].set(jnp.nan))
        assert none.count == -1 and not none.mask.any() and np.isnan(none.x).all()
    assert few(jnp.array(AT).at[1].set(1.2)).count == -1  # no ellipse


def test_single_precision_and_vmap_find_the_same():
    rows = jnp.array([core_row(e1=0.2, s=0.05, g1=0.03, bx=0.05, by=0.03), core_row(bx=0.5), core_row(s=0.1, bx=1.4)])
    images = eqx.filter_jit(eqx.filter_vmap(lambda v: Lens((NIE(v[0], v[1], v[2], v[3]), Shear(v[4], v[5]))).solve(v[6], v[7], 7)))(rows)
    assert images.x.dtype == jnp.float32 and images.count.tolist() == [5, 2, 1]
    np.testing.assert_allclose(images.x[1, :2], [1.5, -0.5], atol=1e-5)


# ---- delays and planes


def test_delays_of_two_planes_and_their_images(x64):
    near, far = (NIE(1.0, 0.1, s=0.05), Shear(0.03, 0.04)), (SIS(0.2, center_x=0.5, center_y=0.3),)
    source = jnp.array([0.1, 0.06])

    @eqx.filter_jit
    def solved(H0):
        lens = MultiPlane([(0.5, near), (1.0, far)], 2.0, FlatLambdaCDM(H0, 0.3))
        images = lens.solve(*source, 7)
        return images, lens.ray_shoot(images.x, images.y)

    (images, (sx, sy)), (slow, _) = solved(jnp.asarray(70.0)), solved(jnp.asarray(35.0))
    n = int(images.count)
    assert n >= 4 and images.mask.sum() == n
    assert np.nanmax(np.hypot(sx - source[0], sy - source[1])) < 1e-12
    assert images.arrival_time[0] == 0 and np.all(np.diff(images.arrival_time[:n]) > 0)
    np.testing.assert_allclose(slow.arrival_time[:n], 2 * images.arrival_time[:n], rtol=1e-8)


def test_one_plane_agrees_with_many_and_with_the_closed_form(x64):
    lens = Lens((SIS(1.0),), 0.5, 2.0, universe())
    many = MultiPlane([(0.5, (SIS(1.0),))], 2.0, universe())
    x = jnp.array([1.2, -0.8])
    one, other = (plane.arrival_time(x, jnp.zeros(2), 0.2, 0.0) for plane in (lens, many))
    np.testing.assert_allclose(one, other, rtol=1e-10)
    arcsec, days = np.pi / 648000, 86400 * 299792.458 / 3.0856775814913673e19
    closed = float(universe().time_delay_distance(0.5, 2.0)) * 2 * 0.2 * arcsec**2 / days
    np.testing.assert_allclose(one[1] - one[0], closed, rtol=1e-8)


# ---- curves, radii, masses


def test_areas_inside_critical_curves():
    shear, theta_E = 0.1, 1.2
    expected = theta_E * np.sqrt(1 + shear**2 / 2) / (1 - shear**2)  # (1 - g^2) r = theta_E (1 - g cos 2 phi), integrated
    assert einstein_radius(Lens((SIS(theta_E), Shear(0.0, shear)))) == pytest.approx(expected, rel=1e-3)
    assert einstein_radius(Lens((EPL(theta_E, 2.3, 0.0, 0.0),))) == pytest.approx(theta_E, rel=1e-3)
    halo = Lens((NFW(0.3, 5.0),))
    ring = einstein_radius(halo, 3.0)
    assert float(mean_convergence(halo, ring)) == pytest.approx(1.0, rel=2e-3)


def test_critical_curves_of_two_planes_are_circles():
    """Two spheres behind each other: a ray at r meets the second plane at r - beta b_1, so that r = b_1 + b_2 or b_1 - b_2."""
    near, far = 1.0, 0.45
    c1, c2, cs = Astropy(H0=70.0, Om0=0.3).comoving_distance([0.4, 1.0, 2.5]).value  # flat: distances are differences
    beta = (c2 - c1) * cs / (c2 * (cs - c1))
    assert near - far < beta * near  # the inner circle is there: its rays cross the axis before the second plane
    lens = MultiPlane([(0.4, (SIS(near),)), (1.0, (SIS(far),))], 2.5, universe())
    curves, caustics = critical_curves(lens, 1.8, 600)
    radius = np.array([np.hypot(*curve.T).mean() for curve in curves])
    for expected in (near + far, near - far):
        nearest = int(np.argmin(np.abs(radius - expected)))
        np.testing.assert_allclose(np.hypot(*curves[nearest].T), expected, atol=4e-3)
        assert np.hypot(*caustics[nearest].T).max() < 1e-2  # a point
    assert einstein_radius(lens, 1.8, 600) == pytest.approx(near + far, abs=2e-3)


def test_the_cut_of_an_ellipsoid():
    """Kormann et al. (1994): the deflection at the centre, which depends on direction alone."""
    (cut,) = cuts(Lens((SIE(1.0, 0.2),)))
    q = 0.8 / 1.2
    f = np.sqrt(1 - q**2)
    assert np.abs(cut[:, 0]).max() == pytest.approx(np.sqrt(q) / f * np.arctan(f / q), abs=2e-3)
    assert np.abs(cut[:, 1]).max() == pytest.approx(np.sqrt(q) / f * np.arctanh(f), abs=2e-3)


def test_mass_in_the_ring(x64):
    lens = Lens((SIE(1.0, 0.2),), 0.5, 2.0, universe())
    side = float(universe().angular_diameter_distance(0.5)) * np.pi / 648000
    assert float(enclosed_mass(Lens((SIS(1.0),), 0.5, 2.0, universe()), 1.0)) == pytest.approx(
        np.pi * side**2 * float(universe().critical_surface_density(0.5, 2.0)), rel=1e-12)
    r, phi = np.meshgrid((np.arange(400) + 0.5) / 400, (np.arange(400) + 0.5) * 2 * np.pi / 400)
    kappa = np.mean(lens.convergence(jnp.asarray(r * np.cos(phi)), jnp.asarray(r * np.sin(phi))) * 2 * r)
    assert float(mean_convergence(lens, 1.0)) == pytest.approx(float(kappa), rel=1e-5)


# ---- what is refused


def test_a_source_in_front_is_refused_and_traced_it_is_nan():
    for z_l, z_s in ((2.0, 0.5), (0.5, 0.5), (-0.1, 1.0), (0.5, np.inf)):
        with pytest.raises(InputError, match="outside its range"):
            Lens((SIS(1.0),), z_l, z_s)
    with pytest.raises(InputError, match="z_l = 2.0 .* below z_s = 0.5"):
        Lens((SIS(1.0),), 2.0, 0.5)
    with pytest.raises(InputError, match="z_s = 0.4"):
        MultiPlane([(0.5, (SIS(1.0),))], 0.4, universe())
    with pytest.raises(InputError, match="give z_l, z_s and a cosmology"):
        Lens((SIS(1.0),)).arrival_time(1.0, 0.0, 0.1, 0.0)

    @jax.jit
    def traced(z_l):
        lens = Lens((SIS(1.0),), z_l, 0.5, universe())
        return lens.arrival_time(1.0, 0.0, 0.1, 0.0), lens.critical_surface_density()

    assert np.isnan(traced(2.0)).all() and np.isnan(traced(0.5)).all() and np.isfinite(traced(0.3)).all()


def test_a_universe_without_the_source_is_refused_by_everything():
    never = LambdaCDM(70.0, 0.3, 1.8)  # it bounced: there is no redshift 2
    cone, lens = MultiPlane([(0.5, (SIS(1.0),))], 3.0, never), Lens((SIS(1.0),), 0.5, 3.0, never)
    for call in (cone.ray_shoot, cone.solve, lens.solve):
        with pytest.raises(InputError, match="has no redshift"):
            call(0.2, 0.1)


def test_a_lens_of_another_code_is_asked_anew():
    class Sphere:
        """Computes in NumPy and may change: nothing that could be compiled."""

        radius = 1.0

        def ray_shoot(self, x, y):
            x, y = np.asarray(x), np.asarray(y)
            return x * (1 - self.radius / np.hypot(x, y)), y * (1 - self.radius / np.hypot(x, y))

        def inverse_magnification(self, x, y):
            return 1 - self.radius / np.hypot(np.asarray(x), np.asarray(y))

    sphere = Sphere()
    for sphere.radius in (1.0, 0.6):
        assert einstein_radius(sphere, 2.0) == pytest.approx(sphere.radius, rel=1e-3)


def test_options_of_the_search_may_be_numpys():
    assert int(Lens((SIS(1.0),)).solve(0.2, 0.0, levels=np.int64(2), keep=np.int64(40)).count) == 2


def test_no_critical_curve_no_radius():
    with pytest.raises(InputError, match="larger half_width"):
        einstein_radius(Lens((NIE(1.0, s=1.0),)))
