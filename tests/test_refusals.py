"""What cannot be used ends in one sentence that names it and says what to do, wherever a user can stand."""

import re

import h5py
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from astropy.io import fits

from lensnb.core import InputError, LensnbError, check_key, whole
from lensnb.simulator.cosmology import FlatLambdaCDM
from lensnb.simulator.convergence_map import check_kappa, read_convergence, recentred, resampled, scaled, tapered
from lensnb.simulator.correlated_noise import CorrelatedLikelihood, CorrelatedNoise, from_covariance
from lensnb.simulator.dataset import Dataset, write_dataset
from lensnb.simulator.defects import CosmicRays, bad_columns, masked_sd
from lensnb.simulator.fits import read_image, write_images
from lensnb.simulator.galaxies import Galaxies
from lensnb.simulator.grid import pixel_grid
from lensnb.simulator.lens import Lens
from lensnb.simulator.mass import SIE, PixelatedConvergence
from lensnb.simulator.noise import GaussianLikelihood, PoissonLikelihood, PoissonNoise, SkyPoissonNoise
from lensnb.simulator.operators import blur, keep, pixel_flux, ray_tracing
from lensnb.simulator.point_source import PointSource
from lensnb.simulator.radio import (
    Stations,
    UVGrid,
    Visibilities,
    airy_beam,
    briggs_weights,
    dft,
    dirty_beam,
    dirty_image,
    gaussian_beam,
    pixel_response,
    read_stations,
    thermal_noise,
    uv_tracks,
    write_csv,
)
from lensnb.simulator.sky import linear_wcs, sky_wcs
from lensnb.simulator.sources import behind, draw_from, draw_galaxy, draw_mixture, read_galaxies, sersic_luminosity
from lensnb.simulator.stacks import Stack
from lensnb.simulator.substructure import CoredNFW, LinearPower, LineOfSight, PowerLaw, Subhalos, Suppressed, Suppression, Tabulated, UniformDisc
from lensnb.simulator.substructure import sigma_sub_of_fraction, subhalo_fraction, tidal_radius

NAN, INF = float("nan"), float("inf")
KEY = jax.random.key(0)
UNIVERSE = FlatLambdaCDM(70.0, 0.3)
U, V = np.array([1e5, -2e5, 1.5e5]), np.array([-1e5, 2e5, 1e5])
LAW = PowerLaw(0.05, -1.9, 1e6, 1e10)
EYE = np.eye(3) > 0


def visibilities(**changes):
    return Visibilities(**dict(u=U, v=V, data=np.ones((2, 3)), sigma=np.ones(3)) | changes)


def stations(**changes):
    columns = dict(names=("a", "b", "c"), position=1e3 * np.eye(3), zenith=np.tile([0.0, 0.0, 1.0], (3, 1)), dish=np.ones(3), sefd=np.ones(3),
                   el_low=np.zeros(3), el_high=np.full(3, 90.0))
    return Stations(**columns | changes)


def transform():
    return dft(U, V, (8, 9), 0.2)


def galaxies():
    return Galaxies(jnp.ones((2, 16, 16)), *(jnp.ones(2) for _ in range(4)))


def noise(**changes):
    return thermal_noise(**dict(sefd1=90.0, sefd2=119.0, bandwidth=1e9, integration_time=10.0) | changes)


def way(**changes):
    sight = dict(z_front=[0.2], z_l=0.5, z_behind=[0.8], z_s=1.5, m_low=1e8, m_high=1e10, angle=2.0)
    return LineOfSight.of(LinearPower(UNIVERSE), **sight | changes)


def halo():
    return PixelatedConvergence(kappa=jnp.ones((8, 8)), pixel_scale=0.1)


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Without the checks of types that only tests run under."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Simulator:
    def simulate(self, key):
        return jax.random.normal(key, (2,)), jnp.zeros((4, 4))


def data_set(path, **changes):
    return write_dataset(path, **dict(simulator=Simulator(), n=4, key=KEY, chunk=2, progress=False) | changes)


