"""The way to and from the Hub: pushing models and metrics, and registration with transformers' Auto classes.

May import `reports` and the rooms below it; `registration` alone is imported with the package, so it imports nothing heavy.
"""
