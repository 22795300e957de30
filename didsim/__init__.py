"""What preference optimisation teaches a policy, computed exactly on tabular policies.

Names are imported when they are first used, so that the command line answers `--help` without JAX. The list
of names is `__init__.pyi`.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
