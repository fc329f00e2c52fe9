"""Distances against mpmath, astropy and finite differences."""

import astropy.cosmology
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lensnb.core import InputError
from lensnb.simulator.cosmology import FlatLambdaCDM

# H0, Om0, z1, z2, angular diameter distance [Mpc]: mpmath.quad of 1/E(z) at 30 digits, c = 299792.458 km/s
GOLDEN = [
    (70.0, 0.3, 0.0, 0.01, 42.30784734039053),
    (70.0, 0.3, 0.0, 0.5, 1259.083597288937),
    (70.0, 0.3, 0.0, 2.0, 1726.620691469791),
    (70.0, 0.3, 0.0, 10.0, 858.2045114909304),
    (67.4, 0.315, 0.222, 0.609, 852.7488089499054),
    (73.0, 0.05, 0.5, 5.0, 1739.272777810053),
    (70.0, 0.3, 2.0, 5.1, 434.0623992652279),
    (70.0, 0.3, 1.0, 1.0001, 0.1216122987559274),
]


@pytest.mark.parametrize("H0, Om0, z1, z2, distance", GOLDEN)
def test_golden_double(x64, H0, Om0, z1, z2, distance):
    measured = FlatLambdaCDM(H0, Om0).angular_diameter_distance_z1z2(z1, z2)
    assert measured.dtype == jnp.float64
    np.testing.assert_allclose(measured, distance, rtol=1e-11)


@pytest.mark.parametrize("H0, Om0, z1, z2, distance", GOLDEN[:-1])
def test_golden_single(H0, Om0, z1, z2, distance):
    measured = FlatLambdaCDM(H0, Om0).angular_diameter_distance_z1z2(z1, z2)
    assert measured.dtype == jnp.float32
    np.testing.assert_allclose(measured, distance, rtol=3e-6)


@pytest.mark.parametrize("Om0", [0.0, 0.01, 0.05, 0.3, 0.7, 1.0])
def test_astropy(x64, Om0):
    z = np.geomspace(0.01, 10, 40)
    ours = FlatLambdaCDM(67.4, Om0)
    theirs = astropy.cosmology.FlatLambdaCDM(H0=67.4, Om0=Om0, Tcmb0=0)
    np.testing.assert_allclose(ours.angular_diameter_distance(z), theirs.angular_diameter_distance(z).value, rtol=1e-8)
    np.testing.assert_allclose(ours.hubble(z), theirs.H(z).value, rtol=1e-12)


def test_lens_distances_from_astropy(x64):
    ours, theirs = FlatLambdaCDM(70.0, 0.3), astropy.cosmology.FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    z_l, z_s = 0.222, 0.609
    d_l, d_s = theirs.angular_diameter_distance(z_l), theirs.angular_diameter_distance(z_s)
    d_ls = theirs.comoving_distance(z_s) / (1 + z_s) - theirs.comoving_distance(z_l) / (1 + z_s)
    delay = (1 + z_l) * d_l * d_s / d_ls
    np.testing.assert_allclose(ours.time_delay_distance(z_l, z_s), delay.to_value("Mpc"), rtol=1e-8)
    # c^2 / (4 pi G) from CODATA and IAU numbers, written out so that a slip in the units shows
    c, G, Msun, Mpc = 299792458.0, 6.6743e-11, 1.988409870698051e30, 3.0856775814913673e22
    density = c**2 / (4 * np.pi * G) / Msun * Mpc * (d_s / (d_l * d_ls)).to_value("1/Mpc")
    np.testing.assert_allclose(ours.critical_surface_density(z_l, z_s), density, rtol=1e-8)


@pytest.mark.parametrize("name", ["H0", "Om0", "z_l", "z_s"])
@pytest.mark.parametrize(
    "method", ["angular_diameter_distance_z1z2", "time_delay_distance", "critical_surface_density"]
)
def test_gradient_is_the_finite_difference(x64, method, name):
    at = dict(H0=70.0, Om0=0.3, z_l=0.5, z_s=1.7)

    def value(number):
        p = {**at, name: number}
        return getattr(FlatLambdaCDM(p["H0"], p["Om0"]), method)(p["z_l"], p["z_s"])

    step = 1e-5 * at[name]
    difference = (value(at[name] + step) - value(at[name] - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(at[name]), difference, rtol=1e-7)


@pytest.mark.parametrize("Om0", [0.0, 0.3, 1.0])
def test_gradients_are_finite_at_the_ends(Om0):
    for z1, z2 in ((0.0, 0.0), (0.0, 10.0), (1.0, 1.0)):
        def distance(universe, z1, z2):
            return universe.angular_diameter_distance_z1z2(z1, z2)
        leaves = jax.tree.leaves(jax.grad(distance, argnums=(0, 1, 2))(FlatLambdaCDM(70.0, Om0), z1, z2))
        assert len(leaves) == 4 and np.isfinite(leaves).all()


def test_arrays_broadcast_and_jit_agrees():
    universe, z_s = FlatLambdaCDM(70.0, 0.3), jnp.linspace(1.0, 4.0, 6).reshape(2, 3)
    many = universe.time_delay_distance(0.5, z_s)
    assert many.shape == (2, 3)
    np.testing.assert_allclose(many[1, 2], universe.time_delay_distance(0.5, 4.0), rtol=1e-6)
    traced = eqx.filter_jit(lambda u, z: u.critical_surface_density(0.5, z))(universe, z_s)
    np.testing.assert_allclose(traced, universe.critical_surface_density(0.5, z_s), rtol=1e-6)
    batch = jax.vmap(lambda h: FlatLambdaCDM(h, 0.3).angular_diameter_distance(1.0))(jnp.array([50.0, 100.0]))
    np.testing.assert_allclose(batch[0], 2 * batch[1], rtol=1e-6)


@pytest.mark.parametrize("H0, Om0", [(0.0, 0.3), (-70.0, 0.3), (np.nan, 0.3), (np.inf, 0.3), (70.0, -0.1), (70.0, 1.1)])
def test_impossible_universes_are_refused(H0, Om0):
    with pytest.raises(InputError):
        FlatLambdaCDM(H0, Om0)


@pytest.mark.parametrize("z_l, z_s", [(0.5, 0.5), (0.8, 0.5), (-0.1, 1.0), (0.5, np.nan), (np.inf, np.inf)])
@pytest.mark.parametrize("method", ["time_delay_distance", "critical_surface_density"])
def test_impossible_redshifts_are_refused(method, z_l, z_s):
    with pytest.raises(InputError):
        getattr(FlatLambdaCDM(70.0, 0.3), method)(z_l, z_s)


def test_distances_backwards_are_refused():
    universe = FlatLambdaCDM(70.0, 0.3)
    assert universe.angular_diameter_distance_z1z2(1.0, 1.0) == 0
    with pytest.raises(InputError, match="behind"):
        universe.angular_diameter_distance_z1z2(1.0, 0.9)
    with pytest.raises(InputError, match="negative"):
        universe.hubble(-0.5)
