"""Command lines: `lift-ss`, and how every command reports errors and exits.

May import all other rooms. Modules that need numpy or torch are imported inside the commands, so that `lift-ss --help`
is fast.
"""
