"""The No-U-Turn sampler: moments, invariances, and runs that must be seen to have failed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lensnb.core import InputError, LensnbError
from lensnb.inference.mcmc import MCMC, Chains, laplace_covariance, nuts

pytestmark = pytest.mark.relaxed  # BlackJAX promotes dtypes


class Gaussian:
    """A normal density whose constants are arguments, so that one program serves every test of a dimension."""

    def __init__(self, d, seed):
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
        self.sd = np.geomspace(0.03, 30, d)
        self.cov = (basis * self.sd**2) @ basis.T
        self.mean = rng.standard_normal(d)
        self.args = tuple(jnp.asarray(a, dtype=float) for a in (self.mean, np.diag(1 / self.sd) @ basis.T))

    def starts(self, n=4, wide=2.0, seed=0):
        return self.mean + wide * np.random.default_rng(seed).multivariate_normal(np.zeros(len(self.mean)), self.cov, n)


def normal(theta, mean, root):
    return -0.5 * jnp.sum((root @ (theta - mean)) ** 2)


def within_errors(run, g, sigmas=4.5):
    """Mean and variance along the principal axes within Monte-Carlo error."""
    u = (run.flat - g.mean) @ np.asarray(g.args[1], np.float64).T
    ess = run.ess_bulk.min()
    assert np.abs(u.mean(0)).max() < sigmas / np.sqrt(ess)
    assert np.abs(u.var(0) - 1).max() < sigmas * np.sqrt(2 / min(ess, run.ess_tail.min()))


@pytest.mark.parametrize("d", [2, 20])
def test_moments_whitened(d):
    g = Gaussian(d, seed=d)
    run = nuts(normal, g.starts(), jax.random.key(d), 400, 150, args=g.args, whiten=g.cov, progress=False)
    within_errors(run, g)
    assert run.n_divergences == 0 and run.rhat.max() < 1.03
    assert run.samples.shape == (4, 400, d) and run.flat.shape == (1600, d)
    assert np.isfinite(run.log_density).all() and 0.6 < run.accept.mean() < 0.99


def test_moments_by_window_adaptation():
    g = Gaussian(5, seed=5)
    run = nuts(normal, g.starts(), jax.random.key(5), 400, 400, args=g.args, progress=False)
    within_errors(run, g)
    assert run.gradients.mean() < 16  # the mass matrix was found: a bare identity needs hundreds


def test_recorded_density_is_the_given_one():
    g = Gaussian(2, seed=2)
    run = nuts(normal, g.starts(), jax.random.key(0), 8, 20, args=g.args, whiten=g.cov, progress=False)
    expected = jax.vmap(lambda t: normal(t, *g.args))(jnp.asarray(run.flat))
    np.testing.assert_allclose(run.log_density.ravel(), expected, rtol=1e-3, atol=1e-3)


def test_affine_invariance(x64):
    """Sampling A theta + b with the covariance carried along gives the same draws, carried along."""
    g = Gaussian(2, seed=2)
    A, b = np.array([[1e-6, 0.0], [3.0, 50.0]]), np.array([1e-3, 70.0])
    def carried(u, mean, root):
        return normal(jnp.linalg.solve(jnp.asarray(A), u - jnp.asarray(b)), mean, root)

    args = tuple(jnp.asarray(np.asarray(a), dtype=float) for a in g.args)
    starts = g.starts()
    one = nuts(normal, starts, jax.random.key(3), 40, 60, args=args, whiten=g.cov, progress=False)
    two = nuts(carried, starts @ A.T + b, jax.random.key(3), 40, 60, args=args, whiten=A @ g.cov @ A.T, progress=False)
    assert one.samples.dtype == np.float64
    np.testing.assert_allclose((two.samples - b) @ np.linalg.inv(A).T, one.samples, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(one.gradients, two.gradients)


def test_same_key_same_draws_and_vectorised_alike():
    g = Gaussian(2, seed=2)
    options = dict(args=g.args, whiten=g.cov, progress=False)
    runs = [nuts(normal, g.starts(), jax.random.key(9), 40, 50, **options, **more)
            for more in ({}, {}, {"together": True})]
    np.testing.assert_array_equal(runs[0].samples, runs[1].samples)
    # in float32 the two programs round differently and part after a while
    np.testing.assert_allclose(runs[2].flat.std(0), runs[0].flat.std(0), rtol=0.6)
    assert runs[2].samples.shape == runs[0].samples.shape


def bimodal(theta):
    return jnp.logaddexp(-0.5 * jnp.sum((theta - 6) ** 2), -0.5 * jnp.sum((theta + 6) ** 2))


def test_second_mode_is_seen_only_from_dispersed_starts():
    noise = np.random.default_rng(1).standard_normal((4, 2))
    options = dict(whiten=np.eye(2), progress=False)
    apart = nuts(bimodal, noise + 6 * np.array([1, -1, 1, -1])[:, None], jax.random.key(0), 300, 100, **options)
    together = nuts(bimodal, noise + 6, jax.random.key(0), 300, 100, **options)
    assert apart.rhat.min() > 1.4 and any("R-hat" in p for p in apart.problems)
    assert together.rhat.max() < 1.05  # half the posterior is missing and nothing can tell
    single = nuts(bimodal, noise[:1] + 6, jax.random.key(0), 300, 100, **options)
    assert any("One chain" in p for p in single.problems)


def test_deep_trees_are_reported():
    g = Gaussian(2, seed=2)
    run = nuts(normal, g.starts(), jax.random.key(0), 40, 20, args=g.args, whiten=np.eye(2) * 1e-6, max_treedepth=3,
               progress=False)
    assert run.n_saturated > 0 and any("tree depth" in p for p in run.problems)


def test_nan_beyond_a_boundary_is_a_divergence_not_a_crash():
    def half(theta):
        return jnp.sum(jnp.where(theta > 0, -0.5 * theta**2, jnp.nan))

    run = nuts(half, np.array([[1.0], [1.3]]), jax.random.key(0), 300, 200, whiten=np.eye(1), progress=False)
    assert np.isfinite(run.samples).all() and (run.samples > 0).all() and run.n_divergences > 0
    assert any("diverged" in p for p in run.problems)


def made(samples):
    """Chains with these draws and unremarkable statistics."""
    shape = samples.shape[:2]
    return Chains(np.asarray(samples, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool),
                  np.full(shape, 0.8, np.float32), np.full(shape, 7), np.ones(shape[0], np.float32),
                  np.full(shape[0], 700), 1.0, 10, tuple("abcdefgh"[: samples.shape[2]]))


def test_diagnostics_of_made_up_chains():
    draws = np.random.default_rng(0).standard_normal((4, 500, 3))
    assert made(draws).problems == () and made(draws).n_gradients == 4 * 500 * 7 + 4 * 700
    shifted, stuck, wider, absent = (draws.copy() for _ in range(4))
    shifted[0, :, 1] += 1
    stuck[2, :, 2] = 0.3
    wider[3, :, 0] *= 4  # same mean: only the folded half of rank-normalised R-hat sees it
    absent[1, 3, 1] = np.nan
    assert "for b " in made(shifted).problems[0]
    assert np.isnan(made(stuck).rhat[2]) and "for c " in made(stuck).problems[0]
    assert made(wider).rhat[0] > 1.05
    assert np.isnan(made(absent).rhat).all() and made(absent).problems
    slow = np.cumsum(draws, axis=1)
    assert any("effective draws" in p for p in made(slow).problems)


def test_chains_show_themselves_and_become_arviz():
    run = made(np.random.default_rng(0).standard_normal((4, 100, 2)))
    assert "R-hat" in repr(run) and "<table>" in run._repr_html_() and len(run.table) == 2
    data = run.to_arviz()
    assert list(data.posterior.data_vars) == ["a", "b"] and data.posterior["a"].shape == (4, 100)
    assert int(data.sample_stats["diverging"].sum()) == 0


def test_laplace_covariance(x64):
    g = Gaussian(4, seed=4)
    args = tuple(jnp.asarray(np.asarray(a), dtype=float) for a in g.args)
    np.testing.assert_allclose(laplace_covariance(normal, jnp.asarray(g.mean), *args), g.cov, rtol=1e-3, atol=1e-4)
    saddle = laplace_covariance(lambda t: -0.5 * t[0] ** 2 + 0.1 * t[1] ** 2, jnp.zeros(2))
    assert np.linalg.eigvalsh(saddle).min() > 0
    with pytest.raises(InputError, match="not finite"):
        laplace_covariance(lambda t: jnp.log(t[0]), jnp.zeros(1))


@pytest.mark.parametrize("starts, options, message", [
    (np.zeros(3), {}, "one row a chain"),
    (np.zeros((0, 3)), {}, "one row a chain"),
    (np.full((2, 2), np.inf), {}, "not finite"),
    (np.zeros((2, 2)), {"n_samples": 2}, "at least 4"),
    (np.zeros((2, 2)), {"n_warmup": -1}, "not negative"),
    (np.zeros((2, 2)), {"names": ["a"]}, "1 names for 2"),
    (np.zeros((2, 2)), {"whiten": np.eye(3)}, "shape"),
    (np.zeros((2, 2)), {"whiten": np.array([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
    (np.zeros((2, 2)), {"whiten": np.zeros((2, 2))}, "positive definite"),
    (np.zeros((2, 2)), {"whiten": np.full((2, 2), np.nan)}, "finite"),
])
def test_what_cannot_be_sampled_is_refused(starts, options, message):
    with pytest.raises(InputError, match=message):
        nuts(lambda t: -jnp.sum(t**2), starts, jax.random.key(0), progress=False, **options)


def test_start_outside_the_support_is_named():
    with pytest.raises(InputError, match="at start 1"):
        nuts(lambda t: jnp.sum(jnp.log(t)), np.array([[1.0], [-1.0]]), jax.random.key(0), progress=False)


class Unit:
    """A uniform prior on (0, 1)^2 with what `MCMC` asks of a prior."""

    names = ("a", "b")
    sample = staticmethod(lambda key: jax.random.uniform(key, (2,)))
    constrain = staticmethod(jax.nn.sigmoid)
    unconstrain = staticmethod(lambda theta: jnp.log(theta) - jnp.log1p(-theta))
    log_prob = staticmethod(lambda theta: jnp.zeros(()))
    log_prob_unconstrained = staticmethod(lambda z: jnp.sum(jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)))


def test_posterior_without_data_is_the_prior():
    posterior = MCMC(Unit(), lambda theta, y: jnp.zeros(()), n_warmup=200)
    run = posterior.chains(jax.random.key(1), jnp.zeros(1), 400)
    assert run.names == ("a", "b") and (run.samples > 0).all() and (run.samples < 1).all()
    error = 4.5 / np.sqrt(run.ess_bulk)
    assert (np.abs(run.flat.mean(0) - 0.5) < error * np.sqrt(1 / 12)).all()
    assert np.abs(run.flat.var(0) - 1 / 12).max() < 0.02
    assert posterior.sample(jax.random.key(2), jnp.zeros(1), 7).shape == (7, 2)
    with pytest.raises(LensnbError, match="no log-density"):
        posterior.log_prob(jnp.array([0.5, 0.5]), jnp.zeros(1))


def test_real_prior_satisfies_the_sampler():
    prior_module = pytest.importorskip("lensnb.simulator.prior")
    import numpyro.distributions as dist

    prior = prior_module.Prior({"m": dist.Normal(0.0, 1.0), "s": dist.Uniform(0.0, 2.0)})
    posterior = MCMC(prior, lambda theta, y: -0.5 * jnp.sum((theta[:1] - y) ** 2) / 0.5**2, n_warmup=200)
    run = posterior.chains(jax.random.key(1), jnp.array([1.0]), 300)
    mean, sd = 1.0 / (1 + 0.25), np.sqrt(0.25 / 1.25)  # conjugate normal
    assert abs(run.flat[:, 0].mean() - mean) < 4.5 * sd / np.sqrt(run.ess_bulk[0])
    assert abs(run.flat[:, 1].mean() - 1.0) < 4.5 * np.sqrt(1 / 3) / np.sqrt(run.ess_bulk[1])


def test_a_few_draws_are_not_a_disagreement():
    """The same R-hat means little after a hundred draws and much after thousands."""
    rng = np.random.default_rng(0)
    few, many = (rng.standard_normal((4, n, 1)) for n in (125, 20_000))
    few[0], many[0] = few[0] + 0.35, many[0] + 0.3

    def said(samples):
        each = np.zeros(samples.shape[:2])
        return Chains(samples, each, each > 0, each, each.astype(int), np.ones(4), np.ones(4, int), 1.0, 10, ("a", "b")[:samples.shape[2]]).problems[0]

    assert "R-hat is above 1.01 for a" in said(few) and "more would tell" in said(few)
    assert "the chains disagree" in said(many)
    assert "the chains disagree" in said(np.concatenate([many[:, :125], few], axis=2) + 3 * np.arange(4).reshape(-1, 1, 1) * [[[0, 1]]])
    many[1] = np.nan
    assert "the chains disagree" in said(many)
