"""What is installed: the bill of materials, the list with hashes, and the audit that runs where there is a network."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_of_materials_names_what_is_installed_and_is_the_same_again():
    sbom = tool("sbom")
    found = sbom.installed()
    bill = sbom.bill(found)
    assert bill == sbom.bill(found) and (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    named = {each["name"]: each for each in bill["components"]}
    for package in ("torch", "gradio", "safetensors", "pillow"):
        assert named[package]["version"] == found[package].version and named[package]["purl"].startswith(
            f"pkg:pypi/{package}@"
        )
    assert (
        len({each["bom-ref"] for each in bill["components"]})
        == len(bill["components"])
        == len(found) - ("rollout-studio" in found)
    )
    references = {each["bom-ref"] for each in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    [ours] = [each for each in bill["dependencies"] if each["ref"].startswith("pkg:pypi/rollout-studio@")]
    assert any(one.startswith("pkg:pypi/gradio@") for one in ours["dependsOn"])
    assert all(one in references for each in bill["dependencies"] for one in (each["ref"], *each["dependsOn"]))
    text = json.dumps(bill)
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text and "file:" not in text


def test_every_shape_of_a_licence_is_told():
    from email.message import Message

    sbom = tool("sbom")

    def said(*headers):
        about = Message()
        for name, value in headers:
            about[name] = value
        return sbom.licences(about)

    assert said(("License-Expression", "MIT OR Apache-2.0")) == [{"expression": "MIT OR Apache-2.0"}]
    assert said(("Classifier", "License :: OSI Approved :: MIT License"), ("License", "x")) == [
        {"license": {"name": "MIT License"}}
    ]
    assert said(("License", "BSD")) == [{"license": {"name": "BSD"}}] and said(("License", "a\nb")) == [] == said()


def test_the_list_with_hashes_has_one_for_every_package_or_is_none():
    lock = tool("lock")

    def package(name, **info):
        return {"metadata": {"name": name, "version": "1.0"}, "download_info": info}

    whole = package("My_Package", archive_info={"hashes": {"sha256": "ab"}})
    assert lock.lines({"install": [whole, package("a", archive_info={"hashes": {"sha256": "cd"}})]}) == [
        "a==1.0 --hash=sha256:cd",
        "my-package==1.0 --hash=sha256:ab",
    ]
    for other in (package("b", dir_info={}), package("b", archive_info={"hashes": {"md5": "x"}})):
        with pytest.raises(ValueError, match="without a hash"):
            lock.lines({"install": [whole, other]})


@pytest.mark.slow  # needs an index
def test_what_the_list_names_installs_and_another_file_does_not(tmp_path):
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "lock.py"), "packaging"], capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"packaging==\S+ --hash=sha256:[0-9a-f]{64}\n", made)
    for text, code in ((made, 0), (re.sub(r"sha256:....", "sha256:0000", made), 1)):
        (tmp_path / "hashes.txt").write_text(text)
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(tmp_path / str(code)),
            "--require-hashes",
            "-r",
            str(tmp_path / "hashes.txt"),
        ]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_the_audit_looks_at_the_versions_that_are_tested_and_its_tools_are_here():
    import yaml

    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "audit.yml").read_text("utf-8"))["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert any("pip_audit" in each and "-r constraints.txt" in each for each in commands)
    for each in commands:
        assert all(
            (ROOT / word).exists()
            for word in each.split()
            if word.endswith((".txt", ".py")) or word.startswith("tools/")
        )
    assert all(
        re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in (ROOT / "constraints.txt").read_text("utf-8").split()
    ), "pip-audit reads exact versions only"
