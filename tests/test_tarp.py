"TARP against its definition in a few lines of NumPy, its null calibration, and what it refuses."

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lensnb.core import InputError
from lensnb.validation.tarp import counts_closer, reference_points, tarp_coverage


def by_definition(samples, theta, points, bins, order=2):
    "f, strictly closer; compared with alpha in whole numbers."
    n = len(samples)
    far = np.linalg.norm(theta - points, order, axis=-1)
    closer = (np.linalg.norm(samples - points, order, axis=-1) < far).sum(0)
    return np.array([0.0, *(np.mean(closer * bins < j * n) for j in range(1, bins)), 1.0])


def drawn(n_samples, n_sims, n_dims, seed, dtype=np.float64):
    "Samples, truths and references, the same distribution."
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape, dtype=dtype) for shape in ((n_samples, n_sims, n_dims), (n_sims, n_dims), (n_sims, n_dims)))


@pytest.mark.parametrize("n_dims", [1, 2, 10, 100, 10_000])
@pytest.mark.parametrize(("metric", "order"), [("euclidean", 2), ("manhattan", 1)])
def test_definition(n_dims, metric, order):
    samples, theta, points = drawn(13, 21, n_dims, seed=n_dims)
    ecp, alpha = tarp_coverage(samples, theta, points, metric, num_alpha_bins=26)
    np.testing.assert_allclose(ecp, by_definition(samples, theta, points, 26, order), atol=1e-12)
    np.testing.assert_allclose(alpha, np.arange(27) / 26, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(2, 30), st.integers(1, 5), st.integers(1, 40), st.integers(0, 10**6))
def test_definition_on_a_lattice_with_many_ties(n_samples, n_sims, n_dims, bins, seed):
    rng = np.random.default_rng(seed)
    samples, theta, points = (rng.integers(-2, 3, shape).astype(float) for shape in ((n_samples, n_sims, n_dims), (n_sims, n_dims), (n_sims, n_dims)))
    before = samples.copy(), theta.copy(), points.copy()
    ecp, _ = tarp_coverage(samples, theta, points, "manhattan", num_alpha_bins=bins)
    np.testing.assert_allclose(ecp, by_definition(samples, theta, points, bins, 1), atol=1e-12)
    tarp_coverage(samples, theta, points, num_bootstrap=3, key=seed, num_alpha_bins=bins)
    assert all((a == b).all() for a, b in zip(before, (samples, theta, points), strict=True))


def test_arrays_of_everybody_and_images():
    samples, theta, points = drawn(20, 30, 12, seed=0, dtype=np.float32)
    ecp = tarp_coverage(samples, theta, points)[0]
    np.testing.assert_array_equal(tarp_coverage(jax.numpy.asarray(samples), jax.numpy.asarray(theta), jax.numpy.asarray(points))[0], ecp)
    image = lambda a: a.reshape(*a.shape[:-1], 3, 4)
    np.testing.assert_array_equal(tarp_coverage(image(samples), image(theta), image(points))[0], ecp)
    assert ecp.shape == (4,)
    curves, alpha = tarp_coverage(samples, theta, key=jax.random.key(3), num_bootstrap=50, num_alpha_bins=7)
    assert curves.shape == (50, 8)
    assert (curves[:, 0] == 0).all()
    assert (curves[:, -1] == 1).all()
    assert alpha[-1] == 1


def test_units_do_not_matter_where_dimensions_are_rescaled():
    samples, theta, points = drawn(30, 40, 3, seed=1)
    unit = np.array([1e-6, 1.0, 1e6])
    plain = tarp_coverage(samples, theta, points, norm=True)[0]
    np.testing.assert_array_equal(tarp_coverage(samples * unit, theta * unit, points * unit, norm=True)[0], plain)
    np.testing.assert_array_equal(tarp_coverage(samples * unit, theta * unit, "box", norm=True, key=0)[0], tarp_coverage(samples, theta, "box", norm=True, key=0)[0])
    constant = theta.copy()
    constant[:, 1] = 2.0
    assert np.isfinite(tarp_coverage(samples, constant, points, norm=True)[0]).all()


def test_references_never_are_the_own_truth():
    theta = np.arange(50.0)[:, None]
    for seed in range(50):
        assert (reference_points(theta, "random", jax.random.key(seed)) != theta).all()


@pytest.mark.parametrize(("n_samples", "n_sims", "n_dims"), [(60, 70, 300), (3, 9, 70_000), (400, 50, 3), (1, 1, 1)])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_single_precision_counts_as_double_does(n_samples, n_sims, n_dims, metric):
    samples, theta, points = drawn(n_samples, n_sims, n_dims, seed=4, dtype=np.float32)
    samples[::3] = theta  # ties
    samples[1::3] = points - np.roll(theta - points, 1, 1)  # as far as the truth, but for what rounding makes of it
    exact = counts_closer(samples.astype(float), theta.astype(float), points.astype(float), metric)
    np.testing.assert_array_equal(counts_closer(samples, theta, points, metric), exact)
    assert (counts_closer(np.broadcast_to(theta, samples.shape), theta, points, metric) == 0).all()


def test_one_value_that_is_not_finite_is_found():
    samples, theta, points = drawn(90, 40, 50, seed=5, dtype=np.float32)
    for bad, says in ((np.nan, "holds NaN in 1 of 40"), (-np.inf, "infinite values")):
        broken = samples.copy()
        broken[77, 31, 12] = bad
        with pytest.raises(InputError, match=says):
            tarp_coverage(broken, theta, points)


@pytest.mark.parametrize(("arguments", "says"), [
    (dict(samples=np.zeros((3, 4))), "n_samples, n_sims, n_dims"),
    (dict(theta=np.zeros((5, 2))), "n_samples, n_sims, n_dims"),
    (dict(samples=np.zeros((0, 4, 2))), "nothing to count"),
    (dict(samples=np.full((3, 4, 2), np.inf)), "infinite values"),
    (dict(theta=np.full((4, 2), np.nan)), "holds NaN"),
    (dict(samples=np.zeros((3, 4, 2), complex)), "real numbers"),
    (dict(references="prior"), "references is"),
    (dict(references=np.zeros((2, 2))), "one finite point"),
    (dict(references=np.full((4, 2), np.nan)), "one finite point"),
    (dict(references=(1.0, -1.0)), "The box"),
    (dict(references=lambda data: data), "give them, data="),
    (dict(metric="chebyshev"), "metric is"),
    (dict(num_alpha_bins=0), "num_alpha_bins"),
    (dict(num_bootstrap=-1), "num_bootstrap"),
    (dict(key=None), "give a key"),
    (dict(samples=np.zeros((3, 1, 2)), theta=np.zeros((1, 2))), "fewer than two simulations"),
], ids=range(16))
def test_what_cannot_be_used_is_said(arguments, says):
    with pytest.raises(InputError, match=says):
        tarp_coverage(**(dict(samples=np.zeros((3, 4, 2)), theta=np.zeros((4, 2)), key=0) | arguments))


def test_one_sample_is_enough_to_count():
    samples, theta, points = drawn(1, 25, 2, seed=2)
    ecp, alpha = tarp_coverage(samples, theta, points, num_alpha_bins=5)
    np.testing.assert_allclose(ecp, by_definition(samples, theta, points, 5), atol=1e-12)
