"""Interferometers: signs, transposes and errors of the transforms, geometry against astropy and an EHT file, files good and bad."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import TETE, AltAz, EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.utils import iers
from scipy import ndimage, stats
from scipy.integrate import quad
from scipy.special import j0

from lensnb.core import InputError
from lensnb.simulator.grid import pixel_grid
from lensnb.simulator.lens import Lens
from lensnb.simulator.light import PixelatedLight
from lensnb.simulator.mass import SIE
from lensnb.simulator.radio import (
    UVGrid, Visibilities, airy_beam, briggs_weights, dft, dirty_beam, dirty_image, fourier, gaussian_beam, natural_weights, pixel_response,
    read_csv, read_stations, read_uvfits, sampling, thermal_noise, uniform_weights, uv_tracks, write_csv,
)
from lensnb.simulator.radio.exact import ARCSEC
from lensnb.simulator.radio.tracks import uvw
from lensnb.simulator.scene import Scene
from lensnb.simulator.telescope import Telescope

SHAPE, STEP, N = (12, 9), 0.2, 25


@pytest.fixture(scope="module")
def baselines():
    """Some baselines, up to the longest that the pixels allow."""
    return np.random.default_rng(3).uniform(-0.5, 0.5, (2, N)) / STEP / ARCSEC


def summed(image, u, v, pixel_scale, sign_x=1, sign_y=-1):
    """Visibilities by a plain double sum in NumPy."""
    ny, nx = image.shape
    x, y = ((np.arange(n) - (n - 1) / 2) * pixel_scale * ARCSEC for n in (nx, ny))
    phase = sign_x * u[:, None, None] * x[None, None, :] + sign_y * v[:, None, None] * y[None, :, None]
    total = (image * np.exp(2j * np.pi * phase)).sum((1, 2))
    return np.stack([total.real, total.imag])


def fast(u, v, shape=SHAPE, pixel_scale=STEP, tolerance=1e-9):
    grid = UVGrid(shape, pixel_scale, tolerance)
    return sampling(grid, u, v) @ fourier(grid)


# ---- operators


def adjoint(operator, seed=0):
    """How much <Lx, y> / <x, L'y> differs from one; on small cases, whether the matrix is the operator."""
    keys = jax.random.split(jax.random.key(seed))
    x, y = (jax.random.normal(key, space.shape, space.dtype) for key, space in zip(keys, (operator.in_structure(), operator.out_structure())))
    small = not isinstance(operator, lx.ComposedLinearOperator)  # a lesson has the matrix of a composition
    forward, back, matrix = eqx.filter_jit(lambda L: (L.mv(x), L.T.mv(y), L.as_matrix() if small else None))(operator)
    if small:
        np.testing.assert_allclose(matrix @ x.ravel(), forward.ravel(), rtol=1e-10, atol=1e-12)
    return float(jnp.vdot(forward, y) / jnp.vdot(x, back)) - 1


def lensed(theta_E, shape=SHAPE):
    camera = Telescope(shape=shape, pixel_scale=STEP, psf=jnp.ones((1, 1)), supersample=1)
    return Scene(Lens((SIE(theta_E=theta_E, e1=0.1),)), PixelatedLight(jnp.zeros((3, 4)), 0.2), camera).operator((3, 4), 0.2)


