"""Secondary structure scores as a module of the evaluate library: a thin wrapper around the `scoring.py` beside it.

`evaluate.load` copies the files named in the `from .x import y` lines below and does not look into them. So every file
that scoring.py needs is named here too, one module per line, without a comment at the end of the line.
"""

import datasets
import evaluate

from .scored_chains import default_mode
from .scoring import score
from .segments import RATIOS
from .significance import CONFIDENCE
from .states import ALPHABETS, get_alphabet

_DESCRIPTION = f"""\
Protein secondary structure prediction: accuracy (Q9, Q8, Q3), SOV'99 and SOV_refine pooled over chains, recall, \
precision, F1, MCC and SOV'99 of every state, and the confusion matrix. Alphabets: {", ".join(ALPHABETS)}.
"""

_INPUTS_DESCRIPTION = f"""
Args:
    predictions: one string of states, or one list of integer labels, per chain.
    references: the same chains in the same order; X (or -100) where a residue is unresolved.
    states: the alphabet to score at, one of {", ".join(ALPHABETS)}; None means the configuration's name, or else q9.
    mode: 'compatible' (as in LIFT_SS and published results) or 'masked' (unresolved residues are removed from both);
        None means '{default_mode(True)}' for strings and '{default_mode(False)}' for labels.
    source: the alphabet of integer labels; None means `states`.
    per_chain: add the scores of every chain.
    bootstrap: resamples of the chains for {CONFIDENCE:.0%} intervals of {", ".join(RATIOS)}; 0 for none.
    seed: seed of the resampling.
Returns:
    A flat dictionary with all scores as fractions: the accuracy under the name of the alphabet, sov99, sov_refine,
    sov_mode, macro_f1, macro_f1_predicted, recall_H, precision_H, f1_H, mcc_H, sov99_H (and so on for every state),
    confusion_matrix, states, letters, num_chains, num_residues. Undefined values are None.
Examples:
    >>> metric = evaluate.load("lift_ss_hf/metrics/q8_sov")
    >>> metric.compute(references=["HHHHHH"], predictions=["HHHLHH"], states="q3")["sov99"]
    0.5833333333333334
"""

_CITATION = """\
@article{yang2023lift,
  title = {Lightweight Fine-tuning a Pretrained Protein Language Model for Protein Secondary Structure Prediction},
  author = {Yang, Wei and Liu, Chang and Li, Zhenhua and Zhang, Lei},
  journal = {bioRxiv},
  year = {2023},
  doi = {10.1101/2023.03.22.530066}
}
@article{zemla1999modified,
  title = {A modified definition of Sov, a segment-based measure for protein secondary structure prediction assessment},
  author = {Zemla, Adam and Venclovas, Ceslovas and Fidelis, Krzysztof and Rost, Burkhard},
  journal = {Proteins},
  volume = {34},
  pages = {220--223},
  year = {1999}
}
@article{liu2018sov_refine,
  title = {SOV_refine: A further refined definition of segment overlap score and its significance for protein structure
           similarity},
  author = {Liu, Tong and Wang, Zheng},
  journal = {Source Code for Biology and Medicine},
  volume = {13},
  number = {1},
  year = {2018}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class Q8Sov(evaluate.Metric):
    """Secondary structure scores; the name of the configuration is the alphabet to score at."""

    def _info(self):
        if self.config_name != "default":
            get_alphabet(self.config_name)
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": chain, "references": chain})
                for chain in (datasets.Value("string"), datasets.Sequence(datasets.Value("int64")))
            ],
        )

    def add_batch(self, *, predictions=None, references=None, **inputs):
        """Add chains. Refuses an empty batch, for which evaluate 0.4 raises an IndexError."""
        if predictions is not None and references is not None and not (len(predictions) and len(references)):
            score(references=references, predictions=predictions)  # raises the message
        super().add_batch(predictions=predictions, references=references, **inputs)

    def _compute(self, predictions, references, states=None, **options):
        default = "q9" if self.config_name == "default" else self.config_name
        return score(references=references, predictions=predictions, states=states or default, **options)