# the call, and what its sentence says; {} is a folder of the test's own
REFUSED = {
    # radio
    "beam": (lambda p: gaussian_beam((8, 9), 0.1, 0.0), "fwhm = 0.0 is outside"),
    "beam of NaN": (lambda p: gaussian_beam((8, 9), 0.1, NAN), "fwhm is nan"),
    "beam of no number": (lambda p: gaussian_beam((8, 9), 0.1, None), "fwhm is None; give a number"),
    "beam of no pixels": (lambda p: gaussian_beam((8, 9), 0.0, 3.0), "pixel_scale = 0.0"),
    "dish": (lambda p: airy_beam((8, 9), 0.1, -12.0, 3e11), "dish = -12"),
    "bandwidth": (lambda p: noise(bandwidth=0.0), "bandwidth = 0.0"),
    "bandwidth of NaN": (lambda p: noise(bandwidth=NAN), "bandwidth is nan"),
    "SEFD": (lambda p: noise(sefd1=-90.0), "sefd1 = -90"),
    "SEFDs": (lambda p: noise(sefd2=np.array([90.0, 0.0])), "sefd2 = 0.0"),
    "unknown SEFD": (lambda p: noise(sefd2=np.array([90.0, NAN])), "sefd2 is nan"),
    "time": (lambda p: noise(integration_time="long"), "integration_time is 'long'"),
    "correlator": (lambda p: noise(efficiency=0.0), "efficiency = 0.0"),
    "block": (lambda p: dft(U, V, (8, 9), 0.2, block=0), "block = 0 is no whole number"),
    "response": (lambda p: pixel_response(U, V[:2], 0.2), "equal length"),
    "response of NaN": (lambda p: pixel_response(U * NAN, V, 0.2), "finite"),
    "words for baselines": (lambda p: visibilities(u="east"), "'east' is not made of numbers"),
    "frequencies": (lambda p: visibilities(frequency=np.full(3, NAN)), "3 of 3 frequencies"),
    "grid of no shape": (lambda p: UVGrid((8,), 0.2), "two numbers of pixels"),
    "grid of half pixels": (lambda p: UVGrid((8, 9.5), 0.2), "nx = 9.5 is no whole number"),
    "grid of no scale": (lambda p: UVGrid((8, 9), -0.2), "pixel_scale = -0.2"),
    "grid of no number": (lambda p: UVGrid((8, 9), 0.2, "fine"), "is 'fine'; give a number"),
    "NaN weights": (lambda p: dirty_image(transform(), np.ones((2, 3)), np.array([1.0, NAN, 1.0])), "1 weights are negative, infinite or not a number"),
    "no weights": (lambda p: dirty_beam(transform(), np.zeros(3)), "sum to 0"),
    "NaN visibilities": (lambda p: dirty_image(transform(), np.full((2, 3), NAN), np.ones(3)), "3 of 3 visibilities are NaN"),
    "other weights": (lambda p: dirty_beam(transform(), np.ones(4)), r"weights \(4,\); the operator makes 3"),
    "robustness": (lambda p: briggs_weights(visibilities(), (8, 9), 0.2, NAN), "robust is nan"),
    "mask of visibilities": (lambda p: visibilities().select([True]), "picks none of 3"),
    "number of visibilities": (lambda p: visibilities().select([5]), "picks none of 3"),
    "seed": (lambda p: visibilities().sample(0, np.ones((2, 3))), "key = 0 is not one key"),
    "rows of stations": (lambda p: stations(el_low=np.zeros(2)), r"el_low \(2,\); give one row"),
    "lost station": (lambda p: stations(position=np.full((3, 3), NAN)), "position has an entry that is NaN"),
    "hours": (lambda p: uv_tracks(stations(), [], 10.0, 1e9), "hour_angle is"),
    "declination": (lambda p: uv_tracks(stations(), 0.0, 100.0, 1e9), "declination = 100"),
    "frequency": (lambda p: uv_tracks(stations(), 0.0, 80.0, 0.0), "frequency = 0.0"),
    "elevation": (lambda p: uv_tracks(stations(), 0.0, 80.0, 1e9, None), "min_elevation is None"),
    "latitude": (lambda p: read_stations(table(p), 100.0), "latitude = 100"),
    "folder": (lambda p: write_csv(p / "none" / "vis.csv", visibilities()), "cannot be written"),
    "path of a table": (lambda p: write_csv(None, visibilities()), "None is no path"),
    # halos
    "tides": (lambda p: tidal_radius(np.array([1e8, -1e8]), np.ones(2)), "mass = -1"),
    "tides at the centre": (lambda p: tidal_radius(1e8, 0.0), "r = 0.0"),
    "tides of NaN": (lambda p: tidal_radius(1e8, 10.0, NAN), "r_0 is nan"),
    "fraction": (lambda p: subhalo_fraction(LAW, 0.0, 0.5, 1.5, UNIVERSE), "kappa = 0.0"),
    "fraction of NaN": (lambda p: sigma_sub_of_fraction(NAN, LAW, 0.5, 0.5, 1.5, UNIVERSE), "f_sub is nan"),
    "moment": (lambda p: LAW.mass(-1.0, 1e9), "mass = -1"),
    "table of masses": (lambda p: Tabulated(jnp.array([2.0, 1.0]), jnp.zeros(2)), "masses that ascend"),
    "table of nothing": (lambda p: Tabulated.of(lambda m: -m, 1e6, 1e9), "Tabulated: .* finite"),
    "one knot": (lambda p: Tabulated.of(lambda m: m, 1e6, 1e9, knots=1), "knots = 1"),
    "small host": (lambda p: CoredNFW(radius=10.0, r_core=5.0, r_s=50.0, r_max=5.0), "a host that is larger"),
    "knots": (lambda p: Suppressed(LAW, Suppression(1e8), extra=-1), "extra = -1"),
    "growth": (lambda p: LinearPower(UNIVERSE).growth(-1.0), "z = -1.0 is outside its range, above -1"),
    "sigma": (lambda p: LinearPower(UNIVERSE).sigma(0.0), "mass = 0.0"),
    "places": (lambda p: Subhalos(LAW, UniformDisc(radius=1.0), 0.5, 1.5, UNIVERSE, n_max=8.0), "n_max = 8.0"),
    "seed of subhalos": (lambda p: UniformDisc(radius=1.0).sample(7, 3), "key = 7"),
    "infinite masses": (lambda p: way(m_high=INF), "give finite masses"),
    "knots of a way": (lambda p: way(knots=1), "knots = 1"),
    "redshift in words": (lambda p: way(z_l="near"), "is 'near'; give a number"),
    # sources
    "galaxy that is not there": (lambda p: behind(galaxies(), 2), "index = 2 is not below 2"),
    "turn": (lambda p: behind(galaxies(), 0, turn=8), "turn = 8 is not below 8"),
    "size": (lambda p: behind(galaxies(), 0, R_e=0.0), "R_e = 0.0"),
    "seed of a galaxy": (lambda p: draw_from(galaxies(), 0), "key = 0"),
    "flux": (lambda p: draw_galaxy(KEY, flux=-1.0), "flux = -1"),
    "room": (lambda p: draw_mixture(KEY, room=0), "room = 0"),
    "spread": (lambda p: draw_mixture(KEY, spread=NAN), "spread is nan"),
    "luminosity": (lambda p: sersic_luminosity(0.3, 0.0), "n = 0.0"),
    "stamp": (lambda p: read_galaxies(map_file(p), size=20.5), "size = 20.5 is no whole number of 16"),
    "chosen": (lambda p: read_galaxies(map_file(p), only=[0.5]), "image 0 of only = 0.5"),
    # noise, masks, operators
    "sd of NaN": (lambda p: GaussianLikelihood(jnp.array([1.0, NAN])), "sd: 1 of 2 are NaN"),
    "sd of zero": (lambda p: GaussianLikelihood(jnp.array([0.0, -1.0])), "sd: 2 of 2"),
    "mean of zero": (lambda p: PoissonLikelihood(jnp.zeros(2), 1.0), "mean: 2 of 2"),
    "time of a likelihood": (lambda p: PoissonLikelihood(jnp.ones(2), 0.0), "exposure = 0.0"),
    "infinite power": (lambda p: CorrelatedNoise(np.full((4, 4), INF)), "finite and positive"),
    "power of zero": (lambda p: CorrelatedLikelihood(jnp.zeros((4, 4))), "finite and positive"),
    "no power": (lambda p: CorrelatedNoise(np.ones((0, 4))), r"has shape \(0, 4\)"),
    "floor": (lambda p: from_covariance(np.diag([0.0, 1.0, 0.0]), (8, 8), -1.0), "floor = -1"),
    "seed of noise": (lambda p: SkyPoissonNoise(0.1, 1.0).sample(0, jnp.ones((3, 3))), "key = 0"),
    "seed of photons": (lambda p: PoissonNoise(0.1, 1.0).sample(None, jnp.ones((3, 3))), "key = None"),
    "no exposure of rays": (lambda p: CosmicRays(1e-5).sample(KEY, (4, 4), NAN), "exposure is nan"),
    "no room for rays": (lambda p: CosmicRays(1e-5, max_hits=2.5), "max_hits = 2.5"),
    "columns": (lambda p: bad_columns(KEY, (4,), 0.1), "two numbers of pixels"),
    "mask of NaN": (lambda p: keep(np.full((3, 3), NAN)), "give an image .* of booleans"),
    "mask of weights": (lambda p: keep(np.full((3, 3), 0.5)), "give an image .* of booleans"),
    "mask of flags": (lambda p: masked_sd(jnp.ones((3, 3)), 4 * np.eye(3, dtype=int)), "flags > 0"),
    "mask of a row": (lambda p: keep(np.ones(3, bool)), r"of shape \(3,\)"),
    "rays": (lambda p: pixel_flux((3, 4), 0), "supersample = 0"),
    "source of no scale": (lambda p: ray_tracing(jnp.ones((2, 2)), jnp.ones((2, 2)), (3, 3), 0.0), "pixel_scale = 0.0"),
    "blur of no shape": (lambda p: blur(jnp.ones((1, 1)), (3,)), "two numbers of pixels"),
    "grid": (lambda p: pixel_grid((3, 3), NAN), "pixel_scale is nan"),
    "images": (lambda p: PointSource(1.0).images(Lens((SIE(1.0),)), max_images=0), "max_images = 0"),
    "flux of no number": (lambda p: PointSource("bright"), "is 'bright'; give a number"),
    # files
    "scale of zero": (lambda p: read_convergence(map_file(p, pixel_scale=0.1), 0.0), "pixel_scale = 0.0"),
    "scale of zero in the file": (lambda p: read_convergence(map_file(p, pixel_scale=0.0)), "pixel_scale = 0.0"),
    "another scale": (lambda p: read_convergence(map_file(p, pixel_scale=0.1), 0.2), "states a pixel scale of 0.1 arcsec and you give 0.2"),
    "number of a map": (lambda p: read_convergence(map_file(p, pixel_scale=0.1), index=0.5), "index = 0.5"),
    "map of no shape": (lambda p: check_kappa(np.ones(3), "map"), r"shape is \(3,\)"),
    "width": (lambda p: tapered(halo(), 0.0), "width = 0.0"),
    "resampled": (lambda p: resampled(halo(), None), "pixel_scale is None"),
    "recentred": (lambda p: recentred(halo(), NAN), "smoothing is nan"),
    "scaled": (lambda p: scaled(halo(), "large"), "theta_E is 'large'"),
    "no path": (lambda p: Stack(None), "None is no path"),
    "no path among several": (lambda p: Stack([None]), "is no path"),
    "scale of an image": (lambda p: read_image(p / "none.fits", 0.0), "pixel_scale = 0.0"),
    "pole": (lambda p: sky_wcs((8, 9), 0.1, 0.0, 91.0), "dec = 91"),
    "line of pixels": (lambda p: linear_wcs((8, 9), 0.0), "pixel_scale = 0.0"),
    "image of one axis": (lambda p: write_images(p / "a.fits", {"a": (np.ones(3), linear_wcs((1, 3), 0.1), "")}), r"has shape \(3,\)"),
    "image of no place": (lambda p: write_images(p / "a.fits", {"a": (np.ones((3, 3)), None, "")}), "its WCS"),
    "NaN in a header": (lambda p: write_images(p / "a.fits", {}, z_l=NAN), "z_l = nan cannot stand in a FITS header"),
    "path of an image": (lambda p: write_images(3, {}), "3 is no path"),
    # data sets
    "float n": (lambda p: data_set(p / "set", n=10.0), "n = 10.0 is no whole number"),
    "float chunk": (lambda p: data_set(p / "set", chunk=2.5), "chunk = 2.5"),
    "seed of a data set": (lambda p: data_set(p / "set", key=0), r"key = 0 .* jax.random.key\(0\)"),
    "several keys": (lambda p: data_set(p / "set", key=jax.random.split(KEY)), "is not one key"),
    "no simulator": (lambda p: data_set(p / "set", simulator=3), "has no function simulate"),
    "one name for two": (lambda p: data_set(p / "set", names=["a", "a"]), "one name to each"),
    "a word for names": (lambda p: data_set(p / "set", names="ab"), "one name to each"),
    "numbers for names": (lambda p: data_set(p / "set", names=[1, 2]), "one name to each"),
    "no folder": (lambda p: data_set(None), "None is no path"),
    "no data set": (lambda p: Dataset(3), "3 is no path"),
}


