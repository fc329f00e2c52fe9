"""Coverage and ranks against closed forms: discrete uniform ranks, conjugate Gaussians, binomial scatter."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lensnb.core import InputError
from lensnb.validation.coverage import (
    calibration,
    coverage_error,
    coverage_hpd,
    coverage_hpd_error,
    density_ranks,
    ecdf_band,
    expected_coverage,
    joint_pvalue,
    rank_ecdf,
    rank_pvalue,
    rank_statistics,
)


def conjugate(n_samples, n_sims, seed=0, width=1.0, shift=0.0):
    """N(0, 1) measured once with unit noise: posterior N(y/2, 1/2), its sd scaled and its mean shifted."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((n_sims, 1))
    y = theta + rng.standard_normal((n_sims, 1))
    return y / 2 + np.sqrt(0.5) * (width * rng.standard_normal((n_samples, n_sims, 1)) + shift), theta


def every_rank(n):
    """One simulation for each of the n + 1 ranks: a perfect posterior, exactly."""
    samples = np.broadcast_to(np.arange(n, dtype=float)[:, None, None], (n, n + 1, 1))
    return samples, np.arange(n + 1, dtype=float)[:, None] - 0.5


@given(n=st.integers(1, 60), level=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_perfect_posterior_has_its_level_for_any_number_of_draws(n, level):
    samples, theta = every_rank(n)
    np.testing.assert_array_equal(rank_statistics(samples, theta)[:, 0], np.arange(n + 1))
    np.testing.assert_allclose(expected_coverage(samples, theta, [level])[0, 0], level, atol=1e-12)
    density = np.tile(np.arange(n, dtype=float)[:, None], n + 1)
    np.testing.assert_allclose(coverage_hpd(theta[:, 0], density, [level])[0], level, atol=1e-12)


def test_levels_that_draws_can_resolve_count_whole_ranks():
    n = 19
    samples, theta = every_rank(n)
    for m in range(n // 2 + 1):
        level = 1 - 2 * m / (n + 1)
        inside = [expected_coverage(samples[:, [r]], theta[[r]], [level])[0, 0] for r in range(n + 1)]
        np.testing.assert_allclose(inside, [float(m <= r <= n - m) for r in range(n + 1)], atol=1e-9)


def test_equal_tails_are_order_statistics():
    """With 199 draws the 90% region runs between the 10th and the 190th smallest draw."""
    samples, theta = conjugate(199, 400, width=0.7)
    ordered = np.sort(samples, axis=0)
    inside = (theta > ordered[9]) & (theta < ordered[189])
    np.testing.assert_allclose(expected_coverage(samples, theta, [0.9])[0, 0], inside.mean(), atol=1e-12)


@pytest.mark.parametrize("width, shift", [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.0, 1.0), (0.7, -0.5)])
def test_conjugate_gaussian(width, shift):
    """Wrong width and shift, many draws: the coverage is Phi of the interval's ends in units of the true sd."""
    levels = np.array([0.5, 0.683, 0.954])
    n_sims = 4000
    measured = expected_coverage(*conjugate(999, n_sims, seed=7, width=width, shift=shift), levels)[:, 0]
    half = width * stats.norm.isf((1 - levels) / 2)
    expected = stats.norm.cdf(shift + half) - stats.norm.cdf(shift - half)
    np.testing.assert_array_less(np.abs(measured - expected), 4.5 * np.sqrt(expected * (1 - expected) / n_sims) + 0.003)


def test_ranks_follow_the_beta_binomial():
    """Draws of n values from Beta(a, b) in the truth's quantile: the rank of a uniform truth is beta-binomial."""
    n, n_sims, (a, b) = 12, 20_000, (2.0, 0.7)
    rng = np.random.default_rng(3)
    samples = rng.uniform(size=(n, n_sims, 1))
    theta = rng.beta(a, b, size=(n_sims, 1))
    counts = np.bincount(rank_statistics(samples, theta)[:, 0], minlength=n + 1)
    expected = n_sims * stats.betabinom.pmf(np.arange(n + 1), n, a, b)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 7, 20, 500])
