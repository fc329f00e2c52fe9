"""Models from other programs and for them: equal deflections and brightness, against stored numbers and the packages themselves.

tests/exchange.json holds what the packages answered, with their versions and the calls. The last tests ask the packages
again, with what our converters write, where they are installed: pip install "lensnb[exchange]".
"""

import json
import warnings
from pathlib import Path

import astropy.cosmology
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from lensnb.core import InputError
from lensnb.simulator import exchange
from lensnb.simulator.cosmology import FlatLambdaCDM, LambdaCDM
from lensnb.simulator.exchange import conventions, coolest, lenstronomy, pyautolens
from lensnb.simulator.exchange.coolest_scene import telescope_of
from lensnb.simulator.lens import Lens
from lensnb.simulator.light import CoreSersic, Gaussian, Sersic, Uniform
from lensnb.simulator.mass import EPL, NFW, NIE, SIE, SIS, TNFW, EllipticalNFW, Hernquist, MassSheet, Multipole, PixelatedConvergence
from lensnb.simulator.mass import PointMass, PseudoJaffe, SersicMass, Shear
from lensnb.simulator.multiplane import MultiPlane
from lensnb.simulator.noise import GaussianNoise, PoissonNoise, SkyPoissonNoise
from lensnb.simulator.point_source import PointSource
from lensnb.simulator.scene import Scene
from lensnb.simulator.telescope import HST_ACS_F814W, Telescope

STORED = json.loads((Path(__file__).parent / "exchange.json").read_text())
UNIVERSE = FlatLambdaCDM(70.0, 0.3)
POINTS = np.array([[0.9, -0.35], [-1.4, 0.6], [0.25, 1.75]]).T
# What a package computes less exactly: two sums of fitted terms, and a singular lens by a core of 1e-10 arcsec.
LOOSE = {"NFW_ELLIPSE_CSE": 1e-5, "SersicSph": 1e-6, "SIE": 1e-9}


@eqx.filter_jit
def deflect(profile, x, y):
    return jnp.stack(profile.deflection(x, y))


@eqx.filter_jit
def shine(profile, x, y):
    return profile.surface_brightness(x, y)


def read(code, kind, name, kwargs):
    """A profile from the name and numbers of another program."""
    module = {"lenstronomy": lenstronomy, "autolens": pyautolens, "coolest": coolest}[code]
    twins = module.MASS if kind == "mass" else module.LIGHT
    if code == "autolens":
        kwargs = pyautolens.unpaired(name, kwargs)
    return conventions.read_profile(code, twins, name, kwargs, getattr(module, "MAY_LACK", {}), getattr(module, "REFUSED", {}))


CASES = [(code, kind, name) for code, stored in STORED.items() for kind in ("mass", "light") for name in stored[kind]]


@pytest.mark.parametrize("code, kind, name", CASES)
def test_their_numbers_give_their_field(x64, code, kind, name):
    kwargs, answer = STORED[code][kind][name]
    x, y = jnp.array(STORED[code]["points"]).T
    found = (deflect if kind == "mass" else shine)(read(code, kind, name, kwargs), x, y)
    np.testing.assert_allclose(found, answer, rtol=LOOSE.get(name, 1e-12), atol=1e-12)


def test_their_planes_give_their_rays(x64):
    x, y = jnp.array(STORED["lenstronomy"]["points"]).T
    told = STORED["lenstronomy"]["multiplane"]
    cosmo = astropy.cosmology.FlatLambdaCDM(H0=told["H0"], Om0=told["Om0"], Tcmb0=0)
    names = {key: told[key] for key in ("lens_model_list", "lens_redshift_list", "z_source")} | dict(multi_plane=True, cosmo=cosmo)
    lens = exchange.from_lenstronomy(names, {"kwargs_lens": told["kwargs_lens"]}).lens
    np.testing.assert_allclose(lens.ray_shoot(x, y), told["ray_shooting"], rtol=1e-9, atol=1e-9)
    told = STORED["autolens"]["multiplane"]
    lens = exchange.from_pyautolens({key: told[key] for key in ("galaxies", "cosmology")}).lens
    np.testing.assert_allclose(lens.ray_shoot(x, y), told["ray_shooting"], rtol=1e-9, atol=1e-9)


# ---- there and back


OFF = dict(center_x=0.07, center_y=-0.11)
TILTED = dict(e1=-0.12, e2=0.21, **OFF)
OURS = [SIE(1.2, **TILTED), SIS(1.1, **OFF), NIE(1.2, s=0.3, **TILTED), EPL(1.2, 2.2, **TILTED), Shear(0.04, -0.07), Shear(0.04, -0.07, **OFF),
        MassSheet(0.1), MassSheet(0.1, **OFF), NFW(0.2, 3.0, **OFF), TNFW(0.2, 3.0, 5.0, **OFF), EllipticalNFW(0.2, 3.0, **TILTED),
        Hernquist(0.6, 1.5, **OFF), PseudoJaffe(3.0, 0.2, 2.5, **OFF), SersicMass(0.3, 1.1, 3.5, **OFF), PointMass(0.8, **OFF),
        Multipole(4, 0.05, 0.3, **OFF), EPL(0.0, 1.2), SIE(1.0, -0.3, 1e-9)]
