"""Operating system, libc, container, Python, disk."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from ..facts import Fact, known, known_or, unknown
from ..paths import data_dir
from .files import text_of

_CONTAINER_FILES = (("/.dockerenv", "docker"), ("/run/.containerenv", "podman"))
_CONTAINER_WORDS = ("docker", "kubepods", "containerd", "lxc", "podman", "libpod")


def probe() -> Iterator[Fact]:
    yield known("os.system", platform.system(), "platform.system")
    yield known("os.release", platform.release(), "platform.release")
    machine = platform.machine()
    names = {"AMD64": "x86_64", "ARM64": "arm64"}
    yield known("os.machine", names.get(machine, machine), "platform.machine")
    yield _distribution()
    yield _libc()
    yield _container()
    wsl = "microsoft" in platform.release().lower() or Path("/dev/dxg").exists()
    yield known("os.wsl", wsl, "kernel release, /dev/dxg")


def _distribution() -> Fact:
    if sys.platform != "linux":
        return known("os.distribution", platform.platform(terse=True), "platform.platform")
    text = text_of("/etc/os-release") or ""
    names = [
        line.partition("=")[2].strip('"')
        for line in text.splitlines()
        if line.startswith("PRETTY_NAME=")
    ]
    name = names[0] if names else None
    return known_or("os.distribution", name, "/etc/os-release", "no os-release")


def _libc() -> Fact:
    if sys.platform != "linux":
        return unknown("os.libc", "read on Linux only")
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        version = None
    if version:
        return known("os.libc", version, "confstr CS_GNU_LIBC_VERSION")
    musl = [
        path.name for folder in ("/lib", "/usr/lib") for path in Path(folder).glob("ld-musl-*.so.1")
    ]
    return (
        known("os.libc", "musl", musl[0])
        if musl
        else unknown("os.libc", "neither glibc nor musl found")
    )


def _container() -> Fact:
    for path, name in _CONTAINER_FILES:
        if Path(path).exists():
            return known("os.container", name, path)
    named = os.environ.get("container", "")  # noqa: SIM112 -- systemd-nspawn and podman write it so
    if named:
        return known("os.container", named, "variable container")
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return known("os.container", "kubernetes", "variable KUBERNETES_SERVICE_HOST")
    groups = text_of("/proc/1/cgroup") or ""
    words = [word for word in _CONTAINER_WORDS if word in groups]
    return known("os.container", words[0] if words else "none", "/proc/1/cgroup")


def probe_python() -> Iterator[Fact]:
    yield known("python.version", platform.python_version(), "platform.python_version")
    yield known(
        "python.implementation", platform.python_implementation(), "platform.python_implementation"
    )
    yield known("python.bits", struct.calcsize("P") * 8, "size of a pointer")
    yield known("python.executable", sys.executable, "sys.executable")
    yield known(
        "python.in_venv", sys.prefix != sys.base_prefix, "sys.prefix against sys.base_prefix"
    )
    yield known("python.free_threaded", "free-threading" in sys.version, "sys.version")


def probe_disk() -> Iterator[Fact]:
    place = data_dir()
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        yield unknown("disk.free_bytes", f"{existing}: {error.strerror}")
    else:
        yield known("disk.free_bytes", free, f"file system of {existing}")
