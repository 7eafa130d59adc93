"""The way to and from the Hub: pushing models and metrics, and registration with transformers' Auto classes.

May import `reports` and the rooms below it. `registration` comes with the package, so it imports nothing heavy.
"""
