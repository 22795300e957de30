"""Running experiments: several side by side, and none that is finished already."""

import hashlib
import importlib
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import msgspec
import xarray as xr

import didsim
from didsim._files import written_whole
from didsim._imports import import_files
from didsim._versions import versions
from experiments.shared import results
from experiments.shared.findings import Finding

_CODE = Path(didsim.__file__).parent
_SHARED = Path(__file__).parent


class Job(msgspec.Struct, frozen=True):
    """An experiment to run.

    Attributes:
        name: its name.
        config: its settings.
        command: the command that runs it alone.
        imports: Python files that were run first.
        out: the folder of its files.
        from_data: whether the picture is drawn from the data that is in the folder.
    """

    name: str
    config: Any
    command: str
    imports: tuple[Path, ...]
    out: Path
    from_data: bool = False


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a finished experiment leaves beside its files: `NAME.done`, the SHA-256 of its JSON and the JSON.

    Attributes:
        fingerprint: of all that its numbers depend on.
        finding: what it found.
        files: the SHA-256 of each of its files, by name.
    """

    fingerprint: str
    finding: Finding
    files: dict[str, str]


def load(name: str) -> ModuleType:
    """The module of an experiment."""
    return importlib.import_module(f"experiments.{name}")


def fingerprint(job: Job) -> str:
    """A hash of the code of the library and of the experiment, of its settings and of all versions."""
    own = Path(load(job.name).__file__ or "")
    code = [*sorted(_CODE.rglob("*.py")), *sorted(_SHARED.glob("*.py")), own, *job.imports]
    parts: list[bytes] = [path.read_bytes() for path in code]
    parts += [job.command.encode(), msgspec.json.encode(job.config), str(job.from_data).encode()]
    parts += [json.dumps(versions(results.PACKAGES)).encode()]
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def finished(job: Job) -> Finding | None:
    """What an experiment found, if it has run with this code and these settings, and its files are whole."""
    try:
        own, text = _record(job).read_bytes().split(b"\n", 1)
        done = msgspec.json.decode(text, type=Done)
        whole = own.decode() == _digest(text)
        whole &= all(_digest((job.out / file).read_bytes()) == digest for file, digest in done.files.items())
    except (OSError, ValueError):
        return None
    return done.finding if whole and done.fingerprint == fingerprint(job) else None


def run(job: Job, progress: bool) -> Finding:
    """Run an experiment and write its files.

    Raises:
        FloatingPointError: a run diverged.
        OSError: a file cannot be written.
    """
    began = time.perf_counter()
    module = load(job.name)
    _record(job).unlink(missing_ok=True)
    try:
        if job.from_data:
            dataset = xr.load_dataset(job.out / f"{job.name}.nc")
        else:
            found = module.run(job.config, progress=progress)
            dataset = results.label(found, job.name, job.config, job.command)
    except FloatingPointError as error:
        raise FloatingPointError(f"{job.name}: {error}") from error
    figures = {job.name: module.plot(dataset), **_further(module, "more_plots", dataset)}
    paths = results.save(dataset, figures, _further(module, "tables", dataset), job.name, job.out)
    finding = Finding(
        title=(module.__doc__ or job.name).splitlines()[0],
        finding=module.finding(dataset),
        command=dataset.attrs["command"],
        # A run that was resumed, or is drawn from its data, tells its time itself.
        seconds=int(dataset.attrs.get("seconds", round(time.perf_counter() - began))),
        pictures=tuple(f"{name}.png" for name in figures),
        facts=msgspec.json.decode(dataset.attrs["config"], type=type(job.config)).facts(),
    )
    files = {path.name: _digest(path.read_bytes()) for path in paths}
    text = msgspec.json.encode(Done(fingerprint(job), finding, files))
    with written_whole(_record(job)) as (draft,):
        draft.write_bytes(_digest(text).encode() + b"\n" + text)
    return finding


def run_side_by_side(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Finding | Exception]]:
    """Run experiments in processes of their own, and give what each found or raised as soon as it ends.

    The order of `jobs` is that in which they begin. If the caller stops early, or with Ctrl-C, all processes
    end; what is finished stays.
    """
    settings = bool(jax.config.read("jax_enable_x64")), jobs[0].imports
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _begin, settings)
    try:
        begun = {pool.submit(run, job, False): job for job in jobs}
        for one in as_completed(begun):
            error = one.exception()
            yield begun[one], one.result() if error is None else _plain(error)
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(x64: bool, imports: tuple[Path, ...]) -> None:
    # The process that began this one tells of Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    jax.config.update("jax_enable_x64", x64)
    import_files(imports)


def _plain(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _record(job: Job) -> Path:
    return job.out / f"{job.name}.done"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _further(module: ModuleType, name: str, dataset: xr.Dataset) -> dict[str, Any]:
    """What an experiment makes beside its picture, by the names of files; nothing without such a function."""
    make: Callable[[xr.Dataset], dict[str, Any]] | None = getattr(module, name, None)
    return {} if make is None else make(dataset)