def test_scatter_is_the_stated_error(n):
    levels, n_sims, repeats = np.array([0.3, 0.683, 0.954]), 50, 3000
    ranks = np.random.default_rng(n).integers(0, n, size=(n_sims * repeats, 1), endpoint=True)
    samples = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None], (n, n_sims * repeats, 1))
    weights = np.array([expected_coverage(samples[:, k::repeats], ranks[k::repeats] - 0.5, levels)[:, 0]
                        for k in range(300)])
    error = coverage_error(levels, n, n_sims)
    np.testing.assert_allclose(weights.std(axis=0), error, rtol=0.18, atol=1e-9)  # one draw has no tails, no scatter
    assert (error <= np.sqrt(levels * (1 - levels) / n_sims) + 1e-12).all()


def test_error_becomes_binomial_with_many_draws():
    levels = np.array([0.1, 0.683, 0.997])
    np.testing.assert_allclose(coverage_error(levels, 100_000, 10), np.sqrt(levels * (1 - levels) / 10), rtol=1e-3)


@pytest.mark.parametrize("n", [1, 7, 100])
def test_scatter_of_the_joint_coverage_is_the_stated_error(n):
    levels, n_sims, repeats = np.array([0.3, 0.683, 0.954]), 50, 2000
    truth, draws = np.split(np.random.default_rng(n).standard_normal((n + 1, n_sims * repeats), dtype=np.float32), [1])
    measured = [coverage_hpd(truth[0, k::repeats], draws[:, k::repeats], levels) for k in range(repeats)]
    error = coverage_hpd_error(levels, n, n_sims)
    np.testing.assert_allclose(np.mean(measured, axis=0), levels, atol=5 * error.max() / np.sqrt(repeats))
    np.testing.assert_allclose(np.std(measured, axis=0), error, rtol=0.08)
    assert (error <= np.sqrt(levels * (1 - levels) / n_sims) + 1e-12).all()
    np.testing.assert_allclose(coverage_hpd_error(levels, 100_000, n_sims), np.sqrt(levels * (1 - levels) / n_sims), rtol=1e-3)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_invariances(seed):
    rng = np.random.default_rng(seed)
    samples, theta = rng.standard_normal((15, 8, 3)), rng.standard_normal((8, 3))
    levels = [0.2, 0.683, 0.954]
    ranks, coverage = rank_statistics(samples, theta), expected_coverage(samples, theta, levels)
    np.testing.assert_array_equal(rank_statistics(rng.permutation(samples), theta), ranks)
    np.testing.assert_array_equal(rank_statistics(np.exp(samples), np.exp(theta)), ranks)
    np.testing.assert_array_equal(rank_statistics(-samples, -theta), 15 - ranks)  # no ties among reals
    np.testing.assert_array_equal(expected_coverage(-(samples**3), -(theta**3), levels), coverage)
    order = rng.permutation(8)
    np.testing.assert_allclose(expected_coverage(samples[:, order], theta[order], levels), coverage)
    assert (np.diff(coverage, axis=0) >= 0).all()


def test_ties_are_broken_evenly_and_reproducibly():
    """Integer parameters from a Poisson prior with the prior as posterior: ranks must still be uniform."""
    rng = np.random.default_rng(0)
    samples, theta = rng.poisson(1.0, (9, 20_000, 1)), rng.poisson(1.0, (20_000, 1))
    ranks = rank_statistics(samples, theta)
    assert stats.chisquare(np.bincount(ranks[:, 0], minlength=10)).pvalue > 1e-3
    np.testing.assert_array_equal(rank_statistics(samples, theta), ranks)
    assert (rank_statistics(samples, theta, seed=1) != ranks).any()
    np.testing.assert_allclose(expected_coverage(samples, theta, [0.683])[0, 0], 0.683, atol=0.015)


def test_arguments_are_left_alone_and_anything_array_like_is_taken():
    samples, theta = conjugate(30, 20)
    before = samples.copy(), theta.copy()
    expected = expected_coverage(samples, theta, [0.5])
    np.testing.assert_array_equal(samples, before[0])
    np.testing.assert_array_equal(theta, before[1])
    np.testing.assert_array_equal(expected_coverage(samples.tolist(), theta.tolist(), 0.5), expected)
    assert expected.shape == (1, 1) and isinstance(expected, np.ndarray)
    of_jax = expected_coverage(jnp.asarray(samples, dtype=float), jnp.asarray(theta, dtype=float), jnp.array([0.5]))
    np.testing.assert_allclose(of_jax, expected)