LIGHTS = [Sersic(2.0, 0.8, 3.5, **TILTED), Sersic(-2.0, 0.8, 0.6), CoreSersic(2.0, 0.8, 3.5, 0.3, 0.4, 2.5, **TILTED), Gaussian(3.0, 0.7, **TILTED), Uniform(0.3)]
ABSENT = {  # what a code has no equal of
    "lenstronomy": (), "autolens": (Hernquist, Uniform),
    "coolest": (SIS, NIE, NFW, TNFW, EllipticalNFW, Hernquist, PseudoJaffe, SersicMass, PointMass, Multipole, CoreSersic, Gaussian)}
MODULES = {"lenstronomy": lenstronomy, "autolens": pyautolens, "coolest": coolest}


def has(code, profile):
    centred = type(profile) in (Shear, MassSheet) and float(profile.center_x) != 0
    about_origin = {"lenstronomy": (), "autolens": (Shear,), "coolest": (Shear, MassSheet)}[code]
    return not isinstance(profile, ABSENT[code]) and not (centred and isinstance(profile, about_origin))


def numbers_of(profile):
    return np.array(jax.tree.leaves(profile))


def double(profile):
    """The same profile in double precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.round(np.asarray(leaf, float), 9)), profile)


@pytest.mark.parametrize("code", MODULES)
def test_there_and_back(x64, code):
    module = MODULES[code]
    for profile in map(double, OURS + LIGHTS):
        if has(code, profile):
            twins = module.MASS if hasattr(profile, "deflection") else module.LIGHT
            name, kwargs = conventions.write_profile(code, twins, profile)
            assert all(type(value) in (float, int) for value in kwargs.values()), "plain numbers"
            back = conventions.read_profile(code, twins, name, kwargs, {"r_E": 1.0})
            assert type(back) is type(profile)
            np.testing.assert_allclose(numbers_of(back), numbers_of(profile), rtol=1e-12, atol=1e-12, err_msg=f"{code}: {profile}")


@pytest.mark.parametrize("code", MODULES)
def test_what_has_no_equal_is_refused(code):
    module = MODULES[code]
    absent = [p for p in OURS + LIGHTS if not has(code, p)]
    absent.append(PixelatedConvergence(np.zeros((2, 2)), 0.1))
    for profile in absent:
        twins = module.MASS if hasattr(profile, "deflection") else module.LIGHT
        with pytest.raises(InputError, match=f"no equal of {type(profile).__name__}|about the origin alone") as refusal:
            conventions.write_profile(code, twins, profile)
        assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


@settings(max_examples=200, deadline=None)
@given(q=st.floats(0.05, 1.0), phi=st.floats(-10.0, 10.0), gamma=st.floats(1.1, 2.9))
def test_ellipses_and_angles(q, phi, gamma):
    e1, e2 = conventions.ellipticity(q, phi)
    back_q, back_phi = conventions.axis_ratio(e1, e2)
    assert back_q == pytest.approx(q, abs=1e-12)
    if q < 1 - 1e-6:
        assert np.exp(2j * back_phi) == pytest.approx(np.exp(2j * phi), abs=1e-8)
    turned = coolest.east_of_north(phi)
    assert -90 < turned <= 90 and np.exp(2j * coolest.from_x(turned)) == pytest.approx(np.exp(2j * phi), abs=1e-9)
    # the major axis of an elliptical power law, at the same convergence
    b, xi = 1.3, 0.9
    ours = (3 - gamma) / 2 * (b * pyautolens.stretch(q, gamma) / (np.sqrt(q) * xi)) ** (gamma - 1)
    assert ours == pytest.approx((3 - gamma) / (1 + q) * (b / xi) ** (gamma - 1), rel=1e-10)


# ---- whole models


LENS = Lens((EPL(1.2, 2.1, **TILTED), Shear(0.03, -0.02)), 0.5, 1.5, UNIVERSE)
SOURCES, LENS_LIGHT = (Sersic(1.0, 0.2, 1.0, 0.2, 0.0, 0.1, 0.05), Sersic(0.5, 0.1, 2.0)), Sersic(3.0, 0.8, 4.0, **TILTED)
PLANES = MultiPlane([(0.3, (EPL(1.2, 2.1, **TILTED), Shear(0.03, -0.02))), (0.8, (SIE(0.3, **TILTED),))], 2.0, UNIVERSE)


def through(code, *model):
    if code == "lenstronomy":
        return exchange.from_lenstronomy(*exchange.to_lenstronomy(*model))
    if code == "autolens":
        return exchange.from_pyautolens(exchange.to_pyautolens(*model))
    return exchange.from_coolest(json.loads(json.dumps(exchange.to_coolest(*model))))


@pytest.mark.parametrize("code", MODULES)
def test_a_model_comes_back(code):
    back = through(code, LENS, SOURCES, LENS_LIGHT)
    assert (len(back.source), len(back.lens_light)) == (2, 1)
    assert [type(p) for p in back.lens.profiles] == [EPL, Shear]
    for ours, theirs in zip(jax.tree.leaves((LENS, SOURCES, (LENS_LIGHT,))), jax.tree.leaves(tuple(back)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("code", ["lenstronomy", "autolens"])
def test_planes_come_back(code):
    back = through(code, PLANES, SOURCES, LENS_LIGHT).lens
    for ours, theirs in zip(jax.tree.leaves(PLANES), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_file_comes_back(tmp_path):
    content = exchange.to_coolest(LENS, SOURCES, LENS_LIGHT, HST_ACS_F814W(shape=(80, 90)), origin=("10h00m00s", "+02d12m00s"))
    exchange.write_coolest(tmp_path / "lens.json", content)
    assert json.loads((tmp_path / "lens.json").read_text())["observation"]["pixels"]["num_pix_x"] == 90
    assert [type(p) for p in exchange.read_coolest(tmp_path / "lens.json").lens.profiles] == [EPL, Shear]


def test_a_halo_with_its_unit(x64):
    lens = Lens((NFW(0.2, 5.0, **OFF),), 0.5, 1.5, FlatLambdaCDM(70.0, 0.3))
    for unit in ("Msun / Mpc3", "g / cm3"):
        back = exchange.from_coolest(exchange.to_coolest(lens, density_unit=unit), density_unit=unit).lens.profiles[0]
        np.testing.assert_allclose(numbers_of(back), numbers_of(lens.profiles[0]), rtol=1e-12)


# ---- a scene, its files beside it


def seen(noise, shape=(12, 12), **options):
    """A scene through an asymmetric kernel, and an image of it."""
    kernel = np.outer([0.1, 0.6, 0.3], [0.2, 0.5, 0.3]).astype("f4")
    telescope = Telescope(shape, 0.1, kernel, noise, supersample=1, **options)
    return Scene(LENS, SOURCES[0], telescope, LENS_LIGHT), np.random.default_rng(0).normal(size=shape).astype("f4")


NOISES = {"sky and photons": lambda: SkyPoissonNoise(0.02, 900.0), "uniform": lambda: GaussianNoise(0.03), "none": lambda: None,
          "map": lambda: GaussianNoise(np.linspace(0.1, 0.2, 132).reshape(11, 12))}
ALL_TOLD = dict(zero_point=25.9, exposure=500.0, exposures=4, gain=2.0, full_well=8e4, background=0.1, read_noise=4.2)


@pytest.mark.parametrize("kind", NOISES)
def test_a_scene_comes_back(tmp_path, kind):
    scene, image = seen(NOISES[kind](), (11, 12), **(ALL_TOLD if kind == "map" else {}))
    exchange.write_coolest_scene(tmp_path / "lens.json", scene, image)
    back, seen_image = exchange.read_coolest_scene(str(tmp_path / "lens.json"))
    np.testing.assert_array_equal(seen_image, image)
    assert jax.tree.structure(back) == jax.tree.structure(scene)
    for ours, theirs in zip(jax.tree.leaves(scene.telescope), jax.tree.leaves(back.telescope), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(jax.tree.leaves(scene), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # what astropy alone reads: rows are y, and the middle of the field is the origin
    header = fits.getheader(tmp_path / "lens_image.fits")
    assert (header["NAXIS1"], header["NAXIS2"]) == (12, 11) and header["CRPIX1"] == 6.5 and header["CDELT1"] == pytest.approx(0.1)


def test_a_finer_kernel_and_no_image_come_back(tmp_path):
    telescope = HST_ACS_F814W(shape=(30, 30), supersample=3, psf_supersample=3)
    exchange.write_coolest_scene(tmp_path / "lens.json", Scene(LENS, SOURCES, telescope))
    back, image = exchange.read_coolest_scene(tmp_path / "lens.json")
    assert image is None and back.lens_light is None and len(back.source) == 2
    assert back.telescope.psf_supersample == 3 and np.array_equal(back.telescope.psf, telescope.psf)


def test_the_packages_own_template(tmp_path):
    """Written by version 0.1.11: a Gaussian PSF, and noise that is to be computed."""
    (tmp_path / "lens.json").write_text(json.dumps(STORED["coolest"]["template"]))
    telescope = exchange.read_coolest_scene(tmp_path / "lens.json")[0].telescope
    assert telescope.shape == (60, 80) and float(telescope.pixel_scale) == pytest.approx(0.05)
    sky = 10 ** (0.4 * 3.5) * 0.05**2  # electrons/s a pixel, of 22 mag/arcsec^2 and a zero point of 25.5
    expected = np.sqrt((sky + 0.3) / 600 + (4.2 / 600) ** 2)
    assert float(telescope.noise.sd(jnp.asarray([[0.3]]))[0, 0]) == pytest.approx(expected, rel=1e-5)
    middle = len(telescope.psf) // 2
    assert float(telescope.psf.sum()) == pytest.approx(1.0)
    # half of the maximum lies 1.2 pixels from the middle, but for the pixels' own width
    assert telescope.psf[middle, middle + 1] > telescope.psf[middle, middle] / 2 > telescope.psf[middle, middle + 2]


@pytest.fixture(scope="module")
def scene_files(tmp_path_factory):
    """A folder with a template and what lies beside it."""
    folder = tmp_path_factory.mktemp("scene")
    scene, image = seen(GaussianNoise(np.full((12, 12), 0.1)), **ALL_TOLD)
    exchange.write_coolest_scene(folder / "lens.json", scene, image)
    fits.PrimaryHDU(np.ones((4, 4))).writeto(folder / "even.fits")
    fits.PrimaryHDU(np.linspace(1, 2, 144).reshape(12, 12)).writeto(folder / "slope.fits")
    (folder / "words.fits").write_text("dear colleague")
    return folder, json.loads((folder / "lens.json").read_text())


def altered(content, **changes):
    """The content with other entries, named by their way there."""
    for way, value in changes.items():
        content = changed(content, way.split("__"), lambda children, key: children.__setitem__(key, value))
    return content


PIXELS = dict(field_of_view_x=[-0.6, 0.6], field_of_view_y=[-0.6, 0.6], num_pix_x=12, num_pix_y=12)
AMISS = {
    "lost": (dict(observation__pixels__fits_file__path="lost.fits"), "there is no file"),
    "elsewhere": (dict(observation__pixels__fits_file__path="../lens_image.fits"), "outside the template's folder"),
    "absolute": (dict(observation__pixels__fits_file__path="/lens_image.fits"), "outside the template's folder"),
    "no FITS": (dict(observation__pixels__fits_file__path="words.fits"), "not a FITS file"),
    "other shape": (dict(observation__pixels__fits_file__path="even.fits"), r"has \(12, 12\) pixels and its file even.fits has \(4, 4\)"),
    "no pixels": (dict(observation__pixels__num_pix_x=0), "is no whole number of 1"),
    "oblong": (dict(observation__pixels__field_of_view_x=[-0.7, 0.7]), "resample them to squares"),
    "corner": (dict(observation__pixels__field_of_view_x=[0.0, 1.2]), "shift the model"),
    "mirrored": (dict(observation__pixels__field_of_view_x=[0.6, -0.6]), "runs from 0.6 to -0.6"),
    "other pixels": (dict(instrument__pixel_size=0.2), "correct one of them"),
    "no kernel": (dict(instrument__psf__pixels__fits_file__path=None), "the PSF has no file"),
    "kernel of other pixels": (dict(instrument__psf__pixels__field_of_view_x=[-0.2, 0.2], instrument__psf__pixels__field_of_view_y=[-0.2, 0.2]), "a whole fraction"),
    "even kernel": (dict(instrument__psf__pixels=PIXELS | dict(num_pix_x=4, num_pix_y=4, field_of_view_x=[-0.2, 0.2], field_of_view_y=[-0.2, 0.2],
                                                               fits_file={"path": "even.fits"})), "odd sides"),
    "Moffat": (dict(instrument__psf__type="MoffatPSF"), "'MoffatPSF' cannot be read"),
    "width": (dict(instrument__psf={"type": "GaussianPSF", "fwhm": 0.0}), "fwhm = 0.0"),
    "no map": (dict(observation__noise__noise_map__fits_file__path=None), "the noise_map has no file"),
    "exposures": (dict(observation__noise={"type": "DrizzledNoise", "background_rms": 0.1, "wht_map": PIXELS | dict(fits_file={"path": "slope.fits"})}), "give a NoiseMap"),
    "a draw": (dict(observation__noise={"type": "NoiseRealization"}), "'NoiseRealization' cannot be read"),
    "no sky": (dict(observation__noise={"type": "InstrumentalNoise"}, observation__mag_sky_brightness=None), "mag_sky_brightness, which InstrumentalNoise needs"),
    "no noise": (dict(observation__noise={"type": "UniformGaussianNoise", "std_dev": 0.0}), "NaN, zero or negative"),
}


@pytest.mark.parametrize("case", AMISS)
def test_files_that_will_not_do(scene_files, case):
    folder, content = scene_files
    changes, sentence = AMISS[case]
    with pytest.raises(InputError, match=sentence) as refusal:
        telescope_of(altered(content, **changes), folder)
    assert "\n" not in str(refusal.value) and str(refusal.value)[-1] in ".?"


def test_a_description_with_anything_in_it(scene_files, as_users_have_it):
    folder, content = scene_files
    read = lambda tree: telescope_of(tree, folder)[0]
    for path, value, tree in mutants({key: content[key] for key in ("instrument", "observation", "meta")}):
        if path[:1] != ("meta",) and path[-1:] not in (("name",), ("band",), ("description",)) and path:
            survived = survives(read, tree, path, value)
            assert not survived or value in (None, "lost") or path[-1] in ("readout_noise", "exposure_time", "mag_sky_brightness", "mag_zero_point"), (path, value)
    for path, value, tree in mutants(content["meta"]):
        survives(read, content | {"meta": tree}, path, value)


@pytest.mark.parametrize("make, sentence", [
    (lambda: seen(PoissonNoise(0.1, 100.0))[0], "no equal of PoissonNoise"),
    (lambda: eqx.tree_at(lambda s: s.point_sources, seen(None)[0], PointSource(1.0), is_leaf=lambda leaf: leaf is None), "no points of light"),
])
def test_scenes_that_the_standard_lacks(tmp_path, make, sentence):
    with pytest.raises(InputError, match=sentence):
        exchange.write_coolest_scene(tmp_path / "lens.json", make())
    with pytest.raises(InputError, match="give one of the telescope's pixels"):
        exchange.write_coolest_scene(tmp_path / "lens.json", seen(None)[0], np.ones((3, 3)))
    assert not (tmp_path / "lens.json").exists()


# ---- what is wrong


def model(**changes):
    """A COOLEST template, changed."""
    return json.loads(json.dumps(exchange.to_coolest(LENS, SOURCES))) | changes


def unset():
    content = model()
    content["lensing_entities"][0]["mass_model"][0]["parameters"]["theta_E"]["point_estimate"]["value"] = None
    return content


def halo(q):
    content = exchange.to_coolest(Lens((NFW(0.2, 5.0),), 0.5, 1.5, UNIVERSE), density_unit="Msun / Mpc3")
    content["lensing_entities"][0]["mass_model"][0]["parameters"]["q"]["point_estimate"]["value"] = q
    return content


SIE_AT = {"redshift": 0.5, "mass": [("Isothermal", {"einstein_radius": 1.0})]}
SOURCE_AT = {"redshift": 1.5}
WRONG = {
    "lenstronomy: unknown": (lambda: exchange.from_lenstronomy({"lens_model_list": ["CHAMELEON"]}, {"kwargs_lens": [{}]}), "CHAMELEON has no equal"),
    "lenstronomy: potential": (lambda: exchange.from_lenstronomy({"lens_model_list": ["NFW_ELLIPSE_POTENTIAL"]}, {"kwargs_lens": [{}]}), "in the potential"),
    "lenstronomy: missing": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIE"]}, {"kwargs_lens": [{"theta_E": 1.0}]}), "SIE lacks e1, e2; give them"),
    "lenstronomy: extra": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"]}, {"kwargs_lens": [{"theta_E": 1.0, "q": 1.0}]}), "no parameter q"),
    "lenstronomy: text": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"]}, {"kwargs_lens": [{"theta_E": "wide"}]}), "give one number"),
    "lenstronomy: array": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"]}, {"kwargs_lens": [{"theta_E": np.ones(2)}]}), "give one number"),
    "lenstronomy: NaN": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"]}, {"kwargs_lens": [{"theta_E": np.nan}]}), "finite"),
    "lenstronomy: no dict": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"]}, {"kwargs_lens": [1.0]}), "give a dict"),
    "lenstronomy: lengths": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"]}, {"kwargs_lens": []}), "1 names and 0 sets"),
    "lenstronomy: nothing": (lambda: exchange.from_lenstronomy({}, {}), "is empty"),
    "lenstronomy: dipole": (lambda: exchange.from_lenstronomy({"lens_model_list": ["MULTIPOLE"]}, {"kwargs_lens": [dict(m=1, a_m=0.1, phi_m=0.0)]}), "2 or above"),
    "lenstronomy: other keys": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"], "source_redshift_list": [1.0]}, {"kwargs_lens": [{"theta_E": 1.0}]}),
                                "source_redshift_list cannot"),
    "lenstronomy: convention": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"], "z_source": 1.0, "z_source_convention": 2.0},
                                                                  {"kwargs_lens": [{"theta_E": 1.0}]}), "z_source_convention"),
    "lenstronomy: planes": (lambda: exchange.from_lenstronomy({"lens_model_list": ["SIS"], "multi_plane": True}, {"kwargs_lens": [{"theta_E": 1.0}]}),
                            "multi_plane needs"),
    "lenstronomy: scale": (lambda: exchange.from_lenstronomy({"lens_model_list": ["NFW"]}, {"kwargs_lens": [dict(Rs=0.0, alpha_Rs=1.0)]}), "scale radius"),
    "lenstronomy: index": (lambda: read("lenstronomy", "light", "SERSIC", dict(amp=1.0, R_sersic=1.0, n_sersic=0.0)), "Sérsic index"),
    "autolens: unknown": (lambda: exchange.from_pyautolens({"galaxies": [{"redshift": 0.5, "mass": [("gNFW", {})]}]}), "gNFW has no equal"),
    "autolens: pair": (lambda: exchange.from_pyautolens({"galaxies": [{"redshift": 0.5, "mass": [("Isothermal", {"centre": 0.0})]}]}), "give a pair"),
    "autolens: galaxy": (lambda: exchange.from_pyautolens({"galaxies": [{"mass": []}]}), "is no galaxy"),
    "autolens: extra": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT | {"pixelization": 1}]}), "is no galaxy"),
    "autolens: one redshift": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT]}), "but one redshift"),
    "autolens: mass behind": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT, SIE_AT | {"redshift": 1.5}]}), "mass lies at the last redshift"),
    "autolens: no mass": (lambda: exchange.from_pyautolens({"galaxies": [SOURCE_AT, {"redshift": 0.2}]}), "no mass lies in front"),
    "autolens: light between": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT, SOURCE_AT, {"redshift": 1.0, "light": [("GaussianSph", dict(intensity=1.0, sigma=1.0))]}]}),
                                "one source plane"),
    "autolens: planes": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT, SIE_AT | {"redshift": 1.0}, SOURCE_AT]}), "need a cosmology"),
    "autolens: radiation": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT, SOURCE_AT], "cosmology": ("FlatLambdaCDM", dict(H0=70.0, Om0=0.3))}), "radiation"),
    "autolens: universe": (lambda: exchange.from_pyautolens({"galaxies": [SIE_AT, SOURCE_AT], "cosmology": ("Planck15", {})}), "'Planck15' cannot be read"),
    "autolens: our universe": (lambda: exchange.to_pyautolens(Lens((SIE(1.0),), 0.5, 1.5, LambdaCDM(70.0, 0.3, 0.6))), "no equal of LambdaCDM"),
    "autolens: redshifts": (lambda: exchange.to_pyautolens(Lens((SIE(1.0),))), "give z_l and z_s"),
    "autolens: slope": (lambda: read("autolens", "mass", "PowerLawMultipole", dict(m=4, einstein_radius=1.0, slope=2.2, multipole_comps=(0.0, 0.1))), "isothermal"),
    "autolens: index": (lambda: read("autolens", "light", "SersicSph", dict(intensity=1.0, effective_radius=1.0, sersic_index=0.05)), "about 0.2"),
    "coolest: standard": (lambda: exchange.from_coolest(model(standard="other")), "follows the standard 'other'"),
    "coolest: empty": (lambda: exchange.from_coolest({}), "has no standard"),
    "coolest: no entities": (lambda: exchange.from_coolest({"standard": "COOLEST"}), "has no lensing_entities"),
    "coolest: no redshift": (lambda: exchange.from_coolest(model(lensing_entities=[{"type": "Galaxy", "name": "lens", "redshift": None}])), "redshift of 'lens'"),
    "coolest: unset": (lambda: exchange.from_coolest(unset()), "no point estimate of theta_E"),
    "coolest: cosmology": (lambda: exchange.from_coolest(model(cosmology={"astropy_name": "wCDM"})), "'wCDM' cannot be read"),
    "coolest: planes": (lambda: exchange.to_coolest(PLANES), "several planes"),
    "coolest: planes read": (lambda: exchange.from_coolest(model(lensing_entities=[dict(redshift=z, name="") for z in (0.1, 0.2, 0.3)])), "several planes"),
    "coolest: halo": (lambda: exchange.from_coolest(halo(1.0)), "give density_unit="),
    "coolest: elliptical halo": (lambda: exchange.from_coolest(halo(0.8), density_unit="Msun / Mpc3"), "in the potential"),
    "coolest: our halo": (lambda: exchange.to_coolest(Lens((NFW(0.2, 5.0),), 0.5, 1.5, UNIVERSE)), "no equal of NFW"),
    "coolest: unit": (lambda: exchange.to_coolest(Lens((NFW(0.2, 5.0),), 0.5, 1.5, UNIVERSE), density_unit="kg"), "is no density"),
    "coolest: our universe": (lambda: exchange.to_coolest(Lens((SIE(1.0),), 0.5, 1.5, LambdaCDM(70.0, 0.3, 0.6))), "no equal of LambdaCDM"),
    "coolest: index": (lambda: exchange.to_coolest(LENS, Sersic(1.0, 0.5, 0.3)), "0.5 to 10"),
    "coolest: no file": (lambda: exchange.read_coolest("nowhere/lens.json"), "cannot be opened"),
    "q": (lambda: exchange.ellipticity(0.0, 1.0), "no axis ratio"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_gets_one_sentence(kind):
    do, sentence = WRONG[kind]
    with pytest.raises(InputError, match=sentence) as refusal:
        do()
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


@pytest.mark.parametrize("text, sentence", [("{", "is not JSON"), ("[1]", "has no standard"), ('{"py/object": "coolest"}', "jsonpickle")])
def test_a_damaged_file(tmp_path, text, sentence):
    (tmp_path / "lens.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        exchange.read_coolest(tmp_path / "lens.json")


def test_inside_a_program_there_is_no_number():
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda t: exchange.to_lenstronomy(Lens((SIS(t),)))[1]["kwargs_lens"][0]["theta_E"])(1.0)


# ---- whatever else may stand there

ODD = [None, "abc", [], {}, float("nan"), -1e99]


def places(tree, path=()):
    """The way to each node and leaf of dicts, lists and tuples."""
    yield path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def changed(tree, path, make):
    """The tree with `make(children, key)` done where the path ends."""
    kind, children = type(tree), dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1:
        make(children, path[0])
    else:
        children[path[0]] = changed(children[path[0]], path[1:], make)
    return kind(children)


def mutants(tree, skip=()):
    """The tree with each of its parts lost, or replaced by each odd value."""
    for path in places(tree):
        if path and not set(path) & set(skip):
            for value in ODD:
                yield path, value, changed(tree, path, lambda children, key: children.__setitem__(key, value))
            yield path, "lost", changed(tree, path, lambda children, key: children.__delitem__(key))
    for value in ODD:
        yield (), value, value


def survives(read, tree, path, value):
    """Whether the tree is read, to finite numbers, rather than refused in a sentence."""
    try:
        leaves = jax.tree.leaves(read(tree))
    except InputError as refusal:
        assert "\n" not in str(refusal) and str(refusal).endswith("."), (path, value, str(refusal))
        return False
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves), (path, value)
    return True


@pytest.fixture
def as_users_have_it(monkeypatch):
    """Without the checks of types that only tests run under."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


