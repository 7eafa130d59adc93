"""From sequences to states at scale: inputs, packed prediction, output formats, runs that survive a kill.

May import `reports` and the rooms below it. Nothing is imported here, so that `lift-ss --help` stays fast.
"""
