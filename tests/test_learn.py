"""Training, networks and weight files: what interrupts, spoils or confuses them."""

import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from lensnb.core import InputError, LensnbError
from lensnb.learn.fit import Diverged, constant, cosine, fit, move_average, shuffled
from lensnb.learn.networks import GroupNorm, ResNet
from lensnb.learn.weights import MAGIC, load_weights, read_header, save_weights, write_atomically

KEY = jax.random.key(0)


def squared_error(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def points(n=64, d=3):
    x = jax.random.normal(jax.random.key(1), (n, d))
    y = x @ jnp.arange(1.0, d + 1.0) + 0.5 + 0.1 * jax.random.normal(jax.random.key(2), (n,))
    return x, y


def linear(d=3):
    return eqx.nn.Linear(d, "scalar", key=jax.random.key(3))


def train(**changes):
    default = dict(model=linear(), loss=squared_error, key=KEY, batch=points(), steps=12, batch_size=16, progress=False)
    return fit(**{**default, **changes})


# ---- kill -9 ----

TRAINING = """
import sys
import equinox as eqx, jax, jax.numpy as jnp
from lensnb.learn.fit import cosine, fit
from lensnb.learn.weights import save_weights

def loss(model, batch, key):
    x, y = batch
    drop = jax.random.bernoulli(key, 0.9, x.shape)
    return jnp.mean((jax.vmap(model)(jnp.where(drop, x, 0.0)) - y) ** 2)

def simulated(key):
    x = jax.random.normal(key, (32, 4))
    return x, jnp.sin(x).sum(axis=1)

folder, source = sys.argv[1:]
held = simulated(jax.random.key(9))
batch = simulated if source == "simulated" else tuple(jnp.tile(a, (4,) + (1,) * (a.ndim - 1)) for a in held)
steps = 200
result = fit(eqx.nn.MLP(4, "scalar", 32, 2, key=jax.random.key(1)), loss, jax.random.key(2), batch, steps=steps,
             batch_size=None if source == "simulated" else 32, learning_rate=cosine(1e-2, steps, warmup=10), clip=1.0,
             validation=[held], validate_every=20, checkpoint=folder + "/state", checkpoint_every=0.0,
             log=folder + "/log", log_every=2, progress=False)
save_weights(folder + "/weights", (result.model, result.ema_model), {"status": result.status})
"""


def start(folder, source):
    folder.mkdir(exist_ok=True)
    compiled = dict(JAX_COMPILATION_CACHE_DIR=str(folder.parent / "compiled"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    command = [sys.executable, "-c", TRAINING, str(folder), source]
    return subprocess.Popen(command, env={**os.environ, **compiled}, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def records(folder):
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def test_killed_five_times_ends_with_the_same_weights(tmp_path):
    chance = np.random.default_rng()  # other moments in every run
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    source = str(chance.choice(["simulated", "arrays"]))
    uninterrupted = start(whole, source)
    for kill in range(5):
        process = start(broken, source)
        wanted = 18 * kill + int(chance.integers(1, 18))  # of 100 records
        seen = -1
        while (done := len(records(broken))) < wanted and process.poll() is None:
            time.sleep(0.02 if done == seen else 0.001)  # a process that has nothing to tell yet is asked less often
            seen = done
        time.sleep(chance.uniform(0, 0.01))
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(broken, source))
    finish(uninterrupted)
    assert (broken / "weights").read_bytes() == (whole / "weights").read_bytes()
    history = [[json.loads(line) for line in records(folder)] for folder in (whole, broken)]
    told = [[(r["step"], r["loss"], r["gradient"], r["rate"], r.get("validation")) for r in h] for h in history]
    assert told[0] == told[1]
    assert [r["step"] for r in history[1]] == list(range(2, 201, 2))
    seconds = [r["seconds"] for r in history[1]]
    assert seconds == sorted(seconds)


def test_a_finished_training_is_not_run_again(tmp_path):
    first = train(checkpoint=tmp_path / "state")

    def never(model, batch, key):
        raise AssertionError("trained again")

    again = train(loss=never, checkpoint=tmp_path / "state")
    assert again.status == "finished" and again.history == first.history
    assert eqx.tree_equal(again.model, first.model) and eqx.tree_equal(again.ema_model, first.ema_model)


# ---- checkpoints ----

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "state"
    train(checkpoint=path)
    return path


@pytest.mark.parametrize("name, changes", [
    ("steps", dict(steps=13)),
    ("batch_size", dict(batch_size=8)),
    ("key", dict(key=jax.random.key(5))),
    ("clip", dict(clip=1.0)),
    ("ema", dict(ema=0.9)),
    ("learning_rate", dict(learning_rate=2e-3)),
    ("optimiser", dict(optimiser=lambda rate: optax.adamw(rate, weight_decay=0.1))),
    ("weights", dict(model=eqx.nn.Linear(3, "scalar", key=jax.random.key(4)))),
    ("weights", dict(model=eqx.nn.MLP(3, "scalar", 4, 1, key=KEY))),
    ("data", dict(batch=points(65))),
    ("data", dict(validation=[points()])),
])
def test_a_checkpoint_of_another_training_is_refused(finished, name, changes):
    before = finished.read_bytes()
    with pytest.raises(InputError, match=f"another training: `{name}` was"):
        train(checkpoint=finished, **changes)
    assert finished.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(finished, tmp_path):
    (tmp_path / "state").write_bytes(finished.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated or altered"):
        train(checkpoint=tmp_path / "state")


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    whole = train(log=tmp_path / "log")
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LensnbError, match="Could not write .*state: No space left on device"):
        train(checkpoint=tmp_path / "state", checkpoint_every=0.0)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "state"]
    assert eqx.tree_equal(train(checkpoint=tmp_path / "state").model, whole.model)


def test_a_log_that_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(LensnbError, match="Could not write"):
        train(log=tmp_path / "missing" / "log")


# ---- what is learned ----

def test_linear_regression_ends_at_the_least_squares_solution():
    x, y = points()
    trained = train(steps=700, batch_size=64, learning_rate=cosine(0.05, 700), ema=0.9).ema_model
    exact = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    np.testing.assert_allclose(np.r_[trained.weight[0], trained.bias], exact, rtol=1e-4)


def test_the_average_follows_its_recurrence():
    "Gradient descent on w^2/2 multiplies w by 1 - rate, so both sequences are known."
    start, rate, decay, steps = 3.0, 0.1, 0.8, 30
    result = fit(jnp.asarray(start), lambda w, batch, key: 0.5 * w**2, KEY, lambda key: jnp.zeros(1), steps=steps,
                 learning_rate=rate, optimiser=optax.sgd, ema=decay, progress=False)
    average, w = start, start
    for k in range(steps):
        w *= 1 - rate
        keep = min(decay, (1 + k) / (10 + k))
        average = keep * average + (1 - keep) * w
    np.testing.assert_allclose((result.model, result.ema_model), (w, average), rtol=1e-5)


def test_schedules_match_their_formulas():
    steps, warmup, peak, final = 200, 20, 3e-3, 1e-4
    k = np.arange(steps + 1)
    rise = peak * (k + 1) / (warmup + 1)
    fall = final + (peak - final) / 2 * (1 + np.cos(np.pi * (k - warmup) / (steps - warmup)))
    np.testing.assert_allclose(jax.vmap(cosine(peak, steps, warmup, final))(jnp.asarray(k)), np.where(k < warmup, rise, fall), rtol=1e-4)
    np.testing.assert_allclose(jax.vmap(constant(peak, warmup))(jnp.asarray(k)), np.minimum(rise, peak), rtol=1e-6)
    with pytest.raises(InputError, match="warm-up of 200 steps"):
        cosine(peak, steps, warmup=200)


def test_the_schedule_drives_the_optimiser_and_the_log():
    "With plain gradient descent on w, whose gradient is 1, the weight falls by the sum of the rates."
    rate = cosine(0.5, 20, warmup=5)
    result = fit(jnp.asarray(0.0), lambda w, batch, key: w, KEY, lambda key: jnp.zeros(1), steps=20, learning_rate=rate,
                 optimiser=optax.sgd, log_every=1, progress=False)
    rates = [float(rate(k)) for k in range(20)]
    np.testing.assert_allclose(result.model, -sum(rates), rtol=1e-5)
    np.testing.assert_allclose([r["rate"] for r in result.history], rates, rtol=1e-6)


def test_clipping_bounds_a_step():
    result = fit(jnp.asarray([30.0, 40.0]), lambda w, batch, key: 0.5 * jnp.sum(w**2), KEY, lambda key: jnp.zeros(1),
                 steps=1, learning_rate=1.0, optimiser=optax.sgd, clip=5.0, progress=False)
    np.testing.assert_allclose(result.model, [27.0, 36.0], rtol=1e-6)
    np.testing.assert_allclose(result.history[0]["gradient"], 50.0, rtol=1e-6)


def test_only_what_is_trainable_moves():
    model = eqx.nn.MLP(3, "scalar", 8, 1, key=KEY)
    learns = eqx.tree_at(lambda m: m.layers[0], jax.tree.map(eqx.is_inexact_array, model), replace=False)
    result = train(model=model, trainable=learns)
    assert eqx.tree_equal(result.model.layers[0], model.layers[0]) and eqx.tree_equal(result.ema_model.layers[0], model.layers[0])
    assert not eqx.tree_equal(result.model.layers[1], model.layers[1])


def test_the_given_model_survives():
    model = linear()
    before = np.asarray(model.weight).copy()
    train(model=model)
    np.testing.assert_array_equal(model.weight, before)


@pytest.mark.parametrize("key", [jax.random.key(7), jax.random.PRNGKey(7)], ids=["typed", "raw"])
def test_the_key_decides_everything(key):
    assert eqx.tree_equal(train(key=key).model, train(key=key).model)
    assert not eqx.tree_equal(train(key=key).model, train().model)


def test_double_precision(x64):
    result = train(steps=3)
    assert result.ema_model.weight.dtype == jnp.float64 and jnp.all(jnp.isfinite(result.ema_model.weight))


@given(n=st.integers(1, 9), size=st.integers(1, 9), epoch=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_an_epoch_holds_no_example_twice(n, size, epoch):
    if size > n:
        with pytest.raises(InputError, match=f"Batches of {size} cannot be drawn from {n}"):
            shuffled(np.arange(n), size, KEY)
        return
    turns = n // size
    dealt = np.concatenate([shuffled(np.arange(n), size, KEY)(epoch * turns + turn) for turn in range(turns)])
    assert len(np.unique(dealt)) == turns * size


# ---- stopping ----

@pytest.mark.parametrize("loss, what", [
    (lambda w, batch, key: jnp.sum(w) * jnp.where(batch[0] > 0.5, jnp.nan, 1.0), "the loss is nan"),
    (lambda w, batch, key: jnp.sum(w) + jnp.where(batch[0] > 0.5, jnp.inf, 0.0), "the loss is inf"),
    (lambda w, batch, key: jnp.sum(w) + jnp.sqrt(jnp.where(batch[0] > 0.5, 0.0, 1.0) * jnp.sum(w**2)), "gradient is nan"),
])
def test_a_step_that_is_not_finite_stops_the_training(tmp_path, loss, what):
    spoilt = jnp.zeros(40).at[30].set(1.0)
    poisoned = next(k for k in range(40) if shuffled(spoilt, 1, jax.random.split(KEY, 3)[1])(k)[0] == 1)
    common = dict(model=jnp.ones(2), batch=spoilt, batch_size=1, steps=40)
    with pytest.raises(Diverged, match=f"step {poisoned}: .*{what}.*Try a lower") as stopped:
        train(loss=loss, checkpoint=tmp_path / "state", checkpoint_every=0.0, **common)
    assert isinstance(stopped.value, LensnbError) and isinstance(stopped.value, FloatingPointError)
    assert np.all(np.isfinite(stopped.value.result.model)) and np.all(np.isfinite(stopped.value.result.ema_model))
    assert "holds an earlier, good state" in str(stopped.value)
    (state, _), _ = load_weights(tmp_path / "state", lambda made: saved_state(common))
    assert state[0] == poisoned
    np.testing.assert_array_equal(state[1], stopped.value.result.model)


def saved_state(common):
    from lensnb.learn.fit import initial_state
    return initial_state(common["model"], optax.adam(constant(1e-3))), None


def test_patience_keeps_the_best():
    "The validation loss |w - 1| falls until w = 1 and rises after it."
    result = fit(jnp.asarray(0.0), lambda w, batch, key: jnp.where(batch[0] > 0, jnp.abs(w - 1.0), -w), KEY,
                 lambda key: jnp.zeros(1), steps=1000, learning_rate=0.01, optimiser=optax.sgd, ema=0.0,
                 validation=[jnp.ones(1)], validate_every=10, patience=4, progress=False)
    assert result.status == "stopped early"
    assert result.history[-1]["step"] == 140
    np.testing.assert_allclose((result.ema_model, result.model), (1.0, 1.4), rtol=1e-4)


def test_a_validation_that_is_not_finite_is_no_improvement():
    result = train(validation=[(jnp.full((4, 3), jnp.nan), jnp.zeros(4))], validate_every=3, patience=2)
    assert result.status == "stopped early" and result.history[-1]["step"] == 6
    assert result.history[-1]["validation"] is None and np.all(np.isfinite(result.ema_model.weight))


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="at least one step"):
        train(steps=0)
    with pytest.raises(InputError, match="`patience` needs"):
        train(patience=3)
    with pytest.raises(InputError, match="first axes must agree"):
        train(batch=(jnp.zeros((4, 3)), jnp.zeros(5)))
    with pytest.raises(InputError, match="give a `batch_size`"):
        train(batch_size=None)


def test_the_log_says_what_happened(tmp_path, capsys):
    result = train(steps=25, log=tmp_path / "log", log_every=10, validation=[points()], validate_every=20, progress=True, label="demo")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == result.history
    assert [line["step"] for line in lines] == [10, 20, 25]
    assert ["validation" in line for line in lines] == [False, True, True]
    for line in lines:
        assert {"loss", "gradient", "rate", "seconds", "examples_per_second"} <= line.keys()
        assert all(math.isfinite(value) for value in line.values())
    shown = capsys.readouterr().err
    assert "demo" in shown and "25/25" in shown and "loss=" in shown


# ---- weight files ----

@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "linear.weights"
    save_weights(path, linear(), dict(d=3, metrics=dict(median=np.float32(0.5), n=jnp.asarray(4))))
    return path


def build(made):
    return linear(made["d"])


def test_weights_come_back_bit_for_bit(stored):
    model, made = load_weights(stored, build)
    assert eqx.tree_equal(model, linear())
    assert made == dict(d=3, metrics=dict(median=0.5, n=4))
    assert {"lensnb", "jax", "equinox", "numpy"} == read_header(stored)["versions"].keys()


def test_the_same_weights_make_the_same_bytes(stored, tmp_path):
    model, made = load_weights(stored, build)
    save_weights(tmp_path / "again", model, dict(reversed(made.items())))
    assert (tmp_path / "again").read_bytes() == stored.read_bytes()


def test_every_kind_of_leaf_is_kept(tmp_path):
    tree = dict(a=np.arange(3), b=jnp.asarray(2.0), c=4, d=0.5, e=True, f=jax.nn.relu, g=jnp.ones(2, jnp.bfloat16), h="name")
    save_weights(tmp_path / "tree", tree, {})
    loaded, _ = load_weights(tmp_path / "tree", lambda made: tree)
    assert loaded["c"] == 4 and loaded["d"] == 0.5 and loaded["e"] is True and loaded["f"] is jax.nn.relu and loaded["h"] == "name"
    for name in "abg":
        np.testing.assert_array_equal(loaded[name], tree[name])
        assert loaded[name].dtype == jnp.asarray(tree[name]).dtype


def test_single_precision_fills_double(stored, x64):
    model, _ = load_weights(stored, build)
    assert model.weight.dtype == jnp.float64


def test_double_precision_does_not_fit_single(tmp_path):
    with jax.enable_x64(True):
        save_weights(tmp_path / "double", linear(), dict(d=3))
    with pytest.raises(InputError, match="weight is float64"):
        load_weights(tmp_path / "double", build)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_altered_bytes_are_found(stored, tmp_path, data):
    whole = bytearray(stored.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
    if bytes(whole) == stored.read_bytes():
        return
    (tmp_path / "altered").write_bytes(whole)
    with pytest.raises(InputError):
        load_weights(tmp_path / "altered", build)


def test_every_truncation_is_found(stored, tmp_path):
    whole = stored.read_bytes()
    for length in (0, 1, 10, len(MAGIC), 60, 82, 83, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "short").write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated or altered|not a weight file"):
            load_weights(tmp_path / "short", build)
    (tmp_path / "long").write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="truncated or altered"):
        load_weights(tmp_path / "long", build)


@pytest.mark.parametrize("build, message", [
    (lambda made: linear(4), "weight is float32.1, 3. in the file and float32.1, 4. in the network"),
    (lambda made: eqx.nn.Linear(3, "scalar", use_bias=False, key=KEY), "only the file has .bias"),
    (lambda made: (linear(), linear()), "only the file has .bias"),
    (lambda made: eqx.nn.MLP(3, "scalar", 4, 1, key=KEY), "holds another network"),
])
def test_another_network_is_refused(stored, build, message):
    with pytest.raises(InputError, match=message):
        load_weights(stored, build)


def test_what_is_no_weight_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="Could not read .*No such file"):
        read_header(tmp_path / "missing")
    with pytest.raises(InputError, match="Could not read"):
        read_header(tmp_path)
    (tmp_path / "text").write_text("SIMPLE  =                    T")
    with pytest.raises(InputError, match="not a weight file"):
        read_header(tmp_path / "text")
    (tmp_path / "newer").write_text(f"lensnb weights 2 {'0' * 64}\n")
    with pytest.raises(InputError, match="version 2 of the format"):
        read_header(tmp_path / "newer")


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


def test_nothing_is_unpickled(stored, tmp_path):
    "A file with a right hash, whose array is a pickled object that would end this process."
    import hashlib
    import io

    facts = json.dumps(read_header(stored)).encode() + b"\n"
    block = io.BytesIO()
    np.lib.format.write_array_header_1_0(block, dict(shape=(1, 3), fortran_order=False, descr="|O"))
    for payload in (block.getvalue() + pickle.dumps(Bomb()), pickle.dumps(Bomb()), b""):
        body = facts + payload
        (tmp_path / "bomb").write_bytes(f"{MAGIC} {hashlib.sha256(body).hexdigest()}\n".encode() + body)
        with pytest.raises(InputError, match="plain arrays"):
            load_weights(tmp_path / "bomb", build)


@pytest.mark.parametrize("header", [dict(loss=math.nan), dict(model=linear)])
def test_a_header_that_is_not_plain_is_refused(tmp_path, header):
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        save_weights(tmp_path / "none", linear(), header)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*names):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LensnbError, match="Could not write"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# ---- networks ----