UNREAD = ["mode", "name", "fixed", "posterior_stats", "prior", "likelihoods", "coordinates_origin", "observation", "instrument", "meta"]
READERS = {
    "lenstronomy": (lambda: exchange.to_lenstronomy(LENS, SOURCES[1], LENS_LIGHT), lambda both: exchange.from_lenstronomy(*both)),
    "lenstronomy planes": (lambda: exchange.to_lenstronomy(PLANES), lambda both: exchange.from_lenstronomy(*both)),
    "autolens": (lambda: exchange.to_pyautolens(LENS, SOURCES[1], LENS_LIGHT), exchange.from_pyautolens),
    "coolest": (lambda: json.loads(json.dumps(exchange.to_coolest(LENS, SOURCES[1], LENS_LIGHT))), exchange.from_coolest),
}


@pytest.mark.parametrize("code", READERS)
def test_a_model_with_anything_in_it(code, as_users_have_it):
    make, read = READERS[code]
    kept = [(path, value) for path, value, tree in mutants(make(), UNREAD) if not (code.startswith("lenstronomy") and len(path) < 2 and value in ((), "lost"))
            and not (code.startswith("lenstronomy") and not path) and survives(read, tree, path, value)]
    assert all(value in (None, "lost") or value == [] or path[-1] in ("phi", "value", "type") for path, value in kept), "what is optional may be missing"
    assert survives(read, make(), (), "nothing")


