"""Everything that travels with a model to the Hub: states, tokenizer, backbones, adapters, heads, models.

Each module imports only its siblings (`from .x import ...`), because transformers copies a model's code by those lines.
"""
