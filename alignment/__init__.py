"""Continuous alignment: from flagged production logs to a safer release, every night.

Stage packages do not import one another; they exchange the frozen records of `alignment.records`.
Importing this package loads no model library.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("continuous-alignment")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
