"""Data sets on disk: killed, cut short, on a full disk and asked for by others, a store keeps what it has and says what it lacks."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import zarr

from lensnb.core import InputError, LensnbError
from lensnb.simulator.dataset import Dataset, alike, sampler, write_dataset
from lensnb.simulator.prior import Prior
from lensnb.simulator.store import account

KEY = jax.random.key(5)


class Lenses:
    """No simulator of the house: any object that simulates will do."""

    def __init__(self, level=0.0, size=8):
        self.level, self.size = level, size

    def simulate(self, key):
        theta = jax.random.normal(key, (3,))
        image = theta.sum() + self.level + jax.random.normal(jax.random.fold_in(key, 1), (self.size, self.size))
        return theta, {"bands": (image, image[::2, ::2]), "counts": jax.random.poisson(key, 4.0, (2,)), "quad": theta[0] > 0}


class Plain:
    """One image a sample."""

    def simulate(self, key):
        theta = jax.random.normal(key, (2,))
        return theta, theta[0] * jnp.ones((16, 16))


LENSES, PLAIN = Lenses(), Plain()


def write(path, simulator=LENSES, n=42, key=KEY, **options):
    return write_dataset(path, simulator, n, key, **dict(chunk=10, progress=False) | options)


def digest(path):
    """One number for all bytes below a folder and the names of the files."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path)} ".encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "set")


@pytest.fixture
def copy(whole, tmp_path):
    """A copy that may be damaged."""
    subprocess.run(["cp", "-r", whole.path, tmp_path / "set"], check=True)
    return tmp_path / "set"


def test_every_sample_is_what_its_key_makes(whole):
    simulate = jax.jit(LENSES.simulate)
    for i in (0, 9, 10, 41):
        theta, y = simulate(jax.random.fold_in(KEY, i))
        found_theta, found = whole[i]
        np.testing.assert_allclose(found_theta, theta, rtol=1e-5)
        assert jax.tree.structure(found) == jax.tree.structure(y)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, y)
        assert found["quad"].dtype == bool and found["counts"].dtype == np.int32 and found["bands"][1].shape == (4, 4)


@pytest.mark.parametrize("index", [slice(None), slice(5, 25), slice(40, 3, -7), slice(7, 7), -1, 12, np.array([3, 41, 3]), np.arange(42) % 5 == 0, [-2, 0]],
                         ids=str)
def test_indexing_is_numpys(whole, index):
    everything = whole[:]
    picked = everything[0][index], everything[1]["bands"][0][index]
    theta, y = whole[index]
    assert np.array_equal(theta, picked[0]) and np.array_equal(y["bands"][0], picked[1])
    assert len(whole) == 42


@pytest.mark.parametrize("index", [42, -43, [0, 99]], ids=str)
def test_beyond_the_end(whole, index):
    with pytest.raises(IndexError):
        whole[index]


def test_a_stranger_can_read_it(whole):
    """Zarr alone, without lensnb."""
    group = zarr.open_group(whole.path, mode="r")
    assert group["theta"].shape == (42, 3) and group["y/bands/0"].shape == (42, 8, 8)
    made = group.attrs["lensnb"]
    assert made["names"] == ["theta_0", "theta_1", "theta_2"] and made["key"] == np.asarray(jax.random.key_data(KEY)).tolist()


def test_more_samples_begin_alike(whole, tmp_path):
    longer = write(tmp_path / "set", n=50)
    assert np.array_equal(longer[:42][1]["bands"][0], whole[:][1]["bands"][0])


def test_fewer_than_a_chunk(tmp_path):
    assert np.isfinite(write(tmp_path / "set", PLAIN, n=3)[:][1]).all()


SLOW = """
import sys, time, jax
sys.path.insert(0, sys.argv[1])
from test_dataset import PLAIN, KEY, write_dataset
from lensnb.simulator import store
put = store.Store.write
def slowly(self, k, parts):
    for name in ("y", "theta"):
        time.sleep(0.02)
        put(self, k, {name: parts[name]})
store.Store.write = slowly
write_dataset(sys.argv[2], PLAIN, 1000, KEY, chunk=8, progress=False)
"""


