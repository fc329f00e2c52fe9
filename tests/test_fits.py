"""Images in files: every dialect of header against astropy's own WCS, and what comes back of what was written."""

import gzip

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from lensnb.core import InputError, LensnbError
from lensnb.simulator.fits import read_image, write_images
from lensnb.simulator.grid import pixel_grid
from lensnb.simulator.sky import header_wcs, linear_wcs, pixel_positions, sky_wcs

SKY = dict(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0, CRVAL2=2.0, CRPIX1=15.5, CRPIX2=10.5)
SHAPE = (20, 30)


def cards(dialect, turn, side_x, side_y, parity):
    """A header in one of the dialects: pixels of these sides [arcsec], turned by `turn` [rad], mirrored where parity is 1."""
    c, s, dx, dy = np.cos(turn), np.sin(turn), parity * side_x / 3600, side_y / 3600
    if dialect == "CD":
        return dict(CD1_1=dx * c, CD1_2=-dy * s, CD2_1=dx * s, CD2_2=dy * c)
    if dialect == "PC":
        return dict(CDELT1=dx, CDELT2=dy, PC1_1=c, PC1_2=-s * dy / dx, PC2_1=s * dx / dy, PC2_2=c)
    return dict(CDELT1=dx, CDELT2=dy, CROTA2=np.rad2deg(turn))


def offsets(header, shape=SHAPE):
    """What astropy says: offsets from the middle of the field, projected on the plane that touches the sky there [arcsec]."""
    wcs = WCS(header).celestial
    row, column = np.indices(shape)
    middle = wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2).icrs
    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.crval, plane.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [middle.ra.deg, middle.dec.deg], [-1 / 3600, 1 / 3600]
    places = wcs.pixel_to_world(column, row).icrs
    return plane.wcs_world2pix(places.ra.deg, places.dec.deg, 0), plane


def check(header, shape=SHAPE):
    (x, y), plane = offsets(header, shape)
    found = pixel_positions(header_wcs(header)[0], shape)
    for ours, theirs in zip(found, (x, y)):
        np.testing.assert_allclose(ours, theirs + 1, atol=2e-7)  # astropy counts from crpix = 0, here pixel -1


@settings(max_examples=40, deadline=None)
@given(dialect=st.sampled_from(["CD", "PC", "CROTA2"]), turn=st.floats(-3.2, 3.2), side_x=st.floats(0.01, 1.0),
       ratio=st.floats(0.3, 3.0), parity=st.sampled_from([-1, 1]), dec=st.floats(-89.9, 89.9), ra=st.floats(0, 359.9))
def test_positions_are_astropys(dialect, turn, side_x, ratio, parity, dec, ra):
    header = fits.Header(SKY | cards(dialect, turn, side_x, ratio * side_x, parity) | dict(CRVAL1=ra, CRVAL2=dec))
    check(header)
    x, y = pixel_positions(header_wcs(header)[0], SHAPE)
    row, column = (np.array([a[11, 15] - a[10, 15], a[10, 16] - a[10, 15]]) for a in (y, x))
    area = column[1] * row[0] - column[0] * row[1]  # right-handed in x to the right and y up, unless mirrored
    np.testing.assert_allclose(area, -parity * side_x**2 * ratio, rtol=1e-5)


