"""Sources and halos from other people's files, and galaxies drawn by rule: checked, normalised, and plain about what is wrong."""

import gzip

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from lensnb.core import InputError
from lensnb.simulator.convergence_map import check_kappa, overlap, read_convergence, resampled, scaled, tapered, zoomed
from lensnb.simulator.critical import einstein_radius
from lensnb.simulator.fits import write_images
from lensnb.simulator.galaxies import half_light
from lensnb.simulator.grid import pixel_grid
from lensnb.simulator.lens import Lens
from lensnb.simulator.light import Sersic
from lensnb.simulator.mass import NIE, PixelatedConvergence
from lensnb.simulator.sky import linear_wcs
from lensnb.simulator.sources import SpiralGalaxy, behind, draw_galaxy, draw_mixture, read_galaxies, sersic_luminosity
from lensnb.simulator.sources.library import fault, sky
from lensnb.simulator.stacks import Stack

# ---- stacks

RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.integers(-100, 30000, (3, 9, 7))


def write_fits(path, images, **cards):
    unit = fits.PrimaryHDU(images)
    unit.header.update(cards)
    unit.writeto(path)
    return path


def unsigned(path):
    return write_fits(path, (IMAGES + 100).astype(np.uint16)), 100  # stored as signed, with BZERO


def zipped(path):
    path.write_bytes(gzip.compress(write_fits(path.with_suffix(".fits"), IMAGES.astype(">f8")).read_bytes()))
    return path, 0


def compressed(path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(IMAGES.astype(np.int32))]).writeto(path)
    return path, 0


def files(path):
    return [write_fits(path.with_suffix(f".{k}.fits"), image.astype(np.float32)) for k, image in enumerate(IMAGES)], 0


def plain(path):
    np.save(path.with_suffix(".npy"), IMAGES.astype(">i4"))
    return path.with_suffix(".npy"), 0


