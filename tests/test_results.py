"""From samples to numbers and files: angles in every kind of sky coordinates, and disks that refuse."""

import json
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import astropy.constants as const
import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from lensnb.core import InputError, LensnbError
from lensnb.inference.analyse.figures import figure_corner, figure_fit
from lensnb.inference.analyse.instrument import linear_wcs
from lensnb.inference.analyse.results import (
    brightness_unit,
    connected,
    derived_parameters,
    einstein_mass,
    known_truth,
    north_east,
    position_angle,
    quoted,
    source_wcs,
    standard_unit,
    summary_table,
    write_model,
    write_posterior,
    write_summary,
)

DEMO = Path(__file__).resolve().parent.parent / "data" / "demo" / "cutout.fits"

# ---- angles


def projection(matrix, ctype=("RA---TAN", "DEC--TAN"), crval=(150.0, 2.0), **more):
    """A header's coordinates around pixel (41, 37), counted from 1."""
    cards = dict(CTYPE1=ctype[0], CTYPE2=ctype[1], CRVAL1=crval[0], CRVAL2=crval[1], CRPIX1=41.0, CRPIX2=37.0)
    cards |= {f"CD{i + 1}_{j + 1}": matrix[i][j] * 0.05 / 3600 for i in range(2) for j in range(2)} | more
    return WCS(fits.Header(cards))


def turned(degrees, mirrored=False):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[-c, -s], [-s, c]]) @ np.diag([-1 if mirrored else 1, 1])


SKIES = {
    "north up": lambda: projection(turned(0)),
    "turned": lambda: projection(turned(110)),
    "mirrored": lambda: projection(turned(0, True)),
    "mirrored and turned": lambda: projection(turned(-35, True)),
    "near the pole": lambda: projection(turned(20), crval=(10.0, 89.99)),
    "across 0h": lambda: projection(turned(20), crval=(0.0, -40.0)),
    "galactic": lambda: projection(turned(0), ("GLON-TAN", "GLAT-TAN"), (120.0, 35.0)),
    "FK5": lambda: projection(turned(15), RADESYS="FK5", EQUINOX=2000.0),
    "latitude first": lambda: projection(turned(15)[::-1], ("DEC--TAN", "RA---TAN"), (2.0, 150.0)),
    "distorted": lambda: projection(turned(30), ("RA---TAN-SIP", "DEC--TAN-SIP"), A_ORDER=2, B_ORDER=2, A_1_1=1e-4,
                                    B_2_0=-2e-4),
    "a cube's": lambda: WCS(fits.Header(dict(WCSAXES=3, CTYPE3="WAVE", CUNIT3="m", CRVAL3=1e-6, CDELT3=1e-9)
                                        | dict(projection(turned(50)).to_header()))),
}


@pytest.mark.parametrize("sky", SKIES)
@pytest.mark.parametrize("phi", [0.0, 0.7, 2.5])
def test_position_angle_is_that_between_two_points_on_the_sky(sky, phi):
    wcs, at = SKIES[sky](), (50.3, 20.8)
    north, east = north_east(wcs, *at)
    step = 0.5 * np.array([np.cos(phi), np.sin(phi)])
    ends = [wcs.celestial.pixel_to_world(*(at + s * step)) for s in (-1, 1)]
    expected = ends[0].icrs.position_angle(ends[1].icrs).deg % 180
    off = (position_angle(phi, north, east) - expected + 90) % 180 - 90
    assert abs(off) < 0.5 if sky == "distorted" else abs(off) < 0.05
    assert np.hypot(*north) == pytest.approx(1) and np.hypot(*east) == pytest.approx(1)


def test_without_sky_coordinates_up_is_north():
    for wcs in (None, linear_wcs((80, 80), 0.05)):
        north, east = north_east(wcs, 40, 40)
        assert (north.tolist(), east.tolist()) == ([0, 1], [-1, 0])
    assert (position_angle(np.pi / 2, north, east) + 90) % 180 == pytest.approx(90.0)
    assert position_angle(np.pi, north, east) == pytest.approx(90.0)


