"""Tune protein language models for secondary structure prediction with the stock Hugging Face Trainer."""

from .version import __version__ as __version__
