"""The code space in numbers, one statistic a file: arrays and callables in, a labelled data set out.

Codes are compared up to affine maps: they are whitened by the pair's own training codes. The function
`code_space` computes all statistics of one fitted pair; the other files depend on no model.
"""

from pyrovae.evaluation.code_space.codes import decoded, encoded
from pyrovae.evaluation.code_space.survey import code_space

__all__ = ["code_space", "decoded", "encoded"]
