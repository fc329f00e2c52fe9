"The judges of `lensnb.validation` side by side: uniform p-values where there is nothing to find, and what they make of bad input."

import numpy as np
import pytest
from lensnb.core import InputError
from lensnb.validation.coverage import calibration, density_ranks, expected_coverage, joint_pvalue, rank_pvalue, rank_statistics
from lensnb.validation.pqmass import pqm_permutation, pqm_pvalue
from lensnb.validation.tarp import tarp_counts, tarp_coverage, tarp_pvalue
from scipy import stats

REPEATS = 1000
DIMENSIONS = [2, 100, 1000]
TESTS = 5 * len(DIMENSIONS)


def agreement(pvalues):
    "Kolmogorov and Smirnov's p-value of p-values that are discrete: those that occur occur as often as they say."
    ordered = np.sort(pvalues)
    occurring = np.unique(ordered)
    distance = np.abs(np.searchsorted(ordered, occurring, side="right") / len(ordered) - occurring).max()
    return stats.kstwo.sf(distance, len(ordered))


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def posterior(n_dims, seed):
    "Nine draws and the truth of twenty simulations, all from one distribution."
    values = normal((10, 20, n_dims), seed)
    return values[:9], values[9]


@pytest.mark.parametrize("n_dims", DIMENSIONS)
def test_null_of_tarp_and_ranks(n_dims):
    pvalues, joint = np.empty((3, REPEATS)), np.empty(REPEATS)
    for seed in range(REPEATS):
        samples, theta = posterior(n_dims, seed)
        ranks = (samples < theta).sum(0)
        density = density_ranks(-(theta**2).sum(-1), -(samples**2).sum(-1))
        counts = np.column_stack([tarp_counts(samples, theta, key=seed), ranks[:, 0], density[:, 0]])
        pvalues[:, seed], joint[seed] = rank_pvalue(counts, 9), joint_pvalue(ranks[:, :20], 9)
    assert tarp_pvalue(samples, theta, key=seed) == pvalues[0, -1]
    assert min(agreement(test) for test in pvalues) > 0.01 / TESTS
    # Bonferroni's bound holds, and for independent parameters costs next to nothing
    for level in (0.05, 0.2):
        assert 0.3 * level < (joint <= level).mean() < level + 4 * np.sqrt(level / REPEATS)


@pytest.mark.parametrize("n_dims", DIMENSIONS)
def test_null_of_pqmass(n_dims):
    law = [pqm_pvalue(*normal((2, 100, n_dims), seed), num_refs=5, key=seed) for seed in range(REPEATS)]
    assert stats.kstest(law, "uniform").pvalue > 0.01 / TESTS


@pytest.mark.parametrize("n_dims", DIMENSIONS)
def test_null_of_pqmass_by_permutation(n_dims):
    "Two samples a cell, where the law is of no use; the p-values are twentieths."
    pvalues = [pqm_permutation(*normal((2, 24, n_dims), seed), 22, 2, key=seed, permutations=19) for seed in range(REPEATS)]
    assert agreement(np.array(pvalues)) > 0.01 / TESTS


@pytest.fixture
def good():
    "Samples and truths of a posterior, two sets."
    return normal((20, 30, 3), 1), normal((30, 3), 2), normal((200, 3), 3), normal((150, 3), 4)


def spoilt(values, what):
    values = values.copy()
    values.flat[7] = what
    return values


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_values_are_refused(good, bad):
    samples, theta, x, y = good
    for arrays in ((spoilt(samples, bad), theta), (samples, spoilt(theta, bad))):
        for judge in (calibration, lambda *pair: tarp_pvalue(*pair, key=0)):
            with pytest.raises(InputError, match="NaN|infinite"):
                judge(*arrays)
    for arrays in ((spoilt(x, bad), y), (x, spoilt(y, bad))):
        for judge in (pqm_pvalue, pqm_permutation):
            with pytest.raises(InputError, match="a NaN or an infinite value"):
                judge(*arrays, num_refs=5, key=0)


def test_infinite_draws_have_ranks(good):
    samples, theta, *_ = good
    np.testing.assert_array_equal(rank_statistics(spoilt(samples, np.inf), theta), rank_statistics(spoilt(samples, 1e30), theta))


def test_shapes_that_do_not_match_are_refused(good):
    samples, theta, x, y = good
    for judge in (calibration, lambda *pair: expected_coverage(*pair, [0.5]), lambda *pair: tarp_pvalue(*pair, key=0)):
        for arrays in ((samples[..., :2], theta), (samples[:, :9], theta), (samples[0], theta)):
            with pytest.raises(InputError, match="n_samples, n_sims, n_dims"):
                judge(*arrays)
    for judge in (pqm_pvalue, pqm_permutation):
        with pytest.raises(InputError, match="cannot be compared"):
            judge(x, y[:, :2], num_refs=5, key=0)


def test_one_sample_is_ranked_but_has_no_width_and_no_cells(good):
    samples, theta, x, y = good
    assert set(np.unique(rank_statistics(samples[:1], theta))) == {0, 1}
    np.testing.assert_allclose(expected_coverage(samples[:1], theta, [0.3]), 0.3)
    assert 0 < tarp_pvalue(samples[:1], theta, key=0) <= 1
    with pytest.raises(InputError, match="two draws"):
        calibration(samples[:1], theta)
    for judge in (pqm_pvalue, pqm_permutation):
        with pytest.raises(InputError, match="at least two samples"):
            judge(x[:1], y, num_refs=5, key=0)


def test_a_dimension_without_variance_changes_nothing_elsewhere(good):
    samples, theta, x, y = good
    fixed = lambda values: np.concatenate([values, np.full_like(values[..., :1], 2.0)], axis=-1)
    table, whole = calibration(samples, theta), calibration(fixed(samples), fixed(theta))
    np.testing.assert_array_equal(whole.sharpness[:3], table.sharpness)
    assert np.isnan(whole.sharpness[3])
    assert whole.pull[3] == 0
    assert whole.pvalue[3] > 0.01  # ties are broken at random
    np.testing.assert_array_equal(tarp_coverage(fixed(samples), fixed(theta), norm=True, key=0)[0], tarp_coverage(samples, theta, norm=True, key=0)[0])
    for scores in (False, True):
        assert pqm_pvalue(fixed(x), fixed(y), 5, z_score_norm=scores, key=0) == pqm_pvalue(x, y, 5, z_score_norm=scores, key=0)
        assert pqm_permutation(fixed(x), fixed(y), 5, z_score_norm=scores, key=0, permutations=19) == pqm_permutation(x, y, 5, z_score_norm=scores, key=0, permutations=19)


def test_draws_all_alike_and_wrong_have_no_pull(good):
    samples, theta, *_ = good
    stuck = np.zeros_like(samples)
    assert np.isnan(calibration(stuck, theta).pull).all()
    assert calibration(stuck, theta).joint < 1e-6


def test_fewer_samples_than_references(good):
    samples, theta, x, y = good
    with pytest.raises(InputError, match="too few for 400 references"):
        pqm_pvalue(x, y, 400, key=0)
    with pytest.raises(InputError, match="num_refs is 400"):
        pqm_permutation(x, y, 400, key=0)
    with pytest.warns(UserWarning, match="fewer than 20 a cell"):
        assert 0 < pqm_pvalue(x, y, refs=normal((400, 3), 5)) <= 1
    with pytest.raises(InputError, match="one finite point a simulation"):
        tarp_coverage(samples, theta, normal((40, 3), 6))
