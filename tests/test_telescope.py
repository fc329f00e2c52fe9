"""Telescopes: pixels to a stated error, kernels, noise, defects, points of light."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lensnb.core import InputError
from lensnb.simulator import telescope as presets
from lensnb.simulator.correlated_noise import CorrelatedNoise, cosmos_f814w, from_covariance
from lensnb.simulator.defects import CosmicRays, bad_columns, masked_sd
from lensnb.simulator.grid import bin_pixels, pixel_grid
from lensnb.simulator.lens import Lens
from lensnb.simulator.light import PixelatedLight, Sersic
from lensnb.simulator.mass import SIE, Shear
from lensnb.simulator.noise import GaussianLikelihood, PoissonNoise, SkyPoissonNoise
from lensnb.simulator.operators import keep
from lensnb.simulator.pixel_integration import pixel_means, safe_peak
from lensnb.simulator.point_source import PointSource
from lensnb.simulator.psf import airy_psf, check_psf, convolve, empirical_psf, gaussian_psf, moffat_psf
from lensnb.simulator.scene import Scene
from lensnb.simulator.telescope import Telescope

NAMES = ["HST_ACS_F814W", "HST_WFC3_F814W", "EUCLID_VIS", "LSST_I", "LSST_I_VISIT", "ROMAN_F129", "JWST_F150W"]


# ---- pixels


def brightness(theta_E, R_e, n, x, y):
    lens = Lens((SIE(theta_E=theta_E, e1=0.1, e2=0.05), Shear(gamma1=0.02)))
    source = Sersic(I_e=1.0, R_e=R_e, n=n, e1=0.1, center_x=x, center_y=y)
    return lambda x, y: source.surface_brightness(*lens.ray_shoot(x, y))


@pytest.fixture(scope="module")
def imaged():
    """An image and its stated error, PSF applied: one program for all sources."""
    psf = gaussian_psf(0.1, 0.05, 9)

    @jax.jit
    def image(theta):
        means, variance = pixel_means(brightness(*theta), (40, 40), 0.05)
        blurred = convolve(means, psf.astype(means.dtype))
        return blurred, jnp.sqrt(convolve(variance, psf.astype(means.dtype) ** 2).max()) / blurred.max()

    @jax.jit
    def brute(theta):
        """The mean of 40 by 40 midpoints a pixel, a row of subpixels at a time: no part of the adaptive rule."""
        f, (x, y) = brightness(*theta), pixel_grid((40, 40), 0.05)
        offset = (jnp.arange(40, dtype=x.dtype) - 19.5) * 0.05 / 40
        rows = jax.lax.map(lambda dy: sum(f(x + offset[k], y + dy) for k in range(40)), offset)
        return convolve(rows.sum(0) / 1600, psf.astype(x.dtype))

    return image, brute


@pytest.mark.parametrize("n, R_e", [(0.7, 0.05), (1.0, 0.1), (1.5, 0.07)])
def test_an_image_is_within_a_thousandth_of_brute_force(imaged, x64, n, R_e):
    image, brute = imaged
    for x, y in ((0.07, 0.03), (0.004, -0.002)):
        theta = jnp.array([0.6, R_e, n, x, y])
        found, stated = image(theta)
        known = brute(theta)
        error = float(jnp.abs(found - known).max() / known.max())
        assert error < 1e-3 and error < 3 * float(stated) + 2e-4 and float(stated) < 3e-3


def test_cells_that_run_out_are_told(x64):
    theta = jnp.array([0.6, 0.05, 4.0, 0.0, 0.0])
    few = jax.jit(lambda: pixel_means(brightness(*theta), (40, 40), 0.05, max_cells=256))()
    many = jax.jit(lambda: pixel_means(brightness(*theta), (40, 40), 0.05))()
    worst = float(jnp.abs(few[0] - many[0]).max() / many[0].max())
    stated = [float(jnp.sqrt(variance.max()) / means.max()) for means, variance in (few, many)]
    assert worst > 1e-2 and stated[0] > worst / 3 and stated[1] < stated[0] / 10


def test_small_fields_batches_and_signs():
    cubic = lambda x, y: 1 + 2 * x - y**2
    means, variance = pixel_means(cubic, (1, 3), 0.5)
    x, y = pixel_grid((1, 3), 0.5)
    np.testing.assert_allclose(means, 1 + 2 * x - y**2 - 0.25 / 12, rtol=1e-5)
    assert means.shape == variance.shape == (1, 3)
    one = lambda s: pixel_means(lambda x, y: s * jnp.exp(-jnp.hypot(x, y) / 0.05), (7, 7), 0.1, max_cells=512)[0]
    s = jnp.array([1.0, -1.0, 3.0])
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(s), np.asarray(s)[:, None, None] * np.asarray(jax.jit(one)(s[0])), rtol=2e-4, atol=1e-6)


def test_a_ray_on_a_cusp_is_not_the_peak():
    image = jnp.ones((5, 5)).at[2, 2].set(1000.0)
    assert float(safe_peak(image)) == 2.0 and float(safe_peak(-image)) == 2.0


@pytest.mark.parametrize("options", [dict(tolerance=0.0), dict(tolerance=-1.0), dict(max_cells=10)])
def test_impossible_tolerances(options):
    with pytest.raises(InputError, match="tolerance"):
        pixel_means(lambda x, y: x, (5, 5), 0.1, **options)


# ---- telescopes


@pytest.mark.parametrize("name", NAMES)
def test_presets(name):
    telescope = getattr(presets, name)()
    np.testing.assert_allclose(telescope.psf.sum(), 1.0, rtol=1e-5)
    assert telescope.psf.min() >= 0 and telescope.supersample is None
    flux = presets.magnitude_to_flux(telescope, 24.0)
    np.testing.assert_allclose(presets.flux_to_magnitude(telescope, flux), 24.0, rtol=1e-6)
    np.testing.assert_allclose(presets.counts_to_flux(telescope, presets.flux_to_counts(telescope, flux)), flux, rtol=1e-5)
    assert telescope.noise.sky_rms > 0 and telescope.full_well > 1e4


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_of_thirds_sets_a_star_anywhere(name):
    coarse, fine, finest = (getattr(presets, name)((41, 41), psf_supersample=k) for k in (1, 3, 9))
    corner = coarse.pixel_scale / 2
    images = [telescope.points(corner[None], corner[None], jnp.ones(1)) for telescope in (coarse, fine, finest)]
    errors = [float(jnp.abs(image - images[2]).max() / images[2].max()) for image in images[:2]]
    assert errors[1] < 1.5e-2 and errors[1] < errors[0] / 3


def test_ten_years_are_deeper_than_a_visit_by_the_square_root_of_the_time():
    ratio = presets.LSST_I_VISIT().noise.sky_rms / presets.LSST_I().noise.sky_rms
    np.testing.assert_allclose(ratio, (460 / 2) ** 0.5, rtol=1e-5)


def test_a_finer_kernel_gives_the_same_flux_and_operator():
    lens = Lens((SIE(theta_E=0.5, e1=0.1), Shear(gamma1=0.02)))
    fine = Telescope((20, 24), 0.1, gaussian_psf(0.15, 0.05, 15), psf_supersample=2)
    picture = jax.random.uniform(jax.random.key(0), (12, 12))
    scene = Scene(lens, PixelatedLight(picture, 0.05), eqx.tree_at(lambda t: t.psf, fine, fine.psf))
    image = scene.operator((12, 12), 0.05).mv(picture)
    np.testing.assert_allclose(image, scene.image(), atol=5e-3 * float(image.max()))
    coarse = Telescope((20, 24), 0.1, gaussian_psf(0.15, 0.1, 9))
    np.testing.assert_allclose(Scene(lens, scene.source, coarse).image().sum(), image.sum(), rtol=2e-3)


def test_the_render_of_given_rays_states_no_error():
    image, error = Telescope((8, 8), 0.1, gaussian_psf(0.15, 0.1, 5), supersample=2).render(lambda x, y: x + y)
    assert image.shape == (8, 8) and np.isnan(error)


def test_points_keep_their_flux_anywhere_and_leave_the_field():
    telescope = Telescope((31, 31), 0.05, gaussian_psf(0.12, 0.05, 21))
    star = jax.jit(lambda x, y: telescope.points(x[None], y[None], jnp.ones(1)))
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-0.2, 0.2, (10, 2)):
        np.testing.assert_allclose(star(jnp.float32(x), jnp.float32(y)).sum(), 1.0, rtol=5e-3)
    assert float(jnp.abs(star(jnp.float32(5.0), jnp.float32(0.0))).max()) == 0.0


def test_a_quasar_adds_to_the_scene():
    lens = Lens((SIE(theta_E=0.6, e1=0.15),))
    telescope = Telescope((40, 40), 0.05, gaussian_psf(0.1, 0.05, 15), supersample=2)
    quasar = PointSource(flux=1.0, center_x=0.03, center_y=0.02)
    host = Sersic(I_e=0.1, R_e=0.1, center_x=0.03, center_y=0.02)
    without, both = (Scene(lens, host, telescope, point_sources=points).image() for points in (None, (quasar,)))
    images = eqx.filter_jit(quasar.images)(lens)
    np.testing.assert_allclose((both - without).sum(), jnp.nansum(jnp.abs(images.magnification)), rtol=1e-2)
    brightest = jnp.nanargmax(jnp.abs(images.magnification))
    row, column = np.unravel_index(np.argmax(both - without), (40, 40))
    np.testing.assert_allclose([(column - 19.5) * 0.05, (row - 19.5) * 0.05], [images.x[brightest], images.y[brightest]], atol=0.05)


REFUSED = {
    "even PSF": lambda: Telescope((9, 9), 0.1, np.ones((4, 4)) / 16),
    "PSF without light": lambda: Telescope((9, 9), 0.1, -np.ones((3, 3))),
    "PSF that is not finite": lambda: Telescope((9, 9), 0.1, np.full((3, 3), np.nan)),
    "PSF larger than the image": lambda: Telescope((9, 9), 0.1, np.ones((11, 11)) / 121),
    "kernel and rays that do not fit": lambda: Telescope((9, 9), 0.1, np.ones((3, 3)) / 9, supersample=2, psf_supersample=3),
    "exposure of zero": lambda: Telescope((9, 9), 0.1, np.ones((3, 3)) / 9, exposure=0.0),
    "gain of zero": lambda: Telescope((9, 9), 0.1, np.ones((3, 3)) / 9, gain=0.0),
    "noise without exposure": lambda: PoissonNoise(background=0.1, exposure=0.0),
    "magnitude without zero point": lambda: presets.magnitude_to_flux(Telescope((9, 9), 0.1, np.ones((3, 3)) / 9), 20.0),
    "Moffat without wings": lambda: moffat_psf(0.7, 0.2, beta=1.0),
    "mirror that is a hole": lambda: airy_psf(0.8, 2.4, 0.05, obstruction=1.2),
    "measured PSF of one dimension": lambda: empirical_psf(np.ones(5)),
    "power of zero": lambda: CorrelatedNoise(np.zeros((4, 4))),
    "covariance of nothing": lambda: from_covariance(-np.eye(3), (8, 8)),
    "covariance larger than the image": lambda: from_covariance(np.eye(9), (8, 8)),
    "noise for another shape": lambda: CorrelatedNoise(np.ones((4, 4))).sample(jax.random.key(0), jnp.zeros((5, 4))),
    "PSF that sums to 25": lambda: Telescope((9, 9), 0.1, np.ones((5, 5))),
    "PSF of no pixel scale": lambda: gaussian_psf(0.1, 0.0),
    "no rays": lambda: Telescope((9, 9), 0.1, np.ones((3, 3)) / 9, supersample=0),
    "no tolerance": lambda: Telescope((9, 9), 0.1, np.ones((3, 3)) / 9, tolerance=0.0),
    "spectrum that is not symmetric": lambda: CorrelatedNoise(np.arange(1.0, 21.0).reshape(4, 5)),
    "more hits than tracks": lambda: CosmicRays(rate=1.0, max_hits=5).sample(jax.random.key(0), (16, 16), 100.0),
    "probability above one": lambda: bad_columns(jax.random.key(0), (4, 4), 2.0),
    "everything masked": lambda: keep(np.ones((3, 3), bool)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    with pytest.raises(InputError) as refusal:
        REFUSED[case]()
    assert "\n" not in str(refusal.value) and str(refusal.value)[-1] in ".?"


def test_what_is_traced_is_not_looked_at():
    jax.eval_shape(lambda psf: check_psf(psf, (9, 9)) or psf, jnp.ones((3, 3)))


# ---- noise


def test_photons_without_read_noise_are_poisson():
    noise = PoissonNoise(background=0.05, exposure=100.0)
    image = jnp.array([0.0, 0.02, 0.3])
    likelihood, mean = noise.likelihood(image), (np.array([0.0, 0.02, 0.3]) + 0.05) * 100
    for counts in ((3, 5, 40), (0, 9, 30)):
        residual = jnp.asarray((np.array(counts) - mean) / 100, jnp.float32)
        known = stats.poisson.logpmf(counts, mean).sum() + 3 * np.log(100)
        np.testing.assert_allclose(likelihood.log_prob(residual), known, rtol=1e-4)
    worse = [float(likelihood.log_prob(jnp.full(3, r))) for r in (-0.05, -0.4, -1.0)]
    assert np.isfinite(worse).all() and worse[0] > worse[1] > worse[2]
    assert np.all(likelihood.score(jnp.full(3, -1.0)) > 0)


def test_the_likelihood_of_photons_holds_in_single_precision_and_leaves_masked_pixels_out(rng=np.random.default_rng(0)):
    for mean in (0.3, 15.0, 19.9, 20.1, 300.0, 3e5):
        noise = PoissonNoise(background=mean / 100, exposure=100.0)
        counts = rng.poisson(mean, 200)
        residual = jnp.asarray((counts - mean) / 100, jnp.float32)
        found = noise.likelihood(jnp.zeros(200)).log_prob(residual) - 200 * np.log(100.0)
        known = stats.poisson.logpmf(counts, mean)
        assert abs(float(found) - known.sum()) < 2e-4 * np.abs(known).sum() + 0.05
    half = eqx.tree_at(lambda l: l.mean, noise.likelihood(jnp.zeros(200)), jnp.full(200, mean).at[:100].set(jnp.inf))
    spoilt = residual.at[:100].set(jnp.nan)
    assert np.isfinite(half.log_prob(spoilt)) and np.all(half.score(spoilt)[:100] == 0)


@pytest.mark.parametrize("noise", [SkyPoissonNoise(0.01, 500.0), PoissonNoise(0.1, 500.0, 4.0, 2.0), CorrelatedNoise(np.full((6, 6), 0.04))])
def test_every_noise_draws_what_its_likelihood_expects(noise):
    image = jnp.full((6, 6), 0.2)
    draws = jax.vmap(lambda key: noise.sample(key, image) - image)(jax.random.split(jax.random.key(0), 3000))
    np.testing.assert_allclose(np.asarray(draws).std(0) / noise.sd(image), 1.0, atol=0.1)
    likelihood = noise.likelihood(image)
    scores = jax.vmap(likelihood.score)(draws)
    # the expectation of residual times score is minus one for every pixel: integration by parts
    np.testing.assert_allclose((draws * scores).mean(), -1.0, atol=0.05)
    np.testing.assert_allclose(likelihood.score(draws[0]), jax.grad(likelihood.log_prob)(draws[0]), rtol=2e-2, atol=2e-2 * float(jnp.abs(scores[0]).max()))


def test_the_measured_noise_of_cosmos():
    pytest.importorskip("galsim", reason="the measured correlation function comes with galsim (the extra `noise`)")
    noise = cosmos_f814w((64, 64))
    draw = noise.sample(jax.random.key(0), jnp.zeros((64, 64)))
    np.testing.assert_allclose(draw.std(), noise.sd(draw)[0, 0], rtol=0.05)
    assert np.corrcoef(draw[:, 1:].ravel(), draw[:, :-1].ravel())[0, 1] > 0.1


def test_more_hits_than_tracks_and_masks():
    image, touched = CosmicRays(rate=1.0, max_hits=5).tracks(jax.random.key(0), (16, 16), 100.0)
    assert np.isfinite(image).all() and touched.any() and not touched.all()
    mask = bad_columns(jax.random.key(0), (16, 16), 1.0)
    assert mask[-1].all()
    likelihood = GaussianLikelihood(masked_sd(jnp.ones((16, 16)), mask))
    assert np.isfinite(likelihood.log_prob(jnp.where(mask, jnp.nan, 0.0)))


def test_midpoints_and_means_agree_where_light_is_smooth():
    f = lambda x, y: jnp.exp(-(x**2) - 2 * y**2)
    means, _ = pixel_means(f, (20, 20), 0.1)
    np.testing.assert_allclose(means, bin_pixels(f(*pixel_grid((20, 20), 0.1, 8)), 8), rtol=2e-4)
