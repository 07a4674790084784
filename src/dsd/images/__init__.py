"""Pictures in and out: any file a person may give becomes plain RGB, tensors become pictures again."""

from dsd.images.fitting import FITS, Fit, fit
from dsd.images.inline import data_url
from dsd.images.reading import FORMATS, MAX_PIXELS, ImageSource, load_image
from dsd.images.sheet import contact_sheet
from dsd.images.tensors import to_pil, to_tensor
from dsd.images.writing import encode, encode_png

__all__ = [
    "FITS",
    "FORMATS",
    "MAX_PIXELS",
    "Fit",
    "ImageSource",
    "contact_sheet",
    "data_url",
    "encode",
    "encode_png",
    "fit",
    "load_image",
    "to_pil",
    "to_tensor",
]
