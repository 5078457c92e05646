"""Images: where stimuli come from. One small interface over arrays, folders and HDF5 files."""

from neuroattn.images.base import ImageArray, Images, ImageSubset, JoinedImages, NamedStimuli
from neuroattn.images.files import SUFFIXES, ImageFiles, ImageFolder
from neuroattn.images.hdf5 import ImageHDF5
from neuroattn.images.pixels import resize, to_float

__all__ = [
    "SUFFIXES",
    "ImageArray",
    "ImageFiles",
    "ImageFolder",
    "ImageHDF5",
    "ImageSubset",
    "Images",
    "JoinedImages",
    "NamedStimuli",
    "resize",
    "to_float",
]
