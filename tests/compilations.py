"""How often JAX compiles."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[str]]:
    """A list that grows with every program that is compiled."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "compile" in event and "cache" not in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