def chunked(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a/b/images", data=IMAGES.astype(">f4"), chunks=(1, 9, 7), compression="gzip")
        file["a/redshift"], file["a/label"] = np.zeros((3, 2, 2)).astype("S3"), "text"
    return path, 0


@pytest.mark.parametrize("form", [unsigned, zipped, compressed, files, plain, chunked])
def test_every_form_is_read_alike(tmp_path, form):
    paths, added = form(tmp_path / "images")
    stack = Stack(paths)
    assert len(stack) == 3 and stack.pixel_scale() is None
    for k in (2, 0, -2):
        assert stack[k].dtype == np.float64 and stack[k].dtype.isnative
        np.testing.assert_array_equal(stack[k] - added, IMAGES[k])
    with pytest.raises(IndexError):
        stack[3]


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "trap.npz", images=np.array([Trap(), None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "trap.npy", np.array([Trap(), None], dtype=object), allow_pickle=True)
    for name in ("trap.npz", "trap.npy"):
        with pytest.raises(InputError, match="could not be read"):
            Stack(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_files_that_will_not_do(tmp_path):
    (tmp_path / "notes.fits").write_text("SIMPLE notes that are no FITS file")
    (tmp_path / "notes.txt").write_text("some notes")
    np.savez(tmp_path / "line.npz", a=np.zeros(5))
    np.savez(tmp_path / "four.npz", a=np.zeros((2, 2, 3, 3)))
    np.savez(tmp_path / "short.npz", a=np.zeros((20, 30)))
    (tmp_path / "short.npz").write_bytes((tmp_path / "short.npz").read_bytes()[:300])
    whole = {"notes.fits": "notes.fits", "notes.txt": "is no FITS", "line.npz": "there is none", "four.npz": r"shape \(2, 2, 3, 3\)", "short.npz": "could not be read", "absent.h5": "Could not read"}
    for name, words in whole.items():
        with pytest.raises(InputError, match=words):
            Stack(tmp_path / name)
    np.savez_compressed(tmp_path / "good.npz", a=RANDOM.standard_normal((2, 20, 30)))
    stack, data = Stack(tmp_path / "good.npz"), bytearray((tmp_path / "good.npz").read_bytes())
    data[2000:2100] = bytes(100)
    (tmp_path / "good.npz").write_bytes(data)
    with pytest.raises(InputError, match="Image 1 of .*Fetch the file again"):
        stack[1]
    with pytest.raises(InputError, match="one or more paths"):
        Stack([])


# ---- libraries


def test_cosmos_and_probes(shared_data):
    for file, name, n in (("cosmos_f814w_5_galaxies_256.h5", "images", 5), ("probes_2_galaxies_256.npz", None, 2)):
        galaxies = read_galaxies(shared_data / "galaxies" / file, name)
        image = np.asarray(galaxies.image)
        assert image.shape == (n, 48, 48) and image.dtype == np.float32 and image.min() >= 0
        np.testing.assert_allclose(image.sum((1, 2)), 1, atol=1e-5)
        assert max(image[:, [0, -1]].max(), image[:, :, [0, -1]].max()) == 0
        offset = np.arange(48) - 23.5
        assert np.hypot(image.sum(1) @ offset, image.sum(2) @ offset).max() < 0.1
        assert np.hypot(galaxies.row - 128, galaxies.column - 128).max() < 8, "these galaxies stand in the middle of their images"
        assert 2 < galaxies.half_light_radius.min() and galaxies.half_light_radius.max() < 15
    with pytest.raises(InputError, match="give the name"):
        read_galaxies(shared_data / "galaxies" / "cosmos_f814w_5_galaxies_256.h5", "pixels")


def sersic_image(shape=(90, 100), row=47.3, column=44.1, R_e=7.0):
    y, x = np.indices(shape, dtype=np.float32)
    return np.asarray(Sersic(I_e=1.0, R_e=R_e, n=1.0, e1=0.2).surface_brightness(x - column, y - row), dtype=float)


def test_a_known_galaxy_is_found_again(tmp_path):
    """Where it stands and how large it is, with noise, a background and some missing pixels."""
    image = 20 * sersic_image() + 7 + 0.3 * RANDOM.standard_normal((90, 100))
    image[10:13, 70:75] = np.nan
    image[46, 45] = np.nan
    galaxies = read_galaxies(write_fits(tmp_path / "one.fits", image))
    assert np.hypot(galaxies.row[0] - 47.3, galaxies.column[0] - 44.1) < 0.2
    alone = half_light(sersic_image(), 47.3, 44.1)
    assert abs(galaxies.half_light_radius[0] * galaxies.scale[0] / alone - 1) < 0.06


def test_faults_are_named():
    good = 20 * sersic_image() + 0.3 * RANDOM.standard_normal((90, 100))
    y, x = np.indices(good.shape)
    assert fault(good) == ""
    assert "NaN" in fault(np.where(x < 9, np.nan, good))
    assert "slopes" in fault(good + 0.2 * x) and "no galaxy" in fault(good - 20 * sersic_image())
    assert "empty" in fault(np.zeros((50, 50))) and "16 pixels" in fault(good[:10])
    assert fault(np.pad(good, 15)) == "", "zeros around it are padding"
    level, noise, _ = sky(good + 5)
    assert abs(level - 5) < 0.3 and abs(noise / 0.3 - 1) < 0.1


def test_bad_images_are_listed_and_can_be_left_out(tmp_path):
    good = 20 * sersic_image() + 0.3 * RANDOM.standard_normal((90, 100))
    np.save(tmp_path / "all.npy", np.stack([good, np.full_like(good, np.nan), np.where(np.indices(good.shape)[1] > 43, 0, good)]))
    with pytest.raises(InputError, match=r"2 of 3 images are no sources: image 1 is NaN .*; image 2 cuts its galaxy.*only ="):
        read_galaxies(tmp_path / "all.npy")
    assert len(read_galaxies(tmp_path / "all.npy", only=[0])) == 1
    for options in (dict(only=[]), dict(only=[3]), dict(size=8)):
        with pytest.raises(InputError):
            read_galaxies(tmp_path / "all.npy", **options)


def test_behind_a_lens_with_flux_and_size(tmp_path):
    image = 20 * sersic_image() + np.roll(3 * sersic_image(R_e=2.0), (9, 14), (0, 1)) + 0.1 * RANDOM.standard_normal((90, 100))
    galaxies = read_galaxies(write_fits(tmp_path / "one.fits", image))
    view = jax.jit(lambda turn: behind(galaxies, 0, 3.0, 0.5, turn, 0.1, -0.2).surface_brightness(*pixel_grid((200, 200), 0.03)))
    seen = np.stack([view(turn) for turn in range(8)]).astype(float) * 0.03**2
    np.testing.assert_allclose(seen.sum((1, 2)), 3.0, rtol=2e-3)
    for each in seen:
        assert abs(half_light(each, 99.5 - 0.2 / 0.03, 99.5 + 0.1 / 0.03) * 0.03 / 0.5 - 1) < 0.03
    different = np.abs(seen[:, None] - seen[None]).sum((2, 3)) + 9 * np.eye(8)
    assert different.min() > 0.01, "eight different ways"


# ---- drawn by rule


@eqx.filter_jit
def everything(galaxy, x, y):
    """Brightness, and its derivatives with respect to the position and all parameters."""
    light = lambda galaxy, x, y: galaxy.surface_brightness(x, y)
    return jax.vmap(lambda x, y: jax.value_and_grad(light, (0, 1, 2))(galaxy, x, y))(x, y)


KNOTS = dict(knot_x=[1.0, 0.0], knot_y=[0.5, 0.0], knot_size=[0.1, 0.2], knot_flux=[0.1, 0.0])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_finite_wherever_one_can_stand(precision):
    with jax.enable_x64(precision == "float64"):
        x, y = jnp.asarray([0.0, 1e-4, 0.3, 0.0, -2.0, 1e3]), jnp.asarray([0.0, 0.0, 0.1, -0.3, 1.0, 1e3])
        special = ({}, dict(inclination=np.pi / 2), dict(m=0.0), dict(sharpness=0.0, contrast=1.0), dict(bulge_fraction=0.0, pitch=-1.5), dict(flux=0.0))
        for options in special:
            found = everything(SpiralGalaxy(**dict(flux=2.0, R_d=0.3, **KNOTS) | options), x, y)
            assert all(np.isfinite(leaf).all() and leaf.dtype == precision for leaf in jax.tree.leaves(found)), options


def test_total_flux_by_quadrature(x64):
    """On a grid in polar coordinates, its steps the smaller the nearer to the centre."""
    s, angle = jnp.linspace(-14, 4.6, 800), jnp.linspace(0, 2 * jnp.pi, 256, endpoint=False)
    r, angle = jnp.exp(s)[:, None], angle[None]

    @eqx.filter_jit
    def total(galaxy):
        return (galaxy.surface_brightness(r * jnp.cos(angle), r * jnp.sin(angle)) * r**2).sum() * (s[1] - s[0]) * 2 * jnp.pi / 256

    knots = dict(knot_x=[0.3, -0.5], knot_y=[0.0, 0.3], knot_size=[0.3, 0.4], knot_flux=[0.1, 0.05])
    for options in ({}, dict(inclination=1.2, phi=0.7), dict(m=4.0, sharpness=9.0, contrast=1.0, pitch=-0.6), dict(bulge_n=4.0, bulge_fraction=0.8)):
        assert abs(total(SpiralGalaxy(**dict(flux=3.0, R_d=0.4, **knots) | options)) / 3.0 - 1) < 1e-4, options


def test_sersic_luminosity_and_its_gradient(x64):
    for n in (0.1, 1.0, 12.0):
        slope = jax.grad(sersic_luminosity, 1)(1.0, n)
        step = 1e-6
        ends = [sersic_luminosity(1.0, n * (1 + sign * step)) for sign in ((0, 1) if n == 0.1 else (-1, 0))]
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (n * step), rtol=1e-4)


def test_draws_are_many_and_keep_their_bounds():
    """Five hundred galaxies at once: knots no more than there is room for, and all parameters inside their ranges."""
    galaxies = jax.vmap(lambda key: draw_galaxy(key, 2.0, 0.25, room=12, knots=10.0))(jax.random.split(jax.random.key(0), 500))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(galaxies)), "a parameter outside its range is NaN"
    knots = np.sum(np.asarray(galaxies.knot_flux) > 0, axis=1)
    assert knots.min() == 0 and knots.max() == 12 and 3 < knots.mean() < 6
    assert np.all(np.asarray(galaxies.bulge_fraction) + np.asarray(galaxies.knot_flux).sum(1) < 1)
    assert set(np.unique(galaxies.m)) == {2.0, 3.0, 4.0} and 0.4 < np.mean(np.asarray(galaxies.pitch) > 0) < 0.6
    mixtures = jax.vmap(lambda key: draw_mixture(key, 2.0, 0.25))(jax.random.split(jax.random.key(0), 500))
    fluxes = np.asarray(jax.vmap(lambda mixture: mixture.fluxes())(mixtures))
    np.testing.assert_allclose(fluxes.sum(1), 2.0, rtol=1e-4)
    number = (fluxes > 0).sum(1)
    assert number.min() == 1 and number.max() == 5 and abs(number.mean() - 1 - sum(min(k, 4) * np.exp(-2) * 2**k / np.prod(range(1, k + 1)) for k in range(20))) < 0.2


REFUSED = [dict(m=1.5), dict(pitch=0.001), dict(bulge_fraction=0.95), dict(R_d=0.0), dict(knot_flux=[0.1]), dict(inclination=2.0)]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_refused(options):
    with pytest.raises(InputError):
        SpiralGalaxy(**dict(flux=1.0, R_d=0.3, **KNOTS) | options)


# ---- halos

SHAPE, SCALE = (64, 64), 0.1


def nie(theta_E=1.2, s=0.3, **options):
    lens = NIE(theta_E=theta_E, s=s, **options)
    return lens, PixelatedConvergence(kappa=lens.convergence(*pixel_grid(SHAPE, SCALE)), pixel_scale=SCALE)


def mean_nie(theta_E, s, r):
    """Mean convergence of a round NIE inside r: Keeton and Kochanek (1998)."""
    return theta_E * (np.sqrt(r**2 + s**2) - s) / r**2


def test_scaled_and_zoomed_against_the_closed_form():
    """A round halo with a core, whose border is faded: nothing outside of a circle matters inside it."""
    _, halo = nie()
    halo, _ = tapered(halo, 1.0)
    strong, factor = scaled(halo, 1.4)
    assert abs(factor * mean_nie(1.2, 0.3, 1.4) - 1) < 3e-3
    root = brentq(lambda r: mean_nie(1.2, 0.3, r) - 1, 0.3, 2.0)
    large, stretch = zoomed(halo, 1.4)
    assert abs(stretch * root / 1.4 - 1) < 4e-3
    for lens in (strong, large):
        assert abs(einstein_radius(Lens((lens,)), 3.0, 200) / 1.4 - 1) < 5e-3
        assert abs(scaled(lens, 1.4)[1] - 1) < 1e-4, "twice is once"


def test_tng_maps(shared_data):
    path = shared_data / "kappa" / "tng100_2_maps_128.npz"
    with pytest.raises(InputError, match="does not state its pixel scale"):
        read_convergence(path)
    with pytest.raises(InputError, match="2 maps; there is no number 2"):
        read_convergence(path, 0.05, index=2)
    areas = []
    for index in (0, 1):
        halo = resampled(read_convergence(path, 0.05, index=index), SCALE)
        assert halo.kappa.shape == SHAPE, "another shape is another program"
        for make in (scaled, zoomed):
            lens, factor = make(tapered(halo, 0.5)[0], 1.0)
            assert 0.2 < factor < 5
            assert abs(scaled(lens, 1.0)[1] - 1) < 1e-3
            areas.append(einstein_radius(Lens((lens,)), 3.0, 200))
    assert np.all(np.abs(np.array(areas) - 1) < [0.2, 0.2, 0.06, 0.06]), "the first is a pair"


WRONG = {"nan": (np.where(np.eye(8) > 0, np.nan, 1.0), "8 of 64 pixels are NaN or infinite, the first in row 0, column 0"),
         "negative": (-np.ones((8, 8)), "look at its sign"), "balanced": (np.eye(8) - 0.5, "background"), "empty": (np.zeros((8, 8)), "sign")}


@pytest.mark.parametrize("what", WRONG)
def test_maps_that_are_none(what):
    kappa, words = WRONG[what]
    with pytest.raises(InputError, match=words):
        check_kappa(kappa, "map.fits")


WORLD = dict(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=30.0, CRVAL2=-5.0, CDELT1=-0.1 / 3600, CDELT2=0.1 / 3600)


def test_pixel_scales_of_fits_files(tmp_path):
    kappa = np.asarray(nie(center_x=0.4)[1].kappa)
    halo = read_convergence(write_fits(tmp_path / "a.fits", kappa, **WORLD))
    assert abs(halo.pixel_scale - 0.1) < 1e-6 and abs(halo.center_x + 0.4) < 0.06 and abs(halo.center_y) < 0.06
    assert read_convergence(tmp_path / "a.fits", 0.1).pixel_scale == np.float32(0.1)
    with pytest.raises(InputError, match="states a pixel scale of 0.1 arcsec and you give 0.05"):
        read_convergence(tmp_path / "a.fits", 0.05)
    with pytest.raises(InputError, match="0.1 by 0.13 arcsec; resample it to square pixels"):
        read_convergence(write_fits(tmp_path / "b.fits", kappa, **WORLD | {"CDELT2": 0.13 / 3600}))


def test_radii_that_cannot_be_had():
    _, halo = nie()
    weak = PixelatedConvergence(kappa=halo.kappa * 0.05, pixel_scale=SCALE)
    with pytest.raises(InputError, match="nowhere critical; rescale it by scaled"):
        zoomed(weak, 1.0)
    with pytest.raises(InputError, match="up to its border"):
        zoomed(PixelatedConvergence(kappa=halo.kappa * 9, pixel_scale=SCALE), 1.0)
    with pytest.raises(InputError, match="theta_E = -1.0 is outside its range, above 0"):
        zoomed(halo, -1.0)
    for radius in (5.0, np.nan, -1.0):
        with pytest.raises(InputError, match="between 0 and 3.2 arcsec"):
            scaled(halo, radius)
    factors = jax.jit(jax.vmap(lambda radius: scaled(halo, radius)[1]))(jnp.asarray([1.0, 5.0]))
    assert np.isfinite(factors[0]) and np.isnan(factors[1]), "a traced radius that cannot be had is NaN"


@settings(deadline=None, max_examples=40)
@given(old=st.integers(1, 40), ratio=st.floats(0.05, 20))
def test_no_mass_is_lost_between_pixels(old, ratio):
    new = int(np.ceil(old * ratio - 1e-6))
    weights = overlap(old, max(1, new), ratio)
    np.testing.assert_allclose(weights.sum(0), ratio, rtol=1e-5)
    assert weights.min() >= 0 and weights.max() <= min(1.0, ratio) + 1e-9


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_resampling_refused(scale):
    with pytest.raises(InputError, match="pixel_scale (=|is) .*; give"):
        resampled(nie()[1], scale)


def test_an_image_and_its_errors_are_no_stack(tmp_path):
    path = tmp_path / "image.fits"
    images = [fits.ImageHDU(np.ones((8, 8), "f4"), name=name) for name in ("SCI", "ERR")]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    with pytest.raises(InputError, match="SCI, ERR; ERR is no stack"):
        Stack(path)
    assert len(Stack(path, name="sci")) == 1


def test_a_map_that_the_house_wrote_keeps_its_scale(tmp_path):
    path = tmp_path / "kappa.fits"
    write_images(path, {"kappa": (np.ones((16, 16), "f4"), linear_wcs((16, 16), 0.05), "")})
    np.testing.assert_allclose(read_convergence(path).pixel_scale, 0.05, rtol=1e-6)