def table(folder):
    (folder / "stations.txt").write_text("station_name X Y Z\na 0 0 0\nb 100 0 0\n")
    return folder / "stations.txt"


def map_file(folder, pixel_scale=None, shape=()):
    with h5py.File(folder / "map.h5", "w") as file:
        file["kappa"] = np.ones((16, 16))
        if pixel_scale is not None:
            file["kappa"].attrs["pixel_scale"] = np.full(shape, pixel_scale)
    return folder / "map.h5"


@pytest.mark.parametrize("case", REFUSED)
def test_one_sentence(case, tmp_path):
    call, says = REFUSED[case]
    with pytest.raises(LensnbError, match=says) as refusal:
        call(tmp_path)
    sentence = str(refusal.value)
    assert "\n" not in sentence and re.search(r"[a-z0-9)>\]].*[.?]$", sentence)
    assert not (tmp_path / "set").exists() and not (tmp_path / "a.fits").exists(), "nothing was begun"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_number_in_an_array_is_a_number(tmp_path, shape):
    assert Stack(map_file(tmp_path, 0.1, shape)).pixel_scale() == 0.1
    np.savez(tmp_path / "map.npz", kappa=np.ones((16, 16)), pixel_scale=np.full(shape, 0.1))
    assert Stack(tmp_path / "map.npz").pixel_scale() == 0.1