def test_band_holds_whole_curves_at_its_level():
    n, n_sims = 99, 200
    ranks = np.random.default_rng(1).integers(0, n, size=(n_sims, 1000), endpoint=True)
    z, ecdf = rank_ecdf(ranks, n)
    assert ecdf[0].max() == 0 and ecdf[-1].min() == 1 and z[0] == 0 and z[-1] == 1
    low, high = ecdf_band(z, n_sims, 0.9)
    inside = ((ecdf >= low[:, None]) & (ecdf <= high[:, None])).all(axis=0).mean()
    assert 0.88 < inside < 0.94  # counts are discrete: a little above 0.9
    pvalues = rank_pvalue(ranks[:, :300], n)
    assert 0.05 < (pvalues <= 0.1).mean() < 0.15 and stats.kstest(pvalues, "uniform").statistic < 0.1


def test_rank_pvalue_sees_bias_that_coverage_misses():
    """Shifted, and wider by as much as keeps the coverage."""
    wide = conjugate(99, 2000, seed=4, width=1.3, shift=0.75)
    assert abs(expected_coverage(*wide, [0.683])[0, 0] - 0.683) < 0.05
    assert rank_pvalue(rank_statistics(*wide), 99)[0] < 1e-3
    assert rank_pvalue(rank_statistics(*conjugate(99, 2000, seed=4)), 99)[0] > 1e-3


@pytest.mark.parametrize("n, n_sims", [(1, 5), (3, 4), (6, 3)])
def test_pvalue_is_exact(n, n_sims):
    """Of all outcomes that are equally likely, as many are as far as the p-value says, for each p-value that occurs."""
    outcomes = np.stack(np.meshgrid(*[np.arange(n + 1)] * n_sims)).reshape(n_sims, -1)
    pvalues = rank_pvalue(outcomes, n)
    for p in np.unique(pvalues):
        np.testing.assert_allclose((pvalues <= p * (1 + 1e-9)).mean(), p, rtol=1e-10)


def test_small_pvalues_keep_their_digits():
    """All ranks 0 among 100 simulations of one draw: as far as all ranks 1, and nothing is farther."""
    np.testing.assert_allclose(rank_pvalue(np.zeros((100, 1), int), 1), 2.0**-99, rtol=1e-9)
    np.testing.assert_allclose(rank_pvalue(np.zeros((900, 2), int), 1), 2.0**-899, rtol=1e-9)
    assert joint_pvalue(np.zeros((900, 2), int), 1) == 2 * rank_pvalue(np.zeros((900, 1), int), 1)[0]
    assert rank_pvalue(np.zeros((9000, 1), int), 1)[0] > 0  # too small for a number: the smallest there is


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_band_and_pvalue_agree(level):
    ranks = np.random.default_rng(0).integers(0, 30, size=(80, 400), endpoint=True)
    z, ecdf = rank_ecdf(ranks, 30)
    low, high = ecdf_band(z, 80, level)
    outside = ((ecdf < low[:, None]) | (ecdf > high[:, None])).any(axis=0)
    unequal = outside != (rank_pvalue(ranks, 30) <= 1 - level)
    assert unequal.mean() < 0.01  # the band's pointwise level is known to half a per cent


def test_few_draws_have_few_boundaries():
    z, ecdf = rank_ecdf(np.array([[0], [1], [1]]), 1)
    np.testing.assert_allclose(z, [0, 0.5, 1])
    np.testing.assert_allclose(ecdf[:, 0], [0, 1 / 3, 1])
    assert rank_pvalue(np.array([[0], [1]]), 1)[0] > 0.5


def test_hpd_of_gaussians_is_chi_squared():
    """A posterior too wide by a factor: the truth's density rank follows the chi-square distribution."""
    rng = np.random.default_rng(5)
    d, n_sims, factor, levels = 4, 3000, 1.5, np.array([0.3, 0.683, 0.954])
    truth, draws = rng.standard_normal((n_sims, d)), factor * rng.standard_normal((400, n_sims, d))
    def log_prob(t):
        return -0.5 * (t**2).sum(axis=-1) / factor**2

    expected = stats.chi2.cdf(factor**2 * stats.chi2.ppf(levels, d), d)
    np.testing.assert_allclose(coverage_hpd(log_prob(truth), log_prob(draws), levels), expected, atol=0.03)


