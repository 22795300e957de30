"""Beta and the loss of a run: what the user says, what the log states, and what its numbers imply."""

from didsim.diagnostics.findings import Finding, Grade
from didsim.diagnostics.logs.evidence import Evidence
from didsim.diagnostics.logs.log import TrainingLog
from didsim.diagnostics.logs.movement import implied_beta
from didsim.diagnostics.wording import short


def evidence_of(log: TrainingLog, beta: float | None, loss_type: str | None) -> Evidence:
    """A log with beta and its loss: as they were given, or else as the log itself tells them."""
    losses = log.stated.losses
    if loss_type is None and (len(losses) == 1 or (losses and log.runs > 1)):
        loss_type = losses[-1]
    if beta is not None:
        return Evidence(log, beta, "given", loss_type)
    betas = betas_of(log)
    if betas and (len(betas) == 1 or log.runs > 1) and betas[-1] > 0:
        return Evidence(log, betas[-1], "stated in the log", loss_type)
    found = implied_beta(log)
    source = "" if found is None else "read off the log, where rewards change by this much per nat"
    return Evidence(log, found, source, loss_type)


def betas_of(log: TrainingLog) -> tuple[float, ...]:
    """The values of beta that the log names, in its text or in a column that does not change."""
    column = log.train.columns.get("beta")
    is_one = column is not None and len(set(column.tolist())) == 1
    logged = (float(column[0]),) if column is not None and is_one else ()
    return tuple(dict.fromkeys([*logged, *log.stated.betas]))


def contradicted(evidence: Evidence) -> Finding | None:
    """Settings that the log states, and that contradict one another or what the user said."""
    log, told, advice = evidence.log, [], []
    betas, losses = betas_of(log), log.stated.losses
    beta, is_given = evidence.beta, evidence.beta_source == "given"
    if beta is not None and is_given and any(abs(one / beta - 1) > 1e-3 for one in betas):
        stated = _listed([short(one) for one in betas])
        told.append(f"beta {short(beta)} was given and is used, and the log states {stated}")
        advice.append("Check which beta the run had.")
    elif len(betas) > 1 and log.runs == 1 and not is_given:
        used = "none of them is used" if beta is None else f"{short(beta)} is used, {evidence.beta_source}"
        told.append(f"the log states beta {_listed([short(one) for one in betas])}, and {used}")
        advice.append("Give the run's with --beta.")
    if losses and evidence.loss_type is not None and evidence.loss_type not in losses:
        told.append(f"loss {evidence.loss_type} was given and is used, and the log states {_listed(losses)}")
        advice.append("Check which loss the run had.")
    elif len(losses) > 1 and log.runs == 1 and evidence.loss_type is None:
        told.append(f"the log states the losses {_listed(losses)}, and none of them is used")
        advice.append("Give the run's with --loss-type.")
    if not told:
        return None
    sentence = "; ".join(told)
    return Finding(
        name="settings_contradict",
        grade=Grade.LOOK,
        sentence=f"Settings contradict one another: {sentence}.",
        reason="Nats are rewards over beta, and the checks of the loss hold for sigmoid DPO alone. With a "
        "wrong setting both are wrong.",
        advice=" ".join(advice),
    )


def _listed(words: list[str] | tuple[str, ...]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
