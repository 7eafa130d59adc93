"""The columns of a corpus, as `datasets` features."""

from __future__ import annotations

from datasets import Features, Sequence, Value

BASE_FEATURES = {
    "id": Value("string"),
    "sequence": Value("string"),
    "states": Value("string"),
    "num_residues": Value("int32"),
}
PDB_FEATURES = {"pdb_id": Value("string"), "pdb_chain": Value("string")}
# Columns that a source format has beside the base columns.
FORM_FEATURES = {
    "three_line": PDB_FEATURES,
    "cu_ssp_csv": {},
    "ps4_csv": {
        "chain": Value("string"),
        "chain_states": Value("string"),
        "resolved_mask": Sequence(Value("bool")),
        "domain_mask": Sequence(Value("bool")),
    },
}


def corpus_features(form: str) -> Features:
    """Return the columns of a corpus that was read from a format, a key of `FORM_FEATURES`."""
    return Features({**BASE_FEATURES, **FORM_FEATURES[form]})
