"The classifier, energy and kernel tests against their definitions in loops, their null calibration, and what they refuse."

import itertools

import jax
import numpy as np
import pytest
from lensnb.core import InputError
from lensnb.validation.two_samples import c2st, c2st_score, energy_distance, energy_pvalue, mmd, mmd_pvalue
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

TESTS = 9  # null calibrations of this file, that share one per cent


def drawn(n, m, shape, seed, dtype=np.float64):
    "Two sets of one distribution."
    both = np.random.default_rng([n, m, seed]).standard_normal((n + m, *shape), dtype=dtype)
    return both[:n], both[n:]


def mean_over(pairs, function):
    "Mean of a function of the distance over pairs of samples."
    values = [function(np.sqrt(((a - b) ** 2).sum())) for a, b in pairs]
    return sum(values) / len(values)


def by_energy(x, y):
    "Energy distance, pair by pair."
    length = lambda d: d
    return 2 * mean_over(itertools.product(x, y), length) - mean_over(itertools.product(x, x), length) - mean_over(itertools.product(y, y), length)


def by_kernel(x, y, width):
    "Unbiased squared discrepancy, pair by pair."
    gauss = lambda d: np.exp(-(d**2) / (2 * width**2))
    return mean_over(itertools.permutations(x, 2), gauss) + mean_over(itertools.permutations(y, 2), gauss) - 2 * mean_over(itertools.product(x, y), gauss)


@pytest.mark.parametrize("block", [2048, 4])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1000,), (2, 5)], ids=str)
def test_definitions(shape, block, monkeypatch):
    monkeypatch.setattr("lensnb.validation.two_samples.BLOCK", block)
    x, y = drawn(6, 9, shape, 1)
    y = y * 1.5 + 0.3
    both = np.concatenate([x, y]).reshape(15, -1)
    width = np.median([np.linalg.norm(a - b) for a, b in itertools.combinations(both, 2)])
    np.testing.assert_allclose(energy_distance(x, y), by_energy(x, y), rtol=1e-12)
    np.testing.assert_allclose(mmd(x, y), by_kernel(x, y, width), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(mmd(x, y, bandwidth=2.0), by_kernel(x, y, 2.0), rtol=1e-12, atol=1e-14)


def test_one_dimension_is_scipys_squared():
    x, y = drawn(50, 70, (), 2)
    np.testing.assert_allclose(energy_distance(x, y + 0.5), stats.energy_distance(x, y + 0.5) ** 2, rtol=1e-12)
    np.testing.assert_allclose(energy_distance(np.array([0, 0]), np.array([3, 3])), 6.0)  # 2 |3| - 0 - 0, from whole numbers


def test_order_place_rotation_and_unit():
    x, y = drawn(20, 30, (4,), 3)
    y = y + 0.4
    turn = stats.ortho_group(4, seed=0).rvs()
    energy, squared = energy_distance(x, y), mmd(x, y)
    for a, b in ((x[::-1], np.roll(y, 7, 0)), (x + 1e4, y + 1e4), (x @ turn, y @ turn), (y, x)):
        np.testing.assert_allclose([energy_distance(a, b), mmd(a, b)], [energy, squared], rtol=1e-8)
    for unit in (1e-30, 1e30):
        np.testing.assert_allclose([energy_distance(x * unit, y * unit) / unit, mmd(x * unit, y * unit)], [energy, squared], rtol=1e-10)
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-13)
    assert energy_pvalue(x * 1e-30, y * 1e-30, 99, key=0) == energy_pvalue(x, y, 99, key=0)


def test_permutations_are_those_of_all_divisions():
    x, y = drawn(4, 4, (2,), 4)
    y = y + 0.8
    both = np.concatenate([x, y])
    divisions = [(list(one), [k for k in range(8) if k not in one]) for one in itertools.combinations(range(8), 4)]
    for statistic, pvalue in ((energy_distance, energy_pvalue), (mmd, mmd_pvalue)):
        values = [statistic(both[a], both[b]) for a, b in divisions]
        exact = np.mean(np.array(values) >= values[0] - 1e-12)  # with the sets exchanged it is the same, up to rounding
        assert abs(pvalue(x, y, permutations=20_000, key=jax.random.key(1)) - exact) < 4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4
        assert pvalue(x, y, permutations=99, key=3) == pvalue(x, y, permutations=99, key=3)


def test_all_samples_alike_are_no_difference():
    assert energy_pvalue(np.ones((5, 2)), np.ones((7, 2)), key=0) == 1
    assert mmd_pvalue(np.ones((5, 2)), np.ones((7, 2)), bandwidth=1.0, key=0) == 1
    assert c2st(np.ones((50, 2)), np.ones((70, 2)), KNeighborsClassifier(5), key=0)[:2] == (0.5, 1.0)


