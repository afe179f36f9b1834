# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""Blocks and numbers of every weight format, to the bit: against the Python package gguf (decoding, and encoding of what
it can encode), and against ggml itself where llama-cpp-python is installed or $TENON_GGML names its library."""
import ctypes
import glob
import os
import subprocess
import sys

try:
    import gguf
    import numpy as np
except ImportError as missing:
    print(f"skipped: the Python package gguf was not found ({missing})")
    sys.exit(77)

program = os.path.join(sys.argv[1], "tests", "parity_quantize_program")
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
           "IQ4_NL", "MXFP4"]
REFERENCE = {"Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_1": "q4_1", "Q5_0": "q5_0", "Q5_1": "q5_1", "Q2_K": "q2_K",
             "Q3_K": "q3_K", "Q4_K": "q4_K", "Q5_K": "q5_K", "Q6_K": "q6_K", "MXFP4": "mxfp4"}


def ours(way, name, data):
    return subprocess.run([program, way, name], input=data.tobytes(), stdout=subprocess.PIPE, check=True).stdout


def find_ggml():
    found = [os.environ["TENON_GGML"]] if "TENON_GGML" in os.environ else []
    for folder in sys.path:
        found += glob.glob(os.path.join(folder, "llama_cpp", "lib", "libggml-base.so*"))
    try:
        return ctypes.CDLL(found[0], mode=os.RTLD_LAZY)
    except (IndexError, OSError):
        return None


def with_ggml(library, way, name, data, size):
    out = np.zeros(size, np.uint8)
    arguments = [data.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p)]
    if name == "IQ4_NL" and way == "quantize":
        library.quantize_iq4_nl.restype = ctypes.c_size_t
        library.quantize_iq4_nl(*arguments, ctypes.c_int64(1), ctypes.c_int64(data.size), None)
    else:
        kind = REFERENCE.get(name, "iq4_nl")
        function = f"quantize_row_{kind}_ref" if way == "quantize" else f"dequantize_row_{kind}"
        getattr(library, function)(*arguments, ctypes.c_int64(data.size if way == "quantize" else size // 4))
    return out.tobytes()


def numbers():
    """Normal and heavy-tailed weights, uniform ones, and blocks of oddities."""
    random = np.random.default_rng(20261126)
    parts = [random.normal(0, 0.02, 65536), random.standard_t(3, 65536) * 0.05, random.uniform(-1, 1, 16384),
             random.uniform(0.5, 1, 4096), -random.uniform(0.5, 1, 4096), np.zeros(512), np.full(512, 0.37),
             np.full(512, -0.37), random.normal(0, 1e-6, 4096), random.normal(0, 300, 4096),
             np.round(random.normal(0, 3, 4096)) + 0.0, np.where(random.uniform(size=8192) < 0.95, 0, 1.5)]
    # Some groups of a block are all zero. No negative zeros: the package and ggml give those blocks different scales.
    sparse = np.where(np.arange(8192) // 16 % 3 == 0, random.normal(0, 1, 8192), 0)
    return np.concatenate(parts + [sparse]).astype(np.float32)


ggml = find_ggml()
print("ggml itself:", "yes" if ggml else "not found")
floats = numbers()
failures = 0


def compare(what, found, expected):
    global failures
    a, b = np.frombuffer(found, np.uint8), np.frombuffer(expected, np.uint8)
    differ = (a != b).sum() if a.size == b.size else b.size
    same = not differ
    what += f": {differ} of {b.size} bytes differ" if differ else ""
    failures += not same
    print("ok  " if same else "FAIL", what)


for name in FORMATS:
    kind = getattr(gguf.GGMLQuantizationType, name, None)
    blocks = ours("quantize", name, floats)
    values = ours("dequantize", name, np.frombuffer(blocks, np.uint8))
    if kind is not None:
        try:
            decoded = gguf.quants.dequantize(np.frombuffer(blocks, np.uint8), kind)
            compare(f"{name} to numbers: gguf", np.frombuffer(values, np.float32).tobytes(),
                    decoded.astype(np.float32).tobytes())
        except NotImplementedError:
            print("    ", name, "to numbers: gguf cannot")
        try:
            compare(f"{name} from numbers: gguf", blocks, gguf.quants.quantize(floats, kind).tobytes())
        except NotImplementedError:
            print("    ", name, "from numbers: gguf cannot")
    if ggml and name not in ("F32", "F16", "BF16"):
        compare(f"{name} from numbers: ggml", blocks, with_ggml(ggml, "quantize", name, floats, len(blocks)))
        compare(f"{name} to numbers: ggml", values,
                with_ggml(ggml, "dequantize", name, np.frombuffer(blocks, np.uint8), len(values)))
sys.exit(1 if failures else 0)