def test_truth_outside_the_support_is_outside():
    draws = np.random.default_rng(0).standard_normal((50, 3))
    np.testing.assert_array_equal(coverage_hpd([-np.inf] * 3, draws, [0.5, 0.95]), [0, 0])


def test_calibration_table():
    exact, useless = conjugate(200, 1000, seed=2), conjugate(200, 1000, seed=2)
    blind = np.random.default_rng(3).standard_normal(useless[0].shape)
    table = calibration(np.concatenate([exact[0], blind], axis=-1), np.hstack([exact[1], useless[1]]), names=["a", "b"])
    np.testing.assert_allclose(table.sharpness, [np.sqrt(0.5), 1.0], rtol=0.08)
    assert (np.abs(table.coverage - table.levels[:, None]) < 4.5 * table.error[:, None]).all()
    assert table.pvalue.min() > 1e-3 and np.abs(table.pull).max() < 0.2
    assert "1000 simulations" in repr(table) and "a" in repr(table) and "<table>" in table._repr_html_()
    constant = calibration(np.zeros((5, 4, 1)), np.zeros((4, 1)))  # a fixed parameter: no width to compare with
    assert np.isnan(constant.sharpness[0]) and np.isfinite(constant.coverage).all()


@pytest.mark.parametrize("dtype, unit", [(np.float32, 1e-30), (np.float32, 1e30), (np.float16, 1000)])
def test_the_table_has_no_unit(dtype, unit):
    samples, theta = conjugate(50, 40, seed=6, width=0.8, shift=0.3)
    plain = calibration(samples, theta)
    table = calibration((samples * unit).astype(dtype), (theta * unit).astype(dtype))
    np.testing.assert_allclose(table.pull, plain.pull, atol=2e-3)
    np.testing.assert_allclose(table.sharpness, plain.sharpness, rtol=2e-3)


@pytest.mark.parametrize("of_draws, of_truths", [(np.float32, np.float64), (np.float64, np.float32), (np.float32, np.float32)])
def test_a_constant_has_no_sharpness_and_no_fault(of_draws, of_truths):
    fixed = calibration(np.full((7, 30, 1), 0.1, of_draws), np.full((30, 1), 0.1, of_truths))
    assert np.isnan(fixed.sharpness[0]) and fixed.pull[0] == 0 and fixed.joint > 1e-3
    assert "prior's" not in repr(fixed)
    wrong = calibration(np.full((7, 30, 1), 0.2, of_draws), np.full((30, 1), 0.1, of_truths))
    assert np.isnan(wrong.sharpness[0]) and np.isnan(wrong.pull[0]) and wrong.joint < 1e-6
    stuck = calibration(np.full((7, 30, 1), 0.1, of_draws), np.random.default_rng(0).random((30, 1)).astype(of_truths))
    assert stuck.sharpness[0] == 0


def test_bfloat16_is_numbers():
    samples, theta = (jnp.asarray(values, jnp.bfloat16) for values in conjugate(30, 20))
    table, wide = calibration(samples, theta), calibration(samples.astype(jnp.float32), theta.astype(jnp.float32))
    np.testing.assert_array_equal(table.coverage, wide.coverage)
    np.testing.assert_array_equal(table.sharpness, wide.sharpness)


def test_a_mask_that_masks_nothing_does_no_harm():
    samples, theta = conjugate(30, 20)
    np.testing.assert_array_equal(rank_statistics(np.ma.masked_invalid(samples), theta), rank_statistics(samples, theta))


def test_log_densities_may_be_whole_numbers():
    """Unsigned ones have no negative."""
    assert density_ranks(np.array([3], np.uint8), np.array([[0], [5], [7]], np.uint8))[0, 0] == 2


def test_limits_are_fractions():
    low, high = ecdf_band([0, 0.25, 0.5, 1], 50, level=1)
    np.testing.assert_array_equal([low, high], [[0] * 4, [1] * 4])


nan = np.full((4, 3, 2), 0.0)
nan[1, 2, 0] = np.nan


