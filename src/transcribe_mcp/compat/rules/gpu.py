"""NVIDIA GPUs and their driver. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule, any_of, either, equals, every, negated, none_of

_rule = partial(Rule, area="gpu")
RULES = (
    _rule(
        code="TM101",
        severity="warn",
        title="NVIDIA GPU without a driver",
        when=lambda m: every(any_of(m.pci_gpus), negated(m.has_driver), negated(m.is_container)),
        evidence="PCI device {pci_gpus}; no nvidia kernel module",
        cause=(
            "The driver is not installed, or its kernel module did not load (secure boot, "
            "new kernel)."
        ),
        consequence="Everything runs on the CPU.",
        fix=(
            "# install the distribution's NVIDIA driver (570 or newer), then reboot",
            "nvidia-smi",
        ),
        source="https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/",
        patterns=(
            "Found no NVIDIA driver on your system",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",
        ),
    ),
    _rule(
        code="TM102",
        severity="warn",
        title="container started without a GPU",
        when=lambda m: every(
            m.is_container,
            negated(m.has_gpu),
            either(
                every(m.has_driver, negated(m.has_libcuda)),
                every(m.has_driver, none_of(m.device_files), negated(m.wsl)),
                every(any_of(m.pci_gpus), negated(m.has_libcuda)),
            ),
        ),
        evidence=(
            "{container_kind} container; kernel driver {driver}; libcuda.so.1: {libcuda}; "
            "device files: {device_files}"
        ),
        cause=(
            "The host has a driver, but the container runtime does not pass the GPU to the "
            "container."
        ),
        consequence=(
            "Everything runs on the CPU. CTranslate2 reports 'CUDA driver version is "
            "insufficient', which is misleading."
        ),
        fix=(
            "docker run --gpus all ...",
            "# once per host: install the NVIDIA Container Toolkit",
        ),
        source="https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/",
        patterns=(
            r"could not select device driver .{0,40}capabilities: \[\[gpu\]\]",
            r"libcuda\.so\.1: cannot open shared object file",
            r"libnvidia-ml\.so\.1: cannot open shared object file",
        ),
    ),
    _rule(
        code="TM103",
        severity="error",
        title="driver is too old for CUDA 12",
        when=lambda m: every(m.ct2_driver_too_old, m.has_gpu),
        evidence="driver {driver}; CTranslate2's CUDA {ct2_cuda} needs {ct2_driver_floor}",
        cause=(
            "Each CUDA major version needs a minimum driver version. The same message "
            "appears without any driver, because a missing libcuda counts as version 0."
        ),
        consequence="GPU transcription fails; device=auto silently uses the CPU.",
        fix=("# upgrade the NVIDIA driver to 570 or newer",),
        source="https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html",
        patterns=(
            "CUDA driver version is insufficient for CUDA runtime version",
            "cudaErrorInsufficientDriver",
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda",
            "The NVIDIA driver on your system is too old",
        ),
    ),
    _rule(
        code="TM104",
        severity="error",
        title="driver is too old for this torch",
        when=lambda m: every(m.torch_driver_too_old, m.has_gpu),
        evidence=(
            "driver {driver}; torch {package.torch} ({torch_variant}) needs {torch_driver_floor}"
        ),
        cause="Since 2.11 torch from PyPI is a CUDA 13 build, which needs driver 580.",
        consequence=(
            "torch.cuda.is_available() is False; alignment and diarization run on the CPU."
        ),
        fix=(
            "# upgrade the driver to 580, or install torch from an older CUDA index:",
            "transcribe-mcp doctor --plan --want torch",
        ),
        source="https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html",
    ),
    _rule(
        code="TM105",
        severity="error",
        title="user-mode driver is newer than the kernel module (804)",
        when=lambda m: either(
            equals(m.cuinit, 804),
            every(equals(m.libcuda_order, 1), m.compat_libcuda, negated(equals(m.cuinit, 0))),
        ),
        evidence="libcuda {user_driver} at {libcuda}; kernel module {driver}; cuInit {cuinit}",
        cause=(
            "A CUDA image brings its own libcuda (forward compatibility), which only "
            "data-centre GPUs, some RTX boards and Jetson support. Or the driver package "
            "was upgraded while the old kernel module is still loaded."
        ),
        consequence="The first CUDA call fails with error 804; everything runs on the CPU.",
        fix=(
            (
                "# container: remove /usr/local/cuda/compat from LD_LIBRARY_PATH, or use an "
                "image whose CUDA is not newer than the driver"
            ),
            "# host: reboot",
        ),
        source="https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html",
        patterns=(
            "forward compatibility was attempted on non[- ]supported HW",
            r"\bError 804\b",
            "cudaErrorCompatNotSupportedOnDevice",
            "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        ),
    ),
    _rule(
        code="TM106",
        severity="error",
        title="kernel module and driver libraries differ (803)",
        when=lambda m: either(
            equals(m.cuinit, 803),
            equals(m.nvml_code, 18),
            every(equals(m.libcuda_order, -1, 1), negated(m.compat_libcuda), negated(m.wsl)),
        ),
        evidence=(
            "kernel module {driver}; libcuda {user_driver}; cuInit {cuinit}; NVML {nvml_code}"
        ),
        cause="The driver was updated while the old kernel module stayed loaded.",
        consequence="No CUDA program starts until both have the same version.",
        fix=("sudo reboot",),
        source="https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html",
        patterns=(
            "Driver/library version mismatch",
            r"\bError 803\b",
            "system has unsupported display driver",
            "cudaErrorSystemDriverMismatch",
        ),
    ),
    _rule(
        code="TM107",
        severity="error",
        title="GPU system is not ready (802)",
        when=lambda m: equals(m.cuinit, 802),
        evidence="cuInit {cuinit}",
        cause=(
            "Servers with NVSwitch need the fabric manager service in exactly the driver's version."
        ),
        consequence="No CUDA program starts.",
        fix=("sudo systemctl enable --now nvidia-fabricmanager",),
        source="https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/",
        patterns=(
            r"\bError 802\b",
            "system not yet initialized",
            "cudaErrorSystemNotReady",
        ),
    ),
    _rule(
        code="TM108",
        severity="error",
        title="driver does not respond correctly",
        when=lambda m: either(
            equals(m.cuinit, 1, 2, 3, 46, 101, 304, 999), equals(m.nvml_code, 9, 12, 15, 999)
        ),
        evidence="cuInit {cuinit}; NVML {nvml_code}",
        cause=(
            "The kernel module is in a bad state: after sleep, after a GPU fell off the "
            "bus, or after a container lost its device files."
        ),
        consequence="No CUDA program starts.",
        fix=(
            "sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm",
            "# container: restart it; otherwise reboot",
        ),
        source="https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html",
        patterns=(
            "CUDA unknown error",
            r"\bError 999\b",
            "Failed to initialize NVML: Unknown Error",
            "GPU has fallen off the bus",
            "CUDA_ERROR_UNKNOWN",
        ),
    ),
    _rule(
        code="TM109",
        severity="crash",
        title="driver query crashed or hung",
        when=lambda m: any_of(m.killed_probes),
        evidence="{killed_probes}",
        cause="The driver library is damaged, or the GPU hangs.",
        consequence="Every program that uses the GPU crashes or hangs in the same way.",
        fix=("# reboot; if the problem persists, reinstall the driver",),
        source="https://docs.nvidia.com/deploy/nvml-api/",
    ),
    _rule(
        code="TM110",
        severity="warn",
        title="GPUs are hidden from this process",
        when=lambda m: every(
            m.has_driver,
            either(m.gpus_hidden, every(equals(m.cuinit, 100), negated(m.is_container))),
        ),
        evidence="CUDA_VISIBLE_DEVICES is {env.CUDA_VISIBLE_DEVICES}; cuInit {cuinit}",
        cause="CUDA_VISIBLE_DEVICES is empty, -1 or names a GPU that does not exist.",
        consequence="Everything runs on the CPU.",
        fix=("unset CUDA_VISIBLE_DEVICES",),
        source="https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars",
        patterns=(
            "No CUDA GPUs are available",
            "no CUDA-capable device is detected",
            "CUDA_ERROR_NO_DEVICE",
            "invalid device ordinal",
        ),
    ),
    _rule(
        code="TM111",
        severity="warn",
        title="Linux driver inside WSL",
        when=lambda m: m.wsl_driver_elsewhere,
        evidence="libcuda is {libcuda}, not in /usr/lib/wsl/lib",
        cause="WSL uses the Windows driver; a Linux driver package hides it.",
        consequence="CUDA programs fail or load the wrong driver.",
        fix=(
            "sudo apt-get purge '*nvidia*'",
            "# then update the driver in Windows",
        ),
        source="https://docs.nvidia.com/cuda/wsl-user-guide/index.html",
    ),
    _rule(
        code="TM112",
        severity="info",
        title="GPU is split into instances (MIG)",
        when=lambda m: any_of(m.mig_gpus),
        evidence="{mig_gpus}",
        cause="MIG is on; a process sees one instance and its share of the memory.",
        consequence="Batch sizes are chosen from the instance's memory.",
        source="https://docs.nvidia.com/datacenter/tesla/mig-user-guide/",
    ),
)
