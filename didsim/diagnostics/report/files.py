"""A diagnosis as files: a page that needs nothing else, Markdown, JSON, and the pictures."""

import base64
import io
from pathlib import Path
from typing import Any

from didsim._files import local_path, written_whole
from didsim._text import visible
from didsim.diagnostics.findings import Diagnosis
from didsim.diagnostics.wording import interval_of, value_of

_DARK = dict.fromkeys(
    ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color", "grid.color"), "#d8dee6"
)
_DPI = 160


def write_report(diagnosis: Diagnosis, out: Path | str) -> list[Path]:
    """Write `report.html`, `report.md`, `report.json` and the pictures into a folder, all of them or none.

    The page holds its pictures, for light and dark screens, and asks the network for nothing.

    Args:
        diagnosis: what `diagnose` returned.
        out: the folder. It is made if it is not there; files of these names in it are replaced.

    Returns:
        The files that were written.

    Raises:
        ValueError: an argument is wrong, or `out` is a file.
        OSError: a file cannot be written.
    """
    folder = report_folder(out)
    if not isinstance(diagnosis, Diagnosis):
        raise ValueError(f"`diagnosis` must be what didsim.diagnose returns; got {diagnosis!r}")
    light, dark = _images(diagnosis, {}, transparent=False), _images(diagnosis, _DARK, transparent=True)
    files = {f"{name}.png": image for name, image in light.items()}
    files["report.json"] = diagnosis.to_json()
    files["report.md"] = _filled("report.md.jinja", diagnosis, light).encode()
    files["report.html"] = _filled("report.html.jinja", diagnosis, light, dark).encode()
    paths = [folder / name for name in files]
    if folder.is_dir():
        with written_whole(*paths) as drafts:
            for draft, content in zip(drafts, files.values(), strict=True):
                draft.write_bytes(content)
    else:
        with written_whole(folder) as (draft,):
            draft.mkdir()
            for name, content in files.items():
                (draft / name).write_bytes(content)
    return paths


def report_folder(out: Any) -> Path:
    """The folder of a report, which need not be there.

    Raises:
        ValueError: it is no path on this machine, a file stands there, or there is no folder to make it in.
    """
    folder = local_path("out", out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`out` must be a folder; {folder} is a file")
    if not folder.exists() and not folder.absolute().parent.is_dir():
        raise ValueError(f"`out` must be in a folder that is there; {folder.absolute().parent} is not")
    return folder


def _images(diagnosis: Diagnosis, changes: Any, *, transparent: bool) -> dict[str, bytes]:
    """All pictures as PNG, by name, in the style with some changes."""
    if not diagnosis.pictures:
        return {}
    import matplotlib as mpl

    from didsim.plotting.looks import style

    images = {}
    with style(), mpl.rc_context(changes):
        for pictures in diagnosis.pictures:
            for name, figure in pictures.draw().items():
                image = io.BytesIO()
                # Without Matplotlib's version in the file, the same pixels give the same bytes.
                figure.savefig(
                    image, format="png", dpi=_DPI, transparent=transparent, metadata={"Software": None}
                )
                images[name] = image.getvalue()
    return images


def _filled(
    template: str, diagnosis: Diagnosis, light: dict[str, bytes], dark: dict[str, bytes] | None = None
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("didsim.diagnostics.report", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        finalize=lambda value: visible(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": value_of, "interval": interval_of, "cell": _cell, "inline": _inline}
    captions = {name: text for one in diagnosis.pictures for name, text in one.captions.items()}
    captions = {name: captions.get(name, name) for name in light}
    return environment.get_template(template).render(
        diagnosis=diagnosis, captions=captions, light=light, dark=dark
    )


def _inline(image: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _cell(text: str) -> str:
    r"""Text in a Markdown table, where `|` would end the cell."""
    return text.replace("|", r"\|").replace("\n", " ")
