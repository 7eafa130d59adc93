"""A corpus file in the three-line form, and its checksum as the catalogue pins it."""

import hashlib

TEXT = b">1abc_A\nMKV\nLHX\n>2xyz_B\nAC\nEE\n"


def blob_id(data: bytes) -> str:
    """The checksum of `git hash-object`."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
