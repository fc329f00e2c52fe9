"PQMass against its definition in a few lines of NumPy and SciPy, its null calibration, and what it refuses."

import jax
import numpy as np
import pytest
from lensnb.core import InputError
from lensnb.validation.pqmass import log_survival, nearest, pqm_chi2, pqm_log_pvalue, pqm_pvalue, usable
from scipy import stats


def by_definition(x, y, refs):
    "Pearson's test of the counts of nearest references, empty cells dropped."
    counts = [np.bincount(np.array([np.linalg.norm((refs - one).reshape(len(refs), -1), axis=1).argmin() for one in samples]), minlength=len(refs)) for samples in (x, y)]
    counts = np.stack(counts)
    return stats.chi2_contingency(counts[:, counts.sum(0) > 0], correction=False)


def drawn(n, shape, seed, dtype=np.float64):
    "Two sets of one distribution."
    return np.random.default_rng(seed).standard_normal((2, n, *shape), dtype=dtype)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (10,), (100,), (10_000,), (6, 7)], ids=str)
@pytest.mark.filterwarnings("ignore:.*fewer than 20 a cell")
def test_definition(shape):
    x, y = drawn(60, shape, 1)
    refs = np.random.default_rng(2).standard_normal((9, *shape))
    known = by_definition(x[:50], y, refs)
    np.testing.assert_allclose(pqm_chi2(x[:50], y, refs=refs), known.statistic, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pqm_pvalue(x[:50], y, refs=refs), known.pvalue, rtol=1e-12)


def test_far_from_the_origin_and_in_any_unit():
    x, y = drawn(500, (5,), 3, np.float32)
    plain = pqm_chi2(x, y, 20, key=0)
    for unit in (1e-12, 1e12):
        assert pqm_chi2(x * np.float32(unit), y * np.float32(unit), 20, key=0) == plain
    assert abs(pqm_chi2(x.astype(float) + 1e9, y.astype(float) + 1e9, 20, key=0) - pqm_chi2(x.astype(float), y.astype(float), 20, key=0)) < 1e-9
    stretched = np.float32([1, 10, 100, 1e3, 1e4])
    np.testing.assert_allclose(pqm_chi2(x * stretched, y * stretched, 20, z_score_norm=True, key=0), pqm_chi2(x, y, 20, z_score_norm=True, key=0))


def test_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("lensnb.validation.pqmass.PIECE", 1000)
    x, y = drawn(400, (3, 4), 4)
    for name, samples in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", samples)
    mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    small = pqm_chi2(*mapped, 20, 3, z_score_norm=True, gauss_frac=0.2, key=jax.random.key(1))
    monkeypatch.undo()
    np.testing.assert_allclose(small, pqm_chi2(x, y, 20, 3, z_score_norm=True, gauss_frac=0.2, key=jax.random.key(1)))
    assert small.shape == (3,)


def test_pieces_of_many_threads_are_those_of_one(monkeypatch):
    points = np.random.default_rng(3).standard_normal((6, 40, 30))
    x = np.random.default_rng(4).standard_normal((1111, 30))
    near = ((x[:, None] - points.reshape(1, -1, 30)) ** 2).sum(2).reshape(-1, 6, 40).argmin(2).T
    np.testing.assert_array_equal(nearest(x, points), near)
    monkeypatch.setattr("lensnb.validation.pqmass.PIECE", 2000)
    np.testing.assert_array_equal(nearest(x, points), near)


def test_arrays_of_everybody():
    x, y = drawn(90, (2, 3), 8, np.float32)
    known = pqm_chi2(x, y, 4, key=0)
    assert pqm_chi2(jax.numpy.asarray(x), jax.numpy.asarray(y), 4, key=0) == known
    assert pqm_chi2(x.tolist(), y.tolist(), 4, key=0) == known
    huge = np.full((90, 2), 3e38, np.float32)  # finite, though their sum is not
    assert usable(huge, "x") is huge


def test_sets_that_have_nothing_in_common_have_finite_answers():
    x, y = drawn(5000, (2,), 5)
    chi2, log_p = pqm_chi2(x, y + 50, key=0), pqm_log_pvalue(x, y + 50, key=0)
    assert np.isfinite(chi2)
    assert chi2 > 5000
    assert log_p < -1000
    for dof in (1, 2, 99, 400):
        for z in (0.1, 30.0, 800.0, 1400.0):
            np.testing.assert_allclose(log_survival(z, dof), stats.chi2.logsf(z, dof), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("arguments", "says"), [
    (dict(x=np.full((90, 2), np.nan)), "x hold a NaN"),
    (dict(y=np.full((90, 2), np.inf)), "y hold a NaN"),
    (dict(y=np.zeros((90, 3))), "cannot be compared"),
    (dict(x=np.zeros((1, 2))), "at least two samples"),
    (dict(x=np.zeros((90, 2), complex)), "real numbers"),
    (dict(num_refs=500), "too few"),
    (dict(num_refs=1), "num_refs is 1"),
    (dict(re_tessellation=0), "re_tessellation 0"),
    (dict(x_frac=1.5), "x_frac 1.5"),
    (dict(gauss_frac=-0.1), "gauss_frac -0.1"),
    (dict(key=None), "give a key"),
    (dict(refs=np.zeros((4, 3))), "refs has shape"),
    (dict(x=np.zeros((90, 2)), y=np.zeros((90, 2)), num_refs=4), "in one cell"),
], ids=range(13))
def test_what_cannot_be_used_is_said(arguments, says):
    x, y = drawn(90, (2,), 6)
    with pytest.raises(InputError, match=says):
        pqm_chi2(**(dict(x=x, y=y, num_refs=4, key=0) | arguments))


def test_few_samples_a_cell_are_told_with_the_number_that_would_do():
    x, y = drawn(100, (2,), 7)
    with pytest.warns(UserWarning, match="at most 10 references"):
        pqm_chi2(x, y, 50, key=0)