OPERATORS = {
    "dft": lambda u, v: dft(u, v, SHAPE, STEP, block=7),
    "fourier": lambda u, v: fourier(UVGrid((4, 5), STEP, 1e-2)),
    "sampling": lambda u, v: sampling(UVGrid((4, 5), STEP, 1e-2), u, v),
    "gaussian_beam": lambda u, v: gaussian_beam(SHAPE, STEP, 3.0),
    "airy_beam": lambda u, v: airy_beam(SHAPE, STEP, 12.0, 345e9),
    "pixel_response": lambda u, v: pixel_response(u, v, STEP),
    "chain": lambda u, v: pixel_response(u, v, STEP) @ fast(u, v) @ gaussian_beam(SHAPE, STEP, 3.0) @ lensed(0.8),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_its_transpose_and_matrix(name, x64, baselines):
    assert abs(adjoint(OPERATORS[name](*baselines))) < 1e-12


@pytest.mark.parametrize("make", [lambda u, v: dft(u, v, SHAPE, STEP), fast], ids=["dft", "fast"])
def test_a_point_source_off_the_centre_has_the_phase_of_the_convention(make, x64, baselines):
    u, v = baselines
    image = np.zeros(SHAPE)
    image[9, 1] = 2.0  # in the North and the East: x = -0.6 arcsec, y = 0.7 arcsec
    found = np.asarray(make(u, v).mv(jnp.asarray(image)))
    East, North = 0.6 * ARCSEC, 0.7 * ARCSEC
    expected = {signs: 2 * np.exp(-2j * np.pi * (signs[0] * u * East + signs[1] * v * North)) for signs in itertools.product((1, -1), repeat=2)}
    error = {signs: np.abs(found[0] + 1j * found[1] - value).max() for signs, value in expected.items()}
    assert error.pop((1, 1)) < 1e-7
    assert min(error.values()) > 1


@pytest.mark.parametrize("shape", [(12, 9), (7, 16)])
def test_the_transforms_are_the_double_sum(shape, x64, baselines):
    u, v = baselines
    image = np.random.default_rng(0).normal(size=shape)
    expected = summed(image, u, v, STEP)
    np.testing.assert_allclose(dft(u, v, shape, STEP).mv(jnp.asarray(image)), expected, atol=1e-11)
    for tolerance in (1e-2, 1e-5, 1e-11):
        error = np.asarray(fast(u, v, shape, tolerance=tolerance).mv(jnp.asarray(image))) - expected
        assert np.linalg.norm(error) < 3 * tolerance * np.linalg.norm(expected)


def test_single_precision_holds_for_baselines_of_the_earth():
    rng = np.random.default_rng(1)
    u, v = rng.uniform(-8e9, 8e9, (2, 30))
    image, scale = rng.uniform(size=(64, 64)), 3e-6  # [arcsec]
    expected = summed(image, u, v, scale)
    for operator, bound in ((dft(u, v, image.shape, scale), 1e-5), (fast(u, v, image.shape, scale, 1e-6), 1e-5)):
        found = operator.mv(jnp.asarray(image, dtype=float))
        assert found.dtype == jnp.float32
        assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)


def test_blocks_change_nothing(x64, baselines):
    image = jax.random.normal(jax.random.key(0), SHAPE)
    one, all_of_them = (dft(*baselines, SHAPE, STEP, block=block).mv(image) for block in (1, 1000))
    np.testing.assert_allclose(one, all_of_them, atol=1e-13)


def test_the_gradient_reaches_the_lens(x64, baselines):
    source = jax.random.uniform(jax.random.key(0), (3, 4))
    observe = lambda theta_E: (fast(*baselines) @ gaussian_beam(SHAPE, STEP, 3.0) @ lensed(theta_E)).mv(source)
    value, slope = jax.jit(lambda t: jax.jvp(observe, (t,), (1.0,)))(0.8)
    values = jax.jit(observe)
    numerical = (values(0.8 + 1e-6) - values(0.8 - 1e-6)) / 2e-6
    assert jnp.abs(slope).max() > 0.1
    np.testing.assert_allclose(slope, numerical, atol=1e-6 * jnp.abs(slope).max())


def test_an_operator_travels_through_jit_but_is_not_made_there(baselines):
    u, v = baselines
    image = jnp.ones(SHAPE)
    operator = fast(u, v, tolerance=1e-5)
    np.testing.assert_allclose(eqx.filter_jit(lambda L, x: L.mv(x))(operator, image), operator.mv(image), rtol=1e-5, atol=1e-4)
    with pytest.raises(InputError, match="outside of `jit`"):
        jax.jit(lambda u: fast(u, v).mv(image))(jnp.asarray(u, dtype=float))