@pytest.mark.parametrize("call, message", [
    (lambda: expected_coverage(nan, np.zeros((3, 2)), [0.5]), "`samples` holds NaN in 1 of 3"),
    (lambda: expected_coverage(np.zeros((4, 3, 2)), nan[1], [0.5]), "`theta` holds NaN in 1 of 3"),
    (lambda: rank_statistics(nan, np.zeros((3, 2))), "holds NaN"),
    (lambda: coverage_hpd([0.0, np.nan], np.zeros((3, 2)), [0.5]), "holds NaN"),
    (lambda: expected_coverage(np.zeros((3, 4, 2)), np.zeros((3, 2)), [0.5]), "got \\(3, 4, 2\\) and \\(3, 2\\)"),
    (lambda: expected_coverage(np.zeros((4, 3)), np.zeros((3, 1)), [0.5]), "n_samples, n_sims, n_dims"),
    (lambda: expected_coverage(np.zeros((0, 3, 1)), np.zeros((3, 1)), [0.5]), "nothing to count"),
    (lambda: expected_coverage(np.zeros((4, 3, 1)), np.zeros((3, 1)), [68.3]), "between 0 and 1"),
    (lambda: expected_coverage(np.zeros((4, 3, 1)), np.zeros((3, 1)), [np.nan]), "between 0 and 1"),
    (lambda: expected_coverage(np.full((4, 3, 1), "a"), np.zeros((3, 1)), [0.5]), "real numbers"),
    (lambda: expected_coverage(np.zeros((4, 3, 1)), 1j * np.zeros((3, 1)), [0.5]), "real numbers"),
    (lambda: coverage_hpd(np.zeros(3), np.zeros(3), [0.5]), "n_samples, n_sims"),
    (lambda: rank_ecdf(np.array([[7]]), 5), "from 0 to n_samples"),
    (lambda: rank_ecdf(np.array([[0.5]]), 5), "integers from 0 to n_samples"),
    (lambda: rank_pvalue(np.array([[np.nan]]), 5), "integers from 0 to n_samples"),
    (lambda: joint_pvalue([[1], [1, 2]], 5), "`ranks` is .* makes no array"),
    (lambda: rank_ecdf(np.array([[1]]), 5, points=0), "points = 0"),
    (lambda: rank_ecdf(np.array([[1]]), True), "n_samples = True"),
    (lambda: coverage_error(0.5, 0, 10), "n_samples = 0"),
    (lambda: coverage_error(0.5, 10, 0), "n_sims = 0"),
    (lambda: coverage_hpd_error(0.5, 10, 0), "n_sims = 0"),
    (lambda: coverage_error("a", 10, 10), "`levels` must hold real numbers"),
    (lambda: ecdf_band([0, 0.5, 1], 10, level=95), "level = 95"),
    (lambda: ecdf_band(0.5, 10), "`z` is"),
    (lambda: ecdf_band([0, 0.5, 1], 10, level=[0.5, 0.9]), "level = \\[0.5, 0.9\\]"),
    (lambda: rank_statistics(np.zeros((4, 3, 1)), np.zeros((3, 1)), seed=-1), "seed = -1"),
    (lambda: coverage_hpd(np.zeros(3), np.zeros((4, 3)), [0.5], seed="a"), "seed = 'a'"),
    (lambda: rank_statistics([[[0.0], [1.0, 2.0]]], np.zeros((2, 1))), "`samples` is .* makes no array"),
    (lambda: rank_statistics(np.ma.masked_equal([[[1.0], [2.0]]], 2), np.zeros((2, 1))), "`samples` is masked in 1 of 2"),
    (lambda: calibration(np.zeros((4, 3, 1)), np.ma.masked_equal([[1.0], [2.0], [3.0]], 2)), "`theta` is masked in 1 of 3"),
    (lambda: coverage_hpd([0.0, np.nan], np.zeros((3, 2)), [0.5]), "`log_prob_truth` holds NaN in 1 of 2"),
    (lambda: coverage_hpd([0.0, 1.0], [[0.0, np.nan]], [0.5]), "`log_prob_samples` holds NaN in 1 of 2"),
    (lambda: coverage_hpd([0.0, 1.0], np.zeros((3, 4)), [0.5]), "`log_prob_truth` is \\(n_sims,\\)"),
    (lambda: coverage_hpd([0.0, 1.0], 1j * np.zeros((3, 2)), [0.5]), "`log_prob_samples` must hold real"),
    (lambda: calibration(np.zeros((4, 3, 1)), np.zeros((3, 1)), names=["a", "b"]), "a name a dimension"),
])
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
