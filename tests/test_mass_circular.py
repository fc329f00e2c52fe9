"""Circular lenses against integrals of their density, where their formulas break, and against their own promises."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensnb.core import InputError
from lensnb.simulator.cosmology import FlatLambdaCDM
from lensnb.simulator.mass.external import MassSheet
from lensnb.simulator.mass.halo_mass import duffy2008_concentration, nfw_scales, virial_radius
from lensnb.simulator.mass.halos import Halos
from lensnb.simulator.mass.hernquist import Hernquist
from lensnb.simulator.mass.jaffe import PseudoJaffe
from lensnb.simulator.mass.nfw import NFW
from lensnb.simulator.mass.isothermal import SIE
from lensnb.simulator.mass.projection import enclosed, excess, projection, second_excess, well
from lensnb.simulator.mass.sersic import SersicMass
from lensnb.simulator.mass.sis import RADIAN, SIS, dispersion_einstein_radius
from lensnb.simulator.mass.truncated import TNFW

# Integrals over shells of the density (pseudo-Jaffe, Sérsic: over rings of the convergence) to 40 digits:
# kind, parameters, radius, potential, mean convergence, convergence.
GOLDEN = [
    ('NFW', (1.0, 1.0), 0.001, 7.600905184881995e-06, 14.201815445446584, 13.20182522181711),
    ('NFW', (1.0, 1.0), 0.37, 0.2412455136072048, 2.629969182661906, 1.801437027413778),
    ('NFW', (1.0, 1.0), 0.7, 0.6000968981344065, 1.6673637123725915, 0.9963693304483143),
    ('NFW', (1.0, 1.0), 1.0, 0.9609060278364029, 1.2274112777602189, 0.6666666666666666),
    ('NFW', (1.0, 1.0), 1.9, 2.071946752342583, 0.6403609529378609, 0.28412332995098083),
    ('NFW', (1.0, 1.0), 2.3, 2.5523464082790204, 0.514922937483185, 0.21388175177326185),
    ('NFW', (1.0, 1.0), 60.0, 27.9669204617366, 0.0038078923645253715, 0.0005413138391716148),
    ('TNFW', (1.0, 1.0, 0.05), 0.003, 3.9317828207249936e-05, 7.734756387948886, 6.730130482907558),
    ('TNFW', (1.0, 1.0, 0.05), 0.9, 0.04235124366995535, 0.024312734453772945, 0.0013204729951164923),
    ('TNFW', (1.0, 1.0, 0.05), 1.0, 0.044437591198293123, 0.019906700106436394, 0.0009568819795061157),
    ('TNFW', (1.0, 1.0, 0.05), 2.7, 0.06487116726865712, 0.002881844810208093, 3.577386149738566e-05),
    ('TNFW', (1.0, 1.0, 0.05), 80.0, 0.13694842997037326, 3.3314018454747325e-06, 7.961260590293186e-11),
    ('TNFW', (1.0, 1.0, 1.0), 0.003, 5.595216262885178e-05, 11.433841570199997, 10.433894625760248),
    ('TNFW', (1.0, 1.0, 1.0), 0.9, 0.6052125035276772, 0.8039183237098156, 0.2815350002106157),
    ('TNFW', (1.0, 1.0, 1.0), 1.0, 0.6763347722963962, 0.698709715431427, 0.22261259879374176),
    ('TNFW', (1.0, 1.0, 1.0), 2.7, 1.553248658782055, 0.1402272054502486, 0.0129374513809079),
    ('TNFW', (1.0, 1.0, 1.0), 80.0, 5.3528934888604525, 0.00017834177537697066, 3.1841075842656594e-08),
    ('TNFW', (1.0, 1.0, 6.3), 0.003, 5.8247304363263915e-05, 11.94388339804936, 10.94395601972813),
    ('TNFW', (1.0, 1.0, 6.3), 0.9, 0.8136236843761392, 1.2868804178003015, 0.6930000721424892),
    ('TNFW', (1.0, 1.0, 6.3), 1.0, 0.9298429350078881, 1.1652975079558072, 0.605319220151806),
    ('TNFW', (1.0, 1.0, 6.3), 2.7, 2.8031855192345367, 0.36988068735643354, 0.11837049228736175),
    ('TNFW', (1.0, 1.0, 6.3), 80.0, 17.42519482037039, 0.0007525454572446015, 1.257698287730509e-06),
    ('TNFW', (1.0, 1.0, 400.0), 0.003, 5.852051771480647e-05, 12.004597757959182, 11.004670914884056),
    ('TNFW', (1.0, 1.0, 400.0), 0.9, 0.8387541452019928, 1.3490587498104216, 0.7547248599297212),
    ('TNFW', (1.0, 1.0, 400.0), 1.0, 0.9608745909850102, 1.2273483594030568, 0.6666038457019824),
    ('TNFW', (1.0, 1.0, 400.0), 2.7, 3.0187117430470334, 0.42525644580982297, 0.16685923007193115),
    ('TNFW', (1.0, 1.0, 400.0), 80.0, 31.94572453602899, 0.0022837784356016418, 0.0002785055091343272),
    ('Hernquist', (1.0, 1.0), 0.003, 5.4020971117175296e-05, 11.00473340531971, 10.004872970476768),
    ('Hernquist', (1.0, 1.0), 0.66, 0.3805686818344543, 1.0593443140993561, 0.5139431355602336),
    ('Hernquist', (1.0, 1.0), 1.0, 0.6137056388801094, 0.6666666666666666, 0.26666666666666666),
    ('Hernquist', (1.0, 1.0), 2.6, 1.504732868180928, 0.1770825799920233, 0.03895456590884341),
    ('Hernquist', (1.0, 1.0), 80.0, 7.416719352162741, 0.00030646031505940477, 2.972422487083189e-06),
    ('PseudoJaffe', (1.0, 0.02, 1.3), 0.003, 4.487241443790681e-06, 0.9943505103986041, 0.988763524986728),
    ('PseudoJaffe', (1.0, 0.02, 1.3), 0.8, 0.024454512191175278, 0.03515434918520633, 0.012075532948572743),
    ('PseudoJaffe', (1.0, 0.02, 1.3), 45.0, 0.1976307782958038, 2.5302465396984994e-05, 1.8819494140143898e-07),
    ('PseudoJaffe', (1.0, 0.9, 1.1), 0.003, 4.4999844525599735e-06, 0.9999930900445736, 0.999986180142903),
    ('PseudoJaffe', (1.0, 0.9, 1.1), 0.8, 0.2617171372908639, 0.6808169208691931, 0.4714388733957801),
    ('PseudoJaffe', (1.0, 0.9, 1.1), 45.0, 6.212066602874451, 0.0009560547993496164, 1.0856074632247841e-05),
    ('SersicMass', (1.0, 1.0, 0.5), 0.003, 8.999985963789052e-06, 1.9999937616883472, 1.9999875233896665),
    ('SersicMass', (1.0, 1.0, 0.5), 0.9, 0.709122737202073, 1.5303900321833155, 1.1407637158684236),
    ('SersicMass', (1.0, 1.0, 0.5), 2.7, 3.1714553468611872, 0.3932719950059438, 0.01277971966496533),
    ('SersicMass', (1.0, 1.0, 0.5), 80.0, 12.947835994106693, 0.0004508422002778011, 0.0),
    ('SersicMass', (1.0, 1.0, 1.0), 0.003, 2.405125686890548e-05, 5.338747102302299, 5.329790593044746),
    ('SersicMass', (1.0, 1.0, 1.0), 0.9, 1.1749639642299112, 2.092705442203265, 1.182741086205743),
    ('SersicMass', (1.0, 1.0, 1.0), 2.7, 4.187604100225838, 0.4906537717536921, 0.05766009823793723),
    ('SersicMass', (1.0, 1.0, 1.0), 80.0, 17.027678086802645, 0.000594269375191098, 2.613063224390234e-58),
    ('SersicMass', (1.0, 1.0, 4.0), 0.003, 0.0023970791097491883, 441.93562179949856, 355.8035330664274),
    ('SersicMass', (1.0, 1.0, 4.0), 0.9, 4.113440664303518, 4.194645047741294, 1.2206356568181735),
    ('SersicMass', (1.0, 1.0, 4.0), 2.7, 9.038634300743203, 0.7562533993486531, 0.11513355642303508),
    ('SersicMass', (1.0, 1.0, 4.0), 80.0, 32.23727912920302, 0.0011271614090336897, 2.3418459362074196e-07),
    ('SersicMass', (1.0, 1.0, 8.0), 0.003, 0.04227344935674365, 5705.576456536247, 3255.93221641364),
    ('SersicMass', (1.0, 1.0, 8.0), 0.9, 8.07610585048774, 5.983835057212044, 1.2275186594290017),
    ('SersicMass', (1.0, 1.0, 8.0), 2.7, 14.600675202181277, 0.9606459166084527, 0.12603560691200816),
    ('SersicMass', (1.0, 1.0, 8.0), 80.0, 45.22471556627894, 0.0015669868985195303, 1.0890568412842386e-05),
]
KINDS = {kind.__name__: kind for kind in (SIS, NFW, TNFW, Hernquist, PseudoJaffe, SersicMass)}
PARAMETERS = {"SIS": (1.3,), "NFW": (0.3, 0.5), "TNFW": (0.3, 0.5, 0.5), "Hernquist": (0.3, 0.5), "PseudoJaffe": (0.9, 0.2, 0.5),
              "SersicMass": (0.3, 0.5, 4.0)}
HOSTILE = (1e-6, 0.1, 0.35, 0.5, 0.5 * (1 - 1e-7), 0.5 * (1 + 1e-7), 1.0, 1.25, 30.0, 1e4)
UNIVERSE = FlatLambdaCDM(H0=70.0, Om0=0.3)


def by_density(density, x, cuts):
    """How the table was made: potential, mean convergence and convergence for unit scales."""
    with mpmath.workdps(40):
        x, root = mpmath.mpf(str(x)), lambda r: mpmath.sqrt((1 - x / r) * (1 + x / r))
        within = [0, *sorted({c for c in (x / 1000, x / 10, x, *cuts) if c <= x})]
        beyond = [*sorted({c for c in (x, 2 * x, 10 * x, 100 * x, *cuts) if c >= x}), mpmath.inf]

        def shells(inner, outer):
            inside = mpmath.quad(lambda r: density(r) * r**2 * inner(r), within)
            return 4 * (inside + mpmath.quad(lambda r: density(r) * r**2 * outer((x / r) ** 2 / (1 + root(r))), beyond))

        mean = shells(lambda r: 1, lambda seen: seen) / x**2
        psi = shells(lambda r: 1 - mpmath.log(2) + mpmath.log(x / r), lambda seen: mpmath.log1p(-seen / 2) + seen)
        sight = mpmath.quad(lambda z: density(mpmath.sqrt(x**2 + z**2)), [*sorted({mpmath.mpf(0), x, 10 * x, 100 * x, *cuts}), mpmath.inf])
        return float(psi), float(mean), float(2 * sight)


def test_the_table_is_what_the_integrals_give():
    tau = mpmath.mpf("6.3")
    row = next(row for row in GOLDEN if row[:3] == ("TNFW", (1.0, 1.0, 6.3), 2.7))
    ours = by_density(lambda r: tau**2 / (r * (1 + r) ** 2 * (tau**2 + r**2)), "2.7", (mpmath.mpf(1), tau))
    assert ours == pytest.approx(row[3:], rel=1e-14)


def radial(kind):
    """Potential, mean convergence and convergence of a vector of parameters and a radius."""

    def answer(v, r):
        lens = KINDS[kind](*v)
        return jnp.stack([lens.radial_potential(r), lens.mean_convergence(r), lens.radial_convergence(r)])

    return answer


@pytest.mark.parametrize("kind", ["NFW", "TNFW", "Hernquist", "PseudoJaffe", "SersicMass"])
def test_golden_values(kind, x64):
    rows = [row for row in GOLDEN if row[0] == kind]
    ours = jax.jit(jax.vmap(radial(kind)))(jnp.array([row[1] for row in rows]), jnp.array([row[2] for row in rows]))
    np.testing.assert_allclose(ours, [row[3:] for row in rows], rtol=2e-11)
    np.testing.assert_allclose(np.asarray(ours)[:, 1], [row[4] for row in rows], rtol=1e-12)


@pytest.mark.parametrize("kind", ["NFW", "TNFW", "Hernquist", "PseudoJaffe", "SersicMass"])
def test_golden_values_in_single_precision(kind):
    rows = [row for row in GOLDEN if row[0] == kind]
    ours = jax.jit(jax.vmap(radial(kind)))(jnp.array([row[1] for row in rows]), jnp.array([row[2] for row in rows]))
    np.testing.assert_allclose(ours, [row[3:] for row in rows], rtol=3e-5, atol=1e-30)
    np.testing.assert_allclose(np.asarray(ours)[:, 1], [row[4] for row in rows], rtol=5e-6)


@functools.cache
def everything(kind):
    """Deflection and convergence with the gradient and Hessian of the potential, of one vector."""
    count = len(PARAMETERS[kind])
    lens = lambda v: KINDS[kind](*v[2 : 2 + count])
    psi = lambda v: lens(v).potential(v[0], v[1])
    smooth = lambda v: jnp.stack([psi(v), *lens(v).deflection(v[0], v[1])])
    kappa = lambda v: lens(v).convergence(v[0], v[1])

    def answer(v):
        position = lambda p: psi(v.at[:2].set(p))
        return smooth(v), kappa(v), jax.grad(position)(v[:2]), jax.hessian(position)(v[:2]), jax.jacrev(smooth)(v), jax.grad(kappa)(v)

    return jax.jit(jax.vmap(answer))


def vectors(kind, radii):
    return jnp.array([(0.6 * r, -0.8 * r, *PARAMETERS[kind]) for r in radii])


@pytest.mark.parametrize("kind", KINDS)
def test_three_functions_are_one(kind, x64):
    found = everything(kind)(vectors(kind, (*HOSTILE, 0.0)))
    smooth, kappa, gradient, hessian, jacobian, _ = (part[:-1] for part in found)
    np.testing.assert_allclose(smooth[:, 1:], gradient, rtol=1e-11)
    # Twice differentiated, a rounding of the deflection counts beside what is left of it far outside.
    np.testing.assert_allclose(kappa, jnp.trace(hessian, axis1=1, axis2=2) / 2, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(jacobian[:, 1:, :2], hessian, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_convergence_of_a_cusp_is_infinite(kind, precise):
    with jax.enable_x64(precise):
        smooth, kappa, *derivatives = everything(kind)(vectors(kind, (*HOSTILE, 0.0)))
        for part in (smooth, kappa[:-1], *derivatives):
            assert np.isfinite(part).all()
        assert kappa[-1] == jnp.inf or kind in ("PseudoJaffe", "SersicMass")
        np.testing.assert_array_equal(smooth[-1], np.zeros(3))


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_parameters(kind, x64):
    v, count = jnp.array((0.33, -0.44, *PARAMETERS[kind])), len(PARAMETERS[kind])
    if kind == "TNFW":
        v = v.at[-1].set(0.7)

    def answer(v):
        lens = KINDS[kind](*v[2 : 2 + count])
        return jnp.stack([lens.potential(v[0], v[1]), *lens.deflection(v[0], v[1]), lens.convergence(v[0], v[1])])

    difference = jax.jit(jax.vmap(lambda step: (answer(v + step) - answer(v - step)) / 2e-5, out_axes=1))(1e-5 * jnp.eye(len(v)))
    np.testing.assert_allclose(jax.jit(jax.jacrev(answer))(v), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("x", [0.7 - 1e-12, 0.7, 0.999999, 1.0, 1.0000001, 2.0, 2.5])
def test_seams_are_smooth_in_high_derivatives(x, x64):
    def exact(x):
        t = 1 - x**2
        whole = mpmath.hyp2f1(1, 0.5, 1.5, t)
        log = mpmath.log(x / 2)
        return whole, mpmath.hyp2f1(1, 1.5, 2.5, t) / 3, mpmath.hyp2f1(1, 2.5, 3.5, t) / 5, (whole + log) / x**2, log**2 - t * whole**2

    ours = jax.jit(jax.jacfwd(jax.jacfwd(lambda x: jnp.stack([f(x) for f in (projection, excess, second_excess, enclosed, well)]))))
    with mpmath.workdps(40):
        theirs = [float(mpmath.diff(lambda u, k=k: exact(u)[k], mpmath.mpf(x), 2)) for k in range(5)]
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs, rtol=2e-10)


def test_a_truncation_far_outside_leaves_an_nfw_halo(x64):
    r = jnp.geomspace(1e-3, 30.0, 40)
    for r_t, bound in ((1e4, 1e-4), (1e8, 1e-11), (1e12, 1e-11)):
        whole, cut = NFW(0.3, 0.5), TNFW(0.3, 0.5, r_t)
        for name in ("radial_potential", "mean_convergence", "radial_convergence"):
            np.testing.assert_allclose(getattr(cut, name)(r), getattr(whole, name)(r), rtol=bound)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-2, 1e3))
def test_truncation_takes_mass_away(x, tau):
    x, tau = np.float32(x), np.float32(tau)
    cut, whole = masses(x, tau)
    assert 0 < cut[1] <= cut[0] * (1 + 1e-5) and cut[0] <= whole * (1 + 1e-5)


@jax.jit
def masses(x, tau):
    halo = TNFW(1.0, 1.0, tau)
    return jnp.stack([halo.mean_convergence(x), halo.radial_convergence(x)]), NFW(1.0, 1.0).mean_convergence(x)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 3.0), st.floats(0.05, 0.95))
def test_two_images_of_an_isothermal_sphere_add_up_to_two(theta_E, offset):
    assert signed_sum(np.float32(theta_E), np.float32(offset)) == pytest.approx(2.0, abs=2e-3)


@jax.jit
def signed_sum(theta_E, offset):
    mapping = lambda p: p - jnp.stack(SIS(theta_E).deflection(p[0], p[1]))
    pair = jnp.stack([jnp.stack([theta_E * (offset + side), jnp.zeros_like(offset)]) for side in (1, -1)])
    return jnp.sum(1 / jnp.linalg.det(jax.vmap(jax.jacfwd(mapping))(pair)))


def test_isothermal_sphere():
    lens = SIS.from_velocity_dispersion(220.0, 0.3, 1.0, UNIVERSE, center_x=0.1)
    d_s, d_ls = UNIVERSE.angular_diameter_distance(1.0), UNIVERSE.angular_diameter_distance_z1z2(0.3, 1.0)
    assert float(lens.theta_E) == pytest.approx(4 * np.pi * (220 / 299792.458) ** 2 * float(d_ls / d_s) * 206264.80625, rel=1e-5)
    assert float(lens.mean_convergence(lens.theta_E)) == pytest.approx(1.0, rel=1e-6)
    ellipsoid = SIE.from_velocity_dispersion(220.0, 0.3, 1.0, UNIVERSE, e1=0.2, center_x=0.1)
    assert ellipsoid.theta_E == lens.theta_E and ellipsoid.e1 == np.float32(0.2) and ellipsoid.center_x == np.float32(0.1)
    assert dispersion_einstein_radius(jnp.array([100.0, 200.0]), 0.3, 1.0, UNIVERSE).shape == (2,)
    assert float(jax.grad(lambda s: SIS.from_velocity_dispersion(s, 0.3, 1.0, UNIVERSE).theta_E)(220.0)) > 0


def test_masses_come_back(x64):
    M200, c200, z_l, z_s = 3e12, 7.0, 0.4, 1.7
    universe = FlatLambdaCDM(H0=70.0, Om0=0.3)
    halo = NFW.from_mass(M200, c200, z_l, z_s, universe)
    scale = halo.r_s * universe.angular_diameter_distance(z_l) / RADIAN
    density = halo.kappa_s * universe.critical_surface_density(z_l, z_s) / scale
    node, weight = np.polynomial.legendre.leggauss(40)
    x = c200 * (node + 1) / 2
    inside = float(4 * np.pi * density * scale**3) * np.sum(x / (1 + x) ** 2 * weight) * c200 / 2
    assert inside == pytest.approx(M200, rel=1e-10)
    edge = float(virial_radius(M200, z_l, universe))
    assert edge == pytest.approx(c200 * float(scale), rel=1e-12)
    assert inside / (4 / 3 * np.pi * edge**3) == pytest.approx(200 * float(universe.critical_density(z_l)), rel=1e-10)

    tau = 5.0
    cut = TNFW.from_mass(M200, c200, tau, z_l, z_s, universe)
    far = 1e7 * cut.r_t
    unit = universe.critical_surface_density(z_l, z_s) * (universe.angular_diameter_distance(z_l) / RADIAN) ** 2
    whole = tau**2 * ((tau**2 - 1) * np.log(tau) + np.pi * tau - tau**2 - 1) / (tau**2 + 1) ** 2
    seen = float(np.pi * far**2 * cut.mean_convergence(far) * unit)
    assert seen == pytest.approx(M200 * whole / (np.log1p(c200) - c200 / (1 + c200)), rel=1e-5)


def test_halos_many_at_a_time_and_concentrations():
    mass = jnp.array([1e9, 1e12, 1e15])
    concentration = duffy2008_concentration(mass, 0.5, UNIVERSE)
    np.testing.assert_allclose(concentration, 5.71 * (np.asarray(mass) * 0.7 / 2e12) ** -0.084 * 1.5**-0.47, rtol=1e-5)
    kappa_s, r_s = nfw_scales(mass, concentration, 0.5, 2.0, UNIVERSE)
    assert kappa_s.shape == r_s.shape == (3,) and np.isfinite(kappa_s).all() and np.isfinite(r_s).all()


def test_mass_sheet():
    sheet = MassSheet(kappa=0.3, center_x=0.2, center_y=-0.1)
    np.testing.assert_allclose(jnp.stack(sheet.deflection(1.2, 0.4)), [0.3, 0.15], rtol=1e-6)
    assert float(sheet.potential(1.2, 0.4)) == pytest.approx(0.15 * 1.25) and sheet.convergence(jnp.zeros(3), 0.0).shape == (3,)
    gradient = jax.grad(lambda p: sheet.potential(p[0], p[1]))(jnp.array([0.2, -0.1]))
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("make, named", [
    (lambda: SIS(theta_E=-1.0), "theta_E"),
    (lambda: NFW(kappa_s=0.1, r_s=0.0), "r_s"),
    (lambda: TNFW(kappa_s=0.1, r_s=1.0, r_t=0.0), "r_t"),
    (lambda: Hernquist(sigma0=-0.1, r_s=1.0), "sigma0"),
    (lambda: PseudoJaffe(sigma0=0.1, Ra=-0.1, Rs=1.0), "Ra"),
    (lambda: PseudoJaffe(sigma0=0.1, Ra=1.0, Rs=1.0), "Rs"),
    (lambda: SersicMass(kappa_e=0.1, R_e=1.0, n=0.05), "n"),
    (lambda: NFW.from_mass(-1e12, 5.0, 0.3, 1.0, UNIVERSE), "M200"),
    (lambda: NFW.from_mass(1e12, 0.0, 0.3, 1.0, UNIVERSE), "c200"),
    (lambda: NFW.from_mass(1e12, 5.0, 1.0, 0.3, UNIVERSE), "behind"),
])
def test_what_cannot_be_is_refused(make, named):
    with pytest.raises(InputError, match=named):
        make()


def test_what_cannot_be_is_nan_where_traced():
    lens = jax.jit(lambda a, b: jnp.stack([PseudoJaffe(1.0, a, b).potential(0.3, 0.1), *PseudoJaffe(1.0, a, b).deflection(0.3, 0.1),
                                           PseudoJaffe(1.0, a, b).convergence(0.3, 0.1)]))
    assert np.isnan(lens(0.5, 0.4)).all() and np.isnan(lens(0.5, 0.5)).all() and np.isnan(lens(-0.1, 0.5)).all()
    np.testing.assert_array_equal(lens(0.0, 0.5), 0.0)
    slope = jax.jit(jax.jacfwd(lens))(0.0, 0.5)
    assert np.isfinite(slope).all() and slope[3] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_any_shapes_that_broadcast(kind):
    lens = KINDS[kind](*PARAMETERS[kind])
    x, y = jnp.linspace(-1.0, 1.0, 4)[None, :], jnp.linspace(-1.0, 1.0, 3)[:, None]
    assert lens.potential(x, y).shape == lens.deflection(x, y)[0].shape == lens.convergence(x, y).shape == (3, 4)
    assert lens.potential(1, 0).shape == ()


@jax.jit
def both_ways(r_s, r_t, x, y):
    """Deflection of a halo, and of the polynomial of its outskirts."""
    halo = TNFW(0.3, r_s, r_t, 0.2, -0.1)
    return jnp.stack(halo.deflection(x, y)), jnp.stack(halo.distant().deflection(x, y))


@settings(max_examples=60, deadline=None)
@given(tau=st.floats(0.02, 300.0), r_s=st.floats(0.01, 3.0), out=st.floats(0.0, 5.0), angle=st.floats(0.0, 6.2))
def test_outskirts_are_the_same_halo(tau, r_s, out, angle):
    with jax.enable_x64(True):
        r = r_s * max(1.0, tau / 3) * (1 + 1e-9) * 10**out * np.array([1.0, 1.7])
        exact, outer = both_ways(r_s, tau * r_s, 0.2 + r * np.cos(angle), -0.1 + r * np.sin(angle))
        np.testing.assert_allclose(outer, exact, rtol=2e-12, atol=1e-13 * r_s)


def test_outskirts_hold_in_single_precision():
    for tau in (0.05, 1.0, 7.0, 200.0):
        x = 1.001 * max(0.4, 0.4 * tau / 3) * np.geomspace(1, 1e4, 200)
        quick = TNFW(0.3, 0.4, 0.4 * tau).distant()
        with jax.enable_x64(True):
            exact = TNFW(0.3, 0.4, 0.4 * tau).deflection(jnp.asarray(np.float32(x), dtype=float), 0.0)[0]
        np.testing.assert_allclose(quick.deflection(jnp.asarray(x, dtype=float), jnp.zeros(200))[0], exact, rtol=2e-6)


def test_the_outskirts_have_the_derivatives_of_the_halo(x64):
    halo = TNFW(0.3, 0.4, 1.0, 0.1, 0.2)
    x, y = jnp.array([2.0, 30.0]), jnp.array([-1.0, 4.0])

    def bent(values, x, y, distant):
        one = jax.tree.unflatten(jax.tree.structure(halo), values)
        return jnp.stack((one.distant() if distant else one).deflection(x, y))

    slopes = jax.jit(jax.jacrev(bent, argnums=(0, 1, 2)), static_argnums=3)
    exact, quick = (slopes(jax.tree.leaves(halo), x, y, distant) for distant in (False, True))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(quick)):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 6, 8, 32])
def test_halos_near_and_far_in_any_order_are_one_sum(x64, monkeypatch, chunk):
    monkeypatch.setattr("lensnb.simulator.mass.halos.MANY", 50)
    rng = np.random.default_rng(5)
    away = rng.permutation(np.where(np.arange(21) < 13, 40.0, 0.3))  # groups all near, all far and mixed
    fields = dict(kappa_s=rng.uniform(0.01, 0.2, 21), r_s=rng.uniform(0.02, 0.3, 21), r_t=np.full(21, 0.4), center_x=away, center_y=-away)
    weight = rng.integers(0, 2, 21) * rng.uniform(0.5, 2.0, 21)
    x, y = jnp.asarray(rng.uniform(-1, 1, (2, 50)))
    halos = Halos.of(TNFW, weight=weight, chunk=chunk, **fields)
    both = lambda mass, x, y: jnp.stack([*mass.deflection(x, y), mass.potential(x, y)])
    single, together = jax.jit(lambda mass, x, y: both(mass, x, y)), jax.jit(lambda mass, x, y: both(mass, x, y))
    one_by_one = sum(w * np.asarray(single(TNFW(*values), x, y)) for w, values in zip(weight, zip(*fields.values())))
    np.testing.assert_allclose(together(halos, x, y), one_by_one, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("number, together", [("deflection", 1), ("deflection", 4), ("potential", 1), ("convergence", 4)])
def test_halos_by_loop_by_vmap_and_in_blocks_are_one_sum(x64, monkeypatch, number, together):
    monkeypatch.setattr("lensnb.simulator.mass.halos.together", lambda n: min(n, together))
    rng = np.random.default_rng(4)
    fields = dict(kappa_s=rng.uniform(0.01, 0.2, 21), r_s=rng.uniform(0.02, 0.3, 21), r_t=np.full(21, 0.4),
                  center_x=rng.normal(0, 1, 21), center_y=rng.normal(0, 1, 21))
    weight = rng.integers(0, 3, 21).astype(float)
    x, y = (jnp.asarray(a) for a in np.meshgrid(np.linspace(-3, 3, 120), np.linspace(-2, 2, 110)))  # more than one block of rays
    single = jax.jit(lambda row: jnp.stack(jax.tree.leaves(getattr(TNFW(**row), number)(x, y))))
    one_by_one = sum(w * single({name: value[k] for name, value in fields.items()}) for k, w in enumerate(weight))
    chunk = 7 + together  # another chunk is another program: one compiled before would not know of the patch
    many = jax.jit(lambda x, y: jnp.stack(jax.tree.leaves(getattr(Halos.of(TNFW, chunk=chunk, weight=weight, **fields), number)(x, y))))
    np.testing.assert_allclose(many(x, y), one_by_one, rtol=1e-10, atol=1e-12)


def test_derivatives_of_halos_are_those_of_each(x64):
    kappa, centre = jnp.array([0.1, 0.2, 0.15, 0.3, 0.05]), jnp.array([0.1, -0.2, 0.3, 2.0, -1.5])

    def many(kappa, centre, weight, x):
        lens = Halos.of(TNFW, kappa_s=kappa, r_s=jnp.full(5, 0.2), r_t=jnp.full(5, 0.5), center_x=centre, weight=weight, chunk=2)
        return sum(jnp.sum(jnp.sin(a)) for a in lens.deflection(x, 0.3 * x))

    def each(kappa, centre, weight, x):
        bent = jax.vmap(lambda k, c, w: w * jnp.stack(TNFW(k, 0.2, 0.5, c).deflection(x, 0.3 * x)))(kappa, centre, weight)
        return jnp.sum(jnp.sin(jnp.sum(bent, axis=0)))

    arguments = kappa, centre, jnp.array([1.0, 0.5, 2.0, 1.0, 1.0]), jnp.array([0.4, -0.1, 3.0])
    for derivatives in (jax.grad, jax.hessian):
        found, expected = (jax.jit(derivatives(of, (0, 1, 2, 3)))(*arguments) for of in (many, each))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_a_halo_switched_off_spoils_no_gradient(x64):
    def light(weight):
        return Halos.of(NFW, kappa_s=jnp.full(3, 0.1), r_s=0.3, center_x=jnp.array([0.0, 1.0, 2.0]), weight=weight).convergence(0.0, 0.0)

    weight = jnp.array([0.0, 1.0, 0.5])  # the ray is on the centre of the first, where its convergence is infinite
    value, slope = jax.jit(jax.value_and_grad(light))(weight)
    each = [float(NFW(0.1, 0.3, c).convergence(0.0, 0.0)) for c in (1.0, 2.0)]
    assert float(value) == pytest.approx(each[0] + 0.5 * each[1], rel=1e-12)
    np.testing.assert_allclose(slope, [0.0, *each], rtol=1e-12)
