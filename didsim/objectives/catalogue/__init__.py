"""The catalogue of objectives: the losses of preference optimisation that are in use, as sums of terms.

Each objective is built from implicit rewards (`didsim.objectives.rewards`), kernels
(`didsim.objectives.kernels`) and the terms that join them (`didsim.objectives.terms`), so that its code reads
like its formula. Defaults are those of the papers. For an objective of your own, combine other parts, or
write another `Reward` or `Kernel`.

In formulas, `y_w` is the chosen and `y_l` the rejected sequence. `t(y) = log(π(y)/ref(y))` is the log-ratio
and `h = beta · t` the implicit reward. `d = h(y_w) − h(y_l)` is the difference of implicit rewards.
Log-probabilities are sums over tokens unless they are divided by `|y|`.

    log_ratios          DPO, and other losses of the same difference
    without_reference   rewards that are log-probabilities
    single_sequences    losses of each sequence by itself
    regularisers        other divergences in place of the KL divergence
    chosen_likelihood   variants of DPO that keep the likelihood of chosen sequences from falling
    lengths             variants of DPO that depend on the tokens of a sequence
    transport           losses of sorted rewards, over all pairs at once
    expected_rewards    the reward that a policy expects, which are no losses of pairs

Parameters are arrays, so new values compile nothing. `jax.vmap(didsim.dpo)(betas)` is a batch of objectives.
"""

from collections.abc import Callable

from didsim._registry import Registry
from didsim.objectives.catalogue.chosen_likelihood import bdpo, dpo_pg, dpo_shift, dpop
from didsim.objectives.catalogue.expected_rewards import policy_gradient as policy_gradient
from didsim.objectives.catalogue.expected_rewards import ppo as ppo
from didsim.objectives.catalogue.lengths import ld_dpo, length_normalised_dpo, rdpo, wpo
from didsim.objectives.catalogue.log_ratios import (
    cdpo,
    discopop,
    dpo,
    dpo_rao_kupper,
    exo,
    exponential,
    ipo,
    robust,
    slic,
)
from didsim.objectives.catalogue.log_ratios import inpo as inpo
from didsim.objectives.catalogue.regularisers import (
    chi_po,
    fdpo_alpha,
    fdpo_forward_kl,
    fdpo_js,
    h_dpo,
)
from didsim.objectives.catalogue.regularisers import kl_to_reference as kl_to_reference
from didsim.objectives.catalogue.single_sequences import apo_down, apo_zero, bco, kto, nca, npo, sppo
from didsim.objectives.catalogue.transport import aot, aot_unpaired
from didsim.objectives.catalogue.without_reference import alphapo, cpo, orpo, reference_free, sft, simpo
from didsim.objectives.objective import Objective

OBJECTIVES: Registry[Callable[..., Objective]] = Registry(
    "objective",
    {
        "dpo": dpo,
        "cdpo": cdpo,
        "robust": robust,
        "ipo": ipo,
        "slic": slic,
        "simpo": simpo,
        "orpo": orpo,
        "cpo": cpo,
        "exo": exo,
        "nca": nca,
        "bco": bco,
        "sppo": sppo,
        "apo_zero": apo_zero,
        "apo_down": apo_down,
        "discopop": discopop,
        "kto": kto,
        "dpop": dpop,
        "rdpo": rdpo,
        "length_normalised_dpo": length_normalised_dpo,
        "fdpo_forward_kl": fdpo_forward_kl,
        "fdpo_js": fdpo_js,
        "fdpo_alpha": fdpo_alpha,
        "sft": sft,
        "exponential": exponential,
        "reference_free": reference_free,
        "dpo_pg": dpo_pg,
        "alphapo": alphapo,
        "aot": aot,
        "aot_unpaired": aot_unpaired,
        "bdpo": bdpo,
        "chi_po": chi_po,
        "dpo_rao_kupper": dpo_rao_kupper,
        "dpo_shift": dpo_shift,
        "h_dpo": h_dpo,
        "ld_dpo": ld_dpo,
        "npo": npo,
        "wpo": wpo,
    },
)
"""Objectives by name. An entry of your own is one line, `OBJECTIVES["mine"] = mine`."""
