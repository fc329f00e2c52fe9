"""The exact engine: likelihood against closed forms, gradients in double precision, optimum on noise-free data, real lenses."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal
from scipy.signal import fftconvolve

from lensnb.core import InputError
from lensnb.inference.analyse.arcs import ring_radius
from lensnb.inference.analyse.blur import Blur, trim_psf
from lensnb.inference.analyse.descent import levenberg, newton_terms
from lensnb.inference.analyse.inversion import curvature, regularised
from lensnb.inference.analyse.lens_light import GaussianExpansion, fit_lens_light, galaxy_center
from lensnb.inference.analyse.marginal import Nuisance, log_marginal
from lensnb.inference.analyse.model import ArcModel, build_model, lens_prior, make_lens
from lensnb.inference.analyse.optimum import find_optimum, start_vector
from lensnb.inference.analyse.source import Lattice
from lensnb.simulator.light import Sersic
from lensnb.simulator.scene import Scene
from lensnb.simulator.telescope import HST_ACS_F814W

pytestmark = pytest.mark.relaxed  # the priors are NumPyro's

TRUTH = dict(theta_E=1.05, e1=0.12, e2=-0.06, gamma1=0.03, gamma2=-0.02, center_x=0.01, center_y=-0.01)
SOURCE = dict(source_x=0.1, source_y=0.05, source_R_e=0.15, source_n=1.0, source_e1=0.2, source_e2=0.0)


def lens_cutout(noise=0.01, seed=None, n=60):
    """A lens without lens light; without a seed, also without noise."""
    hst = HST_ACS_F814W(shape=(n, n))
    source = Sersic(I_e=8.0, R_e=0.15, n=1.0, e1=0.2, center_x=0.1, center_y=0.05)
    image = np.asarray(Scene(make_lens({k: jnp.asarray(v) for k, v in TRUTH.items()}), source, hst).image(), dtype=np.float64)
    added = 0.0 if seed is None else noise * np.random.default_rng(seed).normal(size=image.shape)
    return SimpleNamespace(data=image + added, noise=np.full(image.shape, noise), psf=np.asarray(hst.psf, dtype=np.float64),
                           mask=np.zeros(image.shape, bool), pixel_scale=0.05)


def arc_model(cutout, lattice=None):
    """The density of that cutout within 1.5 arcsec, with a Sérsic source or one on a lattice."""
    light = fit_lens_light(cutout, galaxy=False)
    n = cutout.data.shape[0]
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) * 0.05
    return light, build_model(cutout, light, np.hypot(x, y) < 1.45, lens_prior(light, sersic=lattice is None), lattice=lattice)


def test_marginal_likelihood_is_the_dense_gaussian(x64):
    """Components and nuisance integrated out, against the full covariance."""
    keys = jax.random.split(jax.random.key(0), 3)
    phi, psi = 3 * jax.random.normal(keys[0], (4, 30)), 50 * jax.random.normal(keys[1], (2, 30))
    y = jax.random.normal(keys[2], (30,))
    cov = jnp.eye(30) + phi.T @ phi + psi.T @ psi
    nuisance = Nuisance(np.asarray(psi))
    ours = log_marginal(nuisance(y), nuisance(phi)) + nuisance.log_det
    np.testing.assert_allclose(ours, multivariate_normal.logpdf(y, jnp.zeros(30), cov), rtol=1e-10)


def test_gradients_with_and_without_the_pixels_that_do_not_count(x64):
    """Every parameter of the full density against finite differences; the guided one, of the whole box and packed."""
    light, model = arc_model(lens_cutout(seed=0), Lattice(6, (0.1, 0.05), 0.3))
    z = jnp.asarray(start_vector(model.prior, {**TRUTH, **SOURCE}, light)) + 0.01
    value, slope = eqx.filter_jit(lambda model, z: jax.value_and_grad(model.log_density)(z))(model, z)
    steps = 1e-5 * jnp.concatenate([jnp.eye(z.size), -jnp.eye(z.size)])
    ahead, behind = eqx.filter_jit(lambda model, z: jax.lax.map(model.log_density, z))(model, z + steps).reshape(2, -1)
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-3)
    guided, packed = eqx.filter_jit(lambda model, z, s: jax.value_and_grad(model.guided_density)(z, s)), model.packed()
    _, plain = guided(model, z, jnp.zeros_like(z))
    assert packed.weight.size == model.n_pixels < model.weight.size
    for one in (model, packed):
        same, guide = guided(one, z, slope - plain)
        np.testing.assert_allclose(same, value, rtol=1e-12)
        np.testing.assert_allclose(guide, slope, rtol=1e-8, atol=1e-8)


def test_newton_terms_agree_with_the_density(x64):
    """The objective's gradient is that of the density but for the determinant; H is symmetric and positive."""
    light, model = arc_model(lens_cutout(seed=0))
    z = jnp.asarray(start_vector(model.prior, {**TRUTH, **SOURCE}, light)) + 0.01
    F, gradient, H, log_density = newton_terms(model, z)
    np.testing.assert_allclose(log_density, eqx.filter_jit(ArcModel.log_density)(model, z), rtol=1e-10)
    for k in range(z.size):
        step = jnp.zeros_like(z).at[k].set(1e-5)
        secant = (newton_terms(model, z + step)[0] - newton_terms(model, z - step)[0]) / 2e-5
        np.testing.assert_allclose(gradient[k], secant, rtol=1e-4, atol=1e-3)
    assert np.linalg.eigvalsh(np.asarray(H)).min() > 0


