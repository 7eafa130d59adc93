"""Secondary structure scores as an evaluate module: a thin shell over scoring.py, which lies beside it.

evaluate copies the files named in `from .x import y` below, one module a line and without a comment behind it, and
does not look into them: so every file that scoring.py needs is named here too.
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
precision, F1, MCC and SOV'99 of every state, and the confusion matrix. Levels: {", ".join(ALPHABETS)}.
"""

_INPUTS_DESCRIPTION = f"""
Args:
    predictions: one string of states a chain, or one list of integer labels.
    references: the same chains in the same order; X (or -100) where a residue is unresolved.
    states: the level to score at, one of {", ".join(ALPHABETS)}; the configuration's name if None, else q9.
    mode: 'compatible' (LIFT_SS, published figures) or 'masked' (unresolved residues cut out of both); None means
        '{default_mode(True)}' for strings and '{default_mode(False)}' for labels.
    source: the alphabet of integer labels; `states` itself if None.
    per_chain: add the scores of every chain.
    bootstrap: add {CONFIDENCE:.0%} intervals of {", ".join(RATIOS)} from so many resamples of the chains.
    seed: of the resampling.
Returns:
    a flat dictionary, all scores as fractions: the accuracy under the name of the level, sov99, sov_refine, sov_mode,
    macro_f1, macro_f1_predicted, recall_H, precision_H, f1_H, mcc_H, sov99_H (and so on for every state),
    confusion_matrix, states, letters, num_chains, num_residues. What is not defined is None.
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
    """Secondary structure scores; the configuration's name is the level."""

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
        """Add chains; evaluate 0.4 answers a batch without any with an IndexError."""
        if predictions is not None and references is not None and not (len(predictions) and len(references)):
            score(references, predictions)  # says what is wrong
        super().add_batch(predictions=predictions, references=references, **inputs)

    def _compute(self, predictions, references, states=None, **options):
        level = "q9" if self.config_name == "default" else self.config_name
        return score(references, predictions, states or level, **options)
