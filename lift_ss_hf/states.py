"""The secondary structure states; the code is in `models/states.py`, since it travels with a model to the Hub."""

from .models.states import *  # noqa: F403