def test_truth_on_noise_free_data(x64):
    """A start 15% off in the Einstein radius ends on the truth."""
    light, model = arc_model(lens_cutout(noise=0.003))
    z = start_vector(model.prior, dict(theta_E=1.2, size=0.2, source_x=0.0, source_y=0.0), light)
    end = levenberg(model, z, 60, tolerance=1e-3)
    found = dict(zip(model.prior.names, np.asarray(model.prior.constrain(jnp.asarray(end.z)))))
    for name, value in TRUTH.items():
        assert found[name] == pytest.approx(value, abs=3e-3), name


def test_blur_is_a_convolution():
    """An asymmetric PSF keeps its orientation; a large one is trimmed."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-10:11, -8:9]
    psf = np.exp(-(x**2 + 0.5 * x * y + 0.6 * y**2) / 6) + 0.05 * np.exp(-((x - 3) ** 2 + y**2) / 2)
    psf /= psf.sum()
    image = rng.gamma(0.2, size=(2, 50, 46))
    blur = Blur(psf, (30, 30))
    exact = np.stack([fftconvolve(one, psf, mode="valid") for one in image])
    np.testing.assert_allclose(np.asarray(blur(jnp.asarray(image, dtype=float))), exact, atol=1e-5 * exact.max())
    assert trim_psf(np.ones((101, 101)) / 101**2).shape == (31, 31)


def test_gaussians_keep_flux_and_place():
    """Unit flux, the centre where it is asked for, and elongation along the position angle."""
    psf = np.zeros((5, 5))
    psf[2, 2] = 1.0
    expansion = GaussianExpansion((60, 80), 0.05, psf, np.array([0.1, 0.2]))
    images = np.asarray(expansion(jnp.asarray([0.3, -0.2, 0.2, 0.0, 0.2, 0.0])), dtype=np.float64)
    y, x = (np.indices((60, 80)) - np.array([29.5, 39.5])[:, None, None]) * 0.05
    for image in images:
        assert image.sum() == pytest.approx(1.0, abs=1e-3)
        assert (image * x).sum() == pytest.approx(0.3, abs=1e-3)
        assert (image * y).sum() == pytest.approx(-0.2, abs=1e-3)
        assert (image * (x - 0.3) ** 2).sum() > (image * (y + 0.2) ** 2).sum()


def test_the_lattice_is_the_sum_of_its_gaussians(x64):
    """Value and slopes against a plain sum, and the flux of each Gaussian."""
    lattice, a = Lattice(5, (0.1, -0.2), 0.4), jax.random.normal(jax.random.key(0), (25,))
    x, y = 0.4 * jax.random.normal(jax.random.key(1), (2, 3, 7))
    nodes = np.stack([np.tile(np.linspace(-0.3, 0.5, 5), 5), np.repeat(np.linspace(-0.6, 0.2, 5), 5)])
    plain = lambda s: jnp.einsum("k,k...->...", a, jnp.exp(-(((s * x)[None] - nodes[0][:, None, None]) ** 2
                                                             + ((s**2 * y)[None] - nodes[1][:, None, None]) ** 2) / (2 * 0.16**2)))
    quick = lambda s: lattice.brightness(a, s * x, s**2 * y)
    np.testing.assert_allclose(quick(1.1), plain(1.1), rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(quick)(1.1), jax.jacfwd(plain)(1.1), rtol=1e-10)
    np.testing.assert_allclose(jax.grad(lambda s: quick(s).sum())(1.1), jax.grad(lambda s: plain(s).sum())(1.1), rtol=1e-10)
    np.testing.assert_allclose(jnp.einsum("k,k...->...", a, lattice.components(x, y)), plain(1.0).mean(0), rtol=1e-10)
    envelope = lattice.envelope(a)
    assert envelope.min() >= 0.03 * envelope.max() * (1 - 1e-12) and envelope.max() <= jnp.abs(a).max()


def test_regularised_inversion_on_a_known_answer():
    """The chosen strength leaves chi2 near the effective degrees of freedom."""
    rng, n = np.random.default_rng(0), 10
    y, x = np.indices((n, n)) - 4.5
    truth = 20 * np.exp(-(x**2 + y**2) / 8).ravel()
    L = rng.normal(size=(400, n * n)) / 10
    data = L @ truth + 3.0 + rng.normal(size=400)
    found = regularised(L, np.full((400, 1), 10.0), data, curvature(n))
    assert found["chi2"] / (400 - found["used"]) == pytest.approx(1.0, abs=0.25)
    assert np.corrcoef(found["x"], truth)[0, 1] > 0.95


def test_what_cannot_be_fitted_is_said():
    """Blank images, fully masked images, no arcs: one sentence each."""
    cutout = lens_cutout(seed=1)
    with pytest.raises(InputError, match="unmask"):
        fit_lens_light(SimpleNamespace(**{**vars(cutout), "mask": np.ones((60, 60), bool)}))
    blank = SimpleNamespace(**{**vars(cutout), "data": 0.01 * np.random.default_rng(0).normal(size=(60, 60))})
    light = fit_lens_light(blank)
    assert not light.present
    with pytest.raises(InputError, match="arcs"):
        find_optimum(blank, light)
    with pytest.raises(InputError, match="SIE or EPL"):
        lens_prior(light, "NFW")
    with pytest.raises(InputError, match="No arcs"):
        ring_radius(np.zeros((60, 60)), np.hypot(*(np.mgrid[:60, :60] - 29.5)) * 0.05, 0.05, 0.1)


def test_no_galaxy_is_seen_in_bare_arcs():
    """A ring alone has no centre that shines on all sides."""
    cutout = lens_cutout(seed=2)
    assert galaxy_center(cutout.data, cutout.noise, ~cutout.mask, 0.05) is None


@pytest.mark.slow
def test_slacs_j0946(shared_data):
    """HST with lens light: the published ring, three starts in agreement, the outer ring left alone."""
    read_cutout = pytest.importorskip("lensnb.inference.analyse.cutout").read_cutout
    folder = shared_data / "lenses" / "slacs0946+1006"
    path = lambda name: str(folder / f"{name}.fits.gz")
    cutout = read_cutout(path("data"), noise_map=path("noise_map"), psf=path("psf"), pixel_scale=0.05)
    optimum = find_optimum(cutout, fit_lens_light(cutout))
    assert 1.33 < optimum.parameters["theta_E"] < 1.45
    assert optimum.agreement < 0.02
    y, x = (np.indices(cutout.data.shape) - 140.0) * 0.05
    assert not optimum.mask[np.hypot(x, y) > 2.05].any()