def test_killed_and_continued_to_the_same_bytes(tmp_path):
    path = tmp_path / "killed"
    victim = subprocess.Popen([sys.executable, "-c", SLOW, os.path.dirname(__file__), path])
    late = time.monotonic() + 120
    while len(list(path.glob("theta/c/*/0"))) < 20:
        assert victim.poll() is None and time.monotonic() < late
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    done = len(list(path.glob("theta/c/*/0")))
    assert 20 <= done < 120 and len(Dataset(path).missing()) in (125 - done, 126 - done)
    before = {file: file.stat().st_mtime_ns for file in path.glob("theta/c/*/0")}
    (path / "y/c/30/0/0.0123abcd.partial").parent.mkdir(parents=True, exist_ok=True)
    (path / "y/c/30/0/0.0123abcd.partial").write_bytes(b"half of a ch")
    write(path, PLAIN, n=1000, chunk=8)
    assert all(file.stat().st_mtime_ns == when for file, when in before.items()), "finished chunks are left alone"
    straight = write(tmp_path / "straight", PLAIN, n=1000, chunk=8)
    assert digest(path) == digest(straight.path)


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "flipped"])
def test_a_damaged_chunk_is_named_and_made_again(whole, copy, damage):
    file = copy / "y/bands/0/c/2/0/0"
    data = file.read_bytes()
    broken = dict(empty=b"", short=data[:-9], flipped=data[:40] + bytes([data[40] ^ 1]) + data[41:])
    file.write_bytes(broken[damage]) if damage in broken else file.unlink()
    dataset = Dataset(copy)
    with pytest.raises(InputError, match=r"lacks samples 20 to 29.*call write_dataset"):
        dataset[25]
    assert np.array_equal(dataset[30:][0], whole[30:][0]), "the others can be read"
    with pytest.raises(InputError, match="20 to 29"):
        list(dataset.batches(5, KEY, epochs=1))
    with pytest.raises(InputError, match="20 to 29"):
        sampler(dataset, 5)
    write(copy)
    assert digest(copy) == digest(whole.path)


@pytest.mark.parametrize("name", ["zarr.json", "theta/zarr.json", "y/counts/zarr.json"])
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_lost_metadata_lose_no_sample(whole, copy, name, damage):
    (copy / name).unlink() if damage == "gone" else (copy / name).write_text((copy / name).read_text()[:50])
    with pytest.raises(InputError, match=f"no readable {name}.*no sample is lost.*call write_dataset"):
        Dataset(copy)
    write(copy)
    assert digest(copy) == digest(whole.path)


def test_without_metadata_another_simulation_is_still_refused(copy):
    (copy / "zarr.json").unlink()
    with pytest.raises(InputError, match="another data set"):
        write(copy, n=60)
    with pytest.raises(InputError, match="make other samples"):
        write(copy, key=jax.random.key(6))