@pytest.mark.parametrize("code", MODULES)
def test_a_profile_with_anything_in_it(code, as_users_have_it):
    module, tried = MODULES[code], 0
    for profile in OURS[:16] + LIGHTS:
        if has(code, profile):
            kind = "mass" if hasattr(profile, "deflection") else "light"
            name, kwargs = conventions.write_profile(code, module.MASS if kind == "mass" else module.LIGHT, profile)
            kwargs = pyautolens.paired(kwargs) if code == "autolens" else kwargs
            for path, value, tree in mutants(kwargs):
                survived = survives(lambda tree: read(code, kind, name, tree), tree, path, value)
                assert not survived or value == "lost" or value == -1e99 and path[-1].startswith("phi"), (name, path, value)
                tried += 1
    assert tried > 100


# ---- the packages themselves


def compare(code, theirs, light):
    """Each of our profiles that `code` has: its own answer to what we write."""
    module, x, y = MODULES[code], *POINTS
    for profile in map(double, LIGHTS if light else OURS):
        if not has(code, profile) or not light and float(getattr(profile, "theta_E", 1.0)) == 0:
            continue
        name, kwargs = conventions.write_profile(code, module.LIGHT if light else module.MASS, profile)
        ours = (shine if light else deflect)(profile, jnp.array(x), jnp.array(y))
        np.testing.assert_allclose(ours, theirs(name, kwargs, x, y), rtol=LOOSE.get(name, 1e-10), atol=1e-10, err_msg=name)


