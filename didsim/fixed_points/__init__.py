"""Where an objective converges, exactly, with a certificate.

solve           the calls: which way of solving fits an objective and a problem
path            the calls for all values of a parameter
sensitivity     derivatives of a solution
implicit        the implicit function theorem, which gives these
certificate     what is known of a solution
task            a batch of problems to solve
closed_forms    limits that a formula gives
on_rewards      the search over implicit rewards
on_logits       the search over the logits of all sequences
on_parameters   the search over the parameters of a policy
hinge           the linear program of the hinge
newton          the minimiser that the searches use
hessians        what it asks of a Hessian
dense           a Hessian as a matrix
arrow           the Hessian of losses of single sequences, in O(N)
roots           how it ends where the loss moves with the policy
newton_cg       the same for many numbers, without a matrix
conjugate_gradients
                its steps
lbfgs           the minimiser for many numbers, if their curvature is not known or there are corners
blas            the threads that decompositions of matrices may take
compiling       how the programs are compiled
smoothing       objectives with rounded corners
win_graph       which sequences the pairs compare
separable       where descent ends if these identify no minimiser
"""

from didsim.fixed_points.certificate import Certificate, Given, Method, NoMinimiserError, Solution, Verdict
from didsim.fixed_points.path import SolutionPath, solve_path
from didsim.fixed_points.sensitivity import Sensitivity, sensitivity
from didsim.fixed_points.solve import fixed_point, solve

__all__ = [
    "Certificate",
    "Given",
    "Method",
    "NoMinimiserError",
    "Sensitivity",
    "Solution",
    "SolutionPath",
    "Verdict",
    "fixed_point",
    "sensitivity",
    "solve",
    "solve_path",
]
