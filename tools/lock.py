"""A list of every package with its version and the hashes of its files, for an installation that takes these files and no others.

    python tools/lock.py > hashes.txt
    python -m pip install --require-hashes -r hashes.txt

pip resolves the packages (versions from constraints.txt) for the system and the Python that run this, and says which file it would take with
which SHA-256; nothing is installed. The repository holds no such list, because it would be a different one for each of three systems, four
Pythons and each build of torch, and because hashes are worth no more than the index that they were read from: make it once where you trust your
index, look it through, keep it, and install from it from then on. Needs an index (a network, or a mirror).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"


def lines(report: dict[str, Any]) -> list[str]:
    """The list, from pip's own report of what it would install. Raises ValueError for a package without a hash: it is from no index."""
    found = []
    for each in report["install"]:
        about, where = each["metadata"], each["download_info"]
        hashes = where.get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise ValueError(f"{about['name']} {about['version']} comes without a hash; name an index that has it.")
        found.append(f"{about['name'].lower().replace('_', '-')}=={about['version']} --hash=sha256:{hashes['sha256']}")
    return sorted(found)


def resolved(wanted: Sequence[str]) -> dict[str, Any]:
    """pip's report for these requirements. Cost: minutes, and the download of what the index describes only inside of the files."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--report",
            str(report),
            "-c",
            str(CONSTRAINTS),
        ]
        subprocess.run([*command, *wanted], check=True, stdout=sys.stderr)
        return json.loads(report.read_text(encoding="utf-8"))


def main(arguments: Sequence[str]) -> int:
    """`arguments`: requirements; none = those of this program."""
    try:
        found = lines(resolved(arguments if arguments else ["-r", str(ROOT / "requirements.txt")]))
    except (subprocess.CalledProcessError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