@eqx.filter_jit
def small(conditions=0):
    return ResNet((2, 16, 16), 5, key=KEY, conditions=conditions, widths=(16, 32), depths=(1, 1), hidden=16, patch=2)


def test_group_norm_against_numpy():
    x = np.random.default_rng(0).normal(3, 2, (6, 4, 5)).astype(np.float32)
    norm = eqx.tree_at(lambda n: (n.scale, n.offset), GroupNorm(6, 3), (jnp.arange(6.0), jnp.arange(6.0) / 2))
    groups = x.reshape(3, -1)
    expected = ((groups - groups.mean(1)[:, None]) / np.sqrt(groups.var(1)[:, None] + 1e-5)).reshape(x.shape)
    expected = expected * np.arange(6)[:, None, None] + np.arange(6)[:, None, None] / 2
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_on_any_image():
    @eqx.filter_jit
    @eqx.filter_grad
    def slopes(model_and_image):
        model, image = model_and_image
        return jnp.sum(model(image) ** 2)

    for level in (0.0, 1e-20, 1.0, 1e4):
        grads = slopes((small(), level * jax.random.normal(KEY, (2, 16, 16))))
        assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads)), level


def test_position_matters():
    "A network that averaged over its last map would hardly see where a spot is."
    spot = jnp.zeros((2, 16, 16)).at[:, 3, 3].set(10.0)
    look = eqx.filter_jit(small())
    features = [look(jnp.roll(spot, shift, axis=(1, 2))) for shift in (0, 8)]
    assert float(jnp.linalg.norm(features[0] - features[1])) > 0.1 * float(jnp.linalg.norm(features[0]))