@pytest.mark.parametrize(("change", "sentence"), [
    (dict(v=np.zeros(3)), "equal length"),
    (dict(u=np.zeros(0), v=np.zeros(0)), "at least one"),
    (dict(u=np.array([np.nan]), v=np.zeros(1)), "finite"),
    (dict(pixel_scale=2 * STEP), "too coarse .*aliasing"),
    (dict(pixel_scale=STEP / 100), "smaller than the resolution"),
    (dict(pixel_scale=0.0), "above 0"),
])
@pytest.mark.parametrize("make", [lambda u, v, pixel_scale: dft(u, v, SHAPE, pixel_scale), lambda u, v, pixel_scale: fast(u, v, SHAPE, pixel_scale)])
def test_what_cannot_be_sampled_is_refused(make, change, sentence, baselines):
    with pytest.raises(InputError, match=sentence):
        make(**dict(u=baselines[0], v=baselines[1], pixel_scale=STEP) | change)


def test_an_airy_beam_is_the_transform_of_a_disc(x64):
    beam = airy_beam((5, 8), 7.0, 12.0, 230e9).diagonal
    x, y = pixel_grid((5, 8), 7.0)
    z = np.pi * 12.0 * 230e9 / 299792458 * ARCSEC * np.hypot(x, y)
    amplitude = np.vectorize(lambda z: 2 * quad(lambda r: j0(z * r) * r, 0, 1)[0])(z)
    np.testing.assert_allclose(beam, amplitude**2, atol=1e-10)


# ---- stations and tracks


def geocentric():
    """Three stations around ALMA's place."""
    places = EarthLocation.from_geodetic([-67.75, -67.70, -67.80], [-23.03, -23.00, -23.05], [5000, 5050, 4900])
    return np.stack([axis.to_value("m") for axis in places.to_geocentric()], axis=1)


def table(path, xyz, more=None, names="station_name X Y Z dish_dia el_low el_high SEFD"):
    rows = [f"S{i} {x:.6f} {y:.6f} {z:.6f} {more or '12 15 85 110'}" for i, (x, y, z) in enumerate(xyz)]
    path.write_text("\n".join([names, *rows]))
    return path


def test_elevations_agree_with_astropy(tmp_path):
    xyz = geocentric()
    stations = read_stations(table(tmp_path / "s.txt", xyz))
    star = SkyCoord(83.6, -41.0, unit="deg")
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("auto_max_age", None):
        when = Time("2020-03-01T00:00:00") + np.linspace(0, 6, 4) * units.hour
        apparent = star.transform_to(TETE(obstime=when))
        hour_angle = when.sidereal_time("apparent", longitude=stations.longitude * units.deg).hour - apparent.ra.hour
        expected = [star.transform_to(AltAz(obstime=when, location=EarthLocation.from_geocentric(*place, unit="m"))).alt.deg for place in xyz]
    np.testing.assert_allclose(stations.elevation(hour_angle, apparent.dec.deg[0]).T, expected, atol=0.01)


def test_a_baseline_from_the_source_is_its_projection_on_east_and_north():
    rng = np.random.default_rng(2)
    baseline, hour, delta, h = rng.normal(size=3), 2.3, -41.0, 1e-5

    def towards(hour, delta):
        H, d = np.deg2rad(15 * hour), np.deg2rad(delta)
        return np.array([np.cos(d) * np.cos(H), -np.cos(d) * np.sin(H), np.sin(d)])

    # East is where the hour angle falls, North where the declination grows
    east = -(towards(hour + h, delta) - towards(hour - h, delta))
    north = towards(hour, delta + h) - towards(hour, delta - h)
    expected = [baseline @ east / np.linalg.norm(east), baseline @ north / np.linalg.norm(north), baseline @ towards(hour, delta)]
    np.testing.assert_allclose(uvw(baseline, hour, delta)[0], expected, atol=1e-8)


