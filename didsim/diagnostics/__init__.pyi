from .pairs import PairsDiagnosis as PairsDiagnosis
from .pairs import diagnose_pairs as diagnose_pairs
from .sample_table import SamplesDiagnosis as SamplesDiagnosis
from .sample_table import compare_with_expected_fall as compare_with_expected_fall
from .sample_table import diagnose_samples as diagnose_samples
from .samples import DidEntropyEstimate as DidEntropyEstimate
from .samples import estimate_did_entropy as estimate_did_entropy
