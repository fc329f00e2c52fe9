"""The certificate: its numbers by other means, its risk of a false alarm, what it finds, resumes, stores and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy import stats

from lensnb.core import InputError, LensnbError
from lensnb.validation.certificate import certificate, columns_of_ranks
from lensnb.validation.coverage import calibration, coverage_hpd, rank_pvalue
from lensnb.validation.draws import Draws, nearest_earlier, simulated_draws, sketch, traces
from lensnb.validation.resolution import enough, power, visible
from lensnb.validation.tarp import tarp_coverage, tarp_pvalue
from lensnb.validation.thinning import arviz, from_arviz, interleaved, thin
from lensnb.validation.verdict import DENSITY, RANDOM, SIMILAR, read_certificate

KEY = jax.random.key(3)


def arrays(n_sims=300, seed=0, width=1.0, shift=0.0, n_samples=60, n_dims=2):
    """Parameters N(0, 1) measured with unit noise: posterior N(y/2, 1/2), its width and mean made wrong."""
    rng = np.random.default_rng([n_sims, seed])
    theta = rng.normal(size=(n_sims, n_dims))
    y = theta + rng.normal(size=theta.shape)
    return y / 2 + np.sqrt(0.5) * (shift + width * rng.normal(size=(n_samples, n_sims, n_dims))), theta, y


def density(theta, y):
    return -((theta - y / 2) ** 2).sum(axis=-1)


def simulate(key):
    a, b = jax.random.split(key)
    theta = jax.random.normal(a, (2,))
    return theta, theta + jax.random.normal(b, (2,))


def sample(key, y, n):
    return y[None] / 2 + jnp.sqrt(0.5) * jax.random.normal(key, (n, 2))


EXACT = types.SimpleNamespace(sample=sample, log_prob=density)
SIMULATOR = types.SimpleNamespace(simulate=simulate)
IN_PYTHON = types.SimpleNamespace(sample=lambda key, y, n: np.asarray(sample(key, np.asarray(y), n)), log_prob=density)


# ---- the numbers


def test_numbers_are_those_of_the_chapters():
    samples, theta, y = arrays(width=0.9)
    card = certificate(samples, theta, 5, names=["a", "b"], data=y, log_prob=(density(samples, y), density(theta, y)), n_chains=0)
    table = calibration(samples, theta, names=["a", "b"])
    assert card.tests == ("a", "b", RANDOM, SIMILAR, DENSITY)
    np.testing.assert_allclose(card.coverage[:, :2], table.coverage)
    np.testing.assert_allclose(card.error, table.error)
    np.testing.assert_allclose(card.pull, table.pull)
    np.testing.assert_allclose(card.sharpness, table.sharpness)
    np.testing.assert_allclose(card.coverage[:, 4], coverage_hpd(density(theta, y), density(samples, y), card.levels))
    unit = samples.std(axis=(0, 1))
    np.testing.assert_allclose(card.pvalue[2], tarp_pvalue(samples / unit, theta / unit, key=5), atol=0.03)
    ecp, alpha = tarp_coverage(samples / unit, theta / unit, key=5, num_alpha_bins=60)
    np.testing.assert_allclose(np.interp(alpha[1:-1] * 60 / 61, card.z, card.ecdf[:, 2]), ecp[1:-1], atol=1e-9)
    scatter = ((theta - samples.mean(0)) / samples.std(0, ddof=1)).std(0) / np.sqrt(300)
    np.testing.assert_allclose(card.pull_error, scatter)


def test_errors_of_joint_tests_are_those_of_regions_with_one_end():
    samples, theta, _ = arrays(200, n_samples=20)
    card = certificate(samples, theta, 0, n_chains=0, levels=[0.683, 0.954])
    inside = np.clip(card.levels[:, None, None] * 21 - np.random.default_rng(0).integers(0, 21, (1, 5000, 200)), 0, 1).mean(axis=2)
    np.testing.assert_allclose(card.joint_error, inside.std(axis=1), rtol=0.05)
    assert (np.abs(card.joint_error / card.error - 1) > 0.1).any()
    joint, alone = (next(row for row in card.rows() if row[0] == name) for name in (RANDOM, "theta[0]"))
    assert [cell.split()[-1] for cell in joint[1:3]] == [f"{100 * e:.1f}" for e in card.joint_error]
    assert [cell.split()[-1] for cell in alone[1:3]] == [f"{100 * e:.1f}" for e in card.error]


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float32])
def test_whole_numbers_and_classes_tie_and_pass(kind):
    rng = np.random.default_rng(0)  # as many a user's; the order of ties is another stream
    theta = rng.integers(0, 3, 600)
    y = theta + rng.normal(size=600)
    weight = np.exp(-0.5 * (y[:, None] - np.arange(3)) ** 2).cumsum(axis=1)
    samples = (rng.random((80, 600, 1)) > weight / weight[:, -1:]).sum(axis=-1)
    card = certificate(samples[..., None].astype(kind), theta[:, None].astype(kind), 0, data=y, n_chains=0)
    assert card.calibrated, card.verdict
    worse = np.where(rng.random(samples.shape) < 0.4, rng.integers(0, 3, samples.shape), samples)
    assert not certificate(worse[..., None].astype(kind), theta[:, None].astype(kind), 0, data=y, n_chains=0).calibrated


@pytest.mark.parametrize("unit", [1e-25, 1e20])
def test_the_unit_of_the_data_is_no_matter(unit):
    _, theta, y = arrays(300)
    np.testing.assert_array_equal(nearest_earlier((y * unit).astype("f")), nearest_earlier(y.astype("f")))
    blind = np.random.default_rng(1).normal(size=(40, 300, 2))
    assert "does not use the data at hand" in certificate(blind, theta, 0, data=y * unit, n_chains=0).verdict


def test_a_column_without_spread_has_no_unit():
    """The standard deviation of equal tenths is 1e-15, which as a unit would count for everything."""
    samples, theta, _ = arrays(200, n_dims=1)
    more = Draws(np.concatenate([samples, np.full_like(samples, 0.1)], axis=2), np.concatenate([theta, 0.1 + 1e-9 * theta[::-1]], axis=1))
    np.testing.assert_array_equal(*(columns_of_ranks(draws, "ab"[:draws.theta.shape[1]], 0)[RANDOM] for draws in (Draws(samples, theta), more)))


def test_power_is_what_is_counted():
    rng = np.random.default_rng(1)
    u = stats.norm.cdf((rng.normal(size=(150, 800)) - 0.25) / 0.85)
    counted = (rank_pvalue(rng.binomial(60, u), 60) <= 0.003).mean()
    assert abs(power(0.25, 0.85, 60, 150, 0.003) - counted) < 0.09
    assert visible(60, 600, 0.003).bias < visible(60, 150, 0.003).bias
    assert enough(60, 0.003, 600) == 600 and enough(60, 0.003, 20) > 20


# ---- what it risks and finds


def test_a_perfect_posterior_fails_as_seldom_as_stated():
    least = []
    for seed in range(160):
        samples, theta, y = arrays(100, seed, n_samples=30, n_dims=1)
        card = certificate(samples, theta, seed, data=y, n_chains=0)
        least.append(card.pvalue.min() * len(card.tests))
    alarms = [(np.array(least) <= risk).sum() for risk in (0.2, 0.01)]
    assert 12 < alarms[0] < 160 * 0.2 + 3 * np.sqrt(160 * 0.16) and alarms[1] < 160 * 0.01 + 3 * np.sqrt(160 * 0.01)


def test_references_that_know_the_data_give_independent_uniform_fractions():
    """Neighbours in the list share a truth; their fractions must not be related for that."""
    samples, theta, y = arrays(4000, 1, n_samples=19)
    near = nearest_earlier(y)
    far = np.linalg.norm(theta - theta[near], axis=-1)
    f = (np.linalg.norm(samples - theta[near], axis=-1) < far).sum(0)
    assert stats.chisquare(np.bincount(f, minlength=20)).pvalue > 1e-3
    assert abs(stats.spearmanr(f[1:], f[near[1:]]).statistic) < 4 / np.sqrt(4000)
    assert (near[1:] < np.arange(1, 4000)).all()
    by_hand = [((y[:i] - y[i]) ** 2 / y.std(0) ** 2).sum(1).argmin() for i in range(1, 300)]
    np.testing.assert_array_equal(near[1:300], by_hand)


@pytest.mark.parametrize(("wrong", "words"), [
    (dict(width=0.8), "over-confident in a (68.3% regions hold"),
    (dict(width=1.25), "under-confident in a (68.3% regions hold"),
    (dict(shift=0.5), "biased in a (the truth lies 0."),
])
def test_faults_are_found_and_named(wrong, words):
    samples, theta, y = arrays(900, 2, **wrong)
    card = certificate(samples, theta, 0, names="ab", data=y, n_chains=0)
    assert not card.calibrated and not card.certified and words in card.verdict and card.verdict.startswith("Not calibrated")
    assert card.verdict in repr(card) and "<table>" in card._repr_html_() and "!" in repr(card)
    if "shift" in wrong:
        assert "below the mean" in card.verdict and card.pull[0] < -0.35


def test_the_prior_is_useless_and_found_by_its_data():
    _, theta, y = arrays(500)
    blind = np.random.default_rng(1).normal(size=(60, 500, 2))
    card = certificate(blind, theta, 0, n_chains=0)
    assert card.calibrated and card.useless and not card.certified and "Useless" in card.verdict
    seen = certificate(blind, theta, 0, data={"image": y}, n_chains=0)
    assert not seen.calibrated and "does not use the data at hand" in seen.verdict


# ---- what is asked for


def test_a_posterior_is_the_same_compiled_and_in_python():
    ours, theirs = (simulated_draws(posterior, SIMULATOR, KEY, 12, 20) for posterior in (EXACT, IN_PYTHON))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    more = simulated_draws(EXACT, SIMULATOR, KEY, 40, 20)
    np.testing.assert_array_equal(more.samples[:, :12], ours.samples)


def test_one_call_with_names_of_the_prior_and_no_density():
    simulator = types.SimpleNamespace(simulate=simulate, prior=types.SimpleNamespace(names=("theta_E", "gamma")))

    def no_density(theta, y):
        raise LensnbError("none")

    card = certificate(types.SimpleNamespace(sample=sample, log_prob=no_density), simulator, KEY, n_sims=150, n_samples=60)
    assert card.names == ("theta_E", "gamma") and card.tests[2:] == (RANDOM, SIMILAR) and card.n_sims == 150
    assert card.certified == card.calibrated


def test_what_traces():
    assert traces(lambda k: jax.random.normal(k, (2,)), KEY)
    assert not traces(lambda k: jnp.zeros(2), KEY) and not traces(lambda k: np.asarray(k), KEY)
    tree = {"a": np.full((20, 20), 2.0, "f"), "b": np.float32(3.0), "c": "text", "d": np.array([1 + 2j], np.complex64)}
    assert sketch(tree).shape == (64 + 1 + 2,)
    for loud in (np.nan, np.inf):
        assert not np.isfinite(sketch({"a": np.full(100, loud, "f")})).all()


def test_noise_of_numpy_beside_a_key_is_seen():
    rng = np.random.default_rng(0)
    draw = lambda size=None: np.asarray(rng.normal(size=size), "f")
    theta = lambda k: jax.random.normal(k, (2,))
    for frozen in (lambda k: theta(k) + draw(2), lambda k: theta(k) + draw(), lambda k: jax.lax.map(lambda x: x * draw(), theta(k)),
                   lambda k: jax.lax.cond(theta(k)[0] > 0, lambda x: x + draw(2), lambda x: x, theta(k)), lambda k: jax.checkpoint(lambda x: x + draw())(theta(k))):
        assert not traces(frozen, KEY)
    net, other = np.ones(2, "f"), jax.random.key(1)
    for pure in (lambda k: jax.lax.map(lambda x: x * net + 0.5, theta(k)), lambda k: theta(k) + jax.random.normal(other, (2,)) + np.random.default_rng(0).normal()):
        assert traces(pure, KEY)

    def look(key):
        return theta(key), theta(key) + draw(2)

    noise = np.asarray([look(KEY)[1] for _ in range(2)])
    assert (noise[0] != noise[1]).any()
    wide = types.SimpleNamespace(sample=lambda k, y, n: y[None] + jax.random.normal(k, (n, 2)))
    seen = simulated_draws(wide, types.SimpleNamespace(simulate=look), KEY, 8, 4)
    assert len(np.unique((seen.features - seen.theta).round(4), axis=0)) == 8


def test_images_and_scalars_are_laid_out():
    image = types.SimpleNamespace(sample=lambda k, y, n: y[None] + jax.random.normal(k, (n, 2, 3)))
    prior = types.SimpleNamespace(simulate=lambda k: (jax.random.normal(k, (2, 3)), jnp.zeros((2, 3)) + jax.random.normal(k, (2, 3))))
    assert simulated_draws(image, prior, KEY, 4, 5).samples.shape == (5, 4, 6)
    scalar = types.SimpleNamespace(sample=lambda k, y, n: np.asarray(y) + np.zeros(n))
    assert simulated_draws(scalar, types.SimpleNamespace(simulate=lambda k: (jax.random.normal(k), 1.0)), KEY, 4, 5).theta.shape == (4, 1)


def test_many_parameters_keep_the_worst_curves():
    samples, theta, _ = arrays(250, n_dims=40, n_samples=20)
    samples[..., 7] += 3.0
    card = certificate(samples, theta, 0, n_chains=0)
    assert len(card.names) == 40 and card.ecdf.shape[1] == len(card.curves) == 25 and "theta[7]" in card.curves
    assert "biased in theta[7]" in card.verdict and len(list(card.rows())) == 26


# ---- chains


def ar1(phi, shape, seed=0):
    z = np.random.default_rng(seed).normal(size=shape)
    for t in range(1, shape[1]):
        z[:, t] = phi * z[:, t - 1] + np.sqrt(1 - phi**2) * z[:, t]
    return z


def test_chains_are_found_out_and_thinned():
    z = ar1(0.8, (3, 120, 20, 2))
    turns = np.swapaxes(z, 0, 1).reshape(360, 20, 2)
    assert interleaved(turns) == 3 and interleaved(np.random.default_rng(0).permutation(turns)) == 0
    assert interleaved(turns[:7]) == 0 and interleaved(np.zeros((20, 5, 1))) == 0
    thinned = thin(turns)
    kept, n = thinned.keep, 360 * 0.2 / 1.8
    assert n / 3 < len(kept) < n * 1.2 and (np.diff(kept) > 0).all() and not thinned.failed.any()
    chain = kept[kept % 3 == 0] // 3
    assert chain.size > 2 and np.diff(chain).min() >= 120 // chain.size - 2
    stuck = turns.copy()
    stuck[:, 4, 1] = np.repeat(np.random.default_rng(1).normal(size=4), 90)
    assert thin(stuck).failed[4]


def test_chains_that_are_given_count():
    samples, theta, _ = arrays(120, n_samples=40)
    data = arviz().from_dict(posterior={"a": np.moveaxis(samples[None], 0, 0)}, dims={"a": ["sim", "k"]})
    assert certificate(data, theta, 0).n_samples < 40  # one chain, of which the worth is measured
    assert certificate(data, theta, 0, n_chains=0).n_samples == 40


def test_arviz_data_one_or_many():
    z = ar1(0.5, (2, 100, 110, 3), seed=2)
    theta = np.random.default_rng(3).normal(size=(110, 3))
    many = [arviz().from_dict(posterior={"b": z[:, :, i, 0], "a": z[:, :, i, 1:]}) for i in range(110)]
    one = arviz().from_dict(posterior={"b": z[..., 0], "a": z[..., 1:]}, dims={"b": ["sim"], "a": ["sim", "k"]})
    for data in (many, one):
        samples, truths, names, n_chains = from_arviz(data, {"a": theta[:, 1:], "b": theta[:, 0]})
        assert names == ("b", "a[0]", "a[1]") and n_chains == 2
        np.testing.assert_array_equal(samples, np.swapaxes(z, 0, 1).reshape(200, 110, 3))
        np.testing.assert_array_equal(truths, theta)
    card = certificate(one, theta, 0, names=["x", "y", "z"])
    assert card.n_drawn == 200 and 20 < card.n_samples < 90 and "thinned from 200" in card.verdict and card.names == ("x", "y", "z")
    for bad in (theta[:5, 0], theta, 3.0):
        with pytest.raises(InputError, match=r"truths of b have shape .* give \(110,\)"):
            from_arviz(many, {"a": theta[:, 1:], "b": bad})
    with pytest.raises(InputError, match="differ in their variables"):
        certificate([many[0], arviz().from_dict(posterior={"b": z[:, :50, 0, 0]})], theta, 0)


# ---- disk


def test_a_certificate_survives_the_disk(tmp_path):
    samples, theta, y = arrays(150)
    samples[:, :, 1], theta[:, 1] = 2.0, np.arange(150)  # pinned, and wrong
    card = certificate(samples, theta, 0, data=y, n_chains=0)
    assert "pinned in theta[1]" in card.verdict and np.isnan(card.pull[1])
    tenth = certificate(np.where([True, False], samples, 0.1), theta, 0, data=y, n_chains=0)  # of which the standard deviation is not zero in floating point
    np.testing.assert_array_equal(tenth.pull, card.pull)
    np.testing.assert_array_equal(tenth.pvalue[0], card.pvalue[0])
    card.save(tmp_path / "card.json")
    held = json.loads((tmp_path / "card.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert held["lensnb certificate"] == 2 and held["certified"] is False and held["pull"][1] is None and held["verdict"] == card.verdict
    again = read_certificate(tmp_path / "card.json")
    assert again.to_json() == card.to_json() and repr(again) == repr(card)
    for name in ("z", "ecdf", "pvalue", "coverage", "pull"):
        np.testing.assert_array_equal(getattr(again, name), getattr(card, name))
    figure = again.draw()
    for ax in figure.axes[:2]:
        for line in ax.get_lines()[1:]:
            red, _, blue = to_rgb(line.get_color())
            assert (red > blue + 0.1) == (card.pvalue[card.tests.index(line.get_label())] <= card.level)  # orange is rejected, and nothing else
    assert {0.5, 1.0, 2.0} >= set(figure.axes[3].get_xticks()[-2:]) and 0.5 in figure.axes[3].get_xticks()
    assert len(figure.axes) == 4 and [path.name for path in tmp_path.iterdir()] == ["card.json"]
    for text, words in (('{"lensnb certificate": 1}', "version 1"), ("no", "holds no"), ('{"lensnb certificate": 2}', "holds no")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=words):
            read_certificate(tmp_path / "bad.json")


KILLED = """
import sys, time, types, jax, numpy as np
from lensnb.validation.draws import simulated_draws

