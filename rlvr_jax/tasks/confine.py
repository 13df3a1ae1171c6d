"""Takes from the calling process what it does not need to compute: for code that nobody has read.

It keeps its memory, its open files and the right to read files. Containment, not a security boundary: a fault
in the kernel or in the interpreter's own calls is not held. It imports nothing of ours and runs in a lone process.
"""

import ctypes
import platform
import resource
import struct

# x86-64 numbers, from the kernel's arch/x86/entry/syscalls/syscall_64.tbl
_DENIED = {
    "new processes": (57, 58, 59, 322),  # fork, vfork, execve, execveat
    "network": (41, 42, 43, 44, 46, 49, 50, 53, 288, 307),  # socket ... connect, accept, send, bind, listen, pairs
    "other processes": (62, 101, 129, 141, 142, 144, 160, 200, 203, 234, 251, 297, 302, 310, 311, 314, 424, 434, 438),
    "changes to files": (76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 132, 133, 188, 189, 190, 197, 198, 199)
    + (235, 257 + 1, 259, 260, 261, 263, 264, 265, 266, 268, 280, 285, 316, 452, 463, 466),
    "the system": (134, 153, 155, 156, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 175, 176, 227, 246, 272, 305)
    + (308, 313, 320, 428, 429, 430, 431, 432, 442),
    "other ways to the same": (29, 64, 68, 206, 248, 249, 250, 298, 303, 304, 319, 321, 323, 425, 426, 427, 447),
}
_OPEN, _OPENAT, _OPENAT2, _CLONE, _CLONE3 = 2, 257, 437, 56, 435
_WRITES = 0o3 | 0o100 | 0o1000 | 0o20000000  # of open's flags: not read-only, create, truncate, temporary file
_CLONE_THREAD = 0x10000
_ARCH_X86_64, _X32_BIT = 0xC000003E, 0x40000000
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments take 8 bytes each
_SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS, _FILTER = 4, 22, 38, 2
_CAPSET, _CAPABILITY_VERSION = 126, 0x20080522


def can_confine() -> bool:
    """Whether this machine is of the kind that `confine` knows."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def confine(*, cpu_s: int, memory_bytes: int) -> None:
    """From now on this process cannot write files, reach a network, start or touch other processes, or take more.

    Raises OSError where the kernel does not offer that.
    """
    if not can_confine():
        raise OSError(f"no filter of system calls is known for {platform.system()} on {platform.machine()}")
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(limit, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)

    def must(result: int, what: str) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what} is refused")

    must(libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "hiding its memory")
    header, no_capabilities = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    must(libc.syscall(_CAPSET, header, no_capabilities), "giving up capabilities")  # root's, where it is root
    must(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _program())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    must(libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0), "a filter of system calls")


def _program() -> list[tuple[int, int, int, int]]:
    """The filter as (operation, jump if true, jump if false, operand) of classic BPF."""
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),  # the same calls by other numbers
        (_RETURN, 0, 0, _EPERM),
    ]
    for number in sorted({number for numbers in _DENIED.values() for number in numbers}):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    for number in (_OPENAT2, _CLONE3):  # their flags lie in memory, where a filter cannot look: callers fall back
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ENOSYS)]
    for number, argument, flags in ((_OPEN, 1, _WRITES), (_OPENAT, 2, _WRITES)):
        program += [
            (_JUMP_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _ARGUMENT + 8 * argument),
            (_JUMP_SET, 0, 1, flags),
            (_RETURN, 0, 0, _EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    program += [
        (_JUMP_EQUAL, 0, 4, _CLONE),
        (_LOAD, 0, 0, _ARGUMENT),
        (_JUMP_SET, 1, 0, _CLONE_THREAD),  # a thread of this process, whose limits hold for it too
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return program
