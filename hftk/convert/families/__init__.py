"""The families that hftk converts, a table each."""

from hftk.convert.families.bart import BART
from hftk.convert.families.bert import BERT
from hftk.convert.families.marian import MARIAN
from hftk.convert.families.t5 import T5

FAMILIES = {family.model_type: family for family in (BERT, BART, MARIAN, T5)}
