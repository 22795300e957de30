"""What several test files of this folder share."""

import jax
import numpy as np
from hypothesis import strategies as st

KEY = jax.random.key(0)
EPS32 = float(np.finfo(np.float32).eps)
P = np.log([0.5, 0.3, 0.2])
Q = np.log([0.1, 0.3, 0.6])
few_sizes = st.sampled_from((1, 3, 8))


SCORES = st.sampled_from((0.0, 1.0, 2.0, -3.5))
