"""Adds what stands outside `docs/` to the site: the notebooks and the pictures."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_SHOWN = ("notebooks/*.ipynb", "figures/*.png")


# Before the plugins that look at all files.
@event_priority(100)
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files, as mkdocs asks of a hook."""
    for pattern in _SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
