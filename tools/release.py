"""A release, all but the upload: python3 -m tools.release [FOLDER]

Checks that the checkout is clean, that the version has a date in CHANGELOG.md, and that what is generated is up to date. Makes
the packages of the commit that is checked out in FOLDER (default: dist/), which must be empty or absent, tries them, writes
their checksums, and says what to upload. To be run by the Python of the tests: .venv/bin/python -m tools.release
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from rawservers import __version__
from tests import example_configuration
from tools import archive, generate, packages
from tools.packages import BuildError

ROOT = Path(__file__).resolve().parent.parent


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True)
    if done.returncode:
        raise BuildError(f"git {shlex.join(arguments)}: {done.stderr.decode()}")
    return done.stdout


def check_checkout() -> None:
    """Raise BuildError, with everything that is in the way of a release."""
    wrong = [f"not committed: {line[3:]}" for line in git("status", "--porcelain").decode().splitlines()]
    first = re.search(r"(?m)^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text())
    if not first or first[1] != __version__:
        wrong.append(f"CHANGELOG.md: the first section is not that of version {__version__}")
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", first[2]):
        wrong.append(f"CHANGELOG.md: version {__version__} has no date, but {first[2]!r}")
    made = {ROOT / name: make for name, make in generate.FILES.items()}
    made[example_configuration.PATH] = example_configuration.written
    wrong += [f"not up to date: {path.relative_to(ROOT)}" for path, make in made.items() if path.read_text() != make()]
    if wrong:
        raise BuildError("\n".join(wrong))


def release(target: Path) -> list[Path]:
    """Make the packages of the commit that is checked out, and their checksums. Raises BuildError."""
    check_checkout()
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise BuildError(f"{target} is not empty")
    with TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD"))) as tree:
        packages.extract(tree, folder)
        files = packages.build(Path(folder), target)
    packages.check_metadata(files[1])
    said = subprocess.run([target / archive.NAME, "--version"], capture_output=True, text=True, cwd="/").stdout
    if said != f"rawservers {__version__}\n":
        raise BuildError(f"{archive.NAME} --version prints {said!r}")
    return [*files, packages.write_sums(files)]


def main() -> int:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    try:
        sdist, wheel, *others = release(target)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Made in {target}:", *(path.name for path in (sdist, wheel, *others)), sep="\n  ")
    print(f"""
To publish version {__version__}:
  git tag --annotate v{__version__} --message "rawservers {__version__}"
  git push origin v{__version__}
  twine upload {shlex.quote(str(sdist))} {shlex.quote(str(wheel))}
and attach {", ".join(path.name for path in others)} to the release v{__version__} of the repository.""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
