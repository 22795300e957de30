"""The explorer: a page in the browser on which the theory moves, `didsim explore`.

One page is the live application, the static export and, as far as its bars go, a widget for notebooks. The
static files in `static/` need no build step. All numbers come from the library, by way of `answers`. There is
one exception, the closed form of DPO's limit, which has to follow a finger. It is in `static/bars.js`, and a
test compares it with the library.

state      what the page shows, as one struct that a link can hold
presets    states that teach something, each with a sentence that changes with the numbers
problems   the distributions, pairs and objectives of a state
limits     where the objective of a state ends, and what it learns of the data
held_out   what pairs that no training saw say of a policy
trained    training, step by step
sequences  the second tab: a space of token sequences
dropped    a training log that a user drops on the page
program    a state as a Python program
answers    the questions that the page asks, by name
server     the page and the answers, over HTTP
serve      the command: port, browser, end
export     the page as static files
bars       the bars as a widget for notebooks

`Bars` needs anywidget and the server needs Starlette and uvicorn, all from the extra `explorer`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"bars": ["Bars"]})