def test_conditions_matter_and_batches_agree():
    net = eqx.filter_jit(small(conditions=2))
    images, known = jax.random.normal(KEY, (3, 2, 16, 16)), jnp.asarray([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    together = jax.vmap(net)(images, known)
    np.testing.assert_allclose(together[1], net(images[1], known[1]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(net(images[0], known[0]), net(images[0], known[1]))


def test_a_network_in_double_precision(x64):
    assert eqx.filter_eval_shape(small(), jnp.zeros((2, 16, 16))).dtype == jnp.float64


@pytest.mark.parametrize("options, message", [
    (dict(shape=(2, 60, 64)), "multiples of 16"),
    (dict(shape=(64, 64)), "give .channels, ny, nx."),
    (dict(shape=(2, 64, 64), widths=(30, 64, 128)), "multiples of 16"),
    (dict(shape=(2, 64, 64), depths=(1, 1)), "of one length"),
])
def test_networks_that_cannot_be_built(options, message):
    with pytest.raises(InputError, match=message):
        ResNet(options.pop("shape"), 4, key=KEY, **options)


def test_inputs_that_do_not_fit_are_named():
    net = small(conditions=2)
    for arguments in ((jnp.zeros((1, 16, 16)), jnp.zeros(2)), (jnp.zeros((2, 16, 16)),), (jnp.zeros((2, 16, 16)), jnp.zeros(3))):
        with pytest.raises(InputError, match="takes an image of shape .2, 16, 16. and 2 conditions"):
            net(*arguments)


def test_a_network_learns_where_a_spot_is():
    "The loop, the network and the file together."
    def spots(key):
        place = jax.random.uniform(key, (32, 2), minval=4.0, maxval=12.0)
        axis = jnp.arange(16.0)
        shape = jnp.exp(-0.5 * ((axis[None, :, None] - place[:, 1, None, None]) ** 2 + (axis[None, None, :] - place[:, 0, None, None]) ** 2))
        return jnp.stack([shape, shape], axis=1), place - 8.0

    def loss(model, batch, key):
        images, place = batch
        return jnp.mean((jax.vmap(model)(images)[:, :2] - place) ** 2)

    result = fit(small(), loss, KEY, spots, steps=100, learning_rate=cosine(3e-3, 100, warmup=10), ema=0.9,
                 log_every=50, progress=False)
    held = spots(jax.random.key(99))
    assert float(loss(result.ema_model, held, KEY)) < 0.1  # from 5.3 for a network that knows nothing
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_learn_knows_nothing_of_lenses():
    for module in Path(sys.modules["lensnb.learn.fit"].__file__).parent.glob("*.py"):
        text = module.read_text()
        assert "lensnb.simulator" not in text and "lensnb.inference" not in text


def test_move_average_keeps_dtypes():
    average = move_average(dict(a=jnp.zeros(2, jnp.bfloat16)), dict(a=jnp.ones(2, jnp.bfloat16)), jnp.asarray(0), 0.9)
    assert average["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(average["a"].astype(float), 0.9, rtol=1e-2)