def test_several_scales_of_one_map_are_refused(tmp_path):
    with pytest.raises(InputError, match="could not be read"):
        Stack(map_file(tmp_path, 0.1, (2,)))


@pytest.mark.parametrize("dtype", [bool, int, float, ">f4"])
def test_zeros_and_ones_are_a_mask(dtype):
    image = jnp.arange(9.0).reshape(3, 3)
    kept = keep(EYE.astype(dtype)).mv(image)
    np.testing.assert_array_equal(kept, [1, 2, 3, 5, 6, 7])
    np.testing.assert_array_equal(np.isinf(masked_sd(jnp.ones((3, 3)), EYE.astype(dtype))), EYE)


def test_keys_of_both_kinds():
    for key in (jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")):
        check_key(key)
        jax.eval_shape(check_key, key)
    for wrong in (3, None, np.uint32(3), jnp.ones(2), jax.random.split(KEY), "seed"):
        with pytest.raises(InputError, match="give one"):
            check_key(wrong)


def test_keys_of_both_kinds_make_one_data_set(tmp_path):
    first, second = (data_set(tmp_path / name, key=key) for name, key in (("old", jax.random.PRNGKey(3)), ("new", jax.random.key(3))))
    np.testing.assert_array_equal(first[:][0], second[:][0])
    assert data_set(tmp_path / "old", key=jax.random.key(3)).missing() == []
    assert [theta.shape for theta, _ in first.batches(2, jax.random.PRNGKey(0), epochs=1)] == [(2, 2), (2, 2)]


def test_whole_numbers_of_other_kinds():
    assert whole(a=np.int64(3), b=jnp.asarray(2), c=1) == (3, 2, 1)


def test_a_photon_count_of_nan_is_nan():
    drawn = PoissonNoise(0.1, 100.0).sample(KEY, jnp.array([1.0, NAN]))
    np.testing.assert_array_equal(np.isnan(drawn), [False, True])


def test_a_header_of_a_written_image_without_unit(tmp_path):
    write_images(tmp_path / "a.fits", {"a": (np.ones((3, 3)), linear_wcs((3, 3), 0.1), None)})
    assert fits.getheader(tmp_path / "a.fits", 1)["BUNIT"] == ""
