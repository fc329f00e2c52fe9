"""Cutouts as users bring them: thirty and more that cannot be read, and the many layouts that can."""

import gzip
import os

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage, special

from lensnb.core import InputError
from lensnb.inference.analyse.checks import blank_sky, check_noise
from lensnb.inference.analyse.cutout import read_cutout
from lensnb.inference.analyse.instrument import prepare_psf, resample

SCALE, SIDE, SKY, ELECTRONS = 0.05, 64, 0.01, 1000.0

y, x = (np.indices((SIDE, SIDE)) - (SIDE - 1) / 2) * SCALE
LIGHT = 1.5 * np.exp(-4 * np.hypot(x, 1.2 * y)) + 0.3 * np.exp(-((np.hypot(x, y) - 0.9) ** 2) / 0.01)
NOISE = np.sqrt(SKY**2 + LIGHT / ELECTRONS)
DATA = LIGHT + NOISE * np.random.default_rng(4).standard_normal(LIGHT.shape)
PSF = np.exp(-(np.hypot(*np.mgrid[-7:8, -7:8]) ** 2) / 3)
PSF /= PSF.sum()
CELESTIAL = dict(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.1, CRVAL2=2.2, CRPIX1=32.5, CRPIX2=32.5)
CD = CELESTIAL | dict(CD1_1=-SCALE / 3600, CD1_2=0.0, CD2_1=0.0, CD2_2=SCALE / 3600)
PC = CELESTIAL | dict(PC1_1=-1.0, PC1_2=0.0, PC2_1=0.0, PC2_2=1.0, CDELT1=SCALE / 3600, CDELT2=SCALE / 3600)
CDELT = CELESTIAL | dict(CDELT1=-SCALE / 3600, CDELT2=SCALE / 3600)


