"""Takes from the calling process what it does not need to compute: for code that nobody has read.

It keeps its memory, its open files and the right to read Python's own library, or, where the kernel has no Landlock
(before Linux 5.13), any file. Containment, not a security boundary: a fault in the kernel or in the interpreter's own
calls is not held. It imports nothing of ours.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Sequence

# numbers of x86-64, as in the kernel's arch/x86/entry/syscalls/syscall_64.tbl
_DENIED = {
    # new processes
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    # network
    "socket": 41, "socketpair": 53, "connect": 42, "accept": 43, "accept4": 288, "bind": 49, "listen": 50,
    "sendto": 44, "sendmsg": 46, "sendmmsg": 307,
    # other processes
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "prctl": 157, "pidfd_open": 434,
    "pidfd_send_signal": 424, "pidfd_getfd": 438, "process_madvise": 440, "process_mrelease": 448, "ptrace": 101,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "move_pages": 279, "migrate_pages": 256,
    "prlimit64": 302, "setrlimit": 160, "setpriority": 141, "ioprio_set": 251, "sched_setaffinity": 203,
    "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314, "setpgid": 109, "setsid": 112,
    # changes to files
    "creat": 85, "truncate": 76, "ftruncate": 77, "fallocate": 285, "rename": 82, "renameat": 264, "renameat2": 316,
    "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "unlink": 87, "unlinkat": 263, "symlink": 88,
    "symlinkat": 266, "mknod": 133, "mknodat": 259, "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452,
    "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261,
    "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
    "fremovexattr": 199, "setxattrat": 463, "removexattrat": 466,
    # the machine
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159,
    "clock_adjtime": 305, "acct": 163, "quotactl": 179, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "kexec_load": 246, "kexec_file_load": 320, "iopl": 172, "ioperm": 173, "syslog": 103, "unshare": 272,
    "setns": 308, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442,
    # ways around
    "io_setup": 206, "io_submit": 209, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "memfd_create": 319, "memfd_secret": 447, "keyctl": 250,
    "add_key": 248, "request_key": 249, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "mq_unlink": 241,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300, "lookup_dcookie": 212,
}  # fmt: skip
_OPEN, _OPENAT, _OPENAT2, _CLONE, _CLONE3 = 2, 257, 437, 56, 435
_WRITES = 0o3 | 0o100 | 0o1000 | 0o20000000  # of open's flags: not read-only, create, truncate, temporary file
_CLONE_THREAD = 0x10000
_ARCH_X86_64, _X32_BIT = 0xC000003E, 0x40000000
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments take 8 bytes each
_SET_DEATH_SIGNAL, _SIGKILL, _SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS, _FILTER = 1, 9, 4, 22, 38, 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_FOLDER, _BENEATH = 4, 8, 1
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_CAPSET, _CAPABILITY_VERSION = 126, 0x20080522


def can_confine() -> bool:
    """Whether this machine is of the kind that `confine` knows."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def can_hide_files() -> bool:
    """Whether this kernel has Landlock, without which a confined process reads what its user can read."""
    asks_version = 1
    return can_confine() and ctypes.CDLL(None).syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), asks_version) >= 1


def confine(*, cpu_s: int, memory_bytes: int, readable: Sequence[str]) -> None:
    """From now on this process cannot write files, reach a network, start or touch other processes, or take more.

    Raises OSError where the kernel does not offer that.

    Args:
        readable: folders that it may read besides those of Python and of the system's libraries.
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

    must(libc.prctl(_SET_DEATH_SIGNAL, _SIGKILL, 0, 0, 0), "ending with the trainer")
    must(libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "hiding its memory")
    header, no_capabilities = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    must(libc.syscall(_CAPSET, header, no_capabilities), "giving up capabilities")  # root's, where it is root
    must(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")
    _hide_files(libc, must, [*readable, *_LIBRARIES, f"{sys.base_prefix}/lib", *sys.path])
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _program())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    must(libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0), "a filter of system calls")


def _hide_files(libc: ctypes.CDLL, must: Callable[[int, str], None], readable: Sequence[str]) -> None:
    """Leaves only files in some folders to be read, the memory of other processes not among them."""
    if not can_hide_files():
        return
    what = struct.pack("=Q", _READ_FILE | _READ_FOLDER)
    rules = libc.syscall(_LANDLOCK_CREATE, what, ctypes.c_size_t(len(what)), 0)
    must(min(rules, 0), "a rule of what may be read")
    for folder in filter(os.path.isdir, readable):
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", _READ_FILE | _READ_FOLDER, opened)
        must(libc.syscall(_LANDLOCK_ADD, rules, _BENEATH, rule, 0), f"reading {folder}")
        os.close(opened)
    must(libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "hiding files")
    os.close(rules)


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
    for number in _DENIED.values():
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