def test_tracks_keep_within_the_elevations_of_both_antennas(tmp_path):
    stations = read_stations(table(tmp_path / "s.txt", geocentric()))
    hours = np.linspace(-6, 6, 25)
    tracks = uv_tracks(stations, hours, -41.0, 100e9, min_elevation=30.0)
    elevation = stations.elevation(tracks.hour_angle, -41.0)
    assert elevation.min() >= 30.0 and elevation.max() <= 85.0
    assert set(tracks.hour_angle) == set(hours[(stations.elevation(hours, -41.0) >= 30.0).all(1)])
    assert (tracks.antenna1 < tracks.antenna2).all() and tracks.u.size == 3 * np.unique(tracks.hour_angle).size
    with pytest.raises(InputError, match="elevation limits"):
        uv_tracks(stations, hours, -41.0, 100e9, min_elevation=80.0)


def test_a_table_of_stations_may_be_short_or_separated_by_commas(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("station_name,X,Y,Z\nA,0,0,0\nB,0,100,0\n")
    stations = read_stations(path, latitude=34.0)
    assert stations.names == ("A", "B") and np.isnan(stations.sefd).all() and (stations.el_high == 90).all()
    np.testing.assert_allclose(stations.position[1], (0, 100, 0))
    np.testing.assert_allclose(stations.elevation(0.0, 34.0), 90, atol=1e-5)


@pytest.mark.parametrize(("text", "sentence"), [
    ("name X Y Z\nA 0 0 0\nB 0 1 0\n", "no column station_name"),
    ("station_name X Y\nA 0 0\nB 0 1\n", "no column Z"),
    ("station_name X Y Z\nA 0 0 0\nB 0 one 0\n", "not a number"),
    ("station_name X Y Z\nA 0 0 0\nB 0 1\n", "equal length"),
    ("station_name,X,Y,Z\nA,0,0,0\nB,0,,0\n", "empty or infinite"),
    ("station_name X Y Z\nA 0 0 0\n", "two or more"),
    ("station_name X Y Z\nA 0 0 0\nB 2225060.8 -5440059.6 -2481681.2\n", "one frame"),
    ("", "table of stations"),
])
def test_a_malformed_table_of_stations_is_refused(text, sentence, tmp_path):
    path = tmp_path / "s.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_stations(path, latitude=0.0)


def test_a_table_of_stations_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_stations(tmp_path / "none.txt")
    with pytest.raises(InputError, match="latitude"):
        read_stations(table(tmp_path / "s.txt", np.eye(3)))


# ---- visibilities


@pytest.fixture(scope="module")
def observed(baselines):
    """Visibilities of noise alone."""
    u, v = np.random.default_rng(5).uniform(-0.5, 0.5, (2, 400)) / STEP / ARCSEC
    sigma = np.random.default_rng(6).uniform(0.5, 2.0, 400)
    return Visibilities(u, v, np.zeros((2, 400)), sigma).sample(jax.random.key(0), np.zeros((2, 400)))


def test_thermal_noise_is_the_radiometer_equation_and_is_drawn(observed):
    # VLBI's own example: SEFDs of 90 and 11900 Jy, 1.856 GHz, 10 s and two-bit sampling
    assert thermal_noise(90.0, 11900.0, 1.856e9, 10.0, 0.88) == pytest.approx((90 * 11900 / 1.856e9 / 20) ** 0.5 / 0.88)
    whitened = observed.data / observed.sigma
    assert stats.kstest(whitened.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(whitened)[0, 1]) < 0.2


def test_the_likelihood_is_scipys(observed, x64):
    expected = stats.norm.logpdf(observed.data, scale=observed.sigma).sum()
    assert float(observed.likelihood().log_prob(jnp.asarray(observed.data))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("change", "sentence"), [
    (dict(data=np.array([[1.0, np.nan, 1.0], [0.0, 0.0, np.nan]])), "2 of 3 visibilities are NaN"),
    (dict(sigma=np.array([1.0, np.nan, 1.0])), "1 of 3 sigma"),
    (dict(sigma=np.array([1.0, -1.0, 0.0])), "2 of 3 sigma"),
    (dict(u=np.array([1.0, np.inf, 0.0])), "1 of 3 u or v"),
    (dict(v=np.zeros(2)), r"v \(2,\).*one length"),
    (dict(data=np.zeros((2, 4))), r"data \(2, 4\)"),
    (dict(antenna1=np.zeros(2, int)), "antenna1"),
    (dict(u=np.zeros(0), v=np.zeros(0), data=np.zeros((2, 0)), sigma=np.zeros(0)), "empty"),
])
def test_bad_visibilities_are_counted_and_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        Visibilities(**dict(u=np.zeros(3), v=np.zeros(3), data=np.zeros((2, 3)), sigma=np.ones(3)) | change)


# ---- dirty images


def test_weights_run_from_natural_to_uniform(observed):
    natural, uniform = natural_weights(observed), uniform_weights(observed, SHAPE, STEP)
    # every occupied cell of the uv plane, with its mirror image, weighs the same
    fx, fy = -observed.u * STEP * ARCSEC, observed.v * STEP * ARCSEC
    cell = np.stack([np.rint(fy * SHAPE[0]).astype(int) % SHAPE[0], np.rint(fx * SHAPE[1]).astype(int) % SHAPE[1]])
    total = np.zeros(SHAPE)
    for sign in (1, -1):
        np.add.at(total, tuple(sign * cell % np.array(SHAPE)[:, None]), uniform)
    np.testing.assert_allclose(total[total > 0], 1.0)
    np.testing.assert_allclose(briggs_weights(observed, SHAPE, STEP, 5), natural, rtol=1e-6)
    nearly = briggs_weights(observed, SHAPE, STEP, -5)
    np.testing.assert_allclose(nearly / nearly.sum(), uniform / uniform.sum(), rtol=1e-6)


def test_a_dirty_image_is_the_weighted_sum(observed, x64):
    operator, weights = fast(observed.u, observed.v), natural_weights(observed)
    image = dirty_image(operator, observed.data, weights)
    x, y = (np.asarray(a) * ARCSEC for a in pixel_grid(SHAPE, STEP))
    signal = observed.data[0] + 1j * observed.data[1]
    turned = signal * weights * np.exp(-2j * np.pi * (observed.u * x[..., None] - observed.v * y[..., None]))
    np.testing.assert_allclose(image, turned.real.sum(-1) / weights.sum(), atol=1e-8)
    assert dirty_beam(fast(observed.u, observed.v, (11, 9)), weights)[5, 4] == pytest.approx(1.0, rel=1e-8)


# ---- files


def uvfits(path, stokes=(-1, -2), windows=(0.0, 5e9), channels=2, extra=(), change=None, with_table=True, weight=4.0):
    """A UVFITS file of three groups: two baselines and an antenna with itself."""
    data = np.zeros((3, 1, 1, len(windows), channels, len(stokes), 3), dtype=np.float32)
    data[..., 2] = weight
    data[..., 0] = np.arange(1, len(stokes) + 1)  # I of two hands is 1.5
    names = ["UU--", "VV--", *(name for name, _ in extra)]
    values = [np.array([1e-5, 2e-5, 0.0]), np.array([0.0, 3e-5, 0.0]), *(np.array(value) for _, value in extra)]
    if "ANTENNA1" not in names:
        names.append("BASELINE")
        values.append(np.array([258.0, 515.0, 257.0]))
    primary = fits.GroupsHDU(fits.GroupData(data, bitpix=-32, parnames=names, pardata=values))
    step = stokes[1] - stokes[0] if len(stokes) > 1 else 1
    axes = [("COMPLEX", 1, 1), ("STOKES", stokes[0], step), ("FREQ", 1e11, 1e9), ("IF", 1, 1), ("RA", 0, 1), ("DEC", 0, 1)]
    for k, (name, value, step) in enumerate(axes, 2):
        for key, entry in (("CTYPE", name), ("CRVAL", value), ("CDELT", step), ("CRPIX", 1)):
            primary.header[f"{key}{k}"] = entry
    hdus = [primary]
    if with_table:
        hdus.append(fits.BinTableHDU.from_columns([fits.Column("IF FREQ", f"{len(windows)}D", array=[list(windows)])], name="AIPS FQ"))
    if change:
        change(primary)
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize(("stokes", "real", "sigma"), [
    ((1,), 1.0, 0.5), ((1, 2, 3, 4), 1.0, 0.5), ((-1, -2, -3, -4), 1.5, 0.125**0.5), ((-2,), 1.0, 0.5), ((-5, -6), 1.5, 0.125**0.5),
])
def test_stokes_i_of_whatever_was_recorded(stokes, real, sigma, tmp_path):
    vis = read_uvfits(uvfits(tmp_path / "a.uvfits", stokes))
    assert len(vis) == 2 * 2 * 2
    np.testing.assert_allclose(vis.data, [[real] * 8, [0] * 8])
    np.testing.assert_allclose(vis.sigma, sigma)
    np.testing.assert_allclose(vis.frequency[:4], [100e9, 101e9, 105e9, 106e9])
    np.testing.assert_allclose(vis.u[:4], -1e-5 * vis.frequency[:4])
    np.testing.assert_allclose(vis.v[4:], -3e-5 * vis.frequency[4:])


def test_many_antennas_and_a_file_without_spectral_windows(tmp_path):
    many = [("ANTENNA1", [1.0, 300.0, 2.0]), ("ANTENNA2", [2.0, 301.0, 2.0]), ("SUBARRAY", [1.0, 1.0, 1.0])]
    vis = read_uvfits(uvfits(tmp_path / "a.uvfits", windows=(0.0,), extra=many, with_table=False))
    assert set(zip(vis.antenna1.tolist(), vis.antenna2.tolist())) == {(1, 2), (300, 301)}
    packed = [("BASELINE", [2048 * 300 + 301 + 65536.0, 258.01, 257.0])]

    def without_windows(primary):
        primary.header["CTYPE5"] = "OTHER"

    path = uvfits(tmp_path / "b.uvfits", windows=(0.0,), channels=1, change=without_windows, with_table=False)
    assert len(read_uvfits(path)) == 2
    with fits.open(path) as hdus:
        data = hdus[0].data
        raw = fits.GroupData(np.asarray(data.data), bitpix=-32, parnames=["UU", "VV", "BASELINE"], pardata=[data.par(0), data.par(1), np.array(packed[0][1])])
        again = fits.GroupsHDU(raw)
        again.header.update({k: v for k, v in hdus[0].header.items() if k[:5] in ("CTYPE", "CRVAL", "CDELT", "CRPIX")})
        again.writeto(tmp_path / "c.uvfits")
    vis = read_uvfits(tmp_path / "c.uvfits")
    assert set(zip(vis.antenna1.tolist(), vis.antenna2.tolist())) == {(300, 301), (1, 2)}


def unnamed(primary):
    primary.header["CTYPE3"] = "OTHER"


def unscaled(primary):
    del primary.header["CRVAL4"]


@pytest.mark.parametrize(("options", "sentence"), [
    (dict(weight=-1.0), "all 12 visibilities are flagged"),
    (dict(change=unnamed), "no axis STOKES"),
    (dict(change=unscaled), "does not say .*CRVAL"),
    (dict(stokes=(-3, -4)), "none of I, RR, LL, XX, YY"),
    (dict(with_table=False), "2 spectral windows"),
    (dict(extra=[("SOURCE", [1.0, 2.0, 1.0])]), "several sources"),
])
def test_a_uvfits_file_that_cannot_be_used_is_refused(options, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        read_uvfits(uvfits(tmp_path / "a.uvfits", **options))


def test_a_file_that_is_no_uvfits_is_refused(tmp_path):
    path = uvfits(tmp_path / "a.uvfits")
    whole = path.read_bytes()
    for size in (0, 1000, 2880, 5000, len(whole) - 9000, len(whole) - 2880):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="complete FITS file|no random groups|spectral windows"):
            read_uvfits(path)
    with pytest.raises(InputError, match="not there"):
        read_uvfits(tmp_path / "none.uvfits")
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="no random groups"):
        read_uvfits(tmp_path / "image.fits")


