# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""chat: answers lines of a pipe, keeps the conversation until /clear, and survives Ctrl-C. The model is a checkpoint that
has learnt nothing, so that its answers are noise, but the same noise for the same conversation."""
import os
import shutil
import signal
import subprocess
import sys

programs = os.path.join(sys.argv[1], "examples")
chat = os.path.join(programs, "chat")
if not os.path.exists(chat):
    print("skipped: chat was not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)
folder = os.path.join(sys.argv[1], "chat_test")
shutil.rmtree(folder, ignore_errors=True)
os.mkdir(folder)
with open(os.path.join(folder, "text.txt"), "w") as text:
    text.write("The tenon fits the mortise.\n" * 200)
subprocess.run([os.path.join(programs, "train_gpt"), "--model", "llama-small", "--context", "2048", "--batch", "1",
                "--steps", "1", "--text", "text.txt", "--sample-tokens", "0", "--out", "run"],
               cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=250)
command = [chat, "--model", "run/step-00000001"]
formatted = [*command, "--chat", "chatml", "--seed", "3"]


def run(words, lines):
    result = subprocess.run(words, cwd=folder, input="\n".join(lines).encode(), timeout=250, capture_output=True)
    return result.returncode, result.stdout, result.stderr.decode()


code, out, problem = run(command, ["Hello"])
print(problem)
assert code == 1 and "has no chat template. Fix: name a format" in problem, (code, problem)

short = [*formatted, "--max-tokens", "8", "--temperature", "0.5"]
code, first, problem = run(short, ["Hello"])
assert code == 0 and len(first) > 1 and not problem, (code, first, problem)
code, twice, problem = run(short, ["Hello", "", "/nonsense", "Hello", "/clear", "Hello", "/help", "/quit", "Hello"])
assert code == 0 and "there is no /nonsense" in problem, (code, problem)
assert twice.startswith(first) and b"/clear" in twice, (first, twice)
second = twice[len(first):twice.index(b"/clear")]
assert second.endswith(first) and second not in (first, first + first) and len(second) < 200, (first, second)
code, other, problem = run([*short, "--system", "Be brief."], ["Hello"])
assert code == 0 and other != first, (code, other)
code, out, problem = run([*short, "--context", "80"], ["Hello", "x" * 100])
assert code == 0 and out == first and "Fix: /clear, or a larger --context" in problem, (code, problem)

program = subprocess.Popen([*formatted, "--max-tokens", "1800"], cwd=folder, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
program.stdin.write(b"Hello\n")
program.stdin.flush()
begin = program.stdout.read(1)
program.send_signal(signal.SIGINT)
out, _ = program.communicate(b"/help\n", timeout=250)
assert program.returncode == 0 and b" (stopped)\n/clear" in out and begin, (program.returncode, out)
print("answers, commands and Ctrl-C: as they should be")
