"""The command `lift-ss convert-backbone`."""

from __future__ import annotations

import argparse

ABOUT = "convert a backbone that is a pickle to safetensors, once"
HELP = """\
Some backbones are on the Hub only as pickles, ProtT5 among them. A pickle can run any code when it is read, so none is
read in training or prediction. This command downloads it, reads nothing but its numbers (with torch 2.10 or later), and
keeps the encoder's as safetensors, below HF_HOME; from then on the backbone loads under its name, and the pickle is not
needed any more. Where the Hub has a converted copy beside the same pickle, that is taken instead. With -o it always
writes a folder, even for a backbone that has safetensors. Models trained on it record the backbone's name on the Hub:
they find the folder where it was used, and elsewhere load the backbone by that name.

  lift-ss convert-backbone Rostlab/prot_t5_xl_half_uniref50-enc        # downloads 2.4 GB, writes 2.4 GB
  lift-ss convert-backbone Rostlab/prot_t5_xl_half_uniref50-enc -o DIR  # for a machine without network: --backbone DIR
"""


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss convert-backbone`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = HELP
    parser.add_argument("name", metavar="NAME", help="Hub id or folder of the backbone")
    parser.add_argument("--revision", help="commit, tag or branch on the Hub (default: main)")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="write a new folder with the tokenizer instead, to use as --backbone DIR"
    )


def convert(args: argparse.Namespace) -> None:
    """Run `lift-ss convert-backbone`.

    Raises:
        ValueError: if there is no such backbone, or it cannot be converted.
    """
    from ..models.conversion import convert_backbone

    place = convert_backbone(args.name, args.revision, args.output)
    if args.output is not None:
        print(f"Written. Use it as --backbone {place}.")
    elif place is None:
        print(f"{args.name} has safetensors: there is nothing to convert.")
    else:
        print(f"{args.name} can be used as a backbone now. Its weights are in {place}.")
