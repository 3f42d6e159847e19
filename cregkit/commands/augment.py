"""``cregkit augment``: a contact sheet of augmented samples of an image."""

from __future__ import annotations

import argparse
import os

from cregkit._files import check_writable
from cregkit.commands.arguments import CommandError, count, seed
from cregkit.commands.console import Console, can_draw
from cregkit.lab import sheet

DESCRIPTION = """\
Write a contact sheet: the image, and augmented samples by crop, flips, rotation, colour jitter, cutout, noise, and all
of them in sequence. The same seed gives the same sheet. The EXIF orientation of a photo is applied. Needs matplotlib.

examples:
  cregkit augment cat.png --out sheet.png
  cregkit augment cat.png --out sheet.png --samples 10 --seed 7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the image, the sheet to write, the number of samples and the seed."""
    parser.add_argument("image", metavar="IMAGE", help="a PNG, a JPEG, or any other file that Pillow reads")
    parser.add_argument("--out", metavar="FILE", required=True, help="write the contact sheet as PNG to FILE")
    parser.add_argument("--samples", type=count, default=6, metavar="N", help="samples per transform (default: 6)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="0 to 2**64 - 1 (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Write the contact sheet and print its path.

    Parameters
    ----------
    options
        Parsed options.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    CommandError
        matplotlib is not installed, or the file is not a readable image.
    OSError
        A file cannot be read or written.
    """
    if not can_draw():
        raise CommandError("pictures need matplotlib: pip install 'cregkit[augment]'")
    try:
        image = sheet.read(options.image)
    except sheet.SheetError as error:
        raise CommandError(str(error)) from error
    check_writable(options.out)
    rows = sheet.transforms(*image.shape[1:])
    sheet.write(options.out, image, rows, options.samples, options.seed)
    Console().line(
        f"written {os.path.abspath(options.out)}: {len(rows)} transforms, {options.samples} samples each, "
        f"seed {options.seed}"
    )
    return 0