OTHERS = {
    "n": dict(n=43), "key": dict(key=jax.random.key(6)), "chunk": dict(chunk=11), "names": dict(names=["a", "b", "c"]),
    "arrays": dict(simulator=Lenses(size=10)), "make other samples": dict(simulator=Lenses(level=0.1)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_simulation_is_refused(copy, what):
    before = digest(copy)
    with pytest.raises(InputError, match=f"another data set: .*{what}"):
        write(copy, **OTHERS[what])
    assert digest(copy) == before


def test_a_simulator_that_changes_is_noticed(tmp_path):
    changing = Lenses()
    write(tmp_path / "set", changing)
    changing.level = 0.5
    with pytest.raises(InputError, match="make other samples"):
        write(tmp_path / "set", changing)


def test_another_prior_is_refused():
    class Drawn:
        def __init__(self, high):
            self.prior = Prior({"theta_E": dist.Uniform(0.5, high)})

        def simulate(self, key):
            return self.prior.sample(key), jnp.zeros(())

    made = [account(Drawn(high), 10, KEY, 5) for high in (1.0, 1.5)]
    assert [m["prior"] for m in made] == [{"theta_E": f"Uniform(low = 0.5, high = {high})"} for high in ("1", "1.5")]


def test_rounding_is_forgiven_and_nothing_else():
    a = {"y": np.random.default_rng(0).standard_normal((4, 6, 6)).astype(np.float32), "hit": np.arange(9) > 3}
    assert alike(a, a | {"y": a["y"] * np.float32(1 + 1e-5)})
    assert not alike(a, a | {"y": a["y"] + np.float32(0.01)}) and not alike(a, a | {"hit": ~a["hit"]})


def test_a_full_disk_keeps_what_is_there(whole, tmp_path):
    """A limit on the size of files stands for a full disk: the third chunk does not fit."""
    path, limits = tmp_path / "set", resource.getrlimit(resource.RLIMIT_FSIZE)
    write(path)
    for k in (2, 3):
        (path / f"y/bands/0/c/{k}/0/0").unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(LensnbError, match=r"could not be written \(File too large\); 22 of 42 samples are safe.*call again"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    write(path)
    assert digest(path) == digest(whole.path)


class Wrong:
    """Returns what it is given."""

    def __init__(self, *returned):
        self.returned = returned

    def simulate(self, key):
        return self.returned


V, M = jnp.zeros(2), jnp.zeros((2, 2))
REFUSED = [dict(n=0), dict(chunk=0), dict(names=["a"]), dict(simulator=Wrong(M, V)), dict(simulator=Wrong(V)), dict(simulator=Wrong(V, "image")),
           dict(simulator=Wrong(V, {"a/b": V})), dict(simulator=Wrong(V, {1: V}))]


@pytest.mark.parametrize("options", REFUSED, ids=[f"{next(iter(o))}-{k}" for k, o in enumerate(REFUSED)])
def test_refused(tmp_path, options):
    with pytest.raises(InputError):
        write(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(InputError, match="no data set"):
            write(path)
    with pytest.raises(InputError, match="There is no data set"):
        Dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no readable zarr.json"):
        Dataset(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "chapter 1"


def test_batches_hold_everything_once_and_pairs_stay_together(whole):
    theta, _ = whole[:]
    epochs = [list(whole.batches(4, KEY, epochs=2, buffer=2))[e * 10:(e + 1) * 10] for e in range(2)]
    first, second = (np.concatenate([t for t, _ in epoch]) for epoch in epochs)
    assert len(np.unique(first[:, 0])) == len(np.unique(second[:, 0])) == 40 and set(first[:, 0]) <= set(theta[:, 0])
    assert not np.array_equal(first, second)
    for t, y in epochs[0]:
        assert np.array_equal(y["quad"], t[:, 0] > 0) and np.array_equal(y["bands"][1], y["bands"][0][:, ::2, ::2])


def test_batches_go_on_from_any_step(whole):
    straight = list(whole.batches(7, KEY, epochs=3, buffer=2))
    assert len(straight) == 18
    for start in (0, 5, 6, 13, 18):
        rest = list(whole.batches(7, KEY, epochs=3, buffer=2, start=start))
        assert len(rest) == 18 - start
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(rest, straight[start:], strict=True))


def test_the_thread_ends_with_its_reader(whole):
    threads = threading.active_count()
    batches = whole.batches(4, KEY, ahead=2)
    for _ in range(25):
        next(batches)
    assert threading.active_count() == threads + 1
    batches.close()
    assert threading.active_count() == threads


@pytest.mark.parametrize("options", [dict(batch_size=0), dict(batch_size=43), dict(batch_size=5, buffer=0), dict(batch_size=5, ahead=0)], ids=str)
def test_batches_refused(whole, options):
    with pytest.raises(InputError, match="cannot be drawn|no whole number of 1"):
        whole.batches(key=KEY, **options)
    if len(options) == 1:
        with pytest.raises(InputError, match="cannot be drawn|no whole number of 1"):
            sampler(whole, **options)


def test_a_sampler_is_fair(tmp_path):
    """No sample twice in a batch, none preferred but by the length of its chunk, and the same for the same key."""
    plain = write(tmp_path / "set", PLAIN)
    batch = jax.jit(sampler(plain, 10))
    draws = [batch(key) for key in jax.random.split(KEY, 120)]
    order = {value: i for i, value in enumerate(plain[:][0][:, 0].tolist())}
    rows = np.array([[order[value] for value in np.asarray(theta[:, 0]).tolist()] for theta, _ in draws])
    assert all(len(set(row)) == 10 for row in rows)
    often = np.bincount(rows.ravel(), minlength=42)
    assert often[:40].min() > 0.4 * 1200 / 42 and often.max() < 2.6 * 1200 / 42
    theta, y = batch(jax.random.split(KEY, 120)[7])
    assert np.array_equal(theta, draws[7][0]) and np.array_equal(y[:, 0, 0], theta[:, 0])
    assert np.asarray(jax.jit(sampler(plain, 42))(KEY)[0]).shape == (42, 2)
