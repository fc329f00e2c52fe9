"""How many loops over all rays XLA makes of an image, on a CPU: each costs as much as dozens of operations inside it."""

import re

import jax
import jax.numpy as jnp
import pytest

from lensnb.simulator.lens import Lens
from lensnb.simulator.light import Sersic
from lensnb.simulator.mass import SIE, TNFW, Shear
from lensnb.simulator.psf import gaussian_psf
from lensnb.simulator.scene import Scene
from lensnb.simulator.telescope import Telescope

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the loops of another backend are others")
THETA = jnp.array([1.0, 0.1, -0.05, 0.02, 0.01, 0.03, -0.02, 1.5, 0.2, 2.0, 0.1, 0.05, 0.03, -0.04])


def image(theta):
    lens = Lens((SIE(*theta[:5]), Shear(*theta[5:7])))
    return Scene(lens, Sersic(*theta[7:]), Telescope((64, 64), 0.05, gaussian_psf(0.1, 0.05, 13), supersample=4)).image()


def loops(function, shape, *args):
    """Loops of the compiled program that fill an array of `shape`."""
    program = jax.jit(function).lower(*args).compile().as_text()
    entry = program[program.index("ENTRY"):]
    return len(re.findall(rf"= f32\[{shape}\]\S* fusion\(.*kind=kLoop", entry))


def test_an_image_is_one_loop_over_its_rays():
    assert loops(image, "(?:256,256|64,4,256)", THETA) == 1


def test_a_gradient_is_few_loops_over_the_rays():
    misfit = jax.value_and_grad(lambda theta: jnp.sum(image(theta) ** 2))
    assert loops(misfit, "(?:2,)?(?:256,256|64,4,256)", THETA) <= 32


def test_a_truncated_halo_is_few_loops_over_the_rays():
    x, y = jnp.linspace(-2.0, 2.0, 8000), jnp.linspace(1.0, -1.0, 8000)
    assert loops(lambda p, x, y: TNFW(*p).deflection(x, y), "8000", jnp.array([0.1, 0.3, 1.2, 0.1, 0.2]), x, y) <= 5