@pytest.mark.parametrize("more", [
    dict(CTYPE1="RA---SIN", CTYPE2="DEC--SIN"), dict(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"), dict(CRPIX1=-300.0, CRPIX2=2000.0),
    dict(RADESYS="FK5", EQUINOX=2000.0), dict(LONPOLE=140.0), dict(CUNIT1="deg", CUNIT2="deg")], ids=str)
def test_other_skies(more):
    check(fits.Header(SKY | cards("CD", 0.4, 0.05, 0.08, -1) | more))


def test_dialects_agree():
    found = [pixel_positions(header_wcs(fits.Header(SKY | cards(d, 0.7, 0.05, 0.1, -1)))[0], SHAPE) for d in ("CD", "PC", "CROTA2")]
    np.testing.assert_allclose(found[1], found[0], atol=1e-9)
    np.testing.assert_allclose(found[2], found[0], atol=1e-9)


def test_a_centre_of_ones_own():
    wcs = sky_wcs(SHAPE, 0.05, 10.0, -30.0)
    x, y = pixel_positions(wcs, SHAPE, center=wcs.pixel_to_world(20, 5))
    np.testing.assert_allclose((x[5, 20], y[5, 20], x[5, 21], y[6, 20]), (0, 0, 0.05, 0.05), atol=1e-7)


def test_half_the_sky_is_no_field():
    with pytest.raises(InputError, match="wider than the sky"):
        pixel_positions(WCS(fits.Header(SKY | dict(CTYPE1="RA---CAR", CTYPE2="DEC--CAR", CRVAL2=0.0, CDELT1=-9.0, CDELT2=9.0))), SHAPE)


@pytest.mark.parametrize("make", [lambda: linear_wcs(SHAPE, 0.05, (0.3, -0.2)), lambda: sky_wcs(SHAPE, 0.05, 0.0, 85.0),
                                  lambda: WCS(fits.Header(SKY | cards("CD", 0.4, 0.05, 0.08, 1)))])
@pytest.mark.parametrize("name", ["image.fits", "image.fits.gz"])
def test_what_was_written_comes_back(tmp_path, make, name):
    wcs, image = make(), np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    write_images(tmp_path / name, {"SCI": (image, wcs, "nJy")}, z_l=0.5)
    back = read_image(tmp_path / name)
    assert (tmp_path / name).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b"SI")
    np.testing.assert_array_equal(back.pixels, image)
    assert back.pixels.dtype.isnative and back.unit == "nJy" and fits.getheader(tmp_path / name)["Z_L"] == 0.5
    for ours, theirs in zip((back.x, back.y), pixel_positions(wcs, SHAPE)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # the same file, read by astropy alone
    (x, y), _ = offsets(fits.getheader(tmp_path / name, 1)) if wcs.has_celestial else ((back.x - 1, back.y - 1), None)
    np.testing.assert_allclose((back.x, back.y), (x + 1, y + 1), atol=1e-6)


def test_x_is_minus_right_ascension(tmp_path):
    wcs = sky_wcs(SHAPE, 0.05, 150.0, 2.0)
    x, y = pixel_positions(wcs, SHAPE)
    for ours, grid in zip((x, y), pixel_grid(SHAPE, 0.05)):
        np.testing.assert_allclose(ours, np.asarray(grid), atol=1e-6)
    middle, right, up = (wcs.pixel_to_world(14.5 + dx, 9.5 + dy) for dx, dy in ((0, 0), (1, 0), (0, 1)))
    assert right.ra < middle.ra and up.dec > middle.dec
    assert middle.separation(SkyCoord(150 * u.deg, 2 * u.deg)).arcsec < 1e-9


def stored(tmp_path, hdus, name="lens.fits"):
    fits.HDUList(hdus).writeto(tmp_path / name)
    return tmp_path / name


HEADER = fits.Header(SKY | cards("CD", 0.3, 0.05, 0.05, -1))


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f4", ">i2", ">i4", "u1"])
@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_come_as_native_floats(tmp_path, dtype, compressed):
    image = np.arange(600).reshape(SHAPE).astype(dtype)
    hdu = fits.CompImageHDU(image, HEADER, compression_type="GZIP_2", quantize_level=0) if compressed else fits.ImageHDU(image, HEADER)
    read = read_image(stored(tmp_path, [fits.PrimaryHDU(), hdu]))
    assert read.pixels.dtype.kind == "f" and read.pixels.dtype.isnative
    np.testing.assert_array_equal(read.pixels, image.astype(float))


def test_scaled_and_blank_integers(tmp_path):
    hdu = fits.PrimaryHDU(np.array([[0, 4], [-32768, 8]], np.int16))
    hdu.header.update(SKY | cards("CD", 0.0, 0.05, 0.05, -1) | dict(BSCALE=0.25, BZERO=100.0, BLANK=-32768))
    path = stored(tmp_path, [hdu])
    np.testing.assert_array_equal(read_image(path).pixels, [[100.0, 101.0], [np.nan, 102.0]])


def test_a_primary_header_speaks_for_its_extension(tmp_path):
    path = stored(tmp_path, [fits.PrimaryHDU(header=HEADER), fits.ImageHDU(np.ones(SHAPE))])
    np.testing.assert_allclose(read_image(path).x, pixel_positions(WCS(HEADER), SHAPE)[0])


def test_an_array_of_numpy(tmp_path):
    np.save(tmp_path / "image.npy", np.ones(SHAPE))
    np.testing.assert_allclose(read_image(tmp_path / "image.npy", 0.05).x, np.asarray(pixel_grid(SHAPE, 0.05)[0]), atol=1e-6)


ONES = np.ones(SHAPE)


def cut(tmp_path):
    path = stored(tmp_path, [fits.PrimaryHDU(), fits.ImageHDU(np.ones((200, 200)), HEADER)])
    path.write_bytes(path.read_bytes()[:90000])
    return path


def cut_gzip(tmp_path):
    (tmp_path / "lens.fits.gz").write_bytes(gzip.compress(stored(tmp_path, [fits.PrimaryHDU(ONES, HEADER)]).read_bytes())[:300])
    return tmp_path / "lens.fits.gz"


BAD = {
    "no WCS": (lambda p: stored(p, [fits.PrimaryHDU(ONES)]), "its header tells no coordinates; give pixel_scale="),
    "a singular CD": (lambda p: stored(p, [fits.PrimaryHDU(ONES, fits.Header(SKY | dict(CD1_1=1e-5, CD1_2=2e-5, CD2_1=2e-5, CD2_2=4e-5)))]),
                      "its CD matrix has no inverse"),
    "an empty CD": (lambda p: stored(p, [fits.PrimaryHDU(ONES, fits.Header(SKY | dict(CD1_1=0.0, CD2_2=0.0)))]), "no inverse"),
    "half a CD": (lambda p: stored(p, [fits.PrimaryHDU(ONES, fits.Header(SKY | dict(CD1_1=1e-5)))]), "no inverse"),
    "CDELT of zero": (lambda p: stored(p, [fits.PrimaryHDU(ONES, fits.Header(SKY | dict(CDELT1=0.0, CDELT2=1e-5)))]), "tells no coordinates"),
    "a cube": (lambda p: stored(p, [fits.PrimaryHDU(np.ones((3, 20, 30)), HEADER)]), "one slice of a cube"),
    "one axis": (lambda p: stored(p, [fits.PrimaryHDU(np.ones(30))]), "its shape is"),
    "several": (lambda p: stored(p, [fits.PrimaryHDU(), fits.ImageHDU(ONES, HEADER, name="SCI"), fits.ImageHDU(ONES, name="ERR")]),
                r"holds 2 images; give the one that is meant, .*lens.fits\[SCI\] or .*lens.fits\[ERR\]"),
    "nothing": (lambda p: stored(p, [fits.PrimaryHDU()]), "holds no image"),
    "truncated": (cut, "truncated"),
    "a truncated gzip": (cut_gzip, "truncated or damaged gzip"),
    "text": (lambda p: (p / "lens.fits").write_text("dear colleague") and p / "lens.fits", "not a FITS file"),
    "no file": (lambda p: p / "lost.fits", "there is no file"),
    "no path": (lambda p: 3, "is not a path"),
    "oblong without names": (lambda p: stored(p, [fits.PrimaryHDU(ONES, fits.Header(dict(CDELT1=1e-5, CDELT2=2e-5)))]), "are not square"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_gets_one_sentence(tmp_path, kind):
    make, sentence = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(InputError, match=sentence) as refusal:
        read_image(path)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_a_scale_of_the_users_own(tmp_path):
    path = stored(tmp_path, [fits.PrimaryHDU(ONES)])
    np.testing.assert_allclose(read_image(path, pixel_scale=0.1).y, np.asarray(pixel_grid(SHAPE, 0.1)[1]), atol=1e-6)


def test_two_scales_are_one_too_many(tmp_path):
    with pytest.raises(InputError, match="leave pixel_scale out"):
        read_image(stored(tmp_path, [fits.PrimaryHDU(ONES, HEADER)]), pixel_scale=0.1)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(LensnbError, match="cannot be written"):
        write_images(tmp_path / "none" / "image.fits", {"SCI": (ONES, linear_wcs(SHAPE, 0.05), "")})