def simulate(key):
    return jax.random.normal(key, (2,)), jax.random.normal(key, (2,))

def resumed(path, seconds):
    def sample(key, y, n):
        time.sleep(seconds)
        return np.asarray(y) + np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist()).normal(size=(n, 2)).astype("f")

    return simulated_draws(types.SimpleNamespace(sample=sample), types.SimpleNamespace(simulate=simulate), jax.random.key(0), 12, 5, path=path)
"""


def test_killed_halfway_it_goes_on_to_the_same(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED + "resumed(sys.argv[1], 0.2)", tmp_path / "a"])
    until = time.monotonic() + 60
    while len(list((tmp_path / "a").glob("*.npz"))) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {file: os.stat(file).st_mtime_ns for file in (tmp_path / "a").glob("*.npz")}
    assert 3 <= len(done) < 12
    here = {}
    exec(KILLED, here)
    for ours, theirs in zip(*(here["resumed"](tmp_path / name, 0.0) for name in "ab"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(os.stat(file).st_mtime_ns == when for file, when in done.items()) and len(list((tmp_path / "a").glob("*.npz"))) == 12


def test_a_folder_knows_what_made_it(tmp_path):
    class Network(types.SimpleNamespace):
        pass

    jax.tree_util.register_pytree_node(Network, lambda net: ((net.weight,), None), lambda _, leaves: Network(weight=leaves[0]))
    Network.sample = lambda self, key, y, n: self.weight[None] * sample(key, y, n)
    first = simulated_draws(Network(weight=jnp.ones(2)), SIMULATOR, KEY, 6, 10, batch_size=4, path=tmp_path)
    more = simulated_draws(Network(weight=jnp.ones(2)), SIMULATOR, KEY, 9, 10, batch_size=4, path=tmp_path)
    np.testing.assert_array_equal(first.samples, more.samples[:, :6])
    for other, word in ((dict(n_samples=11), "n_samples"), (dict(key=jax.random.key(9)), "key"), (dict(posterior=Network(weight=jnp.zeros(2))), "posterior"), (dict(batch_size=5), "batch_size")):
        given = dict(posterior=Network(weight=jnp.ones(2)), simulator=SIMULATOR, key=KEY, n_sims=6, n_samples=10, batch_size=4) | other
        with pytest.raises(InputError, match=f"another {word}"):
            simulated_draws(**given, path=tmp_path)


# ---- failures and refusals


def test_failures_are_counted_never_left_out():
    samples, theta, _ = arrays(200)
    samples = samples.astype("f")
    samples[3, [5, 9], 0], samples[0, 11, 1] = np.nan, np.inf
    card = certificate(Draws(samples, theta.astype("f")), key=0, n_chains=0)
    assert (card.n_failed, card.n_sims) == (3, 197) and not card.certified and card.verdict.startswith("Not certified: 3 of 200")
    assert "The other 197 simulations are calibrated within what they can tell: three tests, smallest p" in card.verdict
    off = certificate(Draws(samples + np.float32(1), theta.astype("f")), key=0, n_chains=0)
    assert "The other 197 simulations are not calibrated: biased in theta" in off.verdict

    def fails(key, y, n):
        raise FloatingPointError("ran away")

    with pytest.raises(FloatingPointError) as caught:
        certificate(types.SimpleNamespace(sample=fails), SIMULATOR, KEY, n_sims=100)
    assert "simulation 0" in caught.value.__notes__[0]


def test_a_parameter_that_never_varies_is_said():
    samples, theta, _ = arrays(200)
    samples[..., 1] = theta[:, 1] = 0.25
    card = certificate(samples, theta, 0, names=["a", "b"], n_chains=0)
    assert card.names == ("a",) and card.fixed == ("b",) and "Never varied, and not judged: b" in card.verdict
    for kinds in (("f", "d"), ("d", "f"), ("d", "d"), ("f", "f")):  # a tenth is another number in single precision
        one, other = (values.astype(kind) for values, kind in zip((samples, theta), kinds, strict=True))
        one[..., 1], other[:, 1] = 0.1, 0.1
        assert certificate(one, other, 0, names=["a", "b"], n_chains=0).fixed == ("b",)
    with pytest.raises(InputError, match="No parameter varies"):
        certificate(samples[..., 1:], theta[:, 1:], 0)


SAMPLES, THETA, Y = arrays(120)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: certificate(np.where(SAMPLES > 1, np.nan, SAMPLES), THETA, 0), "holds NaN"),
    (lambda: certificate(SAMPLES, THETA[:5], 0), "n_samples, n_sims, n_dims"),
    (lambda: certificate(SAMPLES[:1], THETA, 0), "draw ten at least"),
    (lambda: certificate(SAMPLES[:, :30], THETA[:30], 0), "30 simulations are too few .* [0-9]+ would see"),
    (lambda: certificate(SAMPLES, THETA, 0, names=["a"]), "2 parameters and 1 names"),
    (lambda: certificate(SAMPLES, THETA, 0, names=["a", "a"]), "give each its own"),
    (lambda: certificate(SAMPLES, THETA, 0, confidence=99), "between 0.5 and 1"),
    (lambda: certificate(SAMPLES, THETA, 0, levels=[68.3]), "between 0 and 1"),
    (lambda: certificate(SAMPLES, THETA), "give a key"),
    (lambda: certificate(SAMPLES, THETA, 0, data=Y[:5]), "an observation for each of 120"),
    (lambda: certificate(SAMPLES, THETA, 0, log_prob=(Y, Y)), "two arrays"),
    (lambda: certificate(EXACT, THETA, KEY), "has simulate"),
    (lambda: certificate(EXACT, SIMULATOR, 0), "not one key"),
    (lambda: certificate(EXACT, SIMULATOR, KEY, n_sims=0), "n_sims = 0"),
    (lambda: certificate(types.SimpleNamespace(sample=lambda k, y, n: sample(k, y, n)[:, :1]), SIMULATOR, KEY), "gave shape"),
    (lambda: certificate(Draws(SAMPLES, np.where(THETA > 1, np.nan, THETA)), key=0), "mend the simulator"),
    (lambda: certificate(Draws(np.full_like(SAMPLES, np.nan), THETA), key=0), "In none of 120"),
    (lambda: certificate(np.sort(SAMPLES, axis=0), THETA, 0), "only sorted"),
    (lambda: thin(SAMPLES, 20), "too few to tell"),
    (lambda: certificate(SAMPLES, THETA, 0, n_chains=2.5), "n_chains = 2.5 is no whole number"),
    (lambda: certificate(SAMPLES, THETA, 0, n_chains=-1), "n_chains = -1"),
    (lambda: certificate(SAMPLES, THETA, 0, names=[RANDOM, "b"]), "joint test is called TARP; give"),
    (lambda: certificate(SAMPLES, THETA, 0, data=3.0), "an observation for each of 120"),
    (lambda: certificate(SAMPLES, THETA, 0, data=np.array(["text"] * 120)), "No number in the observations varies"),
    (lambda: certificate(SAMPLES, THETA, 0, data=np.ones((120, 3))), "No number in the observations varies"),
    (lambda: certificate(SAMPLES, THETA, 0, data=Y * 1e-60), "too small for single precision"),
    (lambda: certificate(SAMPLES, THETA, 0, data=np.where(Y > 1, np.nan, Y)), "hold NaN, or numbers too large"),
    (lambda: certificate(SAMPLES, THETA, 0, data=Y * 1e60), "too large for single precision"),
    (lambda: certificate(EXACT, SIMULATOR, KEY, data=Y), "data would not be used"),
    (lambda: certificate(EXACT, SIMULATOR, KEY, log_prob=(Y, Y)), "log_prob would not be used"),
    (lambda: certificate(Draws(SAMPLES, THETA), THETA, 0), "give the Draws alone"),
    (lambda: certificate(Draws(SAMPLES, THETA), key=0, data=Y, log_prob=(Y, Y)), "put data and log_prob there"),
    (lambda: certificate(Draws(SAMPLES, THETA[:5]), key=0), "n_samples, n_sims, n_dims"),
    (lambda: certificate(Draws([[[0.0], [1.0]]], [[0.0]]), key=0), "n_samples, n_sims, n_dims"),
    (lambda: certificate(Draws([[[0.0], [1.0, 2.0]]], [[0.0]]), key=0), "unequal lengths"),
    (lambda: certificate(Draws(SAMPLES, THETA, SAMPLES[..., 0]), key=0), "or both None"),
    (lambda: certificate(Draws(SAMPLES, THETA, None, None, Y[:5]), key=0), "a row for each of 120"),
])
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