def write(path, *images, **cards):
    """A FITS file of `(name, pixels)` extensions; the cards go into the first one's header."""
    hdus = [fits.PrimaryHDU()]
    for k, (name, pixels) in enumerate(images):
        header = fits.Header(list(cards.items())) if k == 0 else None
        hdus.append(fits.ImageHDU(np.asarray(pixels), header, name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def standard(path, sci=DATA, err=NOISE, psf=PSF, **cards):
    """The common layout, with one thing or another replaced."""
    images = [("SCI", sci), ("ERR", err), ("PSF", psf)]
    return write(path, *[(name, pixels) for name, pixels in images if pixels is not None], **(CD | cards))


@pytest.fixture
def lens(tmp_path):
    return standard(tmp_path / "lens.fits")


# ---- what cannot be read


def changed(base, where, value):
    """A copy with other values somewhere."""
    base = np.array(base)
    base[where] = value
    return base


def truncated(folder):
    whole = standard(folder / "whole.fits").read_bytes()
    (folder / "bad.fits").write_bytes(whole[: len(whole) // 3])


def truncated_late(folder):
    whole = standard(folder / "whole.fits", err=None, psf=None).read_bytes()
    (folder / "bad.fits").write_bytes(whole[:-5000])


def truncated_gzip(folder):
    whole = gzip.compress(standard(folder / "whole.fits").read_bytes())
    (folder / "bad.fits").write_bytes(whole[: len(whole) // 2])


def damaged_gzip(folder):
    whole = bytearray(gzip.compress(standard(folder / "whole.fits").read_bytes()))
    whole[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    (folder / "bad.fits").write_bytes(whole)


def table_only(folder):
    column = fits.Column(name="flux", format="E", array=np.ones(5))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column])]).writeto(folder / "bad.fits")


def garbled_header(folder):
    whole = bytearray(standard(folder / "whole.fits").read_bytes())
    at = whole.index(b"NAXIS1  ")
    whole[at : at + 80] = b"NAXIS1  = a lot".ljust(80)
    (folder / "bad.fits").write_bytes(whole)


def absurd_size(folder):
    whole = bytearray(standard(folder / "whole.fits").read_bytes())
    at = whole.index(b"NAXIS1  ")
    whole[at : at + 80] = b"NAXIS1  =         999999999999".ljust(80)
    (folder / "bad.fits").write_bytes(whole)


def array(values):
    """Write these values to .npy, under a name that says otherwise."""

    def make(folder):
        with open(folder / "bad.fits", "wb") as file:
            np.save(file, values, allow_pickle=True)

    return make


def image(sci, **cards):
    """Write an image in the common layout, the others as they were."""
    return lambda folder: standard(folder / "bad.fits", sci=sci, **cards)


WRAPPED = (60000 * np.exp(-3 * np.hypot(x, y))).astype(np.uint16).view(np.int16)
BANDS = [("VIS_FLUX", DATA), ("VIS_RMS", NOISE), ("NIR_Y_FLUX", DATA), ("NIR_Y_RMS", NOISE)]

BAD_FILES = {
    "missing": (lambda folder: None, "no file"),
    "a folder": (lambda folder: (folder / "bad.fits").mkdir(), "folder"),
    "empty": (lambda folder: (folder / "bad.fits").touch(), "empty"),
    "text": (lambda folder: (folder / "bad.fits").write_text("not a picture at all"), "not a FITS file"),
    "a web page": (lambda folder: (folder / "bad.fits").write_text("<html>404"), "not a FITS file"),
    "truncated": (truncated, "truncated"),
    "truncated at the end": (truncated_late, "truncated"),
    "truncated gzip": (truncated_gzip, "gzip"),
    "damaged gzip": (damaged_gzip, "gzip"),
    "gzipped text": (lambda folder: (folder / "bad.fits").write_bytes(gzip.compress(b"hello")), "not a FITS file"),
    "garbled header": (garbled_header, ""),
    "absurd NAXIS1": (absurd_size, "truncated"),
    "no image": (lambda folder: fits.PrimaryHDU().writeto(folder / "bad.fits"), "no image"),
    "table only": (table_only, "no image"),
    "pickled objects": (array(np.array([{"a": 1}, None], dtype=object)), "numbers"),
    "complex": (array(DATA + 1j), "complex"),
    "strings": (array(np.array([["a", "b"]])), "not real numbers"),
    "one-dimensional": (image(DATA.ravel()), "one image"),
    "cube": (image(np.stack([DATA] * 3)), "slice of a cube"),
    "noise alone": (lambda folder: write(folder / "bad.fits", ("RMS", NOISE), **CD), "RMS"),
    "several bands": (lambda folder: write(folder / "bad.fits", *BANDS, **CD), "VIS, NIR_Y"),
    "all NaN": (image(np.full(DATA.shape, np.nan)), "100%"),
    "mostly NaN": (image(np.where(y > -1, np.nan, DATA)), "hold no value"),
    "infinite": (image(np.full(DATA.shape, np.inf)), "hold no value"),
    "zeros": (image(np.zeros(DATA.shape)), "hold no value"),
    "constant": (image(np.ones(DATA.shape)), "same value"),
    "constant integers": (image(np.ones(DATA.shape, np.int16)), "same value"),
    "integer overflow": (image(WRAPPED), "overflowed"),
    "float overflow": (image(np.where(y > -1, 1e38, DATA)), "hold no value"),
    "too few pixels": (image(DATA[:12, :12]), "too small"),
    "too small a field": (image(DATA[:32, :32]), "too small"),
    "a survey tile": (image(np.zeros((4, 2500), np.float32) + DATA[0, 0]), "too small"),
    "no pixel scale": (lambda folder: fits.writeto(folder / "bad.fits", DATA), "pixel_scale="),
    "pixels not square": (image(DATA, CD1_1=-0.06 / 3600), "not square"),
    "pixels of degrees": (image(DATA, CD1_1=-1.0, CD2_2=1.0), "pixel scale of 3600"),
    "negative noise": (lambda folder: standard(folder / "bad.fits", err=-NOISE), "negative"),
    "noise of another shape": (lambda folder: standard(folder / "bad.fits", err=NOISE[1:]), "same pixels"),
    "mask of another shape": (lambda folder: write(folder / "bad.fits", ("SCI", DATA), ("ERR", NOISE), ("PSF", PSF),
                                                   ("MASK", DATA[:, 1:]), **CD), "same pixels"),
    "a dark PSF": (lambda folder: standard(folder / "bad.fits", psf=0 * PSF), "no light"),
    "a negative PSF": (lambda folder: standard(folder / "bad.fits", psf=PSF - 0.01), "below zero"),
    "a PSF of NaN": (lambda folder: standard(folder / "bad.fits", psf=np.nan * PSF), "NaN"),
    "a PSF cube": (lambda folder: standard(folder / "bad.fits", psf=np.stack([PSF, PSF])), "slice of a cube"),
    "no PSF": (lambda folder: standard(folder / "bad.fits", psf=None), "psf_fwhm="),
}


def refused(*args, **options):
    """The message of the InputError, once it is seen to be one sentence."""
    with pytest.raises(InputError) as caught:
        read_cutout(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 400, message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_gets_one_sentence(tmp_path, kind):
    make, words = BAD_FILES[kind]
    make(tmp_path)
    message = refused(tmp_path / "bad.fits")
    assert words in message and "bad.fits" in message


BAD_OPTIONS = {
    "negative psf_fwhm": (dict(psf_fwhm=-0.1), "psf_fwhm"),
    "psf_fwhm in words": (dict(psf_fwhm="0.1 arcsec"), "psf_fwhm"),
    "psf_fwhm in degrees": (dict(psf_fwhm=3e-5), "psf_fwhm"),
    "psf_fwhm of the whole field": (dict(psf_fwhm=3.0), "psf_fwhm"),
    "pixel_scale zero": (dict(pixel_scale=0.0), "pixel_scale"),
    "pixel_scale negative": (dict(pixel_scale=-0.05), "pixel_scale"),
    "pixel_scale NaN": (dict(pixel_scale=float("nan")), "pixel_scale"),
    "pixel_scale in degrees": (dict(pixel_scale=1.4e-5), "pixel_scale"),
    "pixel_scale huge": (dict(pixel_scale=20.0), "pixel_scale"),
    "z_s in front of z_l": (dict(z_l=0.5, z_s=0.3), "behind"),
    "negative redshift": (dict(z_l=-0.2), "z_l"),
    "redshift NaN": (dict(z_l=0.2, z_s=float("nan")), "z_s"),
    "no redshift of the source": (dict(z_l=0.2), "z_s"),
    "no redshift of the lens": (dict(z_s=1.5), "z_l"),
    "a number for a path": (dict(noise_map=3), "noise map"),
    "a number for a band": (dict(band=3), "band"),
    "everything masked": (dict(mask=np.ones(DATA.shape)), "1 - mask"),
    "mask turned round": (dict(mask=np.hypot(x, y) < 1.3), "1 - mask"),
    "missing noise map": (dict(noise_map="nowhere.fits"), "nowhere.fits"),
    "missing extension": (dict(psf="lens.fits[STAR]"), "STAR"),
    "noise map is a cube": (dict(noise_map=np.stack([NOISE, NOISE])), "slice of a cube"),
    "noise map is complex": (dict(noise_map=NOISE + 0j), "complex"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_a_bad_option_gets_one_sentence(lens, monkeypatch, kind):
    monkeypatch.chdir(lens.parent)
    options, words = BAD_OPTIONS[kind]
    assert words in refused(lens, **options)


@pytest.mark.parametrize("path", ["", 5, None, 1.5, b"\0", ["a.fits"], "a\0b.fits"], ids=repr)
def test_what_is_no_path(path):
    refused(path)


def test_a_mask_turned_round_is_noticed(lens):
    keep = np.hypot(x, y) < 1.3
    assert "means the opposite" in refused(lens, mask=keep)
    assert not read_cutout(lens, mask=~keep).mask[SIDE // 2, SIDE // 2]


def test_no_permission(lens, monkeypatch):
    if os.geteuid() == 0:  # root may read everything, so the refusal is staged
        def refuse(path):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    else:
        lens.chmod(0)
    assert "permissions" in refused(lens)


def test_a_whole_image_is_no_cutout(tmp_path):
    large = np.random.default_rng(0).normal(size=(2100, 2100)).astype(np.float32)
    assert "no cutout" in refused(standard(tmp_path / "tile.fits", sci=large, err=None))


def test_an_unknown_band(tmp_path):
    assert "VIS, NIR_Y" in refused(write(tmp_path / "tile.fits", *BANDS, **CD), band="F814W")


# ---- what can


def check(cutout, notes=0):
    """What every good record has in common."""
    assert len(cutout.notes) == notes, cutout.notes
    for values in (cutout.data, cutout.noise, cutout.psf):
        assert values.dtype == np.float64 and values.dtype.isnative and np.isfinite(values).all()
    assert cutout.mask.dtype == bool and cutout.data.shape == cutout.noise.shape == cutout.mask.shape == cutout.shape
    assert (cutout.noise > 0).all() and (cutout.psf >= 0).all() and abs(cutout.psf.sum() - 1) < 1e-12
    assert cutout.psf.shape[0] % 2 == cutout.psf.shape[1] % 2 == 1
    assert abs(cutout.pixel_scale / SCALE - 1) < 1e-6
    return cutout


def same_lens(cutout, **options):
    """The record of this file's lens."""
    check(cutout, **options)
    assert np.allclose(cutout.data[~cutout.mask], DATA[~cutout.mask], rtol=1e-5, atol=1e-6)
    assert np.allclose(cutout.noise[~cutout.mask], NOISE[~cutout.mask], rtol=1e-5)
    assert np.allclose(cutout.psf, PSF, atol=1e-6)
    return cutout


NAMES = [("SCI", "ERR", "PSF", "MASK"), ("DATA", "RMS", "PSF_MODEL", "DQ"), ("IMAGE", "NOISE", "PSF", "FLAGS"),
         ("VIS_FLUX", "VIS_RMS", "VIS_PSF", "VIS_FLAG"), ("VIS_FLUX_MICROJANSKY", "VIS_RMS", "VIS_PSF", "VIS_MASK"),
         ("sci", "sigma", "psf", "mask"), ("F814W_SCI", "F814W_ERR", "F814W_PSF", "F814W_MASK"), ("", "ERR", "PSF", "MASK")]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_extensions_of_one_file(tmp_path, names):
    flags = np.zeros(DATA.shape, np.int16)
    flags[:4] = 2
    cutout = same_lens(read_cutout(write(tmp_path / "a.fits", *zip(names, (DATA, NOISE, PSF, flags), strict=True), **CD)))
    assert (cutout.mask == (flags > 0)).all()


@pytest.mark.parametrize("cards", [CD, PC, CDELT, dict(PIXSCALE=SCALE), dict(CDELT1=SCALE, CDELT2=SCALE, CUNIT1="arcsec",
                                                                             CUNIT2="arcsec")], ids=["CD", "PC", "CDELT",
                                                                                                     "PIXSCALE", "arcsec"])
def test_pixel_scale_of_the_header(tmp_path, cards):
    path = write(tmp_path / "a.fits", ("SCI", DATA), ("ERR", NOISE), ("PSF", PSF), **cards)
    cutout = same_lens(read_cutout(path))
    assert cutout.wcs.has_celestial == ("CTYPE1" in cards)


def test_pixel_scale_of_the_user(tmp_path, lens):
    cutout = read_cutout(lens, pixel_scale=0.06)
    assert cutout.pixel_scale == 0.06 and not cutout.wcs.has_celestial
    assert "0.06" in cutout.notes[0] and "0.05" in cutout.notes[0]
    assert np.allclose(cutout.wcs.wcs_pix2world([[31.5, 31.5], [32.5, 31.5]], 0), [[0, 0], [0.06, 0]])
    assert same_lens(read_cutout(lens, pixel_scale=0.0502 / 1.004)).wcs.has_celestial
    bare = fits.writeto(tmp_path / "bare.fits", DATA) or tmp_path / "bare.fits"
    same_lens(read_cutout(bare, noise_map=NOISE, psf=PSF, pixel_scale=SCALE))


def test_a_primary_header_speaks_for_its_extensions(tmp_path):
    hdus = [fits.PrimaryHDU(header=fits.Header(list((CD | dict(FILTER="F814W")).items()))), fits.ImageHDU(DATA, name="SCI"),
            fits.ImageHDU(NOISE, name="ERR"), fits.ImageHDU(PSF, name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutout = same_lens(read_cutout(tmp_path / "a.fits"))
    assert cutout.band == "F814W" and cutout.wcs.has_celestial


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fit", ".npy"])
def test_separate_files(tmp_path, suffix):
    paths = {}
    for name, pixels in (("data", DATA), ("noise_map", NOISE), ("psf", PSF), ("mask", np.zeros(DATA.shape))):
        paths[name] = tmp_path / f"{name}{suffix}"
        np.save(paths[name], pixels) if suffix == ".npy" else fits.writeto(paths[name], pixels)
    cutout = read_cutout(str(paths.pop("data")), **{k: str(v) for k, v in paths.items()}, pixel_scale=SCALE)
    assert same_lens(cutout).name == "data" + (".npy" if suffix == ".npy" else "")


def test_extensions_by_name(tmp_path):
    path = write(tmp_path / "a.fits", ("LENS", DATA), ("PRECISION", NOISE), ("STAR", PSF), **CD)
    same_lens(read_cutout(f"{path}[lens]", noise_map=f"{path}[PRECISION]", psf=f"{path}[STAR]"))


def test_compressed_and_big_endian(tmp_path):
    hdus = [fits.PrimaryHDU(), fits.CompImageHDU(DATA.astype(np.float32), fits.Header(list(CD.items())), name="SCI",
                                                 quantize_level=0, compression_type="GZIP_1"),
            fits.ImageHDU(NOISE.astype(">f4"), name="ERR"), fits.ImageHDU(PSF.astype(">f8"), name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits.fz")
    same_lens(read_cutout(tmp_path / "a.fits.fz"))


def test_gzipped_under_any_name(tmp_path, lens):
    (tmp_path / "zipped.fits").write_bytes(gzip.compress(lens.read_bytes()))
    same_lens(read_cutout(tmp_path / "zipped.fits"))


def test_an_axis_of_one(tmp_path):
    same_lens(read_cutout(standard(tmp_path / "a.fits", sci=DATA[None], err=NOISE[None, None])))


def test_scaled_integers(tmp_path):
    hdu = fits.ImageHDU(DATA.copy(), fits.Header(list(CD.items())), name="SCI")
    hdu.scale("int32", bscale=1e-7, bzero=0.2)
    fits.HDUList([fits.PrimaryHDU(), hdu, fits.ImageHDU(NOISE, name="ERR"), fits.ImageHDU(PSF, name="PSF")]).writeto(
        tmp_path / "a.fits")
    same_lens(read_cutout(tmp_path / "a.fits"))


def test_full_integers_are_masked(tmp_path):
    counts = np.clip(1000 + 2e5 * DATA, 0, 65535).astype(np.uint16)
    cutout = check(read_cutout(standard(tmp_path / "a.fits", sci=counts, err=2e5 * NOISE)), notes=1)
    assert cutout.mask[counts == 65535].all() and (counts == 65535).sum() == cutout.mask.sum()


KINDS = {"VAR": NOISE**2, "IVAR": NOISE**-2, "WHT": NOISE**-2, "WEIGHT": NOISE**-2}


@pytest.mark.parametrize("name", KINDS)
def test_variances_and_weights(tmp_path, name):
    same_lens(read_cutout(write(tmp_path / "a.fits", ("SCI", DATA), (name, KINDS[name]), ("PSF", PSF), **CD)))
    fits.writeto(tmp_path / f"lens_{name.lower()}.fits.gz", KINDS[name])
    same_lens(read_cutout(standard(tmp_path / "b.fits", err=None), noise_map=tmp_path / f"lens_{name.lower()}.fits.gz"))


@pytest.mark.parametrize("told", ["unit", "comment", "numbers"])
def test_a_weight_that_is_an_exposure_time(tmp_path, told):
    exposure = np.full(DATA.shape, 1000.0)
    weight = fits.ImageHDU(exposure, name="WHT")
    if told == "unit":
        weight.header["BUNIT"] = "s"
    if told == "comment":
        weight.header["COMMENT"] = "Weights are exposure times"
    science = fits.ImageHDU(DATA, fits.Header(list((CD | dict(BUNIT="ELECTRONS/S", EXPTIME=ELECTRONS)).items())), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), science, weight, fits.ImageHDU(PSF, name="PSF")]).writeto(tmp_path / "a.fits")
    cutout = check(read_cutout(tmp_path / "a.fits"), notes=1)
    assert "exposure times" in cutout.notes[0]
    assert abs(np.median(cutout.noise / NOISE) - 1) < 0.07 and abs(np.median((cutout.noise / NOISE)[LIGHT > 0.2]) - 1) < 0.1


def test_one_of_several_bands(tmp_path):
    path = write(tmp_path / "tile.fits", ("VIS_FLUX", 2 * DATA + 1), ("VIS_RMS", 2 * NOISE), ("VIS_PSF", PSF[2:-2, 2:-2]),
                 ("NIR_Y_FLUX", DATA), ("NIR_Y_RMS", NOISE), ("NIR_Y_PSF", PSF))
    for band in ("NIR_Y", "nir_y", "y", "NIR-Y"):
        assert same_lens(read_cutout(path, band=band, pixel_scale=SCALE)).band == "NIR_Y"
    assert read_cutout(path, band="vis", pixel_scale=SCALE).psf.shape == (11, 11)


def test_bands_in_the_headers(tmp_path):
    hdus = [fits.ImageHDU(factor * DATA, fits.Header(list((CD | dict(FILTER=name)).items())), name="SCI", ver=k)
            for k, (factor, name) in enumerate(((2.0, "F606W"), (1.0, "F814W")), start=1)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    same_lens(read_cutout(tmp_path / "a.fits", band="f814w", noise_map=NOISE, psf=PSF))
    assert "F606W, F814W" in refused(tmp_path / "a.fits", noise_map=NOISE, psf=PSF)


def test_a_band_is_a_label_where_there_is_but_one(lens):
    assert same_lens(read_cutout(lens, band="F814W")).band == "F814W"


def test_missing_pixels_are_masked_and_finite(tmp_path):
    holes = changed(DATA, (slice(0, 6), slice(0, 6)), 0.0)
    holes[40, 50], holes[41, 50], holes[10, 60] = np.nan, np.inf, 1e38
    cutout = check(read_cutout(standard(tmp_path / "a.fits", sci=holes)), notes=1)
    assert cutout.mask.sum() == 39 and cutout.mask[40, 50] and cutout.mask[:6, :6].all()


def test_saturation_by_header(tmp_path):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", SATURATE=1.2)), notes=1)
    assert cutout.mask[DATA > 1.2].all() and 0 < cutout.mask.sum() < 40
    same_lens(read_cutout(standard(tmp_path / "b.fits", SATURATE=1e-3)))  # evidently another unit


@pytest.mark.parametrize("side", [20, 32, SIDE])
def test_a_plateau_is_saturated_however_small_the_cutout(tmp_path, side):
    rng, r = np.random.default_rng(0), np.hypot(*np.mgrid[-9:10, -9:10])[2:-2, 2:-2]
    sky = rng.normal(0, SKY, (side, side))
    sky[:15, :15] += 3 * np.exp(-(r**2) / 30)
    path = standard(tmp_path / "a.fits", sci=np.minimum(sky, 1.5), err=None, SATURATE=1e4)
    options = dict(noise_map=np.full(sky.shape, SKY), psf_fwhm=0.1, pixel_scale=0.11)
    cutout = read_cutout(path, **options)
    assert cutout.mask[sky >= 1.5].all() and cutout.mask.mean() < 0.3
    for cut in (0.5, 1.0, 2.0):  # a ceiling of noise is no plateau
        clipped = standard(tmp_path / "b.fits", sci=np.minimum(rng.normal(0, SKY, sky.shape), cut * SKY), err=None)
        assert not read_cutout(clipped, **options).mask.any()


@pytest.mark.parametrize("sentinel", [-999.0, -1.0, -1e20])
def test_a_constant_far_below_the_sky_is_no_measurement(tmp_path, sentinel):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", sci=changed(DATA, (slice(3, 5), slice(10, 20)), sentinel))), notes=1)
    assert cutout.mask.sum() == 20 and cutout.mask[3:5, 10:20].all() and "far below the sky" in cutout.notes[0]
    kept = check(read_cutout(standard(tmp_path / "b.fits", sci=changed(DATA, (slice(3, 5), slice(10, 20)), -0.03))))
    assert not kept.mask.any()


# ---- noise


@pytest.mark.parametrize("name, flat", [("WHT", SKY**-2), ("ERR", SKY), ("SKY_RMS", SKY), ("BACKGROUND_RMS", SKY)])
def test_noise_of_the_background_alone_gets_its_photons(tmp_path, name, flat):
    images = [("SCI", DATA), (name, np.full(DATA.shape, flat)), ("PSF", PSF)]
    cutout = check(read_cutout(write(tmp_path / "a.fits", *images, **CD, BUNIT="electrons/s", EXPTIME=ELECTRONS)), notes=1)
    assert abs(np.median((cutout.noise / NOISE)[LIGHT > 0.2]) - 1) < 0.1 and "1000 electrons" in cutout.notes[0]
    assert np.allclose(np.median(cutout.noise), SKY, rtol=0.1)
    unknown = check(read_cutout(write(tmp_path / "b.fits", *images, **CD)), notes=1)
    assert "no photon noise" in unknown.notes[0] and "GAIN" in unknown.notes[0]


@pytest.mark.parametrize("cards", [{}, dict(BUNIT="electrons/s", EXPTIME=ELECTRONS), dict(BUNIT="e/s", EXPTIME=1.5 * ELECTRONS)])
def test_noise_with_photons_is_left_alone(tmp_path, cards):
    same_lens(read_cutout(standard(tmp_path / "a.fits", **cards)))
    same_lens(read_cutout(write(tmp_path / "b.fits", ("SCI", DATA), ("WHT", NOISE**-2), ("PSF", PSF), **(CD | cards))))


def test_correlated_sky_is_told_of(tmp_path):
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.standard_normal((120, 120)), 0.55)
    smooth *= SKY / smooth.std()
    kernel = ndimage.gaussian_filter(np.eye(1, 81, 40).reshape(9, 9), 0.55)
    right = SKY / np.sqrt((kernel**2).sum())  # what a sum over many pixels scatters by, a pixel
    told = read_cutout(standard(tmp_path / "a.fits", sci=smooth, err=None))
    assert "correlate by 0." in told.notes[0] and abs(np.median(told.noise) / SKY - 1) < 0.1
    kept = read_cutout(standard(tmp_path / "b.fits", sci=smooth, err=np.full(smooth.shape, right)))
    assert "kept" in kept.notes[0] and np.allclose(kept.noise, right)
    scaled = read_cutout(standard(tmp_path / "c.fits", sci=smooth, err=np.full(smooth.shape, 9 * SKY)))
    assert "correlate by" in scaled.notes[0] and abs(np.median(scaled.noise) / SKY - 1) < 0.1


def test_no_noise_map(tmp_path):
    path = standard(tmp_path / "a.fits", err=None, BUNIT="electrons/s", EXPTIME=ELECTRONS)
    cutout = check(read_cutout(path), notes=1)
    assert abs(np.median(cutout.noise / NOISE) - 1) < 0.07 and "no noise map" in cutout.notes[0]
    cutout = check(read_cutout(standard(tmp_path / "b.fits", err=None)), notes=1)
    assert np.ptp(cutout.noise) == 0 and "no photon noise" in cutout.notes[0]


@pytest.mark.parametrize("broken", [0 * NOISE, np.nan * NOISE, np.inf * NOISE], ids=["zero", "NaN", "infinite"])
def test_a_noise_map_of_nothing_is_estimated(tmp_path, broken):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", err=broken, BUNIT="e-/s", EXPTIME=ELECTRONS)), notes=1)
    assert abs(np.median(cutout.noise / NOISE) - 1) < 0.07


def test_zeros_in_a_noise_map_are_masked(tmp_path):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", err=changed(NOISE, slice(0, 3), 0.0))), notes=1)
    assert cutout.mask[:3].all() and cutout.mask.sum() == 3 * SIDE


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 30.0])
def test_a_noise_map_in_another_unit_is_scaled(tmp_path, factor):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", err=factor * NOISE)), notes=1)
    assert abs(np.median(cutout.noise / NOISE) - 1) < 0.07
    stated, measured = f"{factor * SKY:.1g}"[-2:], "0.01"
    assert "contradicted" in cutout.notes[0] and stated in cutout.notes[0] and measured in cutout.notes[0]


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.45])
def test_a_noise_map_nearly_right_is_kept(tmp_path, factor):
    cutout = read_cutout(standard(tmp_path / "a.fits", err=factor * NOISE))
    assert np.allclose(cutout.noise, factor * NOISE) and len(cutout.notes) == (factor != 1.0)


def test_a_floor_is_removed_and_what_lies_above_kept(tmp_path):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", err=np.maximum(NOISE, 0.022))), notes=1)
    assert "floor at 0.022" in cutout.notes[0]
    assert np.allclose(cutout.noise[NOISE > 0.0221], NOISE[NOISE > 0.0221])
    assert abs(np.median(cutout.noise / NOISE) - 1) < 0.07 and abs(np.median((cutout.noise / NOISE)[LIGHT > 0.1]) - 1) < 0.1


def test_a_constant_map_that_is_wrong(tmp_path):
    told = check(read_cutout(standard(tmp_path / "a.fits", err=0 * NOISE + 0.05, BUNIT="e-/s", EXPTIME=ELECTRONS)), notes=1)
    assert abs(np.median((told.noise / NOISE)[LIGHT > 0.1]) - 1) < 0.1
    assert "nothing tells of photon noise" in read_cutout(standard(tmp_path / "b.fits", err=0 * NOISE + 0.05)).notes[0]


@pytest.mark.parametrize("side", [20, 50, 101, 300])
def test_the_blank_sky_is_measured(side):
    rng = np.random.default_rng(side)
    sky = rng.normal(3.0, 0.02, (side, side + 3))
    r = np.hypot(*(np.indices(sky.shape) - side / 2))
    image = sky + 0.3 * np.exp(-r / (side / 8))
    measured = blank_sky(image, np.zeros(image.shape, bool))
    assert abs(measured.rms / 0.02 - 1) < (0.15 if side < 50 else 0.06)
    assert blank_sky(image, np.ones(image.shape, bool)) is None


def test_without_blank_sky_the_map_stands():
    noise, notes = check_noise(DATA, NOISE, None)
    assert noise is NOISE and "no blank sky" in notes[0]


def test_a_field_full_of_arcs_does_not_contradict_the_map():
    waves = DATA + 0.1 * np.sin(9 * x) * np.sin(8 * y + 1)
    noise, notes = check_noise(waves, NOISE, blank_sky(waves, np.zeros(waves.shape, bool)))
    assert noise is NOISE and "from pixel to pixel" in notes[0]


# ---- more than one image would do


def test_two_chips_are_the_users_to_choose_from(tmp_path):
    write(tmp_path / "a.fits", ("SCI", DATA), ("ERR", NOISE), ("SCI", DATA + 1), ("PSF", PSF), **CD)
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus[3].header["EXTVER"] = 2
        hdus[3].header.update(CD)
    with pytest.raises(InputError, match=r"a.fits\[SCI,1\] or .*a.fits\[SCI,2\]"):
        read_cutout(tmp_path / "a.fits")
    for name, added in (("SCI,1", 0), ("sci, 2", 1)):
        cutout = read_cutout(f"{tmp_path}/a.fits[{name}]", noise_map=f"{tmp_path}/a.fits[ERR]", psf=f"{tmp_path}/a.fits[PSF]")
        assert abs(np.median(cutout.data - DATA) - added) < 1e-5


def test_a_choice_among_names_is_mentioned(tmp_path):
    write(tmp_path / "a.fits", ("DRZ", DATA + 1), ("SCI", DATA), ("RMS", 3 * NOISE), ("ERR", NOISE), ("PSF", PSF), ("EPSF", PSF), **CD)
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus[2].header.update(CD)
    cutout = same_lens(read_cutout(tmp_path / "a.fits"), notes=3)
    for word in ("a.fits[SCI] is taken for the image, not", "a.fits[ERR] is taken for the noise map, not", "a.fits[EPSF]"):
        assert any(word in note for note in cutout.notes), word


# ---- the PSF


def test_a_psf_off_by_five_per_cent(tmp_path):
    cutout = same_lens(read_cutout(standard(tmp_path / "a.fits", psf=0.95 * PSF)), notes=1)
    assert "0.95" in cutout.notes[0]
    same_lens(read_cutout(standard(tmp_path / "b.fits", psf=1.005 * PSF)))


@pytest.mark.parametrize("pad", [((0, 1), (0, 1)), ((1, 0), (0, 1)), ((2, 0), (0, 0)), ((4, 0), (0, 2))])
def test_a_psf_off_its_middle_is_centred(tmp_path, pad):
    cutout = read_cutout(standard(tmp_path / "a.fits", psf=np.pad(PSF, pad)))
    middle = tuple(side // 2 for side in cutout.psf.shape)
    assert np.unravel_index(cutout.psf.argmax(), cutout.psf.shape) == middle
    assert np.allclose(cutout.psf[middle[0] - 5:middle[0] + 6, middle[1] - 5:middle[1] + 6], PSF[2:-2, 2:-2], atol=1e-4)


def test_an_even_psf_centred_between_pixels():
    even = np.exp(-((np.indices((16, 16)) - 7.5) ** 2).sum(axis=0) / 18)
    psf, _ = prepare_psf(even / even.sum(), SCALE, SCALE, (64, 64), "psf.fits")
    assert psf.shape == (15, 15) and np.allclose(psf, psf[::-1, ::-1], atol=1e-6) and psf.argmax() == psf.size // 2


@pytest.mark.parametrize("key, value", [("PIXELSCL", 0.0125), ("PIXSCALE", 0.0125), ("OVERSAMP", 4)])
def test_a_finely_sampled_psf(tmp_path, key, value):
    r = np.hypot(*np.mgrid[-40:41, -40:41])
    fine = np.exp(-(r**2) / (2 * 6.0**2))
    fits.writeto(tmp_path / "psf.fits", fine / fine.sum(), fits.Header([(key, value)]))
    cutout = check(read_cutout(standard(tmp_path / "a.fits", psf=None), psf=tmp_path / "psf.fits"), notes=1)
    assert abs(cutout.psf_fwhm / (2.355 * 6 * 0.0125) - 1) < 0.06
    assert cutout.psf.shape == (19, 19) or cutout.psf.shape == (21, 21)


def test_an_even_psf_keeps_its_peak():
    """An Airy pattern two pixels wide, sampled between pixels, against the same sampled on one."""
    def airy(n):
        fine = (np.arange(20 * n) + 0.5) / 20 - n / 2
        r = np.maximum(np.hypot(*np.meshgrid(fine, fine)), 1e-9) * 3.2327 / 2
        return ((2 * special.j1(r) / r) ** 2).reshape(n, 20, n, 20).mean((1, 3))
    psf, notes = prepare_psf(airy(24), SCALE, SCALE, (64, 64), "psf.fits")
    true = airy(23) / airy(23).sum()
    assert abs(psf.max() / true.max() - 1) < 0.01 and np.abs(psf - true).max() < 0.01 * true.max()
    assert len(notes) == 1 and "normalised" in notes[0]
    narrow = np.exp(-((np.indices((16, 16)) - 7.5) ** 2).sum(axis=0) / (2 * 0.5**2))
    assert "between pixels" in prepare_psf(narrow / narrow.sum(), SCALE, SCALE, (64, 64), "psf.fits")[1][0]


def test_a_fine_psf_that_does_not_say_so(tmp_path):
    r = np.hypot(*np.mgrid[-20:21, -20:21])
    fine = np.exp(-(r**2) / (2 * 3.4**2))  # 0.4 arcsec if its pixels were the image's
    hubble = dict(INSTRUME="ACS", FILTER="F814W")
    cutout = check(read_cutout(standard(tmp_path / "a.fits", psf=fine / fine.sum(), **hubble)), notes=1)
    assert "OVERSAMP" in cutout.notes[0] and "0.1" in cutout.notes[0]
    check(read_cutout(standard(tmp_path / "b.fits", **hubble)))
    stated = read_cutout(standard(tmp_path / "c.fits"), psf=fine / fine.sum(), psf_fwhm=0.1)
    assert "OVERSAMP" in stated.notes[0]


def test_resampling_conserves_flux():
    rng = np.random.default_rng(1)
    image = np.pad(rng.random((9, 11)), 6)
    for ratio in (0.5, 1.0, 1.7):
        assert np.isclose(resample(image, (10.3, 10.8), ratio, (65, 65)).sum(), image.sum())
    assert np.allclose(resample(image, (10.0, 11.0), 1.0, (21, 23)), image)


def test_a_psf_larger_than_the_image(tmp_path):
    large = np.exp(-(np.hypot(*np.mgrid[-60:61, -60:61]) ** 2) / 3)
    cutout = check(read_cutout(standard(tmp_path / "a.fits", psf=large / large.sum())))
    assert cutout.psf.shape == (63, 63)


def test_a_few_bad_pixels_of_a_psf(tmp_path):
    dirty = changed(PSF, (0, 0), np.nan)
    dirty[14] -= 2e-4
    assert len(check(read_cutout(standard(tmp_path / "a.fits", psf=dirty)), notes=2).notes) == 2


@pytest.mark.parametrize("cards, options, fwhm", [
    ({}, dict(psf_fwhm=0.13), 0.13), (dict(PSF_FWHM=0.12), {}, 0.12), (dict(FILTER="F814W", INSTRUME="ACS"), {}, 0.1),
    (dict(INSTRUME="WFC3", FILTER="F160W"), {}, 0.15), ({}, dict(band="VIS"), 0.16)])
def test_a_gaussian_stands_in_for_the_psf(tmp_path, cards, options, fwhm):
    cutout = check(read_cutout(standard(tmp_path / "a.fits", psf=None, **cards), **options), notes=1)
    assert f"{fwhm:g}" in cutout.notes[0] and abs(cutout.psf_fwhm / np.hypot(fwhm, 0.6 * SCALE) - 1) < 0.1


def test_a_stated_width_goes_before_the_files_own_psf(lens):
    assert abs(read_cutout(lens, psf_fwhm=0.2).psf_fwhm / 0.2 - 1) < 0.05
    assert "not used" in read_cutout(lens, psf=PSF, psf_fwhm=0.2).notes[0]


# ---- crops


@pytest.mark.parametrize("width, center", [(2.0, (0.0, 0.0)), (2.05, (0.31, -0.44)), (2.5, (1.5, 1.5)), (50.0, (0.0, 0.0))])
def test_a_crop_keeps_the_sky_in_place(lens, width, center):
    whole = read_cutout(lens)
    part = whole.crop(width, center)
    row, column = np.argwhere(np.isclose(whole.data, part.data[0, 0]))[0]
    assert (whole.data[row:row + part.shape[0], column:column + part.shape[1]] == part.data).all()
    assert np.allclose(part.wcs.wcs_pix2world([[0, 0]], 0), whole.wcs.wcs_pix2world([[column, row]], 0))
    middle = SCALE * (np.array([column, row]) + (np.array(part.shape[::-1]) - 1) / 2 - (SIDE - 1) / 2)
    assert np.allclose(part.origin, middle, atol=1e-6)
    assert abs(part.psf.sum() - 1) < 1e-12
    repr(part), part._repr_html_()


def test_the_wcs_can_be_written(lens):
    header = read_cutout(lens, pixel_scale=0.06).crop(2.0).wcs.to_header()
    assert np.allclose(np.abs(WCS(header).wcs.cdelt), 0.06) and header["CUNIT1"] == "arcsec"


# ---- the sky itself


def real(folder, pixel_scale, **options):
    """A lens of the shared data; its mask has 1 where neighbours are to be excluded, as `mask` wants it."""
    names = {"noise_map": "noise_map", "psf": "psf", "mask": "mask_extra_galaxies"}
    files = {key: folder / f"{name}.fits.gz" for key, name in names.items()} | options
    return read_cutout(folder / "data.fits.gz", pixel_scale=pixel_scale, **files)


def test_slacs0946(shared_data):
    folder = shared_data / "lenses" / "slacs0946+1006"
    cutout = real(folder, 0.05)
    assert cutout.shape == (281, 281) and cutout.psf.shape == (21, 21)
    assert (cutout.noise == fits.getdata(folder / "noise_map.fits.gz")).all()  # kept: drizzled, not wrong
    assert 0.1 < cutout.mask.mean() < 0.15 and not cutout.mask[130:150, 130:150].any()
    assert len(cutout.notes) == 2 and "kept" in cutout.notes[0] and "0.9564" in cutout.notes[1]
    assert "pixel_scale=" in refused(folder / "data.fits.gz")


def test_cosmos_web_ring(shared_data):
    cutout = real(shared_data / "lenses" / "cosmos_web_ring_F277W", 0.06)
    blank = ~cutout.mask & (np.abs(cutout.data) < 0.02)
    assert 0.0048 < np.median(cutout.noise[blank]) < 0.0065
    assert 0.008 < np.median(cutout.noise[cutout.data > 0.1]) < 0.02  # photon noise below the floor, from the map itself
    assert "contradicted" in cutout.notes[0] and "0.02" in cutout.notes[0] and "0.005" in cutout.notes[0]


def test_the_real_masks_exclude_where_they_are_one(shared_data):
    for name, scale in (("slacs0946+1006", 0.05), ("cosmos_web_ring_F277W", 0.06)):
        folder = shared_data / "lenses" / name
        mask = fits.getdata(folder / "mask_extra_galaxies.fits.gz").astype(bool)
        assert "means the opposite" in refused(folder / "data.fits.gz", noise_map=folder / "noise_map.fits.gz",
                                               psf=folder / "psf.fits.gz", mask=~mask, pixel_scale=scale)
