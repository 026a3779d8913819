"""The code space in numbers, one statistic a file: arrays and callables in, a labelled data set out.

Codes are compared up to affine change: whitened by the pair's own training codes. `code_space`
takes all of them of one fitted pair; the other files know no model.
"""

from pyrovae.evaluation.code_space.codes import decoded, encoded
from pyrovae.evaluation.code_space.survey import code_space

__all__ = ["code_space", "decoded", "encoded"]
