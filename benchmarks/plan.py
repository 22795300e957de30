"""What is measured, in full and in short."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes and budgets of a run.

    Attributes:
        budget: seconds for each group of measurements that are compared.
        sizes: numbers of sequences N for times of a loss and its gradient.
        range_size: N for times over the half-range.
        half_ranges: A, of the implicit rewards.
        errors: (N, A, dtype) of the cases whose errors are measured.
        peaks: (method, N, dtype) of the processes whose memory is measured.
        training_sizes: numbers of sequences of trained policies.
        runs: numbers of runs.
        double: (N, runs) of a batch in float64.
        recordings: (N, runs) of batches that record metrics.
        solves: (problem, objective, N, dtype) of the minimisers that are timed.
        diagnoses: ("log" or "pairs", rows) of the diagnoses that are timed.
        processes: how many fresh processes a minimiser of at most 10⁴ sequences is timed in, and how many
            the time to a first result is the median of.
    """

    budget: float
    sizes: tuple[int, ...]
    range_size: int
    half_ranges: tuple[float, ...]
    errors: tuple[tuple[int, float, str], ...]
    peaks: tuple[tuple[str, int, str], ...]
    training_sizes: tuple[int, ...]
    runs: tuple[int, ...]
    double: tuple[int, int]
    recordings: tuple[tuple[int, int], ...]
    solves: tuple[tuple[str, str, int, str], ...]
    diagnoses: tuple[tuple[str, int], ...]
    processes: int


FULL = Plan(
    budget=2.0,
    sizes=tuple(10**power for power in range(2, 8)),
    range_size=10**6,
    half_ranges=(1.0, 10.0, 40.0),
    errors=(
        *((size, half_range, "float64") for size in (1000, 10**4) for half_range in (1.0, 10.0, 40.0)),
        (10**4, 1.0, "float32"),
        (10**4, 10.0, "float32"),
        (10**4, 40.0, "float32"),
        (10**5, 1.0, "float64"),
        (2000, 1400.0, "float64"),
    ),
    peaks=tuple(
        (method, size, dtype)
        for size in (10**4, 10**6, 10**7)
        for method, dtype in (
            ("arrays", "float64"),
            ("floor", "float64"),
            ("engine", "float64"),
            ("engine", "float32"),
            *((("exact", "float64"), ("dense", "float64")) if size == 10**4 else ()),
        )
    ),
    training_sizes=(20, 256, 1000, 4096),
    runs=(1, 32, 256),
    double=(256, 32),
    recordings=((256, 32), (1000, 32)),
    solves=(
        *(
            ("contrastive", name, 256, dtype)
            for name in ("simpo", "cdpo", "cpo", "nca", "orpo", "kto", "exo", "bco", "discopop")
            for dtype in ("float64", "float32")
        ),
        ("batch", "cdpo", 64, "float64"),
        *(
            ("contrastive", name, size, "float64")
            for size in (4096, 10**5, 10**6)
            for name in ("cdpo", "cpo")
        ),
        ("contrastive", "kto", 4096, "float64"),
        ("contrastive", "kto", 10**5, "float64"),
        ("pairs", "dpo", 5000, "float64"),
    ),
    diagnoses=(("log", 10**5), ("pairs", 10**6), ("pairs", 10**7)),
    processes=3,
)

QUICK = Plan(
    budget=0.1,
    sizes=(100, 200),
    range_size=200,
    half_ranges=(10.0,),
    errors=((200, 1.0, "float64"),),
    peaks=(("arrays", 200, "float64"), ("engine", 200, "float64")),
    training_sizes=(20,),
    runs=(1, 4),
    double=(20, 1),
    recordings=((20, 4),),
    solves=(("contrastive", "cdpo", 20, "float64"),),
    diagnoses=(("log", 100), ("pairs", 400)),
    processes=1,
)
