"""The PSSP corpora: where they come from, how they are read, and which may train for which."""
