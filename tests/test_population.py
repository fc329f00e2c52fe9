"""Populations of lenses: distances and bounds behind the draws, draws that begin alike, tables that give back what they were given."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.table import Table

from lensnb.core import InputError
from lensnb.simulator.cosmology import FlatLambdaCDM, LambdaCDM
from lensnb.simulator.dataset import write_dataset
from lensnb.simulator.mass.sis import dispersion_einstein_radius
from lensnb.simulator.noise import SkyPoissonNoise
from lensnb.simulator.population import (Catalogue, FaintGalaxies, GalaxyLens, GalaxyLenses, LensedQuasar, LensedQuasars, PopulationSimulator,
                                         from_table, margins, surveyed_by, to_table)
from lensnb.simulator.population.deflectors import Deflectors, rayleigh_ellipticity
from lensnb.simulator.population.lenses import WAVELENGTHS, measured, seeing
from lensnb.simulator.population.pairs import aligned, looked_up_distances, one_batch, take
from lensnb.simulator.psf import gaussian_psf
from lensnb.simulator.telescope import EUCLID_VIS, HST_ACS_F814W, HST_WFC3_F814W, JWST_F150W, LSST_I, LSST_I_VISIT, ROMAN_F129, Telescope


@pytest.fixture(scope="module")
def lsst():
    return surveyed_by(LSST_I, (32, 32), candidates=2048, room=64)


@pytest.fixture(scope="module")
def found(lsst):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return lsst.draw(jax.random.key(3), 8)


@pytest.mark.parametrize("cosmology", [FlatLambdaCDM(70.0, 0.3), LambdaCDM(70.0, 0.3, 0.6)], ids=["flat", "curved"])
def test_distances_read_off_a_table_are_those_of_the_integral(cosmology):
    z_l, z_s = jnp.asarray([0.05, 0.3, 1.2, 1.9]), jnp.asarray([0.2, 2.0, 1.3, 6.5])
    for found, expected in zip(looked_up_distances(cosmology, z_l, z_s), cosmology.lens_distances(z_l, z_s), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_pairs_are_in_order_and_have_their_einstein_radius():
    universe = FlatLambdaCDM(70.0, 0.3)
    z_s = jnp.linspace(0.05, 4.0, 4000)
    lens, (x, y), _, stays = jax.jit(lambda key: aligned(key, z_s, Deflectors(), universe, 0.755))(jax.random.key(0))
    z_l, sigma, theta_E = (np.asarray(a)[np.asarray(stays)] for a in lens[:3])
    behind = np.asarray(z_s)[np.asarray(stays)]
    assert np.all(behind > z_l) and 0.02 < np.mean(stays) < 0.5
    np.testing.assert_allclose(theta_E, dispersion_einstein_radius(sigma, z_l, behind, universe), rtol=2e-3)
    assert np.all(np.hypot(x, y) <= lens[2] * 1.0001)
    # uniform in the circle: half of the sources are within its root of half
    assert abs(np.mean(np.hypot(x, y) < lens[2] / 2**0.5) - 0.5) < 0.03


def test_ellipticities_are_rayleigh():
    e1, e2 = jax.jit(lambda key: rayleigh_ellipticity(key, jnp.full(20000, 0.3)))(jax.random.key(0))
    e = np.hypot(e1, e2)
    flattening = 1 - (1 - e) / (1 + e)
    whole = 1 - np.exp(-0.5 * (0.8 / 0.3) ** 2)
    for x in (0.2, 0.5):
        assert abs(np.mean(flattening < x) - (1 - np.exp(-0.5 * (x / 0.3) ** 2)) / whole) < 0.012
    assert abs(np.mean(e1)) < 0.01 and abs(np.mean(e2)) < 0.01


def test_what_is_drawn_passes_and_begins_alike(lsst, found):
    assert found.z_l.shape == (8,) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.all(found.z_s > found.z_l) and found.signal_to_noise.min() > 20 and found.magnification.min() > 3
    assert np.all(lsst.selection.passed(found, lsst.telescope))
    assert eqx.tree_equal(lsst.draw(jax.random.key(3), 3), take(found, slice(3)))
    assert not np.any(np.asarray(lsst.draw(jax.random.key(4), 3).sigma) == found.sigma[:3])
    again = eqx.filter_jit(measured)(take(found, 0), lsst.telescope)
    np.testing.assert_allclose(again.signal_to_noise, found.signal_to_noise[0], rtol=1e-3)


def test_deeper_and_less_demanding_surveys_find_more(lsst):
    count = lambda population: population.per_square_degree(jax.random.key(0), 4)
    visit = surveyed_by(LSST_I_VISIT, (32, 32), candidates=2048, room=64, sources=lsst.sources)
    strict = eqx.tree_at(lambda p: p.selection.signal_to_noise, lsst, jnp.asarray(60.0, dtype=float))
    deep = count(lsst)
    assert count(visit) < deep and count(strict) < deep and 1 < deep < 30
    assert count(eqx.tree_at(lambda p: p.deflectors.phi_star, lsst, jnp.asarray(16e-3, dtype=float))) == pytest.approx(2 * deep, rel=1e-4)


def test_what_is_not_hopeful_does_not_pass(lsst):
    every = eqx.tree_at(lambda p: (p.selection.signal_to_noise, p.selection.magnification), lsst, (jnp.asarray(1e-3, dtype=float), jnp.asarray(1e-3, dtype=float)))
    some = jax.tree.map(lambda *a: jnp.concatenate(a), *(one_batch(every, jax.random.key(k))[0] for k in range(4)))
    measured = some.signal_to_noise > 0
    passed = np.asarray(lsst.selection.passed(some, lsst.telescope) & measured)
    assert passed.sum() > 3
    assert np.all(np.asarray(lsst.selection.hopeful(some, lsst.telescope))[passed])


def test_a_quasars_images_are_those_of_its_lens():
    quasars = LensedQuasars(LSST_I_VISIT((32, 32), supersample=2, psf_supersample=1), 0.755, candidates=2048, room=32)
    system, stays = eqx.filter_jit(lambda p, key: p.candidate(key, 2048))(quasars, jax.random.key(0))
    assert isinstance(system, LensedQuasar) and 0 < np.mean(stays) < 0.5
    assert np.all(system.quasar_magnitude < quasars.selection.limit(quasars.telescope) + 3.001)
    # the same image twice fails, a wide double passes
    double = take(system, slice(1))
    put = lambda x, mu: eqx.tree_at(lambda s: (s.x, s.y, s.magnification, s.quasar_magnitude), double,
                                    (jnp.asarray([[*x, np.nan, np.nan]]), jnp.asarray([[0.0, 0.0, np.nan, np.nan]]),
                                     jnp.asarray([[*mu, np.nan, np.nan]]), jnp.asarray([20.0])))
    judge = lambda x, mu: bool(quasars.selection.passed(put(x, mu), quasars.telescope)[0])
    assert judge((1.2, -0.8), (4.0, -1.5))
    assert not judge((0.2, -0.2), (4.0, -1.5))      # too close
    assert not judge((2.5, -2.5), (4.0, -1.5))      # too far apart
    assert not judge((1.2, -0.8), (4.0, -0.2))      # too uneven
    assert not judge((1.2, -0.8), (4.0, -0.001))    # too faint


def test_tables_give_back_what_they_were_given(found, tmp_path):
    to_table(found).write(tmp_path / "lenses.ecsv")
    assert eqx.tree_equal(from_table(Table.read(tmp_path / "lenses.ecsv")), found)
    one = to_table(take(found, 2))
    assert len(one) == 1 and eqx.tree_equal(take(from_table(one), 0), take(found, 2))


def test_quasars_survive_a_table():
    images = jnp.asarray([[1.1, -0.7, np.nan, np.nan], [0.3, 1 / 3, -1.0, 2.0]])
    columns = [jnp.asarray([a, a * 1.1]) for a in (0.5, 2.0, 240.0, 1.1, 0.1, 0.05, 0.03, 0.0, 19.6, 0.9, 22.0, 24.0, 0.4, 0.1, 0.0, 0.3, 0.1)]
    systems = LensedQuasar(*columns, images, images, images, images)
    text = io.StringIO()
    to_table(systems).write(text, format="ascii.ecsv")
    again = from_table(Table.read(text.getvalue(), format="ascii.ecsv"), LensedQuasar)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(systems), strict=True):
        np.testing.assert_array_equal(a, b)
    assert to_table(systems)["delay"].unit == "d"


def test_a_catalogue_fills_a_data_set(found, lsst, tmp_path):
    catalogue = Catalogue(found, lsst.telescope)
    data = write_dataset(tmp_path / "lenses", catalogue, 6, jax.random.key(0), chunk=3, progress=False)
    theta, y = data[:]
    assert data.names == catalogue.names and y.shape == (6, 32, 32) and np.isfinite(y).all()
    assert set(theta[:, data.names.index("sigma")].tolist()) <= set(np.asarray(found.sigma).tolist())


def test_a_population_fills_a_data_set_with_what_its_survey_finds(found, lsst, tmp_path):
    """Systems drawn one by one are those of the batches: they pass, and have the same distribution of Einstein radii."""
    names = ("theta_E", "sigma", "signal_to_noise", "magnification", "source_R_e")
    simulator = PopulationSimulator(lsst, margins(found, names))
    theta, y = write_dataset(tmp_path / "lenses", simulator, 24, jax.random.key(0), chunk=12, progress=False)[:]
    assert theta.shape == (24, 5) and y.shape == (24, 32, 32) and np.isfinite(y).all() and len(set(theta[:, 0].tolist())) == 24
    assert np.all(theta[:, 2] > 20) and np.all(theta[:, 3] > 3)
    blur = float(seeing(lsst.telescope))
    assert np.all(theta[:, 0] ** 2 > theta[:, 4] ** 2 + (blur / 2) ** 2) and np.all(theta[:, 3] * theta[:, 4] > blur)
    single, batches = np.sort(theta[:, 0]), np.sort(np.asarray(lsst.draw(jax.random.key(2), 24).theta_E))
    grid = np.concatenate([single, batches])
    distance = np.abs(np.searchsorted(single, grid, "right") - np.searchsorted(batches, grid, "right")).max() / 24
    assert distance < 0.56   # Kolmogorov and Smirnov's test at 0.001


def test_a_population_that_holds_nothing_simulates_nan(lsst):
    impossible = eqx.tree_at(lambda p: p.selection.theta_E_min, lsst, jnp.asarray(9.0, dtype=float))
    nothing = eqx.filter_jit(lambda p, key: p.one(key, tries=2, few=64))(impossible, jax.random.key(0))
    assert np.isnan(nothing.theta_E)


def test_margins_keep_to_what_a_column_can_be(found):
    prior = margins(found, ("theta_E", "gamma1"))
    drawn = jax.vmap(prior.sample)(jax.random.split(jax.random.key(0), 200))
    assert prior.names == ("theta_E", "gamma1") and drawn[:, 0].min() > 0 > drawn[:, 1].min()
    assert abs(np.log(drawn[:, 0]).mean() - np.log(found.theta_E).mean()) < 0.2
    with pytest.raises(InputError, match="colour is no column"):
        margins(found, ("colour",))
    with pytest.raises(InputError, match="theta_E is no column with one number for each"):
        margins(take(found, 0), ("theta_E",))


SIDES = {LSST_I_VISIT: 32, LSST_I: 32, EUCLID_VIS: 32, ROMAN_F129: 32, HST_WFC3_F814W: 64, HST_ACS_F814W: 64, JWST_F150W: 96}


def test_every_preset_sees_a_lens():
    """One lens before each telescope: as large in magnification, finite, and better seen by the deeper and the sharper."""
    one = GalaxyLens(0.5, 2.0, 220.0, 0.8, -0.1, 0.0, 0.03, 0.0, 20.0, 0.6, 25.0, 0.1, 0.1, 0.0, 0.15, 0.1)
    seen = {}
    for preset, side in SIDES.items():
        population = surveyed_by(preset, (side, side))
        assert population.wavelength == pytest.approx(WAVELENGTHS[preset]) and population.sources.faintest > 25
        assert np.all(population.selection.hopeful(one, population.telescope)) or preset is LSST_I_VISIT
        seen[preset] = eqx.filter_jit(measured)(one, population.telescope)
        assert np.isfinite(seen[preset].signal_to_noise) and seen[preset].magnification > 3
    magnification = [float(system.magnification) for preset, system in seen.items() if preset not in (LSST_I, LSST_I_VISIT)]
    assert max(magnification) < 1.1 * min(magnification)
    depth = {preset: float(system.signal_to_noise) for preset, system in seen.items()}
    assert depth[LSST_I_VISIT] < depth[EUCLID_VIS] < depth[HST_ACS_F814W] < depth[JWST_F150W]
    assert depth[LSST_I_VISIT] < depth[LSST_I] and depth[HST_WFC3_F814W] < depth[HST_ACS_F814W]


# lenses of LensPop's table for single LSST exposures: Einstein radius, q, magnitude and R_e of the lens, source x, y, q, angle, R_e, magnitude; magnification, S/N
LENSPOP = [(0.57, 0.738, 20.41, 0.58, -0.11, -0.41, 0.443, 101.1, 0.17, 22.71, 3.51, 53.59), (0.94, 0.651, 18.04, 0.88, -0.03, -0.22, 0.566, 81.5, 0.24, 23.63, 9.12, 31.09),
           (0.88, 0.315, 19.96, 0.74, -0.07, 0.02, 0.714, 27.5, 0.26, 23.60, 5.76, 25.55), (1.35, 0.820, 19.23, 0.73, 0.44, -0.69, 0.592, 2.5, 0.57, 24.04, 3.40, 6.94)]


def test_lenspop_measures_the_same():
    """Its 60 s in i: Gaussian of 0.535 arcsec on pixels of 0.18, zero point 30 for 25 s at 4.5 electrons a count, sky 20.1, 222 electrons of read noise squared."""
    zero_point, total = 30 - 2.5 * np.log10(25 / 4.5), 60.0
    background = 10 ** (0.4 * (zero_point - 20.1)) * 0.18**2 * total
    telescope = Telescope((61, 61), 0.18, gaussian_psf(0.535, 0.18, 25), SkyPoissonNoise((background + 222) ** 0.5 / total, total), 4, zero_point=zero_point)
    look = eqx.filter_jit(measured)
    for theta_E, q, m, R_e, x, y, source_q, angle, source_R_e, source_m, magnification, ratio in LENSPOP:
        e, source_e = (1 - q) / (1 + q), (1 - source_q) / (1 + source_q)
        form = source_e * np.cos(2 * np.deg2rad(angle)), source_e * np.sin(2 * np.deg2rad(angle))
        seen = look(GalaxyLens(0.5, 2.0, 200.0, theta_E, -e, 0.0, 0.0, 0.0, m, R_e, source_m, source_R_e, *form, x, y), telescope)
        assert float(seen.magnification) == pytest.approx(magnification, rel=0.03)
        assert float(seen.signal_to_noise) == pytest.approx(ratio, rel=0.14)


@pytest.mark.parametrize("n", [0, -3])
def test_a_draw_of_none_is_refused(lsst, n):
    with pytest.raises(InputError, match="give 1 or more"):
        lsst.draw(jax.random.key(0), n)


def test_what_cannot_be_drawn_is_refused(lsst, found):
    impossible = eqx.tree_at(lambda p: p.selection.theta_E_min, lsst, jnp.asarray(9.0, dtype=float))
    with pytest.raises(InputError, match="accepts 0 of 4096 candidates and 5 are wanted; ask less"):
        impossible.draw(jax.random.key(0), 5, most=2)
    with pytest.raises(InputError, match="batches = 0"):
        lsst.per_square_degree(jax.random.key(0), 0)
    with pytest.raises(InputError, match="take a preset"):
        GalaxyLenses(Telescope((32, 32), 0.1, EUCLID_VIS().psf), 0.7)
    with pytest.raises(InputError, match="take a preset"):
        LensedQuasars(Telescope((32, 32), 0.1, EUCLID_VIS().psf), 0.7)
    with pytest.raises(InputError, match="is not known"):
        surveyed_by(Telescope)
    with pytest.raises(InputError, match="no catalogue"):
        Catalogue(take(found, 0), lsst.telescope)
    with pytest.raises(InputError, match="no noise"):
        Catalogue(found, Telescope((32, 32), 0.1, EUCLID_VIS().psf))


def test_tables_that_do_not_fit_are_refused(found):
    table = to_table(found)

    def refused(change, message, kind=GalaxyLens):
        copy = table.copy()
        change(copy)
        with pytest.raises(InputError, match=message):
            from_table(copy, kind)

    refused(lambda t: t.remove_column("sigma"), "sigma missing")
    refused(lambda t: t.rename_column("z_s", "z_source"), "z_s missing and z_source unknown")
    refused(lambda t: setattr(t["theta_E"], "unit", None), "theta_E has no unit")
    refused(lambda t: setattr(t["theta_E"], "unit", "km"), "which is no arcsec")
    refused(lambda t: t["z_s"].__setitem__(1, 0.01), "row 1 the source at z_s = 0.01 is not behind")
    refused(lambda t: t["sigma"].__setitem__(2, np.nan), "no number in row 2")
    refused(lambda t: t.remove_rows(slice(None)), "no rows")
    refused(lambda t: None, "table of GalaxyLens", LensedQuasar)


def test_sources_follow_their_limits():
    galaxies = FaintGalaxies(brightest=22.0, faintest=24.0)
    i, z = jax.jit(lambda key: galaxies.draw(key, 4000))(jax.random.key(0))
    assert i.min() >= 22 and i.max() <= 24.001 and z.min() > 0
    assert float(galaxies.on_sky()) * 3600 == pytest.approx(46 * (10**-0.31 - 10**-0.93), rel=1e-4)
