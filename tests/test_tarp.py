"TARP against its definition in a few lines of NumPy, its null calibration, and what it refuses."

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lensnb.core import InputError
from lensnb.validation.tarp import counts_closer, generator, reference_points, tarp_band, tarp_counts, tarp_coverage, tarp_pvalue
from scipy import stats


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


def classes(n_classes, n_dims, n_samples=9, n_sims=2000, seed=0):
    "The exact posterior of classes that are equally frequent: seven times in ten the datum is the class, else anything."
    rng = np.random.default_rng(seed)
    shape = n_sims, n_dims
    theta, noise = rng.integers(0, n_classes, (2, *shape))
    seen = np.where(rng.random(shape) < 0.7, theta, noise)
    odds = np.full(n_classes, 0.3 / n_classes) + 0.7 * (seen[..., None] == np.arange(n_classes))
    samples = (rng.random((n_samples, *shape))[..., None] > odds.cumsum(-1)).sum(-1)
    return samples, theta


@pytest.mark.parametrize(("n_classes", "n_dims"), [(2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize(("of_draws", "of_truths"), [(int, int), (float, float), (np.float32, float)])
def test_the_exact_posterior_of_classes_passes(n_classes, n_dims, of_draws, of_truths):
    """Dealt references equal the truth in one of three simulations, draws in most."""
    samples, theta = classes(n_classes, n_dims)
    if of_truths is float:
        samples, theta = (0.1 * samples).astype(of_draws), 0.1 * theta
    strict = tarp_counts(samples, theta, key=1)
    counts = tarp_counts(samples, theta, key=1, ties=generator(1, "A tie", stream=2))
    assert stats.chisquare(np.bincount(counts, minlength=10)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(strict, minlength=10)).pvalue < 1e-9  # the definition
    assert tarp_pvalue(samples, theta, key=1) > 1e-3
    assert tarp_pvalue(samples, theta, np.full(theta.shape, 0.1)) > 1e-3  # no key
    assert tarp_pvalue(samples, theta, key=1) == tarp_pvalue(samples, theta, key=1)


def test_pvalues_of_classes_are_uniform():
    pvalues = [tarp_pvalue(*classes(3, 2, n_samples=19, n_sims=60, seed=seed), key=seed) for seed in range(300)]
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("order", ["C", "F"])
def test_ties_are_counted_exactly_and_shared_evenly(order):
    """Draws that are the truth, laid out in memory in two ways: their squares are summed as the truth's are."""
    samples, theta, points = drawn(40, 30, 50, seed=6, dtype=np.float32)
    samples[:25] = theta
    closer = counts_closer(samples, theta, points)
    samples = np.asarray(samples, order=order)
    np.testing.assert_array_equal(counts_closer(samples, theta, points), closer)
    shared = np.array([counts_closer(samples, theta, points, ties=np.random.default_rng(seed)) - closer for seed in range(100)])
    assert stats.chisquare(np.bincount(shared.ravel(), minlength=26)).pvalue > 1e-3
    assert len(np.bincount(shared.ravel())) == 26


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_boxes(dtype):
    rng = np.random.default_rng(7)
    theta = rng.integers(0, 2, (500, 3)).astype(dtype)
    for low, high in ((0.5, 1.5), (0, 1), (-1, 300), (np.array([0.0, 1.0, 2.0]), np.array([0.5, 3.0, 2.5]))):
        points = reference_points(theta, (low, high), key=0)
        assert points.dtype == np.result_type(dtype, np.float32)
        assert min(stats.kstest(column, "uniform").pvalue for column in ((points - low) / (np.subtract(high, low))).T) > 1e-3
    whole = reference_points(theta, "box", key=0)
    np.testing.assert_array_equal(whole, reference_points(theta, (0, 1), key=0))
    samples = rng.integers(0, 2, (8, 500, 3)).astype(dtype)
    np.testing.assert_array_equal(tarp_coverage(samples, theta, (0, 1), key=0)[0], tarp_coverage(samples, theta, whole)[0])


def test_boxes_of_images():
    samples, theta, _ = drawn(10, 20, 12, seed=8)
    low, high = np.arange(12.0) - 12, np.arange(12.0)
    image = lambda a: a.reshape(*a.shape[:-1], 3, 4)
    flat = tarp_counts(samples, theta, (low, high), key=0)
    np.testing.assert_array_equal(tarp_counts(image(samples), image(theta), (image(low), image(high)), key=0), flat)
    np.testing.assert_array_equal(tarp_counts(image(samples), image(theta), (low, 12.0), key=0), tarp_counts(samples, theta, (image(low), 12), key=0))


def test_norm_divides_differences_by_the_range_of_the_truths():
    samples, theta, points = (values * np.array([1.0, 30.0, 0.01]) for values in drawn(30, 40, 3, seed=9))
    width = theta.max(0) - theta.min(0)
    for metric, order in (("euclidean", 2), ("manhattan", 1)):
        ecp = tarp_coverage(samples, theta, points, metric, norm=True, num_alpha_bins=20)[0]
        np.testing.assert_allclose(ecp, by_definition(samples / width, theta / width, points / width, 20, order), atol=1e-12)
        assert (ecp != by_definition(samples, theta, points, 20, order)).any()
    small = np.array([[-100], [100]], np.int8)  # a range that int8 does not hold
    np.testing.assert_array_equal(tarp_counts(small[None], small[::-1], small, norm=True), tarp_counts(small[None].astype(float), small[::-1].astype(float), small, norm=True))


def test_bootstrap_is_multinomial():
    """Mean, scatter and how the values of a curve go together, against simulations drawn anew one by one."""
    samples, theta, points = drawn(15, 40, 2, seed=10)
    ecp, _ = tarp_coverage(samples, theta, points, num_alpha_bins=5)
    curves, _ = tarp_coverage(samples, theta, points, num_alpha_bins=5, num_bootstrap=20_000, key=0)
    cover = (np.minimum.outer(ecp, ecp) - np.outer(ecp, ecp)) / 40
    np.testing.assert_allclose(curves.mean(0), ecp, atol=5 * np.sqrt(cover.max() / 20_000))
    np.testing.assert_allclose(np.cov(curves.T, ddof=0), cover, atol=0.05 * cover.max())
    again = [by_definition(samples[:, who], theta[who], points[who], 5) for who in np.random.default_rng(0).integers(0, 40, (2000, 40))]
    np.testing.assert_allclose(np.std(again, 0), curves.std(0), rtol=0.08)


def test_references_are_resampled_along():
    """Every draw lies between the reference of its own simulation and the truth; those of other simulations are far off."""
    theta = 100.0 * np.arange(20)[:, None]
    samples, points = theta + np.linspace(-0.9, -0.1, 6)[:, None, None], theta - 1
    curves, _ = tarp_coverage(samples, theta, points, num_alpha_bins=6, num_bootstrap=50, key=0)
    np.testing.assert_array_equal(curves, np.broadcast_to([0, 0, 0, 0, 0, 0, 1], (50, 7)))
    assert by_definition(samples, theta, np.roll(points, 1), 6)[1] == 1 / 20  # they would show
    half = np.where(np.arange(20)[:, None] < 5, theta - 1, theta + 1)  # no draw is closer than the truth
    curves, _ = tarp_coverage(samples, theta, half, num_alpha_bins=6, num_bootstrap=4000, key=0)
    np.testing.assert_allclose(curves[:, 1:-1].mean(0), 0.75, atol=0.01)
    np.testing.assert_allclose(curves[:, 1:-1].std(0), np.sqrt(0.75 * 0.25 / 20), rtol=0.06)


def test_references_as_a_function_of_the_data():
    samples, theta, data = drawn(20, 30, 12, seed=11)
    asked = []

    def twice(data):
        asked.append(data)
        return 2 * data

    np.testing.assert_array_equal(tarp_counts(samples, theta, twice, data=data), tarp_counts(samples, theta, 2 * data))
    assert len(asked) == 1 and asked[0] is data
    image = data.reshape(30, 3, 4)
    np.testing.assert_array_equal(tarp_counts(samples, theta, twice, data=image), tarp_counts(samples, theta, 2 * data))
    assert tarp_pvalue(samples, theta, twice, data=data) == tarp_pvalue(samples, theta, 2 * data)


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
    (dict(references=np.zeros((4, 2), complex)), "`references` must hold real numbers"),
    (dict(references=[["a", "b"]] * 4), "`references` must hold real numbers"),
    (dict(references=[[0.0], [1.0, 2.0]]), "makes no array"),
    (dict(references=np.ma.masked_less(np.zeros((4, 2)), 1)), "masked in 8 of 8"),
    (dict(references=(np.zeros(3), 1.0)), "one for each of 2 dimensions"),
    (dict(references=("a", "b")), "`references` must hold real numbers"),
    (dict(references=(0, 1j)), "`references` must hold real numbers"),
    (dict(references=(0.0, 1e300), theta=np.zeros((4, 2), np.float32)), "not finite"),
    (dict(samples=np.ma.masked_less(np.zeros((3, 4, 2)), 1)), "masked in 24 of 24"),
    (dict(theta=[[0.0], [1.0, 2.0]]), "makes no array"),
    (dict(metric="chebyshev"), "metric is"),
    (dict(metric=["a"]), "metric is"),
    (dict(key=-1), "key = -1"),
    (dict(key=True), "key = True"),
    (dict(num_alpha_bins=0), "num_alpha_bins"),
    (dict(num_alpha_bins=True), "num_alpha_bins"),
    (dict(num_bootstrap=2.5), "num_bootstrap"),
    (dict(num_bootstrap=-1), "num_bootstrap"),
    (dict(key=None), "give a key"),
    (dict(samples=np.zeros((3, 1, 2)), theta=np.zeros((1, 2))), "fewer than two simulations"),
], ids=range(31))
def test_what_cannot_be_used_is_said(arguments, says):
    with pytest.raises(InputError, match=says):
        tarp_coverage(**(dict(samples=np.zeros((3, 4, 2)), theta=np.zeros((4, 2)), key=0) | arguments))


def test_one_sample_is_enough_to_count():
    samples, theta, points = drawn(1, 25, 2, seed=2)
    ecp, alpha = tarp_coverage(samples, theta, points, num_alpha_bins=5)
    np.testing.assert_allclose(ecp, by_definition(samples, theta, points, 5), atol=1e-12)


def test_band_is_a_band_of_fractions():
    low, high = tarp_band(np.linspace(0, 1, 5), 20, 50, level=1)
    np.testing.assert_array_equal([low, high], [[0] * 5, [1] * 5])
    with pytest.raises(InputError, match="level = 95"):
        tarp_band(np.linspace(0, 1, 5), 20, 50, level=95)
