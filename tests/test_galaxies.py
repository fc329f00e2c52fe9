"""The library of deep-field galaxies: normalised, centred, without stars, split by place, always the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from lensnb.core import InputError
from lensnb.simulator.galaxies import deep_field_galaxies, denoise, half_light, segment, sky_level, unstretch

# row from the bottom, column: sources with diffraction spikes, found by eye in the colour picture
SPIKED_STARS = [(293, 753), (704, 253), (653, 146), (854, 404)]
# galaxies picked by eye: a face-on spiral, an elliptical, a disc seen edge-on, a blue spiral
GALAXIES = [(469, 123), (397, 727), (431, 511), (261, 811)]


@pytest.fixture(scope="module")
def galaxies():
    return deep_field_galaxies()


def test_enough_of_them_with_sane_shapes(galaxies):
    assert len(galaxies) >= 150
    assert galaxies.image.shape == (len(galaxies), 48, 48)
    assert galaxies.image.dtype == jnp.float32
    for one in (galaxies.half_light_radius, galaxies.scale, galaxies.row, galaxies.column):
        assert one.shape == (len(galaxies),) and np.isfinite(one).all()


def test_light_is_normalised_positive_and_gone_at_the_edge(galaxies):
    image = np.asarray(galaxies.image)
    np.testing.assert_allclose(image.sum((1, 2)), 1, atol=1e-5)
    assert image.min() >= 0
    assert max(image[:, [0, -1]].max(), image[:, :, [0, -1]].max()) == 0
    # hardly any light in the outer frame where it is faded out by force
    y, x = np.indices((48, 48)) - 23.5
    assert image[:, np.hypot(x, y) > 20].sum(1).max() < 0.03


def test_centred_on_the_flux(galaxies):
    image, offset = np.asarray(galaxies.image), np.arange(48) - 23.5
    assert np.hypot(image.sum(1) @ offset, image.sum(2) @ offset).max() < 0.05


def test_half_light_radius_holds_half(galaxies):
    y, x = np.indices((48, 48)) - 23.5
    radius = np.asarray(galaxies.half_light_radius)[:, None, None]
    inside = (np.asarray(galaxies.image) * np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)).sum((1, 2))
    np.testing.assert_allclose(inside, 0.5, atol=0.01)
    assert radius.min() > 1.5 and radius.max() < 12


def test_half_light_of_a_gaussian():
    y, x = np.indices((61, 61)) - 30.0
    gaussian = np.exp(-(x**2 + y**2) / (2 * 6.0**2))
    np.testing.assert_allclose(half_light(gaussian, 30.0, 30.0), 6.0 * np.sqrt(2 * np.log(2)), rtol=0.01)


def test_no_star_among_them(galaxies):
    place = np.stack([galaxies.row, galaxies.column], axis=1)
    for star in SPIKED_STARS:
        assert np.hypot(*(place - star).T).min() > 8, f"the star at {star} was taken for a galaxy"
    for galaxy in GALAXIES:
        assert np.hypot(*(place - galaxy).T).min() < 3, f"the galaxy at {galaxy} is missing"


def test_each_stands_alone_and_is_smooth(galaxies):
    """No bright neighbour near the edge, and no grain: little light at the highest spatial frequencies."""
    image = np.asarray(galaxies.image)
    y, x = np.indices((48, 48)) - 23.5
    outer = image[:, np.hypot(x, y) > 19].max(1) / image.max((1, 2))
    assert outer.max() < 0.2
    power = np.abs(np.fft.fft2(image)) ** 2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48)))
    fine = power[:, k > 0.4].sum(1) / power[:, k > 0].sum(1)
    assert np.median(fine) < 1e-4 and fine.max() < 0.02


def test_train_and_test_share_nothing(galaxies):
    train, test = deep_field_galaxies(split="train"), deep_field_galaxies(split="test")
    assert len(train) + len(test) == len(galaxies)
    assert min(len(train), len(test)) >= 40
    pairs = np.hypot(train.row[:, None] - test.row[None, :], train.column[:, None] - test.column[None, :])
    assert pairs.min() > 3
    one, other = (np.asarray(part.image).reshape(len(part), -1) for part in (train, test))
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    assert (one @ other.T).max() < 0.9999


def test_always_the_same(galaxies):
    again = deep_field_galaxies()
    for name in ("image", "half_light_radius", "scale", "row", "column"):
        assert np.array_equal(getattr(galaxies, name), getattr(again, name))


def test_other_sizes():
    small = deep_field_galaxies(size=33, min_pixels=400)
    assert 5 < len(small) < 40 and small.image.shape[1:] == (33, 33)
    offset = np.arange(33) - 16.0
    assert np.abs(np.asarray(small.image).sum(1) @ offset).max() < 0.05


def test_double_precision(x64):
    assert deep_field_galaxies(size=24, min_pixels=600).image.dtype == jnp.float64


REFUSED = [dict(size=8), dict(min_pixels=3), dict(min_pixels=10**6), dict(split="validation")]


@pytest.mark.parametrize("options", REFUSED)
def test_refused(options):
    with pytest.raises(InputError):
        deep_field_galaxies(**options)


def test_segmentation_parts_two_and_keeps_one():
    """Two blobs that touch are two sources; one blob on a sloping sky is one."""
    y, x = np.indices((120, 160)).astype(float)

    def blob(row, column):
        return 120 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 4.0**2))

    slope = 10 + 0.05 * x
    assert np.abs(sky_level(slope + blob(60, 50)) - slope).max() < 3
    assert segment(blob(60, 50) + blob(60, 63)).max() == 2
    assert segment(blob(60, 50)).max() == 1
    assert segment(np.zeros((50, 50))).max() == 0


def test_denoising_quietens_the_sky_and_keeps_the_peak():
    y, x = np.indices((100, 100)) - 50.0
    truth = 200 * np.exp(-(x**2 + y**2) / (2 * 3.0**2))
    noisy = truth + 6 * np.random.default_rng(0).standard_normal(truth.shape)
    clean, sky = denoise(noisy), np.hypot(x, y) > 20
    assert clean[sky].std() < 0.5 * noisy[sky].std()
    assert abs(clean.max() / 200 - 1) < 0.08


def test_stretch_is_odd_and_linear_where_faint():
    np.testing.assert_allclose(unstretch(np.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-4)
    np.testing.assert_allclose(unstretch(np.array([200.0]))[0] / unstretch(np.array([150.0]))[0], np.e, rtol=0.01)
