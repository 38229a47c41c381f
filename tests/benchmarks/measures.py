"""What the kernel and the database say of a running process and of what is stored."""

from __future__ import annotations

from pathlib import Path


def cpu_us(pid: int) -> float:
    """CPU time of a process so far, all threads that are alive, in µs."""
    run_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        run_ns += int((task / "schedstat").read_text().split()[0])
    return run_ns / 1000


def shared_out_mib(pid: int) -> float:
    """Memory of a process in MiB, with its share of what others map too (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
