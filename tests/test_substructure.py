"""Dark halos against values obtained elsewhere, their draws against integrals, and what must be refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest

from lensnb.core import InputError
from lensnb.simulator.cosmology import FlatLambdaCDM, Flatw0waCDM
from lensnb.simulator.mass import SIE
from lensnb.simulator.substructure import (
    BrokenPowerLaw,
    CoredNFW,
    LinearPower,
    LineOfSight,
    PowerLaw,
    Subhalos,
    Suppressed,
    Suppression,
    Tabulated,
    UniformDisc,
    half_mode_mass,
    kpc_per_arcsec,
    sigma_sub_of_fraction,
    subhalo_fraction,
)
from lensnb.simulator.substructure.field import halo_bias, log_field_rate
from lensnb.simulator.substructure.mass_function import quantile

LAW = dict(slope=-1.9, m_low=1e6, m_high=1e10)


def universe():
    return FlatLambdaCDM(H0=70.0, Om0=0.3)


# ---- mass functions


@settings(max_examples=40, deadline=None)
@given(slope=st.sampled_from([-3.0, -2.0, -2.0 + 1e-5, -1.9, -1.0, -1.0 - 1e-5, 0.0, 1.5]), low=st.floats(4, 8), width=st.floats(0.01, 5), u=st.floats(0, 1))
def test_a_power_law_is_integrated_exactly(slope, low, width, u):
    with jax.enable_x64(True):
        law = PowerLaw(3.0, slope, 10**low, 10 ** (low + width))
        a, b = float(law.m_low), float(law.m_high)
        exact = lambda p: 3.0 / 1e8 * quad(lambda t: np.exp(t * (1 + p)) * np.exp(slope * (t - np.log(1e8))), np.log(a), np.log(b), epsrel=1e-12)[0]
        assert float(law.number()) == pytest.approx(exact(0), rel=1e-8)
        assert float(law.mass()) == pytest.approx(exact(1), rel=1e-8)
        m = quantile(law, jnp.asarray([u]))[0]
        assert a * (1 - 1e-12) <= float(m) <= b * (1 + 1e-12)
        assert float(law.number(a, m)) == pytest.approx(u * float(law.number()), rel=1e-6, abs=1e-9 * float(law.number()))


def test_a_broken_power_law_against_quadrature(x64):
    law = BrokenPowerLaw(2.0, -1.2, -2.3, 3e7, 1e6, 1e10)
    pieces = [quad(lambda t: np.exp(t) * float(law.density(np.exp(t))), a, b)[0] for a, b in zip(np.log([1e6, 3e7]), np.log([3e7, 1e10]))]
    assert float(law.number(1e6, 3e7)) == pytest.approx(pieces[0], rel=1e-7)
    assert float(law.number()) == pytest.approx(sum(pieces), rel=1e-7)
    outside = BrokenPowerLaw(2.0, -1.2, -2.3, 1e5, 1e6, 1e10)  # the break below all masses
    assert float(outside.number()) == pytest.approx(float(PowerLaw(2.0, -2.3, 1e6, 1e10, m_0=1e5).number()), rel=1e-10)


def test_masses_and_counts_are_differentiable():
    key, step = jax.random.key(0), 1e-2

    def answers(parameters):
        law = Suppressed(PowerLaw(1.0, parameters[0], 1e6, 1e10), Suppression.lovell2020(parameters[1]))
        return jnp.stack([jnp.log(law.number()), jnp.log(law.mass()), jnp.log(law.sample(key, (50,))).mean()])

    both = jax.jit(lambda at: (answers(at), jax.jacrev(answers)(at)))
    at, bump = jnp.array([-1.9, 1e8]), jnp.array([step, 0.0])
    slope = both(at)[1][:, 0]
    np.testing.assert_allclose(slope, (both(at + bump)[0] - both(at - bump)[0]) / (2 * step), rtol=1e-2)
    for special in ([-2.0, 1e8], [-1.0, 1e8], [-1.9, 0.0], [-1.0, 0.0]):  # slopes with closed forms of their own, and no suppression
        assert np.all(np.isfinite(both(jnp.array(special))[1]))


def test_drawn_masses_follow_the_suppressed_law():
    law, fit = PowerLaw(1.0, **LAW), Suppression.lovell2020_field(3e8)
    drawn = np.asarray(Suppressed(law, fit).sample(jax.random.key(3), (20_000,)), dtype=float)
    t = np.linspace(np.log(1e6), np.log(1e10), 20_001)
    rate = np.exp(-0.9 * t) * (1 + (2.3 * 3e8 / np.exp(t)) ** 0.8) ** -1.0  # written out again
    below = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    assert kstest(np.log(drawn), lambda x: np.interp(x, t, below / below[-1])).pvalue > 1e-3
    cold = np.exp(-0.9 * t)
    assert kstest(np.log(drawn), lambda x: np.interp(x, t, np.cumsum(cold) / cold.sum())).pvalue < 1e-6  # it could have failed


def test_a_table_is_made_of_any_density():
    table = Tabulated.of(lambda m: m**-1.9 * jnp.exp(-m / 1e9), 1e6, 1e10, knots=128)
    exact = quad(lambda t: np.exp(-0.9 * t - np.exp(t) / 1e9), np.log(1e6), np.log(1e10))[0]
    assert float(table.number()) == pytest.approx(exact, rel=2e-3)


# ---- the field

# colossus 1.4.0 (growth; sigma and P(k) of its model eisenstein98_zb, Eisenstein & Hu's form without wiggles) and hmf 3.5.2
# (transfer EH_NoBAO, fit ST), H0 = 70, Om0 = 0.3, Ob0 = 0.048, sigma8 = 0.82, n_s = 0.96, T_cmb = 2.7255.
MASSES = [1e7, 1e8, 1e9, 1e10, 1e13]
COLOSSUS_SIGMA = [6.86602028, 5.7915146, 4.77583482, 3.83032628, 1.54540715]
HMF_SIGMA = [6.86463902, 5.79019426, 4.77479902, 3.82964863, 1.54509931]
COLOSSUS_GROWTH = [0.77318775, 0.61181664, 0.42145046]                                                 # z = 0.5, 1, 2
COLOSSUS_POWER = [1.60681466e4, 1.00392169e4, 8.28814133e1, 2.48416793e-1, 4.81993649e-4]              # k = 1e-3, 0.1, 1, 10, 100 [1/Mpc]
HMF_RATE = {0.0: [5.28066237e1, 6.50702618, 8.17861862e-1, 1.04838789e-1, 2.18756421e-4],              # dn / dln M [1/Mpc^3]
            1.5: [7.47821142e1, 9.06406994, 1.10419562, 1.33263689e-1, 1.02188953e-4]}
COLOSSUS_XI = [1.60876039, 0.37497521, 0.05120605]                                                     # r = 3, 10, 30 Mpc, z = 0.5


@pytest.fixture
def power(x64):
    return LinearPower(universe(), Ob0=0.048, sigma8=0.82, n_s=0.96, T_cmb=2.7255)


def test_the_linear_power_of_two_other_codes(power):
    sigma = power.sigma(jnp.asarray(MASSES))
    np.testing.assert_allclose(sigma, COLOSSUS_SIGMA, rtol=3e-4)
    np.testing.assert_allclose(sigma, HMF_SIGMA, rtol=3e-4)
    np.testing.assert_allclose(power.power(jnp.array([1e-3, 0.1, 1.0, 10.0, 100.0])), COLOSSUS_POWER, rtol=1e-3)
    np.testing.assert_allclose(power.growth(jnp.array([0.5, 1.0, 2.0])), COLOSSUS_GROWTH, rtol=3e-5)
    xi = power.correlation(jnp.array([3.0, 10.0, 30.0])) * power.growth(0.5) ** 2
    np.testing.assert_allclose(xi, COLOSSUS_XI, rtol=1e-2)


def test_the_mass_function_of_another_code(power):
    rate = np.exp(log_field_rate(power, jnp.log(jnp.asarray(MASSES)), jnp.array([0.0, 1.5])))
    np.testing.assert_allclose(rate, list(HMF_RATE.values()), rtol=1.2e-2)  # that code differentiates and interpolates on a grid
    colossus = np.array([1.06070138, 1.53714702])  # bias of Sheth, Mo & Tormen (2001) at 7e11 Msun/h and ten times that, z = 0.5
    nu = 1.686 / (power.sigma(jnp.array([1e12, 1e13])) * power.growth(0.5))
    np.testing.assert_allclose(halo_bias(nu), colossus, rtol=6e-3)  # theirs of the spectrum with wiggles


def test_growth_with_evolving_dark_energy(x64):
    universe = Flatw0waCDM(H0=70.0, Om0=0.3, w0=-0.8, wa=-0.4)
    rate = lambda a: (0.3 * a**-3 / float(universe.efunc(1 / a - 1)) ** 2) ** (0.55 + 0.02 * (1 + -0.8 + -0.4 / 2))  # Linder (2005)
    expected = np.exp(-quad(lambda t: rate(np.exp(t)), -np.log(2.0), 0, epsrel=1e-5)[0])
    assert float(LinearPower(universe).growth(1.0)) == pytest.approx(expected, rel=3e-3)


def test_half_mode_mass_of_a_thermal_relic():
    assert float(half_mode_mass(3.0, universe())) == pytest.approx(5e8, rel=0.15)  # Gilman et al. (2020) quote 5e8
    ratio = float(half_mode_mass(2.0, universe()) / half_mode_mass(4.0, universe()))
    assert ratio == pytest.approx(2**3.33, rel=1e-4)


# ---- draws


def subhalos(sigma_sub=0.05, slope=-1.9, m_hm=0.0, n_max=128, places=None):
    masses = Suppressed(PowerLaw(sigma_sub, slope, 1e8, 1e10), Suppression.lovell2020(m_hm))
    return Subhalos(masses, places or UniformDisc(radius=15.0), 0.5, 1.5, universe(), n_max=n_max)


@eqx.filter_jit
def drawn(keys, sigma_sub, slope, m_hm):
    return jax.lax.map(lambda one: subhalos(*one[1:]).draw(one[0]), (keys, sigma_sub, slope, m_hm))


def test_a_training_set_is_one_call_and_its_numbers_are_the_integrals():
    n = 600
    parameters = [np.repeat(values, n // 3) for values in ([0.02, 0.05, 0.08], [-1.9, -1.8, -2.0], [0.0, 1e8, 3e8])]
    found = drawn(jax.random.split(jax.random.key(1), n), *(jnp.asarray(p, dtype=float) for p in parameters))
    assert found.halos.weight.shape == (n, 128) and int(found.lost.sum()) == 0
    for k in range(3):
        rows = slice(k * n // 3, (k + 1) * n // 3)
        model = subhalos(*(float(p[rows][0]) for p in parameters))
        count, mass = np.asarray(found.count)[rows], np.asarray(found.total_mass())[rows]
        expected = float(model.expected())
        assert abs(count.mean() - expected) < 4 * (expected / len(count)) ** 0.5
        assert abs(mass.mean() - float(model.expected_mass())) < 4 * mass.std() / len(mass) ** 0.5
        assert np.array_equal(np.asarray(found.halos.weight)[rows].sum(1), count)
    assert abs(found.count[: n // 3].mean() - found.count[-n // 3 :].mean()) > 5


def test_drawn_positions_on_the_sky():
    found = drawn(jax.random.split(jax.random.key(2), 600), jnp.full(600, 0.05), jnp.full(600, -1.9), jnp.zeros(600))
    mask, halo = np.asarray(found.mask), found.halos.profile
    radius = np.hypot(np.asarray(halo.center_x), np.asarray(halo.center_y))[mask]
    edge = 15.0 / float(kpc_per_arcsec(0.5, universe()))
    assert kstest((radius / edge) ** 2, "uniform").pvalue > 1e-3
    assert kstest(np.arctan2(np.asarray(halo.center_y)[mask], np.asarray(halo.center_x)[mask]), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3


def test_a_cored_host_in_projection():
    host = CoredNFW(radius=60.0, r_core=10.0, r_s=30.0, r_max=200.0)
    x, y, r = (np.asarray(a, dtype=float) for a in jax.jit(lambda key: host.sample(key, 20_000))(jax.random.key(4)))
    R = np.linspace(0.01, 60, 400)
    density = lambda r: 1 / (np.maximum(r, 10) / 30 * (1 + np.maximum(r, 10) / 30) ** 2)
    z = np.linspace(0, 200, 4001)
    column = [np.trapezoid(np.where(np.hypot(a, z) < 200, density(np.hypot(a, z)), 0), z) for a in R]
    below = np.concatenate([[0], np.cumsum((R * column)[1:] + (R * column)[:-1])])
    assert kstest(np.hypot(x, y), lambda v: np.interp(v, R, below / below[-1])).pvalue > 1e-3
    assert np.all(r <= 200.1) and np.all(r >= np.hypot(x, y) - 1e-3)


def test_what_finds_no_place_is_counted():
    found = drawn(jax.random.split(jax.random.key(5), 600), jnp.full(600, 0.2), jnp.full(600, -1.9), jnp.zeros(600))
    expected = 4 * float(subhalos(0.05).expected())
    assert expected > 140 and np.all(np.asarray(found.count) <= 128) and np.all(np.asarray(found.halos.weight).sum(1) <= 128)
    total = np.asarray(found.count + found.lost)
    assert abs(total.mean() - expected) < 4 * (expected / 600) ** 0.5


def test_a_draw_is_differentiable_in_what_is_continuous():
    def scales(sigma_sub, slope, m_hm):
        halos = subhalos(sigma_sub, slope, m_hm).draw(jax.random.key(6)).halos
        return jnp.sum(halos.weight * (halos.profile.kappa_s + halos.profile.r_t))

    grads = jax.jit(jax.grad(scales, (0, 1, 2)))(0.05, -1.9, 0.0)
    assert np.all(np.isfinite(grads)) and grads[0] == 0 and grads[1] != 0  # the number is discrete


def test_fractions_and_normalisations_are_inverse():
    masses = PowerLaw(1.0, **LAW)
    sigma = sigma_sub_of_fraction(0.01, masses, 0.5, 0.5, 1.5, universe())
    again = subhalo_fraction(eqx.tree_at(lambda law: law.normalisation, masses, sigma), 0.5, 0.5, 1.5, universe())
    assert float(again) == pytest.approx(0.01, rel=1e-5)


# ---- the line of sight

WAY = dict(z_front=[0.3], z_l=0.5, z_behind=[0.9], z_s=1.5, m_low=1e8, m_high=1e10, angle=3.0, chunk=8)


@pytest.fixture(scope="module")
def sight():
    return LineOfSight.of(LinearPower(universe()), **WAY)


def test_counts_along_the_line_of_sight(sight):
    power, cosmology = LinearPower(universe()), universe()
    log_m = jnp.linspace(np.log(1e8), np.log(1e10), 48)
    rate = np.exp(log_field_rate(power, log_m, jnp.array([0.3, 0.9])))
    chi = lambda z: float(cosmology.comoving_distance(z))
    base = np.pi * (3.0 / 206264.8 * chi(0.5)) ** 2 / 3
    cones = np.array([base * chi(0.5), base * (chi(1.5) - chi(0.5))])  # of a flat universe, in closed form
    expected = np.trapezoid(rate, log_m) * cones
    np.testing.assert_allclose(sight.expected(), expected, rtol=2e-3)
    keys = jax.random.split(jax.random.key(0), 500)
    many = eqx.filter_jit(lambda sight, keys: jax.vmap(lambda key: sight.draw(key))(keys))(sight, keys)
    found = np.stack([population.count for population in many.populations], axis=1)
    assert np.all(np.abs(found.mean(0) - expected) < 4 * np.sqrt(expected / 500))
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(sight.draw(keys[1]))):  # a batch is its members
        np.testing.assert_allclose(np.asarray(a)[1], b, rtol=2e-5, atol=1e-6)


def test_sheets_take_the_mean_away_and_can_be_left_out(sight):
    drawn = sight.draw(jax.random.key(1))
    galaxy = (SIE(theta_E=1.0),)
    planes = drawn.planes(galaxy)
    assert [len(profiles) for _, profiles in planes] == [2, 1, 2] and [round(float(z), 3) for z, _ in planes] == [0.3, 0.5, 0.9]
    bare = eqx.tree_at(lambda d: d.sheet, drawn, None).planes(galaxy)
    assert [len(profiles) for _, profiles in bare] == [1, 1, 1]
    assert np.all(np.asarray(drawn.sheet) < 0) and float(planes[0][1][1].kappa) == float(drawn.sheet[0])


# ---- what is refused


@pytest.mark.parametrize("make, says", [
    (lambda: PowerLaw(1.0, -1.9, 1e10, 1e6), "m_low"),
    (lambda: PowerLaw(-1.0, **LAW), "normalisation"),
    (lambda: Suppression(-1e8), "m_hm"),
    (lambda: Subhalos(PowerLaw(0.05, -1.9, 1e8, 1e10), UniformDisc(radius=15.0), 1.5, 0.5, universe(), n_max=128), "behind the lens"),
    (lambda: subhalos(0.05, n_max=30), "give n_max"),
    (lambda: LineOfSight.of(LinearPower(universe()), **WAY | dict(z_l=1.6)), "ascending"),
    (lambda: LineOfSight.of(LinearPower(universe()), **WAY | dict(n_max=(64,))), "one for each"),
    (lambda: LineOfSight.of(LinearPower(universe()), **WAY | dict(n_max=(2, 64))), "plane 0"),
    (lambda: LineOfSight.of(LinearPower(universe()), **WAY | dict(angle=-1.0)), "angle"),
])
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_what_is_wrong_and_traced_is_nan():
    def number(sigma_sub, m_hm):
        found = subhalos(sigma_sub, -1.9, m_hm).draw(jax.random.key(0))
        return jnp.sum(found.halos.weight * found.halos.profile.kappa_s)

    number = jax.jit(number)
    assert np.isfinite(number(0.05, 1e8)) and np.isnan(number(-0.05, 1e8)) and np.isnan(number(0.05, -1e8))
