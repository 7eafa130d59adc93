"""Command lines: `lift-ss`, and how every command reports errors and exits.

May import every other room. Heavy imports happen inside the commands, so that `lift-ss --help` stays fast.
"""
