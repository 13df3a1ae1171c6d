"""What is held back is tested with code in its process (test_code_run.py); here is what that code cannot see."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlvr_jax.tasks.confine import can_confine

# root may read all memory and owns hidden processes too, so that it must become somebody else first; that alone would
# hide the process's memory
CONFINED = """
import ctypes, os
from rlvr_jax.tasks.confine import confine
if os.getuid() == 0:
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
owners = [os.stat("/proc/self/mem").st_uid, os.getuid()]
confine(cpu_s=10, memory_bytes=1 << 30, readable=())
print(*owners, flush=True)
input()
"""


@pytest.mark.skipif(not can_confine(), reason="needs Linux on x86-64")
def test_the_memory_of_a_confined_process_is_hidden_from_its_own_user():
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-B", "-c", CONFINED]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        owner, user = map(int, process.stdout.readline().split())
        assert owner == user != 0
        assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0  # the kernel's sign of it
        process.communicate("\n")
