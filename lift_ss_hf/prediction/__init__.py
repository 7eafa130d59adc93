"""From proteins to states: inputs of any form and size, packed prediction, outputs, runs that can be killed.

Nothing is imported here, so that `lift-ss --help` costs nothing.
"""