def test_angles_do_not_jump():
    rng = np.random.default_rng(0)
    for middle in (0.0, 1.0, 90.0, 179.5):
        angles = connected((middle + 3 * rng.standard_normal(4000)) % 180)
        assert angles.std() == pytest.approx(3, rel=0.05)
        assert abs((np.median(angles) - middle + 90) % 180 - 90) < 0.3
        assert -1 < np.median(angles) < 181


# ---- derived


def test_mass_is_astropys():
    cosmology, z_l, z_s = FlatLambdaCDM(70, 0.3), 0.222, 0.609
    d_l, d_s = (cosmology.angular_diameter_distance(z) for z in (z_l, z_s))
    d_ls = d_s - d_l * (1 + z_l) / (1 + z_s)  # a flat universe
    sigma = const.c**2 / (4 * np.pi * const.G) * d_s / (d_l * d_ls)
    expected = (np.pi * (d_l * (1.38 * u.arcsec).to_value(u.rad)) ** 2 * sigma).to_value(u.Msun)
    assert einstein_mass(1.38, z_l, z_s) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("z_l, z_s", [(0.5, 0.5), (0.6, 0.3), (0.0, 1.0), (-0.1, 1.0), (np.nan, 1.0), (0.5, None)])
def test_impossible_redshifts(z_l, z_s):
    theta = {"theta_E": np.ones(5), "e1": np.zeros(5), "e2": np.zeros(5)}
    with pytest.raises(InputError, match="redshift"):
        derived_parameters(theta, z_l=z_l, z_s=z_s)


def test_the_table_has_what_it_says(tmp_path):
    rng = np.random.default_rng(0)
    fitted = {"theta_E": (1.2 + 0.01 * rng.standard_normal(20000)).astype(np.float32), "e1": np.full(20000, 0.1),
              "e2": np.zeros(20000)}
    derived = derived_parameters(fitted, magnification=np.r_[np.inf, 10 + rng.standard_normal(19999)], z_l=0.2, z_s=0.6)
    table = summary_table(fitted, derived, r_hat=np.float32(1.01), warnings=("a",), nested={"ess": np.arange(2)})
    write_summary(tmp_path / "summary.ecsv", table)
    back = Table.read(tmp_path / "summary.ecsv")
    assert back.colnames == ["parameter", "median", "sd", "lower_68", "upper_68", "unit"]
    assert list(back["parameter"]) == ["theta_E", "e1", "e2", "q", "position_angle", "magnification", "mass_einstein"]
    row = back[0]
    assert (row["median"], row["sd"]) == (pytest.approx(1.2, abs=3e-4), pytest.approx(0.01, rel=0.03))
    assert (row["lower_68"], row["upper_68"]) == (pytest.approx(1.19, abs=5e-4), pytest.approx(1.21, abs=5e-4))
    assert back["median"][5] == pytest.approx(10, abs=0.05)  # one infinite draw is no reason to lose the others
    assert back.meta["r_hat"] == pytest.approx(1.01) and back.meta["nested"] == {"ess": [0, 1]}
    assert float(quoted(table)["value"][0].split()[0]) == pytest.approx(1.2, abs=3e-4)
    assert quoted(table)["value"][1] == "0.1000 ± 0.0000"
    assert oct((tmp_path / "summary.ecsv").stat().st_mode & 0o777) == oct(0o666 & ~umask())
    with pytest.raises(LensnbError, match="no finite"):
        summary_table({"theta_E": np.full(3, np.nan)}, {})