@pytest.mark.filterwarnings("ignore")
def test_lenstronomy_answers_the_same(x64):
    pytest.importorskip("lenstronomy", reason="not installed: pip install lensnb[exchange]")
    from lenstronomy.ImSim.image_model import ImageModel  # noqa: F401  the whole package imports
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    compare("lenstronomy", lambda name, kwargs, x, y: LensModel([name]).alpha(x, y, [kwargs]), light=False)
    compare("lenstronomy", lambda name, kwargs, x, y: LightModel([name]).surface_brightness(x, y, [kwargs]), light=True)
    planes = double(PLANES)
    names, numbers = exchange.to_lenstronomy(planes)
    theirs = LensModel(names["lens_model_list"], z_source=names["z_source"], lens_redshift_list=names["lens_redshift_list"], cosmo=names["cosmo"],
                       multi_plane=True).ray_shooting(*POINTS, numbers["kwargs_lens"])
    np.testing.assert_allclose(planes.ray_shoot(*POINTS), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_autolens_answers_the_same(x64):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        al = pytest.importorskip("autolens", reason="not installed: pip install lensnb[exchange]")

    def deflection(name, kwargs, x, y):
        grid = al.Grid2DIrregular(values=list(zip(y, x, strict=True)))
        return np.array(getattr(al.mp, name)(**pyautolens.paired(kwargs)).deflections_yx_2d_from(grid=grid))[:, ::-1].T

    def image(name, kwargs, x, y):
        grid = al.Grid2DIrregular(values=list(zip(y, x, strict=True)))
        return np.array(getattr(al.lp, name)(**pyautolens.paired(kwargs)).image_2d_from(grid=grid))

    compare("autolens", deflection, light=False)
    compare("autolens", image, light=True)
    lens = double(LENS)
    galaxies = exchange.autolens_galaxies(exchange.to_pyautolens(lens, SOURCES, LENS_LIGHT), al)
    grid = al.Grid2DIrregular(values=list(zip(*POINTS[::-1], strict=True)))
    traced = np.array(al.Tracer(galaxies=galaxies).traced_grid_2d_list_from(grid=grid)[-1])[:, ::-1].T
    np.testing.assert_allclose(lens.ray_shoot(*POINTS), traced, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_coolest_answers_the_same(x64, tmp_path):
    pytest.importorskip("coolest", reason="not installed: pip install lensnb[exchange]")
    from coolest.api.profiles import light, mass
    from coolest.template.json import JSONSerializer

    def deflection(name, kwargs, x, y):
        return mass.PEMD().deflection(x, y, gamma=2.0, **kwargs) if name == "SIE" else getattr(mass, name)().deflection(x, y, **kwargs)

    compare("coolest", deflection, light=False)
    x, y = POINTS
    sersic = double(LIGHTS[0])
    _, kwargs = conventions.write_profile("coolest", coolest.LIGHT, sersic)
    np.testing.assert_allclose(shine(sersic, x, y), light.Sersic().evaluate_surface_brightness(x, y, **kwargs), rtol=1e-10)
    exchange.write_coolest(tmp_path / "bare.json", exchange.to_coolest(LENS, SOURCES))
    JSONSerializer(str(tmp_path / "bare"), check_external_files=False).load(verbose=False)
    # the image, the kernel and the noise in its hands, and from them
    for number, noise in enumerate([SkyPoissonNoise(0.02, 900.0), GaussianNoise(0.03), GaussianNoise(np.linspace(0.1, 0.2, 144).reshape(12, 12))]):
        scene, image = seen(noise, **ALL_TOLD)
        exchange.write_coolest_scene(tmp_path / f"{number}.json", scene, image)
        told = JSONSerializer(str(tmp_path / f"{number}")).load(verbose=False)
        np.testing.assert_array_equal(told.observation.pixels.get_pixels(), image)
        np.testing.assert_array_equal(told.instrument.psf.pixels.get_pixels(), scene.telescope.psf)
        assert told.observation.noise.type == ["DrizzledNoise", "UniformGaussianNoise", "NoiseMap"][number]
        JSONSerializer(str(tmp_path / f"{number}_again"), obj=told).dump_simple()
        back, _ = exchange.read_coolest_scene(tmp_path / f"{number}_again.json")
        for ours, theirs in zip(jax.tree.leaves(scene.telescope), jax.tree.leaves(back.telescope), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    exchange.write_coolest(tmp_path / "lens.json", exchange.to_coolest(LENS, SOURCES, LENS_LIGHT, HST_ACS_F814W(shape=(80, 90))))
    told = JSONSerializer(str(tmp_path / "lens"), check_external_files=False).load(verbose=False)
    JSONSerializer(str(tmp_path / "again"), obj=told).dump_simple()
    assert [e.name for e in told.lensing_entities] == ["lens", "field of the lens", "source"]
    back = exchange.read_coolest(tmp_path / "again.json")
    for ours, theirs in zip(jax.tree.leaves((LENS, SOURCES, (LENS_LIGHT,))), jax.tree.leaves(tuple(back)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