def test_a_dimension_that_does_not_vary_is_nothing():
    x, y = drawn(60, 60, (3,), 5)
    y = y + 0.5
    more = [np.concatenate([samples, np.full((60, 1), 7.0)], 1) for samples in (x, y)]
    np.testing.assert_allclose([energy_distance(*more), mmd(*more)], [energy_distance(x, y), mmd(x, y)], rtol=1e-10)
    assert c2st(*more, KNeighborsClassifier(5), key=0)[:2] == c2st(x, y, KNeighborsClassifier(5), key=0)[:2]


@pytest.mark.parametrize("n_dims", [2, 100, 1000])
def test_null_of_energy_and_kernel_is_uniform(n_dims):
    pvalues = []
    for seed in range(1000):
        x, y = drawn(15, 20, (n_dims,), seed, np.float32)
        pvalues.append([energy_pvalue(x, y, 39, key=seed), mmd_pvalue(x, y, permutations=39, key=seed)])
    jitter = np.random.default_rng(n_dims).uniform(0, 1 / 40, 1000)  # p-values are fortieths, all of them equally likely
    for found in np.transpose(pvalues):
        assert stats.kstest(found - jitter, "uniform").pvalue > 0.01 / TESTS
        assert 0.03 < np.mean(found <= 0.05) < 0.07


CLASSIFIERS = {2: MLPClassifier((20, 20), solver="lbfgs", max_iter=5), 100: LinearDiscriminantAnalysis(), 1000: GaussianNB()}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_dims", CLASSIFIERS)
def test_null_of_the_classifier_is_uniform_for_unequal_sets(n_dims):
    rng, pvalues = np.random.default_rng(n_dims), []
    for seed in range(200):
        told = c2st(*drawn(30, 70, (n_dims,), seed), CLASSIFIERS[n_dims], key=seed)
        law = stats.hypergeom(told.table.sum(), told.table[0].sum(), told.table[:, 0].sum())
        assert told.pvalue == pytest.approx(law.sf(told.table[0, 0] - 1))
        pvalues.append(told.pvalue - rng.random() * law.pmf(told.table[0, 0]))  # within the step
    assert stats.kstest(pvalues, "uniform").pvalue > 0.01 / TESTS


def test_classifier_is_told_no_majority():
    x, y = drawn(30, 970, (2,), 6)
    told = c2st(x, y, DummyClassifier(strategy="most_frequent"), key=0)
    assert told[:2] == (0.5, 1.0)
    assert told.table.sum(1).tolist() == [15, 955]  # as many of either train
    assert c2st_score(x, y, GaussianNB(), key=0) < 0.7  # and not 0.97


def test_classifier_finds_and_repeats():
    x, y = drawn(40, 40, (2, 2), 7)
    found = c2st(x, y + 2, key=jax.random.key(0))  # the network
    assert found.accuracy > 0.9
    assert found.pvalue == pytest.approx(stats.fisher_exact(found.table, alternative="greater").pvalue)
    forest = RandomForestClassifier(5)
    first, again = (c2st(x, y, forest, key=jax.random.key(1)) for _ in range(2))
    assert (first.table == again.table).all()
    assert forest.random_state is None  # and what was given is left as it was
    score = c2st_score(x, y + 2, LinearDiscriminantAnalysis(), key=2)
    assert isinstance(score, float)
    assert score > 0.9
    with pytest.warns(ConvergenceWarning):
        c2st(x, y, MLPClassifier((5,), max_iter=2), key=0)


@pytest.mark.parametrize(("test", "arguments", "says"), [
    *((test, arguments, says) for test in (energy_pvalue, mmd_pvalue, c2st, c2st_score) for arguments, says in (
        (dict(x=np.full((20, 2), np.nan)), "x hold a NaN"),
        (dict(y=np.full((20, 2), np.inf)), "y hold a NaN or an infinite"),
        (dict(y=np.zeros((20, 3))), "cannot be compared"),
        (dict(x=np.zeros((1, 2))), "at least two samples"),
        (dict(x=np.zeros((20, 2), complex)), "real numbers"),
        (dict(key=None), "give a key"))),
    *((test, dict(permutations=0), "permutations is 0") for test in (energy_pvalue, mmd_pvalue)),
    *((mmd_pvalue, dict(bandwidth=width), "positive number") for width in (0, -1.0, np.nan, np.inf, "median", [1.0, 2.0])),
    (mmd_pvalue, dict(x=np.zeros((20, 2)), y=np.zeros((9, 2))), "give one, bandwidth"),
    (energy_pvalue, dict(x=np.zeros((30_000, 2)), y=np.zeros((20_000, 2))), "draw at most 40000"),
    *((energy_pvalue, dict(x=np.full((5, 2), far), y=np.full((5, 2), -far)), "another unit") for far in (1e200, 1e-200)),
    (c2st, dict(classifier=np.mean), "scikit-learn"),
    (c2st_score, dict(folds=1), "from 2 to 20"),
    (c2st_score, dict(folds=21), "from 2 to 20"),
], ids=itertools.count())
def test_what_cannot_be_used_is_said(test, arguments, says):
    x, y = drawn(20, 20, (2,), 8)
    with pytest.raises(InputError, match=says):
        test(**(dict(x=x, y=y, key=0) | arguments))