def test_a_table_of_visibilities_goes_out_and_comes_back(tmp_path, observed):
    write_csv(tmp_path / "a.csv", observed)
    back = read_csv(tmp_path / "a.csv")
    for name in ("u", "v", "data", "sigma"):
        np.testing.assert_array_equal(getattr(back, name), getattr(observed, name))
    assert back.antenna1 is None


@pytest.mark.parametrize(("text", "sentence"), [
    ("u,v,real,imag\n1,2,3,4\n", "no column sigma"),
    ("u,v,sigma\n1,2,3\n", "no column real, imag"),
    ("u,v,real,imag,sigma\n", "no rows"),
    ("u,v,real,imag,sigma\n1,2,3,4\n", "no column"),
    ("u,v,real,imag,sigma\n1,2,three,4,1\n", "column real .* not a number"),
    ("u,v,real,imag,sigma\n1,2,nan,4,1\n1,2,3,4,1\n", "1 of 2 visibilities are NaN"),
    ("u,v,real,imag,sigma\n1,2,,4,1\n1,2,3,4,1\n", "1 of 2 visibilities are NaN"),
    ("u,v,real,imag,sigma\n1,2,3,4,-1\n1,2,3,4,1\n", "1 of 2 sigma"),
    ("u,v,real,imag,weight\n1,2,3,4,-1\n1,2,3,4,nan\n", "not numbers"),
    ("", "table of visibilities"),
])
def test_a_table_that_cannot_be_used_is_refused(text, sentence, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_csv(path)


def test_the_sign_of_the_exponent_is_one_of_two(tmp_path):
    for read in (read_csv, read_uvfits):
        with pytest.raises(InputError, match="sign of the exponent"):
            read(tmp_path / "a", exponent=0)


# ---- real arrays and real data


EHT = "SR1_M87_2017_095_hi_hops_netcal_StokesI.uvfits"


@pytest.fixture(scope="module")
def m87(shared_data):
    return read_uvfits(shared_data / "radio" / EHT)


def test_the_ehts_file_is_read_right(m87):
    length, amplitude = np.hypot(m87.u, m87.v), np.hypot(*m87.data)
    assert len(m87) == 6458
    assert 8.2e9 < length.max() < 8.5e9 and length.max() * 1.3e-3 < 2 * 6.38e6  # no baseline is longer than the Earth is wide
    # the whole source on the short baselines, a tenth of it and less where the ring is resolved
    assert amplitude[length < 1e7].mean() == pytest.approx(1.1, abs=0.1)
    assert 0.03 < amplitude[length > 3e9].mean() < 0.2
    assert np.unique(m87.frequency) == pytest.approx(229.07e9, rel=1e-4)


def test_the_ehts_baselines_are_ours(m87, shared_data):
    with fits.open(shared_data / "radio" / EHT) as hdus:
        antennas, groups, header = hdus["AIPS AN"].data, hdus[0].data, hdus[0].header
        with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("auto_max_age", None):
            greenwich = Time(groups.par("DATE")[::400], format="jd").sidereal_time("mean", "greenwich").hour
        xyz = dict(zip(antennas["NOSTA"].tolist(), np.asarray(antennas["STABXYZ"])))
    pairs = zip(m87.antenna1[::400].tolist(), m87.antenna2[::400].tolist())
    waves = [(xyz[second] - xyz[first]) * m87.frequency[0] / 299792458 for first, second in pairs]
    found = np.array([uvw(wave, hour - header["OBSRA"] / 15, header["OBSDEC"])[0] for wave, hour in zip(waves, greenwich)])
    np.testing.assert_allclose(found[:, :2].T, [m87.u[::400], m87.v[::400]], atol=2e5)  # of 8e9


def test_the_ring_of_m87_is_brightest_in_the_south(m87, shared_data):
    # closure phases of a ring of 42 microarcsec, brightest 150 degrees East of North (EHT 2019, paper IV, April 5)
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    brightness = 1 + 0.5 * np.cos(angle - np.deg2rad(150))
    east, north = (21e-6 * ARCSEC * f(angle) for f in (np.sin, np.cos))
    with fits.open(shared_data / "radio" / EHT) as hdus:
        when = np.asarray(hdus[0].data.par("DATE"))

    def agreement(vis):
        "Mean cosine of the difference of closure phases, over triangles of long baselines."
        ring = (brightness * np.exp(-2j * np.pi * (vis.u[:, None] * east + vis.v[:, None] * north))).mean(1)
        turn = (vis.data[0] + 1j * vis.data[1]) * ring.conj()
        long, cosines = np.hypot(vis.u, vis.v) > 1e9, []
        for moment in np.unique(when):
            row = {(vis.antenna1[k], vis.antenna2[k]): k for k in np.flatnonzero((when == moment) & long)}
            for a, b, c in itertools.combinations(sorted({antenna for pair in row for antenna in pair}), 3):
                if {(a, b), (b, c), (a, c)} <= row.keys():
                    cosines.append(np.cos(np.angle(turn[row[a, b]] * turn[row[b, c]] * turn[row[a, c]].conj())))
        return np.mean(cosines)

    right, wrong = agreement(m87), agreement(read_uvfits(shared_data / "radio" / EHT, exponent=-1))
    assert right > 0.5 > wrong, (right, wrong)


def test_the_dirty_image_of_an_alma_lens_shows_its_three_images(shared_data):
    # the flat file of visilens: seven columns in a row, then the beam; it counts u and v as CASA does
    flat = np.fromfile(shared_data / "radio" / "SPT0346-52_cont.bin")
    u, v, real, imag, sigma, *_ = flat[:-1].reshape(7, -1)
    vis = Visibilities(-u, -v, np.stack([real, imag]), sigma)
    shape, step = (96, 96), 0.08
    weights = briggs_weights(vis, shape, step)
    image = np.asarray(dirty_image(fast(vis.u, vis.v, shape, step, 1e-4), vis.data, weights))
    noise = np.sqrt((weights**2 * vis.sigma**2).sum()) / weights.sum()
    peaks = np.argwhere((image == ndimage.maximum_filter(image, 9)) & (image > 15 * noise))
    found = sorted(((peaks[:, ::-1] - 47.5) * step).tolist())
    np.testing.assert_allclose(found, [[-1.13, -0.47], [-0.2, 1.0], [0.0, -1.0]], atol=0.1)
    assert image.max() > 50 * noise


def test_the_tables_of_alma_and_the_vla_are_read(shared_data):
    alma = read_stations(shared_data / "radio" / "alma_dsharp.txt")
    assert len(alma.names) == 39 and alma.longitude == pytest.approx(-67.75, abs=0.02) and (alma.sefd == 110).all()
    assert alma.elevation(0.0, -23.02).min() > 89.9  # the zenith of Chajnantor
    vla = read_stations(shared_data / "radio" / "vla.txt", latitude=34.08)
    assert len(vla.names) == 27 and vla.longitude is None
    tracks = uv_tracks(vla, [-2.0, 0.0, 2.0], 50.0, 8.4e9)
    assert np.hypot(tracks.u, tracks.v).max() * 299792458 / 8.4e9 == pytest.approx(11.1e3, rel=0.02)  # the B configuration
