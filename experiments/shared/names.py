"""Readable names of objectives, as their papers write them."""

_NAMES = {
    "dpo": "DPO",
    "cdpo": "conservative DPO",
    "robust": "robust DPO",
    "ipo": "IPO",
    "slic": "SLiC (hinge)",
    "simpo": "SimPO",
    "orpo": "ORPO",
    "cpo": "CPO",
    "exo": "EXO",
    "nca": "NCA",
    "bco": "BCO",
    "sppo": "SPPO",
    "apo_zero": "APO-zero",
    "apo_down": "APO-down",
    "discopop": "DiscoPOP",
    "kto": "KTO",
    "dpop": "DPO-positive",
    "rdpo": "R-DPO",
    "length_normalised_dpo": "per-token DPO",
    "fdpo_forward_kl": "f-DPO, forward KL",
    "fdpo_js": "f-DPO, JS",
    "fdpo_alpha": "f-DPO, alpha",
    "sft": "SFT",
    "exponential": "exponential loss",
    "reference_free": "reference-free DPO",
    "dpo_pg": "DPO-PG",
    "alphapo": "AlphaPO",
    "aot": "AOT",
    "aot_unpaired": "AOT, unpaired",
    "bdpo": "bounded DPO",
    "chi_po": "χPO",
    "dpo_rao_kupper": "DPO with ties",
    "dpo_shift": "DPO-Shift",
    "h_dpo": "H-DPO",
    "ld_dpo": "LD-DPO",
    "npo": "NPO",
    "wpo": "WPO",
    "dpo + sft": "DPO + SFT",
}


def readable(name: str) -> str:
    """The name of an objective in a picture; the name in `OBJECTIVES` for one that a user has added."""
    return _NAMES.get(name, name)
