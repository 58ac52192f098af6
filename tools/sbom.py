"""What is installed beside this program, as a bill of materials: CycloneDX 1.6 in JSON.

    python tools/sbom.py > sbom.json

Made from the installed distributions of the environment that runs it, so it names what is really there; without a network. Versions, licences and
what each package asks for come from the packages' own metadata. The same environment gives the same file.
"""

import json
import re
import sys
import uuid
from importlib import metadata
from typing import Any

OURS = "rollout-studio"
_NAMESPACE = uuid.UUID("5b0a1c7e-0f6b-5f0e-9a53-6f8a3f3a0c11")


def canonical(name: str) -> str:
    """A package's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def purl(name: str, version: str) -> str:
    """The package's address, as CycloneDX and vulnerability databases name it."""
    return f"pkg:pypi/{canonical(name)}@{version}"


def licences(about: metadata.PackageMetadata) -> list[dict[str, Any]]:
    """What a package says of its licence: an expression, else its classifiers, else its own words where they are short."""
    expression = about.get("License-Expression")
    if expression:
        return [{"expression": expression}]
    classifiers = [
        each.rpartition(" :: ")[2] for each in about.get_all("Classifier") or [] if each.startswith("License ::")
    ]
    words = (about.get("License") or "").strip()
    names = classifiers if classifiers else [words] if words and len(words) < 80 and "\n" not in words else []
    return [{"license": {"name": name}} for name in names]


def bill(found: dict[str, metadata.Distribution]) -> dict[str, Any]:
    """The bill of materials. `found`: canonical name -> what is installed."""
    from packaging.requirements import Requirement

    versions = {name: each.version for name, each in found.items()}
    components, depends = [], []
    for name, each in sorted(found.items()):
        reference = purl(name, each.version)
        if name != OURS:
            component = {
                "type": "library",
                "bom-ref": reference,
                "name": name,
                "version": each.version,
                "purl": reference,
            }
            said = licences(each.metadata)
            components.append({**component, **({"licenses": said} if said else {})})
        asked = [Requirement(line) for line in each.requires or []]
        wanted = {canonical(one.name) for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})}
        depends.append(
            {"ref": reference, "dependsOn": [purl(one, versions[one]) for one in sorted(wanted & versions.keys())]}
        )
    serial = uuid.uuid5(_NAMESPACE, json.dumps(sorted(versions.items())))
    ours = versions.get(OURS, "unknown")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": purl(OURS, ours), "name": OURS, "version": ours, "licenses": [{"expression": "Apache-2.0"}]}},
        "components": components,
        "dependencies": depends,
    }  # fmt: skip


def installed() -> dict[str, metadata.Distribution]:
    """Every distribution that can be imported here; of one that lies in two places the one that is imported."""
    found: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions():
        if each.name:
            found.setdefault(canonical(each.name), each)
    return found


def main() -> int:
    json.dump(bill(installed()), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