def umask():
    """What this process takes from a new file's permissions."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- files


WRITERS = {
    "summary.ecsv": lambda path: write_summary(path, summary_table({"theta_E": np.linspace(1, 2, 5000)}, {})),
    "posterior.nc": lambda path: write_posterior(path, ("e1", "e2"), np.random.default_rng(0).random((4, 2000, 2))),
    "model.fits": lambda path: write_model(path, {"MODEL": (np.ones((200, 200)), linear_wcs((200, 200), 0.05), "Jy")}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written(name, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(LensnbError, match="cannot be written") as refusal:
            WRITERS[name](folder / name)
        assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["summary.ecsv", "model.fits", "posterior.nc"])
def test_a_disk_that_fills_up_leaves_the_earlier_file(name, tmp_path):
    (tmp_path / name).write_text("earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(LensnbError, match="cannot be written"):
            WRITERS[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "earlier"}


@pytest.mark.filterwarnings("ignore:\\s*ArviZ is undergoing:FutureWarning")
def test_the_posterior_comes_back(tmp_path):
    import arviz

    chains = np.random.default_rng(0).random((3, 50, 2)).astype(np.float32)
    derived = {"q": (np.arange(150.0), ""), "position_angle": (np.zeros(150), "deg")}
    write_posterior(tmp_path / "posterior.nc", ("theta_E", "e1"), chains, prior=np.ones((20, 2)), derived=derived,
                    stats={"diverging": np.zeros((3, 50), bool), "lp": np.ones((3, 50))}, model="SIE", seed=np.int64(3))
    back = arviz.from_netcdf(tmp_path / "posterior.nc")
    assert set(back.groups()) == {"posterior", "prior", "sample_stats"}
    assert back.posterior["theta_E"].dims == ("chain", "draw")
    np.testing.assert_array_equal(back.posterior["e1"], chains[..., 1])
    np.testing.assert_array_equal(back.posterior["q"], np.arange(150.0).reshape(3, 50))
    assert back.posterior["theta_E"].attrs["units"] == "arcsec" and back.posterior.attrs["model"] == "SIE"
    assert back.prior["e1"].shape == (1, 20) and not back.sample_stats["diverging"].any()


def test_images_keep_their_coordinates(tmp_path):
    for name, make in SKIES.items():
        wcs = make().celestial
        source = np.ones((9, 7)), linear_wcs((9, 7), 0.03, (1.0, -2.0)), "nJy/arcsec2"
        write_model(tmp_path / "model.fits", {"MODEL": (np.full((60, 80), np.nan), wcs, "nJy"), "SOURCE": source})
        with fits.open(tmp_path / "model.fits") as hdus:
            assert [u.Unit(hdu.header["BUNIT"]) for hdu in hdus[1:]] == [u.nJy, u.nJy / u.arcsec**2]
            here, there = wcs.pixel_to_world(10, 20), WCS(hdus["MODEL"].header).pixel_to_world(10, 20)
            assert here.separation(SkyCoord(there).transform_to(here.frame)).arcsec < 1e-4, name
            places = WCS(hdus["SOURCE"].header).wcs_pix2world([[3, 4], [4, 4]], 0)
            np.testing.assert_allclose(places, [[1.0, -2.0], [1.03, -2.0]], atol=1e-9)


@pytest.mark.parametrize("text, unit", [
    ("ELECTRONS/S", u.electron / u.s), ("electron/s", u.electron / u.s), ("MJy/sr", u.MJy / u.sr), ("counts", u.ct),
    ("COUNTS/S", u.ct / u.s), ("e-/s", u.electron / u.s), ("cps", u.ct / u.s), ("uJy", u.uJy), ("microjansky", u.uJy),
    ("10.0*nJy", 10 * u.nJy), ("", u.dimensionless_unscaled)])
def test_units_as_telescopes_spell_them(text, unit):
    assert standard_unit(text) == unit


def test_units_of_the_source():
    assert brightness_unit("lumps", 0.1) == (1.0, "(lumps) arcsec-2") and brightness_unit("", 0.1) == (1.0, "")
    for text, factor, unit in (("MJy/sr", 0.01, u.MJy / u.sr), ("Jy/arcsec2", 0.01, u.Jy / u.arcsec**2),
                               ("ELECTRONS/S", 1.0, u.electron / u.s / u.arcsec**2)):
        found, name = brightness_unit(text, 0.1)
        assert found == pytest.approx(factor) and u.Unit(name) == unit


@pytest.mark.parametrize("sky", [name for name in SKIES if name != "a cube's"])
def test_the_source_lies_behind_the_image(sky):
    """A source pixel is where an image pixel with the same x and y is on the sky."""
    wcs = SKIES[sky]()
    cutout = SimpleNamespace(wcs=wcs, shape=(60, 80), pixel_scale=0.05, origin=(0.0, 0.0))
    plane = source_wcs(cutout, (30, 20), 0.02, (0.4, -0.3))
    for column, row in ((0, 0), (19, 29), (9.5, 14.5), (3, 20)):
        x, y = 0.4 + (column - 9.5) * 0.02, -0.3 + (row - 14.5) * 0.02
        there = wcs.celestial.pixel_to_world(39.5 + x / 0.05, 29.5 + y / 0.05)
        assert plane.pixel_to_world(column, row).separation(there).arcsec < 2e-4


def test_a_source_without_sky_is_in_arcsec():
    cutout = SimpleNamespace(wcs=linear_wcs((60, 80), 0.05), shape=(60, 80), pixel_scale=0.05, origin=(0.1, 0.0))
    plane = source_wcs(cutout, (9, 7), 0.03, (1.0, -2.0))
    np.testing.assert_allclose(plane.wcs_pix2world([[3, 4], [4, 4]], 0), [[1.1, -2.0], [1.13, -2.0]], atol=1e-9)


# ---- truth


def test_truth_beside_the_cutout(tmp_path):
    (tmp_path / "lens.truth.json").write_text(json.dumps({"theta": {"theta_E": 1, "e1": 0.1}, "made_by": "somebody"}))
    for name in ("lens.fits", "lens.fits.gz", "lens.FITS", "lens.fits[SCI]", "lens.npy"):
        assert known_truth(str(tmp_path / name)) == {"theta_E": 1.0, "e1": 0.1}
    assert known_truth(tmp_path / "other.fits") is None
    assert known_truth(np.zeros((3, 3))) is None


NO_TRUTH = ["", "[]", "{}", '{"theta": 3}', '{"theta": {"e1": "x"}}', '{"theta": {"e1": null}}', "\xff"]


@pytest.mark.parametrize("text", NO_TRUTH)
def test_a_truth_that_is_none(text, tmp_path):
    (tmp_path / "lens.truth.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="truth"):
        known_truth(tmp_path / "lens.fits")


def test_the_demo_has_its_truth():
    truth = known_truth(DEMO)
    assert truth.keys() == {"theta_E", "e1", "e2", "gamma1", "gamma2", "center_x", "center_y", "source_x", "source_y"}
    with fits.open(DEMO) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["SCI", "ERR", "PSF"]
        assert hdus["PSF"].data.sum() == pytest.approx(1, abs=1e-5) and (hdus["ERR"].data > 0).all()
        scale = np.sqrt(abs(np.linalg.det(WCS(hdus["SCI"].header).pixel_scale_matrix))) * 3600
        assert scale == pytest.approx(0.05)


# ---- figures


def test_figures_survive_holes():
    rng = np.random.default_rng(0)
    data, noise = rng.standard_normal((20, 24)), np.ones((20, 24))
    data[3, 4], noise[5, 6], noise[0, 0] = np.nan, np.inf, 0.0
    excluded = np.zeros(data.shape, bool)
    excluded[:, :3] = True
    fig = figure_fit(data, np.zeros_like(data), noise, np.zeros_like(data), 0.1, np.zeros((8, 8)), 0.05,
                     excluded=excluded, curves=[np.ones((5, 2))], caustics=[], north=0.3, mirrored=True, unit="nJy")
    assert len(fig.axes) == 12
    plt.close(fig)


@pytest.mark.filterwarnings("ignore:\\s*ArviZ is undergoing:FutureWarning")
def test_a_corner_with_and_without_company():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((500, 2)).astype(np.float32)
    for more in ({}, {"npe": 3 * samples, "prior": 100 * samples, "truth": {"e1": 0.3, "gamma": 2.0}}):
        fig = figure_corner(("theta_E", "e1"), samples, **more)
        assert len(fig.axes) == 4
        plt.close(fig)
