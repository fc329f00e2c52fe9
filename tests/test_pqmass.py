"PQMass against its definition in a few lines of NumPy and SciPy, its null calibration, and what it refuses."

import jax
import numpy as np
import pytest
from lensnb.core import InputError
from lensnb.validation.pqmass import log_survival, nearest, pqm_chi2, pqm_log_pvalue, pqm_permutation, pqm_pvalue, usable
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
    (dict(num_refs=1), "num_refs = 1"),
    (dict(re_tessellation=0), "re_tessellation = 0"),
    (dict(x_frac=1.5), "x_frac = 1.5"),
    (dict(gauss_frac=-0.1), "gauss_frac = -0.1"),
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


def test_one_point_far_away_spoils_no_digits():
    """Explicit references of which the first is an outlier; and samples with heavy tails, in single precision."""
    rng = np.random.default_rng(11)
    x, y, refs = rng.normal(size=(200, 3)), rng.normal(size=(250, 3)), rng.normal(size=(12, 3))
    for far in (1e3, 1e6, 1e8):
        refs[0] = far
        np.testing.assert_allclose(pqm_chi2(x, y, refs=refs), by_definition(x, y, refs).statistic, rtol=1e-12)
        assert pqm_chi2(*(a.astype(np.float32) for a in (x, y)), refs=refs.astype(np.float32)) == pytest.approx(by_definition(x, y, refs).statistic, rel=0.02)
    points = rng.standard_cauchy((1, 30, 3)).astype(np.float32)
    samples = rng.standard_cauchy((500, 3)).astype(np.float32)
    exact = np.linalg.norm(samples[:, None].astype(float) - points[0].astype(float), axis=-1).argmin(1)
    assert (nearest(samples, points)[0] != exact).mean() <= 0.004


@pytest.mark.parametrize("unit", [1e-30, 1e-22, 1e19, 1e30])
def test_any_unit_in_single_precision(unit):
    x, y = drawn(300, (3,), 5, np.float32)
    refs = np.random.default_rng(6).standard_normal((9, 3), dtype=np.float32)
    assert pqm_chi2(x * np.float32(unit), y * np.float32(unit), refs=refs * np.float32(unit)) == pytest.approx(pqm_chi2(x, y, refs=refs), rel=0.05)


@pytest.mark.parametrize("value", [0.1, 1e5 + 0.1])
def test_a_constant_column_of_any_value_is_left_alone(value):
    x, y = drawn(200, (2,), 7)
    refs = np.random.default_rng(8).standard_normal((9, 2))
    wider = [np.column_stack([a, np.full(len(a), value)]) for a in (x, y, refs)]
    assert pqm_chi2(*wider[:2], refs=wider[2], z_score_norm=True) == pytest.approx(pqm_chi2(x, y, refs=refs, z_score_norm=True), rel=1e-9)
    assert np.isfinite(pqm_chi2(*wider[:2], 9, z_score_norm=True, gauss_frac=0.5, key=0))


def test_permutations_are_exact_where_the_references_take_a_whole_side():
    p = [pqm_permutation(*np.split(np.random.default_rng([9, s]).normal(size=(33, 2)), [3]), 25, key=s, permutations=19) for s in range(200)]
    assert np.mean(np.array(p) <= 0.05) < 0.12


def test_explicit_points_are_one_tessellation():
    x, y = drawn(100, (2,), 10)
    assert pqm_chi2(x, y, refs=x[:5] + 0.1, re_tessellation=3).tolist() == [pqm_chi2(x, y, refs=x[:5] + 0.1)] * 3


@pytest.mark.parametrize("bad", [dict(x_frac="a"), dict(num_refs=5.5), dict(re_tessellation=-1), dict(refs=np.full((5, 2), "a")), dict(refs=np.ones((5, 2)) * 1j)], ids=lambda b: next(iter(b)))
def test_what_is_no_number_is_refused(bad):
    x, y = drawn(100, (2,), 10)
    with pytest.raises(InputError):
        pqm_chi2(x, y, key=0, **bad)
