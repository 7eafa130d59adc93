# The public names of the package, and where they come from. lazy_loader reads this file; so do type checkers.
from .corpora import load_corpus as load_corpus
from .hub.registration import register_family as register_family
from .metrics import load_q8_sov as load_q8_sov
from .metrics.scoring import compare as compare
from .metrics.scoring import score as score
from .metrics.trainer_metrics import compute_metrics as compute_metrics
from .models.bert import BertForSecondaryStructure as BertForSecondaryStructure
from .models.esm import EsmForSecondaryStructure as EsmForSecondaryStructure
from .models.families import bundled_model as bundled_model
from .models.modeling import SecondaryStructureModel as SecondaryStructureModel
from .models.t5 import T5ForSecondaryStructure as T5ForSecondaryStructure
from .models.tokenization import ResidueTokenizer as ResidueTokenizer
from .prediction.ensemble import Ensemble as Ensemble

__version__: str
