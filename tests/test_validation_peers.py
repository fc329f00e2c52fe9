"The judges beside the packages of their authors, where those are installed (the extra `bench`) and right."

import jax
import numpy as np
import pytest
from lensnb.validation.pqmass import counted, pqm_chi2, pqm_pvalue
from lensnb.validation.tarp import tarp_coverage
from scipy import stats

ABSENT = "{} is not installed: the extra bench has it"


@pytest.fixture
def tarp():
    return pytest.importorskip("tarp", reason=ABSENT.format("tarp"))


@pytest.fixture
def pqm():
    return pytest.importorskip("pqm", reason=ABSENT.format("pqm"))


@pytest.mark.parametrize("n_dims", [1, 10, 1000])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_curve_of_tarp(tarp, n_dims, metric):
    rng = np.random.default_rng(n_dims)
    samples, (theta, points) = rng.standard_normal((50, 80, n_dims)), rng.standard_normal((2, 80, n_dims))
    points[0], theta[1] = theta[0], 1000.0  # its bins end at the smallest and at the largest fraction: let these be 0 and 1
    for bins in (7, 23):  # none ends at a fraction k / 50, which its bins misplace
        theirs, steps = tarp.get_tarp_coverage(samples, theta, points, metric, norm=False, num_alpha_bins=bins)
        ours, alpha = tarp_coverage(samples, theta, points, metric, num_alpha_bins=bins)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        np.testing.assert_allclose(alpha, steps, atol=1e-12)


def test_where_tarp_is_known_to_be_wrong(tarp):
    "Its bins follow the fractions, and a fraction on the edge of a bin may fall to either side: the definition holds, its curve does not."
    rng = np.random.default_rng(0)
    samples, theta = rng.standard_normal((10, 200, 3)), 0.3 * rng.standard_normal((200, 3))
    points = rng.standard_normal((200, 3))
    fractions = (np.linalg.norm(samples - points, axis=-1) < np.linalg.norm(theta - points, axis=-1)).mean(0)
    theirs, steps = tarp.get_tarp_coverage(samples, theta, points, norm=False, num_alpha_bins=10)
    ours, alpha = tarp_coverage(samples, theta, points, num_alpha_bins=10)
    np.testing.assert_allclose(ours[:-1], [(fractions < a - 1e-9).mean() for a in alpha[:-1]], atol=1e-12)
    assert steps[0] > 0 or steps[-1] < 1
    assert np.abs(theirs - ours).max() > 1e-3


@pytest.mark.parametrize("n_dims", [1, 10, 1000])
def test_counts_of_pqm(pqm, n_dims):
    rng = np.random.default_rng(n_dims)
    x, y, points = rng.standard_normal((300, n_dims)), 1.1 * rng.standard_normal((400, n_dims)), rng.standard_normal((12, n_dims))
    theirs = np.stack(pqm.utils._compute_counts_numpy(x, y, points, 12))
    ours = counted(x, y, refs=points)
    np.testing.assert_array_equal(np.concatenate([ours.x, ours.y]), theirs)
    known = stats.chi2_contingency(theirs[:, theirs.sum(0) > 0], correction=False)
    np.testing.assert_allclose(pqm_chi2(x, y, refs=points), known.statistic, rtol=1e-12)
    np.testing.assert_allclose(pqm_pvalue(x, y, refs=points), known.pvalue, rtol=1e-10)


@pytest.mark.parametrize("arguments", [{}, dict(z_score_norm=True), dict(x_frac=0.1), dict(gauss_frac=0.5)], ids=str)
def test_pqm_draws_from_the_same_distribution(pqm, arguments):
    "It takes no points and no seed: chi2 of different pairs of sets, which do differ, in many tessellations."
    rng = np.random.default_rng(1)
    np.random.seed(1)  # noqa: NPY002 (its own generator)
    x, y = rng.standard_normal((400, 5)), 1.15 * rng.standard_normal((500, 5)) * np.geomspace(1, 2, 5)
    ours = pqm_chi2(x, y, 20, 200, key=jax.random.key(1), **arguments)
    theirs = [pqm.pqm_chi2(x, y, 20, **arguments) for _ in range(200)]
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01 / 4
